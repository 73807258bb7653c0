//! Commands: a name and its arguments, where bare words are strings and a dash begins a parameter.

use super::string::Parts;
use super::{Parser, Result, number};
use crate::lang::ast::{Argument, Command, Expr, ExprKind, StringPart};
use crate::lang::chars::{ends_word, is_dash, is_double_quote, is_name, is_newline, is_single_quote};
use crate::lang::source::Span;

impl Parser {
    pub(super) fn command(&mut self) -> Result<Command> {
        let start = self.at;
        let name = self.command_name()?;
        let mut arguments = Vec::new();
        let mut end = self.at;
        loop {
            self.skip_space()?;
            match self.peek() {
                None | Some(';' | '|' | ')' | '}') => break,
                Some(c) if is_newline(c) => break,
                Some('&' | '>' | '<') => return Err(self.unexpected()),
                Some(',') => {
                    let span = Span::new(self.at, self.at + 1);
                    return Err(self.error("MissingArgument", "Missing argument in parameter list.", span));
                }
                Some(_) => arguments.push(self.argument()?),
            }
            end = self.at;
        }
        Ok(Command { name, arguments, span: Span::new(start, end) })
    }

    fn command_name(&mut self) -> Result<Expr> {
        let start = self.at;
        if self.peek() == Some('&') && self.peek_second() != Some('&') {
            self.bump();
            self.skip_space()?;
            return match self.peek() {
                Some(c) if matches!(c, '$' | '{' | '(') || is_single_quote(c) || is_double_quote(c) => {
                    self.postfix()
                }
                Some(c) if !ends_word(c) => self.word(Parts::default()),
                _ => Err(self.missing("MissingExpression", "Missing expression after '&'.")),
            };
        }
        match self.peek() {
            Some(c) if ends_word(c) => return Err(self.unexpected()),
            Some('.') if self.peek_second().is_none_or(|c| ends_word(c) || c == '$') => {
                return Err(self
                    .not_supported("Running a script in the current scope is", Span::new(start, start + 1)));
            }
            _ => {}
        }
        let name = self.word(Parts::default())?;
        match name.kind {
            ExprKind::Text(_) => Ok(name),
            _ => Err(self.not_supported("A computed command name is (use '&' before it)", name.span)),
        }
    }

    fn argument(&mut self) -> Result<Argument> {
        let start = self.at;
        let second = self.peek_second();
        match self.peek() {
            Some(c) if is_dash(c) && second.is_some_and(|c| c.is_alphabetic() || matches!(c, '_' | '?')) => {
                self.bump();
                let name = self.take_while(|c| !ends_word(c) && !matches!(c, ':' | '.' | '['));
                let span = self.span_from(start);
                if !self.eat(':') {
                    return Ok(Argument::Parameter { name, value: None, span });
                }
                self.skip_space()?;
                match self.peek() {
                    None | Some(';' | '|' | ')' | '}' | ',') => {
                        let message = format!("Parameter '-{name}:' requires an argument.");
                        Err(self.error("ParameterRequiresArgument", message, self.span_from(start)))
                    }
                    Some(_) => {
                        let value = Some(self.argument_value()?);
                        Ok(Argument::Parameter { name, value, span: self.span_from(start) })
                    }
                }
            }
            Some(c) if is_dash(c) && second.is_some_and(is_dash) => {
                Err(self.not_supported("'--' is", Span::new(start, start + 2)))
            }
            Some('@') if second.is_some_and(is_name) => {
                self.bump();
                let name = self.take_while(is_name);
                Ok(Argument::Splat { name, span: self.span_from(start) })
            }
            _ => Ok(Argument::Value(self.argument_value()?)),
        }
    }

    /// One value or a list of them.
    fn argument_value(&mut self) -> Result<Expr> {
        let first = self.argument_item()?;
        self.list_after(first, Self::argument_item)
    }

    fn argument_item(&mut self) -> Result<Expr> {
        match self.peek() {
            Some('$') if self.peek_second().is_some_and(|c| is_name(c) || matches!(c, '(' | '{' | '?')) => {
                let value = self.postfix()?;
                if self.peek().is_none_or(|c| ends_word(c) || is_single_quote(c) || is_double_quote(c)) {
                    return Ok(value);
                }
                self.word_after(value)
            }
            Some('$') if self.peek_second().is_some_and(|c| !ends_word(c)) => self.postfix(),
            Some('(' | '{') => self.postfix(),
            Some('@') => self.postfix(),
            Some(c) if is_single_quote(c) || is_double_quote(c) => self.postfix(),
            Some(c) if ends_word(c) => Err(self.unexpected()),
            _ => {
                let word = self.word(Parts::default())?;
                // A word with quotes or escapes in it stays text, as `"1"` does.
                let plain =
                    matches!(&word.kind, ExprKind::Text(text) if text == self.source.slice(word.span));
                match plain.then(|| number::from_word(self.source.slice(word.span))).flatten() {
                    Some(kind) => Ok(Expr { kind, span: word.span }),
                    None => Ok(word),
                }
            }
        }
    }

    /// `$x/24`, `$(...)/24`: a word that begins with a value.
    fn word_after(&mut self, value: Expr) -> Result<Expr> {
        let start = value.span.start;
        let mut parts = Parts::default();
        let statement = match value.kind {
            ExprKind::SubExpression(statements) => StringPart::SubExpression(statements),
            ExprKind::Variable(name) => StringPart::Variable(name, value.span),
            _ => return Err(self.unexpected()),
        };
        parts.append(ExprKind::Expandable(vec![statement]));
        let mut word = self.word(parts)?;
        word.span.start = start;
        Ok(word)
    }

    /// A bare word: up to white space or a separator, with quotes, escapes and variables in it.
    fn word(&mut self, mut parts: Parts) -> Result<Expr> {
        let start = self.at;
        loop {
            match self.peek() {
                None => break,
                Some(c) if ends_word(c) => break,
                Some('`') if self.peek_second().is_none_or(is_newline) => break,
                Some('`') => self.escape(&mut parts),
                Some('$') => self.dollar(&mut parts)?,
                Some(c) if is_single_quote(c) => parts.append(self.single_quoted()?),
                Some(c) if is_double_quote(c) => parts.append(self.double_quoted()?),
                Some(c) => {
                    self.bump();
                    parts.push(c);
                }
            }
        }
        Ok(Expr { kind: parts.finish(), span: self.span_from(start) })
    }
}
