//! Why a description cannot be read.

use nestling_block::BlockError;

#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// It is none of the kind that it was taken for.
    #[error("it is no {what}")]
    NotThat { what: &'static str },
    /// It contradicts its own format.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It is as it should be, and cannot be made a machine of here.
    #[error("{0}")]
    Unsupported(String),
    #[error("it has more than {max} {what}, which no description of a machine has")]
    TooMuch { what: &'static str, max: usize },
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl ExchangeError {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported(what.into())
    }
}

pub(crate) type Result<T> = std::result::Result<T, ExchangeError>;
