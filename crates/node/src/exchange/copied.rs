//! One disk, copied into one new image.

use std::{path::Path, sync::Arc, time::Duration};

use nestling_block::{BlockSource, CopyError, CopyWatch, copy};
use nestling_hypervisor::disk::ImageFormat;

use super::{error::ExchangeFailed, teller::Teller};
use crate::{
    Node,
    error::Result,
    written::{self, WrittenImage},
};

const TELL_INTERVAL: Duration = Duration::from_millis(300);

pub struct Copied<'a> {
    pub node: &'a Node,
    pub teller: &'a Teller,
    pub from: Arc<dyn BlockSource>,
    /// An image that reads as zeroes.
    pub path: &'a Path,
    pub format: ImageFormat,
    /// A file name that nobody else of this home has.
    pub socket: &'a str,
    /// Bytes of disks that were copied before, and of all.
    pub before: u64,
    pub total: u64,
}

impl Copied<'_> {
    /// All of it is durable afterwards.
    pub async fn run(self) -> Result<()> {
        let Self { node, teller, from, path, format, socket, before, total } = self;
        let image = WrittenImage::open(node, path, format, socket).await?;
        let (name, watch) = (from.name().to_owned(), Arc::new(CopyWatch::default()));
        let work = {
            let (uri, watch) = (image.uri(), Arc::clone(&watch));
            tokio::task::spawn_blocking(move || {
                let to = written::connect(&uri).map_err(CopyError::Write)?;
                copy(&*from, &to, &watch)
            })
        };
        let message = format!("copying {name}");
        let tell = || teller.tell(&message, before + watch.done_bytes(), total);
        let done = written::watched(work, &teller.cancel, TELL_INTERVAL, tell, || watch.cancel()).await;
        let done = done.and_then(|copied| {
            teller.check()?;
            copied.map(drop).map_err(|trouble| match trouble {
                CopyError::Read(source) => ExchangeFailed::Disk { file: name, source }.into(),
                CopyError::Write(error) => written::told(path, error),
            })
        });
        image.close(done).await
    }
}
