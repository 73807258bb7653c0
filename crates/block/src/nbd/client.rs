//! The asking end: a disk that a server has.
//!
//! Reads and questions about extents may come from many threads; they go over one or more connections, many at a time.
//! It must never connect again by itself: what has the same name on the next connection may be another disk, or the
//! same disk at another time, and a backup would be a mixture of both.

use std::{
    ops::Range,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::{
    NbdUri,
    client_handshake::{Agreed, Wanted},
    connection::Connection,
    socket::Stream,
    wire::{SHORT_LENGTH_MAX, STATE_ZERO, Status, Style, command, flag},
};
use crate::{BlockError, BlockSource, BlockTarget, Extent, ExtentKind, ExtentList, ExtentSet, check_range};

/// Connections to one server.
const CONNECTIONS_MAX: usize = 16;
/// Zeroes are written in pieces of this to a server that cannot make them.
const ZEROES: &[u8] = &[0; 1 << 20];
/// With extended headers, zeroes are asked for in pieces of this, so that each is done within the deadline.
const ZEROES_PIECE_BYTES: u64 = 1 << 30;
const DIRTY: u64 = 1;
/// A bitmap with more stretches than this is refused: QEMU's own have fewer for 64 TiB with the usual granularity, or
/// are so torn that a whole backup is cheaper.
const DIRTY_MAX: usize = 1 << 24;

#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// As many as the server allows, if it allows more than one.
    pub connections: usize,
    /// The name of a bitmap of QEMU's that the server must have, to ask what changed.
    pub dirty_bitmap: Option<String>,
    /// For connecting, and for each answer.
    pub timeout: Duration,
    /// Whether 64-bit requests may be agreed on.
    pub extended_headers: bool,
    /// Each read is answered in one piece, if the server can: it must not look for holes of its own in what may change.
    pub whole_reads: bool,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            dirty_bitmap: None,
            timeout: Duration::from_secs(30),
            extended_headers: true,
            whole_reads: false,
        }
    }
}

/// A stretch of the disk by a dirty bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyExtent {
    pub offset: u64,
    pub length: u64,
    pub dirty: bool,
}

/// A disk over NBD.
pub struct NbdClient {
    name: String,
    connections: Vec<Connection>,
    turn: AtomicUsize,
    agreed: Agreed,
    read_flags: u16,
}

impl NbdClient {
    pub fn connect(uri: &NbdUri, options: &NbdOptions) -> Result<Self, BlockError> {
        let name = uri.to_string();
        let context = options.dirty_bitmap.as_ref().map(|bitmap| format!("qemu:dirty-bitmap:{bitmap}"));
        let open =
            || Connection::open(&name, uri, context.as_deref(), options.extended_headers, options.timeout);
        let first = open()?;
        let agreed = first.agreed().clone();
        let mut connections = vec![first];
        let several = agreed.flags & flag::CAN_MULTI_CONN != 0;
        let wanted = if several { options.connections.clamp(1, CONNECTIONS_MAX) } else { 1 };
        while connections.len() < wanted {
            let next = open()?;
            if *next.agreed() != agreed {
                let what = "it agrees to something else on each connection".to_owned();
                return Err(BlockError::Protocol { name, what });
            }
            connections.push(next);
        }
        let mut client = Self::over(name, connections, agreed);
        if options.whole_reads && client.agreed.flags & flag::SEND_DF != 0 {
            client.read_flags = command::FLAG_DF;
        }
        Ok(client)
    }

