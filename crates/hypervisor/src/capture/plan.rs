//! What a capture will do, decided from what was asked for and what QEMU says that is there. Pure: what is refused is
//! refused before anything is changed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    BitmapName, CaptureError, CaptureRequest, DiskPlace,
    answers::{self, Device, Node},
    bitmaps::{self, GRANULARITY},
};

/// One disk of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DiskPlan {
    pub disk: DiskPlace,
    pub bytes: u64,
    /// The file of its image, for what it holds to be written out before the guest has to wait for that.
    pub file: String,
    /// Its device, which gets the filter; `None` for a disk that nobody writes to, which needs none.
    pub device: Option<String>,
    /// A bitmap to begin, and whether the image can keep it.
    pub begin: Option<(BitmapName, bool)>,
    pub since: Option<BitmapName>,
}

impl DiskPlan {
    /// The node that is exported.
    pub fn exported(&self) -> String {
        if self.device.is_some() { self.disk.kept() } else { self.disk.node() }
    }
}

pub(super) fn plan(
    request: &CaptureRequest,
    nodes: &[Node],
    devices: &[Device],
) -> Result<Vec<DiskPlan>, CaptureError> {
    if request.disks.is_empty() {
        return Err(CaptureError::NoDisks);
    }
    let there = answers::disks(nodes);
    let mut seen = BTreeSet::new();
    let mut plans = Vec::new();
    for asked in &request.disks {
        let disk = asked.disk;
        if !seen.insert(disk.node()) {
            return Err(CaptureError::Twice { disk });
        }
        let found = there.iter().find(|(place, _)| *place == disk);
        let (_, node) = found.ok_or(CaptureError::NoDisk { disk })?;
        if node.read_only && (asked.begin.is_some() || asked.since.is_some()) {
            return Err(CaptureError::ReadOnly { disk });
        }
        if let Some(bitmap) = asked.begin.filter(|b| node.bitmap(&b.to_string()).is_some()) {
            return Err(CaptureError::BitmapExists { disk, bitmap });
        }
        if let Some(bitmap) = asked.since {
            believed(disk, node, bitmap)?;
        }
        let device = devices.iter().find(|d| d.node == disk.node());
        let device = device.ok_or(CaptureError::NoDisk { disk })?;
        plans.push(DiskPlan {
            disk,
            bytes: node.image.virtual_size,
            file: node.file.clone(),
            device: (!node.read_only).then(|| device.path.clone()),
            begin: asked.begin.map(|bitmap| (bitmap, node.driver == "qcow2")),
            since: asked.since,
        });
    }
    Ok(plans)
}

fn believed(disk: DiskPlace, node: &Node, bitmap: BitmapName) -> Result<(), CaptureError> {
    let found = bitmaps::of_node(node).into_iter().find(|report| report.name == bitmap);
    let report = found.ok_or(CaptureError::NoBitmap { disk, bitmap })?;
    let why = report.doubt().or_else(|| report.busy.then_some("something else uses it"));
    why.map_or(Ok(()), |why| Err(CaptureError::BadBitmap { disk, bitmap, why }))
}

/// What happens to the bitmaps at the instant: new ones begin, and of the older ones a copy is made that stays as it is
/// while they go on recording.
pub(super) fn transaction(plans: &[DiskPlan]) -> Value {
    let add = |data: Value| json!({"type": "block-dirty-bitmap-add", "data": data});
    let mut actions = Vec::new();
    for plan in plans {
        let node = plan.disk.node();
        if let Some((bitmap, persistent)) = plan.begin {
            actions.push(add(json!({"node": node, "name": bitmap.to_string(), "granularity": GRANULARITY,
                                    "persistent": persistent})));
        }
        if let Some(since) = plan.since {
            let copy = plan.disk.changed();
            actions
                .push(add(json!({"node": node, "name": copy, "granularity": GRANULARITY, "disabled": true})));
            let data = json!({"node": node, "target": copy, "bitmaps": [since.to_string()]});
            actions.push(json!({"type": "block-dirty-bitmap-merge", "data": data}));
        }
    }
    json!({"actions": actions})
}

#[cfg(test)]
mod tests {
    use nestling_model::Controller;
    use uuid::Uuid;

    use super::*;
    use crate::capture::{DiskRequest, Fleecing};

    fn place(location: u8) -> DiskPlace {
        DiskPlace { controller: Controller::Scsi, location }
    }

