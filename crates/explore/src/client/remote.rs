//! A file system that another process reads, or a disk in it.

use std::{ops::Range, sync::Arc};

use nestling_block::{BlockError, BlockSource, Extent, check_range};

use super::{Mount, Worker, harmless};
use crate::{
    Cursor, ErrorKind, ExploreError, ExtendedAttribute, FileName, FileSystem, Node, Page, ReparsePoint,
    Result, Stat, StreamInfo, Summary,
    worker::protocol::{Answer, DATA_BYTES_MAX, Message, PAGE_ENTRIES_MAX, Request, unpack_extents},
};

/// A file system that another process reads.
pub(super) struct Remote {
    pub worker: Arc<Worker>,
    /// Of a machine, which has several.
    pub at: Option<Mount>,
    pub summary: Summary,
    pub root: Node,
}

impl Remote {
    fn ask(&self, request: &Request) -> Result<Message<Answer>> {
        self.worker.ask(self.at.as_ref(), request)
    }

    /// Data alone, or nothing.
    fn bytes(&self, request: &Request) -> Result<Option<Vec<u8>>> {
        match self.ask(request)? {
            Message { body: Answer::Bytes, data } => Ok(Some(data)),
            Message { body: Answer::Nothing, .. } => Ok(None),
            _ => Err(self.worker.unexpected()),
        }
    }
}

impl FileSystem for Remote {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        self.root
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        match self.ask(&Request::Lookup { directory, name: FileName::from(name) })?.body {
            Answer::Found(found) => Ok(found),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        match self.ask(&Request::List { directory, from, limit })?.body {
            Answer::Listed(page) if page.entries.len() <= limit => {
                Ok(Page { damage: page.damage.as_deref().map(harmless), ..page })
            }
            _ => Err(self.worker.unexpected()),
        }
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        match self.ask(&Request::Stat { node })?.body {
            Answer::Stat(stat) => Ok(stat),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let wanted = (buf.len() - done).min(DATA_BYTES_MAX as usize);
            let request = Request::Read {
                node,
                stream: FileName::from(stream),
                offset: offset.saturating_add(done as u64),
                length: wanted as u32,
            };
            let found = self.bytes(&request)?.filter(|data| data.len() <= wanted);
            let data = found.ok_or_else(|| self.worker.unexpected())?;
            buf[done..done + data.len()].copy_from_slice(&data);
            done += data.len();
            if data.len() < wanted {
                break;
            }
        }
        Ok(done)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        let request =
            Request::Extents { node, stream: FileName::from(stream), start: range.start, end: range.end };
        match self.ask(&request)?.body {
            Answer::Extents(packed) => Ok(unpack_extents(&packed, range)),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        self.bytes(&Request::LinkTarget { node })?.ok_or_else(|| self.worker.unexpected())
    }

    fn extended_attributes(&self, node: Node) -> Result<Vec<ExtendedAttribute>> {
        let Message { body: Answer::Attributes(names), data } =
            self.ask(&Request::ExtendedAttributes { node })?
        else {
            return Err(self.worker.unexpected());
        };
        let mut rest = &data[..];
        let mut found = Vec::with_capacity(names.len());
        for (name, length) in names {
            let (value, after) =
                rest.split_at_checked(length as usize).ok_or_else(|| self.worker.unexpected())?;
            found.push(ExtendedAttribute { name, value: value.to_vec() });
            rest = after;
        }
        Ok(found)
    }

    fn streams(&self, node: Node) -> Result<Vec<StreamInfo>> {
        match self.ask(&Request::Streams { node })?.body {
            Answer::Streams(streams) => Ok(streams),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn security_descriptor(&self, node: Node) -> Result<Option<Vec<u8>>> {
        self.bytes(&Request::SecurityDescriptor { node })
    }

    fn reparse_point(&self, node: Node) -> Result<Option<ReparsePoint>> {
        match self.ask(&Request::ReparsePoint { node })? {
            Message { body: Answer::Reparse { tag }, data } => Ok(Some(ReparsePoint { tag, data })),
            Message { body: Answer::Nothing, .. } => Ok(None),
            _ => Err(self.worker.unexpected()),
        }
    }
}

/// The disk that another process is in.
pub(super) struct RemoteDisk {
    pub worker: Arc<Worker>,
    pub at: Option<Mount>,
    pub name: String,
    pub size_bytes: u64,
}

impl RemoteDisk {
    fn failed(&self, action: &'static str, offset: u64, error: ExploreError) -> BlockError {
        let kind = match error.kind() {
            ErrorKind::Worker => std::io::ErrorKind::BrokenPipe,
            _ => std::io::ErrorKind::Other,
        };
        BlockError::io(&self.name, action, offset, std::io::Error::new(kind, error))
    }

    fn piece(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let request = Request::ReadDisk { offset, length: buf.len() as u32 };
        match self.worker.ask(self.at.as_ref(), &request)? {
            Message { body: Answer::Bytes, data } if data.len() == buf.len() => {
                buf.copy_from_slice(&data);
                Ok(())
            }
            _ => Err(self.worker.unexpected()),
        }
    }
}

impl BlockSource for RemoteDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), BlockError> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        for (piece, number) in buf.chunks_mut(DATA_BYTES_MAX as usize).zip(0_u64..) {
            let at = offset + number * u64::from(DATA_BYTES_MAX);
            self.piece(piece, at).map_err(|error| self.failed("read", at, error))?;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> std::result::Result<Vec<Extent>, BlockError> {
        check_range(&self.name, self.size_bytes, range.start, range.end.saturating_sub(range.start))?;
        let request = Request::DiskExtents { start: range.start, end: range.end };
        let asked = self.worker.ask(self.at.as_ref(), &request);
        match asked.map_err(|error| self.failed("map", range.start, error))?.body {
            Answer::Extents(packed) => Ok(unpack_extents(&packed, range)),
            _ => Err(self.failed("map", range.start, self.worker.unexpected())),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}
