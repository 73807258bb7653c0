//! A machine of another program becomes one of ours.
//!
//! As `vm::create` makes one: what is to come is written down, disks are copied under temporary names into the machine's own
//! folder, then the definition is stored and the disks get their names. Whatever ends it leaves the whole machine or nothing.
//! Disks become qcow2, and what lies in several images becomes one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nestling_block::BlockSource;
use nestling_exchange::{Controller as TheirController, Firmware, Machine};
use nestling_hypervisor::disk;
use nestling_identity::{Action, Identity};
use nestling_model::{
    Adapter, AdapterId, Boot, ConfigVersion, Controller, Disk, DiskFormat, Generation, MacAddress, Memory,
    Processor, StartAction, StopAction, Vm, VmId, VmName, VmState,
    adapter::{ADAPTERS_MAX, DEFAULT_NAME},
};
use tokio::{
    sync::{OwnedRwLockReadGuard, mpsc},
    time::timeout,
};
use uuid::Uuid;

use super::{
    copied::Copied,
    find::{self, Found, FoundDisk},
    teller::{self, Teller},
    values::{ExchangeStep, ImportWish},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    clock::now_ms,
    error::{Object, Result},
    recovery::kernel::{Wanted, Without},
    vm::{Claim, DiskFile, DiskUse, Handle, NOTES_CHARS_MAX, Now},
};

const MEGABYTE: u64 = 1 << 20;
/// For a description to be read and all disks to be opened, on a host where everything is slow.
const FIND_TIMEOUT: Duration = Duration::from_secs(120);

impl Node {
    /// Begins to take a machine in; the receiver is told how far it is, and how it ended.
    pub async fn import_vm(&self, who: &Identity, wish: ImportWish) -> Result<mpsc::Receiver<ExchangeStep>> {
        self.authorize(who, Action::CreateVm)?;
        self.authorize(who, Action::ReadDisks)?;
        if wish.no_switch && !wish.switches.is_empty() {
            return Err(NodeError::invalid(
                "adapters are plugged into other switches, or into none, and not both",
            ));
        }
        let node = self.clone();
        Ok(teller::told(self, async move |teller| Import { node, wish, teller }.run().await))
    }
}

struct Import {
    node: Node,
    wish: ImportWish,
    teller: Teller,
}

/// A disk to be made, and whose bytes it gets.
struct NewDisk {
    from: Arc<dyn BlockSource>,
    disk: Disk,
}

/// A machine to be made, and what is kept for it.
struct Planned {
    vm: Vm,
    disks: Vec<NewDisk>,
    /// The switch of each adapter, as the description calls it.
    switches: Vec<Option<String>>,
    _claims: Vec<Claim>,
}

impl Import {
    async fn run(&self) -> Result<Arc<Handle>> {
        self.teller.tell("reading the description", 0, 0);
        let (path, more) = (self.wish.path.clone(), self.wish.disks.clone());
        let Found { machine, disks } = self.teller.unless_over(found(path, more)).await?;
        for what in &machine.left_out {
            self.teller.warn(format!("{what}: left out")).await;
        }
        self.check_free(&disks)?;
        let planned = self.plan(machine, disks).await?;
        let paths: Vec<_> = planned.disks.iter().map(|new| new.disk.path.clone()).collect();
        let total = planned.disks.iter().map(|new| new.from.size_bytes()).sum();
        let make = async |temporary: Vec<PathBuf>| {
            let mut before = 0;
            for (new, path) in planned.disks.iter().zip(&temporary) {
                self.copy(planned.vm.id, new, path, before, total).await?;
                before += new.from.size_bytes();
                self.node.steps.reached("a disk imported");
            }
            self.teller.check()?;
            self.plugged(&planned).await
        };
        // Adapters are held to their switches until the machine has its task.
        let (vm, _plugged) = self.node.store_with_files(planned.vm.id, &paths, make).await?;
        Ok(self.node.adopt_new(vm))
    }

    /// A disk that a machine writes to would be copied as it never was.
    fn check_free(&self, disks: &[FoundDisk]) -> Result<()> {
        let running: Vec<_> = self.node.vms.all().into_iter().filter(|now| now.running.is_some()).collect();
        for path in disks.iter().filter_map(|disk| disk.path.as_deref()) {
            let file = DiskFile::new(path);
            let has_it = |now: &&Now| now.vm.disks.iter().any(|disk| DiskFile::new(&disk.path).is(&file));
            if let Some(user) = running.iter().find(has_it) {
                return Err(NodeError::DiskInUse { path: path.to_owned(), vm: user.vm.name.clone() });
            }
        }
        Ok(())
    }