    fn name(n: u128) -> BitmapName {
        BitmapName(Uuid::from_u128(n))
    }

    fn node(location: u8, bitmaps: &Value) -> Node {
        serde_json::from_value(json!({"node-name": place(location).node(), "drv": "qcow2", "file": "/d/a",
            "image": {"virtual-size": 1 << 20}, "dirty-bitmaps": bitmaps}))
        .unwrap()
    }

    fn bitmap(n: u128, change: impl Fn(&mut Value)) -> Value {
        let mut bitmap = json!({"name": name(n).to_string(), "recording": true, "persistent": true, "busy": false,
                                "granularity": GRANULARITY, "count": 0});
        change(&mut bitmap);
        bitmap
    }

    fn devices() -> Vec<Device> {
        (0..3).map(|n| Device { path: format!("/dev{n}"), node: place(n).node() }).collect()
    }

    fn asked(location: u8, begin: Option<u128>, since: Option<u128>) -> DiskRequest {
        DiskRequest { disk: place(location), begin: begin.map(name), since: since.map(name) }
    }

    fn request(disks: Vec<DiskRequest>) -> CaptureRequest {
        CaptureRequest { disks, fleecing: Fleecing { dir: "/f".into(), bytes_max: 1 << 30 } }
    }

    fn refused(disks: Vec<DiskRequest>, nodes: &[Node]) -> String {
        plan(&request(disks), nodes, &devices()).unwrap_err().to_string()
    }

    #[test]
    fn each_disk_gets_what_it_can_have() {
        let mut nodes = vec![node(0, &json!([bitmap(1, |_| ())])), node(1, &json!([])), node(2, &json!([]))];
        nodes[1].driver = "raw".to_owned();
        nodes[2].read_only = true;
        let disks = vec![asked(0, Some(2), Some(1)), asked(1, Some(2), None), asked(2, None, None)];
        let plans = plan(&request(disks), &nodes, &devices()).unwrap();
        assert_eq!((plans[0].begin, plans[0].since), (Some((name(2), true)), Some(name(1))));
        assert_eq!(plans[0].exported(), "capture-kept-scsi-0");
        assert_eq!(plans[1].begin, Some((name(2), false)), "a raw image keeps no bitmap");
        assert_eq!((plans[2].device.as_deref(), plans[2].exported().as_str()), (None, "scsi-2"));
        let actions = transaction(&plans);
        let kinds: Vec<&str> =
            actions["actions"].as_array().unwrap().iter().map(|a| a["type"].as_str().unwrap()).collect();
        let (add, merge) = ("block-dirty-bitmap-add", "block-dirty-bitmap-merge");
        assert_eq!(kinds, [add, add, merge, add]);
        assert_eq!(actions["actions"][2]["data"]["target"], actions["actions"][1]["data"]["name"]);
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_changed() {
        let nodes = [node(0, &json!([bitmap(1, |_| ())]))];
        assert!(refused(vec![], &nodes).contains("no disks"));
        assert!(refused(vec![asked(0, None, None), asked(0, None, None)], &nodes).contains("given twice"));
        assert!(refused(vec![asked(7, None, None)], &nodes).contains("no disk scsi-7"));
        assert!(refused(vec![asked(0, Some(1), None)], &nodes).contains("already"));
        assert!(refused(vec![asked(0, None, Some(9))], &nodes).contains("has no bitmap"));
        let mut fixed = node(0, &json!([]));
        fixed.read_only = true;
        assert!(refused(vec![asked(0, Some(1), None)], &[fixed]).contains("read-only"));
        let unplugged = plan(&request(vec![asked(0, None, None)]), &nodes, &[]).unwrap_err();
        assert!(matches!(unplugged, CaptureError::NoDisk { .. }), "{unplugged}");
    }

    #[test]
    fn a_bitmap_that_cannot_be_believed_is_refused() {
        type Change = fn(&mut Value);
        let changes: [(Change, &str); 4] = [
            (|b| b["inconsistent"] = json!(true), "did not end properly"),
            (|b| b["recording"] = json!(false), "switched off"),
            (|b| b["granularity"] = json!(4096), "another granularity"),
            (|b| b["busy"] = json!(true), "something else uses it"),
        ];
        for (change, expected) in changes {
            let nodes = [node(0, &json!([bitmap(1, change)]))];
            let refused = refused(vec![asked(0, None, Some(1))], &nodes);
            assert!(refused.contains(expected) && refused.contains("compare the whole disk"), "{refused}");
        }
    }
}
