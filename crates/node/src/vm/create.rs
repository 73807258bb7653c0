//! Creating machines. Which step leaves what behind is told in `journal`.

use std::{path::PathBuf, sync::Arc};

use nestling_hypervisor::disk;
use nestling_identity::{Action, Identity};
use nestling_image::Image;
use nestling_model::{
    Adapter, Boot, ConfigVersion, Controller, Disk, DiskFormat, EventKind, Generation, Memory, Processor,
    StartAction, StopAction, Vm, VmId, VmState, adapter::DEFAULT_NAME, tag::retagged,
};
use nestling_store::Document;

use super::{
    disk_use::DiskUse,
    owner::Owner,
    registry::Claim,
    task::{Handle, Now},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    clock::now_ms,
    disks,
    error::Result,
    images,
    journal::Note,
    networks::to_the_end,
    values::{NewVm, NewVmDisk, Seed, VmView},
};

const MEMORY_BYTES: u64 = 512 << 20;
pub const NOTES_CHARS_MAX: usize = 8192;
const APPEND_BYTES_MAX: usize = 1024;

/// A disk to be made with the machine.
struct Made {
    path: PathBuf,
    what: Content,
}

enum Content {
    Empty { size_bytes: u64 },
    OnTopOf { parent: PathBuf, format: DiskFormat },
    Seed(Seed),
}

impl Node {
    pub async fn create_vm(&self, who: &Identity, new: NewVm) -> Result<VmView> {
        self.authorize(who, Action::CreateVm)?;
        check(&new)?;
        let node = self.clone();
        to_the_end(async move { node.create(new).await }).await
    }

    async fn create(&self, new: NewVm) -> Result<VmView> {
        let id = self.vms.free_id();
        let _name = self.vms.claim_name(&new.name, id)?;
        let image = match &new.image {
            Some(name) => Some(self.bootable_image(name).await?),
            None => None,
        };
        let plugged = match &new.switch {
            Some(switch) => Some(self.plug(switch).await?),
            None => None,
        };
        let (mac, _mac) = self.vms.claim_dynamic_mac(self.tag())?;
        let adapter = Adapter {
            id: self.vms.free_adapter_id(),
            name: DEFAULT_NAME.to_owned(),
            mac,
            mac_dynamic: true,
            switch: plugged.as_ref().map(|(id, _)| *id),
            mac_spoofing: false,
            dhcp_guard: false,
            router_guard: false,
        };
        let mut vm = define(id, &new, image.as_ref(), adapter)?;
        let (made, _disks) = self.plan_disks(&mut vm, &new, image.as_ref()).await?;
        vm.validate(&self.limits()).map_err(|source| NodeError::Create { vm: vm.name.clone(), source })?;
        let vm = self.store_new(vm, made).await?;
        Ok(self.view(&self.adopt_new(vm).now()))
    }

    /// Gives a machine that is stored its task.
    pub(crate) fn adopt_new(&self, vm: Vm) -> Arc<Handle> {
        let (id, node) = (vm.id, self.shared());
        let first = Now { vm: vm.clone().into(), running: None };
        let owner = |publish| Owner { node, vm, running: None, publish, removed: false };
        let handle = self.vms.insert(id, Handle::spawn(owner, first));
        self.events.tell(EventKind::VmCreated, handle.now().vm.name.as_str(), "virtual machine created");
        handle
    }

