//! Write-Output, Write-Host, Write-Warning, Write-Error, Get-Date, Start-Sleep.

use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};
use crate::value::{DateTime, Value};
use std::time::Duration;

/// Longest sleep: a day. Whoever wants more has a scheduler.
const SLEEP_SECONDS_MAX: i64 = 86_400;

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![write_output(), write_host(), write_warning(), write_error(), get_date(), start_sleep()]
}

fn base<C: Context>(
    name: &'static str,
    class: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    run: for<'a> fn(&'a mut Call<'_, C>) -> crate::frame::CmdletFuture<'a>,
) -> Cmdlet<C> {
    let (aliases, views, examples) = (&[], &[], &[]);
    Cmdlet {
        name,
        aliases,
        class,
        summary,
        parameters,
        input: Input::All,
        impact: Impact::None,
        views,
        examples,
        run,
    }
}

fn write_output<C: Context>() -> Cmdlet<C> {
    const PARAMETERS: &[Parameter] = &[
        Parameter::new("InputObject", Kind::Any, "What to write.").at(0).rest(),
        Parameter::switch("NoEnumerate", "Writes an array as one object."),
    ];
    Cmdlet {
        aliases: &["echo", "write"],
        examples: &[Example {
            code: "Write-Output 'ready' | Out-String -Width 20",
            says: "A string as an object.",
        }],
        ..base(
            "Write-Output",
            "Microsoft.PowerShell.Commands.WriteOutputCommand",
            "Writes objects to the pipeline.",
            PARAMETERS,
            |call| {
                Box::pin(async move {
                    match call.value("InputObject").cloned() {
                        Some(value) if call.switch("NoEnumerate") => call.emit(value),
                        Some(value) => call.emit_items(value),
                        None => call.take_input().into_iter().for_each(|value| call.emit(value)),
                    }
                    Ok(())
                })
            },
        )
    }
}

fn write_host<C: Context>() -> Cmdlet<C> {
    const PARAMETERS: &[Parameter] = &[
        Parameter::new("Object", Kind::Any, "What to print.").at(0).rest(),
        Parameter::switch("NoNewline", "Leaves the line open."),
        Parameter::new("Separator", Kind::String, "Stands between the items; a space if not given."),
    ];
    Cmdlet {
        examples: &[Example { code: "Write-Host 'Starting' 'L1'.Length", says: "Prints past the pipeline." }],
        ..base(
            "Write-Host",
            "Microsoft.PowerShell.Commands.WriteHostCommand",
            "Prints text for the user, past the pipeline.",
            PARAMETERS,
            |call| {
                Box::pin(async move {
                    let values = match call.value("Object").cloned() {
                        Some(value) => value.into_items(),
                        None => call.take_input(),
                    };
                    let separator = call.text("Separator").unwrap_or_else(|| " ".to_owned());
                    let text = values.iter().map(Value::to_text).collect::<Vec<_>>().join(&separator);
                    let end = if call.switch("NoNewline") { "" } else { "\n" };
                    call.write_host(&format!("{text}{end}"));
                    Ok(())
                })
            },
        )
    }
}

fn write_warning<C: Context>() -> Cmdlet<C> {
    const PARAMETERS: &[Parameter] =
        &[Parameter::new("Message", Kind::String, "The text.").at(0).mandatory()];
    Cmdlet {
        examples: &[Example {
            code: "Write-Warning 'The disk is nearly full.'",
            says: "Prints WARNING before it.",
        }],
        ..base(
            "Write-Warning",
            "Microsoft.PowerShell.Commands.WriteWarningCommand",
            "Prints a warning.",
            PARAMETERS,
            |call| {
                Box::pin(async move {
                    let message = call.text("Message").unwrap_or_default();
                    call.write_warning(&message);
                    Ok(())
                })
            },
        )
    }
}

fn write_error<C: Context>() -> Cmdlet<C> {
    const PARAMETERS: &[Parameter] =
        &[Parameter::new("Message", Kind::String, "What is wrong.").at(0).mandatory()];
    Cmdlet {
        examples: &[Example {
            code: "Write-Error 'No such lab.' -ErrorAction SilentlyContinue",
            says: "An error of the script's own.",
        }],
        ..base(
            "Write-Error",
            "Microsoft.PowerShell.Commands.WriteErrorCommand",
            "Reports an error and goes on.",
            PARAMETERS,
            |call| {
                Box::pin(async move {
                    let message = call.text("Message").unwrap_or_default();
                    let id = "Microsoft.PowerShell.Commands.WriteErrorException";
                    let error = ErrorRecord::new(Category::NotSpecified, "WriteErrorException", id, message);
                    call.write_error(error.with_class("Write-Error"))
                })
            },
        )
    }
}

fn get_date<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        examples: &[Example { code: "(Get-Date).Year -ge 2024", says: "A part of the date." }],
        ..base(
            "Get-Date",
            "Microsoft.PowerShell.Commands.GetDateCommand",
            "The date and time now, UTC.",
            &[],
            |call| {
                Box::pin(async move {
                    call.emit(Value::DateTime(DateTime::now()));
                    Ok(())
                })
            },
        )
    }
}

fn start_sleep<C: Context>() -> Cmdlet<C> {
    const PARAMETERS: &[Parameter] = &[
        Parameter::new("Seconds", Kind::Int { min: 0, max: SLEEP_SECONDS_MAX }, "How long, at most a day.")
            .at(0)
            .mandatory()
            .in_sets(&["Seconds"]),
        Parameter::new("Milliseconds", Kind::Int { min: 0, max: SLEEP_SECONDS_MAX * 1000 }, "How long.")
            .mandatory()
            .in_sets(&["Milliseconds"]),
    ];
    Cmdlet {
        aliases: &["sleep"],
        examples: &[Example { code: "Start-Sleep -Milliseconds 1", says: "A short pause." }],
        ..base(
            "Start-Sleep",
            "Microsoft.PowerShell.Commands.StartSleepCommand",
            "Waits.",
            PARAMETERS,
            |call| Box::pin(sleep(call)),
        )
    }
}

async fn sleep<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let ms = match call.int("Milliseconds") {
        Some(ms) => ms,
        None => call.int("Seconds").unwrap_or(0).saturating_mul(1000),
    };
    // The user should see what was printed before, not a silent wait.
    call.engine().console().flush();
    tokio::time::sleep(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).await;
    Ok(())
}
