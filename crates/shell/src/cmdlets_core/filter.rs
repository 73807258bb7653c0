//! Where-Object and ForEach-Object.

use crate::eval::apply_binary;
use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};
use crate::lang::ast::BinaryOp;
use crate::value::Value;

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![where_object(), foreach_object()]
}

const BLOCK: &[&str] = &["ScriptBlock"];
const PROPERTY: &[&str] = &["Property"];

/// `Where State -eq Running`: the operators as switches.
macro_rules! operators {
    ($($name:literal),*) => { [$(Parameter::switch($name, concat!("The property is compared as -", $name, " does.")).in_sets(PROPERTY)),*] };
}

const OPERATORS: [Parameter; 28] = operators![
    "EQ",
    "NE",
    "GT",
    "GE",
    "LT",
    "LE",
    "Like",
    "NotLike",
    "Match",
    "NotMatch",
    "Contains",
    "NotContains",
    "In",
    "NotIn",
    "CEQ",
    "CNE",
    "CGT",
    "CGE",
    "CLT",
    "CLE",
    "CLike",
    "CNotLike",
    "CMatch",
    "CNotMatch",
    "CContains",
    "CNotContains",
    "CIn",
    "CNotIn"
];

const WHERE_PARAMETERS: [Parameter; 33] = {
    let mut all = [super::INPUT; 33];
    all[0] = Parameter::new("FilterScript", Kind::ScriptBlock, "Decides for each object, in $_.")
        .at(0)
        .mandatory()
        .in_sets(BLOCK);
    all[1] = Parameter::new("Property", Kind::String, "The property to compare.")
        .at(0)
        .mandatory()
        .in_sets(PROPERTY);
    all[2] = Parameter::new("Value", Kind::Any, "What it is compared with.").at(1).in_sets(PROPERTY);
    all[3] = Parameter::switch("Not", "The property is missing, empty or false.").in_sets(PROPERTY);
    let mut index = 0;
    while index < OPERATORS.len() {
        all[4 + index] = OPERATORS[index];
        index += 1;
    }
    all
};

fn where_object<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Where-Object",
        aliases: &["where", "?"],
        class: "Microsoft.PowerShell.Commands.WhereObjectCommand",
        summary: "Passes on the objects that meet a condition.",
        parameters: &WHERE_PARAMETERS,
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "1..5 | Where-Object { $_ -gt 3 }", says: "A block decides." },
            Example { code: "Get-Command | where Noun -eq Null", says: "A property is compared." },
        ],
        run: |call| Box::pin(run_where(call)),
    }
}

async fn run_where<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let values = super::input(call);
    if let Some(block) = call.block("FilterScript") {
        for value in values {
            if Value::from_results(call.invoke(&block, value.clone()).await?).is_true() {
                call.emit(value);
            }
        }
        return Ok(());
    }
    let property = call.text("Property").unwrap_or_default();
    let chosen: Vec<&str> = OPERATORS.iter().map(|p| p.name).filter(|name| call.switch(name)).collect();
    let op = match chosen.as_slice() {
        [one] => BinaryOp::from_word(one),
        [] => None,
        _ => return Err(set_error().into()),
    };
    let wanted = call.value("Value").cloned();
    if wanted.is_some() && op.is_none() {
        return Err(set_error().into());
    }
    for value in values {
        let own = value.member_value(&property);
        let passes = match op {
            Some(op) => {
                let other = wanted.clone().unwrap_or_default();
                apply_binary(op, own, other)?.is_true()
            }
            None => own.is_true() != call.switch("Not"),
        };
        if passes {
            call.emit(value);
        }
    }
    Ok(())
}

fn set_error() -> ErrorRecord {
    ErrorRecord::new(
        Category::InvalidArgument,
        "PSArgumentException",
        "AmbiguousParameterSet",
        "The specified operator requires both the -Property and -Value parameters, and only one operator. \
         Provide values for all parameters, and then try the command again.",
    )
}

fn foreach_object<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "ForEach-Object",
        aliases: &["foreach", "%"],
        class: "Microsoft.PowerShell.Commands.ForEachObjectCommand",
        summary: "Runs a block for each object, or reads a property of each.",
        parameters: const {
            &[
                Parameter::new("Process", Kind::ScriptBlock, "Runs for each object, in $_.")
                    .at(0)
                    .mandatory()
                    .in_sets(BLOCK),
                Parameter::new("Begin", Kind::ScriptBlock, "Runs once before.").in_sets(BLOCK),
                Parameter::new("End", Kind::ScriptBlock, "Runs once after.").in_sets(BLOCK),
                Parameter::new("MemberName", Kind::String, "The property to read.")
                    .at(0)
                    .mandatory()
                    .in_sets(&["Member"]),
                super::INPUT,
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "1..3 | ForEach-Object { $_ * 2 }", says: "Twice each." },
            Example { code: "Get-Command Out-* | % Name", says: "A property of each." },
        ],
        run: |call| Box::pin(run_foreach(call)),
    }
}

async fn run_foreach<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let values = super::input(call);
    if let Some(name) = call.text("MemberName") {
        for value in values {
            call.emit_items(value.member_value(&name));
        }
        return Ok(());
    }
    let Some(process) = call.block("Process") else { return Ok(()) };
    let mut rounds: Vec<_> = call.block("Begin").map(|block| (block, Value::Null)).into_iter().collect();
    rounds.extend(values.into_iter().map(|value| (process.clone(), value)));
    rounds.extend(call.block("End").map(|block| (block, Value::Null)));
    for (block, item) in rounds {
        for written in call.invoke(&block, item).await? {
            call.emit(written);
        }
    }
    Ok(())
}
