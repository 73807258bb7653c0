//! Select-Object and Sort-Object.

use super::properties::{Property, as_object};
use crate::eval::{compare_values, equal};
use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Flow, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};
use std::cmp::Ordering;

const COUNT: Kind = Kind::Int { min: 0, max: i32::MAX as i64 };

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![select(), sort()]
}

fn select<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Select-Object",
        aliases: &["select"],
        class: "Microsoft.PowerShell.Commands.SelectObjectCommand",
        summary: "Picks objects, or properties of objects.",
        parameters: const {
            &[
                Parameter::new(
                    "Property",
                    Kind::List,
                    "Names or patterns of properties, or calculated ones: @{n='Name'; e={ ... }}.",
                )
                .at(0),
                Parameter::new(
                    "ExcludeProperty",
                    Kind::Strings,
                    "Names or patterns of properties to leave out.",
                ),
                Parameter::new(
                    "ExpandProperty",
                    Kind::String,
                    "A property whose values come instead of the objects.",
                ),
                Parameter::new("First", COUNT, "So many from the start."),
                Parameter::new("Last", COUNT, "So many from the end."),
                Parameter::new("Skip", COUNT, "Leaves out so many at the start, or at the end with -Last."),
                Parameter::new(
                    "Index",
                    Kind::Ints { min: 0, max: i32::MAX as i64 },
                    "Those at these places, from 0.",
                ),
                Parameter::switch("Unique", "Leaves out objects that are like one before."),
                super::INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example {
                code: "Get-Command | Select-Object -First 2 -Property Name, Noun",
                says: "Two properties of the first two.",
            },
            Example { code: "1,1,2 | select -Unique", says: "Each once." },
            Example {
                code: "Get-Command Out-Null | Select-Object -ExpandProperty Name",
                says: "The name itself.",
            },
        ],
        run: |call| Box::pin(run_select(call)),
    }
}

async fn run_select<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let values = super::input(call);
    let properties = Property::list(call.list("Property"))?;
    let exclude: Vec<_> =
        call.texts("ExcludeProperty").iter().map(|name| crate::Wildcard::new(name)).collect();
    let expand = call.text("ExpandProperty");
    let unique = call.switch("Unique");
    let mut written: Vec<Value> = Vec::new();
    for value in picked(call, values) {
        let selected = if properties.is_empty() && exclude.is_empty() {
            value.clone()
        } else {
            Value::Object(project(call, &value, &properties, &exclude).await?)
        };
        if unique && written.iter().any(|before| equal(before, &selected, true)) {
            continue;
        }
        if unique {
            written.push(selected.clone());
        }
        match &expand {
            None => call.emit(selected),
            Some(name) => expand_property(call, &value, name)?,
        }
    }
    Ok(())
}

fn expand_property<C: Context>(call: &mut Call<'_, C>, value: &Value, name: &str) -> CmdletResult {
    if !value.property_names().iter().any(|own| own.eq_ignore_ascii_case(name)) {
        let message = format!("Property \"{name}\" cannot be found.");
        let error = ErrorRecord::new(
            Category::InvalidArgument,
            "PSArgumentException",
            "ExpandPropertyNotFound",
            message,
        )
        .with_target(value.to_text(), "PSObject");
        return call.write_error(error);
    }
    call.emit_items(value.member_value(name));
    Ok(())
}

