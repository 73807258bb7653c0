//! Both ends of the protocol, with a peer that says anything: what their fuzz targets drive.
//!
//! The first byte says where the conversation begins: with the greeting, or after it, as if that had been agreed on. So
//! what lies behind the handshake is reached without first guessing the handshake right.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    Export, NbdClient, ServerLimits, client_handshake,
    client_handshake::Wanted,
    connection::{Connection, Incoming, Reply},
    server_handshake,
    server_handshake::negotiate,
    session::Session,
    socket::{Reader, Stream},
    wire::{
        self, Fields, OptionHead, OptionReplyHead, PAYLOAD_MAX, ReplyHead, Request, SHORT_LENGTH_MAX, Status,
        Style, chunk, command, flag, option,
    },
};
use crate::{BlockSource, BlockTarget, Extent, ExtentSet, MemoryDisk};

/// More than the server reads without asking what is a hole first.
const DISK_BYTES: u64 = (96 << 10) + 512;
/// What a peer says must fit into the socket's buffer, so that it needs no thread.
const SAID_BYTES_MAX: usize = 16 << 10;
/// Nothing waits as long: a peer that has said all is gone.
const LIMIT: Duration = Duration::from_secs(8);
const EXPORT: &str = "disk";
const BITMAP: &str = "qemu:dirty-bitmap:b";
const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

/// What the first byte says.
#[derive(Clone, Copy)]
struct Mode {
    /// None: from the greeting on.
    style: Option<Style>,
    /// Read-only, or blocks of 512 bytes only.
    strict: bool,
}

impl Mode {
    fn of(byte: u8) -> Self {
        Self { style: STYLES.get(usize::from(byte & 3).wrapping_sub(1)).copied(), strict: byte & 4 != 0 }
    }

    fn byte(self) -> u8 {
        let style = self.style.and_then(|style| STYLES.iter().position(|known| *known == style));
        style.map_or(0, |at| at as u8 + 1) | u8::from(self.strict) << 2
    }
}

fn disk() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(EXPORT, DISK_BYTES);
    for offset in [0, 70_000] {
        disk.write_at(&[7; 5000], offset).expect("data");
    }
    Arc::new(disk)
}

/// A stream whose peer has said all this, and hears whatever is answered until it is dropped.
fn stream_of(said: &[u8]) -> (Stream, UnixStream) {
    let (ours, mut theirs) = UnixStream::pair().expect("sockets");
    ours.set_read_timeout(Some(LIMIT)).expect("a timeout");
    ours.set_write_timeout(Some(LIMIT)).expect("a timeout");
    theirs.write_all(&said[..said.len().min(SAID_BYTES_MAX)]).expect("it fits into the buffer");
    theirs.shutdown(Shutdown::Write).expect("shut");
    (Stream::Unix(ours), theirs)
}

