//! Binary operators on values: pure, and bounded in what they may produce.

use super::compare::compare_op;
use super::{ITEMS_MAX, TEXT_BYTES_MAX, pattern, template};
use crate::frame::{Category, ErrorRecord};
use crate::lang::ast::BinaryOp;
use crate::value::Value;

type Result<T> = std::result::Result<T, ErrorRecord>;

pub(super) fn too_many_items() -> ErrorRecord {
    ErrorRecord::runtime("ArrayTooLarge", format!("An array cannot have more than {ITEMS_MAX} items."))
}

pub(super) fn check_text(bytes: usize) -> Result<()> {
    if bytes > TEXT_BYTES_MAX {
        let message = format!("A string cannot be larger than {} MB.", TEXT_BYTES_MAX >> 20);
        return Err(ErrorRecord::runtime("StringTooLarge", message));
    }
    Ok(())
}

pub(crate) fn apply_binary(op: BinaryOp, left: Value, right: Value) -> Result<Value> {
    match op {
        BinaryOp::And => Ok(Value::Bool(left.is_true() && right.is_true())),
        BinaryOp::Or => Ok(Value::Bool(left.is_true() || right.is_true())),
        BinaryOp::Xor => Ok(Value::Bool(left.is_true() != right.is_true())),
        BinaryOp::Compare(comparison, case) => compare_op(comparison, case, &left, &right),
        BinaryOp::Join => join(left, &right),
        BinaryOp::Split(case) => pattern::split(left, right, case),
        BinaryOp::Replace(case) => pattern::replace(&left, right, case),
        BinaryOp::Format => template::format(&left.to_text(), &right.into_items()).map(Value::String),
        BinaryOp::Range => range(&left, &right),
        BinaryOp::Add => add(left, right),
        BinaryOp::Multiply => multiply(&left, &right),
        BinaryOp::Subtract | BinaryOp::Divide | BinaryOp::Remainder => arithmetic(op, &left, &right),
    }
}

fn join(left: Value, right: &Value) -> Result<Value> {
    let texts: Vec<String> = left.into_items().iter().map(Value::to_text).collect();
    let separator = right.to_text();
    check_text(texts.iter().map(String::len).sum::<usize>().saturating_add(separator.len() * texts.len()))?;
    Ok(Value::String(texts.join(&separator)))
}

fn range(left: &Value, right: &Value) -> Result<Value> {
    let bound = |value: &Value| {
        value.to_int().map_err(|error| ErrorRecord::runtime("InvalidRange", error.to_string()))
    };
    let (from, to) = (bound(left)?, bound(right)?);
    if from.abs_diff(to) >= ITEMS_MAX as u64 {
        return Err(too_many_items());
    }
    let items: Vec<Value> = if from <= to {
        (from..=to).map(Value::Int).collect()
    } else {
        (to..=from).rev().map(Value::Int).collect()
    };
    Ok(Value::Array(items))
}

fn add(left: Value, right: Value) -> Result<Value> {
    match (left, right) {
        (Value::Array(mut items), right) => {
            let more = right.into_items();
            if items.len() + more.len() > ITEMS_MAX {
                return Err(too_many_items());
            }
            items.extend(more);
            Ok(Value::Array(items))
        }
        (Value::String(mut text), right) => {
            let more = right.to_text();
            check_text(text.len() + more.len())?;
            text.push_str(&more);
            Ok(Value::String(text))
        }
        (Value::Hashtable(mut table), Value::Hashtable(more)) => {
            for (key, value) in more.iter() {
                if !table.insert(key.clone(), value.clone()) {
                    let message = format!(
                        "Item has already been added. Key in dictionary: '{0}'  Key being added: '{0}'",
                        key.to_text()
                    );
                    return Err(ErrorRecord::runtime("DuplicateKey", message));
                }
            }
            Ok(Value::Hashtable(table))
        }
        (Value::Null, right) => Ok(right),
        (Value::DateTime(at), Value::TimeSpan(span)) => {
            Ok(Value::DateTime(crate::value::DateTime { unix_ms: at.unix_ms.saturating_add(span.ms) }))
        }
        (Value::TimeSpan(a), Value::TimeSpan(b)) => {
            Ok(Value::TimeSpan(crate::value::TimeSpan { ms: a.ms.saturating_add(b.ms) }))
        }
        (left, right) => arithmetic(BinaryOp::Add, &left, &right),
    }
}

