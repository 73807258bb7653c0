//! Passwords: wiped when they go, and never part of a message.

use std::io::{self, Read};

use zeroize::{Zeroize, Zeroizing};

pub const PASSWORD_BYTES_MAX: usize = 4096;

/// Wiped when it goes.
pub type Password = Zeroizing<Vec<u8>>;

/// Why a file has no password.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("its first line is longer than any password")]
    TooLong,
    #[error("its first line is empty, and should be the password")]
    Empty,
}

/// The password in a file: its first line, without its end.
pub fn first_line(file: impl Read) -> Result<Password, PasswordError> {
    // One buffer that never grows: what is moved elsewhere would not be wiped.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 1));
    file.take(PASSWORD_BYTES_MAX as u64 + 1).read_to_end(&mut line)?;
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    if end > PASSWORD_BYTES_MAX {
        return Err(PasswordError::TooLong);
    }
    line[end..].zeroize();
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() { Err(PasswordError::Empty) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_a_file() {
        let read = |bytes: &[u8]| first_line(bytes).ok().map(|password| password.to_vec());
        for text in ["correct horse", "correct horse\n", "correct horse\r\nand more\n"] {
            assert_eq!(read(text.as_bytes()).as_deref(), Some(&b"correct horse"[..]), "{text:?}");
        }
        assert_eq!(read(b" a "), Some(b" a ".to_vec()));
        assert_eq!(read(&[b'a'; PASSWORD_BYTES_MAX]).map(|p| p.len()), Some(PASSWORD_BYTES_MAX));
        for bad in [&b""[..], b"\n", b"\r\nx", &[b'a'; PASSWORD_BYTES_MAX + 1]] {
            assert_eq!(read(bad), None);
        }
    }
}
