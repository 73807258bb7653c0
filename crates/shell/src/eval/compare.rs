//! Comparison operators. The left side decides how the right one is read.

use super::pattern::{self, Wildcard};
use crate::frame::ErrorRecord;
use crate::lang::ast::{CaseRule, Comparison};
use crate::value::Value;
use std::cmp::Ordering;

type Result<T> = std::result::Result<T, ErrorRecord>;

pub(super) fn compare_op(
    comparison: Comparison,
    case: CaseRule,
    left: &Value,
    right: &Value,
) -> Result<Value> {
    use Comparison::{Contains, In, NotContains, NotIn};
    let exact = case == CaseRule::Exact;
    let holds = |list: &Value, item: &Value| match list {
        Value::Array(items) => items.iter().any(|candidate| equal(candidate, item, exact)),
        single => equal(single, item, exact),
    };
    match comparison {
        Contains => return Ok(Value::Bool(holds(left, right))),
        NotContains => return Ok(Value::Bool(!holds(left, right))),
        In => return Ok(Value::Bool(holds(right, left))),
        NotIn => return Ok(Value::Bool(!holds(right, left))),
        _ => {}
    }
    let test = Test::new(comparison, exact, right)?;
    // Against an array, a comparison picks the items that pass.
    if let Value::Array(items) = left {
        let mut passed = Vec::new();
        for item in items {
            if test.passes(item, right)? {
                passed.push(item.clone());
            }
        }
        return Ok(Value::Array(passed));
    }
    test.passes(left, right).map(Value::Bool)
}

/// A comparison with its pattern made ready once for all items.
enum Test {
    Equal { exact: bool, wanted: bool },
    Order { exact: bool, accept: fn(Ordering) -> bool },
    Like(Wildcard, bool),
    Match(Box<regex::Regex>, bool),
}

impl Test {
    fn new(comparison: Comparison, exact: bool, right: &Value) -> Result<Self> {
        Ok(match comparison {
            Comparison::Gt => Test::Order { exact, accept: Ordering::is_gt },
            Comparison::Ge => Test::Order { exact, accept: Ordering::is_ge },
            Comparison::Lt => Test::Order { exact, accept: Ordering::is_lt },
            Comparison::Le => Test::Order { exact, accept: Ordering::is_le },
            Comparison::Like | Comparison::NotLike => {
                Test::Like(Wildcard::with_case(&right.to_text(), exact), comparison == Comparison::Like)
            }
            Comparison::Match | Comparison::NotMatch => Test::Match(
                Box::new(pattern::regex(&right.to_text(), exact)?),
                comparison == Comparison::Match,
            ),
            other => Test::Equal { exact, wanted: other == Comparison::Eq },
        })
    }

    fn passes(&self, left: &Value, right: &Value) -> Result<bool> {
        Ok(match self {
            Test::Equal { exact, wanted } => equal(left, right, *exact) == *wanted,
            Test::Order { exact, accept } => accept(order(left, right, *exact)?),
            Test::Like(wildcard, wanted) => wildcard.matches(&left.to_text()) == *wanted,
            Test::Match(regex, wanted) => regex.is_match(&left.to_text()) == *wanted,
        })
    }
}

fn text_order(a: &str, b: &str, exact: bool) -> Ordering {
    let folded = a.to_lowercase().cmp(&b.to_lowercase());
    if exact && folded.is_eq() { a.cmp(b).reverse() } else { folded }
}

fn number_order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a.to_number()?, b.to_number()?) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(&b)),
        (a, b) => a.to_float()?.partial_cmp(&b.to_float()?),
    }
}

/// `-eq`
pub(crate) fn equal(left: &Value, right: &Value, exact: bool) -> bool {
    match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Null, _) | (_, Value::Null) => false,
        (Value::Bool(a), right) => *a == right.is_true(),
        (Value::Enum(a), Value::Enum(b)) => a == b,
        (Value::Enum(a), Value::String(b)) => {
            text_order(&a.name, b, exact).is_eq() || b.parse() == Ok(a.number)
        }
        (Value::Enum(_) | Value::Int(_) | Value::Float(_), Value::Array(_)) => false,
        (Value::Enum(_) | Value::Int(_) | Value::Float(_), right) => {
            number_order(left, right).is_some_and(Ordering::is_eq)
        }
        (Value::String(a), right) => text_order(a, &right.to_text(), exact).is_eq(),
        (Value::DateTime(a), Value::DateTime(b)) => a == b,
        (Value::TimeSpan(a), right) => right.to_time_span() == Some(*a),
        (Value::Object(a), Value::Object(b)) => {
            a.type_name() == b.type_name()
                && a.len() == b.len()
                && a.iter()
                    .zip(b.iter())
                    .all(|((n, v), (m, w))| n.eq_ignore_ascii_case(m) && equal(v, w, exact))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b, exact))
        }
        (Value::Object(_), Value::String(text)) => text_order(&left.to_text(), text, exact).is_eq(),
        _ => false,
    }
}

/// The order of two values for `-gt` and its like.
fn order(left: &Value, right: &Value, exact: bool) -> Result<Ordering> {
    let refused = || {
        let (a, b) = (left.to_text(), right.to_text());
        ErrorRecord::runtime(
            "ComparisonFailure",
            format!(
                "Could not compare \"{a}\" to \"{b}\". They are of types \"{}\" and \"{}\".",
                left.type_name(),
                right.type_name()
            ),
        )
    };
    match (left, right) {
        (Value::String(a), right) => Ok(text_order(a, &right.to_text(), exact)),
        (Value::DateTime(a), Value::DateTime(b)) => Ok(a.cmp(b)),
        (Value::TimeSpan(a), right) => right.to_time_span().map(|b| a.cmp(&b)).ok_or_else(refused),
        (Value::Enum(a), Value::String(b)) if b.parse::<f64>().is_err() => Ok(text_order(&a.name, b, exact)),
        (Value::Null, Value::Null) => Ok(Ordering::Equal),
        (Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Enum(_), right) => {
            number_order(left, right).ok_or_else(refused)
        }
        _ => Err(refused()),
    }
}

/// A total order for sorting: nothing first, then numbers and times by size, the rest by text.
pub(crate) fn compare_values(left: &Value, right: &Value, exact: bool) -> Ordering {
    match (left, right) {
        (Value::Null, Value::Null) => Ordering::Equal,
        (Value::Null, _) => Ordering::Less,
        (_, Value::Null) => Ordering::Greater,
        (Value::DateTime(a), Value::DateTime(b)) => a.cmp(b),
        (Value::TimeSpan(a), Value::TimeSpan(b)) => a.cmp(b),
        (Value::Enum(a), Value::Enum(b)) => a.number.cmp(&b.number),
        (
            Value::Int(_) | Value::Float(_) | Value::Bool(_),
            Value::Int(_) | Value::Float(_) | Value::Bool(_),
        ) => match (left, right) {
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            _ => left.to_float().unwrap_or(f64::NAN).total_cmp(&right.to_float().unwrap_or(f64::NAN)),
        },
        // Numbers come before texts, so that the order stays total in a mixed list.
        (Value::Int(_) | Value::Float(_) | Value::Bool(_), _) => Ordering::Less,
        (_, Value::Int(_) | Value::Float(_) | Value::Bool(_)) => Ordering::Greater,
        _ => text_order(&left.to_text(), &right.to_text(), exact),
    }
}
