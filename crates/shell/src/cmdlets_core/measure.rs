//! Measure-Object and Group-Object.

use super::properties::Property;
use crate::eval::{compare_values, equal};
use crate::format::{Column, View};
use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![measure(), group()]
}

fn measure<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Measure-Object",
        aliases: &["measure"],
        class: "Microsoft.PowerShell.Commands.MeasureObjectCommand",
        summary: "Counts objects, and sums up numbers.",
        parameters: const {
            &[
                Parameter::new(
                    "Property",
                    Kind::Strings,
                    "The properties to measure; the objects themselves if none.",
                )
                .at(0),
                Parameter::switch("Sum", "Adds them up."),
                Parameter::switch("Average", "Their mean."),
                Parameter::switch("Minimum", "The smallest."),
                Parameter::switch("Maximum", "The largest."),
                super::INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "1..4 | Measure-Object -Sum -Average", says: "Sum and mean of four numbers." },
            Example { code: "(Get-Command | measure).Count", says: "How many commands there are." },
        ],
        run: |call| Box::pin(run_measure(call)),
    }
}

async fn run_measure<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let values = super::input(call);
    let names = call.texts("Property");
    if names.is_empty() {
        let measured: Vec<Value> = values.into_iter().filter(|value| !value.is_null()).collect();
        return measured_object(call, None, &measured);
    }
    for name in names {
        let has = |value: &&Value| value.property_names().iter().any(|own| own.eq_ignore_ascii_case(&name));
        let measured: Vec<Value> =
            values.iter().filter(has).map(|v| v.member_value(&name)).filter(|v| !v.is_null()).collect();
        if measured.is_empty() {
            let message = format!("The property \"{name}\" cannot be found in the input for any objects.");
            call.write_error(ErrorRecord::new(
                Category::InvalidArgument,
                "PSArgumentException",
                "GenericMeasurePropertyNotFound",
                message,
            ))?;
            continue;
        }
        measured_object(call, Some(name), &measured)?;
    }
    Ok(())
}

fn measured_object<C: Context>(
    call: &mut Call<'_, C>,
    property: Option<String>,
    values: &[Value],
) -> CmdletResult {
    let (sum, average) = (call.switch("Sum"), call.switch("Average"));
    let mut numbers = Vec::new();
    if sum || average {
        for value in values {
            match value.to_number() {
                Some(number) => numbers.push(number),
                None => call.write_error(not_a_number(value))?,
            }
        }
    }
    let mut total = Value::Int(0);
    for number in &numbers {
        total = crate::eval::apply_binary(crate::lang::ast::BinaryOp::Add, total, number.clone())?;
    }
    let mean = match (numbers.len(), total.to_float()) {
        (0, _) | (_, None) => Value::Null,
        (count, Some(total)) => Value::Float(total / count as f64),
    };
    let by_size = |a: &&Value, b: &&Value| compare_values(a, b, false);
    let only =
        |wanted: bool, value: Option<Value>| if wanted { value.unwrap_or_default() } else { Value::Null };
    let object = Object::new("Microsoft.PowerShell.Commands.GenericMeasureInfo")
        .with("Count", values.len() as i64)
        .with("Average", only(average, Some(mean)))
        .with("Sum", only(sum, Some(total)))
        .with("Maximum", only(call.switch("Maximum"), values.iter().max_by(by_size).cloned()))
        .with("Minimum", only(call.switch("Minimum"), values.iter().min_by(by_size).cloned()))
        .with("Property", property);
    call.emit(object);
    Ok(())
}

fn not_a_number(value: &Value) -> ErrorRecord {
    let text = value.to_text();
    let message = format!("Input object \"{text}\" is not numeric.");
    ErrorRecord::new(Category::InvalidType, "PSInvalidCastException", "NonNumericInputObject", message)
        .with_target(text, value.type_name())
}

const GROUP_VIEW: View = View {
    type_name: "Microsoft.PowerShell.Commands.GroupInfo",
    columns: &[
        Column::property("Count").right().width(5),
        Column::property("Name").width(25),
        Column::property("Group").width(80),
    ],
    list: &[],
};

fn group<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Group-Object",
        aliases: &["group"],
        class: "Microsoft.PowerShell.Commands.GroupObjectCommand",
        summary: "Puts objects with alike properties together.",
        parameters: const {
            &[
                Parameter::new(
                    "Property",
                    Kind::List,
                    "What must be alike; the objects themselves if nothing.",
                )
                .at(0),
                Parameter::switch("NoElement", "Leaves the objects themselves out."),
                super::INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[&GROUP_VIEW],
        examples: &[Example {
            code: "1..6 | Group-Object { $_ % 2 } -NoElement | ft Count, Name",
            says: "Odd and even.",
        }],
        run: |call| Box::pin(run_group(call)),
    }
}

async fn run_group<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let properties = Property::list(call.list("Property"))?;
    let mut groups: Vec<(Vec<Value>, Vec<Value>)> = Vec::new();
    for value in super::input(call) {
        let mut keys = Vec::new();
        for property in &properties {
            keys.push(property.value(call, &value).await?);
        }
        if properties.is_empty() {
            keys.push(value.clone());
        }
        let alike = |known: &[Value]| known.iter().zip(&keys).all(|(a, b)| equal(a, b, false));
        match groups.iter_mut().find(|(known, _)| alike(known)) {
            Some((_, members)) => members.push(value),
            None => groups.push((keys, vec![value])),
        }
    }
    let members = !call.switch("NoElement");
    for (keys, values) in groups {
        let name = keys.iter().map(Value::to_text).collect::<Vec<_>>().join(", ");
        let mut object =
            Object::new(GROUP_VIEW.type_name).with("Values", keys).with("Count", values.len() as i64);
        if members {
            object.set("Group", values);
        } else {
            object.set("Group", Value::Array(Vec::new()));
        }
        call.emit(object.with("Name", name));
    }
    Ok(())
}
