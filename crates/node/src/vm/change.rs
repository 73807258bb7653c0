//! Changing a machine's definition, and removing machines.

use std::path::PathBuf;

use nestling_identity::{Action, Identity};
use nestling_model::{ConfigVersion, EventKind, Operation, Vm, VmInvalid, VmState, tag::retagged};
use nestling_store::{Batch, Document};

use super::{
    create::check_notes,
    owner::Owner,
    task::{Asked, Handle},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    error::{Device, ModifyReason, Named, Result},
    journal::Note,
    node::Shared,
    protection::tracking::Tracking,
    recovery::InstantBoot,
    values::{RemovedVm, VmChange, VmView},
};

const START_DELAY_SECONDS_MAX: u32 = 7 * 24 * 3600;

impl Node {
    pub async fn change_vm(&self, who: &Identity, vm: &str, change: VmChange) -> Result<VmView> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        check(&change)?;
        let held = match &change.name {
            Some(name) => Some(self.vms.claim_name(name, handle.now().vm.id)?),
            None => None,
        };
        handle
            .ask(asked(&change), move |owner| {
                Box::pin(async move {
                    let _held = held;
                    owner.change(change).await
                })
            })
            .await?;
        self.events.tell(EventKind::VmChanged, handle.now().vm.name.as_str(), "definition changed");
        Ok(self.view(&handle.now()))
    }

    /// Gives a machine the latest configuration version. There is no way back.
    pub async fn update_version(&self, who: &Identity, vm: &str) -> Result<VmView> {
        self.authorize(who, Action::ChangeVm)?;
        let handle = self.vms.find(vm)?;
        handle
            .ask(Operation::ModifyWhenOff, |owner| {
                Box::pin(async move {
                    let vm = Vm { version: ConfigVersion::LATEST, ..owner.vm.clone() };
                    owner.commit(vm).await
                })
            })
            .await?;
        Ok(self.view(&handle.now()))
    }

    /// Removes a machine, and its disks if that is wanted; tells which files went and why others stay.
    pub async fn remove_vm(&self, who: &Identity, vm: &str, disks: bool) -> Result<RemovedVm> {
        self.authorize(who, Action::RemoveVm)?;
        let handle = self.vms.find(vm)?;
        self.remove(&handle, disks).await
    }
}

impl Shared {
    pub async fn remove(&self, handle: &Handle, disks: bool) -> Result<RemovedVm> {
        let removed = handle.ask(Operation::Remove, move |owner| Box::pin(owner.remove(disks))).await?;
        self.events.tell(EventKind::VmRemoved, handle.now().vm.name.as_str(), "virtual machine removed");
        Ok(removed)
    }
}

fn check(change: &VmChange) -> Result<()> {
    if let Some(notes) = &change.notes {
        check_notes(notes)?;
    }
    if change.start_delay_seconds.is_some_and(|s| s > START_DELAY_SECONDS_MAX) {
        return Err(NodeError::invalid("a start is delayed by at most a week (604800 seconds)"));
    }
    Ok(())
}

/// Which state a change needs, and what a refusal names.
fn asked(change: &VmChange) -> Asked {
    let when_off = |device| Asked { device, ..Operation::ModifyWhenOff.into() };
    if change.processor_count.is_some() || change.expose_virtualization_extensions.is_some() {
        when_off(Some(Device::Processor))
    } else if change.memory_startup_bytes.is_some() {
        when_off(Some(Device::Memory))
    } else if change.boot.is_some() {
        when_off(None)
    } else {
        Operation::Modify.into()
    }
}

fn changed(vm: &Vm, change: VmChange) -> Result<Vm> {
    let VmChange {
        name,
        notes,
        add_tags,
        remove_tags,
        processor_count,
        expose_virtualization_extensions,
        memory_startup_bytes,
        start_action,
        start_delay_seconds,
        stop_action,
        boot,
    } = change;
    let mut vm = vm.clone();
    vm.tags = retagged(&vm.tags, &add_tags, &remove_tags)?;
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    set(&mut vm.name, name);
    set(&mut vm.notes, notes);
    set(&mut vm.processor.count, processor_count);
    set(&mut vm.processor.expose_virtualization_extensions, expose_virtualization_extensions);
    set(&mut vm.memory.startup_bytes, memory_startup_bytes);
    set(&mut vm.start_action, start_action);
    set(&mut vm.start_delay_seconds, start_delay_seconds);
    set(&mut vm.stop_action, stop_action);
    set(&mut vm.boot, boot);
    Ok(vm)
}

