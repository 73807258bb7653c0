//! Names as they lie on disk, and their text for people.
//!
//! A name is bytes. On ext they are what lies there. Where the disk has UTF-16 (NTFS, FAT's long names, exFAT) they are
//! its UTF-8, and a surrogate without its partner, which no UTF-8 has, becomes the three bytes that the same rule gives for
//! it (known as WTF-8): every sequence of 16-bit units has exactly one such name and comes back from it. A short name of FAT is
//! read as code page 437, of which every byte is another character.
//!
//! The text of a name is one line without anything that moves a cursor or ends a path: what is no readable character,
//! `/` and `\` are written as `\xNN` for each byte. Every name has one text and comes back from it. A name that cannot be the name
//! of a file (`.`, `..`, with `/` or NUL, too long) is data like any other, but is never to be used as a path:
//! [`FileName::is_usable`] says so.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ExploreError;

/// What Linux takes.
const USABLE_BYTES_MAX: usize = 255;

/// A name of a file, attribute or stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FileName(Vec<u8>);

impl FileName {
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// From UTF-16 as it lies on disk.
    pub(crate) fn from_utf16(units: impl IntoIterator<Item = u16>) -> Self {
        let mut bytes = Vec::new();
        for unit in char::decode_utf16(units) {
            match unit {
                Ok(char) => bytes.extend(char.encode_utf8(&mut [0; 4]).as_bytes()),
                Err(error) => {
                    let unit = error.unpaired_surrogate();
                    bytes.extend([
                        0xe0 | (unit >> 12) as u8,
                        0x80 | (unit >> 6 & 0x3f) as u8,
                        0x80 | (unit & 0x3f) as u8,
                    ]);
                }
            }
        }
        Self(bytes)
    }

    /// From little-endian UTF-16.
    pub(crate) fn from_utf16_bytes(bytes: &[u8]) -> Self {
        Self::from_utf16(bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])))
    }

    /// Whether a file may have this name in a directory of Linux.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let name = &self.0[..];
        (1..=USABLE_BYTES_MAX).contains(&name.len())
            && name != b"."
            && name != b".."
            && !name.contains(&b'/')
            && !name.contains(&0)
    }
}

impl From<Vec<u8>> for FileName {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for FileName {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_owned())
    }
}

/// The UTF-16 units of a name; none when no units have it.
pub(crate) fn to_utf16(name: &[u8]) -> Option<Vec<u16>> {
    let mut units = Vec::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(text) => {
                units.extend(text.encode_utf16());
                break;
            }
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                units.extend(std::str::from_utf8(good).ok()?.encode_utf16());
                let (surrogate, after) = bad.split_at_checked(3)?;
                let &[0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf] = surrogate else { return None };
                let unit = 0xd000 | u16::from(second & 0x3f) << 6 | u16::from(third & 0x3f);
                // A pair is written as one character, never as two halves.
                let low = (0xdc00..=0xdfff).contains(&unit);
                if low && units.last().is_some_and(|last| (0xd800..=0xdbff).contains(last)) {
                    return None;
                }
                units.push(unit);
                rest = after;
            }
        }
    }
    Some(units)
}

/// What would move a cursor, turn a line round, or show as nothing.
fn is_shown(c: char) -> bool {
    !matches!(c, '/' | '\\' | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
        && !c.is_control()
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |f: &mut fmt::Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        };
        if matches!(self.0[..], [b'.'] | [b'.', b'.']) {
            return escape(f, &self.0);
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_shown(c) {
                    fmt::Write::write_char(f, c)?;
                } else {
                    escape(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
                }
            }
            escape(f, chunk.invalid())?;
        }
        Ok(())
    }
}

impl FromStr for FileName {
    type Err = ExploreError;

    /// From its text. What need not be escaped may be, so a name can also be typed.
    fn from_str(text: &str) -> Result<Self, ExploreError> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if *first != b'\\' {
                bytes.push(*first);
                continue;
            }
            let digits = match after {
                [b'x', high, low, ..] => digit(*high).zip(digit(*low)),
                _ => None,
            };
            let Some((high, low)) = digits else {
                return Err(ExploreError::invalid(
                    text,
                    "a backslash must be followed by x and two hexadecimal digits",
                ));
            };
            bytes.push(high << 4 | low);
            rest = &after[3..];
        }
        Ok(Self(bytes))
    }
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

impl Serialize for FileName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_shown_is_harmless() {
        for (name, text) in [
            (&b"plain name.txt"[..], "plain name.txt"),
            (b"..", "\\x2e\\x2e"),
            (b"...", "..."),
            (b"a/../b", "a\\x2f..\\x2fb"),
            (b"\x1b[2J\n", "\\x1b[2J\\x0a"),
            (b"\xff\\", "\\xff\\x5c"),
            ("Größe \u{202e}gpj".as_bytes(), "Größe \\xe2\\x80\\xaegpj"),
            (b"", ""),
        ] {
            let name = FileName::from(name);
            assert_eq!(name.to_string(), text);
            assert_eq!(text.parse::<FileName>().expect("our own"), name);
        }
        for bad in ["\\", "\\x", "\\x1", "\\x1g", "\\n"] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_are_no_file_names_are_told() {
        let long = [b'a'; 256];
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &long] {
            assert!(!FileName::from(name).is_usable(), "{name:?}");
        }
        for name in [&b"..."[..], b"\xff", b"a\\b", &long[1..]] {
            assert!(FileName::from(name).is_usable(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn every_name_comes_back_from_its_text(name: Vec<u8>) {
            let name = FileName::from(name);
            let text = name.to_string();
            prop_assert!(!text.chars().any(|c| c.is_control() || c == '/'));
            prop_assert_eq!(text.parse::<FileName>().expect("our own"), name);
        }

        #[test]
        fn all_units_come_back_from_their_name(
            units in proptest::collection::vec(prop_oneof![any::<u16>(), 0xd7f0_u16..0xe010], 0..20)
        ) {
            let name = FileName::from_utf16(units.iter().copied());
            prop_assert_eq!(to_utf16(name.as_bytes()), Some(units));
        }

        #[test]
        fn bytes_have_units_only_if_these_have_the_same_bytes(
            name in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0xed), 0xa0_u8..0xc0], 0..12)
        ) {
            if let Some(units) = to_utf16(&name) {
                let again = FileName::from_utf16(units);
                prop_assert_eq!(again.as_bytes(), &name[..]);
            }
        }
    }
}
