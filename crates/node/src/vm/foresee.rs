//! What a backup would read of a machine, were it made now. Nothing is changed, and nothing is kept.

use std::collections::HashMap;

use nestling_hypervisor::capture::{BitmapName, DiskPlace};
use nestling_model::{Disk, VmState, protection::NotTracked};

use super::{
    capture::{CaptureWish, Plan, running_disk},
    capture_off::look,
    owner::Owner,
};
use crate::{
    error::Result,
    protection::{
        basis::DiskNow,
        description::{DiskAt, place_of},
    },
};

/// What is known before anything is done.
#[derive(Debug)]
pub struct Foreseen {
    /// The number of the point that it counts from or is compared with.
    pub point: Option<usize>,
    /// Each disk's place and size, and whether only what changed is read, or why not.
    pub disks: Vec<(DiskPlace, u64, std::result::Result<BitmapName, NotTracked>)>,
    pub left_out: Vec<DiskAt>,
}

impl From<Plan> for Foreseen {
    fn from(plan: Plan) -> Self {
        let disks = plan.now.iter().zip(&plan.basis.disks);
        Self {
            point: plan.basis.point,
            disks: disks.map(|(now, since)| (now.place, now.bytes, *since)).collect(),
            left_out: plan.left_out,
        }
    }
}

impl Owner {
    pub async fn foresee(&self, wish: CaptureWish) -> Result<Foreseen> {
        match self.vm.state {
            VmState::Off | VmState::Saved => self.foresee_off(&wish).await,
            _ => self.foresee_running(&wish).await,
        }
    }

    async fn foresee_running(&self, wish: &CaptureWish) -> Result<Foreseen> {
        let machine = self.machine()?.clone();
        let reports = machine.bitmaps().await.map_err(|e| self.not_captured(e))?;
        let keeping = self.keeping().await?;
        let tracking = self.node.protection.tracking.get(self.vm.id).await;
        // A backup would drop these first.
        let doubted = |disk: &Disk| tracking.as_ref().is_none_or(|known| known.doubts(disk));
        let now = |disk: &Disk| {
            let mut now = running_disk(disk, &reports, &keeping)?;
            now.bitmaps.retain(|_| !doubted(disk));
            Some(now)
        };
        Ok(self.plan(wish, now).await?.into())
    }

    async fn foresee_off(&self, wish: &CaptureWish) -> Result<Foreseen> {
        let qemu = self.node.engines.qemu().await?;
        let keeping = self.keeping().await?;
        let tracking = self.node.protection.tracking.get(self.vm.id).await;
        let mut looked: HashMap<DiskPlace, DiskNow> = HashMap::new();
        for disk in &self.vm.disks {
            looked.insert(place_of(disk), look(&qemu, disk, &keeping).await?);
        }
        for (image, seal) in self.seals(&self.vm.disks).await? {
            let fits = tracking.as_ref().is_some_and(|known| known.fits(seal.as_ref()));
            if let Some(now) = looked.get_mut(&place_of(&image)).filter(|_| !fits) {
                now.bitmaps.clear();
            }
        }
        Ok(self.plan(wish, |disk| looked.get(&place_of(disk)).cloned()).await?.into())
    }
}
