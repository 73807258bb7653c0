//! One client's requests, answered by a few threads that take turns at its socket.
//!
//! The thread that has the socket's turn reads one request, passes the turn on, and answers the request itself. So a
//! single request is answered by the thread that read it, without waking another on its way, and a slow one holds up
//! nobody as long as there are threads. Rejected: one reader that hands requests to a pool, which adds two wake-ups to
//! each of the small reads that a booting machine waits for.
//!
//! Answers come in any order, as the protocol allows; each is written whole. A failed request is answered with an
//! error; only what makes the stream unreadable ends the connection.

use std::{
    io,
    net::Shutdown,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Export, ServerLimits,
    server_handshake::{Agreed, BASE_ALLOCATION_ID},
    socket::{Reader, Stream},
    wire::{
        EXTENDED_REQUEST_BYTES, PAYLOAD_MAX, REQUEST_BYTES, ReplyHead, Request, STATE_HOLE, STATE_ZERO,
        Status, Style, chunk, command, encode_status, errno,
    },
};
use crate::{BlockError, BlockTarget, Extent, ExtentKind, extents, zero::is_zero};

/// Reads up to this are made at once, without asking first what is a hole.
const SMALL_READ_BYTES: u64 = 64 << 10;
/// Data are sent in pieces of this, so that large reads need little memory.
const PIECE_BYTES: u64 = 1 << 20;
/// What is looked at first when only one extent is wanted, so that a long range is not mapped each time.
const FIRST_LOOK_BYTES: u64 = 4 << 20;
/// CACHE is advice: no more is read for it.
const CACHE_BYTES_MAX: u64 = 32 << 20;

pub(super) struct Session {
    export: Export,
    style: Style,
    allocation: bool,
    stream: Arc<Stream>,
    reader: Mutex<Reader>,
    writing: Mutex<()>,
    ended: AtomicBool,
    threads: AtomicUsize,
    waiting: AtomicUsize,
    threads_max: usize,
    send_within: Duration,
}

/// Why a request fails, for the client.
struct Failure {
    number: u32,
    text: String,
}

impl Failure {
    fn new(number: u32, text: &str) -> Self {
        Self { number, text: text.to_owned() }
    }
}

impl From<BlockError> for Failure {
    fn from(error: BlockError) -> Self {
        let number = match &error {
            BlockError::OutOfRange { .. } => errno::EINVAL,
            BlockError::ReadOnly { .. } => errno::EPERM,
            BlockError::Unsupported { .. } => errno::ENOTSUP,
            BlockError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => errno::ENOSPC,
            _ => errno::EIO,
        };
        Self { number, text: error.to_string() }
    }
}

impl Session {
    pub(super) fn new(agreed: Agreed, stream: Arc<Stream>, reader: Reader, limits: ServerLimits) -> Self {
        Self {
            export: agreed.export,
            style: agreed.style,
            allocation: agreed.allocation,
            stream,
            reader: Mutex::new(reader),
            writing: Mutex::new(()),
            ended: AtomicBool::new(false),
            threads: AtomicUsize::new(1),
            waiting: AtomicUsize::new(0),
            threads_max: limits.workers,
            send_within: limits.send,
        }
    }

    /// Returns when the client is gone and all is answered.
    pub(super) fn serve(&self) {
        thread::scope(|scope| self.take_turns(scope));
    }

