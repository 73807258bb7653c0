//! Texts of a description.

/// For a sentence that tells of something in a description.
const SHOWN_CHARS_MAX: usize = 200;

/// A text as it can be shown: short, in one line, without anything that moves a cursor or turns the direction.
pub fn shown(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().take(SHOWN_CHARS_MAX).map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect()
}

/// What follows the last separator of Linux or Windows.
pub fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or_default()
}

/// An address as any program writes it. None for one that no adapter can have.
pub fn mac(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let value = u64::from_str_radix(&digits, 16).ok()?.to_be_bytes();
    let [_, _, mac @ ..] = value;
    (mac != [0; 6] && mac[0] & 1 == 0).then_some(mac)
}

/// A GUID or UUID as text, with or without braces.
pub fn uuid(text: &str) -> Option<u128> {
    let text = text.trim().trim_start_matches('{').trim_end_matches('}');
    let groups: Vec<&str> = text.splitn(6, '-').collect();
    let is_one = groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if is_one { u128::from_str_radix(&groups.concat(), 16).ok().filter(|id| *id != 0) } else { None }
}

pub fn uuid_text(id: u128) -> String {
    let digits = format!("{id:032x}");
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ids_are_read_as_others_write_them() {
        for text in ["00-15-5D-38-01-01", "00:15:5d:38:01:01", "00155D380101", "0015.5d38.0101"] {
            assert_eq!(mac(text), Some([0, 0x15, 0x5d, 0x38, 1, 1]), "{text}");
        }
        for bad in
            ["", "00-00-00-00-00-00", "01:15:5d:38:01:01", "00155D38010", "ü0155D38010", "+0155D380101"]
        {
            assert_eq!(mac(bad), None, "{bad}");
        }
        let text = "282874fc-59d6-4f30-bc04-5fdd909c82e0";
        let id = uuid(text).expect("an id");
        assert_eq!((uuid(&format!("{{{}}}", text.to_uppercase())), uuid_text(id).as_str()), (Some(id), text));
        for bad in ["", "00000000-0000-0000-0000-000000000000", "282874fc59d64f30bc045fdd909c82e0", "{", "-"]
        {
            assert_eq!(uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_files_name_is_its_last_part() {
        for (path, name) in [("C:\\VMs\\a b.vhdx", "a b.vhdx"), ("/v/a.img", "a.img"), ("a", "a"), ("a/", "")]
        {
            assert_eq!(file_name(path), name);
        }
        assert_eq!(shown("a\u{1b}[2J\u{202e}b\n"), "a [2J b ");
    }
}
