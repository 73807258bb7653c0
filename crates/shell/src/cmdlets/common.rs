//! What the Hyper-V cmdlets have in common: finding the objects meant, and errors as Hyper-V words them.

use nestling_api::{
    Client, ClientError, v1,
    v1::{ErrorCode, VmOperation},
};

use crate::eval::Wildcard;
use crate::frame::{
    Call as AnyCall, Category, CmdletResult, Context, ErrorRecord, Flow, FromPipeline, Kind, Parameter,
};
use crate::value::{Object, Value};

/// A run of one of these cmdlets: it acts on a node, here or inside a machine.
pub type Call<'e> = AnyCall<'e, Client>;

pub const VM_TYPE: &str = "Microsoft.HyperV.PowerShell.VirtualMachine";

/// `-Name`, as the cmdlets about machines as a whole have it.
pub const NAME: Parameter =
    Parameter::new("Name", Kind::Strings, "The virtual machines' names; wildcards are taken.")
        .alias(&["VMName"])
        .at(0)
        .mandatory()
        .in_sets(&["Name"]);

/// `-VMName`, as the cmdlets about a machine's parts have it.
pub const VM_NAME: Parameter =
    Parameter::new("VMName", Kind::Strings, "The virtual machines' names; wildcards are taken.")
        .at(0)
        .mandatory()
        .in_sets(&["VMName"]);

/// `-VM`: machines from `Get-VM`.
pub const VM: Parameter =
    Parameter::new("VM", Kind::Objects(VM_TYPE), "The virtual machines, as Get-VM gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["VMObject"]);

pub const PASSTHRU: Parameter = Parameter::switch("Passthru", "Writes the changed object to the pipeline.");

pub const FORCE: Parameter = Parameter::switch("Force", "Goes ahead without asking.");

/// An error that Hyper-V's module would report.
pub fn hyperv(error: &ClientError) -> ErrorRecord {
    let (category, id) = match error.code {
        ErrorCode::Invalid | ErrorCode::NotFound => (Category::InvalidArgument, "InvalidParameter"),
        ErrorCode::Exists => (Category::ResourceExists, "OperationFailed"),
        ErrorCode::InvalidState => (Category::InvalidOperation, "InvalidState"),
        ErrorCode::InUse => (Category::ResourceBusy, "ObjectInUse"),
        ErrorCode::Denied => (Category::PermissionDenied, "AccessDenied"),
        ErrorCode::Requirement => (Category::ResourceUnavailable, "OperationFailed"),
        ErrorCode::Timeout => (Category::OperationTimeout, "Timeout"),
        ErrorCode::GuestAbsent | ErrorCode::Unreachable => (Category::ConnectionError, "OperationFailed"),
        ErrorCode::Failed | ErrorCode::Unknown => (Category::NotSpecified, "OperationFailed"),
    };
    let record = ErrorRecord::new(category, "VirtualizationException", id, message(error));
    match &error.object {
        Some(object) => record.with_target(object.clone(), "String"),
        None => record,
    }
}

/// The message with its advice, which has no other place in PowerShell's errors.
pub fn message(error: &ClientError) -> String {
    match &error.hint {
        Some(hint) => format!("{}\n{hint}", error.message),
        None => error.message.clone(),
    }
}

/// Writes the error of one object and lets the cmdlet go on to the next.
pub fn or_report<T>(call: &mut Call<'_>, result: Result<T, ClientError>) -> Result<Option<T>, Flow> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            call.write_error(hyperv(&error))?;
            Ok(None)
        }
    }
}

/// A client's error that ends the cmdlet.
pub fn ends(error: &ClientError) -> Flow {
    Flow::from(hyperv(error))
}

/// No machine has this, which is a `name` or an `id`.
pub fn not_found(what: &str, text: &str) -> ErrorRecord {
    ErrorRecord::new(
        Category::InvalidArgument,
        "VirtualizationException",
        "InvalidParameter",
        format!("Hyper-V was unable to find a virtual machine with {what} \"{text}\"."),
    )
    .with_target(text, "String")
}

/// The machines with these ids; an id that none has is reported.
pub async fn by_ids(call: &mut Call<'_>, ids: Vec<String>) -> Result<Vec<v1::Vm>, Flow> {
    let client = call.context().clone();
    let mut found = Vec::new();
    for id in ids {
        match client.vm(&id).await {
            // A name may look like anything.
            Ok(vm) if vm.id.to_string().eq_ignore_ascii_case(&id) => found.push(vm),
            Err(error) if error.code != ErrorCode::NotFound => call.write_error(hyperv(&error))?,
            _ => call.write_error(not_found("id", &id))?,
        }
    }
    Ok(found)
}

