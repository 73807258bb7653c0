//! A piece of source text with its name, and the places in it that messages point to.

use std::sync::Arc;

/// Byte range in a [`Source`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest span that covers both.
    pub fn to(self, other: Span) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// The text of one script. Positions and script blocks share it.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the script file; `None` for a line typed by the user.
    pub name: Option<String>,
    pub text: String,
}

/// Longest source line shown in a message before it is cut, as Windows PowerShell does it.
const LINE_COLUMNS: usize = 69;
const PREFIX_COLUMNS: usize = 12;
const SUFFIX_COLUMNS: usize = 8;

impl Source {
    pub fn new(text: impl Into<String>, name: Option<&str>) -> Arc<Self> {
        Arc::new(Self { name: name.map(str::to_owned), text: text.into() })
    }

    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default()
    }

    /// Line and column of a byte offset, both counted from 1, columns in characters.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// `At line:1 char:7`, the source line and the tildes below the part meant.
    pub fn position_message(&self, span: Span) -> String {
        let (line, column) = self.line_column(span.start);
        let at = format!("{}:{line} char:{column}", self.name.as_deref().unwrap_or("line"));
        let line_start = self.text.get(..span.start).and_then(|t| t.rfind('\n')).map_or(0, |at| at + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let text: Vec<char> =
            rest.split(['\n', '\r']).next().unwrap_or_default().trim_end().chars().collect();
        if text.is_empty() {
            return format!("At {at}");
        }
        let before = (column - 1).min(text.len());
        let wanted = self.slice(span).split('\n').next().unwrap_or_default().trim_end().chars().count();
        let length = wanted.min(text.len() - before);
        let (shown, indent, length) = cut_line(&text, before, length);
        let tildes = "~".repeat(length.max(1));
        format!("At {at}\n+ {shown}\n+ {}{tildes}", " ".repeat(indent))
    }
}

/// Cuts a long line around the part meant: the text shown, the indent of the tildes and how many.
fn cut_line(text: &[char], before: usize, mut length: usize) -> (String, usize, usize) {
    let tabs_as_spaces = |c: &char| if *c == '\t' { ' ' } else { *c };
    if text.len() <= LINE_COLUMNS {
        return (text.iter().map(tabs_as_spaces).collect(), before, length);
    }
    let after = text.len() - before - length;
    let mut prefix = before.min(PREFIX_COLUMNS);
    let mut suffix = after.min(SUFFIX_COLUMNS);
    if prefix + length + suffix >= LINE_COLUMNS {
        length = length.min(LINE_COLUMNS - prefix);
        suffix = suffix.min(LINE_COLUMNS - prefix - length);
    } else {
        prefix += (before - prefix).min(LINE_COLUMNS - prefix - length - suffix);
        suffix += (after - suffix).min(LINE_COLUMNS - prefix - length - suffix);
    }
    let start = before - prefix;
    let end = (before + length + suffix).min(text.len());
    let mut shown: String = text[start..end].iter().map(tabs_as_spaces).collect();
    let mut indent = prefix;
    if start > 0 {
        shown.insert_str(0, "... ");
        indent += 4;
    }
    if end < text.len() {
        shown.push_str(" ...");
    }
    (shown, indent, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_part_meant() {
        let source = Source::new("Get-VM;\n  Get-Foo -X 1\n", None);
        let start = source.text.find("Get-Foo").unwrap();
        assert_eq!(
            source.position_message(Span::new(start, start + 7)),
            "At line:2 char:3\n+   Get-Foo -X 1\n+   ~~~~~~~"
        );
    }

    #[test]
    fn cuts_long_lines_as_powershell_does() {
        let text = "Get-VMNetworkAdapter -VMname Server2016 | Set-VMNetworkAdapter -MacAddressSpoofing On";
        let source = Source::new(text, Some("/tmp/a.ps1"));
        let start = text.find("Set-").unwrap();
        assert_eq!(
            source.position_message(Span::new(start, text.len())),
            "At /tmp/a.ps1:1 char:43\n+ ... pter -VMname Server2016 | Set-VMNetworkAdapter -MacAddressSpoofing On\n\
             +                               ~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~"
        );
    }

    #[test]
    fn any_span_is_harmless() {
        let source = Source::new("é“x”\n\n", None);
        for start in 0..12 {
            for end in start..12 {
                source.position_message(Span::new(start, end));
            }
        }
    }
}
