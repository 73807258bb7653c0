//! The view an object gets when nobody says which.

use super::{Align, Layout, List, Table, TableColumn, View};
use crate::value::{Object, Value};

/// Objects with more properties than this become a list.
const TABLE_PROPERTIES_MAX: usize = 4;

/// Whether a column of such values is flush right.
pub(crate) fn cell_alignment(value: &Value) -> Align {
    match value {
        Value::Int(_) | Value::Float(_) => Align::Right,
        _ => Align::Left,
    }
}

/// What objects must have in common to stand in one table; `None` for what is printed as plain lines.
pub(crate) fn shape_of(value: &Value, view: Option<&View>) -> Option<String> {
    match value {
        Value::Hashtable(_) => Some("hashtable".to_owned()),
        Value::Object(object) if view.is_some() => Some(object.type_name().to_owned()),
        Value::Object(object) if object.is_empty() => None,
        Value::Object(object) => {
            let names: Vec<&str> = object.iter().map(|(name, _)| name).collect();
            Some(format!("{}:{}", object.type_name(), names.join(",")))
        }
        _ => None,
    }
}

/// The default layout of objects of one shape.
pub(crate) fn default_layout(values: &[Value], view: Option<&'static View>) -> Layout {
    if let [Value::Hashtable(_), ..] = values {
        return hashtables(values);
    }
    let objects: Vec<&Object> = values.iter().filter_map(object_of).collect();
    match view {
        Some(view) if !view.columns.is_empty() => Layout::Table(view_table(&objects, view)),
        Some(view) if !view.list.is_empty() => list_of(&objects, |object| {
            view.list.iter().map(|name| (*name, object.get(name).cloned().unwrap_or_default())).collect()
        }),
        None if objects.first().is_some_and(|first| first.len() <= TABLE_PROPERTIES_MAX) => {
            Layout::Table(plain_table(&objects))
        }
        _ => list_of(&objects, |object| object.iter().map(|(name, value)| (name, value.clone())).collect()),
    }
}

fn object_of(value: &Value) -> Option<&Object> {
    match value {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

/// A view's columns as those of a table: as wide as their contents unless the view says.
pub(crate) fn view_columns(view: &View) -> Vec<TableColumn> {
    let column =
        |c: &super::Column| TableColumn { header: c.header.to_owned(), align: c.align, width: c.width };
    view.columns.iter().map(column).collect()
}

fn view_table(objects: &[&Object], view: &View) -> Table {
    let rows = objects.iter().map(|o| view.columns.iter().map(|c| c.of(o).to_display()).collect()).collect();
    let auto_size = view.columns.iter().all(|column| column.width.is_none());
    Table { columns: view_columns(view), rows, auto_size, ..Table::default() }
}

fn plain_table(objects: &[&Object]) -> Table {
    let Some(first) = objects.first() else { return Table::default() };
    let columns = first
        .iter()
        .map(|(name, value)| TableColumn {
            header: name.to_owned(),
            align: cell_alignment(value),
            width: None,
        })
        .collect();
    let rows = objects.iter().map(|o| o.iter().map(|(_, value)| value.to_display()).collect()).collect();
    Table { columns, rows, ..Table::default() }
}

fn list_of<'a>(objects: &[&'a Object], fields: impl Fn(&'a Object) -> Vec<(&'a str, Value)>) -> Layout {
    let entry = |object: &&'a Object| {
        fields(object).into_iter().map(|(name, value)| (name.to_owned(), value.to_display())).collect()
    };
    Layout::List(List { entries: objects.iter().map(entry).collect() })
}

/// The two columns of a hashtable.
fn hashtables(values: &[Value]) -> Layout {
    let column = |header: &str, width| TableColumn { header: header.to_owned(), align: Align::Left, width };
    let tables = values.iter().filter_map(|value| match value {
        Value::Hashtable(table) => Some(table),
        _ => None,
    });
    let rows = tables
        .flat_map(|t| t.iter().map(|(key, value)| vec![key.to_display(), value.to_display()]))
        .collect();
    let columns = vec![column("Name", Some(30)), column("Value", None)];
    Layout::Table(Table { columns, rows, ..Table::default() })
}
