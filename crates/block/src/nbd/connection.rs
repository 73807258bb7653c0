//! One connection to a server, used by several threads at once.
//!
//! Whoever waits for an answer while nobody reads the socket reads it: for itself until its own answer is complete,
//! and what it finds for others it hands to them. So a lone reader waits for one thing only, the socket, and there is
//! no thread that must be woken in between. A connection that broke the protocol, or was silent for too long, is dead
//! for good: after that no byte of it can be trusted to belong to what was asked.
//!
//! Locks: `state` is never held while the socket is used; `writing` is held while a request is written, `reader` by the
//! one that reads.

use std::{
    collections::HashMap,
    io,
    net::Shutdown,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    NbdUri,
    client_handshake::{Agreed, Handshake, Wanted},
    socket::{Reader, Stream},
    wire::{Fields, ReplyHead, Request, STATUS_BYTES_MAX, Status, chunk, command, decode_status, errno},
};
use crate::{BlockError, ExtentSet};

/// The longest error text that is taken.
const ERROR_BYTES_MAX: u64 = 64 << 10;

pub(super) struct Connection {
    name: String,
    stream: Arc<Stream>,
    reader: Mutex<Reader>,
    writing: Mutex<()>,
    state: Mutex<State>,
    timeout: Duration,
    agreed: Agreed,
}

#[derive(Default)]
struct State {
    next_cookie: u64,
    pending: HashMap<u64, Pending>,
    /// Someone reads the socket.
    reading: bool,
    dead: Option<Arc<Death>>,
}

impl State {
    fn set_waiting(&mut self, cookie: u64, waiting: bool) {
        if let Some(pending) = self.pending.get_mut(&cookie) {
            pending.waiting = waiting;
        }
    }
}

/// Why the connection cannot be used any more.
#[derive(Debug)]
pub(super) enum Death {
    Protocol(String),
    Lost(String),
    Silent(&'static str),
}

struct Pending {
    request: Request,
    answer: Reply,
    /// Which of the data's bytes are there.
    there: ExtentSet,
    done: bool,
    /// Its thread waits for `wake`. One that still sends its request cannot be woken to read, and if it were chosen,
    /// nobody would read, the server could not send, and so would take nothing either.
    waiting: bool,
    wake: Arc<Condvar>,
}

/// All chunks of an answer together.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) data: Vec<u8>,
    pub(super) statuses: Vec<(u32, Vec<Status>)>,
    error: Option<(u32, String)>,
}

impl Connection {
    pub(super) fn open(
        name: &str,
        uri: &NbdUri,
        context: Option<&str>,
        extended_headers: bool,
        timeout: Duration,
    ) -> Result<Self, BlockError> {
        let lost = |e: io::Error| BlockError::io(name, "connect", 0, e);
        let stream = Stream::connect(&uri.address, timeout).map_err(lost)?;
        let wanted = Wanted { name, export: &uri.export, context, extended_headers };
        Self::over(stream, wanted, timeout)
    }

    /// Agrees with the server at the other end of `stream`.
    pub(super) fn over(stream: Stream, wanted: Wanted<'_>, timeout: Duration) -> Result<Self, BlockError> {
        let name = wanted.name;
        let lost = |e: io::Error| BlockError::io(name, "connect", 0, e);
        let stream = Arc::new(stream);
        stream
            .set_read_timeout(Some(timeout))
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .map_err(lost)?;
        let mut reader = Reader::new(Arc::clone(&stream));
        let deadline = Instant::now() + timeout;
        let agreed = Handshake { reader: &mut reader, stream: &stream, deadline, wanted }.agree()?;
        Ok(Self::agreed_on(name, stream, reader, agreed, timeout))
    }

