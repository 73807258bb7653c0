//! `nestling vm`: machines as a whole.

use clap::{Args, Subcommand};
use nestling_api::v1::{self, VmOperation};
use nestling_model::VmPath;

use super::{guest, vm_adapter, vm_create, vm_drive, vm_export, vm_set};
use crate::{
    args::{VM, VMS, vm_path},
    failure::Result,
    session::Session,
    text::{self, Table, fields},
};

/// Virtual machines: create, change, start, stop, reach into
#[derive(Debug, Args)]
pub struct Vm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(One),
    Create(Box<vm_create::Create>),
    /// Start, or go on from the saved state
    Start(Many),
    /// Ask the guest to shut down, and wait until it has
    Shutdown(Many),
    /// Cut the power
    TurnOff(Many),
    /// Shut down through the guest, then start
    Restart(Many),
    /// Restart without asking the guest
    Reset(Many),
    /// Write memory and devices to disk and stop
    Save(Many),
    /// Forget the saved state
    RemoveSavedState(Many),
    /// Stop the processors for a while
    Pause(Many),
    /// Go on after a pause
    Resume(Many),
    Remove(Remove),
    Rename(Rename),
    Set(vm_set::Set),
    /// Give it the latest configuration version
    UpdateVersion(Many),
    Guest(guest::Guest),
    Exec(guest::Exec),
    CopyIn(guest::CopyIn),
    Adapter(vm_adapter::Adapters),
    Drive(vm_drive::Drives),
    Export(vm_export::Export),
}

/// List the machines of a host
#[derive(Debug, Args)]
struct List {
    /// The machine whose guests to list [default: this host]
    #[arg(value_name = "HOST", value_parser = vm_path)]
    host: Option<VmPath>,
}

/// Show all that is known of a machine
#[derive(Debug, Args)]
struct One {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
}

#[derive(Debug, Args)]
struct Many {
    #[arg(value_name = "VM", required = true, value_parser = vm_path, help = VMS)]
    vms: Vec<VmPath>,
}

/// Remove machines that are off
#[derive(Debug, Args)]
struct Remove {
    #[arg(value_name = "VM", required = true, value_parser = vm_path, help = VMS)]
    vms: Vec<VmPath>,

    /// Remove their disks' files too
    #[arg(long)]
    disks: bool,
}

/// Give a machine another name
#[derive(Debug, Args)]
struct Rename {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    #[arg(value_name = "NAME", help = "Its name from now on")]
    name: String,
}

impl Vm {
    pub async fn run(self, session: &Session) -> Result {
        use VmOperation as Op;
        let operation = |vms: Many, operation| operate(session, vms, operation);
        match self.command {
            Command::List(list) => list.run(session).await,
            Command::Show(one) => one.run(session).await,
            Command::Create(create) => create.run(session).await,
            Command::Start(vms) => operation(vms, Op::Start).await,
            Command::Shutdown(vms) => operation(vms, Op::Shutdown).await,
            Command::TurnOff(vms) => operation(vms, Op::TurnOff).await,
            Command::Restart(vms) => restart(session, vms).await,
            Command::Reset(vms) => operation(vms, Op::Reset).await,
            Command::Save(vms) => operation(vms, Op::Save).await,
            Command::RemoveSavedState(vms) => operation(vms, Op::RemoveSavedState).await,
            Command::Pause(vms) => operation(vms, Op::Pause).await,
            Command::Resume(vms) => operation(vms, Op::Resume).await,
            Command::UpdateVersion(vms) => operation(vms, Op::UpdateVersion).await,
            Command::Remove(remove) => remove.run(session).await,
            Command::Rename(rename) => rename.run(session).await,
            Command::Set(set) => set.run(session).await,
            Command::Guest(guest) => guest.run(session).await,
            Command::Exec(exec) => exec.run(session).await,
            Command::CopyIn(copy) => copy.run(session).await,
            Command::Adapter(adapters) => adapters.run(session).await,
            Command::Drive(drives) => drives.run(session).await,
            Command::Export(export) => export.run(session).await,
        }
    }
}

async fn operate(session: &Session, Many { vms }: Many, operation: VmOperation) -> Result {
    session.each(&vms, async |client, vm| client.operate(vm, operation).await).await
}

async fn restart(session: &Session, Many { vms }: Many) -> Result {
    session
        .each(&vms, async |client, vm| {
            client.operate(vm, VmOperation::Shutdown).await?;
            client.operate(vm, VmOperation::Start).await
        })
        .await
}

