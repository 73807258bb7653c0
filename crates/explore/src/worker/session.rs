//! Questions of one client, answered.

use std::{
    io::{BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
};

use nestling_block::{
    BlockSource,
    nbd::{NbdClient, NbdOptions},
};

use crate::{ErrorKind, ExploreError, FileSystem, Place, Result, detect, enter, open, volumes};

use super::protocol::{
    Answer, DATA_BYTES_MAX, Message, PAGE_ENTRIES_MAX, ProtocolError, REQUEST_BYTES_MAX, Request,
    pack_extents, receive, send, version,
};

pub(crate) struct Session {
    /// Until it is attached.
    socket: Option<UnixStream>,
    /// That it is attached to.
    disk: Option<Arc<dyn BlockSource>>,
    /// Where it is in there: a disk or a volume.
    source: Option<Arc<dyn BlockSource>>,
    fs: Option<Arc<dyn FileSystem>>,
}

impl Session {
    pub(super) fn new(disk: UnixStream) -> Self {
        Self { socket: Some(disk), disk: None, source: None, fs: None }
    }

    /// Without a disk of its own.
    pub(crate) fn nowhere() -> Self {
        Self { socket: None, disk: None, source: None, fs: None }
    }

    /// From now on all questions are about this disk.
    pub(crate) fn go_to(&mut self, disk: Arc<dyn BlockSource>, place: &Place) -> Result<(Answer, Vec<u8>)> {
        self.disk = Some(disk);
        self.enter(place)
    }

    /// From now on all questions are about this file system.
    pub(crate) fn go_into(&mut self, fs: Arc<dyn FileSystem>) -> Answer {
        (self.disk, self.source) = (None, None);
        let answer = Answer::Opened { summary: fs.summary().clone(), root: fs.root() };
        self.fs = Some(fs);
        answer
    }

    /// With a volume that is attached already.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn over(source: Arc<dyn BlockSource>) -> Self {
        Self { socket: None, disk: Some(Arc::clone(&source)), source: Some(source), fs: None }
    }

    pub(super) fn run(mut self, control: &UnixStream) -> Result<()> {
        converse(control, control, |request| self.answer(request))
    }

    pub(crate) fn answer(&mut self, request: Request) -> Result<(Answer, Vec<u8>)> {
        let plain = |answer| Ok((answer, Vec::new()));
        match request {
            Request::Attach { export, name } => self.attach(&export, &name),
            Request::Enter { place } => self.enter(&place.parse()?),
            Request::Volumes => plain(Answer::Volumes(volumes(self.source()?)?)),
            Request::Detect => plain(Answer::Detected(detect(self.source()?)?)),
            Request::Open => {
                let fs = open(Arc::clone(self.source()?))?;
                let answer = Answer::Opened { summary: fs.summary().clone(), root: fs.root() };
                self.fs = Some(fs);
                plain(answer)
            }
            Request::ReadDisk { offset, length } => {
                let mut bytes = vec![0; length.min(DATA_BYTES_MAX) as usize];
                let source = self.source()?;
                source.read_at(&mut bytes, offset).map_err(|error| of_disk(source, error))?;
                Ok((Answer::Bytes, bytes))
            }
            Request::DiskExtents { start, end } => {
                let source = self.source()?;
                let extents = source.extents(start..end).map_err(|error| of_disk(source, error))?;
                plain(Answer::Extents(pack_extents(&extents)))
            }
            Request::Version => plain(Answer::Version(version())),
            Request::Compose { .. } | Request::Mount { .. } => {
                Err(out_of_turn("volumes are put together and mounted by a machine"))
            }
            Request::Lookup { directory, name } => {
                plain(Answer::Found(self.fs()?.lookup(directory, name.as_bytes())?))
            }
            Request::List { directory, from, limit } => {
                plain(Answer::Listed(self.fs()?.list(directory, from, limit.min(PAGE_ENTRIES_MAX))?))
            }
            Request::Stat { node } => plain(Answer::Stat(self.fs()?.stat(node)?)),
            Request::Read { node, stream, offset, length } => {
                let mut bytes = vec![0; length.min(DATA_BYTES_MAX) as usize];
                let count = self.fs()?.read(node, stream.as_bytes(), offset, &mut bytes)?;
                bytes.truncate(count);
                Ok((Answer::Bytes, bytes))
            }
            Request::Extents { node, stream, start, end } => {
                let extents = self.fs()?.extents(node, stream.as_bytes(), start..end)?;
                plain(Answer::Extents(pack_extents(&extents)))
            }
            Request::Streams { node } => plain(Answer::Streams(self.fs()?.streams(node)?)),
            Request::LinkTarget { node } => Ok((Answer::Bytes, self.fs()?.link_target(node)?)),
            Request::ExtendedAttributes { node } => {
                let found = self.fs()?.extended_attributes(node)?;
                let names = found.iter().map(|a| (a.name.clone(), a.value.len() as u32)).collect();
                Ok((Answer::Attributes(names), found.into_iter().flat_map(|a| a.value).collect()))
            }
            Request::SecurityDescriptor { node } => Ok(match self.fs()?.security_descriptor(node)? {
                Some(bytes) => (Answer::Bytes, bytes),
                None => (Answer::Nothing, Vec::new()),
            }),
            Request::ReparsePoint { node } => Ok(match self.fs()?.reparse_point(node)? {
                Some(found) => (Answer::Reparse { tag: found.tag }, found.data),
                None => (Answer::Nothing, Vec::new()),
            }),
        }
    }

    fn attach(&mut self, export: &str, name: &str) -> Result<(Answer, Vec<u8>)> {
        let socket = self.socket.take().ok_or_else(|| out_of_turn("it has its disk already"))?;
        let disk = NbdClient::over_streams(vec![socket], name, export, &NbdOptions::default());
        let disk = disk.map_err(|source| ExploreError::Disk { volume: name.to_owned(), source })?;
        let size_bytes = BlockSource::size_bytes(&disk);
        let disk: Arc<dyn BlockSource> = Arc::new(disk);
        self.disk = Some(Arc::clone(&disk));
        self.source = Some(disk);
        Ok((Answer::Attached { size_bytes }, Vec::new()))
    }

    fn enter(&mut self, place: &Place) -> Result<(Answer, Vec<u8>)> {
        let disk = self.disk.as_ref().ok_or_else(|| out_of_turn("it has no disk yet"))?;
        let source = enter(disk, place)?;
        let size_bytes = source.size_bytes();
        self.source = Some(source);
        self.fs = None;
        Ok((Answer::Entered { size_bytes }, Vec::new()))
    }

    fn source(&self) -> Result<&Arc<dyn BlockSource>> {
        self.source.as_ref().ok_or_else(|| out_of_turn("it has no disk yet"))
    }

    fn fs(&self) -> Result<&dyn FileSystem> {
        self.fs.as_deref().ok_or_else(|| out_of_turn("no file system was opened"))
    }
}