/// The machines that `-Name`/`-VMName` or `-VM` mean; a name that fits none is reported.
pub async fn machines(call: &mut Call<'_>, by_name: &'static str) -> Result<Vec<v1::Vm>, Flow> {
    if call.parameter_set() == Some("VMObject") {
        let ids = ids(&call.objects("VM"));
        return by_ids(call, ids).await;
    }
    let names = call.texts(by_name);
    named(call, names).await
}

/// The machines that these names mean; a name that fits none is reported.
pub async fn named(call: &mut Call<'_>, names: Vec<String>) -> Result<Vec<v1::Vm>, Flow> {
    let client = call.context().clone();
    let mut found = Vec::new();
    if let [name] = names.as_slice()
        && !is_pattern(name)
    {
        let result = client.vm(name).await;
        found.extend(or_report(call, result)?);
        return Ok(found);
    }
    let all = client.vms().await.map_err(|e| ends(&e))?;
    for name in names {
        let before = found.len();
        found.extend(all.iter().filter(|vm| fits(&name, &vm.name)).cloned());
        if found.len() == before && !is_pattern(&name) {
            call.write_error(not_found("name", &name))?;
        }
    }
    Ok(found)
}

/// The `Id` of each object.
fn ids(objects: &[&Object]) -> Vec<String> {
    objects.iter().filter_map(|o| o.get("Id")).map(crate::value::Value::to_text).collect()
}

/// The text of a property that objects of ours always have.
pub fn property(object: &Object, name: &str) -> String {
    object.get(name).map(crate::value::Value::to_text).unwrap_or_default()
}

/// What a cmdlet does to each machine.
pub enum Deed {
    Operate(VmOperation),
    /// Shut down, and cut the power if the guest does not go: what `-Force` asks for.
    StopInAnyCase,
    Change(Box<v1::VmChange>),
}

impl Deed {
    /// The state that it ends in, if that is one that lasts.
    fn leads_to(&self) -> Option<v1::VmState> {
        match self {
            Self::Operate(VmOperation::Start | VmOperation::Resume) => Some(v1::VmState::Running),
            Self::Operate(VmOperation::Shutdown | VmOperation::TurnOff) | Self::StopInAnyCase => {
                Some(v1::VmState::Off)
            }
            Self::Operate(VmOperation::Save) => Some(v1::VmState::Saved),
            Self::Operate(VmOperation::Pause) => Some(v1::VmState::Paused),
            Self::Operate(_) | Self::Change(_) => None,
        }
    }

    async fn done_to(&self, client: &Client, vm: &str) -> Result<v1::Vm, ClientError> {
        match self {
            Self::Operate(operation) => client.operate(vm, *operation).await,
            Self::Change(change) => client.change_vm(vm, change).await,
            Self::StopInAnyCase => match client.operate(vm, VmOperation::Shutdown).await {
                Ok(stopped) => Ok(stopped),
                Err(_) => client.operate(vm, VmOperation::TurnOff).await,
            },
        }
    }
}

/// What is about to be changed.
pub struct Asked {
    name: String,
    /// The words in which a removal is asked for; `-Force` does without the question.
    question: Option<String>,
}

impl Asked {
    pub fn removal(name: impl Into<String>, question: String) -> Self {
        Self { name: name.into(), question: Some(question) }
    }
}

impl From<String> for Asked {
    fn from(name: String) -> Self {
        Self { name, question: None }
    }
}

/// Whether a switch is on that not every cmdlet here has.
fn on<C: Context>(call: &AnyCall<'_, C>, switch: &str) -> bool {
    call.accepts(switch) && call.switch(switch)
}

/// Whether to go ahead.
fn agreed<C: Context>(call: &mut AnyCall<'_, C>, asked: &Asked) -> Result<bool, ErrorRecord> {
    let forced = asked.question.is_some() && on(call, "Force") && !on(call, "WhatIf");
    Ok(forced || call.should_process(&asked.name, asked.question.as_deref())?)
}

/// Reports what went wrong, or passes the outcome on when asked.
fn conclude<C: Context, T>(
    call: &mut AnyCall<'_, C>,
    result: Result<T, ErrorRecord>,
    shown: impl FnOnce(&T) -> Value,
) -> CmdletResult {
    match result {
        Ok(outcome) if on(call, "Passthru") => call.emit(shown(&outcome)),
        Ok(_) => {}
        Err(record) => call.write_error(record)?,
    }
    Ok(())
}

/// Asks, does and concludes, for each of the objects meant.
pub async fn change_each<S: Clone, T, F>(
    call: &mut Call<'_>,
    subjects: Vec<S>,
    asked: impl Fn(&S) -> Asked,
    deed: impl Fn(Client, S) -> F,
    shown: impl Fn(&S, &T) -> Value,
) -> CmdletResult
where
    F: Future<Output = Result<T, ErrorRecord>>,
{
    for subject in subjects {
        if agreed(call, &asked(&subject))? {
            let client = call.context().clone();
            let result = deed(client, subject.clone()).await;
            conclude(call, result, |outcome| shown(&subject, outcome))?;
        }
    }
    Ok(())
}

