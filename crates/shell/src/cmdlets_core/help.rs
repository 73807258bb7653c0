//! Get-Command, Get-Help, Get-Member: what the shell knows about itself.

use crate::eval::Wildcard;
use crate::format::{Column, View};
use crate::frame::help::{Extent, help_text};
use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, Context, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};

pub(super) fn all<C: Context>() -> Vec<Cmdlet<C>> {
    vec![get_command(), get_help(), get_member()]
}

const COMMAND_VIEW: View = View {
    type_name: "System.Management.Automation.CmdletInfo",
    columns: &[
        Column::property("CommandType").width(15),
        Column::property("Name").width(35),
        Column::property("Summary"),
    ],
    list: &[],
};

const NAME: Parameter = Parameter::new("Name", Kind::Strings, "Names or patterns.").at(0);

fn get_command<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Get-Command",
        aliases: &["gcm"],
        class: "Microsoft.PowerShell.Commands.GetCommandCommand",
        summary: "Lists the commands of this shell.",
        parameters: const {
            &[
                NAME,
                Parameter::new("Noun", Kind::Strings, "Only commands with such nouns."),
                Parameter::new("Verb", Kind::Strings, "Only commands with such verbs."),
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[&COMMAND_VIEW],
        examples: &[
            Example { code: "Get-Command -Verb Format", says: "All commands that format." },
            Example { code: "gcm *-Object", says: "All commands with that noun." },
        ],
        run: |call| Box::pin(run_get_command(call)),
    }
}

async fn run_get_command<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let patterns = |texts: Vec<String>| texts.iter().map(|text| Wildcard::new(text)).collect::<Vec<_>>();
    let (nouns, verbs) = (patterns(call.texts("Noun")), patterns(call.texts("Verb")));
    let fits =
        |patterns: &[Wildcard], text: &str| patterns.is_empty() || patterns.iter().any(|p| p.matches(text));
    let registry = call.engine().registry().clone();
    let mut names = call.texts("Name");
    if names.is_empty() {
        names.push("*".to_owned());
    }
    for name in names {
        let pattern = Wildcard::new(&name);
        let aliased = registry.find(&name).map(|cmdlet| cmdlet.name);
        let mut found = false;
        for cmdlet in registry.cmdlets() {
            let (verb, noun) = cmdlet.verb_noun();
            let named = pattern.matches(cmdlet.name) || aliased == Some(cmdlet.name);
            if named && fits(&nouns, noun) && fits(&verbs, verb) {
                found = true;
                call.emit(command_object(cmdlet));
            }
        }
        if !found && !Wildcard::is_pattern(&name) {
            call.write_error(not_found(&name))?;
        }
    }
    Ok(())
}

fn not_found(name: &str) -> ErrorRecord {
    let message = format!(
        "The term '{name}' is not recognized as the name of a cmdlet, function, script file, or operable program. \
         Check the spelling of the name, or if a path was included, verify that the path is correct and try again."
    );
    ErrorRecord::new(
        Category::ObjectNotFound,
        "CommandNotFoundException",
        "CommandNotFoundException",
        message,
    )
    .with_target(name, "String")
}

fn command_object<C: Context>(cmdlet: &Cmdlet<C>) -> Object {
    let (verb, noun) = cmdlet.verb_noun();
    let aliases: Vec<Value> = cmdlet.aliases.iter().map(|alias| Value::from(*alias)).collect();
    Object::new(COMMAND_VIEW.type_name)
        .with("CommandType", "Cmdlet")
        .with("Name", cmdlet.name)
        .with("Verb", verb)
        .with("Noun", noun)
        .with("Aliases", aliases)
        .with("Summary", cmdlet.summary)
}

fn get_help<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Get-Help",
        aliases: &["help", "man"],
        class: "Microsoft.PowerShell.Commands.GetHelpCommand",
        summary: "Explains a command: its parameters and examples.",
        parameters: const {
            &[
                Parameter::new(
                    "Name",
                    Kind::String,
                    "The command; without it, or with a pattern, a list of commands.",
                )
                .at(0),
                Parameter::switch("Full", "Explains each parameter too."),
                Parameter::switch("Examples", "Shows only the examples."),
            ]
        },
        input: Input::All,
        impact: Impact::None,
        views: &[],
        examples: &[
            Example { code: "Get-Help Sort-Object -Full", says: "All about one command." },
            Example { code: "help *-Json", says: "Commands by pattern." },
        ],
        run: |call| Box::pin(run_get_help(call)),
    }
}

async fn run_get_help<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let name = call.text("Name").unwrap_or_else(|| "*".to_owned());
    let registry = call.engine().registry().clone();
    if let Some(cmdlet) = registry.find(&name) {
        let extent = match (call.switch("Full"), call.switch("Examples")) {
            (true, _) => Extent::Full,
            (_, true) => Extent::Examples,
            _ => Extent::Usual,
        };
        call.emit(help_text(cmdlet, extent));
        return Ok(());
    }
    let pattern = Wildcard::new(&name);
    let found: Vec<_> =
        registry.cmdlets().into_iter().filter(|cmdlet| pattern.matches(cmdlet.name)).collect();
    if found.is_empty() && !Wildcard::is_pattern(&name) {
        let message = format!(
            "Get-Help could not find {name} in this shell. Get-Command lists the commands that there are."
        );
        let error =
            ErrorRecord::new(Category::ObjectNotFound, "HelpNotFoundException", "HelpNotFound", message);
        return call.write_error(error);
    }
    found.into_iter().for_each(|cmdlet| call.emit(command_object(cmdlet)));
    Ok(())
}

const MEMBER_VIEW: View = View {
    type_name: "Microsoft.PowerShell.Commands.MemberDefinition",
    columns: &[Column::property("Name"), Column::property("MemberType"), Column::property("Definition")],
    list: &[],
};

fn get_member<C: Context>() -> Cmdlet<C> {
    Cmdlet {
        name: "Get-Member",
        aliases: &["gm"],
        class: "Microsoft.PowerShell.Commands.GetMemberCommand",
        summary: "Lists the properties of objects, one list for each type.",
        parameters: const { &[NAME, super::INPUT] },
        input: Input::All,
        impact: Impact::None,
        views: &[&MEMBER_VIEW],
        examples: &[Example { code: "Get-Date | Get-Member", says: "The properties of a date." }],
        run: |call| Box::pin(run_get_member(call)),
    }
}

async fn run_get_member<C: Context>(call: &mut Call<'_, C>) -> CmdletResult {
    let names: Vec<Wildcard> = call.texts("Name").iter().map(|name| Wildcard::new(name)).collect();
    let mut seen: Vec<String> = Vec::new();
    for value in super::input(call) {
        let type_name = value.type_name().to_owned();
        if seen.contains(&type_name) {
            continue;
        }
        let mut properties = value.property_names();
        properties.sort_by_key(|name| name.to_lowercase());
        for name in properties {
            if !names.is_empty() && !names.iter().any(|pattern| pattern.matches(&name)) {
                continue;
            }
            let definition = format!("{} {name}", value.member_value(&name).type_name());
            let object = Object::new(MEMBER_VIEW.type_name)
                .with("TypeName", type_name.clone())
                .with("Name", name)
                .with("MemberType", "Property")
                .with("Definition", definition);
            call.emit(object);
        }
        seen.push(type_name);
    }
    Ok(())
}
