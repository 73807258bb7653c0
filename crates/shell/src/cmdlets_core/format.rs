//! Format-Table, Format-List, Out-String, Out-Host, Out-Null.

use super::properties::{Property, Read, Source};
use crate::format::{
    Layout, List, Table, TableColumn, cell_alignment, default_layout, shape_of, view_columns,
};
use crate::frame::{Call, Cmdlet, CmdletResult, Context, Example, Flow, Impact, Input, Kind, Parameter};
use crate::value::Value;
use std::sync::Arc;

/// Columns of a table for which nobody named properties.
const COLUMNS_MAX: usize = 10;

const INPUT: Parameter = super::INPUT;
const PROPERTY: Parameter = Parameter::new(
    "Property",
    Kind::List,
    "Names or patterns of properties, or calculated ones: @{n='Name'; e={ ... }}.",
)
.at(0);

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![format_table(), format_list(), out_string(), out_host(), out_null()]
}

fn format_table<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Format-Table",
        aliases: &["ft"],
        class: "Microsoft.PowerShell.Commands.FormatTableCommand",
        summary: "Shows objects as a table.",
        parameters: const {
            &[
                PROPERTY,
                Parameter::switch("AutoSize", "Makes columns as wide as their contents."),
                Parameter::switch("Wrap", "Continues long texts on the next line instead of cutting them."),
                Parameter::switch("HideTableHeaders", "Leaves the header out."),
                INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example {
                code: "Get-Command Format-* | ft Name, Noun -AutoSize",
                says: "Two properties, columns as wide as needed.",
            },
            Example { code: "1..3 | ft @{n='Square'; e={ $_ * $_ }}", says: "A calculated column." },
        ],
        run: |call| Box::pin(run_format(call, true)),
    }
}

fn format_list<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Format-List",
        aliases: &["fl"],
        class: "Microsoft.PowerShell.Commands.FormatListCommand",
        summary: "Shows objects as lists of their properties.",
        parameters: const { &[PROPERTY, INPUT] },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[Example { code: "Get-Command Format-List | fl *", says: "All properties." }],
        run: |call| Box::pin(run_format(call, false)),
    }
}

async fn run_format<C: Context>(call: &mut Call<'_, C>, table: bool) -> CmdletResult {
    let values = super::input(call);
    let properties = Property::list(call.list("Property"))?;
    let mut plain = Vec::new();
    let mut runs: Vec<(String, Vec<Value>)> = Vec::new();
    for value in values {
        let view = call.engine().console().view(&value);
        // A pattern such as * says nothing about plain values: they stay as they are.
        let named = properties.iter().any(|p| !matches!(p.source, Source::Pattern(_)));
        let shape = shape_of(&value, view).or_else(|| named.then(|| "value".to_owned()));
        match (shape, runs.last_mut()) {
            (None, _) => plain.push(value),
            (Some(shape), Some((last, run))) if *last == shape => run.push(value),
            (Some(shape), _) => runs.push((shape, vec![value])),
        }
    }
    for value in plain {
        call.emit(value);
    }
    for (_, run) in runs {
        let layout = if table {
            table_of(call, run, &properties).await?
        } else {
            list_of(call, run, &properties).await?
        };
        call.emit(Value::Formatted(Arc::new(layout)));
    }
    Ok(())
}

async fn list_of<C: Context>(
    call: &mut Call<'_, C>,
    values: Vec<Value>,
    properties: &[Property],
) -> Result<Layout, Flow> {
    let everything = [Property::new(&Value::from("*"))?];
    let view = values.first().and_then(|first| call.engine().console().view(first));
    let declared: Vec<Property> = match view {
        Some(view) if properties.is_empty() => {
            view.list.iter().map(|name| Property::new(&Value::from(*name))).collect::<Result<_, _>>()?
        }
        _ => Vec::new(),
    };
    let properties = match (properties, declared.as_slice()) {
        ([], []) => &everything[..],
        ([], declared) => declared,
        (given, _) => given,
    };
    let mut entries = Vec::new();
    for value in &values {
        let mut entry: Vec<(String, String)> = Vec::new();
        for property in properties {
            for Read { name, value } in property.read(call, value).await? {
                if entry.iter().all(|(known, _)| !known.eq_ignore_ascii_case(&name)) {
                    entry.push((name, property.cell(&value)?));
                }
            }
        }
        entries.push(entry);
    }
    Ok(Layout::List(List { entries }))
}