/// Answers until the other side closes.
pub(crate) fn converse(
    from: impl Read,
    mut to: impl Write,
    mut answer: impl FnMut(Request) -> Result<(Answer, Vec<u8>)>,
) -> Result<()> {
    let lost = |error: ProtocolError| ExploreError::WorkerProtocol {
        volume: "a disk".to_owned(),
        what: format!("its client: {error}"),
    };
    let mut from = BufReader::new(from);
    while let Some(Message { body, .. }) = receive(&mut from, REQUEST_BYTES_MAX, 0).map_err(lost)? {
        let (answer, data) = answer(body).unwrap_or_else(|error| refusal(&error));
        send(&mut to, &answer, &data).map_err(lost)?;
    }
    Ok(())
}

fn of_disk(source: &Arc<dyn BlockSource>, error: nestling_block::BlockError) -> ExploreError {
    ExploreError::Disk { volume: source.name().to_owned(), source: error }
}

fn out_of_turn(what: &str) -> ExploreError {
    ExploreError::Told { kind: ErrorKind::Invalid, what: what.to_owned() }
}

/// The whole reason as one text: the chain of causes does not cross to the other process.
fn refusal(error: &ExploreError) -> (Answer, Vec<u8>) {
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        what = format!("{what}: {error}");
        cause = error.source();
    }
    (Answer::Refused { kind: error.kind(), what }, Vec::new())
}