    async fn plan(&self, machine: Machine, found: Vec<FoundDisk>) -> Result<Planned> {
        let mut claims = Vec::new();
        let name = self.name(&machine)?;
        let id = self.id(&machine, &mut claims)?;
        claims.push(self.node.vms.claim_name(&name, id)?);
        let adapters = self.adapters(&machine, &mut claims).await?;
        let mut vm = self.define(id, name, &machine, adapters).await?;
        let mut disks = Vec::new();
        for (theirs, FoundDisk { source: from, .. }) in machine.disks.iter().zip(found) {
            let disk = self.new_disk(id, theirs);
            let path = disk.path.clone();
            claims.push(self.node.vms.claim_disk(&disk.path, move || DiskUse::of_new(&path, None)).await?);
            vm.disks.push(disk.clone());
            disks.push(NewDisk { from, disk });
        }
        vm.validate(&self.node.limits())
            .map_err(|source| NodeError::Create { vm: vm.name.clone(), source })?;
        let switches: Vec<_> =
            machine.adapters.into_iter().take(ADAPTERS_MAX).map(|adapter| adapter.switch).collect();
        self.check_mappings(&switches)?;
        Ok(Planned { vm, disks, switches, _claims: claims })
    }

    fn name(&self, machine: &Machine) -> Result<VmName> {
        match &self.wish.name {
            Some(name) => Ok(name.clone()),
            None => machine.name.trim().parse().map_err(|error| {
                NodeError::Invalid(format!(
                    "the machine cannot be called as its description calls it: {error}; give it a name"
                ))
            }),
        }
    }

    /// As it was, unless a machine here has it: then it is the same machine, or a copy that must say so.
    fn id(&self, machine: &Machine, claims: &mut Vec<Claim>) -> Result<VmId> {
        if let Some(was) = machine.id.filter(|_| !self.wish.new_identity) {
            let was = VmId(Uuid::from_u128(was));
            let claim = self.node.vms.claim_id(was).ok_or_else(|| {
                NodeError::Invalid(format!(
                    "a virtual machine with the id {} is here already; to import a copy, give it a new identity",
                    was.0
                ))
            })?;
            claims.push(claim);
            return Ok(was);
        }
        let id = self.node.vms.free_id();
        claims.extend(self.node.vms.claim_id(id));
        Ok(id)
    }

    async fn adapters(&self, machine: &Machine, claims: &mut Vec<Claim>) -> Result<Vec<Adapter>> {
        let mut adapters = Vec::new();
        for theirs in machine.adapters.iter().take(ADAPTERS_MAX) {
            let is_name = crate::vm::check_adapter_name(&theirs.name).is_ok();
            let name = if is_name { theirs.name.clone() } else { DEFAULT_NAME.to_owned() };
            let wanted = theirs.mac.filter(|_| !self.wish.new_identity);
            let text = wanted.map(|mac| mac.map(|octet| format!("{octet:02x}")).concat());
            let wanted: Option<MacAddress> = text.and_then(|text| text.parse().ok());
            let kept = wanted
                .and_then(|mac| Some((mac, self.node.vms.claim_mac(mac, AdapterId(Uuid::nil())).ok()?)));
            let (mac, claim) = match kept {
                Some(kept) => kept,
                None => self.node.vms.claim_dynamic_mac(self.node.tag())?,
            };
            if let Some(taken) = wanted.filter(|wanted| *wanted != mac) {
                self.teller
                    .warn(format!(
                        "{name}: another adapter here has the address {taken}, so it got a new one"
                    ))
                    .await;
            }
            adapters.push(Adapter {
                id: self.node.vms.free_adapter_id(),
                name,
                mac,
                mac_dynamic: wanted != Some(mac),
                switch: None,
                mac_spoofing: false,
                dhcp_guard: false,
                router_guard: false,
            });
            claims.push(claim);
        }
        for more in machine.adapters.iter().skip(ADAPTERS_MAX) {
            self.teller
                .warn(format!(
                    "{}: a machine has at most {ADAPTERS_MAX} adapters, so it is left out",
                    more.name
                ))
                .await;
        }
        Ok(adapters)
    }

    async fn define(&self, id: VmId, name: VmName, machine: &Machine, adapters: Vec<Adapter>) -> Result<Vm> {
        let most = self.node.limits().processors_max;
        if machine.processors > most {
            let had = machine.processors;
            self.teller
                .warn(format!("it had {had} processors and gets {most}, which is what this host has"))
                .await;
        }
        let notes: String = machine.notes.chars().take(NOTES_CHARS_MAX).collect();
        if notes.len() < machine.notes.len() {
            self.teller
                .warn(format!("its notes are longer than {NOTES_CHARS_MAX} characters, and were cut"))
                .await;
        }
        Ok(Vm {
            id,
            name,
            generation: match machine.firmware {
                Firmware::Bios => Generation::One,
                Firmware::Uefi => Generation::Two,
            },
            version: ConfigVersion::LATEST,
            created_at_ms: now_ms(),
            notes,
            tags: Vec::new(),
            processor: Processor {
                count: machine.processors.min(most),
                expose_virtualization_extensions: machine.nested,
            },
            memory: Memory {
                startup_bytes: machine.memory_bytes.div_ceil(MEGABYTE).saturating_mul(MEGABYTE),
            },
            adapters,
            disks: Vec::new(),
            boot: self.boot(machine).await?,
            start_action: StartAction::StartIfRunning,
            start_delay_seconds: 0,
            stop_action: StopAction::Save,
            state: VmState::Off,
            state_reason: None,
        })
    }

