//! The cmdlets of the language itself: they work on any objects and never touch the context.

mod filter;
mod format;
mod help;
mod json;
mod measure;
mod properties;
mod select;
mod talk;

use crate::frame::{Call, Cmdlet, Context, Kind, Parameter};
use crate::value::Value;

/// All of them.
pub(crate) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    let groups =
        [filter::all(), format::all(), help::all(), json::all(), measure::all(), select::all(), talk::all()];
    groups.into_iter().flatten().collect()
}

/// The objects to work on, for those who do not pipe them in.
const INPUT: Parameter =
    Parameter::new("InputObject", Kind::Any, "The objects; usually they come through the pipeline.");

fn input<C: Context>(call: &mut Call<'_, C>) -> Vec<Value> {
    match call.value("InputObject").cloned() {
        Some(value) => value.into_items(),
        None => call.take_input(),
    }
}

#[cfg(test)]
mod tests;
