//! A machine that is off goes out: its disks as they lie, in a format of others, with descriptions beside them.
//!
//! The images are read through servers, so that nothing writes to them meanwhile. A start that comes wins: the export ends
//! then, and leaves nothing.

use std::{path::Path, sync::Arc};

use nestling_exchange::Machine;
use nestling_hypervisor::disk;
use nestling_identity::{Action, Identity};
use tokio::sync::mpsc;

use super::{
    copied::Copied,
    describe::{self, describe},
    error::ExchangeFailed,
    folder::NewFolder,
    teller::{self, Teller},
    values::{ExchangeStep, ExportWish},
};
use crate::{
    Node,
    blocking::blocking,
    error::Result,
    protection::description::place_of,
    vm::{Handle, Leaving},
    written,
};

impl Node {
    /// Begins to write a machine that is off to a new folder; the receiver is told how far it is, and how it ended.
    pub async fn export_vm(
        &self,
        who: &Identity,
        vm: &str,
        wish: ExportWish,
    ) -> Result<mpsc::Receiver<ExchangeStep>> {
        self.authorize(who, Action::ReadVms)?;
        self.authorize(who, Action::ChangeDisks)?;
        let (node, handle) = (self.clone(), self.vms.find(vm)?);
        Ok(teller::told(self, async move |teller| Export { node, handle, wish, teller }.run().await))
    }
}

struct Export {
    node: Node,
    handle: Arc<Handle>,
    wish: ExportWish,
    teller: Teller,
}

impl Export {
    async fn run(self) -> Result<Arc<Handle>> {
        let leaving = self.handle.serve_disks().await?;
        let filled = match NewFolder::begin(&self.node.keeper, &self.wish.folder).await {
            Ok(folder) => match self.fill(folder.part(), &leaving).await {
                Ok(()) => folder.finish().await,
                Err(error) => {
                    folder.undo().await?;
                    Err(error)
                }
            },
            Err(error) => Err(error),
        };
        // Why somebody else ended it counts before the broken connection that was seen.
        let why = leaving.reading.ended().map(str::to_owned);
        leaving.reading.end().await;
        match (filled, why) {
            (Err(_), Some(why)) => {
                Err(ExchangeFailed::Ended { vm: self.handle.now().vm.name.clone(), why }.into())
            }
            (filled, _) => filled.map(|()| self.handle),
        }
    }

    async fn fill(&self, part: &Path, leaving: &Leaving) -> Result<()> {
        let qemu = self.node.engines.qemu().await?;
        let (format, total) = (self.wish.format, leaving.disks.iter().map(|disk| disk.bytes).sum());
        let (mut written, mut before) = (Vec::new(), 0);
        for leaves in &leaving.disks {
            let place = place_of(&leaves.disk);
            let file = format!("{place}.{format}");
            let path = part.join(&file);
            disk::create_leaving(&qemu, &path, format, leaves.bytes).await?;
            let uri = leaves.uri.clone();
            let from = blocking(move || {
                let name = uri.to_string();
                written::connect(&uri).map_err(|source| ExchangeFailed::Disk { file: name, source }.into())
            });
            let socket = format!("e{}-{place}", crate::home::short(leaving.vm.id));
            let (node, teller, from) = (&self.node, &self.teller, Arc::new(from.await?));
            Copied { node, teller, from, path: &path, format, socket: &socket, before, total }.run().await?;
            before += leaves.bytes;
            let at = (leaves.disk.controller, leaves.disk.location);
            written.push(describe::disk(at, file, format, leaves.disk.read_only, leaves.bytes));
        }
        let defined = self.node.networks.defined();
        let named = |id| defined.switch_name(Some(id)).map(|name| name.to_string());
        let machine = Machine { disks: written, ..describe(&leaving.vm, named) };
        if machine.kernel.is_some() {
            self.teller.warn(describe::KERNEL_ONLY_FOR_LIBVIRT.to_owned()).await;
        }
        describe::write(&machine, part, &self.wish.folder).await
    }
}
