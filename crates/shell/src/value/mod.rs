//! Values that flow through a pipeline.
//!
//! A value is a tree without cycles and with limited depth ([`MAX_DEPTH`]), copied on assignment: no two names
//! ever share one, so nothing can change behind anyone's back.

mod convert;
mod display;
mod json;
mod object;
mod time;

pub use convert::ConversionError;
pub use display::format_float;
pub use object::{Hashtable, Object};
pub use time::{DateTime, TimeSpan};

use crate::lang::Source;
use crate::lang::ast::Block;
use std::borrow::Cow;
use std::sync::Arc;

/// How deep arrays and objects may be nested in one another.
pub const MAX_DEPTH: usize = 64;

#[derive(Clone, Debug, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(String),
    DateTime(DateTime),
    TimeSpan(TimeSpan),
    Enum(EnumValue),
    Array(Vec<Value>),
    Hashtable(Hashtable),
    ScriptBlock(ScriptBlock),
    Object(Object),
    /// What a Format cmdlet made: laid out when the width is known.
    Formatted(Arc<crate::format::Layout>),
}

/// A named constant: shown by name, a number in JSON and in comparisons with numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumValue {
    pub name: Cow<'static, str>,
    pub number: i64,
}

/// `{ ... }` as a value: the parsed body and the text it came from.
#[derive(Clone, Debug)]
pub struct ScriptBlock {
    pub body: Arc<Block>,
    pub source: Arc<Source>,
}

impl ScriptBlock {
    /// The text between the braces.
    pub fn text(&self) -> &str {
        self.source.slice(self.body.span)
    }
}

impl Value {
    pub fn string(text: impl Into<String>) -> Self {
        Value::String(text.into())
    }

    /// An enumeration's member.
    pub fn member(name: impl Into<Cow<'static, str>>, number: i64) -> Self {
        Value::Enum(EnumValue { name: name.into(), number })
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// What a condition takes the value for.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::String(s) => !s.is_empty(),
            Value::Enum(e) => e.number != 0,
            Value::Array(items) => match items.as_slice() {
                [] => false,
                [one] => one.is_true(),
                _ => true,
            },
            _ => true,
        }
    }

    /// A pipeline's results as one value: nothing, the one, or an array.
    pub fn from_results(mut results: Vec<Value>) -> Self {
        match results.len() {
            0 => Value::Null,
            1 => results.swap_remove(0),
            _ => Value::Array(results),
        }
    }

    /// The items of an array, or the value alone.
    pub fn into_items(self) -> Vec<Value> {
        match self {
            Value::Array(items) => items,
            value => vec![value],
        }
    }

    /// How deep the value is nested, counted up to just over [`MAX_DEPTH`].
    pub fn depth(&self) -> usize {
        fn deepest<'a>(items: impl Iterator<Item = &'a Value>, left: usize) -> usize {
            items.map(|item| measure(item, left)).max().unwrap_or(0)
        }
        fn measure(value: &Value, left: usize) -> usize {
            if left == 0 {
                return 1;
            }
            match value {
                Value::Array(items) => 1 + deepest(items.iter(), left - 1),
                Value::Hashtable(table) => 1 + deepest(table.iter().map(|(_, v)| v), left - 1),
                Value::Object(object) => 1 + deepest(object.iter().map(|(_, v)| v), left - 1),
                _ => 1,
            }
        }
        measure(self, MAX_DEPTH + 1)
    }

    /// The property of that name, as `.name` reads it.
    pub fn member_value(&self, name: &str) -> Value {
        let own = match self {
            Value::Object(object) => object.get(name).cloned(),
            Value::Hashtable(table) => table.member(name),
            Value::String(text) if name.eq_ignore_ascii_case("Length") => {
                Some(Value::Int(text.chars().count() as i64))
            }
            Value::DateTime(at) => at.member(name),
            Value::TimeSpan(span) => span.member(name),
            Value::Enum(e) if name.eq_ignore_ascii_case("value__") => Some(Value::Int(e.number)),
            Value::Array(items) => {
                if name.eq_ignore_ascii_case("Count") || name.eq_ignore_ascii_case("Length") {
                    return Value::Int(items.len() as i64);
                }
                let found =
                    items.iter().map(|item| item.member_value(name)).filter(|v| !v.is_null()).collect();
                return Value::from_results(found);
            }
            _ => None,
        };
        match own {
            Some(value) => value,
            // Every single value answers to Count, so that scripts need not ask how many there are.
            None if name.eq_ignore_ascii_case("Count") || name.eq_ignore_ascii_case("Length") => {
                Value::Int(i64::from(!self.is_null()))
            }
            None => Value::Null,
        }
    }

    /// Names of the value's properties, in order.
    pub fn property_names(&self) -> Vec<String> {
        match self {
            Value::Object(object) => object.iter().map(|(name, _)| name.to_owned()).collect(),
            Value::Hashtable(table) => table.iter().map(|(key, _)| key.to_text()).collect(),
            Value::String(_) => vec!["Length".to_owned()],
            Value::DateTime(_) => DateTime::MEMBERS.iter().map(|m| (*m).to_owned()).collect(),
            Value::TimeSpan(_) => TimeSpan::MEMBERS.iter().map(|m| (*m).to_owned()).collect(),
            _ => Vec::new(),
        }
    }

    /// .NET's name for the type, as PowerShell's messages print it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "System.Boolean",
            Value::Int(n) if i32::try_from(*n).is_ok() => "System.Int32",
            Value::Int(_) => "System.Int64",
            Value::Float(_) => "System.Double",
            Value::String(_) => "System.String",
            Value::DateTime(_) => "System.DateTime",
            Value::TimeSpan(_) => "System.TimeSpan",
            Value::Enum(_) => "System.Enum",
            Value::Array(_) => "System.Object[]",
            Value::Hashtable(_) => "System.Collections.Hashtable",
            Value::ScriptBlock(_) => "System.Management.Automation.ScriptBlock",
            Value::Object(object) => object.type_name(),
            Value::Formatted(_) => "Microsoft.PowerShell.Commands.Internal.Format.FormatEntryData",
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::String(text)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Value::Array(items)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Value::Object(object)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}