/// Messages, one by one: what is decoded is encoded to the same bytes.
pub fn nbd_wire(bytes: &[u8]) -> bool {
    let requests = [false, true].into_iter().filter_map(|extended| {
        let request = Request::decode(bytes, extended)?;
        Some(bytes.starts_with(&request.encode(extended).expect("what was read")))
    });
    let replies = STYLES.into_iter().filter_map(|style| {
        let again = match ReplyHead::decode(bytes, style)? {
            ReplyHead::Simple { error, cookie } => ReplyHead::simple(error, cookie),
            ReplyHead::Chunk { flags, kind, cookie, length } => {
                // The offset is the client's to know, and not given out.
                let offset = bytes.get(16..24)?.try_into().map_or(0, u64::from_be_bytes);
                let request = Request { flags: 0, command: 0, cookie, offset, length: 0 };
                ReplyHead::chunk(style, flags, kind, &request, u32::try_from(length).ok()?)
            }
        };
        Some(bytes == again)
    });
    let heads = [
        bytes.first_chunk().and_then(OptionHead::decode).map(|head| {
            let again = wire::option_request(head.option, &[]);
            bytes[..12] == again[..12]
        }),
        bytes.first_chunk().and_then(OptionReplyHead::decode).map(|head| {
            let again = wire::option_reply(head.option, head.kind, &[]);
            bytes[..16] == again[..16]
        }),
    ];
    let bodies = [
        wire::go_body(bytes).map(|(name, wanted)| bytes == go_body(name, &wanted)),
        wire::meta_context_body(bytes).map(|(name, queries)| bytes == context_body(name, &queries)),
    ];
    let lists = [(chunk::BLOCK_STATUS, Style::Structured), (chunk::BLOCK_STATUS_EXT, Style::Extended)]
        .into_iter()
        .filter_map(|(kind, style)| {
            let (context, list) = wire::decode_status(kind, bytes)?;
            assert!(list.iter().all(|status| status.length > 0));
            assert!(list.len() * size_of::<u64>() <= bytes.len());
            let fits =
                style == Style::Extended || list.iter().all(|status| status.length <= SHORT_LENGTH_MAX);
            Some(!fits || bytes == wire::encode_status(style, context, &list))
        });
    let same: Vec<bool> =
        requests.chain(replies).chain(heads.into_iter().chain(bodies).flatten()).chain(lists).collect();
    assert!(same.iter().all(|same| *same), "it is written otherwise than it was read");
    !same.is_empty()
}

fn go_body(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut body = Vec::new();
    wire::put_text(&mut body, name);
    body.extend((wanted.len() as u16).to_be_bytes());
    body.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    body
}

fn context_body(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    wire::put_text(&mut body, name);
    body.extend((queries.len() as u32).to_be_bytes());
    for query in queries {
        wire::put_text(&mut body, query);
    }
    body
}

pub fn nbd_wire_seeds() -> Vec<Vec<u8>> {
    let request = Request { flags: 1, command: command::READ, cookie: 7, offset: 4096, length: 512 };
    let list = [Status { length: 4096, flags: 3 }, Status { length: 512, flags: 0 }];
    let mut seeds: Vec<Vec<u8>> =
        [false, true].into_iter().filter_map(|extended| request.encode(extended)).collect();
    seeds.extend([
        ReplyHead::simple(5, 7),
        ReplyHead::chunk(Style::Structured, chunk::FLAG_DONE, chunk::OFFSET_DATA, &request, 520),
        ReplyHead::chunk(Style::Extended, chunk::FLAG_DONE, chunk::OFFSET_DATA, &request, 520),
        wire::option_request(option::GO, b""),
        wire::option_reply(option::GO, wire::rep::ACK, b""),
        go_body(EXPORT, &[3]),
        context_body(EXPORT, &[wire::BASE_ALLOCATION]),
        wire::encode_status(Style::Structured, 1, &list),
        wire::encode_status(Style::Extended, 1, &list),
    ]);
    seeds
}

/// The server, with a client that says anything. What it answers, our own client must take: one whole answer to each
/// request, in order, and nothing else. Whether the conversation came to an answer.
pub fn nbd_server(bytes: &[u8]) -> bool {
    let Some((mode, said)) = bytes.split_first() else { return false };
    let mode = Mode::of(*mode);
    let answers = answers(mode, said);
    match mode.style {
        None => answers.len() > 18,
        Some(style) => {
            let mut rest = &answers[..];
            let requests = requests(said, style == Style::Extended);
            for request in &requests {
                rest = take_answer(request, style, rest);
            }
            assert!(rest.is_empty(), "{} bytes that answer nothing", rest.len());
            !requests.is_empty()
        }
    }
}

