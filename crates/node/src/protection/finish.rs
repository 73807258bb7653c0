//! What is done once a point is durable: tracking counts from it, marks, logs in the guest, the rules of what stays.
//!
//! The order that keeps tracking right: the point is durable; that is written down; older bitmaps go. A node that dies in
//! between leaves older bitmaps too many, and never one too few.

use std::{sync::Arc, time::Duration};

use nestling_hypervisor::capture::Whole;
use nestling_model::{
    EventKind, VmId,
    protection::{DiskRun, Durations, Keep, NotTracked, PointId, Reading},
};
use nestling_vault::{Identity, Job, Point, Repository, Retag, SaveReport, SnapshotId, VaultError};

use super::{
    guest::owed::Owed,
    machine::{Backup, Done, Holder, Machine, Saved, Taken},
    retention,
    saving::{milliseconds, timestamp},
    tracking::Purpose,
};
use crate::{NodeError, blocking::blocking, clock::whole_ms, error::Result};

impl Backup<'_> {
    /// The point is durable: from here on nothing fails any more, and what does not work is a warning.
    pub async fn done(
        &self,
        vault: &Arc<Repository>,
        taken: Taken,
        parent: Option<Point>,
        saved: Saved,
        save: Duration,
    ) -> Result<Done> {
        let Saved { report, whole, mut disks } = saved;
        self.entry.does(self.number, self.path, "finishing");
        self.node.steps.reached("point durable");
        if let [only] = disks.as_mut_slice() {
            (only.new_bytes, only.stored_bytes) = (report.new_bytes, report.stored.bytes);
        }
        let mut warnings = taken.warnings;
        self.note_recovered(taken.vm, &mut disks, parent.as_ref());
        warnings.extend(told(&report, &mut disks, parent.as_ref()));
        let durations = Durations {
            frozen_ms: whole_ms(taken.frozen_for),
            capture_ms: whole_ms(taken.took),
            save_ms: whole_ms(save),
        };
        let (vm, consistency, taken_at_ms) = (taken.vm, taken.consistency, taken.taken_at_ms);
        let (left, owed) = self.give_back(taken.holder, whole, report.point).await;
        warnings.extend(left);
        let point = match self.mark(vault, report.point, taken_at_ms).await {
            Ok(point) => point,
            Err(error) => {
                warnings.push(format!("the point could not be marked as one to keep: {}", error.message()));
                report.point
            }
        };
        if let Machine::Own(handle) = self.machine {
            warnings.extend(self.capturing(handle).cut_logs(owed).await);
        }
        warnings.extend(self.apply_rules(vault, vm).await);
        Ok(Done {
            point: PointId::from_bytes(point.0),
            consistency,
            disks,
            new_bytes: report.new_bytes,
            stored_bytes: report.stored.bytes,
            durations,
            warnings,
        })
    }

    /// That a recovery took tracking away is as it should be.
    fn note_recovered(&self, vm: VmId, disks: &mut [DiskRun], parent: Option<&Point>) {
        let Some(taken_at_ms) = parent.map(|parent| milliseconds(parent.snapshot.time)) else { return };
        let recoveries = &self.node.recovery.recoveries;
        for disk in disks {
            if let Some(Reading::Compared { why: why @ NotTracked::BitmapMissing, .. }) = &mut disk.reading
                && recoveries.has_written(vm, disk.name.as_str(), taken_at_ms)
            {
                *why = NotTracked::Recovered;
            }
        }
    }

    /// Applies the rules of what stays, if there are any. Why not, if they could not be.
    async fn apply_rules(&self, vault: &Arc<Repository>, vm: VmId) -> Option<String> {
        let needed = self.node.recovery.instant.points_of(self.known.repository.id);
        match retention::apply(self.known, vault, vm, self.way.retention?, needed).await {
            Ok(0) => None,
            Ok(gone) => {
                let message = format!("{gone} older recovery points went by the rules");
                self.node.events.tell(EventKind::PointRemoved, self.path.to_string(), message);
                None
            }
            Err(error) => Some(format!("the rules of what to keep were not applied: {}", error.message())),
        }
    }

    /// Whoever kept the instant learns that its point is durable, and tracking counts from it. With what the guest is owed
    /// by this host; a node inside sees to its guests itself.
    async fn give_back(
        &self,
        holder: Holder,
        whole: Option<Whole>,
        point: SnapshotId,
    ) -> (Vec<String>, Option<Owed>) {
        match (holder, self.machine) {
            (Holder::Own { seen, owed }, Machine::Own(handle)) => {
                let purpose = Purpose { repository: self.known.repository.id, above: false };
                let kept = self.capturing(handle).keep_tracking(*seen, whole, purpose).await;
                (kept.err().iter().map(tracking_left).collect(), owed)
            }
            (Holder::Inside(borrowed), _) => {
                (self.is_durable(borrowed, PointId::from_bytes(point.0)).await, None)
            }
            // What was taken of a machine of this host is given back by its handle alone.
            (Holder::Own { .. }, Machine::Inside(_)) => (Vec::new(), None),
        }
    }

    /// Pins or protects the point, if that was asked for.
    async fn mark(&self, vault: &Arc<Repository>, point: SnapshotId, taken_at_ms: u64) -> Result<SnapshotId> {
        let change = match (self.way.keep, self.way.keep.protected_until_ms(taken_at_ms)) {
            (Keep::Pinned, _) => Retag::Pin,
            (_, Some(until)) => Retag::ProtectUntil(timestamp(until)),
            (_, None) => return Ok(point),
        };
        let (vault, known) = (Arc::clone(vault), self.known.clone());
        let work = move || {
            let snapshot = vault.snapshot(&point)?;
            let point =
                Point::of(point, snapshot).ok_or_else(|| VaultError::NoSuchPoint(point.to_string()))?;
            let who = Identity::current();
            Ok(vault.retag(&point, &[change], &who, &Job::default())?.id)
        };
        blocking(move || work().map_err(|e: VaultError| known.failed(e))).await
    }
}

pub fn tracking_left(error: &NodeError) -> String {
    format!("older change tracking is left until the next backup: {}", error.message())
}

/// What was not as it should be, told; and how disks were really read.
fn told(report: &SaveReport, disks: &mut [DiskRun], parent: Option<&Point>) -> Vec<String> {
    let mut warnings = Vec::new();
    let in_full = |disk: &&mut DiskRun| report.read_in_full.iter().any(|name| name == disk.name.as_str());
    for disk in disks.iter_mut().filter(in_full) {
        warnings.push(format!(
            "{}: all of it was read, since the point before is damaged or cut otherwise",
            disk.name
        ));
        disk.reading = parent.map(|parent| Reading::Compared {
            with: PointId::from_bytes(parent.id.0),
            why: NotTracked::UnknownPoint,
        });
    }
    if report.read_anew > 0 {
        warnings.push(format!(
            "{} parts that did not change were read again: the repository has lost something of them",
            report.read_anew
        ));
    }
    warnings.extend(disks.iter().filter_map(lost_tracking));
    warnings
}

/// Tracking that should be there and is not, told loudly.
fn lost_tracking(disk: &DiskRun) -> Option<String> {
    use NotTracked::{BitmapInconsistent, BitmapMissing, GranularityChanged, ImageTouched, NotRecording};
    let why = disk.reading?.why_not()?;
    matches!(why, BitmapInconsistent | BitmapMissing | GranularityChanged | ImageTouched | NotRecording)
        .then(|| format!("{}: all of it was compared, because {}", disk.name, why.as_str()))
}
