use std::time::Duration;

use nestling_model::{VmId, adapter::ADAPTERS_MAX, protection as model, tag::TAGS_MAX};
use nestling_node as node;
use node::{ErrorKind, NodeError, Refused};

use super::{jobs::shown_consistency, protection::consistency, read, same_names, vm::generation};
use crate::v1;

same_names!(v1::LoanState, node::LoanState: Preparing, Ready, Ending, Ended);
same_names!(v1::NotTracked, model::NotTracked: FirstPoint, UnknownPoint, BitmapMissing, BitmapInconsistent,
    NotRecording, SizeChanged, GranularityChanged, ImageTouched, EngineEnded, Recovered, Asked);

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl TryFrom<v1::NewLoan> for node::LoanWish {
    type Error = NodeError;

    fn try_from(new: v1::NewLoan) -> Result<Self, NodeError> {
        let point = |point: &v1::LoanPoint| {
            let disks = point.disks.iter().map(|disk| {
                node::LoanPoint::disk(disk.controller.into(), disk.location, disk.size_bytes, disk.tracking)
            });
            Ok(node::LoanPoint { id: read("recovery point's id", &point.id)?, disks: disks.collect() })
        };
        let excluded = new.exclude_disks.iter().map(|text| read("disk", text));
        Ok(Self {
            repository: model::RepositoryId(new.repository),
            points: new.points.iter().map(point).collect::<Result<_, NodeError>>()?,
            consistency: consistency(&new.consistency)?,
            excluded: excluded.collect::<Result<_, _>>()?,
            full: new.full,
            vm: new.vm,
        })
    }
}

impl From<node::LoanWish> for v1::NewLoan {
    fn from(wish: node::LoanWish) -> Self {
        let point = |point: &node::LoanPoint| v1::LoanPoint {
            id: point.id.to_string(),
            disks: point
                .parts()
                .map(|(controller, location, size_bytes, tracking)| v1::LoanPointDisk {
                    controller: controller.into(),
                    location,
                    size_bytes,
                    tracking,
                })
                .collect(),
        };
        Self {
            repository: wish.repository.0,
            points: wish.points.iter().map(point).collect(),
            consistency: shown_consistency(&wish.consistency),
            exclude_disks: wish.excluded.iter().map(ToString::to_string).collect(),
            full: wish.full,
            vm: wish.vm,
        }
    }
}

impl From<node::LoanView> for v1::Loan {
    fn from(view: node::LoanView) -> Self {
        let node::LoanView { id, state, instant, warnings, reason, again } = view;
        let instant = instant.map(Into::into);
        Self { id, state: state.into(), instant, warnings, reason, again }
    }
}

impl From<v1::Loan> for node::LoanView {
    fn from(loan: v1::Loan) -> Self {
        let v1::Loan { id, state, instant, warnings, reason, again } = loan;
        let instant = instant.map(Into::into);
        Self { id, state: state.into(), instant, warnings, reason, again }
    }
}

impl From<node::LentInstant> for v1::LentInstant {
    fn from(lent: node::LentInstant) -> Self {
        let disk = |disk: node::LentDisk| v1::LentDisk {
            name: disk.name,
            size_bytes: disk.bytes,
            untracked: disk.since.err().map(Into::into),
        };
        Self {
            description: lent.description,
            age_ms: milliseconds(lent.age),
            point: lent.point.and_then(|number| number.try_into().ok()),
            disks: lent.disks.into_iter().map(disk).collect(),
            frozen_ms: milliseconds(lent.frozen_for),
            capture_ms: milliseconds(lent.took),
            warnings: lent.warnings,
        }
    }
}

impl From<v1::LentInstant> for node::LentInstant {
    fn from(lent: v1::LentInstant) -> Self {
        let disk = |disk: v1::LentDisk| node::LentDisk {
            name: disk.name,
            bytes: disk.size_bytes,
            since: disk.untracked.map_or(Ok(()), |why| Err(why.into())),
        };
        Self {
            description: lent.description,
            age: Duration::from_millis(lent.age_ms),
            // A number that is too large is no point's.
            point: lent.point.map(|number| usize::try_from(number).unwrap_or(usize::MAX)),
            disks: lent.disks.into_iter().map(disk).collect(),
            frozen_for: Duration::from_millis(lent.frozen_ms),
            took: Duration::from_millis(lent.capture_ms),
            warnings: lent.warnings,
        }
    }
}