    /// The machine's disks: those that are there are claimed, those that are to be made are listed.
    async fn plan_disks(
        &self,
        vm: &mut Vm,
        new: &NewVm,
        image: Option<&Image>,
    ) -> Result<(Vec<Made>, Vec<Claim>)> {
        let files = self.home.vm(vm.id);
        let (mut made, mut claims) = (Vec::new(), Vec::new());
        if let Some((image, parent)) = image.and_then(|i| Some((i, i.disk.clone()?))) {
            let format = match image.disk_format {
                nestling_image::DiskFormat::Qcow2 => DiskFormat::Qcow2,
                nestling_image::DiskFormat::Raw => DiskFormat::Raw,
            };
            let (path, below) = (files.disk(), parent.clone());
            let wanted = move || DiskUse::of_new(&path, Some((&below, format)));
            claims.push(self.vms.claim_disk(&parent, wanted).await?);
            attach(vm, files.disk(), DiskFormat::Qcow2, Controller::Scsi, false);
            made.push(Made { path: files.disk(), what: Content::OnTopOf { parent, format } });
        }
        let first = controller_of_more(vm.generation, image);
        if let Some(path) = &new.disk_path {
            let (path, format) = self.existing_disk(path, None).await?;
            let wanted = path.clone();
            claims.push(self.vms.claim_disk(&path, move || DiskUse::of(&wanted, format, false)).await?);
            attach(vm, path, format, first, false);
        }
        if let Some(NewVmDisk { size_bytes, path }) = &new.new_disk {
            let path = match path {
                Some(path) => disks::new_path_of(path.clone()).await?,
                None if image.is_some() => files.data_disk(),
                None => files.disk(),
            };
            let wanted = path.clone();
            claims.push(self.vms.claim_disk(&path, move || DiskUse::of_new(&wanted, None)).await?);
            attach(vm, path.clone(), DiskFormat::Qcow2, first, false);
            made.push(Made { path, what: Content::Empty { size_bytes: *size_bytes } });
        }
        if let Some(seed) = &new.seed {
            let path = files.seed();
            attach(vm, path.clone(), DiskFormat::Raw, Controller::Scsi, true);
            made.push(Made { path, what: Content::Seed(seed.clone()) });
        }
        Ok((made, claims))
    }

    async fn store_new(&self, vm: Vm, made: Vec<Made>) -> Result<Vm> {
        if made.is_empty() {
            self.keeper.put(&vm).await?;
            return Ok(vm);
        }
        let paths: Vec<PathBuf> = made.iter().map(|made| made.path.clone()).collect();
        let make = async |temporary: Vec<PathBuf>| {
            for (made, temporary) in made.into_iter().zip(temporary) {
                self.make_disk(&vm, made.what, temporary).await?;
                self.steps.reached("a file made");
            }
            Ok((vm.clone(), ()))
        };
        Ok(self.store_with_files(vm.id, &paths, make).await?.0)
    }

    /// Stores a machine together with its files: all of it or nothing. `make` makes the files, under temporary names, and
    /// tells the definition, with what is to be held until the machine has its task.
    pub(crate) async fn store_with_files<T>(
        &self,
        id: VmId,
        paths: &[PathBuf],
        make: impl AsyncFnOnce(Vec<PathBuf>) -> Result<(Vm, T)>,
    ) -> Result<(Vm, T)> {
        let mut note = Note::new(id);
        let temporary: Vec<PathBuf> = paths.iter().map(|path| note.make(path)).collect();
        if let Some(there) = paths.iter().find(|path| path.exists()) {
            return Err(disk::DiskError::Exists(there.clone()).into());
        }
        self.keeper.put(&note).await?;
        self.steps.reached("creation noted");
        let done = async {
            self.home.vm(id).make()?;
            let (vm, held) = make(temporary).await?;
            self.keeper.put(&vm).await?;
            Ok((vm, held))
        };
        let made = match done.await {
            Ok(made) => made,
            Err(error) => {
                note.undo()?;
                self.home.vm(id).remove()?;
                self.keeper.delete::<Note>(note.id()).await?;
                return Err(error);
            }
        };
        self.steps.reached("created in the store");
        note.finish()?;
        self.steps.reached("files named");
        self.keeper.delete::<Note>(note.id()).await?;
        Ok(made)
    }

    async fn make_disk(&self, vm: &Vm, what: Content, path: PathBuf) -> Result<()> {
        let (kind, bytes) = match what {
            Content::Empty { size_bytes } => (disk::DiskKind::Dynamic, Some(size_bytes)),
            Content::OnTopOf { parent, format } => {
                (disk::DiskKind::Differencing { parent, parent_format: format }, None)
            }
            Content::Seed(seed) => {
                let (seed, name) = (seed, vm.name.to_string());
                let (id, adapter) = (vm.id.0.to_string(), vm.adapters.first().map(|adapter| adapter.mac));
                return blocking(move || images::write_seed(&seed, &id, &name, adapter, &path)).await;
            }
        };
        let new = disk::NewDisk { format: DiskFormat::Qcow2, bytes, kind };
        disk::create(&self.engines.qemu().await?, &path, &new).await?;
        Ok(())
    }
}

pub fn check_notes(notes: &str) -> Result<()> {
    if notes.chars().count() > NOTES_CHARS_MAX {
        return Err(NodeError::Invalid(format!("notes have at most {NOTES_CHARS_MAX} characters")));
    }
    Ok(())
}

