//! `nestling vault diff`.

use std::sync::Arc;

use clap::Args;
use nestling_vault::{
    CACHE_BYTES, DiskDiff, DiskSelector, Job, PointDisk, ReadCache, Repository, VaultError, diff,
};

use super::{DISK, REPO, access::Access, hold::Reading, points::KEPT, work::watch};
use crate::{failure::Result, session::Session, text};

/// List what differs between a disk of two points: JSON that `save --changed` takes
#[derive(Debug, Args)]
pub struct Diff {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "OLD", help = DISK)]
    old: DiskSelector,
    #[arg(value_name = "NEW", help = "The same of the later point")]
    new: DiskSelector,
    #[command(flatten)]
    access: Access,
}

impl Diff {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let reading = Reading::begin(printer, &repository)?;
        let found = watch(printer, KEPT, |job| self.diff(&repository, &reading, job))?;
        printer.data(&found.changed.to_json())?;
        let (ranges, bytes) = (found.changed.ranges().len(), text::size(found.changed.bytes()));
        printer.talk(&format!("{bytes} of {} in {ranges} ranges", text::size(found.new_size_bytes)));
        Ok(())
    }

    fn diff(
        &self,
        repository: &Arc<Repository>,
        reading: &Reading,
        job: &Job,
    ) -> std::result::Result<DiskDiff, VaultError> {
        let old = reading.select(repository, &self.old.point, job)?;
        let new = reading.select(repository, &self.new.point, job)?;
        let index = Arc::new(repository.load_index(job)?);
        let cache = ReadCache::new(CACHE_BYTES);
        let open = |point, disk: &DiskSelector| {
            PointDisk::open(repository, &index, point, disk.disk.as_deref(), &cache)
        };
        diff(&open(&old, &self.old)?, &open(&new, &self.new)?, job)
    }
}
