//! Get-WindowsFeature and Install-WindowsFeature: the prerequisite check of the walkthrough's first step.

use nestling_api::{Client, v1, v1::ErrorCode};

use super::common::{Call, ends, fits, is_pattern, message};
use super::vm_object::texts;
use crate::format::{Column, View};
use crate::frame::{Category, Cmdlet, CmdletResult, ErrorRecord, Example, Impact, Input, Kind, Parameter};
use crate::value::{Object, Value};

const TYPE: &str = "Microsoft.Windows.ServerManager.Commands.Feature";
const RESULT: &str = "Microsoft.Windows.ServerManager.Commands.FeatureOperationResult";

static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::computed("Display Name", |feature| {
            let mark = if feature.get("Installed").is_some_and(Value::is_true) { "X" } else { " " };
            let name = feature.get("DisplayName").map(Value::to_text).unwrap_or_default();
            Value::string(format!("[{mark}] {name}"))
        }),
        Column::property("Name"),
        Column::property("InstallState").right(),
    ],
    list: &[],
};

static RESULT_VIEW: View = View {
    type_name: RESULT,
    columns: &[
        Column::property("Success"),
        Column::property("RestartNeeded"),
        Column::property("ExitCode"),
        Column::property("FeatureResult"),
    ],
    list: &[],
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-WindowsFeature",
            aliases: &[],
            class: "Microsoft.Windows.ServerManager.Commands.GetWindowsFeatureCommand",
            summary: "Gets the roles of this host.",
            parameters: const {
                &[Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.").at(0)]
            },
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example { code: "Get-WindowsFeature", says: "The roles, and which are installed." }],
            run: |call| Box::pin(get(call)),
        },
        Cmdlet {
            name: "Install-WindowsFeature",
            aliases: &["Add-WindowsFeature"],
            class: "Microsoft.Windows.ServerManager.Commands.AddWindowsFeatureCommand",
            summary: "Checks what a role needs, and prepares this host for it.",
            parameters: const {
                &[
                    Parameter::new("Name", Kind::Strings, "The roles, such as Hyper-V.").at(0).mandatory(),
                    Parameter::switch(
                        "IncludeManagementTools",
                        "Taken as on Windows; the management tools are always there.",
                    ),
                    Parameter::switch("Restart", "Taken as on Windows; no restart is ever needed."),
                ]
            },
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&RESULT_VIEW] },
            examples: &[],
            run: |call| Box::pin(install(call)),
        },
    ]
}

fn object(feature: &v1::Feature) -> Value {
    Value::Object(
        Object::new(TYPE)
            .with("Name", feature.name.as_str())
            .with("DisplayName", feature.display_name.as_str())
            .with("Installed", feature.installed)
            .with("InstallState", if feature.installed { "Installed" } else { "Available" })
            .with("FeatureType", "Role"),
    )
}

fn result(success: bool, exit_code: &str, features: Value) -> Value {
    Value::Object(
        Object::new(RESULT)
            .with("Success", success)
            .with("RestartNeeded", if success { "No" } else { "Maybe" })
            .with("ExitCode", exit_code)
            .with("FeatureResult", features),
    )
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let all = call.context().clone().features().await.map_err(|e| ends(&e))?;
    let names = call.texts("Name");
    for feature in &all {
        if names.is_empty() || names.iter().any(|n| fits(n, &feature.name)) {
            call.emit(object(feature));
        }
    }
    for name in names.iter().filter(|n| !is_pattern(n) && !all.iter().any(|f| fits(n, &f.name))) {
        call.write_error(unknown(name))?;
    }
    Ok(())
}

fn unknown(name: &str) -> ErrorRecord {
    let message = format!(
        "The target of the specified cmdlet cannot be processed: there is no role or feature \"{name}\". \
         Get-WindowsFeature lists those there are."
    );
    ErrorRecord::new(Category::InvalidArgument, "Exception", "NameDoesNotExist", message)
        .with_target(name, "String")
}

async fn install(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    for name in call.texts("Name") {
        if !call.should_process(&name, None)? {
            continue;
        }
        match client.install_feature(&name).await {
            Ok(installed) => {
                for step in &installed.steps {
                    call.write_host(&format!("{step}\n"));
                }
                let code = if installed.changed { "Success" } else { "NoChangeNeeded" };
                call.emit(result(true, code, texts([installed.feature.display_name])));
            }
            Err(error) if error.code == ErrorCode::NotFound => call.write_error(unknown(&name))?,
            Err(error) => {
                let record = ErrorRecord::new(
                    Category::InvalidOperation,
                    "Exception",
                    "Alteration_PrerequisiteCheck_Failed",
                    message(&error),
                )
                .with_target(name, "ServerComponentWrapper");
                call.write_error(record)?;
                call.emit(result(false, "Failed", texts::<String>([])));
            }
        }
    }
    Ok(())
}