fn check(new: &NewVm) -> Result<()> {
    if new.disk_path.is_some() && new.new_disk.is_some() {
        return Err(NodeError::invalid(
            "a machine is made with a disk that is there or with a new one, and not both; more are added afterwards",
        ));
    }
    check_notes(&new.notes)?;
    if new.append.as_ref().is_some_and(|a| a.len() > APPEND_BYTES_MAX || a.contains(['\0', '\n'])) {
        return Err(NodeError::Invalid(format!(
            "what is added to the kernel's command line has at most {APPEND_BYTES_MAX} bytes and no line breaks"
        )));
    }
    Ok(())
}

/// The definition with what was asked for, what the image wants, and Hyper-V's defaults, in this order.
fn define(id: VmId, new: &NewVm, image: Option<&Image>, adapter: Adapter) -> Result<Vm> {
    let generation = generation(new, image)?;
    let boot = boot(new, image)?;
    if generation == Generation::Two && matches!(boot, Boot::Kernel { .. }) {
        return Err(NodeError::invalid(
            "a generation 2 virtual machine starts from its disks; a kernel can be given only to generation 1",
        ));
    }
    if new.seed.is_some() && image.is_some_and(|i| !i.cloud_init) {
        return Err(NodeError::invalid(
            "the image has no cloud-init: nothing in it would read first-boot settings",
        ));
    }
    Ok(Vm {
        id,
        name: new.name.clone(),
        generation,
        version: new.version.unwrap_or(ConfigVersion::LATEST),
        created_at_ms: now_ms(),
        notes: new.notes.clone(),
        tags: retagged(&[], &new.tags, &[])?,
        processor: Processor {
            count: new.processor_count.unwrap_or(1),
            expose_virtualization_extensions: new.expose_virtualization_extensions,
        },
        memory: Memory {
            startup_bytes: new
                .memory_startup_bytes
                .or(image.map(|i| i.default_memory_bytes))
                .unwrap_or(MEMORY_BYTES),
        },
        adapters: vec![adapter],
        disks: Vec::new(),
        boot,
        start_action: new.start_action.unwrap_or(StartAction::StartIfRunning),
        start_delay_seconds: 0,
        stop_action: StopAction::Save,
        state: VmState::Off,
        state_reason: None,
    })
}

fn generation(new: &NewVm, image: Option<&Image>) -> Result<Generation> {
    let bootable = image.map(images::generations).unwrap_or_default();
    let Some(usual) = bootable.first() else { return Ok(new.generation.unwrap_or(Generation::One)) };
    match new.generation {
        Some(asked) if !bootable.contains(&asked) => Err(NodeError::Invalid(format!(
            "the image needs a generation {} virtual machine",
            usual.number()
        ))),
        asked => Ok(asked.unwrap_or(*usual)),
    }
}

fn boot(new: &NewVm, image: Option<&Image>) -> Result<Boot> {
    let own = image.and_then(|i| Some((i.kernel.clone()?, i)));
    let mut boot = match (&new.boot, own) {
        (Some(boot), _) => boot.clone(),
        (None, Some((kernel, image))) => {
            Boot::Kernel { kernel, initrd: image.initrd.clone(), append: image.append.clone() }
        }
        (None, None) => Boot::Firmware,
    };
    match (&mut boot, &new.append) {
        (_, None) => {}
        (Boot::Kernel { append, .. }, Some(added)) => {
            *append = format!("{append} {added}").trim().to_owned();
        }
        (Boot::Firmware, Some(_)) => {
            return Err(NodeError::invalid(
                "there is no kernel command line to add to: this machine's kernel is on its disk",
            ));
        }
    }
    Ok(boot)
}

/// As Hyper-V does: a guest that knows nothing of us finds its disk on the oldest bus. Those of our images know the other one.
fn controller_of_more(generation: Generation, image: Option<&Image>) -> Controller {
    if generation == Generation::One && image.is_none() { Controller::Ide } else { Controller::Scsi }
}

