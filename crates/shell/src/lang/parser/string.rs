//! Strings: quoted with anything that PowerShell takes for a quote, expandable or not, and here-strings.

use super::{Parser, Result};
use crate::lang::ast::{ExprKind, Statement, StringPart};
use crate::lang::chars::{is_double_quote, is_name, is_newline, is_single_quote, is_space};
use crate::lang::source::Span;

/// Collects the parts of an expandable string.
#[derive(Default)]
pub(super) struct Parts {
    parts: Vec<StringPart>,
    text: String,
}

impl Parts {
    pub(super) fn push(&mut self, c: char) {
        self.text.push(c);
    }

    fn part(&mut self, part: StringPart) {
        if !self.text.is_empty() {
            self.parts.push(StringPart::Text(std::mem::take(&mut self.text)));
        }
        self.parts.push(part);
    }

    pub(super) fn append(&mut self, kind: ExprKind) {
        match kind {
            ExprKind::Expandable(parts) => parts.into_iter().for_each(|part| self.part(part)),
            ExprKind::Text(text) => self.text.push_str(&text),
            _ => {}
        }
    }

    pub(super) fn finish(mut self) -> ExprKind {
        if self.parts.is_empty() {
            return ExprKind::Text(self.text);
        }
        if !self.text.is_empty() {
            self.parts.push(StringPart::Text(self.text));
        }
        ExprKind::Expandable(self.parts)
    }
}

impl Parser {
    pub(super) fn single_quoted(&mut self) -> Result<ExprKind> {
        let open = self.at;
        self.bump();
        let mut text = String::new();
        loop {
            match self.bump() {
                None => return Err(self.unterminated('\'', open)),
                Some(c) if is_single_quote(c) => {
                    if !self.peek().is_some_and(is_single_quote) {
                        return Ok(ExprKind::Text(text));
                    }
                    text.extend(self.bump());
                }
                Some(c) => text.push(c),
            }
        }
    }

    pub(super) fn double_quoted(&mut self) -> Result<ExprKind> {
        let open = self.at;
        self.bump();
        let mut parts = Parts::default();
        loop {
            match self.peek() {
                None => return Err(self.unterminated('"', open)),
                Some(c) if is_double_quote(c) => {
                    self.bump();
                    if !self.peek().is_some_and(is_double_quote) {
                        return Ok(parts.finish());
                    }
                    if let Some(quote) = self.bump() {
                        parts.push(quote);
                    }
                }
                Some('`') => {
                    self.escape(&mut parts);
                }
                Some('$') => self.dollar(&mut parts)?,
                Some(c) => {
                    self.bump();
                    parts.push(c);
                }
            }
        }
    }

    fn unterminated(&self, quote: char, open: usize) -> crate::lang::ParseError {
        let length = self.source.text[open..].chars().next().map_or(1, char::len_utf8);
        let message = format!("The string is missing the terminator: {quote}.");
        self.incomplete("TerminatorExpectedAtEndOfString", message, Span::new(open, open + length))
    }

    /// A backtick and the character it changes.
    pub(super) fn escape(&mut self, parts: &mut Parts) {
        self.bump();
        let Some(c) = self.bump() else { return };
        parts.push(match c {
            '0' => '\0',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            c => c,
        });
    }

    /// `$name`, `${name}` or `$( ... )` within a string; any other `$` is itself.
    pub(super) fn dollar(&mut self, parts: &mut Parts) -> Result<()> {
        let start = self.at;
        match self.peek_second() {
            Some('(') => {
                let statements = self.sub_expression()?;
                parts.part(StringPart::SubExpression(statements));
            }
            Some(c) if is_name(c) || matches!(c, '{' | '?') => {
                let name = self.variable()?;
                parts.part(StringPart::Variable(name, self.span_from(start)));
            }
            _ => {
                self.bump();
                parts.push('$');
            }
        }
        Ok(())
    }

    /// `$( statements )`
    pub(super) fn sub_expression(&mut self) -> Result<Vec<Statement>> {
        let open = Span::new(self.at, self.at + 2);
        self.at += 2;
        self.nested(|parser| {
            let statements = parser.statements(Some(')'))?;
            parser.close(')', open)?;
            Ok(statements)
        })
    }

    /// The name of the variable that starts here with `$`.
    pub(super) fn variable(&mut self) -> Result<String> {
        let start = self.at;
        self.bump();
        if self.eat('{') {
            let name = self.take_while(|c| !matches!(c, '}' | '{'));
            let span = self.span_from(start);
            if name.trim().is_empty() || !self.eat('}') {
                let message = "The variable name in braces is empty or not closed.";
                return Err(match self.peek() {
                    None => self.incomplete("IncompleteVariable", message, span),
                    Some(_) => self.error("IncompleteVariable", message, span),
                });
            }
            return self.scoped(name, start);
        }
        if self.eat('?') {
            return Ok("?".to_owned());
        }
        let mut name = self.take_while(is_name);
        if self.peek() == Some(':') && self.peek_second() != Some(':') {
            self.bump();
            let rest = self.take_while(is_name);
            if rest.is_empty() {
                let span = self.span_from(start);
                return Err(self.error(
                    "InvalidVariableReferenceWithDrive",
                    "Variable reference is not valid. ':' was not followed by a valid variable name character. \
                     Consider using ${} to delimit the name.",
                    span,
                ));
            }
            name = format!("{name}:{rest}");
        }
        if name.is_empty() {
            let span = self.span_from(start);
            return Err(self.error("UnexpectedToken", "A variable name is missing after '$'.", span));
        }
        self.scoped(name, start)
    }

    /// Scopes other than `using:` would have to mean something.
    fn scoped(&self, name: String, start: usize) -> Result<String> {
        match name.split_once(':') {
            Some((scope, _)) if !scope.eq_ignore_ascii_case("using") => {
                Err(self.not_supported(&format!("The variable scope '{scope}:' is"), self.span_from(start)))
            }
            _ => Ok(name),
        }
    }

    /// `@"` or `@'` up to a line that begins with the closing quote and `@`.
    pub(super) fn here_string(&mut self) -> Result<ExprKind> {
        let open = self.at;
        self.bump();
        let expandable = self.bump().is_some_and(is_double_quote);
        self.take_while(is_space);
        if !self.peek().is_none_or(is_newline) {
            let message =
                "No characters are allowed after a here-string header but before the end of the line.";
            return Err(self.missing("UnexpectedCharactersAfterHereStringHeader", message));
        }
        self.newline();
        let mut parts = Parts::default();
        let mut line_start = true;
        loop {
            if line_start && self.at_here_end(expandable) {
                self.bump();
                self.bump();
                return Ok(parts.without_last_newline().finish());
            }
            line_start = self.peek().is_some_and(is_newline);
            match self.peek() {
                None => return Err(self.unterminated(if expandable { '"' } else { '\'' }, open)),
                Some('`') if expandable => self.escape(&mut parts),
                Some('$') if expandable => self.dollar(&mut parts)?,
                Some('\r') if self.peek_second() == Some('\n') => {
                    self.newline();
                    parts.push('\n');
                }
                Some(c) => {
                    self.bump();
                    parts.push(c);
                }
            }
        }
    }

    fn at_here_end(&self, expandable: bool) -> bool {
        let quote = if expandable { is_double_quote } else { is_single_quote };
        self.peek().is_some_and(quote) && self.peek_second() == Some('@')
    }
}

impl Parts {
    fn without_last_newline(mut self) -> Self {
        if self.text.ends_with('\n') {
            self.text.pop();
        }
        self
    }
}