fn answers(mode: Mode, said: &[u8]) -> Vec<u8> {
    let (stream, mut theirs) = stream_of(said);
    let listener = thread::spawn(move || {
        let mut heard = Vec::new();
        theirs.read_to_end(&mut heard).expect("all that is said");
        heard
    });
    let disk = disk();
    let export = if mode.strict { Export::read_only(EXPORT, disk) } else { Export::writable(EXPORT, disk) };
    let stream = Arc::new(stream);
    let mut reader = Reader::new(Arc::clone(&stream));
    let agreed = match mode.style {
        // Contexts are only agreed on by who takes structured answers.
        Some(style) => {
            Ok(Some(server_handshake::Agreed { export, style, allocation: style != Style::Simple }))
        }
        None => negotiate(&mut reader, &stream, &[export], Instant::now() + LIMIT),
    };
    if let Ok(Some(agreed)) = agreed {
        // One thread, so that answers come in the order of the requests.
        let limits = ServerLimits { workers: 1, send: LIMIT, ..ServerLimits::default() };
        Session::new(agreed, Arc::clone(&stream), reader, limits).serve();
    }
    stream.shutdown(Shutdown::Both);
    listener.join().expect("the listener")
}

/// The requests that a server must answer, read once more in the simplest way.
fn requests(said: &[u8], extended: bool) -> Vec<Request> {
    let mut rest = Fields(&said[..said.len().min(SAID_BYTES_MAX)]);
    let mut found = Vec::new();
    let head_bytes = if extended { wire::EXTENDED_REQUEST_BYTES } else { wire::REQUEST_BYTES };
    while let Some(request) = rest.bytes(head_bytes).and_then(|head| Request::decode(head, extended)) {
        let announced = extended && request.flags & command::FLAG_PAYLOAD_LEN != 0;
        let ends = request.command == command::DISCONNECT;
        let has_payload = request.command == command::WRITE || announced;
        if ends || has_payload && rest.bytes(request.length as usize).is_none() {
            break;
        }
        found.push(request);
    }
    found
}

/// Takes one answer from the front, as the client does.
fn take_answer<'a>(request: &Request, style: Style, answers: &'a [u8]) -> &'a [u8] {
    let mut rest = Fields(answers);
    let is_read = request.command == command::READ && request.length <= u64::from(PAYLOAD_MAX);
    let mut answer = Reply::default();
    answer.data.resize(if is_read { request.length as usize } else { 0 }, 0);
    let mut there = ExtentSet::new();
    loop {
        let magic = Fields(rest.0).u32().expect("an answer to each request");
        let length = ReplyHead::bytes(magic, style).expect("the head of an answer");
        let head = rest.bytes(length).and_then(|head| ReplyHead::decode(head, style)).expect("a whole head");
        let (ReplyHead::Simple { cookie, .. } | ReplyHead::Chunk { cookie, .. }) = head;
        assert_eq!(cookie, request.cookie);
        let is_done = Incoming { request, answer: &mut answer, there: &mut there }
            .take(head, style, |out| {
                out.copy_from_slice(rest.bytes(out.len()).expect("as much as was announced"));
                Ok(())
            })
            .expect("what our own client takes");
        if is_done {
            return rest.0;
        }
    }
}

/// All that a client may say after the handshake.
fn said_after(style: Style) -> Vec<u8> {
    let extended = style == Style::Extended;
    let mut said = Vec::new();
    let mut say = |command, flags, offset, length, payload: &[u8]| {
        let cookie = said.len() as u64;
        let flags = if extended && !payload.is_empty() { flags | command::FLAG_PAYLOAD_LEN } else { flags };
        said.extend(Request { flags, command, cookie, offset, length }.encode(extended).unwrap_or_default());
        said.extend(payload);
    };
    say(command::READ, 0, 0, 512, b"");
    say(command::READ, 0, 0, DISK_BYTES, b"");
    say(command::READ, command::FLAG_DF, 60_000, 20_000, b"");
    say(command::READ, 0, DISK_BYTES, 1, b"");
    say(command::BLOCK_STATUS, 0, 0, DISK_BYTES, b"");
    say(command::BLOCK_STATUS, command::FLAG_REQ_ONE, 4096, 65_536, b"");
    say(command::WRITE, command::FLAG_FUA, 512, 8, b"12345678");
    say(command::WRITE_ZEROES, 0, 0, 4096, b"");
    say(command::WRITE_ZEROES, command::FLAG_NO_HOLE, 8192, 4096, b"");
    say(command::TRIM, 0, 0, DISK_BYTES, b"");
    say(command::CACHE, 0, 0, 4096, b"");
    say(command::FLUSH, 0, 0, 0, b"");
    say(command::DISCONNECT, 0, 0, 0, b"");
    said
}