    /// Over streams that lead to one server already, as a process has them that may not connect to anything. There are as
    /// many connections as streams.
    pub fn over_streams(
        streams: Vec<UnixStream>,
        name: &str,
        export: &str,
        options: &NbdOptions,
    ) -> Result<Self, BlockError> {
        let context = options.dirty_bitmap.as_ref().map(|bitmap| format!("qemu:dirty-bitmap:{bitmap}"));
        let several = streams.len() > 1;
        let mut connections = Vec::new();
        for stream in streams {
            let wanted = Wanted {
                name,
                export,
                context: context.as_deref(),
                extended_headers: options.extended_headers,
            };
            connections.push(Connection::over(Stream::Unix(stream), wanted, options.timeout)?);
        }
        let Some(agreed) = connections.first().map(|first| first.agreed().clone()) else {
            return Err(BlockError::unsupported(name, "there is no connection to it"));
        };
        let same = connections.iter().all(|connection| *connection.agreed() == agreed);
        if !same || several && agreed.flags & flag::CAN_MULTI_CONN == 0 {
            let what = "it does not take several connections to be one disk".to_owned();
            return Err(BlockError::Protocol { name: name.to_owned(), what });
        }
        Ok(Self::over(name.to_owned(), connections, agreed))
    }

    /// Over connections that have all agreed to this.
    pub(super) fn over(name: String, connections: Vec<Connection>, agreed: Agreed) -> Self {
        Self { name, connections, turn: AtomicUsize::new(0), agreed, read_flags: 0 }
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.agreed.flags & flag::READ_ONLY == 0
    }

    /// Whether the server tells what is a hole.
    #[must_use]
    pub fn knows_extents(&self) -> bool {
        self.agreed.allocation.is_some()
    }

    #[must_use]
    pub fn has_extended_headers(&self) -> bool {
        self.agreed.style == Style::Extended
    }

    /// What the dirty bitmap says of `range`: as [`BlockSource::extents`], in order from its start, and it may end early.
    pub fn dirty_extents(&self, range: Range<u64>) -> Result<Vec<DirtyExtent>, BlockError> {
        let context = self
            .agreed
            .dirty
            .ok_or_else(|| BlockError::unsupported(&self.name, "no dirty bitmap was asked for"))?;
        let mut list = ExtentList::new(range.clone());
        for status in self.statuses(range, context)? {
            // The list's two kinds stand for dirty and clean here.
            let kind = if status.flags & DIRTY != 0 { ExtentKind::Data } else { ExtentKind::Zero };
            if !list.push(status.length, kind) {
                break;
            }
        }
        Ok(list
            .finish()
            .into_iter()
            .map(|extent| DirtyExtent {
                offset: extent.offset,
                length: extent.length,
                dirty: extent.kind == ExtentKind::Data,
            })
            .collect())
    }

    /// All of `range` that the dirty bitmap calls dirty.
    pub fn dirty(&self, range: Range<u64>) -> Result<ExtentSet, BlockError> {
        let mut found = ExtentSet::new();
        let mut at = range.start;
        while at < range.end {
            for extent in self.dirty_extents(at..range.end)? {
                at = extent.offset + extent.length;
                if extent.dirty {
                    found.insert(extent.offset..at);
                }
            }
            if found.ranges().len() > DIRTY_MAX {
                return Err(BlockError::unsupported(&self.name, "its dirty bitmap has too many stretches"));
            }
        }
        Ok(found)
    }

    fn connection(&self) -> &Connection {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        &self.connections[turn % self.connections.len()]
    }

    fn minimum(&self) -> u64 {
        self.agreed.minimum_bytes.into()
    }

