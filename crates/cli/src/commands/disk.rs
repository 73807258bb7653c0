//! `nestling disk`: disk images as files.

use clap::{Args, Subcommand};
use nestling_api::v1;

use super::vm_drive::format_name;
use crate::{
    failure::Result,
    session::Session,
    text::{self, fields, parse_size},
};

/// Disk images
#[derive(Debug, Args)]
pub struct Disk {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    /// Show what is known of a disk image
    Info {
        #[arg(value_name = "PATH", help = "The disk image's file")]
        path: String,
    },
    /// Make a disk image larger
    Resize {
        #[arg(value_name = "PATH", help = "The disk image's file")]
        path: String,
        #[arg(value_name = "SIZE", value_parser = parse_size, help = "Its size from now on")]
        size: u64,
    },
}

/// Create a disk image (qcow2)
#[derive(Debug, Args)]
struct Create {
    #[arg(value_name = "PATH", help = "The disk image's file")]
    path: String,
    /// Its size [default: the parent's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, required_unless_present = "parent")]
    size: Option<u64>,
    /// Take all of its space now
    #[arg(long, conflicts_with = "parent")]
    fixed: bool,
    /// Keep only what differs from this disk image
    #[arg(long, value_name = "PATH")]
    parent: Option<String>,
}

impl Disk {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        match self.command {
            Command::Create(create) => {
                session.printer.changed(&client.create_disk(&create.into_wire(session)?).await?)
            }
            Command::Info { path } => {
                session.printer.show(&client.disk(&session.file(&[], &path)?).await?, details)
            }
            Command::Resize { path, size } => {
                session.printer.changed(&client.resize_disk(&session.file(&[], &path)?, size).await?)
            }
        }
    }
}

impl Create {
    fn into_wire(self, session: &Session) -> Result<v1::NewDisk> {
        let kind = match (&self.parent, self.fixed) {
            (Some(_), _) => v1::DiskKind::Differencing,
            (None, true) => v1::DiskKind::Fixed,
            (None, false) => v1::DiskKind::Dynamic,
        };
        Ok(v1::NewDisk {
            path: session.file(&[], &self.path)?,
            kind,
            size_bytes: self.size,
            parent: self.parent.map(|p| session.file(&[], &p)).transpose()?,
        })
    }
}

fn details(disk: &v1::DiskInfo) -> String {
    fields(&[
        ("Path", disk.path.clone()),
        ("Format", format_name(disk.format).to_owned()),
        ("Kind", format!("{:?}", disk.kind)),
        ("Size", text::size(disk.size_bytes)),
        ("Takes", text::size(disk.file_bytes)),
        ("Parent", disk.parent.clone().unwrap_or_default()),
        ("Machine", disk.vm.clone().unwrap_or_default()),
    ])
}
