//! Where disks sit here, when they come from a host with other controllers.
//!
//! The place that the description gives is kept where it is one of ours and free: what is on IDE is what the guest starts
//! from, and order is what most guests know their disks by.

use crate::{Controller, Disk, Machine};

/// A host of ours has one controller of each kind with so many places.
const IDE_PLACES: u8 = 4;
const SCSI_PLACES: u8 = 16;
/// No description has as many; one that says so is refused before anything of it is kept.
pub const DISKS_MAX: usize = 256;

impl Machine {
    /// Adds a disk at the place that is wanted, or at the next that is free. What finds none on IDE goes to SCSI.
    pub(crate) fn place(&mut self, wanted: Option<u8>, disk: Disk) {
        let is_free =
            |on: Controller, at: u8| !self.disks.iter().any(|d| (d.controller, d.location) == (on, at));
        let next = |on: Controller| (0..places(on)).find(|at| is_free(on, *at)).map(|at| (on, at));
        let first = disk.controller;
        let kept = wanted.filter(|at| *at < places(first) && is_free(first, *at)).map(|at| (first, at));
        match kept.or_else(|| next(first)).or_else(|| next(Controller::Scsi)) {
            Some((controller, location)) => self.disks.push(Disk { controller, location, ..disk }),
            None => {
                let name = disk.file_name().to_owned();
                self.leave_out(&format!("disk {name}: there is no place left for it"));
            }
        }
    }

    /// UEFI here has no IDE: such disks move to SCSI, behind those that are there.
    pub(crate) fn settle(&mut self) {
        if self.firmware == crate::Firmware::Bios {
            return;
        }
        let (ide, scsi) =
            std::mem::take(&mut self.disks).into_iter().partition(|d| d.controller == Controller::Ide);
        let (ide, scsi): (Vec<Disk>, Vec<Disk>) = (ide, scsi);
        self.disks = scsi;
        for disk in ide {
            self.place(None, Disk { controller: Controller::Scsi, ..disk });
        }
    }
}

fn places(controller: Controller) -> u8 {
    match controller {
        Controller::Ide => IDE_PLACES,
        Controller::Scsi => SCSI_PLACES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Firmware;

    fn disk(controller: Controller, file: &str) -> Disk {
        Disk { controller, location: 0, file: file.into(), format: None, read_only: false, size_bytes: 0 }
    }

    #[test]
    fn a_place_is_kept_where_it_is_free_and_the_next_one_taken_where_not() {
        let mut machine = Machine::default();
        machine.place(Some(2), disk(Controller::Scsi, "a"));
        machine.place(Some(2), disk(Controller::Scsi, "b"));
        machine.place(Some(60), disk(Controller::Scsi, "c"));
        (0..5).for_each(|_| machine.place(None, disk(Controller::Ide, "d")));
        let places: Vec<u8> = machine.disks.iter().map(|d| d.location).collect();
        assert_eq!(places, [2, 0, 1, 0, 1, 2, 3, 3]);
        machine.firmware = Firmware::Uefi;
        machine.settle();
        let files: Vec<&str> = machine.disks.iter().map(|d| d.file.as_str()).collect();
        assert_eq!(files, ["a", "b", "c", "d", "d", "d", "d", "d"]);
        assert!(
            machine.disks.iter().all(|d| d.controller == Controller::Scsi) && machine.left_out.is_empty()
        );
        (0..9).for_each(|_| machine.place(None, disk(Controller::Scsi, "e")));
        assert_eq!(machine.left_out, ["disk e: there is no place left for it"]);
    }
}
