//! Names of what lies in a repository: SHA-256 values, one type per kind, so that a pack is never looked up as a blob.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::pair::sha256_of_both;

/// What was given as a name is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: 64 lower-case hexadecimal digits were expected")]
pub struct InvalidId(String);

/// What each byte is worth as a lower-case hexadecimal digit; more than 15 when it is none.
const VALUES: [u8; 256] = {
    let mut values = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        values[DIGITS[value] as usize] = value as u8;
        value += 1;
    }
    values
};

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Trees and indexes consist of names: this decides how fast they are read, so it looks back only once.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut all = 0;
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
        all |= high | low;
        *byte = high << 4 | low;
    }
    (all < 16).then_some(bytes)
}

/// `bytes` as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The name of content.
            pub fn of(content: &[u8]) -> Self {
                Self(Sha256::digest(content).into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), &hex(&self.0)[..8])
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                // What is shown of a hostile name is bounded.
                parse_hex(text).map(Self).ok_or_else(|| InvalidId(text.chars().take(80).collect()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("64 hexadecimal digits")
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

id!(
    /// A blob, by the SHA-256 of its plain bytes: a chunk of a disk, or a tree.
    BlobId
);
impl BlobId {
    /// The names of two contents, in less time than one after the other takes.
    pub(crate) fn of_both(contents: [&[u8]; 2]) -> [Self; 2] {
        sha256_of_both(contents).map(Self)
    }
}
id!(
    /// A pack file, by the SHA-256 of its sealed bytes.
    PackId
);
id!(
    /// A snapshot file, by the SHA-256 of its sealed bytes: the name of a recovery point.
    SnapshotId
);
id!(
    /// An index file, by the SHA-256 of its sealed bytes.
    IndexId
);
id!(
    /// A key file, by the SHA-256 of its bytes.
    KeyId
);
id!(
    /// A lock file, by the SHA-256 of its sealed bytes.
    LockId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_sha256_of_its_content() {
        let id = BlobId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(id.to_string().parse::<BlobId>(), Ok(id));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let upper = BlobId::of(b"abc").to_string().to_uppercase();
        for text in ["", "abc", &upper, &"g".repeat(64), &"é".repeat(32), &"0".repeat(65)] {
            assert!(text.parse::<BlobId>().is_err(), "{text}");
        }
    }
}
