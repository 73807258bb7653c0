//! `nestling vm export`: a machine that is off goes out to other programs.

use clap::Args;
use nestling_api::v1;
use nestling_model::VmPath;

use super::{import::follow, recover_export::ImageFormat};
use crate::{
    args::{VM, vm_path},
    failure::Result,
    session::Session,
    text,
};

/// Write a machine that is off to a new folder, in a format of others, with its description
///
/// Beside the disks lie `machine.ovf`, for most programs, and `machine.xml`, for libvirt; `nestling import` reads both. If the
/// machine is started meanwhile, or Ctrl-C is pressed, nothing is left. A machine that runs is backed up first, and its point
/// exported: `nestling recover export`.
#[derive(Debug, Args)]
pub struct Export {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// The folder to make
    #[arg(value_name = "DIR")]
    folder: String,
    /// What the disks are written as
    #[arg(long, value_enum, default_value_t = ImageFormat::Qcow2)]
    format: ImageFormat,
}

impl Export {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let (hosts, _) = self.vm.split();
        let export = v1::ExportVm {
            folder: session.file(hosts, &self.folder)?,
            format: Some(self.format.into_wire()),
        };
        let vm = follow(session.printer, client.export_vm(vm, &export).await?).await?;
        session.printer.talk(&format!(
            "{} is exported to {}",
            text::clean(&vm.name),
            text::clean(&export.folder)
        ));
        Ok(())
    }
}