fn attach(vm: &mut Vm, path: PathBuf, format: DiskFormat, controller: Controller, read_only: bool) {
    // When there is no free location left, the definition is refused as a whole.
    let location = vm.free_location(controller).unwrap_or(u8::MAX);
    vm.disks.push(Disk { path, format, controller, location, read_only });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter() -> Adapter {
        Adapter {
            id: nestling_model::AdapterId(uuid::Uuid::nil()),
            name: DEFAULT_NAME.to_owned(),
            mac: "00155D000000".parse().unwrap(),
            mac_dynamic: true,
            switch: None,
            mac_spoofing: false,
            dhcp_guard: false,
            router_guard: false,
        }
    }

    fn image(generations: &[u8]) -> Image {
        Image {
            name: "x".into(),
            kind: nestling_image::ImageKind::Imported,
            dir: "/i".into(),
            kernel: None,
            initrd: None,
            append: String::new(),
            disk: Some("/i/disk".into()),
            disk_format: nestling_image::DiskFormat::Raw,
            disk_virtual_bytes: 1 << 20,
            key: String::new(),
            built_at_unix_secs: 0,
            size_bytes: 0,
            default_memory_bytes: 1 << 30,
            generations: generations.to_vec(),
            cloud_init: true,
            packages: Vec::new(),
        }
    }

    #[test]
    fn defaults_are_hyper_vs() {
        let new = NewVm::named("a".parse().unwrap());
        let vm = define(VmId(uuid::Uuid::nil()), &new, None, adapter()).unwrap();
        assert_eq!((vm.generation, vm.version.as_str()), (Generation::One, "12.0"));
        assert_eq!((vm.processor.count, vm.memory.startup_bytes), (1, 512 << 20));
        assert!(!vm.processor.expose_virtualization_extensions);
        assert_eq!((vm.start_action, vm.boot), (StartAction::StartIfRunning, Boot::Firmware));
        assert_eq!(vm.adapters[0].name, "Network Adapter");
    }

    #[test]
    fn a_kernels_command_line_is_added_to() {
        let kernel = Boot::Kernel { kernel: "/k".into(), initrd: None, append: "a=1".into() };
        let new =
            NewVm { boot: Some(kernel), append: Some("b=2".into()), ..NewVm::named("a".parse().unwrap()) };
        let Boot::Kernel { append, .. } = boot(&new, None).unwrap() else { panic!() };
        assert_eq!(append, "a=1 b=2");
        assert!(boot(&NewVm { boot: None, ..new }, None).is_err());
    }

    #[test]
    fn a_kernel_is_for_generation_1() {
        let kernel = Boot::Kernel { kernel: "/k".into(), initrd: None, append: String::new() };
        let new = NewVm {
            boot: Some(kernel),
            generation: Some(Generation::Two),
            ..NewVm::named("a".parse().unwrap())
        };
        assert!(define(VmId(uuid::Uuid::nil()), &new, None, adapter()).is_err());
    }

    #[test]
    fn a_disk_comes_beside_that_of_an_image_and_not_beside_another_one() {
        let of = |image: Option<&str>, disk: bool, new_disk: bool| {
            check(&NewVm {
                image: image.map(str::to_owned),
                disk_path: disk.then(|| "/d".into()),
                new_disk: new_disk.then_some(NewVmDisk { size_bytes: 1, path: None }),
                ..NewVm::named("a".parse().unwrap())
            })
        };
        assert!(of(Some("pebble"), true, false).is_ok() && of(Some("pebble"), false, true).is_ok());
        assert!(of(None, true, true).unwrap_err().message().contains("not both"));
        let own = image(&[1]);
        assert_eq!(controller_of_more(Generation::One, None), Controller::Ide);
        assert_eq!(controller_of_more(Generation::One, Some(&own)), Controller::Scsi);
        assert_eq!(controller_of_more(Generation::Two, None), Controller::Scsi);
    }

    #[test]
    fn a_machine_has_a_generation_that_its_image_boots_with() {
        let chosen = |generations: &[u8], asked| {
            let image = image(generations);
            let new = NewVm { generation: asked, ..NewVm::named("a".parse().unwrap()) };
            generation(&new, Some(&image)).ok()
        };
        let (one, two) = (Some(Generation::One), Some(Generation::Two));
        assert_eq!([chosen(&[1, 2], None), chosen(&[1, 2], one), chosen(&[1, 2], two)], [one, one, two]);
        assert_eq!([chosen(&[2], None), chosen(&[2], one), chosen(&[2], two)], [two, None, two]);
        assert_eq!([chosen(&[1], None), chosen(&[1], two)], [one, None]);
    }
}
