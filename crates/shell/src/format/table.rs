//! Tables, with the widths that Windows PowerShell would choose.

use super::Align;

#[derive(Clone, Debug)]
pub struct TableColumn {
    pub header: String,
    pub align: Align,
    pub width: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Table {
    pub columns: Vec<TableColumn>,
    pub rows: Vec<Vec<String>>,
    /// Columns as wide as their contents; otherwise those without a width share the line.
    pub auto_size: bool,
    pub wrap: bool,
    pub hide_headers: bool,
}

fn columns_of(text: &str) -> usize {
    text.chars().count()
}

/// Cells are one line each: what would break the table is shown as a space.
fn one_line(text: &str) -> String {
    text.replace("\r\n", " ").replace(['\r', '\n', '\t'], " ")
}

impl Table {
    /// Column widths within `width`; columns that find no room are left out at the end.
    pub(crate) fn widths(&self, width: usize) -> Vec<usize> {
        let mut widths: Vec<Option<usize>> =
            (0..self.columns.len()).map(|index| self.wanted_width(index)).collect();
        let used: usize =
            widths.iter().map(|w| w.unwrap_or(1)).sum::<usize>() + widths.len().saturating_sub(1);
        let open = widths.iter().filter(|w| w.is_none()).count();
        if let Some(spare) = width.checked_sub(used).filter(|_| open > 0) {
            let mut extra = spare % open;
            for slot in widths.iter_mut().filter(|w| w.is_none()) {
                *slot = Some(1 + spare / open + usize::from(extra > 0));
                extra = extra.saturating_sub(1);
            }
        }
        let mut widths: Vec<usize> = widths.into_iter().map(|w| w.unwrap_or(1)).collect();
        loop {
            let total = widths.iter().sum::<usize>() + widths.len().saturating_sub(1);
            let (Some(excess), Some(last)) = (total.checked_sub(width), widths.last_mut()) else {
                return widths;
            };
            match last.checked_sub(excess) {
                Some(rest) if rest >= 1 => {
                    *last = rest;
                    return widths;
                }
                _ => {
                    widths.pop();
                }
            }
        }
    }

    fn wanted_width(&self, index: usize) -> Option<usize> {
        let column = &self.columns[index];
        if !self.auto_size {
            return column.width;
        }
        let cells = self.rows.iter().filter_map(|row| row.get(index)).map(|cell| columns_of(&one_line(cell)));
        let header = if self.hide_headers { 0 } else { columns_of(&column.header) };
        Some(cells.max().unwrap_or(0).max(header).max(1))
    }

    pub(crate) fn header_text(&self, widths: &[usize]) -> String {
        if self.hide_headers {
            return String::new();
        }
        let headers: Vec<String> = self.columns.iter().map(|column| column.header.clone()).collect();
        let shown = headers.iter().zip(widths).map(|(header, width)| columns_of(header).min(*width));
        let dashes: Vec<String> = shown.map(|count| "-".repeat(count)).collect();
        self.line(&headers, widths) + &self.line(&dashes, widths)
    }

    pub(crate) fn rows_text(&self, widths: &[usize]) -> String {
        self.rows
            .iter()
            .map(|row| if self.wrap { self.wrapped(row, widths) } else { self.line(row, widths) })
            .collect()
    }

    /// Whether the cells of another table fit these widths, so that it can go on below.
    pub(crate) fn fits(&self, widths: &[usize]) -> bool {
        widths.len() == self.columns.len()
            && self
                .rows
                .iter()
                .all(|row| row.iter().zip(widths).all(|(cell, w)| columns_of(&one_line(cell)) <= *w))
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, width) in widths.iter().enumerate() {
            if index > 0 {
                line.push(' ');
            }
            let align = self.columns[index].align;
            let text = cut(&one_line(cells.get(index).map_or("", String::as_str)), *width, align);
            match align {
                Align::Left => line.push_str(&format!("{text:<width$}")),
                Align::Right => line.push_str(&format!("{text:>width$}")),
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }

    fn wrapped(&self, cells: &[String], widths: &[usize]) -> String {
        let pieces: Vec<Vec<String>> =
            cells.iter().zip(widths).map(|(cell, width)| wrap(&one_line(cell), *width)).collect();
        let height = pieces.iter().map(Vec::len).max().unwrap_or(0);
        let row = |at: usize| -> Vec<String> {
            pieces.iter().map(|lines| lines.get(at).cloned().unwrap_or_default()).collect()
        };
        (0..height).map(|at| self.line(&row(at), widths)).collect()
    }
}

/// A text too long for its column loses its end, a number its start.
fn cut(text: &str, width: usize, align: Align) -> String {
    let count = columns_of(text);
    if count <= width {
        return text.to_owned();
    }
    if width <= 3 {
        return ".".repeat(width);
    }
    match align {
        Align::Left => text.chars().take(width - 3).chain("...".chars()).collect(),
        Align::Right => "...".chars().chain(text.chars().skip(count - (width - 3))).collect(),
    }
}

/// Lines of at most `width` columns, broken at spaces where there are any.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut rest: Vec<char> = paragraph.trim_end_matches('\r').chars().collect();
        while rest.len() > width {
            let at = rest[..=width].iter().rposition(|c| *c == ' ').filter(|at| *at > 0);
            let tail = rest.split_off(at.unwrap_or(width));
            lines.push(rest.into_iter().collect());
            rest = tail.into_iter().skip(usize::from(at.is_some())).collect();
        }
        lines.push(rest.into_iter().collect());
    }
    lines
}
