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
