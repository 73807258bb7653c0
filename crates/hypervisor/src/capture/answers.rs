//! What QEMU tells of its block devices, read as far as it is needed here. A QEMU that a guest has taken over may say
//! anything: what is missing or odd is refused or counts as absent, and never more than that.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{CaptureError, DiskPlace, names};
use crate::Machine;

/// A block node with a name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Node {
    #[serde(default)]
    pub node_name: String,
    /// `qcow2`, `raw`, ...
    #[serde(default, rename = "drv")]
    pub driver: String,
    #[serde(default, rename = "ro")]
    pub read_only: bool,
    /// Of the file that it reads, or that its image lies in.
    #[serde(default)]
    pub file: String,
    #[serde(default)]
    pub image: Image,
    #[serde(default)]
    pub dirty_bitmaps: Vec<Bitmap>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Image {
    #[serde(default)]
    pub virtual_size: u64,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Bitmap {
    /// Those of QEMU's own have none.
    pub name: Option<String>,
    pub granularity: u32,
    pub recording: bool,
    pub persistent: bool,
    pub busy: bool,
    pub inconsistent: bool,
    /// In bytes.
    pub count: u64,
}

impl Node {
    pub fn is_of_a_capture(&self) -> bool {
        self.node_name.starts_with(names::PREFIX)
    }

    pub fn bitmap(&self, name: &str) -> Option<&Bitmap> {
        self.dirty_bitmaps.iter().find(|b| b.name.as_deref() == Some(name))
    }
}

/// A guest's device and the node that it has open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Its path in QEMU's object tree, or its name.
    pub path: String,
    pub node: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawDevice {
    qdev: Option<String>,
    inserted: Option<Inserted>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Inserted {
    node_name: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Job {
    pub id: String,
    #[serde(default)]
    pub status: String,
    #[serde(default)]
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FdSet {
    pub fdset_id: u64,
    #[serde(default)]
    fds: Vec<SetFd>,
}

#[derive(Debug, Deserialize)]
struct SetFd {
    #[serde(default)]
    opaque: String,
}

impl FdSet {
    pub fn is_of_a_capture(&self) -> bool {
        self.fds.iter().any(|fd| fd.opaque.starts_with(names::PREFIX))
    }
}

fn typed<T: DeserializeOwned>(command: &'static str, answer: Value) -> Result<T, CaptureError> {
    serde_json::from_value(answer).map_err(|e| CaptureError::Nonsense { command, why: e.to_string() })
}

async fn ask<T: DeserializeOwned>(
    machine: &Machine,
    command: &'static str,
    arguments: Value,
) -> Result<T, CaptureError> {
    typed(command, machine.execute(command, arguments).await?)
}

pub(super) async fn nodes(machine: &Machine) -> Result<Vec<Node>, CaptureError> {
    ask(machine, "query-named-block-nodes", json!({"flat": true})).await
}

/// The devices that have something in them.
pub(super) async fn devices(machine: &Machine) -> Result<Vec<Device>, CaptureError> {
    Ok(open_devices(ask(machine, "query-block", json!({})).await?))
}

fn open_devices(raw: Vec<RawDevice>) -> Vec<Device> {
    let device = |raw: RawDevice| Some(Device { path: raw.qdev?, node: raw.inserted?.node_name? });
    raw.into_iter().filter_map(device).collect()
}

pub(super) async fn jobs(machine: &Machine) -> Result<Vec<Job>, CaptureError> {
    ask(machine, "query-jobs", json!({})).await
}

pub(super) async fn fd_sets(machine: &Machine) -> Result<Vec<FdSet>, CaptureError> {
    ask(machine, "query-fdsets", json!({})).await
}

/// The nodes of disks, with the places that their names say, in the order of the names.
pub(super) fn disks<'a>(nodes: &'a [Node]) -> Vec<(DiskPlace, &'a Node)> {
    let disk = |node: &'a Node| Some((DiskPlace::parse(&node.node_name)?, node));
    let mut found: Vec<_> = nodes.iter().filter_map(disk).collect();
    found.sort_by(|a, b| a.1.node_name.cmp(&b.1.node_name));
    found
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_answer(answer: &Value) {
    if let Ok(nodes) = Vec::<Node>::deserialize(answer) {
        for (_, node) in disks(&nodes) {
            super::bitmaps::of_node(node);
        }
    }
    let _ = Vec::<RawDevice>::deserialize(answer).map(open_devices);
    let _ = Vec::<Job>::deserialize(answer);
    let _ = Vec::<FdSet>::deserialize(answer);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_answers_are_read() {
        let nodes: Vec<Node> = typed(
            "query-named-block-nodes",
            json!([
                {"node-name": "scsi-3", "drv": "qcow2", "ro": false, "file": "/d/a.qcow2",
                 "image": {"virtual-size": 1_048_576, "filename": "/d/a.qcow2", "format": "qcow2"},
                 "dirty-bitmaps": [{"name": "b", "recording": true, "persistent": true, "busy": false,
                                    "granularity": 65536, "count": 131_072},
                                   {"recording": false, "busy": false, "granularity": 65536, "count": 0}]},
                {"node-name": "#block123", "drv": "file", "ro": false, "file": "/d/a.qcow2"},
                {"node-name": "capture-filter-scsi-3", "drv": "copy-before-write"},
                {"node-name": "ide-0", "drv": "raw", "ro": true, "image": {"virtual-size": 5}},
            ]),
        )
        .unwrap();
        let found = disks(&nodes);
        let names: Vec<String> = found.iter().map(|(place, _)| place.to_string()).collect();
        assert_eq!(names, ["ide-0", "scsi-3"]);
        let scsi = found[1].1;
        assert_eq!((scsi.image.virtual_size, scsi.read_only), (1 << 20, false));
        let bitmap = scsi.bitmap("b").unwrap();
        assert!(bitmap.recording && bitmap.persistent && !bitmap.inconsistent && bitmap.count == 131_072);
        assert!(scsi.bitmap("c").is_none());
        assert!(nodes[2].is_of_a_capture() && !scsi.is_of_a_capture());
    }

    #[test]
    fn devices_without_a_medium_are_passed_over() {
        let raw = json!([{"device": "", "qdev": "/a/b", "inserted": {"node-name": "scsi-0", "ro": false}},
                         {"device": "floppy", "removable": true}, {"qdev": "/c", "inserted": {}}]);
        let expected = Device { path: "/a/b".to_owned(), node: "scsi-0".to_owned() };
        assert_eq!(open_devices(typed("query-block", raw).unwrap()), [expected]);
    }

    #[test]
    fn an_answer_that_is_none_is_refused() {
        for bad in
            [json!({}), json!([1]), json!([{"node-name": 7}]), json!([{"dirty-bitmaps": [{"count": -1}]}])]
        {
            assert!(typed::<Vec<Node>>("query-named-block-nodes", bad).is_err());
        }
    }
}
