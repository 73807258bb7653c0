//! `nestling recover export`: a point goes out to other programs.

use clap::{Args, ValueEnum};
use nestling_api::v1;

use super::{
    recover::{POINT, REPOSITORY},
    recover_vm::recover,
};
use crate::{failure::Result, session::Session};

/// Write the disks of a recovery point to a new folder, in a format of others, with the machine's description
///
/// The disks are written straight from the vault, and take only the room of what is in them. Beside them lie `machine.ovf`, for
/// most programs, and `machine.xml`, for libvirt; `nestling import` reads both. The folder comes whole or not at all: it must
/// not be there yet, and if the export fails or is cancelled, nothing is left.
#[derive(Debug, Args)]
pub struct Export {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    /// The folder to make
    #[arg(value_name = "DIR")]
    folder: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    /// What the disks are written as
    #[arg(long, value_enum, default_value_t = ImageFormat::Qcow2)]
    format: ImageFormat,
    /// Only this disk: scsi:1, ide:0, or file: and the name of its image's file, with * and ?; can be given again
    #[arg(long, value_name = "DISK")]
    disk: Vec<String>,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vhdx,
    Vmdk,
}

impl ImageFormat {
    pub fn into_wire(self) -> v1::ImageFormat {
        match self {
            Self::Raw => v1::ImageFormat::Raw,
            Self::Qcow2 => v1::ImageFormat::Qcow2,
            Self::Vhdx => v1::ImageFormat::Vhdx,
            Self::Vmdk => v1::ImageFormat::Vmdk,
        }
    }
}

impl Export {
    pub async fn run(self, session: &Session) -> Result {
        let detach = self.detach;
        recover(session, &self.into_wire(session)?, detach).await
    }

    fn into_wire(self, session: &Session) -> Result<v1::NewRecovery> {
        Ok(v1::NewRecovery {
            point: self.point,
            repository: self.repository,
            disks: self.disk,
            export_folder: Some(session.file(&[], &self.folder)?),
            export_format: Some(self.format.into_wire()),
            ..v1::NewRecovery::default()
        })
    }
}
