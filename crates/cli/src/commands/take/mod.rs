//! Files out of a recovery point, one after the other, for whoever takes them: a directory of this host, an archive, a guest.
//!
//! What is wrong with one file is told, and the others still come. The node that gives them may be anybody's: no length that
//! it says is believed, and it is not waited for for ever.

mod archive;
mod folder;
mod output;
pub mod tar;
mod way;
mod zip;

use std::{future::Future, io, pin::Pin};

use nestling_api::{
    Client, FileContent, FilesAt,
    v1::{ErrorCode, RecoveryFile, RecoveryFileKind, RecoveryFiles},
};

pub use archive::Archive;
pub use folder::IntoFolder;

use super::recover_write::Refused;
use crate::{
    failure::{Failure, Result},
    printer::Printer,
};

/// Of a file, asked for at once.
pub const CHUNK_BYTES: u32 = 4 << 20;
/// Of a hole, written at once: an archive has its zeroes.
const ZEROES_BYTES_MAX: u64 = 64 << 20;
/// Directories inside each other.
pub const DEPTH_MAX: usize = 128;

/// Why something was not taken.
#[derive(Debug)]
pub enum Miss {
    /// The others still can be.
    One(String),
    All(Failure),
}

pub type Taken<T = ()> = std::result::Result<T, Miss>;

impl From<Refused> for Miss {
    fn from(Refused(why): Refused) -> Self {
        Self::One(why)
    }
}

/// Where a single one ends everything, too.
impl From<Miss> for Failure {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::All(failure) => failure,
            Miss::One(why) => Self::new(ErrorCode::Failed, why),
        }
    }
}

impl Miss {
    /// What is made of the files cannot be written any more.
    pub fn unwritten(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::All(Failure::BrokenPipe);
        }
        Self::All(Failure::new(ErrorCode::Failed, format!("can't write the archive: {error}")))
    }
}

/// Who takes them. Folders come with what is in them between `enter` and `leave`, a file as a beginning, pieces and an end.
pub trait Sink {
    /// Where an error is returned, nothing of what is in it comes.
    async fn enter(&mut self, folder: &RecoveryFile) -> Taken;
    async fn leave(&mut self, folder: &RecoveryFile) -> Taken;
    /// What is neither a file nor a directory.
    async fn special(&mut self, file: &RecoveryFile) -> Taken;
    /// A file. When it `is_read`, all of it comes for sure.
    async fn begin(&mut self, file: &RecoveryFile, is_read: bool) -> Taken;
    async fn write(&mut self, piece: &FileContent) -> Taken;
    async fn end(&mut self, file: &RecoveryFile) -> Taken;
    /// Instead of the end: no more of this file can be read.
    async fn give_up(&mut self) -> Taken;
}

/// What is taken out, and what of it came.
pub struct Taking<S> {
    pub client: Client,
    pub printer: Printer,
    pub point: String,
    pub repository: Option<String>,
    pub sink: S,
    pub taken: u32,
    pub failed: u32,
}

impl<S: Sink> Taking<S> {
    pub fn at<'a>(&'a self, place: &'a str) -> FilesAt<'a> {
        FilesAt { point: &self.point, repository: self.repository.as_deref(), place }
    }

