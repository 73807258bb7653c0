//! PowerShell syntax for Nestling: the language, the frame of cmdlets and the formatting of their output.
//!
//! A [`frame::Registry`] of cmdlets, a context that they act on and an [`format::Output`] make an [`Engine`],
//! which runs scripts. The language and the frame know nothing of virtual machines.

pub mod cmdlets;
mod cmdlets_core;
mod eval;
pub mod format;
pub mod frame;
pub mod lang;
pub mod value;

#[cfg(test)]
mod testing;

pub use eval::{Engine, Outcome, Wildcard};
