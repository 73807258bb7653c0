//! A cmdlet is one value. Command line, help, completion, default view and tests all come from it.

use super::call::Call;
use super::error::Flow;
use super::parameter::{COMMON, Parameter, SHOULD_PROCESS};
use crate::format::View;
use futures_util::future::BoxFuture;

/// What cmdlets act on: a cheap handle, such as a client of a node's API.
pub trait Context: Clone + Send + Sync + 'static {}
impl<T: Clone + Send + Sync + 'static> Context for T {}

pub type CmdletResult = Result<(), Flow>;
pub type CmdletFuture<'a> = BoxFuture<'a, CmdletResult>;

/// How often a cmdlet runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Once for every object from the pipeline, its parameters bound from it; once if there is no pipeline.
    EachRecord,
    /// Once, with all objects from the pipeline in [`Call::input`].
    All,
}

/// Whether a cmdlet changes anything that `-WhatIf` and `-Confirm` should guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impact {
    /// Reads only, or changes nothing outside the shell.
    None,
    /// Takes `-WhatIf` and `-Confirm`.
    Changes,
    /// As `Changes`, and asks unless told `-Confirm:$false`.
    Destroys,
}

#[derive(Debug)]
pub struct Example {
    pub code: &'static str,
    pub says: &'static str,
}

pub struct Cmdlet<C: Context> {
    pub name: &'static str,
    pub aliases: &'static [&'static str],
    /// Second part of error ids: the .NET class, or the name again for cmdlets made from CIM.
    pub class: &'static str,
    pub summary: &'static str,
    pub parameters: &'static [Parameter],
    pub input: Input,
    pub impact: Impact,
    /// Default views of the types that it writes.
    pub views: &'static [&'static View],
    pub examples: &'static [Example],
    pub run: for<'a> fn(&'a mut Call<'_, C>) -> CmdletFuture<'a>,
}

impl<C: Context> Cmdlet<C> {
    /// Its own parameters and those that the frame adds.
    pub fn all_parameters(&self) -> impl Iterator<Item = &'static Parameter> {
        let guards: &[Parameter] = if self.impact == Impact::None { &[] } else { SHOULD_PROCESS };
        self.parameters.iter().chain(guards).chain(COMMON)
    }

    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.all_parameters().find(|parameter| parameter.answers_to(name))
    }

    /// Names of its parameter sets, the default first; one without a name if it has none.
    pub fn parameter_sets(&self) -> Vec<&'static str> {
        let mut sets = Vec::new();
        for set in self.parameters.iter().flat_map(|parameter| parameter.sets) {
            if !sets.contains(set) {
                sets.push(*set);
            }
        }
        if sets.is_empty() {
            sets.push("");
        }
        sets
    }

    /// The verb and the noun.
    pub fn verb_noun(&self) -> (&'static str, &'static str) {
        self.name.split_once('-').unwrap_or((self.name, ""))
    }
}
