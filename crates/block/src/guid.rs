//! Identities as Microsoft and UEFI write them: the first three groups with their lowest byte first.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Guid(pub [u8; 16]);

/// Where in memory each byte of the text is.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

impl Guid {
    pub const ZERO: Self = Self([0; 16]);

    /// From its text, with or without braces.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = match text.strip_prefix('{') {
            Some(rest) => rest.strip_suffix('}')?,
            None => text,
        };
        let groups: Vec<&str> = plain.splitn(6, '-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
            || !plain.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        {
            return None;
        }
        let number = u128::from_str_radix(&groups.concat(), 16).ok()?.to_be_bytes();
        let mut bytes = [0; 16];
        for (place, byte) in ORDER.iter().zip(number) {
            bytes[*place] = byte;
        }
        Some(Self(bytes))
    }

    /// From its text as one number.
    pub(crate) const fn known(number: u128) -> Self {
        let text = number.to_be_bytes();
        let mut bytes = [0; 16];
        let mut at = 0;
        while at < 16 {
            bytes[ORDER[at]] = text[at];
            at += 1;
        }
        Self(bytes)
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, place) in ORDER.iter().enumerate() {
            if [4, 6, 8, 10].contains(&at) {
                f.write_str("-")?;
            }
            write!(f, "{:02X}", self.0[*place])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "2DC27766-F623-4200-9D64-115E9BFD4A08";
        let guid = Guid::parse(text).expect("a GUID");
        assert_eq!(guid.0[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
        assert_eq!(guid.to_string(), text);
        assert_eq!(Guid::parse(&format!("{{{}}}", text.to_lowercase())), Some(guid));
        assert_eq!(Guid::known(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08), guid);
        for wrong in
            ["", "{}", "{2DC27766-F623-4200-9D64-115E9BFD4A08", "+DC27766-F623-4200-9D64-115E9BFD4A08"]
        {
            assert_eq!(Guid::parse(wrong), None, "{wrong}");
        }
        assert_eq!(Guid::parse("2DC27766-F623-4200-9D64-115E9BFD4A08-1"), None);
    }
}
