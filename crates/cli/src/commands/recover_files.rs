//! `nestling recover ls` and `get`: files out of recovery points.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use clap::Args;
use nestling_api::{
    Client, ClientError, FilesAt,
    v1::{ErrorCode, RecoveryFile, RecoveryFileKind, RecoveryFiles, RecoveryVolume},
};
use zeroize::Zeroizing;

use super::{
    backup_run::Signals,
    recover::{POINT, REPOSITORY},
    recover_key::read_key,
    recover_write::Folder,
    take::{Archive, IntoFolder, Sink, Taking, kind},
};
use crate::{
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
    text::{self, Table},
};

pub const PLACE: &str = "Where it is, as `recover ls` shows it: scsi:0/2:/etc, or in a disk inside the disk scsi:0/2:/vms/a.vhdx//1:/etc";
const GET_PLACES: &str = "Where it is, as `recover ls` shows it: scsi:0/2:/etc, or in a disk inside the disk \
    scsi:0/2:/vms/a.vhdx//1:/etc; behind them, without --archive, an existing directory into which everything is put";
pub const KEY_FILE: &str =
    "Open encrypted volumes (LUKS) with the key or passphrase in this file; - is standard input";

/// List what is in a recovery point: its volumes, or the files in one of them
///
/// A disk image found as a file is a disk again: put // behind it, and its volumes are listed. Volumes of LVM and arrays are
/// listed as lvm/GROUP/VOLUME and md/ARRAY. For them, XFS, btrfs and encrypted volumes a machine of the image `reader` is started.
#[derive(Debug, Args)]
pub struct Ls {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(value_name = "PLACE", default_value = "", hide_default_value = true, help = PLACE)]
    place: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    #[arg(long, value_name = "FILE", help = KEY_FILE)]
    key_file: Option<PathBuf>,
}

/// Take files and directories out of a recovery point
///
/// Times and permissions are kept; as root also owners. What could act on this host is left out: devices, set-user-id bits, and
/// extended attributes other than user.* and access control lists.
///
/// An archive has all bits of the permissions, and no devices. A tar also has owners, extended attributes and any name; a zip has
/// none of these. A file that cannot be read to its end is not in it.
#[derive(Debug, Args)]
#[command(
    override_usage = "nestling recover get [OPTIONS] <POINT> <PLACE>... <DIRECTORY>
       nestling recover get [OPTIONS] --archive <FILE> <POINT> <PLACE>...",
    after_help = "\
EXIT STATUS:
  0  everything is there
  1  nothing could be taken out
  2  the command line makes no sense
  3  something could not be taken out; the rest is there"
)]
pub struct Get {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(value_name = "PLACE", required = true, help = GET_PLACES)]
    places: Vec<OsString>,
    /// Write everything into one new file instead, of the form that its ending says: .tar, .tar.gz, .tgz, .tar.zst or .zip; - is a tar
    /// on standard output
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    #[arg(long, value_name = "FILE", help = KEY_FILE)]
    key_file: Option<PathBuf>,
    /// Replace files that are there already, or the archive
    #[arg(long)]
    force: bool,
}

