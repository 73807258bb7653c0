//! Use cases on the disks attached to a machine; SCSI also while it runs.

use std::path::{Path, PathBuf};

use nestling_hypervisor::disk;
use nestling_identity::{Action, Identity};
use nestling_model::{Controller, Disk, DiskFormat, Operation};

use super::{disk_use::DiskUse, owner::Owner, task::Asked};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    values::NewDrive,
};

impl Node {
    pub async fn add_drive(&self, who: &Identity, vm: &str, new: NewDrive) -> Result<Disk> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        let (path, format) = self.existing_disk(&new.path, new.format).await?;
        let claim = {
            let wanted = path.clone();
            self.vms.claim_disk(&path, move || DiskUse::of(&wanted, format, new.read_only)).await?
        };
        let controller = new.controller.unwrap_or(Controller::Scsi);
        let (location, read_only) = (new.location, new.read_only);
        handle
            .ask(Operation::Modify, move |owner| {
                Box::pin(async move {
                    let _held = claim;
                    let free = || owner.vm.free_location(controller);
                    let location = location.or_else(free).ok_or_else(|| {
                        NodeError::Invalid(format!(
                            "'{}' has no free location on this controller",
                            owner.vm.name
                        ))
                    })?;
                    owner.add_disk(Disk { path, format, controller, location, read_only }).await
                })
            })
            .await
    }

    pub async fn remove_drive(
        &self,
        who: &Identity,
        vm: &str,
        controller: Controller,
        location: u8,
    ) -> Result<()> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        handle.ask(Operation::Modify, move |owner| Box::pin(owner.remove_disk(controller, location))).await
    }

    /// The one true path of a disk image that is there, and its format.
    pub(crate) async fn existing_disk(
        &self,
        path: &Path,
        format: Option<DiskFormat>,
    ) -> Result<(PathBuf, DiskFormat)> {
        let found = path.to_owned();
        let canonical = tokio::fs::canonicalize(path).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                NodeError::NotFound { object: Object::Disk, name: found.display().to_string() }
            }
            _ => NodeError::io("open", found)(e),
        })?;
        let info = disk::info(&self.engines.qemu().await?, &canonical, format).await?;
        Ok((canonical, info.format))
    }
}

impl Owner {
    async fn add_disk(&mut self, new: Disk) -> Result<Disk> {
        self.admit_device_change()?;
        let running = self.vm.state.has_engine();
        if running && new.controller == Controller::Ide {
            return Err(Asked::from(Operation::ModifyWhenOff).refuse(&self.vm, self.vm.state));
        }
        let mut vm = self.vm.clone();
        vm.disks.push(new.clone());
        vm.validate(&self.node.limits_of(&self.vm))
            .map_err(|invalid| NodeError::Invalid(format!("'{}': {invalid}", vm.name)))?;
        if running {
            self.drop_if_touched(&new).await?;
            self.machine()?.add_disk(&new).await.map_err(|e| self.refused(e))?;
        }
        if let Err(error) = self.commit(vm).await {
            if running {
                self.machine()?
                    .remove_disk(new.controller, new.location)
                    .await
                    .map_err(|e| self.refused(e))?;
            }
            return Err(error);
        }
        Ok(new)
    }

    async fn remove_disk(&mut self, controller: Controller, location: u8) -> Result<()> {
        self.admit_device_change()?;
        let at = |d: &Disk| d.controller == controller && d.location == location;
        let Some(disk) = self.vm.disks.iter().find(|disk| at(disk)).cloned() else {
            let name = format!("{controller:?} {location}");
            return Err(NodeError::NotFound { object: Object::Drive, name });
        };
        if self.vm.state.has_engine() {
            if controller == Controller::Ide {
                return Err(Asked::from(Operation::ModifyWhenOff).refuse(&self.vm, self.vm.state));
            }
            self.machine()?.remove_disk(controller, location).await.map_err(|e| self.refused(e))?;
            self.seal_image(&disk).await?;
        } else {
            self.free_images("a disk of the machine was detached").await;
        }
        let mut vm = self.vm.clone();
        vm.disks.retain(|d| !at(d));
        self.commit(vm).await
    }
}
