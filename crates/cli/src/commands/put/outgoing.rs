//! Files on their way into a guest: a tar that is given to what unpacks it there, piece by piece.
//!
//! ```text
//! point ──► tar ──► gzip, if the guest has it ──► pieces ──► part, piece.N ──► what unpacks ──► stage/tree
//!                                                     └ never more than two in the guest
//! ```

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use nestling_api::{
    FileContent,
    v1::{ErrorCode, RecoveryFile, RecoveryFileKind, RecoveryFileTime},
};

use super::guest::{Inside, Probed, Tar, finish, send, want};
use crate::{
    commands::take::{Miss, Sink, Taken, tar::TarWriter},
    failure::Failure,
    printer::{Printer, Progress},
    text,
};

const PIECE_BYTES: usize = 4 << 20;
/// Written before it is looked whether there is a piece.
const ZEROES_BYTES: u64 = 1 << 20;
/// As arguments of one program.
const BROKEN_BYTES_MAX: usize = 100 << 10;
/// What everything is in, until it is moved.
const TREE: &str = "tree";
/// Folders once more, as an archive of their own, for when all links are made.
const TIMES: &str = "times";
/// Comes last, so that what is there without it is not whole.
const WHOLE: &str = "whole";

/// What unpacks gives up after ten minutes without a word (keep.sh).
const WORD_INTERVAL: Duration = Duration::from_secs(60);
const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Without a terminal, lines pile up.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// How far it is.
pub struct Meter {
    shown: Progress,
    every: Duration,
    last: Instant,
    pub total_bytes: u64,
    done_bytes: u64,
}

impl Meter {
    pub fn new(printer: Printer) -> Self {
        let every = if printer.talks_to_terminal() { BAR_INTERVAL } else { LINE_INTERVAL };
        Self { shown: printer.progress(), every, last: Instant::now(), total_bytes: 0, done_bytes: 0 }
    }

    fn done(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        if self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
        let share = (self.total_bytes > 0).then(|| self.done_bytes as f64 / self.total_bytes as f64);
        let words = format!("{} of {} brought", text::size(self.done_bytes), text::size(self.total_bytes));
        self.shown.show(share, &words);
    }
}

/// Keeps what it is given until that is taken.
enum Packer {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
}

impl Packer {
    fn new(has_gzip: bool) -> Self {
        match has_gzip {
            // What unpacks it may be an emulated machine, and what carries it is slow.
            true => Self::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            false => Self::None(Vec::new()),
        }
    }

    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::None(bytes) => bytes,
            Self::Gzip(packer) => packer.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(bytes) => Ok(bytes),
            Self::Gzip(packer) => packer.finish(),
        }
    }
}

impl Write for Packer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(bytes) => bytes.write(buf),
            Self::Gzip(packer) => packer.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Some tars make links when all else is there, which gives the folders that they are in another time.
struct Late {
    tar: TarWriter<Packer>,
    /// Of each folder on the way.
    has_link: Vec<bool>,
    is_needed: bool,
}

pub struct Outgoing<'a, G> {
    guest: &'a G,
    meter: &'a mut Meter,
    tar: TarWriter<Packer>,
    late: Option<Late>,
    unpack: String,
    work: String,
    /// That are wanted still, this one too.
    works: &'a [String],
    number: u64,
    /// When the guest last heard of this.
    heard: Instant,
    /// The path of the file that is under way, and of those of which the rest is missing.
    path: Vec<u8>,
    broken: Vec<String>,
}

/// What is around those that come.
fn around(name: &str, kind: RecoveryFileKind) -> RecoveryFile {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    RecoveryFile {
        place: String::new(),
        name: nestling_explore::FileName::from(name.as_bytes()).to_string(),
        kind,
        size_bytes: 0,
        mode: Some(0o755),
        uid: Some(0),
        gid: Some(0),
        modified: Some(RecoveryFileTime {
            seconds: i64::try_from(now.as_secs()).unwrap_or_default(),
            nanoseconds: 0,
        }),
        link_target: None,
        attributes: Vec::new(),
    }
}

/// A folder that is there for others.
pub fn new_folder(name: &str) -> RecoveryFile {
    around(name, RecoveryFileKind::Directory)
}

impl<'a, G: Inside> Outgoing<'a, G> {
    /// `folders` are on the way to what comes, and made as it is.
    pub async fn open(
        guest: &'a G,
        meter: &'a mut Meter,
        works: &'a [String],
        probed: &Probed,
        folders: &[RecoveryFile],
    ) -> Taken<Self> {
        let work = works.last().cloned().unwrap_or_default();
        let (number, heard, path, broken) = (0, Instant::now(), Vec::new(), Vec::new());
        let tar = TarWriter::new(Packer::new(probed.has_gzip));
        let is_plain = probed.tar != Some(Tar::Gnu);
        let late = is_plain.then(|| Late {
            tar: TarWriter::new(Packer::new(probed.has_gzip)),
            has_link: Vec::new(),
            is_needed: false,
        });
        let unpack = probed.unpack();
        let mut outgoing = Self { guest, meter, tar, late, unpack, work, works, number, heard, path, broken };
        outgoing.tar.enter(&around(TREE, RecoveryFileKind::Directory))?;
        for folder in folders {
            outgoing.enter(folder).await?;
        }
        Ok(outgoing)
    }

