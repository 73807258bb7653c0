//! `nestling vault mount`.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use nestling_api::v1::{ErrorBody, ErrorCode};
use nestling_mount::{Host, MountError, Mounted, View, check_directory};
use nestling_vault::{BlobId, VaultError};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    REPO,
    access::Access,
    hold::Reading,
    points::KEPT,
    work::{Signals, watch},
};
use crate::{
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    text,
};

/// Show all points as folders and their disks as files, until Ctrl-C or umount
///
/// For example, `nestling vault mount repo /mnt` shows the newest point of the machine Lab/Web01 as
/// /mnt/Lab/Web01/latest/disk0.raw, and the others beside it by their times. Nothing can be written.
#[derive(Debug, Args)]
pub struct Mount {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// Where to: an empty directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Let all users of this system read, and not only who mounts
    #[arg(long)]
    allow_other: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Shown {
    directory: String,
    machines: usize,
    points: usize,
}

struct Holder {
    printer: Printer,
    reading: Reading,
}

impl Host for Holder {
    fn keep(&self, trees: &[BlobId]) -> std::result::Result<(), VaultError> {
        self.reading.keep_only(trees)
    }

    fn warn(&self, sentence: &str) {
        if self.printer.is_json() {
            let (message, hint, object) = (sentence.to_owned(), None, None);
            self.printer.error(&ErrorBody { code: ErrorCode::Failed, message, hint, object });
        } else {
            self.printer.warning(sentence);
        }
    }
}

impl Mount {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let directory = check_directory(&self.directory)?;
        let repository = self.access.open(printer, &self.repo)?;
        // Held while it is mounted: prune keeps what is read, even when the point is forgotten meanwhile.
        let holder = Arc::new(Holder { printer, reading: Reading::begin(printer, &repository)? });
        let view = watch(printer, KEPT, |job| Ok(Arc::new(View::new(&repository, holder.clone(), job)?)))?;
        let signals = Signals::listen()?;
        let (sender, ended) = oneshot::channel();
        // Nobody listens any more when it is ended here.
        let tell = move || sender.send(()).unwrap_or_default();
        let mounted = Mounted::new(&view, &directory, self.allow_other, tell)?;
        let (points, machines) = view.counts();
        let shown = Shown { directory: directory.display().to_string(), machines, points };
        let told = printer.show(&shown, |shown| format!("{}\n", shown.directory));
        if told.is_ok() {
            printer.talk(&format!(
                "{} of {} shown; Ctrl-C or umount ends it",
                text::count(u32::try_from(points).unwrap_or(u32::MAX), "point"),
                text::count(u32::try_from(machines).unwrap_or(u32::MAX), "machine"),
            ));
            signals.wait_or(async { drop(ended.await) });
        }
        let unmounted = mounted.end();
        // Whoever has a file open keeps the view, and with it the lock, for longer than this program is there.
        holder.reading.end();
        told.and(unmounted.map_err(Failure::from))
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        let code = match &error {
            MountError::NotThere(_) => ErrorCode::NotFound,
            MountError::NotDirectory(_) => ErrorCode::Invalid,
            MountError::NotEmpty(_) | MountError::InUse(_) | MountError::Dead(_) => ErrorCode::InUse,
            MountError::NoDevice => ErrorCode::Requirement,
            MountError::NotAllowed { .. } => ErrorCode::Denied,
            MountError::Unusable { .. } | MountError::Failed { .. } | MountError::Unmount { .. } => {
                ErrorCode::Failed
            }
        };
        let failure = Self::new(code, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