/// The objects at the places asked for.
fn picked<C: Context>(call: &Call<'_, C>, values: Vec<Value>) -> Vec<Value> {
    let count = |name| call.int(name).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let total = values.len();
    if call.has("Index") {
        let wanted: Vec<usize> = call
            .list("Index")
            .iter()
            .filter_map(|v| v.to_int().ok())
            .filter_map(|n| usize::try_from(n).ok())
            .collect();
        return values
            .into_iter()
            .enumerate()
            .filter(|(at, _)| wanted.contains(at))
            .map(|(_, v)| v)
            .collect();
    }
    let (first, last, skip) = (count("First"), count("Last"), count("Skip").unwrap_or(0));
    if first.is_none() && last.is_some() {
        let end = total.saturating_sub(skip);
        let start = end.saturating_sub(last.unwrap_or(0));
        return values.into_iter().take(end).skip(start).collect();
    }
    let head = first.map_or(total, |first| skip.saturating_add(first));
    let tail = last.map_or(total, |last| total.saturating_sub(last));
    let chosen = |at: usize| {
        (at >= skip && at < head) && (first.is_some() || last.is_none()) || (last.is_some() && at >= tail)
    };
    values.into_iter().enumerate().filter(|(at, _)| chosen(*at)).map(|(_, value)| value).collect()
}

async fn project<C: Context>(
    call: &mut Call<'_, C>,
    value: &Value,
    properties: &[Property],
    exclude: &[crate::Wildcard],
) -> Result<Object, Flow> {
    let mut object = match value {
        Value::Object(from) if !from.is_custom() => Object::new(format!("Selected.{}", from.type_name())),
        _ => Object::custom(),
    };
    if properties.is_empty() {
        for (name, value) in as_object(value).unwrap_or_else(Object::custom).iter() {
            object.set(name.to_owned(), value.clone());
        }
    }
    for property in properties {
        for read in property.read(call, value).await? {
            if object.get(&read.name).is_none() {
                object.set(read.name, read.value);
            }
        }
    }
    let mut kept = Object::new(object.type_name().to_owned());
    for (name, value) in
        object.iter().filter(|(name, _)| !exclude.iter().any(|pattern| pattern.matches(name)))
    {
        kept.set(name.to_owned(), value.clone());
    }
    Ok(kept)
}

fn sort<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Sort-Object",
        aliases: &["sort"],
        class: "Microsoft.PowerShell.Commands.SortObjectCommand",
        summary: "Sorts objects by themselves or by properties.",
        parameters: const {
            &[
                Parameter::new(
                    "Property",
                    Kind::List,
                    "Names of properties, blocks, or @{e={ ... }; Descending=$true}.",
                )
                .at(0),
                Parameter::switch("Descending", "The largest first."),
                Parameter::switch("Unique", "Leaves out objects whose keys are like those of one before."),
                Parameter::switch("CaseSensitive", "Tells a from A."),
                super::INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "3,1,2 | Sort-Object -Descending", says: "By value, largest first." },
            Example { code: "Get-Command | sort Noun, Verb | select -First 3", says: "By two properties." },
        ],
        run: |call| Box::pin(run_sort(call)),
    }
}

async fn run_sort<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let properties = Property::list(call.list("Property"))?;
    let (descending, exact) = (call.switch("Descending"), call.switch("CaseSensitive"));
    let directions: Vec<bool> = match properties.is_empty() {
        true => vec![descending],
        false => properties.iter().map(|property| property.descending.unwrap_or(descending)).collect(),
    };
    let mut keyed: Vec<(Vec<Value>, Value)> = Vec::new();
    for value in super::input(call) {
        let mut keys = Vec::new();
        for property in &properties {
            keys.push(property.value(call, &value).await?);
        }
        if properties.is_empty() {
            keys.push(value.clone());
        }
        keyed.push((keys, value));
    }
    let order = |a: &[Value], b: &[Value]| -> Ordering {
        let each = a.iter().zip(b).zip(&directions).map(|((a, b), descending)| {
            let order = compare_values(a, b, exact);
            if *descending { order.reverse() } else { order }
        });
        each.fold(Ordering::Equal, Ordering::then)
    };
    keyed.sort_by(|(a, _), (b, _)| order(a, b));
    if call.switch("Unique") {
        keyed.dedup_by(|(a, _), (b, _)| order(a, b).is_eq());
    }
    keyed.into_iter().for_each(|(_, value)| call.emit(value));
    Ok(())
}
