//! One disk of a point, written into one image.
//!
//! When this returns well, all of it is durable; when not, what lies there is nobody's disk.

use std::{path::Path, sync::Arc, time::Duration};

use nestling_block::nbd::NbdUri;
use nestling_hypervisor::disk::ImageFormat;
use nestling_model::EventKind;
use nestling_vault::{Existing, Job, RestoreReport, RestoreRequest, VaultError, restore};

use super::{
    book::Entry,
    source::{Source, SourceDisk},
};
use crate::{
    Node, NodeError,
    error::Result,
    written::{self, WrittenImage},
};

const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// It is new, and all of it reads as zeroes.
    New,
    /// It holds something, and only what differs is written.
    There,
}

pub struct Write<'a> {
    pub node: &'a Node,
    pub entry: &'a Entry,
    pub source: &'a Arc<Source>,
    pub disk: &'a SourceDisk,
    pub path: &'a Path,
    pub format: ImageFormat,
    pub onto: Onto,
}

impl Write<'_> {
    /// How many bytes were written.
    pub async fn run(&self) -> Result<u64> {
        let socket = format!("w{}-{}", self.entry.number(), self.disk.name);
        let image = WrittenImage::open(self.node, self.path, self.format, &socket).await?;
        self.entry.writes(&self.disk.name);
        let work = {
            let (source, name, job) =
                (Arc::clone(self.source), self.disk.name.clone(), Arc::clone(&self.entry.job));
            let (onto, uri) = (self.onto, image.uri());
            tokio::task::spawn_blocking(move || write(&source, &name, &uri, onto, &job))
        };
        // The job is told by whoever cancels.
        let tell = || self.tell_progress();
        let done = written::watched(work, &self.entry.cancel, TELL_INTERVAL, tell, || {}).await;
        let done = done.and_then(|done| done.map_err(|error| self.told(error)));
        image.close(done.map(|report| report.written_bytes)).await
    }

    fn tell_progress(&self) {
        let at = self.entry.progress();
        if at.total > 0 {
            let percent = u128::from(at.done.min(at.total)) * 100 / u128::from(at.total);
            let message = format!("{}: {percent} %", self.disk.name);
            let vm = self.entry.recovery().vm.to_string();
            self.node.events.tell(EventKind::RecoveryProgress, vm, message);
        }
    }

    /// What the image could not take is told with its path, and not as the vault's trouble.
    fn told(&self, error: VaultError) -> NodeError {
        match error {
            VaultError::Block(source) => written::told(self.path, source),
            other => self.source.failed(other),
        }
    }
}

/// Blocks.
fn write(
    source: &Source,
    name: &str,
    uri: &NbdUri,
    onto: Onto,
    job: &Job,
) -> std::result::Result<RestoreReport, VaultError> {
    let image = written::connect(uri)?;
    let disk = source.disk(name)?;
    let existing = match onto {
        Onto::New => Existing::Zeroes,
        Onto::There => Existing::Compare(&image),
    };
    let request = RestoreRequest {
        repository: source.vault(),
        index: source.index(),
        disk: &disk,
        target: &image,
        existing,
        ranges: None,
        threads: 0,
    };
    restore(&request, job)
}