impl Ls {
    pub async fn run(self, session: &Session) -> Result {
        let (client, printer) = (session.client().await?, session.printer);
        let at = FilesAt { point: &self.point, repository: self.repository.as_deref(), place: &self.place };
        if let Some(path) = &self.key_file {
            unlock(&client, printer, at, &read_key(printer, path)?).await?;
        }
        if is_disk(&self.place) {
            return printer.list(&client.point_volumes(at).await?, volumes);
        }
        let ask = async |point: String, from| client.point_files(FilesAt { point: &point, ..at }, from).await;
        let (all, damage) = pages(&self.point, ask).await?;
        printer.list(&all, files)?;
        for what in &damage {
            printer.warning(what);
        }
        if damage.is_empty() { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

/// All pages of a directory, or the one of a file, and what is damaged. All of the point of the first one, though there may be a
/// newer one by now.
async fn pages(
    point: &str,
    mut ask: impl AsyncFnMut(String, u64) -> std::result::Result<RecoveryFiles, ClientError>,
) -> std::result::Result<(Vec<RecoveryFile>, Vec<String>), ClientError> {
    let (mut point, mut from) = (point.to_owned(), 0);
    let (mut all, mut damage) = (Vec::new(), Vec::new());
    loop {
        let page = ask(point, from).await?;
        if page.itself.kind != RecoveryFileKind::Directory {
            all.push(page.itself);
        }
        all.extend(page.entries);
        damage.extend(page.damage);
        match page.next.filter(|next| *next > from) {
            Some(next) => (point, from) = (page.point, next),
            None => return Ok((all, damage)),
        }
    }
}

/// Opens what is encrypted.
pub async fn unlock(client: &Client, printer: Printer, at: FilesAt<'_>, key: &[u8]) -> Result {
    let unlocked = client.unlock_point(at, key).await?;
    if unlocked.locked > 0 {
        printer.talk(&format!("{} still need another key", text::count(unlocked.locked, "encrypted volume")));
    }
    Ok(())
}

/// Whether a place is a disk, and no path in a volume.
pub fn is_disk(place: &str) -> bool {
    place.ends_with("//") || !place.trim_end_matches('/').contains('/')
}

fn volumes(volumes: &[RecoveryVolume]) -> String {
    let mut table = Table::new(&["PLACE", "CONTENT", "LABEL", "NAME", "SIZE"]).right(&[4]);
    for volume in volumes {
        table.row([
            volume.place.clone(),
            volume.problem.clone().unwrap_or_else(|| volume.content.clone()),
            volume.label.clone(),
            volume.name.clone(),
            text::size(volume.size_bytes),
        ]);
    }
    table.text()
}

fn files(files: &[RecoveryFile]) -> String {
    let mut table = Table::new(&["KIND", "MODE", "SIZE", "MODIFIED", "PLACE"]).right(&[2]);
    for file in files {
        let seconds = file.modified.and_then(|time| u64::try_from(time.seconds).ok());
        let shown = match &file.link_target {
            Some(target) => format!("{} -> {target}", file.place),
            None => file.place.clone(),
        };
        table.row([
            kind(file.kind).to_owned(),
            file.mode.map(|mode| format!("{:04o}", mode & 0o7777)).unwrap_or_default(),
            text::size(file.size_bytes),
            seconds.and_then(|s| s.checked_mul(1000)).map(text::time).unwrap_or_default(),
            shown,
        ]);
    }
    table.text()
}

impl Get {
    pub async fn run(mut self, session: &Session) -> Result {
        let force = self.force;
        let key = self.key_file.as_deref().map(|path| read_key(session.printer, path)).transpose()?;
        // Without it what is cut off would be left under a name that nobody looks for.
        let mut signals = Signals::listen()?;
        if let Some(path) = self.archive.take() {
            let archive = Archive::create(session.printer, &path, force)?;
            let taken = tokio::select! {
                taken = self.take(session, key, archive) => taken?,
                () = signals.next() => {
                    return Err(Failure::new(ErrorCode::Failed, "cancelled: there is no archive"));
                }
            };
            let ended = ended(&taken);
            // Of nothing there is no archive.
            if !matches!(ended, Err(Failure::Told(status::FAILED))) {
                taken.sink.finish()?;
            }
            return ended;
        }
        let target = self.places.pop().filter(|_| !self.places.is_empty()).map(PathBuf::from);
        let Some(target) = target else {
            return Err(Failure::usage("where to is missing: name an existing directory, or --archive FILE"));
        };
        let folder = Folder::open(&target).map_err(|error| no_folder(&target, &error))?;
        tokio::select! {
            taken = self.take(session, key, IntoFolder::new(folder, force)) => ended(&taken?),
            () = signals.next() => {
                Err(Failure::new(ErrorCode::Failed, "cancelled: what is there is whole, and the rest is not there"))
            }
        }
    }

    async fn take<S: Sink>(
        self,
        session: &Session,
        key: Option<Zeroizing<Vec<u8>>>,
        sink: S,
    ) -> Result<Taking<S>> {
        let places = self.places.into_iter().map(|place| {
            let told =
                |place: OsString| format!("{} is no place in a recovery point", place.to_string_lossy());
            place.into_string().map_err(|place| Failure::usage(told(place)))
        });
        let places: Vec<String> = places.collect::<Result<_>>()?;
        let mut taking = Taking {
            client: session.client().await?,
            printer: session.printer,
            point: self.point,
            repository: self.repository,
            sink,
            taken: 0,
            failed: 0,
        };
        for place in places {
            if let Some(key) = &key {
                unlock(&taking.client, taking.printer, taking.at(&place), key).await?;
            }
            taking.take(place, 0).await?;
        }
        Ok(taking)
    }
}

/// A slip in its name would otherwise become a directory full of files.
fn no_folder(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => {
            let what = format!("there is no directory {}; it is not made by itself", path.display());
            Failure::new(ErrorCode::NotFound, what).hint(format!("mkdir -p '{}'", path.display()))
        }
        io::ErrorKind::NotADirectory => {
            let what =
                format!("{} is no directory; files are put into one, by their own names", path.display());
            Failure::new(ErrorCode::Invalid, what)
        }
        _ => Failure::file("open", path, error),
    }
}

/// Says what came.
fn ended<S: Sink>(taking: &Taking<S>) -> Result {
    let (taken, failed) = (taking.taken, taking.failed);
    taking.printer.talk(&format!("{} taken out, {failed} not", text::count(taken, "file")));
    match (failed, taken) {
        (0, _) => Ok(()),
        (_, 0) => Err(Failure::Told(status::FAILED)),
        _ => Err(Failure::Told(status::PARTLY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_pages_are_of_the_point_that_the_first_one_is_of() {
        let itself = RecoveryFile {
            place: "scsi:0/1:/".to_owned(),
            name: String::new(),
            kind: RecoveryFileKind::Directory,
            size_bytes: 0,
            mode: None,
            uid: None,
            gid: None,
            modified: None,
            link_target: None,
            attributes: Vec::new(),
        };
        let mut asked = Vec::new();
        let ask = async |point: String, from: u64| {
            asked.push((point, from));
            let (point, next) = ("abcd".to_owned(), Some(from + 500).filter(|next| *next < 1500));
            Ok(RecoveryFiles { point, itself: itself.clone(), entries: Vec::new(), next, damage: Vec::new() })
        };
        assert!(pages("V@newest", ask).await.is_ok());
        let asked: Vec<_> = asked.iter().map(|(point, from)| (point.as_str(), *from)).collect();
        assert_eq!(asked, [("V@newest", 0), ("abcd", 500), ("abcd", 1000)]);
    }

    #[test]
    fn a_disk_is_told_from_a_path() {
        for disk in ["", "scsi:0", "scsi:0/", "scsi:0/2:/a//"] {
            assert!(is_disk(disk), "{disk}");
        }
        for path in [
            "lvm/data/files",
            "lvm/data/files:/",
            "scsi:0/2",
            "scsi:0/2:/",
            "scsi:0/2:/a",
            "scsi:0/2:/a//1:/",
        ] {
            assert!(!is_disk(path), "{path}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_named_with_how_it_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        let said = |path: &Path| match Folder::open(path).map_err(|error| no_folder(path, &error)) {
            Err(Failure::Error(body)) => (body.message, body.hint.unwrap_or_default()),
            _ => panic!("it opened"),
        };
        let (message, hint) = said(&dir.path().join("none"));
        assert!(message.starts_with("there is no directory") && hint.starts_with("mkdir -p"), "{message}");
        assert!(said(&file).0.contains("is no directory"), "{}", said(&file).0);
    }
}
