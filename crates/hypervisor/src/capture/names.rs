//! What things are called in QEMU. All that a capture makes begins with one prefix, and nothing else does.

use std::fmt;

use nestling_model::Controller;

use crate::cmdline::devices;

/// Of every node, export, file descriptor set and temporary bitmap of a capture.
pub(super) const PREFIX: &str = "capture-";

/// There while the guest stands still for an instant, so that a node that comes back knows who stopped it.
pub(super) const STOPPED: &str = "capture-stopped";

/// There while QEMU's one NBD server is a capture's, and not another's.
pub(super) const SERVER: &str = "capture-server";

/// Where a disk sits, which is what names it while a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DiskPlace {
    pub controller: Controller,
    pub location: u8,
}

/// In QEMU's words, which are unique within a machine.
impl fmt::Display for DiskPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.node())
    }
}

impl DiskPlace {
    /// The disk of this node name.
    pub(super) fn parse(node: &str) -> Option<Self> {
        let (controller, location) = node.split_once('-')?;
        let controller = match controller {
            "ide" => Controller::Ide,
            "scsi" => Controller::Scsi,
            _ => return None,
        };
        let place = Self { controller, location: location.parse().ok()? };
        // No second spelling of the same number.
        (place.node() == node).then_some(place)
    }

    pub(super) fn node(self) -> String {
        devices::node_name(self.controller, self.location)
    }

    /// The device's place in QEMU's object tree.
    pub(super) fn device(self) -> String {
        format!("/machine/peripheral/{}", devices::disk_name(self.controller, self.location))
    }

    fn named(self, part: &str) -> String {
        format!("{PREFIX}{part}-{self}")
    }

    pub(super) fn filter(self) -> String {
        self.named("filter")
    }

    pub(super) fn view(self) -> String {
        self.named("view")
    }

    /// The export of the view, which tells whether everything was kept.
    pub(super) fn whole(self) -> String {
        self.named("whole")
    }

    pub(super) fn kept(self) -> String {
        self.named("kept")
    }

    /// The part of the fleecing file that its image may use.
    pub(super) fn room(self) -> String {
        self.named("room")
    }

    pub(super) fn file(self) -> String {
        self.named("file")
    }

    pub(super) fn export(self) -> String {
        self.named("export")
    }

    /// The copy of a bitmap as it was at the instant.
    pub(super) fn changed(self) -> String {
        self.named("changed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU allows for a node's name.
    const NODE_NAME_BYTES_MAX: usize = 31;

    #[test]
    fn names_fit_and_lead_back() {
        for controller in [Controller::Ide, Controller::Scsi] {
            for location in [0, 15, 255] {
                let place = DiskPlace { controller, location };
                assert_eq!(DiskPlace::parse(&place.node()), Some(place));
                for name in [place.filter(), place.view(), place.kept(), place.room(), place.file()] {
                    assert!(name.len() <= NODE_NAME_BYTES_MAX && name.starts_with(PREFIX), "{name}");
                    assert_eq!(DiskPlace::parse(&name), None);
                }
            }
        }
    }

    #[test]
    fn what_is_no_disk_of_ours_is_none() {
        for other in [
            "",
            "scsi",
            "scsi-",
            "scsi-01",
            "scsi-+1",
            "scsi-256",
            "ide--1",
            "sata-0",
            "pflash0",
            "#block123",
        ] {
            assert_eq!(DiskPlace::parse(other), None, "{other}");
        }
    }
}
