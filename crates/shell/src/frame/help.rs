//! Help, made from nothing but the cmdlet's value.

use super::cmdlet::{Cmdlet, Context};
use super::parameter::{Kind, Parameter};
use std::fmt::Write;

/// How much to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Usual,
    Full,
    Examples,
}

/// Help on one command. Writing to a `String` cannot fail, so the results of `write!` are dropped.
pub(crate) fn help_text<C: Context>(cmdlet: &Cmdlet<C>, extent: Extent) -> String {
    let mut text = format!("\nNAME\n    {}\n\nSYNOPSIS\n    {}\n\n", cmdlet.name, cmdlet.summary);
    if extent != Extent::Examples {
        text.push_str("SYNTAX\n");
        for set in cmdlet.parameter_sets() {
            let of_set = cmdlet.all_parameters().filter(|p| p.in_any_of(&[set]));
            let parts: String = of_set.map(|parameter| format!(" {}", syntax(parameter))).collect();
            let _ = writeln!(text, "    {}{parts}\n", cmdlet.name);
        }
        if !cmdlet.aliases.is_empty() {
            let _ = writeln!(text, "ALIASES\n    {}\n", cmdlet.aliases.join(", "));
        }
    }
    if extent == Extent::Full {
        text.push_str("PARAMETERS\n");
        cmdlet.all_parameters().for_each(|parameter| describe(parameter, &mut text));
    }
    if !cmdlet.examples.is_empty() {
        text.push_str("EXAMPLES\n");
        for example in cmdlet.examples {
            let _ = writeln!(text, "    PS> {}\n        {}\n", example.code, example.says);
        }
    }
    if extent == Extent::Usual {
        let _ = writeln!(text, "REMARKS\n    Get-Help {} -Full explains each parameter.", cmdlet.name);
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn describe(parameter: &Parameter, text: &mut String) {
    let _ = writeln!(text, "    {}\n        {}", line(parameter), parameter.help);
    if !parameter.aliases.is_empty() {
        let _ = writeln!(text, "        Aliases: {}", parameter.aliases.join(", "));
    }
    text.push('\n');
}

/// `-Name <String[]>`, `-State {On | Off}`
fn line(parameter: &Parameter) -> String {
    let type_name = parameter.kind.type_name().rsplit('.').next().unwrap_or_default();
    let list = if parameter.kind.is_list() { "[]" } else { "" };
    match parameter.kind {
        Kind::Switch => format!("-{}", parameter.name),
        Kind::Enum(members) | Kind::Enums(members) => {
            let names: Vec<&str> = members.members.iter().map(|(name, _)| *name).collect();
            format!("-{} {{{}}}", parameter.name, names.join(" | "))
        }
        _ => format!("-{} <{type_name}{list}>", parameter.name),
    }
}

/// The parameter in the syntax line: brackets mark what may be left out.
fn syntax(parameter: &Parameter) -> String {
    let line = line(parameter);
    let whole = match (parameter.position, line.split_once(' ')) {
        (Some(_), Some((name, value))) => format!("[{name}] {value}"),
        _ => line,
    };
    if parameter.mandatory { whole } else { format!("[{whole}]") }
}
