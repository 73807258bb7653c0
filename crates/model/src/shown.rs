//! What stands in sentences for people: text that somebody gave, and sizes.

/// At most so many characters of it, with what cannot be seen written out. Quotation marks stay as they are: the sentence is
/// for people.
pub fn shown(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().take(chars_max) {
        match c {
            '\'' | '"' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

/// `2.0 GB`, `512 MB`: of 1024 each, as PowerShell counts them.
pub fn size_shown(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let in_units = |shift: u32| bytes as f64 / (1_u64 << shift) as f64;
    match bytes {
        0..0x400 => format!("{bytes} B"),
        0x400..0x10_0000 => format!("{:.0} KB", in_units(10)),
        0x10_0000..0x4000_0000 => format!("{:.0} MB", in_units(20)),
        0x4000_0000..0x100_0000_0000 => format!("{:.1} GB", in_units(30)),
        _ => format!("{:.1} TB", in_units(40)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_short() {
        let shown = [0, 1023, 2048, 512 << 20, 24 << 30, 3 << 40].map(size_shown);
        assert_eq!(shown, ["0 B", "1023 B", "2 KB", "512 MB", "24.0 GB", "3.0 TB"]);
    }

    #[test]
    fn what_cannot_be_seen_is_written_out_and_the_rest_stays() {
        assert_eq!(shown("of 'Web02'", 80), "of 'Web02'");
        assert_eq!(shown("\"a\"\u{1b}[2J\nb", 80), "\"a\"\\u{1b}[2J\\nb");
        assert_eq!(shown("abc", 2), "ab");
    }
}