    /// What a context says from the start of `range` on. At least one stretch, none empty, not necessarily all.
    fn statuses(&self, range: Range<u64>, context: u32) -> Result<Vec<Status>, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.name, self.agreed.size_bytes, range.start, length)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        let start = range.start / self.minimum() * self.minimum();
        let end = range.end.next_multiple_of(self.minimum()).min(self.agreed.size_bytes);
        let most = if self.has_extended_headers() { u64::MAX } else { SHORT_LENGTH_MAX };
        let reply = self.connection().call(command::BLOCK_STATUS, 0, start, (end - start).min(most), b"")?;
        let found = reply.statuses.into_iter().find(|(id, _)| *id == context);
        let (_, mut list) = found.ok_or_else(|| self.protocol("it does not answer for a context it has"))?;
        // What was asked for only to begin at a whole block.
        let mut before = range.start - start;
        list.retain_mut(|status| {
            let cut = before.min(status.length);
            (before, status.length) = (before - cut, status.length - cut);
            status.length > 0
        });
        if list.is_empty() { Err(self.protocol("it tells less than one block")) } else { Ok(list) }
    }

    fn protocol(&self, what: &str) -> BlockError {
        BlockError::Protocol { name: self.name.clone(), what: what.to_owned() }
    }

    fn writable(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        if !self.is_writable() {
            return Err(BlockError::ReadOnly { name: self.name.clone() });
        }
        check_range(&self.name, self.agreed.size_bytes, offset, length)?;
        if !(offset | length).is_multiple_of(self.minimum()) {
            let what = format!("takes only whole blocks of {} bytes", self.minimum());
            return Err(BlockError::unsupported(&self.name, what));
        }
        Ok(())
    }
}

impl BlockSource for NbdClient {
    fn size_bytes(&self) -> u64 {
        self.agreed.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.agreed.size_bytes, offset, buf.len() as u64)?;
        let (mut at, end) = (offset, offset + buf.len() as u64);
        while at < end {
            let start = at / self.minimum() * self.minimum();
            let aligned_end = end.next_multiple_of(self.minimum()).min(self.agreed.size_bytes);
            let length = (aligned_end - start).min(self.agreed.maximum_bytes.into());
            let data = self.connection().call(command::READ, self.read_flags, start, length, b"")?.data;
            let next = (start + length).min(end);
            buf[(at - offset) as usize..(next - offset) as usize]
                .copy_from_slice(&data[(at - start) as usize..(next - start) as usize]);
            at = next;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.name, self.agreed.size_bytes, range.start, length)?;
        let mut list = ExtentList::new(range.clone());
        match self.agreed.allocation {
            None => {
                list.push(length, ExtentKind::Data);
            }
            Some(context) => {
                for status in self.statuses(range, context)? {
                    // A hole alone may read as anything.
                    let zero = status.flags & STATE_ZERO != 0;
                    if !list.push(status.length, if zero { ExtentKind::Zero } else { ExtentKind::Data }) {
                        break;
                    }
                }
            }
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl BlockTarget for NbdClient {
    fn size_bytes(&self) -> u64 {
        self.agreed.size_bytes
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        self.writable(offset, buf.len() as u64)?;
        // With extended headers, what has a payload says so.
        let flags = if self.has_extended_headers() { command::FLAG_PAYLOAD_LEN } else { 0 };
        let mut at = offset;
        for piece in buf.chunks(self.agreed.maximum_bytes as usize) {
            self.connection().call(command::WRITE, flags, at, piece.len() as u64, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.writable(range.start, range.end.saturating_sub(range.start))?;
        let able = self.agreed.flags & flag::SEND_WRITE_ZEROES != 0;
        let mut at = range.start;
        while at < range.end {
            let piece = (range.end - at).min(if able { ZEROES_PIECE_BYTES } else { ZEROES.len() as u64 });
            if able {
                self.connection().call(command::WRITE_ZEROES, 0, at, piece, b"")?;
            } else {
                self.write_at(&ZEROES[..piece as usize], at)?;
            }
            at += piece;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        if self.agreed.flags & flag::SEND_FLUSH != 0 {
            // With several connections, one flush covers all: that is what the server promised with their flag.
            self.connection().call(command::FLUSH, 0, 0, 0, b"")?;
        }
        Ok(())
    }

    fn set_size(&self, _size_bytes: u64) -> Result<(), BlockError> {
        Err(BlockError::unsupported(&self.name, "an export keeps its size"))
    }

    fn name(&self) -> &str {
        &self.name
    }
}
