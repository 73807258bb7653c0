//! The end of every pipeline: prints objects in their views and keeps output, talk and errors in order.

use super::{Layout, View, default_layout, shape_of};
use crate::value::Value;
use std::collections::HashMap;

/// What a user says to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Yes,
    YesToAll,
    No,
}

/// Where text goes. Data and talk are apart, as on standard output and standard error.
pub trait Output: Send {
    fn data(&mut self, text: &str);
    fn talk(&mut self, text: &str);
    /// Columns of a line.
    fn width(&self) -> usize;
    /// Asks the user; `None` if there is no one to ask.
    fn confirm(&mut self, question: &str) -> Option<Answer>;
}

/// A table that later rows of the same shape may continue.
struct OpenTable {
    shape: String,
    widths: Vec<usize>,
}

pub(crate) struct Console {
    output: Box<dyn Output>,
    views: HashMap<&'static str, &'static View>,
    /// Objects of the current statement.
    pending: Vec<Value>,
    open: Option<OpenTable>,
    /// Something was printed that wants a blank line after it.
    in_group: bool,
}

impl Console {
    pub(crate) fn new(output: Box<dyn Output>, views: HashMap<&'static str, &'static View>) -> Self {
        Self { output, views, pending: Vec::new(), open: None, in_group: false }
    }

    pub(crate) fn width(&self) -> usize {
        self.output.width().max(10)
    }

    pub(crate) fn view(&self, value: &Value) -> Option<&'static View> {
        match value {
            Value::Object(object) => self.views.get(object.type_name()).copied(),
            _ => None,
        }
    }

    pub(crate) fn emit(&mut self, value: Value) {
        self.pending.push(value);
    }

    /// Prints what is waiting.
    pub(crate) fn flush(&mut self) {
        for (layout, shape) in self.groups() {
            match layout {
                Group::Line(text) => {
                    self.end_group();
                    self.output.data(&text);
                }
                Group::Layout(layout) => self.print(&layout, shape),
            }
        }
    }

    /// The text of values as [`flush`](Self::flush) would print them, for Out-String.
    pub(crate) fn text_of(&self, values: Vec<Value>, width: usize) -> String {
        let mut text = String::new();
        for (group, _) in grouped(values, |value| self.view(value)) {
            match group {
                Group::Line(line) => text.push_str(&line),
                Group::Layout(layout) => text.push_str(&format!("\n{}\n", layout.render(width))),
            }
        }
        text
    }

    fn groups(&mut self) -> Vec<(Group, Option<String>)> {
        let pending = std::mem::take(&mut self.pending);
        grouped(pending, |value| self.view(value))
    }

    fn print(&mut self, layout: &Layout, shape: Option<String>) {
        let width = self.width();
        if let (Layout::Table(table), Some(shape), Some(open)) = (layout, &shape, &self.open)
            && open.shape == *shape
            && table.fits(&open.widths)
        {
            let text = table.rows_text(&open.widths);
            self.output.data(&text);
            return;
        }
        self.end_group();
        self.output.data(&format!("\n{}", layout.render(width)));
        self.in_group = true;
        if let (Layout::Table(table), Some(shape)) = (layout, shape) {
            self.open = Some(OpenTable { shape, widths: table.widths(width) });
        }
    }

    fn end_group(&mut self) {
        self.open = None;
        if std::mem::take(&mut self.in_group) {
            self.output.data("\n");
        }
    }

    /// Prints everything and ends the last table.
    pub(crate) fn close(&mut self) {
        self.flush();
        self.end_group();
    }

    /// Text for the user in the place where it stands among the data.
    pub(crate) fn host(&mut self, text: &str) {
        self.close();
        self.output.data(text);
    }

    pub(crate) fn talk(&mut self, text: &str) {
        self.close();
        self.output.talk(text);
    }

    pub(crate) fn error(&mut self, text: &str) {
        self.talk(&format!("{text}\n\n"));
    }

    pub(crate) fn confirm(&mut self, question: &str) -> Option<Answer> {
        self.close();
        self.output.confirm(question)
    }

    /// Drops what a cancelled run left.
    pub(crate) fn discard(&mut self) {
        self.pending.clear();
        self.open = None;
        self.in_group = false;
    }
}

enum Group {
    Line(String),
    Layout(std::sync::Arc<Layout>),
}

/// Runs of values that belong together, each laid out.
fn grouped(
    values: Vec<Value>,
    view: impl Fn(&Value) -> Option<&'static View>,
) -> Vec<(Group, Option<String>)> {
    let mut groups = Vec::new();
    let mut run: Vec<Value> = Vec::new();
    let mut run_shape: Option<String> = None;
    let finish = |run: &mut Vec<Value>, shape: &mut Option<String>, groups: &mut Vec<_>| {
        if let Some(first) = run.first() {
            let layout = default_layout(run, view(first));
            groups.push((Group::Layout(std::sync::Arc::new(layout)), shape.take()));
            run.clear();
        }
    };
    for value in values {
        let shape = shape_of(&value, view(&value));
        if shape != run_shape || shape.is_none() {
            finish(&mut run, &mut run_shape, &mut groups);
        }
        match value {
            Value::Null => {}
            Value::Formatted(layout) => groups.push((Group::Layout(layout), None)),
            value if shape.is_some() => {
                run.push(value);
                run_shape = shape;
            }
            Value::Array(items) if !items.is_empty() => {
                let text = items.iter().map(|item| format!("{}\n", item.to_display())).collect();
                groups.push((Group::Line(text), None));
            }
            value => groups.push((Group::Line(format!("{}\n", value.to_display())), None)),
        }
    }
    finish(&mut run, &mut run_shape, &mut groups);
    groups
}
