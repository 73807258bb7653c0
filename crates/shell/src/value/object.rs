//! Objects with named properties, and hashtables: ordered, found by name in any case.

use super::Value;
use std::borrow::Cow;

/// The type of objects that a user made or that came from JSON.
pub(crate) const CUSTOM_TYPE: &str = "System.Management.Automation.PSCustomObject";

type Name = Cow<'static, str>;

/// A typed list of properties. The type decides the default view.
#[derive(Clone, Debug)]
pub struct Object {
    type_name: Name,
    properties: Vec<(Name, Value)>,
}

impl Object {
    /// An object of a type that views and parameters know, such as `VirtualMachine`.
    pub fn new(type_name: impl Into<Name>) -> Self {
        Self { type_name: type_name.into(), properties: Vec::new() }
    }

    pub fn custom() -> Self {
        Self::new(CUSTOM_TYPE)
    }

    pub fn type_name(&self) -> &str {
        &self.type_name
    }

    /// Made by a user or from JSON rather than by a cmdlet: shown as `@{name=value}`.
    pub fn is_custom(&self) -> bool {
        self.type_name == CUSTOM_TYPE || self.type_name.starts_with("Selected.")
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.properties.iter().find(|(key, _)| same_name(key, name)).map(|(_, value)| value)
    }

    /// Sets a property, in its old place or at the end.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<Value>) {
        let name = name.into();
        match self.properties.iter_mut().find(|(key, _)| same_name(key, &name)) {
            Some((_, old)) => *old = value.into(),
            None => self.properties.push((name, value.into())),
        }
    }

    /// [`set`](Self::set) for building an object in one expression.
    #[must_use]
    pub fn with(mut self, name: impl Into<Name>, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.properties.iter().map(|(name, value)| (name.as_ref(), value))
    }

    pub fn len(&self) -> usize {
        self.properties.len()
    }

    pub fn is_empty(&self) -> bool {
        self.properties.is_empty()
    }
}

/// `@{ key = value }`, in the order written.
#[derive(Clone, Debug, Default)]
pub struct Hashtable {
    entries: Vec<(Value, Value)>,
}

impl Hashtable {
    pub fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| same_key(k, key)).map(|(_, value)| value)
    }

    pub fn get_text(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| matches!(k, Value::String(k) if same_name(k, key))).map(|(_, v)| v)
    }

    /// Adds an entry; false if the key was there already.
    pub fn insert(&mut self, key: Value, value: Value) -> bool {
        let is_new = self.get(&key).is_none();
        if is_new {
            self.entries.push((key, value));
        }
        is_new
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Value, &Value)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn member(&self, name: &str) -> Option<Value> {
        if let Some(value) = self.get_text(name) {
            return Some(value.clone());
        }
        match name.to_ascii_lowercase().as_str() {
            "count" => Some(Value::Int(self.entries.len() as i64)),
            "keys" => Some(Value::Array(self.entries.iter().map(|(key, _)| key.clone()).collect())),
            "values" => Some(Value::Array(self.entries.iter().map(|(_, value)| value.clone()).collect())),
            _ => None,
        }
    }

    /// The entries as properties.
    pub fn to_object(&self) -> Object {
        let mut object = Object::custom();
        for (key, value) in &self.entries {
            object.set(key.to_text(), value.clone());
        }
        object
    }
}

/// Names are alike in any case, as everywhere in PowerShell.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!a.is_ascii() && a.to_lowercase() == b.to_lowercase())
}

fn same_key(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(a), Value::String(b)) => same_name(a, b),
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Enum(a), Value::Enum(b)) => a == b,
        _ => false,
    }
}
