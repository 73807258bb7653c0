//! Lists: one property a line.

use super::table::wrap;

#[derive(Clone, Debug, Default)]
pub struct List {
    /// For each object its names and values.
    pub entries: Vec<Vec<(String, String)>>,
}

impl List {
    pub(crate) fn text(&self, width: usize) -> String {
        let mut text = String::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if index > 0 {
                text.push('\n');
            }
            let label = entry.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
            let room = width.saturating_sub(label + 3).max(1);
            for (name, value) in entry {
                let mut lines = wrap(value, room).into_iter();
                let first = format!("{name:<label$} : {}", lines.next().unwrap_or_default());
                text.push_str(first.trim_end());
                text.push('\n');
                for line in lines {
                    text.push_str(format!("{:label$}   {line}", "").trim_end());
                    text.push('\n');
                }
            }
        }
        text
    }
}