    pub(super) fn agreed_on(
        name: &str,
        stream: Arc<Stream>,
        reader: Reader,
        agreed: Agreed,
        timeout: Duration,
    ) -> Self {
        Self {
            name: name.to_owned(),
            stream,
            reader: Mutex::new(reader),
            writing: Mutex::new(()),
            state: Mutex::default(),
            timeout,
            agreed,
        }
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks and waits for the whole answer. For a read, the answer has exactly the bytes that were asked for.
    pub(super) fn call(
        &self,
        command: u16,
        flags: u16,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Result<Reply, BlockError> {
        let action = action(command);
        let deadline = Instant::now() + self.timeout;
        let wake = Arc::new(Condvar::new());
        let request = {
            let mut state = self.state();
            if let Some(death) = &state.dead {
                return Err(self.error(death));
            }
            state.next_cookie += 1;
            let request = Request { flags, command, cookie: state.next_cookie, offset, length };
            let size = if command == command::READ { length as usize } else { 0 };
            let answer = Reply { data: vec![0; size], ..Reply::default() };
            let pending = Pending {
                request,
                answer,
                there: ExtentSet::new(),
                done: false,
                waiting: false,
                wake: Arc::clone(&wake),
            };
            state.pending.insert(request.cookie, pending);
            request
        };
        if let Err(error) = self.send(&request, payload) {
            self.kill(Death::Lost(error.to_string()));
        }
        self.wait(request.cookie, &wake, deadline, action)?;
        let pending = self.state().pending.remove(&request.cookie);
        let Some(Pending { answer, .. }) = pending else {
            return Err(BlockError::Protocol { name: self.name.clone(), what: "an answer was lost".into() });
        };
        match answer.error {
            None => Ok(answer),
            Some((_, what)) => Err(BlockError::Refused { name: self.name.clone(), action, offset, what }),
        }
    }

    fn send(&self, request: &Request, payload: &[u8]) -> io::Result<()> {
        let extended = self.agreed.style == super::wire::Style::Extended;
        let mut bytes = request.encode(extended).ok_or(io::ErrorKind::InvalidInput)?;
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if payload.len() < 16 << 10 {
            bytes.extend(payload);
            return self.stream.send(&bytes, self.timeout);
        }
        self.stream.send(&bytes, self.timeout)?;
        self.stream.send(payload, self.timeout)
    }

    /// Until the answer is complete: reading the socket, or waiting for who reads it.
    fn wait(
        &self,
        cookie: u64,
        wake: &Condvar,
        deadline: Instant,
        action: &'static str,
    ) -> Result<(), BlockError> {
        let mut state = self.state();
        loop {
            if state.pending.get(&cookie).is_none_or(|pending| pending.done) {
                return Ok(());
            }
            if let Some(death) = state.dead.clone() {
                state.pending.remove(&cookie);
                return Err(self.error(&death));
            }
            let now = Instant::now();
            if now >= deadline {
                drop(state);
                self.kill(Death::Silent(action));
                state = self.state();
            } else if state.reading {
                state.set_waiting(cookie, true);
                state = wake.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
                state.set_waiting(cookie, false);
            } else {
                state.reading = true;
                drop(state);
                let result = self.read_until(cookie, deadline);
                if let Err(death) = result {
                    self.kill(death);
                }
                state = self.state();
                state.reading = false;
                // The socket needs another reader, if someone still waits.
                if let Some(other) = state.pending.values().find(|pending| pending.waiting && !pending.done) {
                    other.wake.notify_one();
                }
            }
        }
    }

    /// Reads chunks until the answer to `cookie` is complete, or it is too late.
    fn read_until(&self, cookie: u64, deadline: Instant) -> Result<(), Death> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.read_chunk(&mut reader)? == Some(cookie) || Instant::now() >= deadline {
                return Ok(());
            }
        }
    }

    /// One chunk, or a simple answer. Whose answer is complete with it, if one is.
    fn read_chunk(&self, reader: &mut Reader) -> Result<Option<u64>, Death> {
        let deadline = Some(Instant::now() + self.timeout);
        let style = self.agreed.style;
        let mut head = [0; super::wire::EXTENDED_REPLY_BYTES];
        let lost = |e: io::Error| match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Death::Silent("to answer"),
            _ => Death::Lost(e.to_string()),
        };
        let (magic, rest) = head.split_at_mut(4);
        reader.read(magic, deadline).map_err(lost)?;
        let length = Fields(magic).u32().and_then(|magic| ReplyHead::bytes(magic, style));
        let length = length.ok_or_else(|| Death::Protocol("an answer that is none".into()))?;
        reader.read(&mut rest[..length - 4], deadline).map_err(lost)?;
        let head = ReplyHead::decode(&head[..length], style)
            .ok_or_else(|| Death::Protocol("an answer that is none".into()))?;
        let cookie = match head {
            ReplyHead::Simple { cookie, .. } | ReplyHead::Chunk { cookie, .. } => cookie,
        };
        // Taken out, so that data are read into their place without holding the lock.
        let unknown = || Death::Protocol(format!("an answer to request {cookie}, which was not asked"));
        let (request, mut answer, mut there) = {
            let mut state = self.state();
            let pending = state.pending.get_mut(&cookie).filter(|p| !p.done).ok_or_else(unknown)?;
            (pending.request, std::mem::take(&mut pending.answer), std::mem::take(&mut pending.there))
        };
        let done = Incoming { request: &request, answer: &mut answer, there: &mut there }.take(
            head,
            style,
            |bytes| reader.read(bytes, deadline).map_err(lost),
        )?;
        let mut state = self.state();
        let Some(pending) = state.pending.get_mut(&cookie) else { return Ok(None) };
        (pending.answer, pending.there, pending.done) = (answer, there, done);
        if done {
            pending.wake.notify_one();
        }
        Ok(done.then_some(cookie))
    }

    fn kill(&self, death: Death) {
        self.stream.shutdown(Shutdown::Both);
        let mut state = self.state();
        state.dead.get_or_insert_with(|| Arc::new(death));
        for pending in state.pending.values() {
            pending.wake.notify_one();
        }
    }

    fn error(&self, death: &Death) -> BlockError {
        let name = self.name.clone();
        match death {
            Death::Protocol(what) => BlockError::Protocol { name, what: what.clone() },
            Death::Lost(what) => BlockError::Disconnected { name, what: what.clone() },
            Death::Silent(action) => BlockError::TimedOut { name, action, after: self.timeout },
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let goodbye = Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, length: 0 };
        // It may be dead already.
        let _ = self.send(&goodbye, b"");
        self.stream.shutdown(Shutdown::Both);
    }
}

