//! Values to JSON and back, by the rules of ConvertTo-Json and ConvertFrom-Json.

use super::{Object, Value};
use serde_json::{Map, Number, Value as Json};

impl Value {
    /// JSON of the value; what is nested deeper than `depth` becomes text.
    pub fn to_json(&self, depth: usize) -> Json {
        match self {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::Number((*n).into()),
            Value::Float(n) => {
                Number::from_f64(*n).map_or_else(|| Json::String(self.to_text()), Json::Number)
            }
            Value::Enum(e) => Json::Number(e.number.into()),
            Value::DateTime(at) => Json::String(at.to_iso()),
            Value::Array(items) if depth > 0 || items.is_empty() => {
                Json::Array(items.iter().map(|item| item.to_json(depth.saturating_sub(1))).collect())
            }
            Value::Hashtable(table) if depth > 0 => Json::Object(
                table.iter().map(|(key, value)| (key.to_text(), value.to_json(depth - 1))).collect(),
            ),
            Value::Object(object) if depth > 0 => Json::Object(
                object
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.to_json(depth - 1)))
                    .collect::<Map<_, _>>(),
            ),
            value => Json::String(value.to_text()),
        }
    }

    pub fn from_json(json: Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(b),
            Json::Number(n) => {
                n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int)
            }
            Json::String(s) => Value::String(s),
            Json::Array(items) => Value::Array(items.into_iter().map(Value::from_json).collect()),
            Json::Object(fields) => {
                let mut object = Object::custom();
                for (name, value) in fields {
                    object.set(name, Value::from_json(value));
                }
                Value::Object(object)
            }
        }
    }
}
