//! A point becomes a new machine.
//!
//! As `vm::create` makes one: what is to come is written down, disks are written under temporary names, then the
//! definition is stored and the disks get their names. Names, ids, addresses and paths are claimed until then. Whatever ends
//! it leaves the whole machine or nothing.

use std::{path::PathBuf, sync::Arc};

use nestling_hypervisor::disk;
use nestling_model::{
    Adapter, AdapterId, Disk, DiskFormat, StartAction, Vm, VmId, VmState,
    adapter::ADAPTERS_MAX,
    protection::{DiskSelector, Message, PointId},
};
use tokio::sync::OwnedRwLockReadGuard;
use uuid::Uuid;

use super::{
    book::Entry,
    define::{self, Plug},
    instant::{self, InstantBoot, InstantDisk},
    kernel::{Wanted, Without},
    source::{Source, SourceDisk},
    values::{RecoveredDisk, SwitchMapping},
    write::{Onto, Write},
};
use crate::{
    Node, NodeError,
    blocking::at_disks,
    clock::now_ms,
    error::Result,
    vm::{Claim, DiskUse, Handle},
};

/// So many disks of one name may lie there from before.
const NAMES_MAX: u32 = 1000;

pub struct AsNew<'a> {
    pub node: &'a Node,
    pub entry: &'a Entry,
    pub source: &'a Arc<Source>,
    pub disks: &'a [DiskSelector],
    pub switches: &'a [SwitchMapping],
    pub no_switch: bool,
    pub format: Option<DiskFormat>,
    pub new_identity: bool,
    /// Its disks stay in the vault for now.
    pub instant: bool,
    /// Whose kernel it starts from instead of the one that it had.
    pub image: Option<&'a str>,
    /// It runs for this proof and no longer.
    pub proof: Option<u64>,
}

/// A disk to be made.
struct NewDisk {
    from: SourceDisk,
    disk: Disk,
}

/// A machine to be made, and what is kept for it.
struct Planned {
    vm: Vm,
    disks: Vec<NewDisk>,
    /// The switch of each adapter.
    plugs: Vec<Plug>,
    _claims: Vec<Claim>,
}

