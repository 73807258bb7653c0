//! Objects to text: default views, tables, lists, and the console that puts them out in order.

mod console;
mod default;
mod list;
mod table;

pub(crate) use console::Console;
pub use console::{Answer, Output};
pub(crate) use default::{cell_alignment, default_layout, shape_of, view_columns};
pub use list::List;
pub use table::{Table, TableColumn};

use crate::value::{Object, Value};

/// Width used when nobody knows better.
pub const DEFAULT_WIDTH: usize = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Align {
    #[default]
    Left,
    Right,
}

/// Where a column's text comes from.
#[derive(Clone, Copy)]
pub enum ColumnValue {
    Property(&'static str),
    Compute(fn(&Object) -> Value),
}

/// A column of a default table.
#[derive(Clone, Copy)]
pub struct Column {
    pub header: &'static str,
    pub value: ColumnValue,
    pub align: Align,
    /// A fixed width; `None` is as wide as its contents.
    pub width: Option<usize>,
}

impl Column {
    pub const fn property(name: &'static str) -> Self {
        Self { header: name, value: ColumnValue::Property(name), align: Align::Left, width: None }
    }

    pub const fn computed(header: &'static str, compute: fn(&Object) -> Value) -> Self {
        Self { header, value: ColumnValue::Compute(compute), align: Align::Left, width: None }
    }

    #[must_use]
    pub const fn right(mut self) -> Self {
        self.align = Align::Right;
        self
    }

    #[must_use]
    pub const fn width(mut self, columns: usize) -> Self {
        self.width = Some(columns);
        self
    }

    pub(crate) fn of(&self, object: &Object) -> Value {
        match self.value {
            ColumnValue::Property(name) => object.get(name).cloned().unwrap_or_default(),
            ColumnValue::Compute(compute) => compute(object),
        }
    }
}

/// How objects of a type are shown when nobody says how.
pub struct View {
    pub type_name: &'static str,
    /// Columns of the default table; none means a list by default.
    pub columns: &'static [Column],
    /// Properties of the default list; none means all.
    pub list: &'static [&'static str],
}

/// What a Format cmdlet made: cells as text, widths still open.
#[derive(Clone, Debug)]
pub enum Layout {
    Table(Table),
    List(List),
}

impl Layout {
    /// The lines, each with its line end, without the blank lines around.
    pub fn render(&self, width: usize) -> String {
        match self {
            Layout::Table(table) => {
                let widths = table.widths(width);
                table.header_text(&widths) + &table.rows_text(&widths)
            }
            Layout::List(list) => list.text(width),
        }
    }
}

#[cfg(test)]
mod tests;
