//! The frame that every cmdlet stands in: what a cmdlet is, how its parameters are bound, how it fails.
//!
//! Knows the language, never what cmdlets act on: that is the context `C`.
//!
//! A new cmdlet is one [`Cmdlet`] value, given to [`Registry::add`]. Its `run` reads parameters from the
//! [`Call`], writes objects with [`Call::emit`], reports what failed for one object with [`Call::write_error`]
//! and returns an [`ErrorRecord`] for what ends it. The frame adds the command's name and its place, runs it
//! once for every object from the pipeline ([`Input::EachRecord`]), and adds `-ErrorAction`, and `-WhatIf` and
//! `-Confirm` where [`Impact`] says that it changes something.

pub(crate) mod bind;
mod call;
mod cmdlet;
mod complete;
mod error;
pub(crate) mod help;
pub(crate) mod parameter;
mod registry;
pub(crate) mod transform;

pub use call::Call;
pub use cmdlet::{Cmdlet, CmdletFuture, CmdletResult, Context, Example, Impact, Input};
pub use complete::Completion;
pub use error::{Category, ErrorRecord, Flow, Position};
pub use parameter::{EnumType, FromPipeline, Kind, Parameter};
pub use registry::Registry;

#[cfg(test)]
mod tests;
