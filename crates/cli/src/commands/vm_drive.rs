//! `nestling vm drive`: the disks in a machine.

use clap::{Args, Subcommand, ValueEnum};
use nestling_api::v1::{self, ErrorCode};
use nestling_model::VmPath;

use crate::{
    args::vm_path,
    failure::{Failure, Result},
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
        #[arg(value_name = "VM", value_parser = vm_path)]
        vm: VmPath,
    },
    Add(Add),
    /// Detach a disk; its file stays
    Remove {
        #[arg(value_name = "VM", value_parser = vm_path)]
        vm: VmPath,
        /// Its place, such as SCSI:0, or its file
        #[arg(value_name = "DRIVE")]
        drive: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Controller {
    Ide,
    Scsi,
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
    #[arg(value_name = "VM", value_parser = vm_path)]
    vm: VmPath,
    #[arg(value_name = "PATH")]
    path: String,
    /// [default: scsi]
    #[arg(long, value_enum)]
    controller: Option<Controller>,
    /// [default: the first free one]
    #[arg(long, value_name = "NUMBER")]
    location: Option<u8>,
    /// [default: what the file says; a raw image has to be named so]
    #[arg(long, value_enum)]
    format: Option<Format>,
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
            Command::Remove { vm, drive } => remove(session, &vm, &drive).await,
        }
    }
}

impl Add {
    async fn run(self, session: &Session) -> Result {
        let new = v1::NewDrive {
            path: session.file(self.vm.split().0, &self.path)?,
            controller: self.controller.map(|controller| match controller {
                Controller::Ide => v1::Controller::Ide,
                Controller::Scsi => v1::Controller::Scsi,
            }),
            location: self.location,
            format: self.format.map(Format::into_wire),
            read_only: self.read_only,
        };
        let (client, vm) = session.at(&self.vm).await?;
        session.printer.changed(&client.add_drive(vm, &new).await?)
    }
}

async fn remove(session: &Session, path: &VmPath, wanted: &str) -> Result {
    let (client, vm) = session.at(path).await?;
    let vm = client.vm(vm).await?;
    let file = session.file(path.split().0, wanted)?;
    let drive = vm.drives.iter().find(|d| d.path == file || place(d).eq_ignore_ascii_case(wanted));
    let drive = drive.ok_or_else(|| {
        Failure::new(ErrorCode::NotFound, format!("{} has no disk \"{wanted}\"", vm.name))
            .hint(format!("see nestling vm drive list {path}"))
            .object(vm.name.clone())
    })?;
    client.remove_drive(&vm.id.to_string(), drive.controller, drive.location).await?;
    session.printer.changed(drive)
}

fn place(drive: &v1::Drive) -> String {
    let controller = match drive.controller {
        v1::Controller::Ide => "IDE",
        v1::Controller::Scsi => "SCSI",
    };
    format!("{controller}:{}", drive.location)
}

pub fn table(drives: &[v1::Drive]) -> String {
    let mut table = Table::new(&["DRIVE", "FORMAT", "ACCESS", "PATH"]);
    for drive in drives {
        table.row([
            place(drive),
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
