//! PowerShell's language as text: from characters to a syntax tree.
//!
//! Pure and synchronous, and never knows a cmdlet. What it does not take is a [`ParseError`] that marks the
//! place; it never guesses, never panics, and its recursion is limited whatever the input.

pub mod ast;
pub mod chars;
mod error;
mod parser;
mod source;

pub use error::ParseError;
pub use parser::{MAX_DEPTH, MAX_SOURCE_BYTES, parse};
pub use source::{Source, Span};

/// The number that a text says, in the language's own notation.
pub(crate) fn number_from_text(text: &str) -> Option<crate::value::Value> {
    match parser::number_from_word(text)? {
        ast::ExprKind::Int(n) => Some(crate::value::Value::Int(n)),
        ast::ExprKind::Float(n) => Some(crate::value::Value::Float(n)),
        _ => None,
    }
}
