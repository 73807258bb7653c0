//! Names of nodes: as Go's `strconv.Quote` writes them, without the quotes, and then again within a JSON string.

use super::{FormatError, WHAT};

/// The longest name that Linux' file systems take, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// Whether `name` can be one part of a path and nothing more than that.
pub(super) fn check(name: &str) -> Result<(), FormatError> {
    let why = match name {
        "" => "it is empty",
        "." | ".." => "it leads to another directory",
        _ if name.len() > MAX_NAME_BYTES => "it has more than 255 bytes",
        _ if name.contains('/') => "it has a slash",
        _ if name.contains('\0') => "it has a zero byte",
        _ => return Ok(()),
    };
    let shown: String = name.chars().take(80).collect();
    Err(FormatError::invalid(WHAT, format!("the name {shown:?} cannot be: {why}")))
}

/// `name` as Go quotes it, without the quotes.
pub(super) fn quote(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\0'..='\x1f' | '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            ' '..='~' => out.push(c),
            _ if is_printable(c) => out.push(c),
            '\u{80}'..='\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out
}

/// Letters, marks, numbers, punctuation and symbols: Go and Rust draw the same line, but Rust's is reached only through
/// its own way to escape, which minds marks at the start of a string.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let length = c.encode_utf8(&mut buffer[1..]).len();
    std::str::from_utf8(&buffer[..=length]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

/// The name that was quoted as `text`; `None` when that was not done by Go's rules or the name is not UTF-8.
pub(super) fn unquote(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' | b'\n' => return None,
            b'\\' => rest = unescape(rest, &mut out)?,
            _ => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

/// Appends what the escape after a backslash stands for, and returns what follows it.
fn unescape<'a>(escape: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&kind, rest) = escape.split_first()?;
    let plain = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'"' => kind,
        b'x' => {
            let (value, rest) = digits(rest, 2, 16)?;
            out.push(u8::try_from(value).ok()?);
            return Some(rest);
        }
        b'0'..=b'7' => {
            let (value, rest) = digits(escape, 3, 8)?;
            out.push(u8::try_from(value).ok()?);
            return Some(rest);
        }
        b'u' | b'U' => {
            let (value, rest) = digits(rest, if kind == b'u' { 4 } else { 8 }, 16)?;
            out.extend_from_slice(char::from_u32(value)?.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        _ => return None,
    };
    out.push(plain);
    Some(rest)
}

fn digits(text: &[u8], count: usize, radix: u32) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let value = digits.iter().try_fold(0_u32, |value, digit| {
        value.checked_mul(radix)?.checked_add(char::from(*digit).to_digit(radix)?)
    })?;
    Some((value, rest))
}
