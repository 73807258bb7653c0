//! Names that people give to things.
//!
//! A name is compared without regard to case, as Hyper-V and PowerShell do, and is kept as written.
//! It must never be used to build a file name, an interface name or a command line: those come from
//! ids.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest name, in characters: what Hyper-V's manager accepts.
pub const NAME_CHARS_MAX: usize = 100;

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name can't be empty")]
    Empty,
    #[error("the name has {chars} characters; at most {NAME_CHARS_MAX} are possible")]
    TooLong { chars: usize },
    #[error("the name \"{shown}\" contains {what}, which is not allowed")]
    Forbidden { shown: String, what: &'static str },
}

fn check(text: &str) -> Result<(), NameError> {
    let chars = text.chars().count();
    if text.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if chars > NAME_CHARS_MAX {
        return Err(NameError::TooLong { chars });
    }
    let forbidden = |what| Err(NameError::Forbidden { shown: crate::shown(text, NAME_CHARS_MAX), what });
    if text.contains('/') {
        return forbidden("\"/\" (it separates the levels of a path)");
    }
    if text.chars().any(char::is_control) {
        return forbidden("a control character or line break");
    }
    // Bidirectional overrides can make a name look like another one.
    if text.chars().any(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')) {
        return forbidden("a character that reverses the direction of text");
    }
    if text != text.trim() {
        return forbidden("a blank at its start or end");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The form under which two names are the same name.
            pub fn key(&self) -> String {
                self.0.to_lowercase()
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.key() == other.key()
            }
        }

        impl Eq for $name {}

        impl std::hash::Hash for $name {
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.key().hash(state);
            }
        }
    };
}

name!(
    /// The name of a virtual machine, unique on its host.
    VmName
);
name!(
    /// The name of a virtual switch, unique on its host.
    SwitchName
);
name!(
    /// The name of a NAT network, unique on its host.
    NatName
);
name!(
    /// The name of a vault that a host knows, unique on the host.
    RepositoryName
);
name!(
    /// The name of a protection job, unique on its host.
    JobName
);
name!(
    /// The name of a disk in a recovery point, unique in the point.
    DiskName
);
name!(
    /// A name in which `*` stands for any text and `?` for any one character.
    Pattern
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_without_case_and_keep_their_spelling() {
        let a: VmName = "Server2016".parse().unwrap();
        let b: VmName = "SERVER2016".parse().unwrap();
        assert_eq!(a, b);
        assert_eq!(a.to_string(), "Server2016");
    }

    #[test]
    fn other_scripts_are_names() {
        assert!("сервер-01".parse::<VmName>().is_ok());
        assert!("仮想マシン".parse::<VmName>().is_ok());
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        assert_eq!("".parse::<VmName>(), Err(NameError::Empty));
        assert_eq!("x".repeat(300).parse::<VmName>(), Err(NameError::TooLong { chars: 300 }));
        for bad in ["a/b", "a\nb", " a", "a ", "a\u{202e}b", "\0"] {
            assert!(bad.parse::<VmName>().is_err(), "{bad:?}");
        }
    }
}
