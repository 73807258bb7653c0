//! ConvertTo-Json and ConvertFrom-Json.

use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};
use crate::value::{MAX_DEPTH, Value};

/// Depth of ConvertTo-Json when nobody says, as in PowerShell.
const DEFAULT_DEPTH: i64 = 2;

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![to_json(), from_json()]
}

fn to_json<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "ConvertTo-Json",
        aliases: &[],
        class: "Microsoft.PowerShell.Commands.ConvertToJsonCommand",
        summary: "Makes JSON of objects. Members of enumerations become their numbers.",
        parameters: const {
            &[
                Parameter::new(
                    "InputObject",
                    Kind::Any,
                    "The objects; usually they come through the pipeline.",
                )
                .at(0),
                Parameter::new(
                    "Depth",
                    Kind::Int { min: 0, max: 100 },
                    "Levels of nested objects; what is deeper becomes text. 2 if not given.",
                ),
                Parameter::switch("Compress", "Leaves out white space."),
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "@{ Name = 'L1'; Count = 2 } | ConvertTo-Json -Compress", says: "One object." },
            Example { code: "1..3 | ConvertTo-Json -Compress", says: "Several objects become an array." },
        ],
        run: |call| Box::pin(run_to_json(call)),
    }
}

async fn run_to_json<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let value = match call.value("InputObject").cloned() {
        Some(value) => value,
        None => Value::from_results(call.take_input()),
    };
    let depth = usize::try_from(call.int("Depth").unwrap_or(DEFAULT_DEPTH)).unwrap_or(0);
    // The outermost object or array is level 0.
    let json = value.to_json(depth + 1);
    let text = if call.switch("Compress") {
        serde_json::to_string(&json)
    } else {
        serde_json::to_string_pretty(&json)
    };
    call.emit(text.map_err(|error| invalid(&error.to_string()))?);
    Ok(())
}

fn from_json<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "ConvertFrom-Json",
        aliases: &[],
        class: "Microsoft.PowerShell.Commands.ConvertFromJsonCommand",
        summary: "Makes objects of JSON.",
        parameters: const {
            &[Parameter::new(
                "InputObject",
                Kind::Strings,
                "The JSON; several strings are lines of one text.",
            )
            .at(0)]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[Example {
            code: "('{\"Name\":\"L1\"}' | ConvertFrom-Json).Name",
            says: "A property of the object.",
        }],
        run: |call| Box::pin(run_from_json(call)),
    }
}

async fn run_from_json<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let lines = match call.has("InputObject") {
        true => call.texts("InputObject"),
        false => call.take_input().iter().map(Value::to_text).collect(),
    };
    let text = lines.join("\n");
    if text.trim().is_empty() {
        return Ok(());
    }
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| invalid(&error.to_string()))?;
    let value = Value::from_json(json);
    if value.depth() > MAX_DEPTH {
        return Err(invalid(&format!("it is nested more than {MAX_DEPTH} levels deep")).into());
    }
    call.emit_items(value);
    Ok(())
}

fn invalid(why: &str) -> ErrorRecord {
    let message = format!("Conversion from JSON failed with error: {why}");
    ErrorRecord::new(Category::NotSpecified, "ArgumentException", "System.ArgumentException", message)
}
