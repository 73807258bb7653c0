//! The block devices of the machine, as its kernel shows them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_block::{BlockSource, RawDisk};

use crate::{ComposedId, Content, ExploreError, Result, VolumeId, detect};

use super::DISK_SERIAL;

const CLASS: &str = "/sys/class/block";
/// What mdadm writes down about the arrays it started.
const ARRAYS: &str = "/run/mdadm/map";
/// What devices of LVM have as their id: two ids of 32 characters. Those with more are parts of a volume.
const LVM_ID: &str = "LVM-";
const LVM_ID_CHARACTERS: usize = LVM_ID.len() + 64;
/// Names of devices that were encrypted begin so; the encrypted one's name follows.
pub(super) const OPENED: &str = "open-";

/// A device that may hold something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// As the kernel calls it.
    pub name: String,
    pub is: Is,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Is {
    /// A disk of the client or a partition of it.
    Part {
        disk: u32,
        number: u32,
    },
    Composed(ComposedId),
    /// What was encrypted on the device of this name.
    Opened(String),
}

impl Device {
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    pub fn source(&self) -> Result<Arc<dyn BlockSource>> {
        let failed = |source| ExploreError::Disk { volume: self.name.clone(), source };
        Ok(Arc::new(RawDisk::open(&self.path()).map_err(failed)?))
    }

    pub fn content(&self) -> Result<Content> {
        detect(&self.source()?)
    }

    /// Whether something else lies on it, so that its own first bytes say nothing of use.
    pub fn is_held(&self) -> bool {
        let holders = Path::new(CLASS).join(&self.name).join("holders");
        fs::read_dir(holders).is_ok_and(|mut holders| holders.next().is_some())
    }

    pub fn id(&self) -> Option<VolumeId> {
        match &self.is {
            Is::Part { number, .. } => Some(VolumeId::Number(*number)),
            Is::Composed(id) => Some(VolumeId::Composed(id.clone())),
            Is::Opened(_) => None,
        }
    }
}

/// All that are there now, in a fixed order.
pub(super) fn devices() -> Vec<Device> {
    let names = fs::read_dir(CLASS).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    let arrays = fs::read_to_string(ARRAYS).unwrap_or_default();
    names.into_iter().filter_map(|name| Some(Device { is: kind_of(&name, &arrays)?, name })).collect()
}

fn kind_of(name: &str, arrays: &str) -> Option<Is> {
    let class = Path::new(CLASS).join(name);
    let text = |file: &str| fs::read_to_string(class.join(file)).ok().map(|text| text.trim().to_owned());
    if let Some(id) = text("dm/uuid") {
        return of_mapper(&id, &text("dm/name")?);
    }
    let partition: Option<u32> = text("partition").and_then(|number| number.parse().ok());
    // The directory of a partition lies in its disk's.
    let whole = match partition {
        Some(_) => fs::canonicalize(&class).ok()?.parent()?.file_name()?.to_str()?.to_owned(),
        None => name.to_owned(),
    };
    if whole.starts_with("md") {
        let array = array_name(arrays, &whole).unwrap_or_else(|| whole.clone());
        // An array that was not started has no bytes.
        let has_bytes = text("size").is_some_and(|size| size != "0");
        return ComposedId::md(&array, partition).filter(|_| has_bytes).map(Is::Composed);
    }
    let serial = fs::read_to_string(Path::new(CLASS).join(&whole).join("serial")).ok()?;
    let disk = serial.trim().strip_prefix(DISK_SERIAL)?.parse().ok()?;
    Some(Is::Part { disk, number: partition.unwrap_or(0) })
}

fn of_mapper(id: &str, name: &str) -> Option<Is> {
    if id.starts_with(LVM_ID) {
        let (group, volume) = (id.len() == LVM_ID_CHARACTERS).then(|| lvm_names(name))??;
        return ComposedId::lvm(&group, &volume).map(Is::Composed);
    }
    name.strip_prefix(OPENED).map(|below| Is::Opened(below.to_owned()))
}

/// `data-my--files` is the volume `my-files` of the group `data`.
fn lvm_names(name: &str) -> Option<(String, String)> {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'-', Some(b'-')) => at += 2,
            (b'-', _) => {
                let (group, volume) = (name.get(..at)?, name.get(at + 1..)?);
                return Some((group.replace("--", "-"), volume.replace("--", "-")));
            }
            _ => at += 1,
        }
    }
    None
}

/// From lines such as `md127 1.2 5c3f0a11:... /dev/md/backup`.
fn array_name(map: &str, device: &str) -> Option<String> {
    let line = map.lines().find(|line| line.split(' ').next() == Some(device))?;
    let path = line.split(' ').nth(3)?;
    // The host that made it may stand before its name.
    path.rsplit(['/', ':']).next().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lvm_are_taken_apart() {
        let names = |name: &str| lvm_names(name);
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(names("data-files"), pair("data", "files"));
        assert_eq!(names("my--data-my--files"), pair("my-data", "my-files"));
        assert_eq!(names("a---b"), pair("a-", "b"));
        assert_eq!(names("data"), None);
        let id = format!("LVM-{}", "x".repeat(64));
        assert_eq!(of_mapper(&id, "a-b"), ComposedId::lvm("a", "b").map(Is::Composed));
        assert_eq!(of_mapper(&format!("{id}-tpool"), "a-b-tpool"), None);
        assert_eq!(of_mapper("CRYPT-LUKS2-x", "open-vda1"), Some(Is::Opened("vda1".to_owned())));
        assert_eq!(of_mapper("CRYPT-LUKS2-x", "other"), None);
    }

    #[test]
    fn names_of_arrays_come_from_mdadm() {
        let map =
            "md127 1.2 5c3f0a11:1:2:3 /dev/md/backup\nmd126 1.2 x /dev/md126\nmd125 1.2 y /dev/md/web:data\n";
        assert_eq!(array_name(map, "md127").as_deref(), Some("backup"));
        assert_eq!(array_name(map, "md126").as_deref(), Some("md126"));
        assert_eq!(array_name(map, "md125").as_deref(), Some("data"));
        assert_eq!(array_name(map, "md12"), None);
        assert_eq!(array_name("md1 x", "md1"), None);
    }
}
