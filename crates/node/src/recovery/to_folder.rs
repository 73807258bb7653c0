//! A point goes out: its disks in a format of others, with descriptions of its machine beside them, into a folder that comes
//! whole or not at all.

use std::{path::Path, sync::Arc};

use nestling_exchange::Machine;
use nestling_hypervisor::disk::{self, ImageFormat};
use nestling_model::protection::DiskSelector;

use super::{
    book::Entry,
    source::{Source, SourceDisk},
    values::RecoveredDisk,
    write::{Onto, Write},
};
use crate::{
    Node,
    error::Result,
    exchange::{KERNEL_ONLY_FOR_LIBVIRT, NewFolder, describe, describe_disk, write_descriptions},
};

pub struct ToFolder<'a> {
    pub node: &'a Node,
    pub entry: &'a Entry,
    pub source: &'a Arc<Source>,
    pub disks: &'a [DiskSelector],
    pub folder: &'a Path,
    pub format: ImageFormat,
}

impl ToFolder<'_> {
    pub async fn run(&self) -> Result<()> {
        self.entry.does("making the folder");
        let folder = NewFolder::begin(&self.node.keeper, self.folder).await?;
        self.node.steps.reached("a folder begun");
        match self.fill(folder.part()).await {
            Ok(()) => folder.finish().await,
            Err(error) => {
                folder.undo().await?;
                Err(error)
            }
        }
    }

    async fn fill(&self, part: &Path) -> Result<()> {
        let mut written = Vec::new();
        for from in self.source.wanted(self.disks)? {
            let file = format!("{}.{}", from.name, self.format);
            self.write(&from, &file, &part.join(&file)).await?;
            let read_only = self.source.described(&from).is_some_and(|described| described.read_only);
            let at = (from.controller, from.location);
            written.push(describe_disk(at, file, self.format, read_only, from.size_bytes));
            self.node.steps.reached("a disk exported");
        }
        self.entry.does("describing the machine");
        let Ok(description) = self.source.description() else {
            self.entry.warn("the point does not say of which machine it is, so there are disks only");
            return Ok(());
        };
        let named =
            |id| description.switches.iter().find(|switch| switch.id == id).map(|switch| switch.name.clone());
        let machine = Machine { disks: written, ..describe(&description.vm, named) };
        if machine.kernel.is_some() {
            self.entry.warn(KERNEL_ONLY_FOR_LIBVIRT);
        }
        write_descriptions(&machine, part, self.folder).await
    }

    async fn write(&self, from: &SourceDisk, file: &str, path: &Path) -> Result<()> {
        let qemu = self.node.engines.qemu().await?;
        disk::create_leaving(&qemu, path, self.format, from.size_bytes).await?;
        let (node, entry, source, format) = (self.node, self.entry, self.source, self.format);
        let write = Write { node, entry, source, disk: from, path, format, onto: Onto::New };
        let written_bytes = write.run().await?;
        let (name, path, size_bytes) = (from.name.clone(), self.folder.join(file), from.size_bytes);
        self.entry
            .note(|recovery| recovery.disks.push(RecoveredDisk { name, path, size_bytes, written_bytes }));
        Ok(())
    }
}