/// A handshake as our client and others do it, up to the export.
fn said_before(style: Style) -> Vec<u8> {
    let mut said = 3_u32.to_be_bytes().to_vec();
    match style {
        Style::Simple => {}
        Style::Structured => said.extend(wire::option_request(option::STRUCTURED_REPLY, b"")),
        Style::Extended => said.extend(wire::option_request(option::EXTENDED_HEADERS, b"")),
    }
    if style == Style::Simple {
        said.extend(wire::option_request(option::LIST, b""));
        said.extend(wire::option_request(option::EXPORT_NAME, EXPORT.as_bytes()));
    } else {
        let contexts = context_body(EXPORT, &[wire::BASE_ALLOCATION]);
        said.extend(wire::option_request(option::SET_META_CONTEXT, &contexts));
        said.extend(wire::option_request(option::GO, &go_body(EXPORT, &[wire::info::BLOCK_SIZE])));
    }
    said
}

fn modes() -> impl Iterator<Item = Mode> {
    let styles = STYLES.into_iter().flat_map(|style| [Some(style), None]);
    styles.flat_map(|style| [false, true].map(|strict| Mode { style, strict }))
}

pub fn nbd_server_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for style in STYLES {
        for mode in modes().filter(|mode| mode.style.is_none_or(|known| known == style)) {
            let before = if mode.style.is_none() { said_before(style) } else { Vec::new() };
            seeds.push([&[mode.byte()], &before[..], &said_after(style)].concat());
        }
    }
    seeds
}

/// The client, with a server that says anything. Whether it was agreed on something.
pub fn nbd_client(bytes: &[u8]) -> bool {
    let Some((mode, said)) = bytes.split_first() else { return false };
    let mode = Mode::of(*mode);
    let (stream, theirs) = stream_of(said);
    let connection = match mode.style {
        None => {
            let wanted = Wanted {
                name: EXPORT,
                export: EXPORT,
                context: mode.strict.then_some(BITMAP),
                extended_headers: true,
            };
            Connection::over(stream, wanted, LIMIT)
        }
        Some(style) => {
            let stream = Arc::new(stream);
            let reader = Reader::new(Arc::clone(&stream));
            Ok(Connection::agreed_on(EXPORT, stream, reader, agreed(style, mode.strict), LIMIT))
        }
    };
    let Ok(connection) = connection else { return false };
    let agreed = connection.agreed().clone();
    assert!(i64::try_from(agreed.size_bytes).is_ok());
    assert!(
        agreed.minimum_bytes.is_power_of_two() && agreed.maximum_bytes.is_multiple_of(agreed.minimum_bytes)
    );
    ask(&NbdClient::over(EXPORT.to_owned(), vec![connection], agreed));
    // The peer hears to the end: a client that cannot send any more learns nothing of what was said.
    drop(theirs);
    true
}

fn agreed(style: Style, strict: bool) -> client_handshake::Agreed {
    client_handshake::Agreed {
        size_bytes: DISK_BYTES,
        flags: flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_WRITE_ZEROES,
        style,
        minimum_bytes: if strict { 512 } else { 1 },
        maximum_bytes: 32 << 10,
        allocation: (style != Style::Simple).then_some(1),
        dirty: (style != Style::Simple).then_some(2),
    }
}