/// What cannot be, in Hyper-V's shape where it has one.
fn refusal(vm: &Vm, invalid: VmInvalid) -> NodeError {
    let named = Named { name: vm.name.clone(), id: vm.id };
    let modify = |device, reason| NodeError::ModifyDevice { vm: named, device, reason };
    match invalid {
        VmInvalid::Processors { .. } | VmInvalid::NestingVersion(_) => {
            modify(Device::Processor, ModifyReason::Invalid(invalid))
        }
        VmInvalid::Memory { .. } | VmInvalid::MemoryUnit(_) => {
            modify(Device::Memory, ModifyReason::Invalid(invalid))
        }
        other => NodeError::Invalid(format!("'{}': {other}", vm.name)),
    }
}

impl Owner {
    async fn change(&mut self, change: VmChange) -> Result<()> {
        let operation = asked(&change).operation;
        self.admit(operation)?;
        let vm = changed(&self.vm, change)?;
        // A definition that this host could not give any more may still be renamed.
        if operation == Operation::ModifyWhenOff {
            vm.validate(&self.node.limits()).map_err(|invalid| refusal(&self.vm, invalid))?;
        }
        self.commit(vm).await
    }

    /// The disks that nobody else needs, and why the others stay.
    async fn own_disks(&self) -> (Vec<PathBuf>, Vec<String>) {
        let images = self.node.home.images();
        let (mut own, mut kept) = (Vec::new(), Vec::new());
        for disk in self.vm.disks.iter().filter(|d| !d.read_only && !d.path.starts_with(&images)) {
            let free = match self.node.vms.disk_user(&disk.path).await {
                Ok(Some((user, _))) if user.vm.id != self.vm.id => {
                    Err(NodeError::DiskInUse { path: disk.path.clone(), vm: user.vm.name.clone() })
                }
                Ok(_) => self.node.vms.no_parent(&disk.path, Some(self.vm.id)).await,
                Err(unknown) => Err(unknown),
            };
            match free {
                Ok(()) => own.push(disk.path.clone()),
                Err(why) => kept.push(format!("a disk was kept: {}", why.message())),
            }
        }
        (own, kept)
    }

    async fn remove(&mut self, disks: bool) -> Result<RemovedVm> {
        self.admit(Operation::Remove)?;
        self.free_images("the machine was removed").await;
        if self.vm.state == VmState::Off {
            // An engine that nobody knows of must not outlive its machine.
            self.clear_engine().await;
        }
        let mut note = Note::new(self.vm.id);
        let mut kept = Vec::new();
        if disks {
            (note.removed, kept) = self.own_disks().await;
        }
        let mut batch = Batch::default();
        batch.delete::<Vm>(self.vm.id());
        batch.delete::<Tracking>(self.vm.id());
        batch.delete::<InstantBoot>(self.vm.id());
        if !note.is_empty() {
            batch.put(&note)?;
        }
        self.node.keeper.apply(batch).await?;
        self.removed = true;
        self.node.vms.remove(self.vm.id);
        self.node.protection.tracking.forget(self.vm.id).await;
        self.node.recovery.instant.forget(self.vm.id);
        if let Err(error) = self.node.recovery.unfinished.forget(&note.removed).await {
            // A file that comes there later is another one.
            tracing::warn!(error = error.message(), "disks that are no more are still known as unfinished");
        }
        for why in &kept {
            self.node.events.tell(EventKind::Warning, self.vm.name.as_str(), why.as_str());
        }
        let removed = RemovedVm { disks: note.removed.clone(), kept };
        self.node.steps.reached("removed from the store");
        // From here on the machine is gone; files that stay now go when the node starts next.
        let files = self.files();
        let run_dir = self.node.home.run(self.vm.id);
        let cleaned = blocking(move || {
            let done = note.undo().and_then(|()| files.remove());
            let _ = std::fs::remove_dir_all(run_dir);
            done.map(|()| note)
        })
        .await;
        match cleaned {
            Ok(note) if !note.is_empty() => self.node.keeper.delete::<Note>(note.id()).await?,
            Ok(_) => {}
            Err(error) => {
                let message = format!("removed, but files are left: {}", error.message());
                self.node.events.tell(EventKind::Warning, self.vm.name.as_str(), message.as_str());
                return Ok(RemovedVm { disks: Vec::new(), kept: vec![message] });
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_would_notice_needs_a_machine_that_is_off() {
        let operation = |change: VmChange| asked(&change).operation;
        let none = VmChange::default;
        assert_eq!(operation(VmChange { notes: Some(String::new()), ..none() }), Operation::Modify);
        assert_eq!(operation(VmChange { add_tags: vec!["t".parse().unwrap()], ..none() }), Operation::Modify);
        for change in [
            VmChange { processor_count: Some(2), ..none() },
            VmChange { expose_virtualization_extensions: Some(true), ..none() },
            VmChange { memory_startup_bytes: Some(1), ..none() },
            VmChange { boot: Some(nestling_model::Boot::Firmware), notes: Some(String::new()), ..none() },
        ] {
            assert_eq!(operation(change), Operation::ModifyWhenOff);
        }
    }
}
