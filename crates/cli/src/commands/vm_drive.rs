//! `nestling vm drive`: the disks in a machine.

use clap::{Args, Subcommand, ValueEnum};
use nestling_api::v1;
use nestling_model::VmPath;

use crate::{
    args::{VM, vm_path},
    failure::Result,
    session::Session,
    text::Table,
};

/// Disks in a machine
#[derive(Debug, Args)]
pub struct Drives {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the disks in the machine
    List {
        #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
        vm: VmPath,
    },
    Add(Add),
    /// Detach a disk; its file stays
    Remove {
        #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
        vm: VmPath,
        #[arg(value_enum, help = "What it is attached to")]
        controller: Controller,
        #[arg(value_name = "NUMBER", help = "Its place there")]
        location: u8,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Controller {
    Ide,
    Scsi,
}

impl Controller {
    fn into_wire(self) -> v1::Controller {
        match self {
            Self::Ide => v1::Controller::Ide,
            Self::Scsi => v1::Controller::Scsi,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Qcow2,
    Raw,
}

impl Format {
    pub fn into_wire(self) -> v1::DiskFormat {
        match self {
            Self::Qcow2 => v1::DiskFormat::Qcow2,
            Self::Raw => v1::DiskFormat::Raw,
        }
    }
}

/// Attach a disk image; a machine that runs sees it at once
#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// The disk image's file
    #[arg(value_name = "PATH")]
    path: String,
    /// What it is attached to [default: scsi]
    #[arg(long, value_enum)]
    controller: Option<Controller>,
    /// Its place there [default: the first free one]
    #[arg(long, value_name = "NUMBER")]
    location: Option<u8>,
    /// What it is [default: what the file says; a raw image has to be named so]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Let the guest not write to it
    #[arg(long)]
    read_only: bool,
}

impl Drives {
    pub async fn run(self, session: &Session) -> Result {
        match self.command {
            Command::List { vm } => {
                let (client, vm) = session.at(&vm).await?;
                session.printer.list(&client.vm(vm).await?.drives, table)
            }
            Command::Add(add) => add.run(session).await,
            Command::Remove { vm, controller, location } => {
                let (client, vm) = session.at(&vm).await?;
                Ok(client.remove_drive(vm, controller.into_wire(), location).await?)
            }
        }
    }
}

impl Add {
    async fn run(self, session: &Session) -> Result {
        let new = v1::NewDrive {
            path: session.file(self.vm.split().0, &self.path)?,
            controller: self.controller.map(Controller::into_wire),
            location: self.location,
            format: self.format.map(Format::into_wire),
            read_only: self.read_only,
        };
        let (client, vm) = session.at(&self.vm).await?;
        session.printer.changed(&client.add_drive(vm, &new).await?)
    }
}

pub fn table(drives: &[v1::Drive]) -> String {
    let mut table = Table::new(&["CONTROLLER", "NUMBER", "FORMAT", "ACCESS", "PATH"]).right(&[1]);
    for drive in drives {
        table.row([
            match drive.controller {
                v1::Controller::Ide => "IDE",
                v1::Controller::Scsi => "SCSI",
            }
            .to_owned(),
            drive.location.to_string(),
            format_name(drive.format).to_owned(),
            if drive.read_only { "read-only" } else { "read-write" }.to_owned(),
            drive.path.clone(),
        ]);
    }
    table.text()
}

pub fn format_name(format: v1::DiskFormat) -> &'static str {
    match format {
        v1::DiskFormat::Qcow2 => "qcow2",
        v1::DiskFormat::Raw => "raw",
    }
}