async fn table_of<C: Context>(
    call: &mut Call<'_, C>,
    values: Vec<Value>,
    properties: &[Property],
) -> Result<Layout, Flow> {
    let mut table = if properties.is_empty() {
        match default_table(call, &values) {
            Some(table) => table,
            None => {
                let everything = [Property::new(&Value::from("*"))?];
                let mut table = property_table(call, &values, &everything).await?;
                table.columns.truncate(COLUMNS_MAX);
                table.rows.iter_mut().for_each(|row| row.truncate(COLUMNS_MAX));
                table
            }
        }
    } else {
        property_table(call, &values, properties).await?
    };
    table.auto_size |= call.switch("AutoSize");
    table.wrap = call.switch("Wrap");
    table.hide_headers = call.switch("HideTableHeaders");
    Ok(Layout::Table(table))
}

/// The table of the type's own view.
fn default_table<C: Context>(call: &mut Call<'_, C>, values: &[Value]) -> Option<Table> {
    let first = values.first()?;
    let view = call.engine().console().view(first);
    if view.is_none() && !matches!(first, Value::Hashtable(_)) {
        return None;
    }
    match default_layout(values, view.filter(|view| !view_columns(view).is_empty())) {
        Layout::Table(table) => Some(table),
        Layout::List(_) => None,
    }
}

async fn property_table<C: Context>(
    call: &mut Call<'_, C>,
    values: &[Value],
    properties: &[Property],
) -> Result<Table, Flow> {
    let mut table = Table::default();
    for (index, value) in values.iter().enumerate() {
        let mut row = Vec::new();
        for property in properties {
            for Read { name, value } in property.read(call, value).await? {
                if index == 0 {
                    let align = property.align.unwrap_or_else(|| cell_alignment(&value));
                    table.columns.push(TableColumn { header: name, align, width: property.width });
                }
                row.push(property.cell(&value)?);
            }
        }
        table.rows.push(row);
    }
    Ok(table)
}

fn out_string<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Out-String",
        aliases: &["oss"],
        class: "Microsoft.PowerShell.Commands.OutStringCommand",
        summary: "Makes one string of what the objects would look like on the screen.",
        parameters: const {
            &[
                Parameter::switch("Stream", "Writes one string for each line."),
                Parameter::new("Width", Kind::Int { min: 2, max: 100_000 }, "Columns of a line."),
                INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[Example {
            code: "Get-Command Out-* | Out-String -Stream | Where-Object { $_ -like 'Out*' }",
            says: "The lines of a table as text.",
        }],
        run: |call| {
            Box::pin(async move {
                let values = super::input(call);
                let width = call.int("Width").and_then(|width| usize::try_from(width).ok());
                let stream = call.switch("Stream");
                let console = call.engine().console();
                let text = console.text_of(values, width.unwrap_or_else(|| console.width()));
                if stream {
                    text.lines().for_each(|line| call.emit(line));
                } else {
                    call.emit(text);
                }
                Ok(())
            })
        },
    }
}

fn out_host<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Out-Host",
        aliases: &["oh"],
        class: "Microsoft.PowerShell.Commands.OutHostCommand",
        summary: "Prints objects at once instead of passing them on.",
        parameters: const { &[INPUT] },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[Example { code: "$x = 1..3; $x | Out-Host", says: "Prints in the middle of a script." }],
        run: |call| {
            Box::pin(async move {
                for value in super::input(call) {
                    call.engine().console().emit(value);
                }
                call.engine().console().flush();
                Ok(())
            })
        },
    }
}

fn out_null<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Out-Null",
        aliases: &[],
        class: "Microsoft.PowerShell.Commands.OutNullCommand",
        summary: "Throws objects away.",
        parameters: const { &[INPUT] },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[Example { code: "1..3 | Out-Null", says: "Prints nothing." }],
        run: |call| {
            Box::pin(async move {
                call.take_input();
                Ok(())
            })
        },
    }
}
