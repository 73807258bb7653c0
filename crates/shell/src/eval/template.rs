//! The `-f` operator: `{0}`, `{0,10}`, `{0:N2}`.

use super::operators::check_text;
use crate::frame::{Category, ErrorRecord};
use crate::value::Value;

type Result<T> = std::result::Result<T, ErrorRecord>;

/// Widest field and most decimals: more is a slip.
const WIDTH_MAX: usize = 1 << 16;
const PRECISION_MAX: usize = 99;

fn refuse(message: &str) -> ErrorRecord {
    let message = format!("Error formatting a string: {message}");
    ErrorRecord::new(Category::InvalidOperation, "RuntimeException", "FormatError", message)
}

pub(super) fn format(template: &str, arguments: &[Value]) -> Result<String> {
    let mut result = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        result.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix(brace) {
            result.push_str(brace);
            rest = next;
            continue;
        }
        let item = after.split_once('}').filter(|_| brace == "{");
        let Some((item, next)) = item else {
            return Err(refuse("Input string was not in a correct format.."));
        };
        result.push_str(&field(item, arguments)?);
        check_text(result.len())?;
        rest = next;
    }
    result.push_str(rest);
    Ok(result)
}

fn field(item: &str, arguments: &[Value]) -> Result<String> {
    let (place, spec) = item.split_once(':').map_or((item, None), |(place, spec)| (place, Some(spec)));
    let (index, width) = place.split_once(',').map_or((place, None), |(index, width)| (index, Some(width)));
    let bad = || refuse("Input string was not in a correct format..");
    let index: usize = index.trim().parse().map_err(|_| bad())?;
    let value = arguments.get(index).ok_or_else(|| {
        refuse("Index (zero based) must be greater than or equal to zero and less than the size of the argument list..")
    })?;
    let text = match spec {
        Some(spec) if !spec.is_empty() => formatted(value, spec)?,
        _ => value.to_text(),
    };
    let Some(width) = width else { return Ok(text) };
    let width: i64 = width.trim().parse().map_err(|_| bad())?;
    let columns = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    if columns > WIDTH_MAX {
        return Err(refuse("The field is too wide."));
    }
    Ok(if width < 0 { format!("{text:<columns$}") } else { format!("{text:>columns$}") })
}

/// A value by a format string. Only numbers have one here; of others it would be ignored, as in .NET.
pub(crate) fn formatted(value: &Value, spec: &str) -> Result<String> {
    let unsupported = || refuse(&format!("The format '{spec}' is not supported by this shell."));
    let (Value::Int(_) | Value::Float(_)) = value else {
        return match value {
            Value::DateTime(_) | Value::TimeSpan(_) => Err(unsupported()),
            other => Ok(other.to_text()),
        };
    };
    let number = value.to_float().unwrap_or(f64::NAN);
    let mut chars = spec.chars();
    let letter = chars.next().unwrap_or_default();
    let digits = chars.as_str();
    let precision = match digits.parse::<usize>() {
        _ if digits.is_empty() => None,
        Ok(n) if n <= PRECISION_MAX && digits.bytes().all(|b| b.is_ascii_digit()) => Some(n),
        _ if letter.is_ascii_alphabetic() => return Err(unsupported()),
        _ => None,
    };
    Ok(match (letter.to_ascii_uppercase(), value) {
        ('N', _) => grouped(&fixed(number, precision.unwrap_or(2))),
        ('F', _) => fixed(number, precision.unwrap_or(2)),
        ('P', _) => format!("{} %", grouped(&fixed(number * 100.0, precision.unwrap_or(2)))),
        ('D', Value::Int(n)) => {
            let sign = if *n < 0 { "-" } else { "" };
            format!("{sign}{:0width$}", n.unsigned_abs(), width = precision.unwrap_or(1))
        }
        ('X', Value::Int(n)) => {
            let width = precision.unwrap_or(1);
            if letter == 'X' { format!("{n:0width$X}") } else { format!("{n:0width$x}") }
        }
        ('G', _) if precision.is_none() => value.to_text(),
        ('0' | '#', _) => custom(number, spec).ok_or_else(unsupported)?,
        _ => return Err(unsupported()),
    })
}

/// Rounded half away from zero, as .NET Framework does.
fn fixed(value: f64, decimals: usize) -> String {
    let exact = crate::value::format_float(value);
    let tie = exact.split_once('.').is_some_and(|(_, f)| f.len() == decimals + 1 && f.ends_with('5'));
    let nudged = if tie { value + value.signum() * 10f64.powi(-(decimals as i32) - 3) } else { value };
    format!("{nudged:.decimals$}")
}

fn grouped(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let mut result = String::from(sign);
    for (index, c) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            result.push(',');
        }
        result.push(c);
    }
    if let Some(fraction) = fraction {
        result.push('.');
        result.push_str(fraction);
    }
    result
}

/// `0.00`, `000`, `#,##0.0#`
fn custom(number: f64, spec: &str) -> Option<String> {
    let (whole, fraction) = spec.split_once('.').unwrap_or((spec, ""));
    let valid = |part: &str, extra: &str| part.chars().all(|c| "0#".contains(c) || extra.contains(c));
    if !valid(whole, ",")
        || !valid(fraction, "")
        || fraction.len() > PRECISION_MAX
        || whole.len() > PRECISION_MAX
    {
        return None;
    }
    let required = fraction.rfind('0').map_or(0, |at| at + 1);
    let mut text = fixed(number.abs(), fraction.len());
    while text.contains('.') && text.len() - text.find('.')? - 1 > required && text.ends_with('0') {
        text.pop();
    }
    let text = text.trim_end_matches('.');
    let zeros = whole.matches('0').count();
    let (head, tail) = text.split_once('.').map_or((text, None), |(h, t)| (h, Some(t)));
    let head = if zeros == 0 && head == "0" { String::new() } else { format!("{head:0>zeros$}") };
    let head = if whole.contains(',') { grouped(&head) } else { head };
    let sign = if number < 0.0 { "-" } else { "" };
    Some(tail.map_or_else(|| format!("{sign}{head}"), |tail| format!("{sign}{head}.{tail}")))
}
