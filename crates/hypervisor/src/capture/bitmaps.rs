//! The dirty bitmaps of ours in a running machine's disks.

use std::fmt;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    CaptureError, DiskPlace,
    answers::{self, Bitmap, Node},
};
use crate::Machine;

/// Of every bitmap that we make. Others are never shown nor touched.
const PREFIX: &str = "nestling-";

/// The granularity of every bitmap that we make: a cluster of qcow2, and what is copied before a write.
pub const GRANULARITY: u32 = 64 << 10;

/// A bitmap's name: a random number that was made at the instant at which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitmapName(pub Uuid);

impl BitmapName {
    /// `None` for a bitmap that is not ours.
    pub fn parse(name: &str) -> Option<Self> {
        let number = Uuid::try_parse(name.strip_prefix(PREFIX)?).ok()?;
        let parsed = Self(number);
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for BitmapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.simple())
    }
}

/// What a disk records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskBitmaps {
    pub disk: DiskPlace,
    pub bytes: u64,
    pub read_only: bool,
    pub bitmaps: Vec<BitmapReport>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapReport {
    pub name: BitmapName,
    pub granularity: u32,
    /// Whether it records what is written now.
    pub recording: bool,
    /// Whether it outlives this QEMU.
    pub persistent: bool,
    /// Whether something uses it, so that it can't be removed now.
    pub busy: bool,
    /// The engine died while it recorded: what it says is worth nothing, and it can only be removed.
    pub inconsistent: bool,
    /// How much of the disk it calls changed.
    pub changed_bytes: u64,
}

impl BitmapReport {
    /// Why it can't be believed; `None` when it can.
    pub fn doubt(&self) -> Option<&'static str> {
        if self.inconsistent {
            Some("QEMU did not end properly while it recorded")
        } else if !self.recording {
            Some("it was switched off")
        } else if self.granularity != GRANULARITY {
            Some("it is of another granularity than ours")
        } else {
            None
        }
    }
}

/// Our bitmaps of one disk, by their names.
pub(super) fn of_node(node: &Node) -> Vec<BitmapReport> {
    let report = |bitmap: &Bitmap| {
        Some(BitmapReport {
            name: BitmapName::parse(bitmap.name.as_deref()?)?,
            granularity: bitmap.granularity,
            recording: bitmap.recording,
            persistent: bitmap.persistent,
            busy: bitmap.busy,
            inconsistent: bitmap.inconsistent,
            changed_bytes: bitmap.count,
        })
    };
    let mut reports: Vec<BitmapReport> = node.dirty_bitmaps.iter().filter_map(report).collect();
    reports.sort_by_key(|report| report.name);
    reports
}

pub(super) async fn report(machine: &Machine) -> Result<Vec<DiskBitmaps>, CaptureError> {
    let nodes = answers::nodes(machine).await?;
    let of_disk = |(disk, node): (DiskPlace, &Node)| DiskBitmaps {
        disk,
        bytes: node.image.virtual_size,
        read_only: node.read_only,
        bitmaps: of_node(node),
    };
    Ok(answers::disks(&nodes).into_iter().map(of_disk).collect())
}

pub(super) async fn remove(
    machine: &Machine,
    bitmaps: &[(DiskPlace, BitmapName)],
) -> Result<(), CaptureError> {
    let nodes = answers::nodes(machine).await?;
    let actions = removals(&nodes, bitmaps);
    if !actions.is_empty() {
        machine.execute("transaction", json!({"actions": actions})).await?;
    }
    Ok(())
}

/// Of those that are there. Removing an inconsistent one is not undone when a later removal fails, so they come last.
fn removals(nodes: &[Node], bitmaps: &[(DiskPlace, BitmapName)]) -> Vec<Value> {
    let mut there: Vec<(bool, String, String)> = Vec::new();
    for (disk, bitmap) in bitmaps {
        let (node, name) = (disk.node(), bitmap.to_string());
        let found = nodes.iter().find(|n| n.node_name == node).and_then(|n| n.bitmap(&name));
        there.extend(found.map(|bitmap| (bitmap.inconsistent, node, name)));
    }
    there.sort_unstable();
    there.dedup();
    let action =
        |(_, node, name)| json!({"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}});
    there.into_iter().map(action).collect()
}

#[cfg(test)]
mod tests {
    use nestling_model::Controller;

    use super::*;

    #[test]
    fn a_name_is_read_back_and_nothing_else_is_ours() {
        let name = BitmapName(Uuid::from_u128(0x1234));
        assert_eq!(name.to_string(), "nestling-00000000000000000000000000001234");
        assert_eq!(BitmapName::parse(&name.to_string()), Some(name));
        for other in [
            "",
            "nestling-",
            "bk0",
            "nestling-00000000-0000-0000-0000-000000001234",
            "nestling-0000000000000000000000000000123",
            "nestling-ABCDEF00000000000000000000001234",
            "capture-changed-scsi-0",
        ] {
            assert_eq!(BitmapName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn only_ours_are_reported_and_removed() {
        let (mine, broken) = (BitmapName(Uuid::from_u128(2)), BitmapName(Uuid::from_u128(1)));
        let node: Node = serde_json::from_value(json!({"node-name": "scsi-0", "dirty-bitmaps": [
            {"name": mine.to_string(), "recording": true, "granularity": GRANULARITY, "count": GRANULARITY},
            {"name": broken.to_string(), "recording": false, "inconsistent": true, "granularity": GRANULARITY},
            {"name": "another's", "recording": true}, {"recording": true}]}))
        .unwrap();
        let reports = of_node(&node);
        assert_eq!(reports.iter().map(|r| r.name).collect::<Vec<_>>(), [broken, mine]);
        assert!(reports[0].doubt().is_some() && reports[1].doubt().is_none());
        assert_eq!(reports[1].changed_bytes, u64::from(GRANULARITY));

        let disk = DiskPlace { controller: Controller::Scsi, location: 0 };
        let gone = BitmapName(Uuid::from_u128(7));
        let elsewhere = DiskPlace { location: 1, ..disk };
        let asked = [(disk, broken), (disk, mine), (disk, mine), (disk, gone), (elsewhere, mine)];
        let removed: Vec<Value> =
            removals(&[node], &asked).into_iter().map(|a| a["data"]["name"].clone()).collect();
        assert_eq!(removed, [json!(mine.to_string()), json!(broken.to_string())]);
    }
}
