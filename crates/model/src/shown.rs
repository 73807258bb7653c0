//! Text that somebody gave, in a sentence about it.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_written_out_and_the_rest_stays() {
        assert_eq!(shown("of 'Web02'", 80), "of 'Web02'");
        assert_eq!(shown("\"a\"\u{1b}[2J\nb", 80), "\"a\"\\u{1b}[2J\\nb");
        assert_eq!(shown("abc", 2), "ab");
    }
}