impl AsNew<'_> {
    pub async fn run(&self) -> Result<Arc<Handle>> {
        self.entry.does("making the machine");
        let planned = self.plan().await?;
        let id = planned.vm.id;
        let paths: Vec<PathBuf> = planned.disks.iter().map(|new| new.disk.path.clone()).collect();
        // What is claimed is let go of when the machine has it.
        let stored = self
            .node
            .store_with_files(id, &paths, async |temporary: Vec<PathBuf>| {
                for (new, path) in planned.disks.iter().zip(&temporary) {
                    self.make(id, new, path).await?;
                    self.node.steps.reached("a disk recovered");
                }
                if self.instant {
                    self.serve(&planned).await?;
                }
                self.plugged(&planned).await
            })
            .await;
        let (vm, _plugged) = match stored {
            Ok(stored) => stored,
            Err(error) => {
                self.node.recovery.instant.end(id).await?;
                return Err(error);
            }
        };
        let vm_id = vm.id.0;
        self.entry.note(|recovery| recovery.vm_id = Some(vm_id));
        Ok(self.node.adopt_new(vm))
    }

    async fn plan(&self) -> Result<Planned> {
        let description = self.source.description()?;
        let name = self.entry.recovery().vm;
        let mut claims = Vec::new();
        let (id, claim) = self.id(description.vm.id);
        claims.extend(claim);
        claims.push(self.node.vms.claim_name(&name, id)?);
        let mut vm = Vm {
            id,
            name,
            created_at_ms: now_ms(),
            adapters: self.adapters(&description.vm, &mut claims)?,
            disks: Vec::new(),
            boot: self.boot(&description.vm).await?,
            state: VmState::Off,
            state_reason: None,
            ..description.vm.clone()
        };
        if let Some(proof) = self.proof {
            let (point, of) = (self.source.point.short_id(), &self.source.point.name);
            let notes =
                format!("Runs for proof {proof} of recovery point {point} of '{of}', and goes with it.");
            vm.notes = Message::from(notes).to_string();
            vm.start_action = StartAction::Nothing;
        }
        crate::vm::check_notes(&vm.notes)?;
        let plugs = self.plugs(&description.vm.adapters)?;
        let mut disks = Vec::new();
        for from in self.source.wanted(self.disks)? {
            let disk = self.new_disk(&vm, &from).await?;
            let path = disk.path.clone();
            claims.push(self.node.vms.claim_disk(&disk.path, move || DiskUse::of_new(&path, None)).await?);
            vm.disks.push(disk.clone());
            disks.push(NewDisk { from, disk });
        }
        self.warn_of_left_out(&disks);
        let limits = self.node.limits();
        vm.validate(&limits).map_err(|source| NodeError::Create { vm: vm.name.clone(), source })?;
        Ok(Planned { vm, disks, plugs, _claims: claims })
    }

    /// As it was, if no machine here has it.
    fn id(&self, was: VmId) -> (VmId, Option<Claim>) {
        if !self.new_identity
            && let Some(claim) = self.node.vms.claim_id(was)
        {
            return (was, Some(claim));
        }
        let id = self.node.vms.free_id();
        (id, self.node.vms.claim_id(id))
    }

    /// With the addresses that they had, where those are free. Which switch they get is another question.
    fn adapters(&self, then: &Vm, claims: &mut Vec<Claim>) -> Result<Vec<Adapter>> {
        let mut adapters = define::adapters(&then.adapters)?;
        for adapter in &mut adapters {
            adapter.id = self.node.vms.free_adapter_id();
            adapter.switch = None;
            let as_before = self.node.vms.claim_mac(adapter.mac, AdapterId(Uuid::nil())).ok();
            match as_before.filter(|_| !self.new_identity) {
                Some(claim) => claims.push(claim),
                None => {
                    let (mac, claim) = self.node.vms.claim_dynamic_mac(self.node.tag())?;
                    (adapter.mac, adapter.mac_dynamic) = (mac, true);
                    claims.push(claim);
                }
            }
        }
        Ok(adapters)
    }

    async fn boot(&self, then: &Vm) -> Result<nestling_model::Boot> {
        let present = self.node.vms.find(&then.id.0.to_string()).ok();
        let wanted = Wanted {
            described: then.boot.clone(),
            present: present.map(|handle| handle.now().vm.boot.clone()),
            image: self.image.map(str::to_owned),
            without: Without::OwnDisk,
        };
        let chosen = self.node.kernel_for(wanted).await?.map_err(|why| self.source.refused(why))?;
        if let Some(warning) = chosen.warning {
            self.entry.warn(warning);
        }
        Ok(chosen.boot)
    }

    /// Every mapping must mean something, so that a slip does not leave a machine without its network.
    fn plugs(&self, then: &[Adapter]) -> Result<Vec<Plug>> {
        let (defined, switches) = (self.node.networks.defined(), &self.source.description()?.switches);
        for mapping in self.switches {
            defined.switch(&mapping.to)?;
            let is_meant = |a: &Adapter| a.switch.is_some_and(|was| define::is_meant(was, switches, mapping));
            if !then.iter().any(is_meant) {
                let why = format!("none of its adapters was plugged into \"{}\"", mapping.from);
                return Err(self.source.refused(why));
            }
        }
        if self.no_switch {
            return Ok(vec![Plug::None; then.len().min(ADAPTERS_MAX)]);
        }
        Ok(then.iter().map(|a| define::plug(a.switch, switches, &defined.switches, self.switches)).collect())
    }

    async fn new_disk(&self, vm: &Vm, from: &SourceDisk) -> Result<Disk> {
        let described = self.source.described(from);
        let read_only = described.is_some_and(|described| described.read_only);
        let was = described.map_or(DiskFormat::Qcow2, |described| described.format);
        // What the host writes for a guest's first boot is read by nothing that knows formats.
        let format = match (read_only, self.instant) {
            (true, _) => was,
            (false, true) => DiskFormat::Qcow2,
            (false, false) => self.format.unwrap_or(was),
        };
        let ending = match format {
            DiskFormat::Qcow2 => "qcow2",
            DiskFormat::Raw => "img",
        };
        let (dir, name) = (self.node.home.vm(vm.id).dir().to_owned(), from.name.clone());
        let path = at_disks(move |look| {
            look.at(&dir);
            let named = |number: u32| match number {
                1 => dir.join(format!("{name}.{ending}")),
                more => dir.join(format!("{name}-{more}.{ending}")),
            };
            // A machine of that id that is no more may have left its disks.
            let free = (1..NAMES_MAX).map(named).find(|path| path.symlink_metadata().is_err());
            free.ok_or_else(|| NodeError::Disk(disk::DiskError::Exists(named(1))))
        })
        .await?;
        Ok(Disk { path, format, controller: from.controller, location: from.location, read_only })
    }

    fn warn_of_left_out(&self, disks: &[NewDisk]) {
        let Ok(description) = self.source.description() else { return };
        for was in &description.vm.disks {
            let is_there = disks
                .iter()
                .any(|new| (new.disk.controller, new.disk.location) == (was.controller, was.location));
            if !is_there {
                self.entry.warn(format!(
                    "{}: the machine had a disk here, and is made without it",
                    crate::protection::description::place_of(was)
                ));
            }
        }
    }

    async fn make(&self, id: VmId, new: &NewDisk, path: &std::path::Path) -> Result<()> {
        let NewDisk { from, disk: Disk { format, .. } } = new;
        let qemu = self.node.engines.qemu().await?;
        if self.stays(new) {
            let socket = instant::socket(&self.node.home, id);
            let below = disk::Below { socket: &socket, export: &from.name, bytes: from.size_bytes };
            return Ok(disk::create_on_export(&qemu, path, &below).await?);
        }
        let kind = disk::DiskKind::Dynamic;
        disk::create(&qemu, path, &disk::NewDisk { format: *format, bytes: Some(from.size_bytes), kind })
            .await?;
        let write = Write {
            node: self.node,
            entry: self.entry,
            source: self.source,
            disk: from,
            path,
            format: (*format).into(),
            onto: Onto::New,
        };
        let written_bytes = write.run().await?;
        let (name, size_bytes) = (from.name.clone(), from.size_bytes);
        let recovered = RecoveredDisk { name, path: new.disk.path.clone(), size_bytes, written_bytes };
        self.entry.note(|recovery| recovery.disks.push(recovered));
        Ok(())
    }

    /// Whether a disk is read from the vault for now. What the machine can't write to is as small as it is needed at once.
    fn stays(&self, new: &NewDisk) -> bool {
        self.instant && !new.disk.read_only
    }

    /// Written down before the machine is, so that there is never one whose disks nobody serves.
    async fn serve(&self, planned: &Planned) -> Result<()> {
        let stay = planned.disks.iter().filter(|new| self.stays(new));
        let disks =
            stay.map(|new| InstantDisk { name: new.from.name.clone(), size_bytes: new.from.size_bytes });
        let boot = InstantBoot {
            vm: planned.vm.id,
            repository: self.source.known.repository.id,
            point: self.source.id(),
            identity: PointId::from_bytes(self.source.point.identity().0),
            disks: disks.collect(),
            proof: self.proof,
            finishing: false,
            problem: None,
        };
        self.node.recovery.instant.put(boot.clone()).await?;
        self.node.recovery.instant.serve(&self.node.home, &self.node.protection, &boot)
    }

    /// Plugs the adapters in. What was there when it began may have gone meanwhile: a switch is not kept for hours.
    async fn plugged(&self, planned: &Planned) -> Result<(Vm, Vec<OwnedRwLockReadGuard<()>>)> {
        let (mut vm, mut guards) = (planned.vm.clone(), Vec::new());
        for (adapter, plug) in vm.adapters.iter_mut().zip(&planned.plugs) {
            let missing = match plug {
                Plug::None => continue,
                Plug::Missing(name) => name.clone(),
                Plug::To(switch) => match self.node.plug(switch.as_str()).await {
                    Ok((id, guard)) => {
                        adapter.switch = Some(id);
                        guards.push(guard);
                        continue;
                    }
                    Err(_) => switch.to_string(),
                },
            };
            self.entry.warn(format!(
                "{}: there is no switch \"{missing}\" here, so it is not plugged in",
                adapter.name
            ));
        }
        Ok((vm, guards))
    }
}