    /// One file or tree. An error is one after which no other would come.
    pub fn take(&mut self, place: String, depth: usize) -> Pin<Box<dyn Future<Output = Result> + '_>> {
        Box::pin(async move {
            let first = match self.client.point_files(self.at(&place), 0).await {
                Ok(found) => found,
                Err(error) => return self.miss(&place, Miss::One(error.message)),
            };
            // From now on the same point, though a newer one may come.
            self.point.clone_from(&first.point);
            let taken = match first.itself.kind {
                RecoveryFileKind::File => self.file(&first.itself).await,
                RecoveryFileKind::Directory => return self.directory(first, depth).await,
                _ => self.sink.special(&first.itself).await,
            };
            match taken {
                Ok(()) => self.taken += 1,
                Err(miss) => self.miss(&place, miss)?,
            }
            Ok(())
        })
    }

    pub fn miss(&mut self, place: &str, miss: Miss) -> Result {
        match miss {
            Miss::One(why) => {
                self.failed += 1;
                self.printer.warning(&format!("{place}: {why}"));
                Ok(())
            }
            Miss::All(failure) => Err(failure),
        }
    }

    async fn directory(&mut self, first: RecoveryFiles, depth: usize) -> Result {
        let itself = first.itself.clone();
        let place = &itself.place;
        if depth >= DEPTH_MAX {
            return self.miss(place, Miss::One("it is too deep".to_owned()));
        }
        // What is in a volume's root goes straight into the target.
        let is_root = itself.name.is_empty();
        if !is_root && let Err(miss) = self.sink.enter(&itself).await {
            return self.miss(place, miss);
        }
        let entries = self.entries(place, first, depth).await;
        // At last: to put files in changes a directory's time, and may not be allowed afterwards.
        let left = match is_root {
            true => Ok(()),
            false => self.sink.leave(&itself).await,
        };
        entries?;
        left.or_else(|miss| self.miss(place, miss))
    }

    async fn entries(&mut self, place: &str, first: RecoveryFiles, depth: usize) -> Result {
        let (mut page, mut from) = (first, 0);
        loop {
            for what in std::mem::take(&mut page.damage) {
                self.miss(place, Miss::One(what))?;
            }
            for entry in std::mem::take(&mut page.entries) {
                self.take(entry.place, depth + 1).await?;
            }
            let Some(next) = page.next.filter(|next| *next > from) else { return Ok(()) };
            from = next;
            match self.client.point_files(self.at(place), from).await {
                Ok(more) => page = more,
                Err(error) => return self.miss(place, Miss::One(error.message)),
            }
        }
    }

    async fn file(&mut self, file: &RecoveryFile) -> Taken {
        // The first piece is read before anything is made of the file: most files are no longer.
        let first = match file.size_bytes {
            0 => None,
            _ => Some(self.piece(file, 0).await?),
        };
        let is_read = first.as_ref().map_or(0, length) == file.size_bytes;
        self.sink.begin(file, is_read).await?;
        match self.pieces(file, first).await {
            Ok(()) => self.sink.end(file).await,
            Err(Miss::One(why)) => {
                self.sink.give_up().await?;
                Err(Miss::One(why))
            }
            all => all,
        }
    }

    async fn pieces(&mut self, file: &RecoveryFile, mut first: Option<FileContent>) -> Taken {
        let mut offset = 0;
        while offset < file.size_bytes {
            let piece = match first.take() {
                Some(piece) => piece,
                None => self.piece(file, offset).await?,
            };
            offset += length(&piece);
            self.write(piece).await?;
        }
        Ok(())
    }

    /// A large hole in parts, between which others have their turn: whoever cancels is heard.
    async fn write(&mut self, piece: FileContent) -> Taken {
        let FileContent::Zeroes(mut left) = piece else { return self.sink.write(&piece).await };
        while left > 0 {
            let part = left.min(ZEROES_BYTES_MAX);
            self.sink.write(&FileContent::Zeroes(part)).await?;
            left -= part;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Never none, and never more than the file has.
    async fn piece(&self, file: &RecoveryFile, offset: u64) -> Taken<FileContent> {
        let left = file.size_bytes - offset;
        let asked = u64::from(CHUNK_BYTES).min(left);
        let asked_for = u32::try_from(asked).unwrap_or(CHUNK_BYTES);
        let content = self.client.point_content(self.at(&file.place), offset, asked_for).await;
        let content = match content.map_err(|error| Miss::One(error.message))? {
            // A hole, to the end at most.
            FileContent::Zeroes(bytes) => FileContent::Zeroes(bytes.min(left)),
            bytes @ FileContent::Bytes(_) => bytes,
        };
        let most = if matches!(content, FileContent::Zeroes(_)) { left } else { asked };
        is_sound(length(&content), most)?;
        Ok(content)
    }
}

fn length(content: &FileContent) -> u64 {
    match content {
        FileContent::Bytes(bytes) => bytes.len() as u64,
        FileContent::Zeroes(bytes) => *bytes,
    }
}

fn is_sound(bytes: u64, bytes_max: u64) -> Taken {
    match bytes {
        0 => Err(Miss::One("the file ends before its end".to_owned())),
        more if more > bytes_max => Err(Miss::One("the node gave more than was asked for".to_owned())),
        _ => Ok(()),
    }
}

pub fn kind(kind: RecoveryFileKind) -> &'static str {
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

#[cfg(test)]
pub mod tests {
    use nestling_api::v1::RecoveryFileTime;

    use super::*;

    /// A file as a node tells of it.
    pub fn about(name: &str, kind: RecoveryFileKind, size_bytes: u64) -> RecoveryFile {
        RecoveryFile {
            place: format!("scsi:0/1:/{name}"),
            name: name.to_owned(),
            kind,
            size_bytes,
            mode: Some(0o640),
            uid: Some(0),
            gid: Some(0),
            modified: Some(RecoveryFileTime { seconds: 1_000_000_000, nanoseconds: 0 }),
            link_target: None,
            attributes: Vec::new(),
        }
    }

    pub fn link(name: &str, target: &str) -> RecoveryFile {
        RecoveryFile { link_target: Some(target.to_owned()), ..about(name, RecoveryFileKind::Link, 0) }
    }

    #[test]
    fn a_node_that_gives_nothing_or_too_much_is_left() {
        assert!(is_sound(5, 5).is_ok());
        assert!(is_sound(0, 5).is_err() && is_sound(6, 5).is_err());
    }
}
