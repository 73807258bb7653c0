//! Ethernet addresses.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a text is no address for an adapter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    #[error(
        "\"{0}\" is no MAC address; write twelve hexadecimal digits, such as 00155D380101 or 00-15-5D-38-01-01"
    )]
    Malformed(String),
    #[error("{0} is a group address; an adapter needs an address whose first octet is even")]
    Group(MacAddress),
    #[error("the address of zeros cannot be given to an adapter")]
    Zero,
}

/// Six octets. Shown with colons by `Display` (as Linux does) and bare by [`MacAddress::hyperv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address number `n` of the dynamic range of a host: Microsoft's prefix as Hyper-V uses it,
    /// two octets of the host, one that counts.
    pub const fn dynamic(host: [u8; 2], n: u8) -> Self {
        Self([0x00, 0x15, 0x5d, host[0], host[1], n])
    }

    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Twelve digits and no separator: `00155D380101`.
    pub fn hyperv(self) -> String {
        self.0.iter().map(|o| format!("{o:02X}")).collect()
    }

    /// Digits in pairs with dashes, as Get-NetAdapter shows them: `00-15-5D-38-01-01`.
    pub fn dashed(self) -> String {
        self.0.map(|o| format!("{o:02X}")).join("-")
    }
}

impl FromStr for MacAddress {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let malformed = || MacError::Malformed(crate::shown(text, 40));
        let digits: String = match text.len() {
            12 => text.to_owned(),
            17 => {
                let separator =
                    text.chars().nth(2).filter(|c| matches!(c, ':' | '-')).ok_or_else(malformed)?;
                let groups: Vec<&str> = text.split(separator).collect();
                if groups.len() != 6 || groups.iter().any(|g| g.len() != 2) {
                    return Err(malformed());
                }
                groups.concat()
            }
            _ => return Err(malformed()),
        };
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let value = u64::from_str_radix(&digits, 16).map_err(|_| malformed())?;
        let bytes = value.to_be_bytes();
        let mac = Self([bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
        if value == 0 {
            return Err(MacError::Zero);
        }
        if mac.0[0] & 1 == 1 {
            return Err(MacError::Group(mac));
        }
        Ok(mac)
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> String {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|o| format!("{o:02x}")).join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_spellings_are_one_address() {
        let a: MacAddress = "00155D380101".parse().unwrap();
        assert_eq!(a, "00:15:5d:38:01:01".parse().unwrap());
        assert_eq!(a, "00-15-5D-38-01-01".parse().unwrap());
        assert_eq!(a.hyperv(), "00155D380101");
        assert_eq!(a.dashed(), "00-15-5D-38-01-01");
        assert_eq!(a.to_string(), "00:15:5d:38:01:01");
    }

    #[test]
    fn what_an_adapter_cannot_have_is_refused() {
        assert_eq!("000000000000".parse::<MacAddress>(), Err(MacError::Zero));
        assert!(matches!("01155D380101".parse::<MacAddress>(), Err(MacError::Group(_))));
        for bad in ["", "00155D38010", "00155D38010g", "00:15-5D:38:01:01", "ü0155D38010", "+0155D380101"] {
            assert!(matches!(bad.parse::<MacAddress>(), Err(MacError::Malformed(_))), "{bad}");
        }
    }
}
