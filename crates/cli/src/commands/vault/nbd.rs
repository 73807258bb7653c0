//! `nestling vault nbd`.

use std::{fs, path::PathBuf, sync::Arc, thread};

use clap::Args;
use nestling_block::{
    BlockSource, Overlay, RawDisk,
    nbd::{Export, NbdAddress, NbdServer, NbdUri, ServerLimits},
};
use nestling_vault::{CACHE_BYTES, DiskSelector, Job, PointDisk, ReadCache, VaultError};
use serde::Serialize;

use super::{
    DISK, REPO,
    access::Access,
    hold::Reading,
    points::KEPT,
    work::{Signals, watch},
};
use crate::{
    failure::{Failure, Result},
    session::Session,
};

/// Serve a disk of a point over NBD, until Ctrl-C: to QEMU, qemu-img, nbdinfo
#[derive(Debug, Args)]
pub struct Nbd {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME[@POINT][:DISK]", help = DISK)]
    disk: DiskSelector,
    /// The unix socket to listen on; who may use it is its directory's to say
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Let clients write; what they write is kept in this new file while it is served, and then forgotten
    #[arg(long, value_name = "SCRATCH")]
    writable_overlay: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Served {
    uri: String,
    disk: String,
    size_bytes: u64,
    writable: bool,
}

impl Nbd {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        // Held while it is served: prune keeps what is read, even when the point is forgotten meanwhile.
        let reading = Reading::begin(printer, &repository)?;
        let disk = watch(printer, KEPT, |job| {
            let point = reading.select(&repository, &self.disk.point, job)?;
            let index = Arc::new(repository.load_index(job)?);
            let cache = ReadCache::new(CACHE_BYTES);
            let disk = PointDisk::open(&repository, &index, &point, self.disk.disk.as_deref(), &cache)?;
            Ok(Arc::new(disk))
        })?;
        let chunk_bytes = disk.geometry().chunk_bytes;
        let mut export = match &self.writable_overlay {
            None => Export::read_only("", disk.clone()),
            Some(path) => {
                let scratch = RawDisk::create(path, 0).map_err(VaultError::from)?;
                // Nobody else has a use for it, and nothing is left behind however this ends.
                fs::remove_file(path).map_err(|e| Failure::file("unlink", path, &e))?;
                let overlay = Overlay::new(disk.clone(), scratch).map_err(VaultError::from)?;
                Export::writable("", Arc::new(overlay))
            }
        };
        export.description = BlockSource::name(&disk).to_owned();
        export.preferred_bytes = chunk_bytes;
        let address = NbdAddress::Unix(self.socket.clone());
        let server =
            NbdServer::start(&address, vec![export], ServerLimits::default()).map_err(VaultError::from)?;
        let signals = Signals::listen()?;
        let served = Served {
            uri: NbdUri { address, export: String::new() }.to_string(),
            disk: BlockSource::name(&disk).to_owned(),
            size_bytes: disk.geometry().size_bytes,
            writable: self.writable_overlay.is_some(),
        };
        printer.show(&served, |served| format!("{}\n", served.uri))?;
        printer.talk(&format!("{} is served; Ctrl-C ends it", served.disk));
        let ahead = Arc::new(Job::default());
        let job = ahead.clone();
        // Nobody waits for it: a store that hangs must not keep this from ending.
        thread::spawn(move || disk.read_lists_ahead(&job));
        signals.wait();
        ahead.cancel();
        server.stop();
        Ok(())
    }
}
