//! Conversions between types, with the words PowerShell has for those that fail.

use super::{Object, TimeSpan, Value};
use crate::lang::ast::CastType;

/// A value that is not what is wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cannot convert value \"{value}\" to type \"{wanted}\". Error: \"{reason}\"")]
pub struct ConversionError {
    pub value: String,
    pub wanted: &'static str,
    pub reason: &'static str,
}

fn refuse(value: &Value, wanted: &'static str, reason: &'static str) -> ConversionError {
    ConversionError { value: value.to_text(), wanted, reason }
}

const NOT_A_NUMBER: &str = "Input string was not in a correct format.";
const TOO_LARGE: &str = "Value was either too large or too small for an Int64.";

impl Value {
    /// The number that the value is or says; `None` if it is none.
    pub fn to_number(&self) -> Option<Value> {
        Some(match self {
            Value::Null => Value::Int(0),
            Value::Bool(b) => Value::Int(i64::from(*b)),
            Value::Int(_) | Value::Float(_) => self.clone(),
            Value::Enum(e) => Value::Int(e.number),
            Value::String(text) => {
                let text = text.trim();
                match crate::lang::number_from_text(text) {
                    _ if text.is_empty() => Value::Int(0),
                    number => number?,
                }
            }
            _ => return None,
        })
    }

    pub fn to_float(&self) -> Option<f64> {
        match self.to_number()? {
            Value::Int(n) => Some(n as f64),
            Value::Float(n) => Some(n),
            _ => None,
        }
    }

    /// A whole number; fractions are rounded to even, as .NET does.
    pub fn to_int(&self) -> Result<i64, ConversionError> {
        const WANTED: &str = "System.Int64";
        match self.to_number() {
            Some(Value::Int(n)) => Ok(n),
            Some(Value::Float(n)) if n.is_finite() && n.abs() < 9.2e18 => Ok(n.round_ties_even() as i64),
            Some(Value::Float(_)) => Err(refuse(self, WANTED, TOO_LARGE)),
            _ => Err(refuse(self, WANTED, NOT_A_NUMBER)),
        }
    }

    pub fn to_time_span(&self) -> Option<TimeSpan> {
        match self {
            Value::TimeSpan(span) => Some(*span),
            Value::String(text) => TimeSpan::parse(text.trim()),
            _ => None,
        }
    }

    /// `[type]value`
    pub fn cast(self, to: CastType) -> Result<Value, ConversionError> {
        Ok(match to {
            CastType::Int => Value::Int(self.to_int()?),
            CastType::Float => match self.to_float() {
                Some(n) => Value::Float(n),
                None => return Err(refuse(&self, "System.Double", NOT_A_NUMBER)),
            },
            CastType::String => Value::String(self.to_text()),
            CastType::Bool => Value::Bool(self.is_true()),
            CastType::Array => Value::Array(self.into_items()),
            CastType::Ordered => self,
            CastType::Object => match self {
                Value::Hashtable(table) => {
                    let mut object = Object::custom();
                    for (key, value) in table.iter() {
                        object.set(key.to_text(), value.clone());
                    }
                    Value::Object(object)
                }
                value => value,
            },
        })
    }
}