/// Does the same to every machine meant. One that is where that leads is told so, as a warning.
pub async fn for_each(call: &mut Call<'_>, deed: Deed) -> CmdletResult {
    let client = call.context().clone();
    for vm in machines(call, "Name").await? {
        if !agreed(call, &vm.name.clone().into())? {
            continue;
        }
        let result = deed.done_to(&client, &vm.id.to_string()).await.map_err(|e| hyperv(&e));
        if result.is_ok() && deed.leads_to() == Some(vm.state) {
            call.write_warning("The virtual machine is already in the specified state.");
        }
        conclude(call, result, super::vm_object::vm)?;
    }
    Ok(())
}

/// Writes a part of every machine meant.
pub async fn get_part(call: &mut Call<'_>, object: fn(&v1::Vm) -> Value) -> CmdletResult {
    for vm in machines(call, "VMName").await? {
        call.emit(object(&vm));
    }
    Ok(())
}

/// Changes a part of every machine meant: of those given by `parts`, or by name.
pub async fn change_part(
    call: &mut Call<'_>,
    parts: &'static str,
    change: &v1::VmChange,
    object: fn(&v1::Vm) -> Value,
) -> CmdletResult {
    let owners = owners(call, parts).await?;
    let deed = |client: Client, vm: v1::Vm| async move {
        // Windows names no object here: "InvalidOperation: (:)".
        let bare = |error| hyperv(&ClientError { object: None, ..error });
        client.change_vm(&vm.id.to_string(), change).await.map_err(bare)
    };
    change_each(call, owners, |vm| vm.name.clone().into(), deed, |_, changed| object(changed)).await
}

pub fn is_pattern(text: &str) -> bool {
    Wildcard::is_pattern(text)
}

/// Whether a name fits a pattern with wildcards, in any case.
pub fn fits(pattern: &str, name: &str) -> bool {
    Wildcard::new(pattern).matches(name)
}

/// The machines of parts given by object (`-VMProcessor`, `-VMMemory`), or those given otherwise.
async fn owners(call: &mut Call<'_>, parts: &'static str) -> Result<Vec<v1::Vm>, Flow> {
    if !call.has(parts) {
        return machines(call, "VMName").await;
    }
    let ids = call.objects(parts).iter().map(|o| property(o, "VMId")).collect();
    by_ids(call, ids).await
}

/// A cmdlet with another run, which needs no node.
#[cfg(test)]
pub fn hollow(
    real: &crate::frame::Cmdlet<Client>,
    run: for<'a> fn(&'a mut AnyCall<'_, ()>) -> crate::frame::CmdletFuture<'a>,
) -> crate::frame::Cmdlet<()> {
    crate::frame::Cmdlet {
        name: real.name,
        aliases: real.aliases,
        class: real.class,
        summary: real.summary,
        parameters: real.parameters,
        input: real.input,
        impact: real.impact,
        views: real.views,
        examples: real.examples,
        run,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::frame::{Cmdlet, Registry};

    /// What all removals do, and nothing else.
    fn removal(real: &Cmdlet<Client>) -> Cmdlet<()> {
        hollow(real, |call| {
            Box::pin(async move {
                if agreed(call, &Asked::removal("it", "It will be removed.".to_owned()))? {
                    conclude(call, Ok(()), |()| Value::string("shown"))?;
                    call.emit(Value::string("removed"));
                }
                Ok(())
            })
        })
    }

    #[test]
    fn every_removal_is_asked_only_for_the_switches_that_it_has() {
        let removals: Vec<_> =
            super::super::all().into_iter().filter(|c| c.name.starts_with("Remove-")).collect();
        let arguments = |name: &str| match name {
            "Remove-VM" | "Remove-VMSwitch" | "Remove-VMBackupJob" | "Remove-VMInstantBoot" => "it -Force",
            "Remove-VMSavedState" => "it",
            "Remove-VMNetworkAdapter" => "-VMName it",
            "Remove-VMHardDiskDrive" => "it -ControllerType IDE -ControllerLocation 0 -Passthru",
            "Remove-NetNat" => "it -Confirm:$false",
            "Remove-NetNatStaticMapping" => "-NatName it -StaticMappingID 0 -Confirm:$false",
            "Remove-NetIPAddress" => "10.0.0.1 -Confirm:$false",
            other => panic!("{other}: say how it is run"),
        };
        assert!(removals.len() > 4);
        for removal in &removals {
            let mut registry = Registry::with_core();
            registry.add([self::removal(removal)]);
            let script = format!("{} {}", removal.name, arguments(removal.name));
            let ran = crate::testing::run_in(Arc::new(registry), (), &script, None);
            assert!(ran.data.contains("removed"), "{script}: {}", ran.talk);
            assert_eq!(ran.data.contains("shown"), script.contains("-Passthru"), "{script}: {}", ran.data);
        }
    }
}
