//! What the parser says about text that it does not take.

use super::source::{Source, Span};
use std::fmt;
use std::sync::Arc;

/// A refused script: what is wrong, where, and whether more text could still make it right.
#[derive(Clone, Debug)]
pub struct ParseError {
    pub message: String,
    /// PowerShell's name for the fault, such as `MissingEndParenthesisInExpression`.
    pub id: &'static str,
    pub span: Span,
    pub source: Arc<Source>,
    /// The text ends too early: a prompt should ask for the next line.
    pub incomplete: bool,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.source.position_message(self.span);
        writeln!(f, "{position}\n{}", self.message)?;
        writeln!(f, "    + CategoryInfo          : ParserError: (:) [], ParentContainsErrorRecordException")?;
        write!(f, "    + FullyQualifiedErrorId : {}", self.id)
    }
}

impl std::error::Error for ParseError {}