fn multiply(left: &Value, right: &Value) -> Result<Value> {
    let times = |value: &Value| -> Result<usize> {
        let count = value.to_int().map_err(|error| not_a_number(&error.to_string()))?;
        usize::try_from(count).map_err(|_| {
            ErrorRecord::runtime("NegativeCount", format!("Cannot repeat a value {count} times."))
        })
    };
    match left {
        Value::String(text) => {
            let count = times(right)?;
            check_text(text.len().saturating_mul(count))?;
            Ok(Value::String(text.repeat(if text.is_empty() { 0 } else { count })))
        }
        Value::Array(items) => {
            let count = times(right)?;
            let length = items.len().saturating_mul(count);
            if length > ITEMS_MAX {
                return Err(too_many_items());
            }
            Ok(Value::Array(items.iter().cycle().take(length).cloned().collect()))
        }
        left => arithmetic(BinaryOp::Multiply, left, right),
    }
}

fn not_a_number(message: &str) -> ErrorRecord {
    ErrorRecord::new(Category::InvalidArgument, "RuntimeException", "InvalidCastFromStringToInteger", message)
}

fn arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Result<Value> {
    if let Some(result) = time_arithmetic(op, left, right) {
        return Ok(result);
    }
    let (Some(a), Some(b)) = (number(left), number(right)) else {
        return Err(no_operator(op, left, right));
    };
    if let (Value::Int(a), Value::Int(b)) = (&a, &b) {
        if *b == 0 && matches!(op, BinaryOp::Divide | BinaryOp::Remainder) {
            return Err(ErrorRecord::new(
                Category::NotSpecified,
                "RuntimeException",
                "RuntimeException",
                "Attempted to divide by zero.",
            ));
        }
        let exact = match op {
            BinaryOp::Add => a.checked_add(*b),
            BinaryOp::Subtract => a.checked_sub(*b),
            BinaryOp::Multiply => a.checked_mul(*b),
            BinaryOp::Divide if a.checked_rem(*b) == Some(0) => a.checked_div(*b),
            BinaryOp::Remainder => a.checked_rem(*b),
            _ => None,
        };
        if let Some(exact) = exact {
            return Ok(Value::Int(exact));
        }
    }
    let (a, b) = (a.to_float().unwrap_or(f64::NAN), b.to_float().unwrap_or(f64::NAN));
    Ok(Value::Float(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Subtract => a - b,
        BinaryOp::Multiply => a * b,
        BinaryOp::Divide => a / b,
        _ => a % b,
    }))
}

fn number(value: &Value) -> Option<Value> {
    match value {
        Value::Enum(_)
        | Value::Bool(_)
        | Value::Null
        | Value::Int(_)
        | Value::Float(_)
        | Value::String(_) => value.to_number(),
        _ => None,
    }
}

fn time_arithmetic(op: BinaryOp, left: &Value, right: &Value) -> Option<Value> {
    use crate::value::{DateTime, TimeSpan};
    if op != BinaryOp::Subtract {
        return None;
    }
    Some(match (left, right) {
        (Value::DateTime(a), Value::DateTime(b)) => {
            Value::TimeSpan(TimeSpan { ms: a.unix_ms.saturating_sub(b.unix_ms) })
        }
        (Value::DateTime(at), Value::TimeSpan(span)) => {
            Value::DateTime(DateTime { unix_ms: at.unix_ms.saturating_sub(span.ms) })
        }
        (Value::TimeSpan(a), Value::TimeSpan(b)) => {
            Value::TimeSpan(TimeSpan { ms: a.ms.saturating_sub(b.ms) })
        }
        _ => return None,
    })
}

fn no_operator(op: BinaryOp, left: &Value, right: &Value) -> ErrorRecord {
    let text = |value: &Value| matches!(value, Value::String(_));
    if let Some(bad) = [left, right].into_iter().find(|value| text(value) && number(value).is_none()) {
        return not_a_number(&format!(
            "Cannot convert value \"{}\" to type \"System.Int32\". Error: \"Input string was not in a correct format.\"",
            bad.to_text()
        ));
    }
    let name = match op {
        BinaryOp::Add => "op_Addition",
        BinaryOp::Subtract => "op_Subtraction",
        BinaryOp::Multiply => "op_Multiply",
        BinaryOp::Divide => "op_Division",
        _ => "op_Modulus",
    };
    let holder = if number(left).is_none() { left } else { right };
    let message = format!(
        "Method invocation failed because [{}] does not contain a method named '{name}'.",
        holder.type_name()
    );
    ErrorRecord::runtime("MethodNotFound", message)
}
