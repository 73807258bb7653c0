//! A point goes back over the disks of its machine: only what differs is written.
//!
//! The order that keeps a machine from half a disk: its task gives the disks away, which are written down as unfinished;
//! they are written; when all of them are durable, the task takes them back and they are forgotten as unfinished.

use std::{path::PathBuf, sync::Arc};

use nestling_model::{Disk, Operation, Vm, VmId, protection::DiskSelector};

use super::{
    book::Entry,
    kernel::{self, Chosen, Wanted, Without},
    source::{Source, SourceDisk},
    values::RecoveredDisk,
    write::{Onto, Write},
};
use crate::{
    Node,
    blocking::blocking,
    error::Result,
    protection::description::place_of,
    vm::{Asked, Handle},
};

pub struct InPlace<'a> {
    pub node: &'a Node,
    pub entry: &'a Entry,
    pub source: &'a Arc<Source>,
    pub disks: &'a [DiskSelector],
    pub vm: VmId,
}

impl InPlace<'_> {
    pub async fn run(&self) -> Result<Arc<Handle>> {
        let handle = self.node.vms.find(&self.vm.0.to_string())?;
        let name = handle.now().vm.name.clone();
        let unfinished = &self.node.recovery.unfinished;
        let _hold = unfinished.hold(self.vm, &name, self.entry.number())?;
        let wanted = self.wanted(&handle)?;
        self.entry.does("taking the machine's disks");
        let (asked, point, number) = (wanted.clone(), self.source.id(), self.entry.number());
        let given =
            handle.ask(when_off(), move |owner| Box::pin(owner.give_disks(asked, point, number))).await?;
        self.node.steps.reached("disks taken");
        let paths: Vec<PathBuf> = given.iter().map(|disk| disk.path.clone()).collect();
        if let Err(error) = self.write_all(&wanted, &given).await {
            self.entry.warn(format!(
                "'{name}' does not start, and is not backed up, until it has been recovered again: its disks are neither what \
                 they were nor what they should be"
            ));
            return Err(error);
        }
        self.node.steps.reached("disks recovered");
        handle.ask(when_off(), move |owner| Box::pin(owner.take_disks_back(given))).await?;
        unfinished.forget(&paths).await?;
        self.node.steps.reached("disks whole");
        self.find_kernel(&handle).await?;
        Ok(handle)
    }

    /// The machine stays defined as it is now, unless the kernel that it starts from has gone.
    async fn find_kernel(&self, handle: &Handle) -> Result<()> {
        let vm = Arc::clone(&handle.now().vm);
        let described = vm.boot.clone();
        if !blocking(move || Ok(kernel::is_missing(&described))).await? {
            return Ok(());
        }
        let (described, without) = (vm.boot.clone(), Without::OwnDisk);
        let chosen = self.node.kernel_for(Wanted { described, present: None, image: None, without }).await;
        // The disks are whole, whatever else is wrong here.
        match chosen.unwrap_or_else(|error| Err(error.message())) {
            Ok(Chosen { boot, warning }) => {
                warning.into_iter().for_each(|warning| self.entry.warn(warning));
                let changed = handle.ask(when_off(), move |owner| {
                    Box::pin(async move {
                        let vm = Vm { boot, ..owner.vm.clone() };
                        owner.commit(vm).await
                    })
                });
                changed.await
            }
            Err(why) => {
                self.entry.warn(format!("its disks are recovered, and it does not start: {why}"));
                Ok(())
            }
        }
    }

    async fn write_all(&self, wanted: &[SourceDisk], given: &[Disk]) -> Result<()> {
        for (disk, image) in wanted.iter().zip(given) {
            let write = Write {
                node: self.node,
                entry: self.entry,
                source: self.source,
                disk,
                path: &image.path,
                format: image.format.into(),
                onto: Onto::There,
            };
            let written_bytes = write.run().await?;
            self.node.steps.reached("a disk overwritten");
            let (name, path) = (disk.name.clone(), image.path.clone());
            let recovered = RecoveredDisk { name, path, size_bytes: disk.size_bytes, written_bytes };
            self.entry.note(|recovery| recovery.disks.push(recovered));
        }
        Ok(())
    }

    /// The disks of the point that are named; if none is, all that the machine can write to.
    fn wanted(&self, handle: &Handle) -> Result<Vec<SourceDisk>> {
        let mut wanted = self.source.wanted(self.disks)?;
        if !self.disks.is_empty() {
            return Ok(wanted);
        }
        let is_at =
            |disk: &Disk, w: &SourceDisk| (w.controller, w.location) == (disk.controller, disk.location);
        for disk in &handle.now().vm.disks {
            let place = place_of(disk);
            if disk.read_only {
                wanted.retain(|w| !is_at(disk, w));
            } else if !wanted.iter().any(|w| is_at(disk, w)) {
                self.entry.warn(format!("{place}: the point does not have it, and it stays as it is"));
            }
        }
        Ok(wanted)
    }
}

fn when_off() -> Asked {
    Asked { for_recovery: true, ..Operation::ModifyWhenOff.into() }
}
