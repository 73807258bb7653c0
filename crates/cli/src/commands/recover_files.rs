//! `nestling recover ls` and `get`: files out of recovery points.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
};

use clap::Args;
use nestling_api::{
    Client, ClientError, FileContent, FilesAt,
    v1::{ErrorCode, RecoveryFile, RecoveryFileKind, RecoveryFiles, RecoveryVolume},
};

use super::{
    recover::{POINT, REPOSITORY},
    recover_key::read_key,
    recover_write::{Folder, Refused},
};
use crate::{
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
    text::{self, Table},
};

const PLACE: &str = "Where it is, as `recover ls` shows it: scsi:0/2:/etc, or in a disk inside the disk scsi:0/2:/vms/a.vhdx//1:/etc";
const KEY_FILE: &str =
    "Open encrypted volumes (LUKS) with the key or passphrase in this file; - is standard input";
/// Of a file, asked for at once.
const CHUNK_BYTES: u32 = 4 << 20;
/// Directories inside each other.
const DEPTH_MAX: usize = 128;

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
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  everything is there
  1  nothing could be taken out
  2  the command line makes no sense
  3  something could not be taken out; the rest is there")]
pub struct Get {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(value_name = "PLACE", required = true, help = PLACE)]
    places: Vec<String>,
    #[arg(value_name = "DIRECTORY", help = "An existing directory, into which everything is put")]
    target: PathBuf,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    #[arg(long, value_name = "FILE", help = KEY_FILE)]
    key_file: Option<PathBuf>,
    /// Replace files that are there already
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
async fn unlock(client: &Client, printer: Printer, at: FilesAt<'_>, key: &[u8]) -> Result {
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

fn kind(kind: RecoveryFileKind) -> &'static str {
    match kind {
        RecoveryFileKind::File => "file",
        RecoveryFileKind::Directory => "directory",
        RecoveryFileKind::Link => "link",
        RecoveryFileKind::BlockDevice | RecoveryFileKind::CharDevice => "device",
        RecoveryFileKind::Fifo => "fifo",
        RecoveryFileKind::Socket => "socket",
        RecoveryFileKind::Unknown => "unknown",
    }
}

impl Get {
    pub async fn run(self, session: &Session) -> Result {
        let target = Folder::open(&self.target).map_err(|error| no_folder(&self.target, &error))?;
        let mut taking = Taking {
            client: session.client().await?,
            printer: session.printer,
            point: self.point,
            repository: self.repository,
            force: self.force,
            taken: 0,
            failed: 0,
        };
        let key = self.key_file.as_deref().map(|path| read_key(session.printer, path)).transpose()?;
        for place in &self.places {
            if let Some(key) = &key {
                unlock(&taking.client, taking.printer, taking.at(place), key).await?;
            }
            taking.take(&target, place.clone(), 0).await?;
        }
        taking.printer.talk(&format!(
            "{} taken out, {} not",
            text::count(taking.taken, "file"),
            taking.failed
        ));
        match (taking.failed, taking.taken) {
            (0, _) => Ok(()),
            (_, 0) => Err(Failure::Told(status::FAILED)),
            _ => Err(Failure::Told(status::PARTLY)),
        }
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

/// What is taken out, and what of it came.
struct Taking {
    client: Client,
    printer: Printer,
    point: String,
    repository: Option<String>,
    force: bool,
    taken: u32,
    failed: u32,
}

impl Taking {
    fn at<'a>(&'a self, place: &'a str) -> FilesAt<'a> {
        FilesAt { point: &self.point, repository: self.repository.as_deref(), place }
    }

    /// One file or tree. What is wrong with one file is told, and the others still come; an error is one of this host, after
    /// which none would.
    fn take<'a>(
        &'a mut self,
        into: &'a Folder,
        place: String,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result> + 'a>> {
        Box::pin(async move {
            let first = match self.client.point_files(self.at(&place), 0).await {
                Ok(found) => found,
                Err(error) => return self.miss(&place, &error.message),
            };
            // From now on the same point, though a newer one may come.
            self.point.clone_from(&first.point);
            let taken = match first.itself.kind {
                RecoveryFileKind::File => self.file(into, &first.itself).await,
                RecoveryFileKind::Link => into.link(&first.itself, self.force),
                RecoveryFileKind::Directory => return self.directory(into, first, depth).await,
                other => Err(Refused(format!("a {} is not made on this host", kind(other)))),
            };
            match taken {
                Ok(()) => self.taken += 1,
                Err(Refused(why)) => self.miss(&place, &why)?,
            }
            Ok(())
        })
    }

    fn miss(&mut self, place: &str, why: &str) -> Result {
        self.failed += 1;
        self.printer.warning(&format!("{place}: {why}"));
        Ok(())
    }

    async fn directory(&mut self, into: &Folder, first: RecoveryFiles, depth: usize) -> Result {
        let place = first.itself.place.clone();
        if depth >= DEPTH_MAX {
            return self.miss(&place, "it is too deep");
        }
        // What is in a volume's root goes straight into the target.
        let made = if first.itself.name.is_empty() { into.same() } else { into.directory(&first.itself) };
        let folder = match made {
            Ok(folder) => folder,
            Err(Refused(why)) => return self.miss(&place, &why),
        };
        let (mut page, mut from) = (first, 0);
        let itself = page.itself.clone();
        loop {
            for what in &page.damage {
                self.miss(&place, what)?;
            }
            for entry in std::mem::take(&mut page.entries) {
                self.take(&folder, entry.place, depth + 1).await?;
            }
            let Some(next) = page.next.filter(|next| *next > from) else { break };
            from = next;
            match self.client.point_files(self.at(&place), from).await {
                Ok(more) => page = more,
                Err(error) => return self.miss(&place, &error.message),
            }
        }
        // At last: to put files in changes a directory's time, and may not be allowed afterwards.
        if !itself.name.is_empty()
            && let Err(Refused(why)) = folder.finish(&itself)
        {
            self.miss(&place, &why)?;
        }
        Ok(())
    }

    async fn file(&self, into: &Folder, file: &RecoveryFile) -> std::result::Result<(), Refused> {
        let part = into.part(file, self.force)?;
        let mut offset = 0;
        while offset < file.size_bytes {
            let length = u64::from(CHUNK_BYTES).min(file.size_bytes - offset);
            let length = u32::try_from(length).unwrap_or(CHUNK_BYTES);
            let content = self.client.point_content(self.at(&file.place), offset, length).await;
            offset += match content.map_err(|error| Refused(error.message))? {
                FileContent::Bytes(bytes) => {
                    let count = taken(bytes.len() as u64, length.into())?;
                    part.write(offset, &bytes)?;
                    count
                }
                // A hole, to the end at most.
                FileContent::Zeroes(bytes) => taken(bytes.min(file.size_bytes - offset), u64::MAX)?,
            };
        }
        part.finish(file)
    }
}

/// The node may be anybody's: it is not waited for for ever.
fn taken(bytes: u64, bytes_max: u64) -> std::result::Result<u64, Refused> {
    match bytes {
        0 => Err(Refused("the file ends before its end".to_owned())),
        more if more > bytes_max => Err(Refused("the node gave more than was asked for".to_owned())),
        bytes => Ok(bytes),
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
    fn a_node_that_gives_nothing_or_too_much_is_left() {
        assert_eq!(taken(5, 5).ok(), Some(5));
        assert!(taken(0, 5).is_err() && taken(6, 5).is_err());
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
}
