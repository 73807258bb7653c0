//! What `-Property` takes: names, patterns, blocks and calculated properties `@{n='x'; e={ ... }}`.

use crate::eval::Wildcard;
use crate::format::Align;
use crate::frame::{Call, Category, Context, ErrorRecord, Flow};
use crate::value::{Hashtable, Object, ScriptBlock, Value};

/// One entry of `-Property`.
pub(super) struct Property {
    pub label: Option<String>,
    pub source: Source,
    pub width: Option<usize>,
    pub align: Option<Align>,
    pub format: Option<String>,
    /// For Sort-Object: this key the other way round.
    pub descending: Option<bool>,
}

pub(super) enum Source {
    Name(String),
    Pattern(Wildcard),
    Block(ScriptBlock),
}

/// A property read from an object.
pub(super) struct Read {
    pub name: String,
    pub value: Value,
}

fn refuse(id: &'static str, message: String) -> ErrorRecord {
    ErrorRecord::new(Category::InvalidArgument, "NotSupportedException", id, message)
}

impl Property {
    fn plain(source: Source) -> Self {
        Self { label: None, source, width: None, align: None, format: None, descending: None }
    }

    pub(super) fn new(value: &Value) -> Result<Self, ErrorRecord> {
        match value {
            Value::Hashtable(table) => Self::calculated(table),
            Value::ScriptBlock(block) => Ok(Self::plain(Source::Block(block.clone()))),
            other => Ok(Self::named(&other.to_text())),
        }
    }

    fn named(name: &str) -> Self {
        Self::plain(match Wildcard::is_pattern(name) {
            true => Source::Pattern(Wildcard::new(name)),
            false => Source::Name(name.to_owned()),
        })
    }

    fn calculated(table: &Hashtable) -> Result<Self, ErrorRecord> {
        const KEYS: &[&str] =
            &["name", "label", "expression", "width", "alignment", "formatstring", "descending", "ascending"];
        let mut property: Option<Source> = None;
        let mut result = Self::plain(Source::Name(String::new()));
        for (key, value) in table.iter() {
            let text = key.to_text().to_lowercase();
            let known: Vec<&&str> =
                KEYS.iter().filter(|k| !text.is_empty() && k.starts_with(&text)).collect();
            match known.first() {
                Some(&&"name" | &&"label") => result.label = Some(value.to_text()),
                Some(&&"expression") => property = Some(Self::new(value)?.source),
                Some(&&"width") => {
                    result.width = usize::try_from(value.to_int().unwrap_or(0)).ok().filter(|w| *w > 0);
                }
                Some(&&"alignment") => {
                    result.align = match value.to_text().to_ascii_lowercase().as_str() {
                        "right" => Some(Align::Right),
                        "left" => Some(Align::Left),
                        other => {
                            return Err(refuse(
                                "AlignmentNotSupported",
                                format!("The alignment '{other}' is not supported; use left or right."),
                            ));
                        }
                    };
                }
                Some(&&"formatstring") => result.format = Some(value.to_text()),
                Some(&&"descending") => result.descending = Some(value.is_true()),
                Some(&&"ascending") => result.descending = Some(!value.is_true()),
                _ => {
                    return Err(refuse(
                        "DictionaryKeyUnknown",
                        format!("The {} key is not valid.", key.to_text()),
                    ));
                }
            }
        }
        result.source = match (property, &result.label) {
            (Some(source), _) => source,
            (None, Some(label)) => Source::Name(label.clone()),
            (None, None) => {
                return Err(refuse(
                    "DictionaryKeyMissingExpression",
                    "The expression key is missing from a calculated property.".to_owned(),
                ));
            }
        };
        Ok(result)
    }

    /// All entries of a parameter.
    pub(super) fn list(values: &[Value]) -> Result<Vec<Self>, ErrorRecord> {
        values.iter().map(Self::new).collect()
    }

    /// The properties of `value` that this entry means.
    pub(super) async fn read<C: Context>(
        &self,
        call: &mut Call<'_, C>,
        value: &Value,
    ) -> Result<Vec<Read>, Flow> {
        let one = |name: &str, found: Value| Read {
            name: self.label.clone().unwrap_or_else(|| name.to_owned()),
            value: found,
        };
        Ok(match &self.source {
            Source::Name(name) => {
                let own = value.property_names().into_iter().find(|own| own.eq_ignore_ascii_case(name));
                vec![one(own.as_deref().unwrap_or(name), value.member_value(name))]
            }
            Source::Pattern(pattern) => {
                let names = value.property_names().into_iter().filter(|name| pattern.matches(name));
                names.map(|name| Read { value: value.member_value(&name), name }).collect()
            }
            Source::Block(block) => {
                let result = Value::from_results(call.invoke(block, value.clone()).await?);
                vec![one(block.text(), result)]
            }
        })
    }

    /// The single value that this entry means, for sorting and measuring.
    pub(super) async fn value<C: Context>(&self, call: &mut Call<'_, C>, of: &Value) -> Result<Value, Flow> {
        let read = self.read(call, of).await?;
        Ok(read.into_iter().next().map(|read| read.value).unwrap_or_default())
    }

    /// The text of a cell.
    pub(super) fn cell(&self, value: &Value) -> Result<String, ErrorRecord> {
        match &self.format {
            Some(format) => crate::eval::format_value(value, format),
            None => Ok(value.to_display()),
        }
    }
}

/// An object as properties; a hashtable's entries, a plain value itself.
pub(super) fn as_object(value: &Value) -> Option<Object> {
    match value {
        Value::Object(object) => Some(object.clone()),
        Value::Hashtable(table) => Some(table.to_object()),
        _ => None,
    }
}
