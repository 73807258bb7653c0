//! What a node inside says of an instant, checked. Pure; whatever does not fit is refused, or not believed.

use std::time::Duration;

use nestling_model::{
    DiskName, VmId, VmPath,
    adapter::ADAPTERS_MAX,
    disk::{DISK_BYTES_MAX, DISKS_MAX},
    protection::{ConsistencyReached, Message, NotTracked, RunId},
};

use super::super::{
    basis::DiskThen,
    description::{DESCRIPTION_BYTES_MAX, DescribedDisk, Description},
    loan::LentInstant,
};
use crate::clock::whole_ms;

/// A machine is connected to no more switches than it has adapters.
const SWITCHES_MAX: usize = ADAPTERS_MAX;
const WARNINGS_MAX: usize = 32;
/// Of all disks of a machine together. What is only claimed costs this host memory, too: a save has something to remember of
/// each 32 MiB. No machine has more disks of the largest size than one.
const LENT_BYTES_MAX: u64 = DISK_BYTES_MAX;

/// What is known here of a machine inside, whatever the node inside says.
pub struct Expected<'a> {
    pub vm: VmId,
    pub path: &'a VmPath,
    pub run: RunId,
    pub now_ms: u64,
    /// How long ago the node inside was asked: the instant is not older.
    pub asked_for: Duration,
    pub points: &'a [Vec<DiskThen>],
}

