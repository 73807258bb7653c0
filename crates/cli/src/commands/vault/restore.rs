//! `nestling vault restore`.

use std::{ops::Range, path::PathBuf, sync::Arc};

use clap::Args;
use nestling_vault::{
    CACHE_BYTES, DiskSelector, Job, Onto, Output, PointDisk, ReadCache, Repository, RestoreReport,
    RestoreRequest, VaultError, restore,
};
use serde::Serialize;

use super::{REPO, access::Access, hold::Reading, work::watch};
use crate::{
    failure::Result,
    session::Session,
    text::{self, parse_size},
};

/// Write a disk of a point to a new raw file, an existing one, or a block device
#[derive(Debug, Args)]
pub struct Restore {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME[@POINT][:DISK]", help = super::DISK)]
    disk: DiskSelector,
    #[arg(value_name = "OUT", help = "The file or block device to write")]
    out: PathBuf,
    /// Read what is there, and write only what differs
    #[arg(long)]
    onto_existing: bool,
    /// Overwrite what is there; a file is replaced when the new one is whole
    #[arg(long, conflicts_with = "onto_existing")]
    force: bool,
    /// Only these bytes of the disk, such as 1MB+64KB, at their place; several times for several
    #[arg(long = "range", value_name = "OFFSET+LENGTH", value_parser = range)]
    ranges: Vec<Range<u64>>,
    #[command(flatten)]
    access: Access,
}

fn range(text: &str) -> std::result::Result<Range<u64>, String> {
    let (offset, length) = text.split_once('+').ok_or("it is written OFFSET+LENGTH, such as 1MB+64KB")?;
    let (offset, length) = (parse_size(offset)?, parse_size(length)?);
    let end = offset.checked_add(length).ok_or("no disk is as large")?;
    if length == 0 { Err("nothing would be restored".into()) } else { Ok(offset..end) }
}

#[derive(Serialize)]
struct Restored {
    disk: String,
    out: String,
    size_bytes: u64,
    /// Bytes of data that were written; zeroes are not counted.
    written_bytes: u64,
    seconds: f64,
}

impl Restore {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let onto = match (self.onto_existing, self.force) {
            (true, _) => Onto::Compare,
            (_, true) => Onto::Overwrite,
            _ => Onto::Nothing,
        };
        let repository = self.access.open(printer, &self.repo)?;
        let kept = match onto {
            Onto::Compare => "what was written so far stays; run it again to write the rest",
            Onto::Overwrite => "a file is as it was before; a device is partly overwritten",
            Onto::Nothing => "the unfinished file was removed",
        };
        let reading = Reading::begin(printer, &repository)?;
        let work = |job: &Job| self.restore(&repository, &reading, onto, job);
        let (disk, report) = watch(printer, kept, work)?;
        let restored = Restored {
            disk,
            out: self.out.display().to_string(),
            size_bytes: report.size_bytes,
            written_bytes: report.written_bytes,
            seconds: report.duration.as_secs_f64(),
        };
        printer.show(&restored, human)
    }

    fn restore(
        &self,
        repository: &Arc<Repository>,
        reading: &Reading,
        onto: Onto,
        job: &Job,
    ) -> std::result::Result<(String, RestoreReport), VaultError> {
        let point = reading.select(repository, &self.disk.point, job)?;
        let index = Arc::new(repository.load_index(job)?);
        let cache = ReadCache::new(CACHE_BYTES);
        let disk = PointDisk::open(repository, &index, &point, self.disk.disk.as_deref(), &cache)?;
        let output = Output::open(&self.out, onto, disk.geometry().size_bytes)?;
        if !self.ranges.is_empty() && output.replaces_file() {
            return Err(VaultError::Invalid(format!(
                "{} would have nothing but these ranges; to write them into it, use --onto-existing",
                self.out.display()
            )));
        }
        let ranges = (!self.ranges.is_empty()).then(|| self.ranges.iter().cloned().collect());
        let request = RestoreRequest {
            repository,
            index: &index,
            disk: &disk,
            target: output.target(),
            existing: output.contents(),
            ranges: ranges.as_ref(),
            threads: 0,
        };
        let report = restore(&request, job)?;
        output.finish()?;
        Ok((nestling_block::BlockSource::name(&disk).to_owned(), report))
    }
}

fn human(restored: &Restored) -> String {
    format!(
        "{} to {}: {}, {} written, in {:.1} seconds\n",
        text::clean(&restored.disk),
        text::clean(&restored.out),
        text::size(restored.size_bytes),
        text::size(restored.written_bytes),
        restored.seconds
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_an_offset_and_a_length() {
        assert_eq!(range("1MB+64KB"), Ok(1 << 20..(1 << 20) + (64 << 10)));
        assert_eq!(range("0+1"), Ok(0..1));
        for bad in ["", "1MB", "1MB+", "+1", "1+0", "16777215TB+16777215TB", "1-2"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
