//! What the Hyper-V cmdlets have in common: finding the objects meant, and errors as Hyper-V words them.

use nestling_api::{
    Client, ClientError, v1,
    v1::{ErrorCode, VmOperation},
};

use crate::eval::Wildcard;
use crate::frame::{
    Call as AnyCall, Category, CmdletResult, ErrorRecord, Flow, FromPipeline, Kind, Parameter,
};
use crate::value::Object;

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

pub fn not_found(name: &str) -> ErrorRecord {
    ErrorRecord::new(
        Category::InvalidArgument,
        "VirtualizationException",
        "InvalidParameter",
        format!("Hyper-V was unable to find a virtual machine with name \"{name}\"."),
    )
    .with_target(name, "String")
}

/// The machines that `-Name`/`-VMName` or `-VM` mean; a name that fits none is reported.
pub async fn machines(call: &mut Call<'_>, by_name: &'static str) -> Result<Vec<v1::Vm>, Flow> {
    let client = call.context().clone();
    let mut found = Vec::new();
    if call.parameter_set() == Some("VMObject") {
        for id in ids(&call.objects("VM")) {
            let result = client.vm(&id).await;
            found.extend(or_report(call, result)?);
        }
        return Ok(found);
    }
    let names = call.texts(by_name);
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
            call.write_error(not_found(&name))?;
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
    Change(v1::VmChange),
}

impl Deed {
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

/// Does the same to every machine meant, and passes each on when asked.
pub async fn for_each(call: &mut Call<'_>, deed: Deed) -> CmdletResult {
    let client = call.context().clone();
    for vm in machines(call, "Name").await? {
        if !call.should_process(&vm.name, None)? {
            continue;
        }
        let result = deed.done_to(&client, &vm.id.to_string()).await;
        if let Some(changed) = or_report(call, result)?
            && call.switch("Passthru")
        {
            call.emit(super::vm_object::vm(&changed));
        }
    }
    Ok(())
}

pub fn is_pattern(text: &str) -> bool {
    Wildcard::is_pattern(text)
}

/// Whether a name fits a pattern with wildcards, in any case.
pub fn fits(pattern: &str, name: &str) -> bool {
    Wildcard::new(pattern).matches(name)
}

/// The machines of parts given by object (`-VMProcessor`, `-VMMemory`), or those given otherwise.
pub async fn owners(
    call: &mut Call<'_>,
    parts: &'static str,
    by_name: &'static str,
) -> Result<Vec<v1::Vm>, Flow> {
    if !call.has(parts) {
        return machines(call, by_name).await;
    }
    let client = call.context().clone();
    let ids: Vec<String> = call.objects(parts).iter().map(|o| property(o, "VMId")).collect();
    let mut found = Vec::new();
    for id in ids {
        let result = client.vm(&id).await;
        found.extend(or_report(call, result)?);
    }
    Ok(found)
}