impl From<node::Stretches> for v1::DiskStretches {
    fn from(told: node::Stretches) -> Self {
        let pairs = told.ranges.iter().map(|range| [range.start, range.end - range.start]);
        Self { stretches: pairs.collect(), until: told.until }
    }
}

impl TryFrom<v1::DiskStretches> for node::Stretches {
    type Error = Refused;

    fn try_from(told: v1::DiskStretches) -> Result<Self, Refused> {
        let range = |[offset, length]: [u64; 2]| {
            let end = offset.checked_add(length);
            let strange = || Refused::new(ErrorKind::Failed, "it speaks of bytes behind all disks");
            Ok(offset..end.ok_or_else(strange)?)
        };
        let ranges = told.stretches.into_iter().map(range).collect::<Result<_, Refused>>()?;
        Ok(Self { ranges, until: told.until })
    }
}

impl v1::ReturnLoan {
    pub(crate) fn point(&self) -> Result<Option<model::PointId>, NodeError> {
        self.point.as_deref().map(|id| read("recovery point's id", id)).transpose()
    }
}

impl TryFrom<v1::Vm> for node::MachineInside {
    type Error = NodeError;

    fn try_from(vm: v1::Vm) -> Result<Self, NodeError> {
        let switches = vm.adapters.into_iter().take(ADAPTERS_MAX).filter_map(|adapter| adapter.switch);
        Ok(Self {
            id: VmId(vm.id),
            name: vm.name.parse()?,
            tags: vm.tags.iter().take(TAGS_MAX).filter_map(|tag| tag.parse().ok()).collect(),
            state: vm.state.into(),
            memory_bytes: vm.memory_startup_bytes,
            processors: vm.processor_count,
            generation: generation(vm.generation)?,
            switches: switches.collect(),
            nesting: vm.expose_virtualization_extensions,
            hosts_nestling: vm.hosts_nestling,
        })
    }
}

#[cfg(test)]
mod tests {
    use nestling_model::Controller;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_wish_and_what_is_lent_arrive_as_they_were_sent() {
        let id: model::PointId = "ab".repeat(32).parse().unwrap();
        let disk = node::LoanPoint::disk(Controller::Scsi, 3, 1 << 30, Some(Uuid::from_u128(7)));
        let wish = node::LoanWish {
            vm: "L2".into(),
            repository: model::RepositoryId(Uuid::from_u128(9)),
            points: vec![node::LoanPoint { id, disks: vec![disk] }],
            full: true,
            excluded: vec!["scsi:1".parse().unwrap()],
            consistency: model::Consistency::default(),
        };
        assert_eq!(node::LoanWish::try_from(v1::NewLoan::from(wish.clone())).unwrap(), wish);
        let disk = |since| node::LentDisk { name: "scsi-0".into(), bytes: 5, since };
        let view = node::LoanView {
            id: Uuid::from_u128(1),
            state: node::LoanState::Ready,
            instant: Some(node::LentInstant {
                description: "{}".into(),
                age: Duration::from_millis(3),
                point: Some(1),
                disks: vec![disk(Ok(())), disk(Err(model::NotTracked::ImageTouched))],
                frozen_for: Duration::from_millis(4),
                took: Duration::from_millis(5),
                warnings: vec!["w".into()],
            }),
            warnings: Vec::new(),
            reason: Some("r".into()),
            again: true,
        };
        assert_eq!(node::LoanView::from(v1::Loan::from(view.clone())), view);
        let told = node::Stretches { ranges: vec![1..3, 8..9], until: 10 };
        assert_eq!(node::Stretches::try_from(v1::DiskStretches::from(told.clone())).unwrap(), told);
        let astray = v1::DiskStretches { stretches: vec![[u64::MAX, 2]], until: 1 };
        assert!(node::Stretches::try_from(astray).is_err());
    }
}
