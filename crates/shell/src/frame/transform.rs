//! A value to what its parameter takes, or the refusal in PowerShell's words.

use super::error::{Category, ErrorRecord};
use super::parameter::{EnumType, Kind, Parameter};
use crate::value::{Object, Value};

type Result<T> = std::result::Result<T, ErrorRecord>;

/// Whether an object from the pipeline is of the parameter's own type.
pub(crate) fn fits_exactly(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::String | Kind::Strings => matches!(value, Value::String(_)),
        Kind::Int { .. } | Kind::Ints { .. } => matches!(value, Value::Int(_)),
        Kind::Bool => matches!(value, Value::Bool(_)),
        Kind::TimeSpan => matches!(value, Value::TimeSpan(_)),
        Kind::ScriptBlock => matches!(value, Value::ScriptBlock(_)),
        Kind::Hashtable => matches!(value, Value::Hashtable(_)),
        Kind::Object(name) | Kind::Objects(name) => matches!(value, Value::Object(o) if is_a(o, name)),
        Kind::Enum(_) | Kind::Enums(_) => matches!(value, Value::Enum(_)),
        Kind::Any | Kind::List => true,
        Kind::Switch => false,
    }
}

fn is_a(object: &Object, type_name: &str) -> bool {
    object.type_name().eq_ignore_ascii_case(type_name)
}

pub(crate) fn transform(parameter: &Parameter, value: Value) -> Result<Value> {
    let kind = parameter.kind;
    if kind.is_list() {
        let items = value.into_items();
        if items.is_empty() {
            return Err(invalid(
                "ParameterArgumentValidationErrorEmptyArrayNotAllowed",
                format!(
                    "Cannot bind argument to parameter '{}' because it is an empty array.",
                    parameter.name
                ),
            ));
        }
        let items: Result<Vec<Value>> = items.into_iter().map(|item| single(parameter, item)).collect();
        return items.map(Value::Array);
    }
    single(parameter, value)
}

fn single(parameter: &Parameter, value: Value) -> Result<Value> {
    let name = parameter.name;
    match parameter.kind {
        Kind::Any | Kind::List => Ok(value),
        Kind::Switch | Kind::Bool => boolean(name, &value),
        _ if value.is_null() => Err(invalid(
            "ParameterArgumentValidationErrorNullNotAllowed",
            format!("Cannot bind argument to parameter '{name}' because it is null."),
        )),
        Kind::String | Kind::Strings => text(parameter, value),
        Kind::Int { min, max } | Kind::Ints { min, max } => integer(name, &value, min, max),
        Kind::TimeSpan => match value.to_time_span() {
            Some(span) => Ok(Value::TimeSpan(span)),
            None => Err(cannot_convert(
                name,
                &value,
                "System.TimeSpan",
                "String was not recognized as a valid TimeSpan.",
            )),
        },
        Kind::Enum(members) | Kind::Enums(members) => member(name, &value, members),
        Kind::ScriptBlock if matches!(value, Value::ScriptBlock(_)) => Ok(value),
        Kind::Hashtable if matches!(value, Value::Hashtable(_)) => Ok(value),
        Kind::Object(wanted) | Kind::Objects(wanted) => match &value {
            Value::Object(object) if is_a(object, wanted) => Ok(value),
            _ => Err(wrong_type(name, &value, wanted)),
        },
        Kind::ScriptBlock | Kind::Hashtable => Err(wrong_type(name, &value, parameter.kind.type_name())),
    }
}

fn text(parameter: &Parameter, value: Value) -> Result<Value> {
    let text = match value {
        Value::Array(_) | Value::Hashtable(_) => {
            return Err(conversion(
                parameter.name,
                &format!("Cannot convert value to type {}.", parameter.kind.type_name()),
            ));
        }
        // An object stands for its name, as `-VMName $vm` does on Windows.
        Value::Object(ref object) => object.get("Name").map_or_else(|| value.to_text(), Value::to_text),
        value => value.to_text(),
    };
    if parameter.mandatory && text.is_empty() {
        return Err(invalid(
            "ParameterArgumentValidationErrorEmptyStringNotAllowed",
            format!("Cannot bind argument to parameter '{}' because it is an empty string.", parameter.name),
        ));
    }
    Ok(Value::String(text))
}

fn boolean(name: &str, value: &Value) -> Result<Value> {
    match value {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        Value::Int(n) => Ok(Value::Bool(*n != 0)),
        Value::Float(n) => Ok(Value::Bool(*n != 0.0)),
        other => {
            let message = format!(
                "Cannot process argument transformation on parameter '{name}'. Cannot convert value \"{}\" to type \
                 \"System.Boolean\". Boolean parameters accept only Boolean values and numbers, such as $True, \
                 $False, 1 or 0.",
                other.type_name()
            );
            Err(ErrorRecord::new(
                Category::InvalidData,
                "ParameterBindingArgumentTransformationException",
                "ParameterArgumentTransformationError",
                message,
            ))
        }
    }
}

fn integer(name: &str, value: &Value, min: i64, max: i64) -> Result<Value> {
    let number = match value {
        Value::Array(_) | Value::Object(_) | Value::Hashtable(_) => {
            return Err(wrong_type(name, value, "System.Int64"));
        }
        value => value.to_int().map_err(|e| cannot_convert(name, value, "System.Int64", e.reason))?,
    };
    let (limit, than, word, relation) = if number < min {
        (min, "less", "minimum", "greater")
    } else if number > max {
        (max, "greater", "maximum", "less")
    } else {
        return Ok(Value::Int(number));
    };
    Err(invalid(
        "ParameterArgumentValidationError",
        format!(
            "Cannot validate argument on parameter '{name}'. The {number} argument is {than} than the {word} allowed \
             range of {limit}. Supply an argument that is {relation} than or equal to {limit} and then try the \
             command again."
        ),
    ))
}

fn member(name: &str, value: &Value, members: &EnumType) -> Result<Value> {
    if let Some(found) = members.find(&value.to_text()) {
        return Ok(found);
    }
    let names: Vec<&str> = members.members.iter().map(|(name, _)| *name).collect();
    let text = value.to_text();
    let reason = format!(
        "Unable to match the identifier name {text} to a valid enumerator name. Specify one of the following \
         enumerator names and try again:\n{}",
        names.join(", ")
    );
    Err(cannot_convert(name, value, members.name, &reason))
}

/// `Cannot validate argument on parameter 'X'. ...`, also for checks that a cmdlet makes itself.
pub(crate) fn invalid(id: &'static str, message: String) -> ErrorRecord {
    ErrorRecord::new(Category::InvalidData, "ParameterBindingValidationException", id, message)
}

fn conversion(name: &str, why: &str) -> ErrorRecord {
    ErrorRecord::new(
        Category::InvalidArgument,
        "ParameterBindingException",
        "CannotConvertArgumentNoMessage",
        format!("Cannot bind parameter '{name}'. {why}"),
    )
}

fn cannot_convert(name: &str, value: &Value, wanted: &str, reason: &str) -> ErrorRecord {
    conversion(
        name,
        &format!("Cannot convert value \"{}\" to type \"{wanted}\". Error: \"{reason}\"", value.to_text()),
    )
}

fn wrong_type(name: &str, value: &Value, wanted: &str) -> ErrorRecord {
    let (text, have) = (value.to_text(), value.type_name());
    conversion(name, &format!("Cannot convert the \"{text}\" value of type \"{have}\" to type \"{wanted}\"."))
}
