//! Numbers: `12`, `0x1F`, `1.5`, `2e3`, and the sizes that administrators write, `512MB`.

use super::Parser;
use crate::lang::ast::ExprKind;
use crate::lang::chars::{is_dash, is_name};

impl Parser {
    /// A number, if one stands here and is not the start of a word such as `7zip`.
    pub(super) fn number(&mut self) -> Option<ExprKind> {
        let (kind, length) = scan(self.rest())?;
        let next = self.rest()[length..].chars().next();
        if next.is_some_and(is_name) {
            return None;
        }
        self.at += length;
        Some(kind)
    }
}

/// The number that a whole word stands for, with a sign or not.
pub(crate) fn from_word(word: &str) -> Option<ExprKind> {
    let (negative, digits) = match word.chars().next()? {
        c if is_dash(c) => (true, &word[c.len_utf8()..]),
        '+' => (false, &word[1..]),
        _ => (false, word),
    };
    let (kind, length) = scan(digits)?;
    if length != digits.len() {
        return None;
    }
    Some(match kind {
        ExprKind::Int(n) if negative => ExprKind::Int(n.checked_neg()?),
        ExprKind::Float(n) if negative => ExprKind::Float(-n),
        kind => kind,
    })
}

/// The number at the start of the text and its length in bytes.
fn scan(text: &str) -> Option<(ExprKind, usize)> {
    let bytes = text.as_bytes();
    let digits =
        |from: usize, accept: fn(&u8) -> bool| bytes[from..].iter().take_while(|b| accept(b)).count();
    if bytes.len() > 2 && bytes[0] == b'0' && bytes[1].eq_ignore_ascii_case(&b'x') {
        let count = digits(2, u8::is_ascii_hexdigit);
        let value = u64::from_str_radix(text.get(2..2 + count)?, 16).ok()?;
        let (factor, suffix) = multiplier(&bytes[2 + count..]);
        return Some((scaled_int(i128::from(value), factor)?, 2 + count + suffix));
    }
    let whole = digits(0, u8::is_ascii_digit);
    let mut end = whole;
    let mut is_float = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end += 1 + digits(end + 1, u8::is_ascii_digit);
        is_float = true;
    }
    if end == 0 {
        return None;
    }
    if bytes.get(end).is_some_and(|b| b.eq_ignore_ascii_case(&b'e')) {
        let sign = usize::from(bytes.get(end + 1).is_some_and(|b| matches!(b, b'+' | b'-')));
        let count = bytes.get(end + 1 + sign..).map_or(0, |_| digits(end + 1 + sign, u8::is_ascii_digit));
        if count > 0 {
            end += 1 + sign + count;
            is_float = true;
        }
    }
    let number = &text[..end];
    if bytes.get(end).is_some_and(|b| matches!(b, b'l' | b'L' | b'd' | b'D')) {
        end += 1;
    }
    let (factor, suffix) = multiplier(&bytes[end..]);
    let float = || Some(scaled_float(number.parse().ok()?, factor));
    let kind = match number.parse::<i128>() {
        Ok(value) if !is_float => scaled_int(value, factor).or_else(float)?,
        _ => float()?,
    };
    Some((kind, end + suffix))
}

fn multiplier(rest: &[u8]) -> (i64, usize) {
    let (Some(unit), Some(b'b' | b'B')) = (rest.first(), rest.get(1)) else { return (1, 0) };
    let shift = match unit.to_ascii_lowercase() {
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        b'p' => 50,
        _ => return (1, 0),
    };
    (1 << shift, 2)
}

fn scaled_int(value: i128, factor: i64) -> Option<ExprKind> {
    i64::try_from(value.checked_mul(i128::from(factor))?).ok().map(ExprKind::Int)
}

/// `1.5GB` is a whole number of bytes, and stays one.
fn scaled_float(value: f64, factor: i64) -> ExprKind {
    let scaled = value * factor as f64;
    if factor > 1 && scaled.fract() == 0.0 && scaled.abs() < 9e15 {
        return ExprKind::Int(scaled as i64);
    }
    ExprKind::Float(scaled)
}
