//! `nestling vm set`.

use clap::{Args, ValueEnum};
use nestling_api::v1;
use nestling_model::{VmName, VmPath};

use crate::{
    args::{OnOff, VM, vm_path},
    failure::Result,
    session::Session,
    text::parse_size,
};

/// What a host does with a machine when the host starts.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum AtStart {
    Nothing,
    StartIfRunning,
    Start,
}

impl AtStart {
    pub fn into_wire(self) -> v1::StartAction {
        match self {
            Self::Nothing => v1::StartAction::Nothing,
            Self::StartIfRunning => v1::StartAction::StartIfRunning,
            Self::Start => v1::StartAction::Start,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum AtStop {
    TurnOff,
    Save,
    ShutDown,
}

/// Change a machine; what is not named stays
#[derive(Debug, Args)]
#[command(override_usage = "nestling vm set <VM> <OPTION>...")]
pub struct Set {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Memory
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Processors
    #[arg(long, value_name = "COUNT")]
    processors: Option<u32>,
    /// Show the guest the processor's virtualization extensions
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true)]
    expose_extensions: Option<OnOff>,
    /// What to do with it when the host starts
    #[arg(long, value_name = "ACTION", value_enum)]
    start_action: Option<AtStart>,
    /// How long to wait with that
    #[arg(long, value_name = "SECONDS")]
    start_delay: Option<u32>,
    /// What to do with it when the host stops
    #[arg(long, value_name = "ACTION", value_enum)]
    stop_action: Option<AtStop>,
    /// Let the firmware look for a boot loader on the disks
    #[arg(long, conflicts_with = "kernel")]
    firmware: bool,
    /// Start this kernel instead of firmware
    #[arg(long, value_name = "PATH")]
    kernel: Option<String>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initrd: Option<String>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernel", allow_hyphen_values = true)]
    append: Option<String>,
    /// Words for people
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
    /// Put a tag on it, by which jobs choose it; can be given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Take a tag away; can be given again
    #[arg(long, value_name = "TAG")]
    untag: Vec<String>,
}

impl Set {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let change = self.change.into_wire(session, self.vm.split().0)?;
        session.printer.changed(&client.change_vm(vm, &change).await?)
    }
}

impl Change {
    fn into_wire(self, session: &Session, hosts: &[VmName]) -> Result<v1::VmChange> {
        let file = |path: Option<String>| path.map(|p| session.file(hosts, &p)).transpose();
        let initrd = file(self.initrd)?;
        let boot = match file(self.kernel)? {
            Some(kernel) => {
                Some(v1::Boot::Kernel { kernel, initrd, append: self.append.unwrap_or_default() })
            }
            None => self.firmware.then_some(v1::Boot::Firmware),
        };
        Ok(v1::VmChange {
            name: None,
            notes: self.notes,
            add_tags: self.tag,
            remove_tags: self.untag,
            processor_count: self.processors,
            expose_virtualization_extensions: self.expose_extensions.map(OnOff::is_on),
            memory_startup_bytes: self.memory,
            start_action: self.start_action.map(AtStart::into_wire),
            start_delay_seconds: self.start_delay,
            stop_action: self.stop_action.map(|stop| match stop {
                AtStop::TurnOff => v1::StopAction::TurnOff,
                AtStop::Save => v1::StopAction::Save,
                AtStop::ShutDown => v1::StopAction::ShutDown,
            }),
            boot,
        })
    }
}