/// Everything that a client can be asked. What it says must have a sense, whatever the server's answers have.
fn ask(client: &NbdClient) {
    let size = BlockSource::size_bytes(client);
    let range = 1.min(size)..size.min(1 << 30);
    let length = (range.end - range.start).min(600) as usize;
    let mut buf = vec![0; length];
    let _ = client.read_at(&mut buf, range.start);
    assert!(client.read_at(&mut [0; 2], size - 1.min(size)).is_err(), "behind the end");
    if let Ok(found) = client.extents(range.clone()) {
        assert_map(&found, range.start, range.end);
    }
    if let Ok(found) = client.dirty_extents(range.clone()) {
        let as_map: Vec<Extent> = found
            .iter()
            .map(|found| match found.dirty {
                true => Extent::data(found.offset, found.length),
                false => Extent::zero(found.offset, found.length),
            })
            .collect();
        assert_map(&as_map, range.start, range.end);
    }
    let _ = client.write_at(&buf, 0);
    let _ = client.write_zeroes(0..size.min(4096));
    let _ = client.flush();
}

/// In order from the start, without gap or overlap, neighbours of different kinds, not behind the end, and some.
fn assert_map(found: &[Extent], start: u64, end: u64) {
    let mut at = start;
    for extent in found {
        assert!(extent.offset == at && extent.length > 0 && extent.end() <= end, "{found:?}");
        at = extent.end();
    }
    assert!(found.windows(2).all(|two| two[0].kind != two[1].kind), "{found:?}");
    assert!(start == end || !found.is_empty());
}

/// What our own server answers to what the client asks in [`ask`].
pub fn nbd_client_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for style in STYLES {
        for mode in [Some(style), None].map(|style| Mode { style, strict: false }) {
            let before = if mode.style.is_none() { greeted_as(style) } else { Vec::new() };
            let said = [before, asked(style, mode.style.is_some())].concat();
            seeds.push([&[mode.byte()], &answers(mode, &said)[..]].concat());
        }
    }
    seeds
}

/// What the client says until it knows the export, when the server has what belongs to `style` and nothing newer.
fn greeted_as(style: Style) -> Vec<u8> {
    let mut said = 3_u32.to_be_bytes().to_vec();
    for (newer, option) in
        [(Style::Extended, option::EXTENDED_HEADERS), (Style::Structured, option::STRUCTURED_REPLY)]
    {
        // With a body that does not belong there it is refused.
        let body: &[u8] = if style == newer { b"" } else { b"x" };
        said.extend(wire::option_request(option, body));
        if style == newer {
            let contexts = context_body(EXPORT, &[wire::BASE_ALLOCATION]);
            said.extend(wire::option_request(option::SET_META_CONTEXT, &contexts));
            break;
        }
    }
    said.extend(wire::option_request(option::GO, &go_body(EXPORT, &[wire::info::BLOCK_SIZE])));
    said
}

/// The requests of [`ask`], numbered as the client does.
fn asked(style: Style, has_bitmap: bool) -> Vec<u8> {
    let (mut asked, mut cookie) = (Vec::new(), 0);
    let mut ask = |command, offset, length, payload: &[u8]| {
        cookie += 1;
        let request = Request { flags: 0, command, cookie, offset, length };
        asked.extend(request.encode(style == Style::Extended).unwrap_or_default());
        asked.extend(payload);
    };
    ask(command::READ, 1, 600, b"");
    let contexts = if style == Style::Simple { 0 } else { 1 + u8::from(has_bitmap) };
    for _ in 0..contexts {
        ask(command::BLOCK_STATUS, 1, DISK_BYTES - 1, b"");
    }
    ask(command::WRITE, 0, 600, &[7; 600]);
    ask(command::WRITE_ZEROES, 0, 4096, b"");
    ask(command::FLUSH, 0, 0, b"");
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        assert!(nbd_wire_seeds().iter().all(|seed| nbd_wire(seed)));
        assert!(nbd_server_seeds().iter().all(|seed| nbd_server(seed)));
        assert!(nbd_client_seeds().iter().all(|seed| nbd_client(seed)));
    }
}