    /// Everything is unpacked when this returns. Gives what the unpacking warned of.
    pub async fn close(mut self, folders: &[RecoveryFile]) -> Taken<String> {
        for folder in folders.iter().rev() {
            self.leave(folder).await?;
        }
        self.tar.leave();
        if let Some(mut late) = self.late.take().filter(|late| late.is_needed) {
            late.tar.close()?;
            let times = late.tar.out.finish().map_err(|error| Miss::unwritten(&error))?;
            let size_bytes = times.len() as u64;
            self.tar.begin(&RecoveryFile { size_bytes, ..around(TIMES, RecoveryFileKind::File) })?;
            self.tar.write(&FileContent::Bytes(times.into()))?;
            self.tar.end()?;
        }
        self.tar.begin(&around(WHOLE, RecoveryFileKind::File))?;
        self.tar.end()?;
        self.tar.close()?;
        self.drain(PIECE_BYTES).await?;
        let mut rest = self.tar.out.finish().map_err(|error| Miss::unwritten(&error))?;
        while !rest.is_empty() {
            let more = rest.split_off(rest.len().min(PIECE_BYTES));
            give(self.guest, &mut self.number, &self.work, self.works, rest).await?;
            rest = more;
        }
        let last = self.number.saturating_sub(1);
        want(self.guest, self.works).await.map_err(Miss::All)?;
        finish(self.guest, &self.work, last, &self.unpack, self.broken).await.map_err(Miss::All)
    }

    async fn drain(&mut self, bytes: usize) -> Taken {
        while self.tar.out.ready().len() >= bytes {
            let ready = self.tar.out.ready();
            let more = ready.split_off(ready.len().min(PIECE_BYTES));
            let piece = std::mem::replace(ready, more);
            give(self.guest, &mut self.number, &self.work, self.works, piece).await?;
            self.heard = Instant::now();
        }
        // Much may be read before there is a piece: what can be packed well, and names without contents.
        if self.heard.elapsed() > WORD_INTERVAL {
            want(self.guest, self.works).await.map_err(Miss::All)?;
            self.heard = Instant::now();
        }
        Ok(())
    }

    async fn zeroes(&mut self, bytes: u64) -> Taken {
        let mut rest = bytes;
        while rest > 0 {
            let now = rest.min(ZEROES_BYTES);
            self.tar.zeroes(now)?;
            self.drain(PIECE_BYTES).await?;
            self.meter.done(now);
            rest -= now;
        }
        Ok(())
    }
}

async fn give(guest: &impl Inside, number: &mut u64, work: &str, works: &[String], piece: Vec<u8>) -> Taken {
    send(guest, *number, work, works, piece).await.map_err(Miss::All)?;
    *number += 1;
    Ok(())
}

impl<G: Inside> Sink for Outgoing<'_, G> {
    async fn enter(&mut self, folder: &RecoveryFile) -> Taken {
        self.tar.enter(folder)?;
        self.late.iter_mut().for_each(|late| late.has_link.push(false));
        self.drain(PIECE_BYTES).await
    }

    /// Once more: some tars give a folder its time before they put files in.
    async fn leave(&mut self, folder: &RecoveryFile) -> Taken {
        let path = self.tar.leave();
        self.tar.dress(&path, folder)?;
        if let Some(late) = &mut self.late
            && late.has_link.pop() == Some(true)
        {
            late.tar.dress(&path, folder)?;
            late.is_needed = true;
        }
        self.drain(PIECE_BYTES).await
    }

    async fn special(&mut self, file: &RecoveryFile) -> Taken {
        self.tar.special(file)?;
        if let Some(has_link) = self.late.as_mut().and_then(|late| late.has_link.last_mut()) {
            *has_link = true;
        }
        self.drain(PIECE_BYTES).await
    }

    async fn begin(&mut self, file: &RecoveryFile, _is_read: bool) -> Taken {
        self.path = self.tar.begin(file)?;
        Ok(())
    }

    async fn write(&mut self, piece: &FileContent) -> Taken {
        match piece {
            FileContent::Bytes(bytes) => {
                self.tar.write(piece)?;
                self.drain(PIECE_BYTES).await?;
                self.meter.done(bytes.len() as u64);
                Ok(())
            }
            FileContent::Zeroes(bytes) => self.zeroes(*bytes).await,
        }
    }

    async fn end(&mut self, _file: &RecoveryFile) -> Taken {
        self.tar.end()?;
        self.drain(PIECE_BYTES).await
    }

    /// It is filled up, and taken away when everything is unpacked.
    async fn give_up(&mut self) -> Taken {
        let path = std::mem::take(&mut self.path);
        let path = path.strip_prefix(format!("{TREE}/").as_bytes()).unwrap_or(&path);
        let broken = str::from_utf8(path).map_err(|_| cut())?;
        self.broken.push(broken.to_owned());
        if self.broken.iter().map(String::len).sum::<usize>() > BROKEN_BYTES_MAX {
            return Err(cut());
        }
        self.zeroes(self.tar.left()).await?;
        self.tar.end()
    }
}

fn cut() -> Miss {
    let said = "too much of it cannot be read to its end";
    Miss::All(Failure::new(ErrorCode::Failed, said).hint("take out what can be with `nestling recover get`"))
}
