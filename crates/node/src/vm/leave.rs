//! What a machine's task does for exports: it has the disks read as they lie, while the machine is off.

use nestling_block::nbd::{NbdAddress, NbdUri};
use nestling_hypervisor::disk;
use nestling_model::{Disk, Operation, Vm};

use super::{owner::Owner, task::Handle};
use crate::{error::Result, exchange::ExchangeFailed, protection::readings::Reading};

/// A machine whose disks are served until the reading ends.
pub struct Leaving {
    pub vm: Vm,
    pub disks: Vec<LeavingDisk>,
    pub reading: Reading,
}

pub struct LeavingDisk {
    pub disk: Disk,
    pub bytes: u64,
    pub uri: NbdUri,
}

impl Handle {
    pub async fn serve_disks(&self) -> Result<Leaving> {
        self.ask(Operation::ModifyWhenOff, |owner| Box::pin(owner.serve_disks())).await
    }
}

impl Owner {
    async fn serve_disks(&mut self) -> Result<Leaving> {
        self.check_here()?;
        let readings = &self.node.protection.readings;
        if readings.is_held(self.vm.id) {
            return Err(ExchangeFailed::BeingRead { vm: self.vm.name.clone() }.into());
        }
        let qemu = self.node.engines.qemu().await?;
        let (mut servers, mut disks) = (Vec::new(), Vec::new());
        for image in &self.vm.disks {
            let bytes = disk::info(&qemu, &image.path, Some(image.format)).await?.virtual_bytes;
            let server = self.serve(&qemu, image, None).await?;
            let (address, export) =
                (NbdAddress::Unix(server.socket().to_owned()), server.export().to_owned());
            disks.push(LeavingDisk { disk: image.clone(), bytes, uri: NbdUri { address, export } });
            servers.push(server);
        }
        Ok(Leaving { vm: self.vm.clone(), disks, reading: readings.hold(self.vm.id, servers) })
    }
}