    async fn boot(&self, machine: &Machine) -> Result<Boot> {
        let described = machine.kernel.clone().map_or(Boot::Firmware, |kernel| Boot::Kernel {
            kernel: kernel.kernel.into(),
            initrd: kernel.initrd.map(Into::into),
            append: kernel.append,
        });
        // Most descriptions have no words for a kernel of the host.
        let (image, without) = (self.wish.image.clone(), Without::Unsaid);
        let wanted = Wanted { described, present: None, image, without };
        let chosen = self.node.kernel_for(wanted).await?;
        let chosen = chosen.map_err(|why| NodeError::Invalid(format!("'{}': {why}", machine.name.trim())))?;
        if self.wish.image.is_some() && machine.firmware == Firmware::Uefi {
            return Err(NodeError::invalid(
                "a machine with UEFI starts from its disks, and takes no kernel of an image",
            ));
        }
        if let Some(warning) = chosen.warning {
            self.teller.warn(warning).await;
        }
        Ok(chosen.boot)
    }

    fn new_disk(&self, id: VmId, theirs: &nestling_exchange::Disk) -> Disk {
        let controller = match theirs.controller {
            TheirController::Ide => Controller::Ide,
            TheirController::Scsi => Controller::Scsi,
        };
        // What the guest cannot write to is often read by something that knows no formats.
        let (format, ending) =
            if theirs.read_only { (DiskFormat::Raw, "img") } else { (DiskFormat::Qcow2, "qcow2") };
        let (location, read_only) = (theirs.location, theirs.read_only);
        let name = format!("{controller:?}-{location}.{ending}").to_lowercase();
        Disk { path: self.node.home.vm(id).dir().join(name), format, controller, location, read_only }
    }

    async fn copy(&self, vm: VmId, new: &NewDisk, path: &Path, before: u64, total: u64) -> Result<()> {
        let NewDisk { from, disk: Disk { format, .. } } = new;
        let qemu = self.node.engines.qemu().await?;
        let (kind, bytes) = (disk::DiskKind::Dynamic, Some(from.size_bytes().next_multiple_of(512)));
        disk::create(&qemu, path, &disk::NewDisk { format: *format, bytes, kind }).await?;
        let socket = format!("i{}-{before}", crate::home::short(vm));
        let from = Arc::clone(from);
        let (node, teller, format) = (&self.node, &self.teller, (*format).into());
        Copied { node, teller, from, path, format, socket: &socket, before, total }.run().await
    }

    /// Every mapping must mean something, so that a slip does not leave a machine without its network.
    fn check_mappings(&self, switches: &[Option<String>]) -> Result<()> {
        let defined = self.node.networks.defined();
        for mapping in &self.wish.switches {
            defined.switch(&mapping.to)?;
            let is_meant =
                |switch: &Option<String>| switch.as_deref().is_some_and(|name| is(name, &mapping.from));
            if !switches.iter().any(is_meant) {
                return Err(NodeError::NotFound { object: Object::Switch, name: mapping.from.clone() });
            }
        }
        Ok(())
    }

    /// Plugs the adapters in: where the mapping says, else where the switch has the same name here.
    async fn plugged(&self, planned: &Planned) -> Result<(Vm, Vec<OwnedRwLockReadGuard<()>>)> {
        let (mut vm, mut guards) = (planned.vm.clone(), Vec::new());
        if self.wish.no_switch {
            return Ok((vm, guards));
        }
        for (adapter, switch) in vm.adapters.iter_mut().zip(&planned.switches) {
            let Some(was) = switch else { continue };
            let mapped = self.wish.switches.iter().find(|mapping| is(was, &mapping.from));
            let wanted = mapped.map_or(was, |mapping| &mapping.to);
            match self.node.plug(wanted).await {
                Ok((id, guard)) => {
                    adapter.switch = Some(id);
                    guards.push(guard);
                }
                Err(_) => {
                    self.teller
                        .warn(format!(
                            "{}: there is no switch \"{wanted}\" here, so it is not plugged in",
                            adapter.name
                        ))
                        .await;
                }
            }
        }
        Ok((vm, guards))
    }
}

async fn found(path: PathBuf, more: Vec<PathBuf>) -> Result<Found> {
    let looked = path.clone();
    let found = timeout(FIND_TIMEOUT, blocking(move || find::find(&looked, &more))).await;
    found.unwrap_or(Err(NodeError::DiskSilent { path, seconds: FIND_TIMEOUT.as_secs() }))
}

fn is(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}