/// An instant that can be saved.
#[derive(Debug)]
pub struct Checked {
    pub description: Vec<u8>,
    pub taken_at_ms: u64,
    pub consistency: ConsistencyReached,
    pub point: Option<usize>,
    pub disks: Vec<CheckedDisk>,
    pub frozen_for: Duration,
    pub took: Duration,
    pub warnings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct CheckedDisk {
    pub name: DiskName,
    pub bytes: u64,
    pub since: Result<(), NotTracked>,
}

/// Warnings of a guest, a few of them.
pub fn harmless(warnings: &[String]) -> Vec<String> {
    let mut texts: Vec<String> =
        warnings.iter().take(WARNINGS_MAX).map(|text| Message::from(text.as_str()).to_string()).collect();
    if warnings.len() > WARNINGS_MAX {
        texts.push(format!("and {} more", warnings.len() - WARNINGS_MAX));
    }
    texts
}

/// Why it is none is told in words.
pub fn check(lent: &LentInstant, expected: &Expected<'_>) -> Result<Checked, &'static str> {
    if lent.description.len() > DESCRIPTION_BYTES_MAX {
        return Err("what it says of the machine is too long");
    }
    let described = Description::read(lent.description.as_bytes());
    let mut described =
        described.ok_or("what it says of the machine cannot be read; it may be of another version")?;
    let counts =
        [described.disks.len(), described.left_out.len(), described.vm.disks.len(), lent.disks.len()];
    if lent.disks.is_empty() || counts.iter().any(|count| *count > DISKS_MAX) {
        return Err("it speaks of no disk, or of more disks than any machine has");
    }
    if described.vm.adapters.len() > ADAPTERS_MAX || described.switches.len() > SWITCHES_MAX {
        return Err("it speaks of more network adapters than any machine has");
    }
    if described.disks.len() != lent.disks.len() {
        return Err("it lends other disks than those of which it speaks");
    }
    let point = lent.point.map(|number| expected.points.get(number).ok_or(number)).transpose();
    let point = point.map_err(|_| "it counts from a point that there is not")?;
    let known = described.disks_then();
    let mut disks: Vec<CheckedDisk> = Vec::new();
    for (disk, told) in lent.disks.iter().zip(&described.disks) {
        let then = known.iter().find(|then| then.place.to_string() == disk.name);
        let then = then.filter(|then| disk.name == told.name && then.bytes == disk.bytes);
        let then = then.ok_or("it lends other disks than those of which it speaks")?;
        if disk.bytes == 0 || disk.bytes > DISK_BYTES_MAX {
            return Err("a disk is of a size that no disk has");
        }
        let name: DiskName = disk.name.parse().map_err(|_| "a disk has a name that no disk has")?;
        if disks.iter().any(|other| other.name == name) {
            return Err("it lends a disk twice");
        }
        let since = disk.since.and_then(|()| counts_from(then, point));
        disks.push(CheckedDisk { name, bytes: disk.bytes, since });
    }
    // Each is of a size that a disk has, so the sum is one, too.
    if disks.iter().map(|disk| disk.bytes).sum::<u64>() > LENT_BYTES_MAX {
        return Err("its disks together are larger than what is saved of a machine inside");
    }
    let age = lent.age.min(expected.asked_for);
    let taken_at_ms = expected.now_ms.saturating_sub(whole_ms(age));
    own(&mut described, expected, taken_at_ms);
    let consistency = described.consistency;
    let description = described.to_json().map_err(|_| "what it says of the machine cannot be kept")?;
    // It is written with more white space than it may have come with, and could not be read again.
    if description.len() > DESCRIPTION_BYTES_MAX {
        return Err("what it says of the machine is too long");
    }
    Ok(Checked {
        description,
        taken_at_ms,
        consistency,
        point: lent.point,
        disks,
        frozen_for: lent.frozen_for,
        took: lent.took,
        warnings: harmless(&lent.warnings),
    })
}

/// Changes are believed only from a point of which we know that this disk was tracked from it, with this size.
fn counts_from(disk: &DiskThen, point: Option<&Vec<DiskThen>>) -> Result<(), NotTracked> {
    let then = point.ok_or(NotTracked::FirstPoint)?.iter().find(|then| then.place == disk.place);
    let then = then.ok_or(NotTracked::FirstPoint)?;
    if then.bitmap.is_none() {
        return Err(NotTracked::UnknownPoint);
    }
    if then.bytes == disk.bytes { Ok(()) } else { Err(NotTracked::SizeChanged) }
}

/// What this host knows better.
fn own(described: &mut Description, expected: &Expected<'_>, taken_at_ms: u64) {
    described.vm.id = expected.vm;
    described.vm.name = expected.path.split().1.clone();
    described.vm.state_reason = described.vm.state_reason.take().map(|text| Message::from(text).to_string());
    described.run = expected.run;
    described.taken_at_ms = taken_at_ms;
    for switch in &mut described.switches {
        switch.name = Message::from(switch.name.as_str()).to_string();
    }
    let place = |disk: &DescribedDisk| (disk.controller, disk.location);
    let saved: Vec<_> = described.disks.iter().map(place).collect();
    described.left_out.retain(|at| !saved.contains(&(at.controller, at.location)));
}

#[cfg(test)]
mod tests {
    use nestling_hypervisor::capture::{BitmapName, DiskPlace};
    use nestling_model::Controller;
    use uuid::Uuid;

    use super::*;
    use crate::{
        protection::{description::DiskAt, loan::LentDisk},
        testing::sample_vm,
    };

    const GIB: u64 = 1 << 30;

    fn described() -> Description {
        let vm = sample_vm("anything");
        let run = RunId(Uuid::from_u128(9));
        let mut described = Description::new(vm.clone(), 5, ConsistencyReached::FileSystem, run);
        described.disks = vec![DescribedDisk::new(&vm.disks[0], GIB, Some(BitmapName(Uuid::from_u128(7))))];
        described
    }

    fn lent(described: &Description) -> LentInstant {
        LentInstant {
            description: String::from_utf8(described.to_json().unwrap()).unwrap(),
            age: Duration::from_secs(3),
            point: Some(0),
            disks: vec![LentDisk { name: "scsi-0".into(), bytes: GIB, since: Ok(()) }],
            frozen_for: Duration::ZERO,
            took: Duration::ZERO,
            warnings: Vec::new(),
        }
    }

    fn points(bytes: u64, bitmap: Option<u128>) -> Vec<Vec<DiskThen>> {
        let place = DiskPlace { controller: Controller::Scsi, location: 0 };
        vec![vec![DiskThen { place, bytes, bitmap: bitmap.map(|n| BitmapName(Uuid::from_u128(n))) }]]
    }

    fn checked(lent: &LentInstant, points: &[Vec<DiskThen>]) -> Result<Checked, &'static str> {
        let expected = Expected {
            vm: VmId(Uuid::from_u128(1000)),
            path: &"L1/L2".parse().unwrap(),
            run: RunId(Uuid::from_u128(2000)),
            now_ms: 1_000_000,
            asked_for: Duration::from_secs(10),
            points,
        };
        check(lent, &expected)
    }

    #[test]
    fn what_this_host_knows_better_is_written_into_the_point() {
        let checked = checked(&lent(&described()), &points(GIB, Some(1))).unwrap();
        let read = Description::read(&checked.description).unwrap();
        assert_eq!((read.vm.id.0.as_u128(), read.run.0.as_u128()), (1000, 2000));
        assert_eq!((read.vm.name.as_str(), read.taken_at_ms), ("L2", 997_000));
        assert_eq!((checked.taken_at_ms, checked.point, checked.disks[0].since), (997_000, Some(0), Ok(())));
        assert_eq!(checked.consistency, ConsistencyReached::FileSystem);
    }

    #[test]
    fn an_instant_is_not_older_than_the_question() {
        let old = LentInstant { age: Duration::MAX, ..lent(&described()) };
        assert_eq!(checked(&old, &points(GIB, Some(1))).unwrap().taken_at_ms, 990_000);
    }

    #[test]
    fn changes_are_believed_only_from_a_point_that_fits() {
        let since = |lent: LentInstant, points: &[_]| checked(&lent, points).unwrap().disks[0].since;
        let good = || lent(&described());
        assert_eq!(since(good(), &points(GIB, None)), Err(NotTracked::UnknownPoint));
        assert_eq!(since(good(), &points(2 * GIB, Some(1))), Err(NotTracked::SizeChanged));
        assert_eq!(since(good(), &[Vec::new()]), Err(NotTracked::FirstPoint));
        assert_eq!(since(LentInstant { point: None, ..good() }, &[]), Err(NotTracked::FirstPoint));
        let mut told = good();
        told.disks[0].since = Err(NotTracked::ImageTouched);
        assert_eq!(since(told, &points(GIB, Some(1))), Err(NotTracked::ImageTouched));
    }

    type Twist = fn(&mut Description, &mut LentInstant);

    #[test]
    fn what_makes_no_sense_is_refused() {
        let twists: [(&str, Twist); 12] = [
            ("no disk", |_, lent| lent.disks.clear()),
            ("another disk", |_, lent| lent.disks[0].name = "scsi-1".into()),
            ("a name that leads elsewhere", |_, lent| lent.disks[0].name = "../x".into()),
            ("a size", |_, lent| lent.disks[0].bytes = 1),
            ("a point", |_, lent| lent.point = Some(1)),
            ("a disk twice", |described, lent| {
                described.disks.push(described.disks[0].clone());
                lent.disks.push(lent.disks[0].clone());
            }),
            ("many disks", |described, lent| {
                described.disks = vec![described.disks[0].clone(); 17];
                lent.disks = vec![lent.disks[0].clone(); 17];
            }),
            ("many left out", |described, _| {
                described.left_out = vec![DiskAt { controller: Controller::Ide, location: 1 }; 17];
            }),
            ("no size", |described, lent| {
                described.disks[0].size_bytes = 0;
                lent.disks[0].bytes = 0;
            }),
            ("more than any disk has", |described, lent| {
                described.disks[0].size_bytes = u64::MAX;
                lent.disks[0].bytes = u64::MAX;
            }),
            ("many disks of the largest size", |described, lent| {
                described
                    .vm
                    .disks
                    .push(nestling_model::Disk { location: 1, ..described.vm.disks[0].clone() });
                described.disks =
                    described.vm.disks.iter().map(|d| DescribedDisk::new(d, DISK_BYTES_MAX, None)).collect();
                let names = ["scsi-0", "scsi-1"].into_iter();
                lent.disks = names
                    .map(|name| LentDisk {
                        name: name.into(),
                        bytes: DISK_BYTES_MAX,
                        since: Err(NotTracked::FirstPoint),
                    })
                    .collect();
            }),
            ("another name in the description", |described, _| described.disks[0].name = "ide-0".into()),
        ];
        for (what, twist) in twists {
            let mut described = described();
            let mut told = lent(&described);
            twist(&mut described, &mut told);
            told.description = String::from_utf8(described.to_json().unwrap()).unwrap();
            assert!(checked(&told, &points(GIB, Some(1))).is_err(), "{what}");
        }
        for text in [String::new(), "{}".into(), "x".repeat(DESCRIPTION_BYTES_MAX + 1)] {
            let told = LentInstant { description: text, ..lent(&described()) };
            assert!(checked(&told, &points(GIB, Some(1))).is_err());
        }
    }

    #[test]
    fn a_description_is_as_short_as_one_that_can_be_read_again() {
        let mut described = described();
        let compact = |described: &Description| serde_json::to_string(described).unwrap();
        described.vm.notes = String::new();
        described.vm.notes = "x".repeat(DESCRIPTION_BYTES_MAX - compact(&described).len());
        let told = LentInstant { description: compact(&described), ..lent(&self::described()) };
        assert!(Description::read(told.description.as_bytes()).is_some());
        assert!(checked(&told, &points(GIB, Some(1))).is_err());
    }

    #[test]
    fn warnings_are_few_and_harmless() {
        let texts = harmless(&vec!["a\u{1b}[2Jb".repeat(1000); 500]);
        assert_eq!(texts.len(), WARNINGS_MAX + 1);
        assert!(texts.iter().all(|text| text.chars().count() <= 500 && !text.contains(char::is_control)));
    }
}
