//! Puts volumes together: arrays, LVM, and what is encrypted and has a key, on each other in any order.
//!
//! Arrays are kept from mending themselves: that would rewrite whole disks, and the scratch copy is small.

use std::{fs, path::Path, sync::Arc};

use crate::{
    ComposedVolume, Content, ErrorKind, ExploreError, FileSystem, Kind, Result, Volume, VolumeId, open,
};

use super::{
    Composed, Key,
    devices::{Device, Is, OPENED, devices},
    mounted, tools,
};

/// Layers on each other: encryption in LVM in encryption in an array is four.
const ROUNDS_MAX: usize = 5;
const PROBLEMS_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Composer {
    /// Arrays and groups were looked for with these devices there.
    looked_with: Vec<Device>,
}

impl Composer {
    pub fn compose(&mut self, key: Option<&Key>) -> Result<Composed> {
        let mut problems = Vec::new();
        let (mut tried, mut locked) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS_MAX {
            let before = devices();
            if before != self.looked_with {
                // What was not there the last time may be now.
                problems = assemble(&before)?;
                self.looked_with.clone_from(&before);
            }
            if let Some(key) = key {
                locked.extend(unlock(&devices(), key, &mut tried)?);
            }
            if devices() == before {
                break;
            }
        }
        problems.extend(locked);
        problems.truncate(PROBLEMS_MAX);
        let all = devices();
        let opened = all.iter().filter(|device| matches!(device.is, Is::Opened(_))).count() as u32;
        let locked = all.iter().filter(is_locked).count() as u32;
        Ok(Composed { volumes: volumes(&all), opened, locked, problems })
    }

    /// A volume's file system, through what is encrypted.
    pub fn open(&mut self, disk: u32, volume: &VolumeId) -> Result<Arc<dyn FileSystem>> {
        let mut all = devices();
        if matches!(volume, VolumeId::Composed(_)) && self.looked_with.is_empty() {
            self.compose(None)?;
            all = devices();
        }
        let is = |device: &&Device| match &device.is {
            Is::Part { disk: of, .. } => *of == disk && device.id().as_ref() == Some(volume),
            _ => device.id().as_ref() == Some(volume),
        };
        let found = all.iter().find(is).ok_or_else(|| ExploreError::NotFound {
            volume: "the disks".to_owned(),
            what: format!("volume {volume}"),
        })?;
        let device = innermost(&all, found);
        let content = device.content()?;
        let unreadable = |why: &str| {
            let what = format!("{volume}: holds {}{why}", content.kind);
            Err(ExploreError::Told { kind: ErrorKind::Unsupported, what })
        };
        match content.kind {
            kind if kind.is_readable() => open(device.source()?),
            kind if kind.is_mounted() => mounted::mount(device, &content),
            Kind::Luks => unreadable("; its key opens it (--key-file)"),
            kind if kind.is_part() => unreadable("; list the recovery point to see the volumes on it"),
            _ => unreadable(", which no reader here reads"),
        }
    }
}

/// What lies on a device once it is decrypted, or the device.
fn innermost<'a>(all: &'a [Device], device: &'a Device) -> &'a Device {
    let mut at = device;
    // Each step is to another device, so that there are no more than devices.
    for _ in all {
        let above = all.iter().find(|other| matches!(&other.is, Is::Opened(below) if *below == at.name));
        match above {
            Some(above) => at = above,
            None => break,
        }
    }
    at
}

/// Whether something of this kind is on it, and nothing was made of it yet.
fn is_free(device: &Device, kind: Kind) -> bool {
    !device.is_held() && device.content().is_ok_and(|content| content.kind == kind)
}

fn is_locked(device: &&Device) -> bool {
    is_free(device, Kind::Luks)
}

/// Arrays, and then the groups of LVM that lie on whatever is there. What went wrong.
fn assemble(all: &[Device]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let free = |kind: Kind, all: &[Device]| all.iter().any(|device| is_free(device, kind));
    if free(Kind::Md, all) {
        tools::load(&["md-mod"])?;
        // Read-only until something writes, so that nothing is mended before it is forbidden.
        let _ = fs::write("/sys/module/md_mod/parameters/start_ro", "1");
        let arguments = ["--assemble", "--scan", "--run", "--homehost=any", "--config=partitions"];
        let said = tools::run("mdadm", &arguments, b"")?;
        problems.extend(said.err().map(|said| format!("arrays: {said}")));
        freeze_arrays();
    }
    if free(Kind::Lvm, &devices()) {
        tools::load(&["dm-mod"])?;
        let said = tools::run("lvm", &["vgchange", "-ay", "-K", "--sysinit"], b"")?;
        problems.extend(said.err().map(|said| format!("LVM: {said}")));
    }
    Ok(problems)
}

fn freeze_arrays() {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let action = entry.path().join("md/sync_action");
        if action.exists() {
            // An array that cannot mend itself has nothing to be forbidden.
            let _ = fs::write(action, "frozen");
        }
    }
}

/// Tries the key on all that is encrypted and not open, once on each. What it does not open.
fn unlock(all: &[Device], key: &Key, tried: &mut Vec<String>) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for device in all.iter().filter(is_locked) {
        if tried.contains(&device.name) {
            continue;
        }
        tried.push(device.name.clone());
        tools::load(&["dm-mod", "dm-crypt"])?;
        let (path, name) = (device.path(), format!("{OPENED}{}", device.name));
        let said = open_with(&path, &name, key.bytes())?;
        // A passphrase that an editor wrote to a file.
        let shorter = key.bytes().strip_suffix(b"\n").filter(|shorter| !shorter.is_empty());
        let said = match (said, shorter) {
            (Err(_), Some(shorter)) => open_with(&path, &name, shorter)?,
            (said, _) => said,
        };
        problems.extend(said.err().map(|said| format!("{}: {said}", named(device))));
    }
    Ok(problems)
}

fn open_with(path: &Path, name: &str, key: &[u8]) -> Result<std::result::Result<(), String>> {
    let path = path.to_string_lossy();
    tools::run("cryptsetup", &["open", "--type", "luks", "--key-file", "-", &path, name], key)
}

fn named(device: &Device) -> String {
    match (&device.is, device.id()) {
        (Is::Part { disk, .. }, Some(id)) => format!("disk {disk}, volume {id}"),
        (_, Some(id)) => id.to_string(),
        (_, None) => device.name.clone(),
    }
}

/// What is there now besides partitions as they lie on the disks.
fn volumes(all: &[Device]) -> Vec<ComposedVolume> {
    let mut found = Vec::new();
    for device in all {
        let at = innermost(all, device);
        let (disk, id) = match (&device.is, device.id()) {
            // The client sees for itself what lies on its disks, but not what is behind a key.
            (Is::Part { disk, .. }, Some(id)) if at != device => (Some(*disk), id),
            (Is::Composed(_), Some(id)) => (None, id),
            _ => continue,
        };
        found.push(ComposedVolume { disk, volume: about(at, id) });
    }
    found
}

fn about(device: &Device, id: VolumeId) -> Volume {
    let content: Result<Content> = device.content();
    let size_bytes = device.source().map(|source| source.size_bytes()).unwrap_or_default();
    let (content, problem) = match content {
        Ok(content) => (Some(content), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Volume { id, name: String::new(), size_bytes, content, problem }
}