impl List {
    async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let client = self.host.as_ref().map_or_else(|| client.clone(), |host| client.inside(host.levels()));
        session.printer.list(&client.vms().await?, table)
    }
}

impl One {
    async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        session.printer.show(&client.vm(vm).await?, details)
    }
}

impl Remove {
    async fn run(self, session: &Session) -> Result {
        let disks = self.disks;
        session
            .each(&self.vms, async |client, vm| {
                let before = client.vm(vm).await?;
                let removed = client.remove_vm(vm, disks).await?;
                gone(&before.name, &removed).iter().for_each(|line| session.printer.talk(line));
                for why in &removed.kept {
                    session.printer.warning(&format!("{}: {why}", before.name));
                }
                Ok(before)
            })
            .await
    }
}

/// Which files went: a line for each.
fn gone(vm: &str, removed: &v1::RemovedVm) -> Vec<String> {
    let line = |path: &String| format!("{}: removed {}", text::clean(vm), text::clean(path));
    removed.disks.iter().map(line).collect()
}

impl Rename {
    async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let change = v1::VmChange { name: Some(self.name), ..Default::default() };
        session.printer.changed(&client.change_vm(vm, &change).await?)
    }
}

fn table(vms: &[v1::Vm]) -> String {
    let header = ["NAME", "STATE", "CPU", "PROCESSORS", "MEMORY", "UPTIME", "SWITCHES"];
    let mut table = Table::new(&header).right(&[2, 3, 4, 5]);
    for vm in vms {
        let runs = vm.memory_assigned_bytes > 0;
        let switches: Vec<&str> = vm.adapters.iter().filter_map(|a| a.switch.as_deref()).collect();
        table.row([
            vm.name.clone(),
            state(vm),
            if runs { format!("{}%", vm.cpu_usage_percent) } else { String::new() },
            vm.processor_count.to_string(),
            text::size(vm.memory_startup_bytes),
            if runs { text::duration(vm.uptime_ms) } else { String::new() },
            switches.join(", "),
        ]);
    }
    table.text()
}

/// The state, with the reason for one that nobody asked for.
fn state(vm: &v1::Vm) -> String {
    match &vm.state_reason {
        Some(reason) => format!("{:?} ({reason})", vm.state),
        None => format!("{:?}", vm.state),
    }
}

fn details(vm: &v1::Vm) -> String {
    let boot = match &vm.boot {
        v1::Boot::Firmware => if vm.generation == 2 { "UEFI" } else { "BIOS" }.to_owned(),
        v1::Boot::Kernel { kernel, append, .. } => format!("{kernel} {append}"),
    };
    let running = |text: String| if vm.memory_assigned_bytes > 0 { text } else { String::new() };
    let mut out = fields(&[
        ("Name", vm.name.clone()),
        ("Id", vm.id.to_string()),
        ("State", state(vm)),
        ("Generation", vm.generation.to_string()),
        ("Version", vm.version.clone()),
        ("Processors", vm.processor_count.to_string()),
        (
            "Extensions",
            if vm.expose_virtualization_extensions { "exposed" } else { "not exposed" }.to_owned(),
        ),
        ("Memory", text::size(vm.memory_startup_bytes)),
        ("CPU", running(format!("{}%", vm.cpu_usage_percent))),
        ("Uptime", running(text::duration(vm.uptime_ms))),
        ("Engine", vm.engine.clone().unwrap_or_default().to_uppercase()),
        ("Is a host", if vm.hosts_nestling { "yes" } else { "" }.to_owned()),
        ("Boots", boot),
        ("Start action", format!("{:?}, after {} s", vm.start_action, vm.start_delay_seconds)),
        ("Stop action", format!("{:?}", vm.stop_action)),
        ("Created", text::time(vm.created_at_ms)),
        ("Tags", vm.tags.join(", ")),
        ("Notes", vm.notes.clone()),
    ]);
    if !vm.adapters.is_empty() {
        out.push('\n');
        out.push_str(&vm_adapter::table(&vm.adapters));
    }
    if !vm.drives.is_empty() {
        out.push('\n');
        out.push_str(&vm_drive::table(&vm.drives));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_went_are_named() {
        let removed = v1::RemovedVm { disks: vec!["/a.qcow2".into(), "/b.img".into()], kept: Vec::new() };
        assert_eq!(gone("Web", &removed), ["Web: removed /a.qcow2", "Web: removed /b.img"]);
    }
}