/// An answer that is being put together.
pub(super) struct Incoming<'a> {
    pub(super) request: &'a Request,
    pub(super) answer: &'a mut Reply,
    pub(super) there: &'a mut ExtentSet,
}

impl Incoming<'_> {
    /// Takes one chunk; whether it was the last. Every length is checked before it is used.
    pub(super) fn take(
        &mut self,
        head: ReplyHead,
        style: super::wire::Style,
        mut read: impl FnMut(&mut [u8]) -> Result<(), Death>,
    ) -> Result<bool, Death> {
        let bad = |what: &str| Death::Protocol(what.to_owned());
        let (flags, kind, length) = match head {
            ReplyHead::Simple { error: 0, .. } if self.request.command == command::READ => {
                if style != super::wire::Style::Simple {
                    return Err(bad("a simple answer to a read"));
                }
                read(&mut self.answer.data)?;
                self.there.insert(0..self.request.length);
                return Ok(true);
            }
            ReplyHead::Simple { error: 0, .. } if self.request.command == command::BLOCK_STATUS => {
                return Err(bad("a simple answer to a question about extents"));
            }
            ReplyHead::Simple { error, .. } => {
                if error != 0 {
                    self.answer.error = Some((error, errno::text(error)));
                }
                return Ok(true);
            }
            ReplyHead::Chunk { flags, kind, length, .. } => (flags, kind, length),
        };
        match kind {
            chunk::NONE if length == 0 => {}
            chunk::OFFSET_DATA if length > 8 => {
                let place = self.place(&mut read, length - 8)?;
                read(&mut self.answer.data[place])?;
            }
            chunk::OFFSET_HOLE if length == 12 => self.hole(&mut read)?,
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT
                if length <= STATUS_BYTES_MAX && self.request.command == command::BLOCK_STATUS =>
            {
                let mut body = vec![0; length as usize];
                read(&mut body)?;
                let status =
                    decode_status(kind, &body).ok_or_else(|| bad("a list of extents that is none"))?;
                if self.answer.statuses.len() >= 4 {
                    return Err(bad("more lists of extents than contexts"));
                }
                self.answer.statuses.push(status);
            }
            kind if kind & chunk::IS_ERROR != 0 && (6..=ERROR_BYTES_MAX).contains(&length) => {
                let mut body = vec![0; length as usize];
                read(&mut body)?;
                self.answer.error.get_or_insert(error_of(&body));
            }
            _ => return Err(Death::Protocol(format!("a chunk of kind {kind} with {length} bytes"))),
        }
        let done = flags & chunk::FLAG_DONE != 0;
        let whole = self.request.command != command::READ || self.there.bytes() == self.request.length;
        if done && !whole && self.answer.error.is_none() {
            return Err(bad("an answer to a read that lacks bytes"));
        }
        Ok(done)
    }

    /// Where in the buffer `length` bytes go, from the offset that comes first in a chunk. None twice.
    fn place(
        &mut self,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), Death>,
        length: u64,
    ) -> Result<std::ops::Range<usize>, Death> {
        let mut offset = [0; 8];
        read(&mut offset)?;
        self.claim(u64::from_be_bytes(offset), length)
    }

    fn hole(&mut self, read: &mut impl FnMut(&mut [u8]) -> Result<(), Death>) -> Result<(), Death> {
        let mut body = [0; 12];
        read(&mut body)?;
        let mut fields = Fields(&body);
        let (offset, length) = (fields.u64().unwrap_or_default(), fields.u32().unwrap_or_default());
        // The buffer is zero from the start.
        self.claim(offset, length.into()).map(|_| ())
    }

    fn claim(&mut self, offset: u64, length: u64) -> Result<std::ops::Range<usize>, Death> {
        let start = offset.checked_sub(self.request.offset);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let is_read = self.request.command == command::READ;
        match range.filter(|range| is_read && length > 0 && range.end <= self.request.length) {
            Some(range) if !self.there.touches(range.clone()) => {
                self.there.insert(range.clone());
                Ok(range.start as usize..range.end as usize)
            }
            _ => Err(Death::Protocol(format!("{length} bytes at byte {offset}, which were not asked for"))),
        }
    }
}

fn error_of(body: &[u8]) -> (u32, String) {
    let mut fields = Fields(body);
    let number = fields.u32().unwrap_or(errno::EIO);
    let length = fields.u16().unwrap_or_default().into();
    let text = fields.bytes(length).unwrap_or_default();
    let text: String = String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(400).collect();
    (number, if text.is_empty() { errno::text(number) } else { format!("{text} ({})", errno::text(number)) })
}

fn action(command: u16) -> &'static str {
    match command {
        command::READ => "to read",
        command::WRITE => "to write",
        command::FLUSH => "to flush",
        command::WRITE_ZEROES => "to write zeroes",
        command::BLOCK_STATUS => "to tell extents",
        _ => "to do something",
    }
}
