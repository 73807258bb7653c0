//! Values as text: within strings ([`Value::to_text`]) and in tables and lists ([`Value::to_display`]).

use super::Value;

/// Items of an array shown in a cell, as `$FormatEnumerationLimit` has it.
const ITEMS_SHOWN: usize = 4;

impl Value {
    /// The text that the value becomes within a string.
    pub fn to_text(&self) -> String {
        match self {
            Value::Null => String::new(),
            Value::Bool(b) => if *b { "True" } else { "False" }.to_owned(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => format_float(*n),
            Value::String(s) => s.clone(),
            Value::DateTime(at) => at.to_text(),
            Value::TimeSpan(span) => span.to_text(),
            Value::Enum(e) => e.name.to_string(),
            Value::Array(items) => items.iter().map(Value::to_text).collect::<Vec<_>>().join(" "),
            Value::ScriptBlock(block) => block.text().to_owned(),
            Value::Object(object) if object.is_custom() => {
                let fields: Vec<String> =
                    object.iter().map(|(n, v)| format!("{n}={}", v.to_text())).collect();
                format!("@{{{}}}", fields.join("; "))
            }
            Value::Object(object) => match object.get("Name") {
                Some(name) => name.to_text(),
                None => object.type_name().to_owned(),
            },
            Value::Hashtable(_) | Value::Formatted(_) => self.type_name().to_owned(),
        }
    }

    /// The text in a cell of a table or list.
    pub fn to_display(&self) -> String {
        match self {
            Value::DateTime(at) => at.to_display(),
            Value::Array(items) => braced(items.iter().map(Value::to_text).collect()),
            Value::Hashtable(table) => braced(table.iter().map(|(key, _)| key.to_text()).collect()),
            value => value.to_text(),
        }
    }
}

fn braced(mut items: Vec<String>) -> String {
    let more = if items.len() > ITEMS_SHOWN { "..." } else { "" };
    items.truncate(ITEMS_SHOWN);
    format!("{{{}{more}}}", items.join(", "))
}

/// A floating-point number with 15 significant digits, as the .NET Framework writes it.
pub fn format_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{value:.14e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value == 0.0 || (-5..15).contains(&exponent) {
        let decimals = usize::try_from((14 - exponent).max(0)).unwrap_or(0);
        let fixed = format!("{value:.decimals$}");
        let trimmed =
            if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.') } else { &fixed };
        return if trimmed == "-0" { "0".to_owned() } else { trimmed.to_owned() };
    }
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}E{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_as_in_dotnet() {
        let cases = [
            (0.1 + 0.2, "0.3"),
            (1.0, "1"),
            (-0.0, "0"),
            (2.5, "2.5"),
            (1e15, "1E+15"),
            (123_456_789_012_345.0, "123456789012345"),
            (1.5e-7, "1.5E-07"),
            (0.0001, "0.0001"),
            (1.0 / 3.0, "0.333333333333333"),
            (1e300, "1E+300"),
            (-1234.5, "-1234.5"),
        ];
        for (value, text) in cases {
            assert_eq!(format_float(value), text);
        }
    }

    #[test]
    fn cells_show_four_items() {
        let array = |n: i64| Value::Array((1..=n).map(Value::Int).collect());
        assert_eq!(array(0).to_display(), "{}");
        assert_eq!(array(4).to_display(), "{1, 2, 3, 4}");
        assert_eq!(array(5).to_display(), "{1, 2, 3, 4...}");
        assert_eq!(array(2).to_text(), "1 2");
    }
}
