//! What a recovery point says of its machine: the file `vm.json` beside its disks.
//!
//! It is read by later versions, by people and by other nodes, and it may have been written by anybody who has the
//! repository's password: what is read from it is checked before it is used, and what makes no sense is as if it were
//! not there.

use nestling_hypervisor::capture::{BitmapName, DiskPlace};
use nestling_model::{
    Controller, Disk, DiskFormat, SwitchId, Vm,
    disk::DISKS_MAX,
    protection::{ConsistencyReached, RunId},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::basis::DiskThen;

/// Counts up when a field gets another meaning; fields that are added need a default.
const VERSION: u32 = 1;
/// A machine's definition takes a few thousand bytes, its notes a few times that.
pub const DESCRIPTION_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    pub version: u32,
    /// The machine as it was defined at the instant.
    pub vm: Vm,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub taken_at_ms: u64,
    pub consistency: ConsistencyReached,
    pub run: RunId,
    pub disks: Vec<DescribedDisk>,
    /// Disks that the machine has and the point has not.
    #[serde(default)]
    pub left_out: Vec<DiskAt>,
    /// The switches that its adapters are plugged into: ids alone mean nothing on another host.
    #[serde(default)]
    pub switches: Vec<SwitchThen>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchThen {
    pub id: SwitchId,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskAt {
    pub controller: Controller,
    pub location: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedDisk {
    /// What the disk is called in the point.
    pub name: String,
    pub controller: Controller,
    pub location: u8,
    /// What its image was in; the point itself has its bytes.
    pub format: DiskFormat,
    #[serde(default)]
    pub read_only: bool,
    pub size_bytes: u64,
    /// The number of the dirty bitmap that began at the instant.
    #[serde(default)]
    pub bitmap: Option<Uuid>,
}

impl DescribedDisk {
    pub fn new(disk: &Disk, size_bytes: u64, bitmap: Option<BitmapName>) -> Self {
        let place = place_of(disk);
        Self {
            name: place.to_string(),
            controller: disk.controller,
            location: disk.location,
            format: disk.format,
            read_only: disk.read_only,
            size_bytes,
            bitmap: bitmap.map(|bitmap| bitmap.0),
        }
    }
}

pub fn place_of(disk: &Disk) -> DiskPlace {
    DiskPlace { controller: disk.controller, location: disk.location }
}

impl Description {
    pub fn new(vm: Vm, taken_at_ms: u64, consistency: ConsistencyReached, run: RunId) -> Self {
        let (disks, left_out, switches) = (Vec::new(), Vec::new(), Vec::new());
        Self { version: VERSION, vm, taken_at_ms, consistency, run, disks, left_out, switches }
    }

    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// `None` for what this version cannot read, whoever wrote it.
    pub fn read(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if json.len() > DESCRIPTION_BYTES_MAX {
            return None;
        }
        // The version first: all else may be written otherwise in another one.
        let Version { version } = serde_json::from_slice(json).ok()?;
        if version != VERSION {
            return None;
        }
        serde_json::from_slice::<Self>(json).ok().filter(|read| read.disks.len() <= DISKS_MAX)
    }

    /// What the choice of a basis needs to know of it.
    pub fn disks_then(&self) -> Vec<DiskThen> {
        let then = |disk: &DescribedDisk| DiskThen {
            place: DiskPlace { controller: disk.controller, location: disk.location },
            bytes: disk.size_bytes,
            bitmap: disk.bitmap.map(BitmapName),
        };
        // What is saved is found again by its name, so a name that is not its place's belongs to another disk.
        self.disks
            .iter()
            .map(|disk| (disk, then(disk)))
            .filter(|(disk, then)| disk.name == then.place.to_string())
            .map(|(_, then)| then)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::sample_vm;

    fn sample() -> Description {
        let mut described = Description::new(
            sample_vm("Web01"),
            5,
            ConsistencyReached::FileSystem,
            RunId(Uuid::from_u128(9)),
        );
        for disk in described.vm.disks.clone() {
            described.disks.push(DescribedDisk::new(&disk, 1 << 20, Some(BitmapName(Uuid::from_u128(7)))));
        }
        described
    }

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let written = sample();
        assert_eq!(Description::read(&written.to_json().unwrap()), Some(written.clone()));
        let then = written.disks_then();
        assert_eq!((then.len(), then[0].bytes, then[0].place.to_string().as_str()), (1, 1 << 20, "scsi-0"));
    }

    #[test]
    fn what_makes_no_sense_is_as_if_it_were_not_there() {
        let json = String::from_utf8(sample().to_json().unwrap()).unwrap();
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            &json.replace("\"version\": 1", "\"version\": 2"),
            &json[..json.len() - 9],
        ] {
            assert_eq!(Description::read(bad.as_bytes()), None, "{bad}");
        }
        let mut many = sample();
        many.disks = vec![many.disks[0].clone(); DISKS_MAX + 1];
        assert_eq!(Description::read(&many.to_json().unwrap()), None);
        let mut renamed = sample();
        renamed.disks[0].name = "scsi-1".to_owned();
        assert!(renamed.disks_then().is_empty());
    }
}
