//! What a machine's task does for recoveries: it gives its disks away and takes them back, and has those brought over that
//! it runs from the vault.

use nestling_hypervisor::{capture::DiskPlace, disk};
use nestling_model::{Disk, DiskFormat, Operation, protection::PointId};

use super::owner::Owner;
use crate::{
    NodeError,
    error::{Object, Result},
    recovery::SourceDisk,
};

impl Owner {
    /// Nothing is left of what was tracked on these disks, nobody reads them any more, and they are written down as
    /// unfinished: the machine does not start with them until they are whole.
    pub async fn give_disks(
        &mut self,
        wanted: Vec<SourceDisk>,
        point: PointId,
        recovery: u64,
    ) -> Result<Vec<Disk>> {
        self.admit(Operation::ModifyWhenOff)?;
        self.check_here()?;
        let qemu = self.node.engines.qemu().await?;
        let mut given = Vec::new();
        for disk in &wanted {
            let image = self.writable_disk(disk)?;
            let info = disk::info(&qemu, &image.path, Some(image.format)).await?;
            if info.virtual_bytes != disk.size_bytes {
                return Err(NodeError::Invalid(format!(
                    "{} of '{}' has {} bytes now and had {} then; recover it as a new machine, or leave the disk out",
                    disk.name, self.vm.name, info.virtual_bytes, disk.size_bytes
                )));
            }
            self.node.vms.no_parent(&image.path, None).await?;
            given.push(image);
        }
        self.free_images("the machine is recovered").await;
        let paths = given.iter().map(|disk| disk.path.clone()).collect();
        self.node.recovery.unfinished.begin(paths, point, recovery).await?;
        self.node.steps.reached("disks given");
        for image in given.iter().filter(|image| image.format == DiskFormat::Qcow2) {
            self.drop_tracking(&qemu, image).await?;
        }
        Ok(given)
    }

    fn writable_disk(&self, wanted: &SourceDisk) -> Result<Disk> {
        let at = |disk: &&Disk| (disk.controller, disk.location) == (wanted.controller, wanted.location);
        let missing = || NodeError::NotFound { object: Object::Drive, name: wanted.name.clone() };
        let disk = self.vm.disks.iter().find(at).ok_or_else(missing)?;
        if disk.read_only {
            return Err(NodeError::Invalid(format!(
                "{} of '{}' is read-only; leave it out: name the disks that are to be recovered (--disk)",
                wanted.name, self.vm.name
            )));
        }
        Ok(disk.clone())
    }

    /// Refuses what needs all of the disks to be here.
    pub fn check_here(&self) -> Result<()> {
        match self.node.recovery.instant.get(self.vm.id) {
            Some(_) => Err(NodeError::RunsFromVault { vm: self.vm.name.clone() }),
            None => Ok(()),
        }
    }

    pub async fn begin_stream(&mut self, disk: DiskPlace) -> Result<()> {
        self.machine()?.begin_stream(disk).await.map_err(|e| self.refused(e))
    }

    pub async fn resume_stream(&mut self, disk: DiskPlace) -> Result<()> {
        self.machine()?.resume_stream(disk).await.map_err(|e| self.refused(e))
    }

    pub async fn dismiss_stream(&mut self, disk: DiskPlace) -> Result<()> {
        self.machine()?.dismiss_stream(disk).await.map_err(|e| self.refused(e))
    }

    /// They are whole, and as they lie now.
    pub async fn take_disks_back(&mut self, disks: Vec<Disk>) -> Result<()> {
        for disk in &disks {
            self.seal_image(disk).await?;
        }
        Ok(())
    }
}
