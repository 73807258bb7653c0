//! A recursive descent parser straight over the characters: PowerShell's tokens depend on where they stand
//! (`-eq` is an operator after a value and a parameter after a command), so a separate lexer would have to
//! ask the parser at every turn.

mod command;
mod expression;
mod number;
mod statement;
mod string;

pub(crate) use number::from_word as number_from_word;

use super::ast::{Block, Script};
use super::chars::{is_newline, is_space};
use super::error::ParseError;
use super::source::{Source, Span};
use std::sync::Arc;

/// Nesting of brackets, blocks and unary operators. Far more than anybody writes; far less than a stack holds.
pub const MAX_DEPTH: usize = 64;
/// Largest script taken.
pub const MAX_SOURCE_BYTES: usize = 4 << 20;

type Result<T> = std::result::Result<T, ParseError>;

/// Parses a whole script.
pub fn parse(source: &Arc<Source>) -> std::result::Result<Script, ParseError> {
    let mut parser = Parser { source: Arc::clone(source), at: 0, depth: 0 };
    if source.text.len() > MAX_SOURCE_BYTES {
        let message = format!("The script is larger than {} MB.", MAX_SOURCE_BYTES >> 20);
        return Err(parser.error("ScriptTooLarge", message, Span::default()));
    }
    let statements = parser.statements(None)?;
    let body = Block { parameters: Vec::new(), statements, span: Span::new(0, source.text.len()) };
    Ok(Script { source: Arc::clone(source), body })
}

struct Parser {
    source: Arc<Source>,
    /// Byte offset of the next character.
    at: usize,
    depth: usize,
}

impl Parser {
    fn rest(&self) -> &str {
        self.source.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn peek_second(&self) -> Option<char> {
        self.rest().chars().nth(1)
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn take_while(&mut self, accept: impl Fn(char) -> bool) -> String {
        let taken: String = self.rest().chars().take_while(|c| accept(*c)).collect();
        self.at += taken.len();
        taken
    }

    fn span_from(&self, start: usize) -> Span {
        Span::new(start, self.at)
    }

    /// White space, continued lines and comments, up to the end of the line.
    fn skip_space(&mut self) -> Result<()> {
        loop {
            match self.peek() {
                Some(c) if is_space(c) => self.at += c.len_utf8(),
                Some('`') if self.peek_second().is_none_or(is_newline) => {
                    if self.peek_second().is_none() {
                        let span = Span::new(self.at, self.at + 1);
                        return Err(self.incomplete(
                            "IncompleteLine",
                            "The line is continued, but no line follows.",
                            span,
                        ));
                    }
                    self.at += 1;
                    self.newline();
                }
                Some('#') => {
                    self.take_while(|c| !is_newline(c));
                }
                Some('<') if self.peek_second() == Some('#') => {
                    let start = self.at;
                    let Some(end) = self.rest().find("#>") else {
                        let span = Span::new(start, start + 2);
                        return Err(self.incomplete(
                            "MissingTerminatorMultiLineComment",
                            "The terminator '#>' is missing from the multiline comment.",
                            span,
                        ));
                    };
                    self.at += end + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    /// One line end of either kind.
    fn newline(&mut self) {
        self.eat('\r');
        self.eat('\n');
    }

    fn skip_lines(&mut self) -> Result<()> {
        loop {
            self.skip_space()?;
            match self.peek() {
                Some(c) if is_newline(c) => self.newline(),
                _ => return Ok(()),
            }
        }
    }

    fn skip_separators(&mut self) -> Result<()> {
        loop {
            self.skip_lines()?;
            if !self.eat(';') {
                return Ok(());
            }
        }
    }

    /// Runs one nested level, refusing too many.
    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            let span = Span::new(self.at, self.at + 1);
            return Err(self.error(
                "ScriptTooComplicated",
                format!("The script is nested more than {MAX_DEPTH} levels deep."),
                span,
            ));
        }
        self.depth += 1;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn error(&self, id: &'static str, message: impl Into<String>, span: Span) -> ParseError {
        let message = message.into();
        ParseError { message, id, span, source: Arc::clone(&self.source), incomplete: false }
    }

    fn incomplete(&self, id: &'static str, message: impl Into<String>, span: Span) -> ParseError {
        ParseError { incomplete: true, ..self.error(id, message, span) }
    }

    /// An error for something missing here: at the end of the text, more text may bring it.
    fn missing(&self, id: &'static str, message: impl Into<String>) -> ParseError {
        match self.peek() {
            None => self.incomplete(id, message, self.last_span()),
            Some(c) => self.error(id, message, Span::new(self.at, self.at + c.len_utf8())),
        }
    }

    /// The last character that is not white space: where a text that ends too early is marked.
    fn last_span(&self) -> Span {
        let text = self.source.text.trim_end();
        let length = text.chars().next_back().map_or(0, char::len_utf8);
        Span::new(text.len() - length, text.len())
    }

    fn not_supported(&self, what: &str, span: Span) -> ParseError {
        self.error("NotSupported", format!("{what} not supported by this shell."), span)
    }

    /// What stands here does not belong here.
    fn unexpected(&self) -> ParseError {
        let start = self.at;
        let rest = self.rest();
        if rest.starts_with("&&") || rest.starts_with("||") {
            let message =
                format!("The token '{}' is not a valid statement separator in this version.", &rest[..2]);
            return self.error("InvalidEndOfLine", message, Span::new(start, start + 2));
        }
        if rest.starts_with(['>', '<']) {
            let span = Span::new(start, start + 1);
            let what = "Redirection is (use Out-Null to drop output, -ErrorAction to drop errors)";
            return self.not_supported(what, span);
        }
        let token: String = rest
            .chars()
            .enumerate()
            .map_while(|(n, c)| (n == 0 || !(c.is_whitespace() || ")}];,|(".contains(c))).then_some(c))
            .collect();
        let span = Span::new(start, start + token.len());
        self.error("UnexpectedToken", format!("Unexpected token '{token}' in expression or statement."), span)
    }

    /// Consumes the closing bracket of what began at `open`.
    fn close(&mut self, close: char, open: Span) -> Result<()> {
        if self.eat(close) {
            return Ok(());
        }
        let (id, what) = match close {
            ')' => ("MissingEndParenthesisInExpression", "in expression."),
            ']' => ("MissingEndSquareBracket", "in expression."),
            _ => ("MissingEndCurlyBrace", "in statement block or type definition."),
        };
        let message = format!("Missing closing '{close}' {what}");
        Err(match self.peek() {
            None => self.incomplete(id, message, open),
            Some(_) => self.error(id, message, open),
        })
    }
}

#[cfg(test)]
mod tests;