    fn take_turns<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        let mut buffer = Vec::new();
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = self.waiting.fetch_sub(1, Ordering::Relaxed) - 1;
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let request = self.next_request(&mut reader, &mut buffer);
            let Ok(Some(request)) = request else {
                self.ended.store(true, Ordering::Relaxed);
                return;
            };
            drop(reader);
            // Only who has the turn comes here between two requests, so that the count is right enough.
            if waiting == 0 && self.waiting.load(Ordering::Relaxed) == 0 {
                self.add_thread(scope);
            }
            if self.answer(&request, &mut buffer).is_err() {
                self.ended.store(true, Ordering::Relaxed);
                self.stream.shutdown(Shutdown::Both);
            }
            // One large write must not be kept in memory by every idle thread.
            if buffer.capacity() as u64 > 2 * PIECE_BYTES {
                buffer = Vec::new();
            }
        }
    }

    fn add_thread<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>) {
        if self.threads.fetch_add(1, Ordering::Relaxed) >= self.threads_max {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let worker = thread::Builder::new().name("nbd-work".into());
        if worker.spawn_scoped(scope, move || self.take_turns(scope)).is_err() {
            // Slower, and no worse.
            self.threads.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The next request, and its payload in `buffer`. None is the client's goodbye.
    fn next_request(&self, reader: &mut Reader, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let extended = self.style == Style::Extended;
        let mut head = [0; EXTENDED_REQUEST_BYTES];
        let head = &mut head[..if extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES }];
        reader.read(head, None)?;
        let request = Request::decode(head, extended).ok_or(io::ErrorKind::InvalidData)?;
        if request.command == command::DISCONNECT {
            return Ok(None);
        }
        let announced = extended && request.flags & command::FLAG_PAYLOAD_LEN != 0;
        if request.command == command::WRITE || announced {
            // A payload that is too long cannot be skipped for a small price.
            if request.length > u64::from(PAYLOAD_MAX) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            buffer.resize(request.length as usize, 0);
            reader.read(buffer, None)?;
        }
        Ok(Some(request))
    }

    fn answer(&self, request: &Request, buffer: &mut Vec<u8>) -> io::Result<()> {
        let result = match request.command {
            command::READ => self.read(request, buffer)?,
            command::BLOCK_STATUS => self.block_status(request)?,
            _ => match self.change(request, buffer) {
                Ok(()) => {
                    self.done(request)?;
                    Ok(())
                }
                Err(failure) => Err(failure),
            },
        };
        match result {
            Ok(()) => Ok(()),
            Err(failure) => self.fail(request, &failure),
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream.send(bytes, self.send_within)
    }

    fn done(&self, request: &Request) -> io::Result<()> {
        self.send(&match self.style {
            Style::Simple => ReplyHead::simple(0, request.cookie),
            style => ReplyHead::chunk(style, chunk::FLAG_DONE, chunk::NONE, request, 0),
        })
    }

    fn fail(&self, request: &Request, failure: &Failure) -> io::Result<()> {
        if self.style == Style::Simple {
            return self.send(&ReplyHead::simple(failure.number, request.cookie));
        }
        let text: String = failure.text.chars().take(400).collect();
        let length = (6 + text.len()) as u32;
        let mut bytes = ReplyHead::chunk(self.style, chunk::FLAG_DONE, chunk::ERROR, request, length);
        bytes.extend(failure.number.to_be_bytes());
        bytes.extend((text.len() as u16).to_be_bytes());
        bytes.extend(text.as_bytes());
        self.send(&bytes)
    }

    /// What is wrong with the request's range, if anything.
    fn check(&self, request: &Request) -> Result<(), Failure> {
        match request.offset.checked_add(request.length) {
            Some(end) if end <= self.export.source.size_bytes() => Ok(()),
            _ => Err(Failure::new(errno::EINVAL, "this is not inside the disk")),
        }
    }

    /// The outer error ends the connection, the inner one is the client's to know.
    fn read(&self, request: &Request, buffer: &mut Vec<u8>) -> io::Result<Result<(), Failure>> {
        if let Err(failure) = self.check(request) {
            return Ok(Err(failure));
        }
        if request.length > u64::from(PAYLOAD_MAX) {
            return Ok(Err(Failure::new(errno::EOVERFLOW, "this is too much at once")));
        }
        if self.style == Style::Simple {
            let head = ReplyHead::simple(0, request.cookie);
            return self.send_data(head, request.offset, request.length, buffer);
        }
        if request.length == 0 {
            return self.done(request).map(Ok);
        }
        let whole = request.flags & command::FLAG_DF != 0;
        if whole || request.length <= SMALL_READ_BYTES {
            return self.send_piece(
                request,
                Extent::data(request.offset, request.length),
                !whole,
                true,
                buffer,
            );
        }
        let mut map = extents(&*self.export.source, request.offset..request.offset + request.length);
        let end = request.offset + request.length;
        loop {
            let extent = match map.next() {
                Some(Ok(extent)) => extent,
                Some(Err(error)) => return Ok(Err(error.into())),
                None => return Ok(Err(Failure::new(errno::EIO, "the map ends too early"))),
            };
            let mut at = extent.offset;
            while at < extent.end() {
                let length = match extent.kind {
                    ExtentKind::Zero => extent.length,
                    ExtentKind::Data => (extent.end() - at).min(PIECE_BYTES),
                };
                let piece = Extent { offset: at, length, ..extent };
                at += length;
                if let Err(failure) = self.send_piece(request, piece, false, at == end, buffer)? {
                    return Ok(Err(failure));
                }
            }
            if at == end {
                return Ok(Ok(()));
            }
        }
    }

    /// One chunk: data, or a hole. With `look`, data that are all zero become a hole.
    fn send_piece(
        &self,
        request: &Request,
        piece: Extent,
        look: bool,
        last: bool,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Result<(), Failure>> {
        let flags = if last { chunk::FLAG_DONE } else { 0 };
        let head_bytes = ReplyHead::chunk(self.style, 0, 0, request, 0).len() + 8;
        if piece.kind == ExtentKind::Data {
            buffer.resize(head_bytes + piece.length as usize, 0);
            let data = &mut buffer[head_bytes..];
            if let Err(error) = self.export.source.read_at(data, piece.offset) {
                return Ok(Err(error.into()));
            }
            if !(look && is_zero(data)) {
                let length = piece.length as u32 + 8;
                let head = ReplyHead::chunk(self.style, flags, chunk::OFFSET_DATA, request, length);
                buffer[..head.len()].copy_from_slice(&head);
                buffer[head.len()..head_bytes].copy_from_slice(&piece.offset.to_be_bytes());
                return self.send(buffer).map(Ok);
            }
        }
        let mut hole = ReplyHead::chunk(self.style, flags, chunk::OFFSET_HOLE, request, 12);
        hole.extend(piece.offset.to_be_bytes());
        hole.extend((piece.length as u32).to_be_bytes());
        self.send(&hole).map(Ok)
    }

    fn send_data(
        &self,
        head: Vec<u8>,
        offset: u64,
        length: u64,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Result<(), Failure>> {
        let head_bytes = head.len();
        *buffer = head;
        buffer.resize(head_bytes + length as usize, 0);
        match self.export.source.read_at(&mut buffer[head_bytes..], offset) {
            Ok(()) => self.send(buffer).map(Ok),
            Err(error) => Ok(Err(error.into())),
        }
    }

    fn block_status(&self, request: &Request) -> io::Result<Result<(), Failure>> {
        let found = if self.allocation && request.length > 0 {
            self.check(request).and_then(|()| self.statuses(request))
        } else {
            Err(Failure::new(errno::EINVAL, "base:allocation was not agreed on"))
        };
        let list = match found {
            Ok(list) => list,
            Err(failure) => return Ok(Err(failure)),
        };
        let kind = if self.style == Style::Extended { chunk::BLOCK_STATUS_EXT } else { chunk::BLOCK_STATUS };
        let body = encode_status(self.style, BASE_ALLOCATION_ID, &list);
        let mut bytes = ReplyHead::chunk(self.style, chunk::FLAG_DONE, kind, request, body.len() as u32);
        bytes.extend(body);
        self.send(&bytes).map(Ok)
    }

    fn statuses(&self, request: &Request) -> Result<Vec<Status>, Failure> {
        let range = request.offset..request.offset + request.length;
        let found = if request.flags & command::FLAG_REQ_ONE == 0 {
            self.export.source.extents(range)?
        } else {
            let mut look = FIRST_LOOK_BYTES;
            loop {
                let end = range.start.saturating_add(look).min(range.end);
                let found = self.export.source.extents(range.start..end)?;
                // One extent that goes to the end of what was looked at may go on behind it.
                if end == range.end || found.first().is_none_or(|first| first.end() < end) {
                    break found.into_iter().take(1).collect();
                }
                look = look.saturating_mul(8);
            }
        };
        Ok(found
            .into_iter()
            .map(|extent| Status {
                length: extent.length,
                flags: if extent.kind == ExtentKind::Zero { STATE_HOLE | STATE_ZERO } else { 0 },
            })
            .collect())
    }

    fn target(&self) -> Result<&dyn BlockTarget, Failure> {
        self.export.target.as_deref().ok_or_else(|| Failure::new(errno::EPERM, "this export is read-only"))
    }

    /// All that is answered with done or an error.
    fn change(&self, request: &Request, payload: &mut Vec<u8>) -> Result<(), Failure> {
        let range = request.offset..request.offset.saturating_add(request.length);
        match request.command {
            command::FLUSH => {
                return match &self.export.target {
                    Some(target) => Ok(target.flush()?),
                    None => Ok(()),
                };
            }
            command::CACHE => {
                self.check(request)?;
                return self.warm(request, payload);
            }
            command::WRITE => {
                let target = self.target()?;
                self.check(request)?;
                target.write_at(payload, request.offset)?;
            }
            command::TRIM => {
                let target = self.target()?;
                self.check(request)?;
                target.write_zeroes(range)?;
            }
            command::WRITE_ZEROES => {
                let target = self.target()?;
                self.check(request)?;
                if request.flags & command::FLAG_NO_HOLE == 0 {
                    target.write_zeroes(range)?;
                } else {
                    fill(target, request, payload)?;
                }
            }
            _ => return Err(Failure::new(errno::EINVAL, "this is no request that is known here")),
        }
        if request.flags & command::FLAG_FUA != 0 {
            self.target()?.flush()?;
        }
        Ok(())
    }

    /// Reads so that a cache below may keep it. It is advice: errors come when the data are really wanted.
    fn warm(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let end = request.offset + request.length.min(CACHE_BYTES_MAX);
        let mut at = request.offset;
        while at < end {
            let piece = (end - at).min(PIECE_BYTES);
            buffer.resize(piece as usize, 0);
            self.export.source.read_at(buffer, at)?;
            at += piece;
        }
        Ok(())
    }
}

/// Zeroes that have their room on the disk, as they were asked for.
fn fill(target: &dyn BlockTarget, request: &Request, buffer: &mut Vec<u8>) -> Result<(), Failure> {
    buffer.clear();
    buffer.resize(request.length.min(PIECE_BYTES) as usize, 0);
    let (mut at, end) = (request.offset, request.offset + request.length);
    while at < end {
        let piece = (end - at).min(PIECE_BYTES);
        target.write_at(&buffer[..piece as usize], at)?;
        at += piece;
    }
    Ok(())
}
