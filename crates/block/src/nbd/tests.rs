//! Both ends against each other, and each against a peer that means harm.

use std::{
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::{BlockError, BlockSource, BlockTarget, Extent, ExtentKind, MemoryDisk, extents};

struct Served {
    dir: tempfile::TempDir,
    server: NbdServer,
    disk: Arc<MemoryDisk>,
}

const SIZE: u64 = 3 << 20;

fn serve() -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Arc::new(MemoryDisk::new("disk", SIZE));
    disk.write_at(&[7; 100_000], 1 << 20).expect("written");
    let exports = vec![
        Export::writable("disk", Arc::clone(&disk)),
        Export::read_only("fixed", Arc::clone(&disk) as Arc<dyn BlockSource>),
    ];
    let limits = ServerLimits {
        connections: 8,
        workers: 4,
        handshake: Duration::from_millis(500),
        send: Duration::from_secs(5),
        stop: Duration::from_secs(5),
    };
    let address = NbdAddress::Unix(dir.path().join("s"));
    let server = NbdServer::start(&address, exports, limits).expect("listening");
    Served { dir, server, disk }
}

impl Served {
    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn uri(&self, export: &str) -> NbdUri {
        NbdUri { address: NbdAddress::Unix(self.socket()), export: export.to_owned() }
    }

    fn client(&self, export: &str, extended_headers: bool, connections: usize) -> NbdClient {
        let options = NbdOptions {
            extended_headers,
            connections,
            timeout: Duration::from_secs(10),
            ..NbdOptions::default()
        };
        NbdClient::connect(&self.uri(export), &options).expect("connected")
    }
}

#[test]
fn what_is_written_is_read() {
    let served = serve();
    for extended in [true, false] {
        let client = served.client("disk", extended, 1);
        assert_eq!(client.has_extended_headers(), extended);
        client.write_zeroes(0..SIZE).expect("zeroed");
        assert_eq!(client.extents(0..SIZE).expect("a map"), [Extent::zero(0, SIZE)]);
        let bytes: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
        client.write_at(&bytes, 12345).expect("written");
        client.flush().expect("flushed");
        let mut back = vec![0; SIZE as usize];
        client.read_at(&mut back, 0).expect("read");
        assert!(back[12345..12345 + bytes.len()] == bytes[..]);
        assert!(back[..12345].iter().chain(&back[12345 + bytes.len()..]).all(|byte| *byte == 0));
        let map: Vec<Extent> = extents(&client, 1..SIZE - 1).collect::<Result<_, _>>().expect("a map");
        assert_eq!(map, extents(&*served.disk, 1..SIZE - 1).collect::<Result<Vec<_>, _>>().expect("a map"));
        assert_eq!(map.iter().filter(|extent| extent.kind == ExtentKind::Data).count(), 1);
    }
}

#[test]
fn errors_come_back_and_the_connection_lives_on() {
    let served = serve();
    let client = served.client("fixed", true, 1);
    assert!(!client.is_writable());
    assert!(matches!(client.write_at(&[1], 0), Err(BlockError::ReadOnly { .. })));
    assert!(matches!(client.read_at(&mut [0; 2], SIZE - 1), Err(BlockError::OutOfRange { .. })));
    assert!(client.dirty_extents(0..SIZE).is_err());
    // The disk shrinks behind the client's back.
    served.disk.set_size(SIZE / 2).expect("cut");
    assert!(matches!(client.read_at(&mut [0; 512], SIZE - 512), Err(BlockError::Refused { .. })));
    client.read_at(&mut [0; 512], 0).expect("read");
    let options = NbdOptions { dirty_bitmap: Some("b".into()), ..NbdOptions::default() };
    assert!(
        NbdClient::connect(&served.uri("fixed"), &options)
            .is_err_and(|e| e.to_string().contains("qemu:dirty-bitmap:b"))
    );
    assert!(
        NbdClient::connect(&served.uri("none"), &NbdOptions::default())
            .is_err_and(|e| e.to_string().contains("no such export"))
    );
}

#[test]
fn many_threads_over_few_connections() {
    let served = serve();
    for connections in [1, 3] {
        let client = served.client("disk", true, connections);
        assert_eq!(client.connections(), connections);
        thread::scope(|scope| {
            for worker in 0..8_u64 {
                let client = &client;
                scope.spawn(move || {
                    let place = worker * 200_000;
                    for turn in 0..50_u64 {
                        let length = 1 + (turn * 3677 % 199_999) as usize;
                        let bytes = vec![(worker * 50 + turn) as u8 | 1; length];
                        client.write_at(&bytes, place).expect("written");
                        let mut back = vec![0; length];
                        client.read_at(&mut back, place).expect("read");
                        assert!(back == bytes);
                    }
                });
            }
        });
    }
}

#[test]
fn a_stop_ends_clients_and_the_socket() {
    let served = serve();
    let client = served.client("disk", true, 2);
    client.read_at(&mut [0; 512], 0).expect("read");
    let socket = served.socket();
    let before = Instant::now();
    served.server.stop();
    assert!(before.elapsed() < Duration::from_secs(3));
    assert!(!socket.exists());
    assert!(matches!(client.read_at(&mut [0; 512], 0), Err(BlockError::Disconnected { .. })));
}

#[test]
fn a_client_that_says_nothing_is_sent_away_and_too_many_are_not_let_in() {
    let served = serve();
    let mut silent: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(served.socket()).expect("connected")).collect();
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        // The greeting, if there is room, and then the end.
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert!(all.len() == 18 || all.is_empty());
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while served.server.connections() > 0 {
        assert!(Instant::now() < deadline, "they are still there");
        thread::yield_now();
    }
    served.client("disk", true, 1).read_at(&mut [0; 512], 0).expect("read");
}

#[test]
fn only_loopback_is_listened_on() {
    let limits = ServerLimits::default();
    assert!(NbdServer::start(&NbdAddress::Tcp("0.0.0.0".into(), 0), Vec::new(), limits).is_err());
    let disk: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("d", &[3; 4096]));
    let exports = vec![Export::read_only("x", disk)];
    let server =
        NbdServer::start(&NbdAddress::Tcp("127.0.0.1".into(), 0), exports, limits).expect("listening");
    let uri = NbdUri { address: server.address().clone(), export: String::new() };
    let client = NbdClient::connect(&uri, &NbdOptions::default()).expect("the only export is the default");
    let mut bytes = [0; 4096];
    client.read_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes, [3; 4096]);
}

/// Sends these bytes after an honest beginning, and reads until the server closes.
fn harm(socket: &Path, options: &[u8], rubbish: &[u8]) {
    let mut stream = UnixStream::connect(socket).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    stream.set_write_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut greeting = [0; 18];
    if stream.read_exact(&mut greeting).is_err() {
        return;
    }
    let _ = stream.write_all(&[&[0, 0, 0, 3], options, rubbish].concat());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn rubbish_from_a_client_harms_nobody_else() {
    let served = serve();
    let other = served.client("fixed", true, 1);
    let mut go = Vec::new();
    wire::put_text(&mut go, "fixed");
    go.extend([0, 0]);
    let go = wire::option_request(wire::option::GO, &go);
    let extended = wire::option_request(wire::option::EXTENDED_HEADERS, b"");
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(60));
    let parts = (
        0..4_u8,
        prop::collection::vec(any::<u8>(), 0..200),
        (
            any::<u16>(),
            0..9_u16,
            any::<u64>(),
            prop_oneof![0..SIZE, any::<u64>()],
            prop_oneof![0..70_000_u64, any::<u64>()],
        ),
    );
    runner
        .run(&parts, |(begin, rubbish, (flags, command, cookie, offset, length))| {
            let request = wire::Request { flags, command, cookie, offset, length };
            let (options, words) = match begin {
                0 => (Vec::new(), None),
                1 => (go.clone(), request.encode(false)),
                2 => ([&extended[..], &go].concat(), request.encode(true)),
                _ => (wire::option_request(u32::from(command), &rubbish), None),
            };
            harm(&served.socket(), &options, &[words.unwrap_or_default(), rubbish].concat());
            let mut bytes = [0; 16];
            other.read_at(&mut bytes, 1 << 20).expect("the other client reads on");
            prop_assert_eq!(bytes, [7; 16]);
            Ok(())
        })
        .expect("no harm");
}

/// A server that greets, agrees to simple or structured answers, and then says `answer` to whatever is asked.
fn hostile_server(dir: &Path, structured: bool, answer: Vec<u8>) -> NbdUri {
    let path = dir.join("h");
    let listener = UnixListener::bind(&path).expect("listening");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut greeting = wire::MAGIC.to_be_bytes().to_vec();
        greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
        greeting.extend([0, 3]);
        stream.write_all(&greeting).expect("sent");
        stream.read_exact(&mut [0; 4]).expect("flags");
        loop {
            let mut head = [0; wire::OPTION_HEAD_BYTES];
            stream.read_exact(&mut head).expect("an option");
            let head = wire::OptionHead::decode(&head).expect("an option");
            stream.read_exact(&mut vec![0; head.length as usize]).expect("its body");
            let reply = |kind, body: &[u8]| wire::option_reply(head.option, kind, body);
            let bytes = match head.option {
                wire::option::STRUCTURED_REPLY if structured => reply(wire::rep::ACK, b""),
                wire::option::SET_META_CONTEXT => {
                    let context = [&[0, 0, 0, 1], wire::BASE_ALLOCATION.as_bytes()].concat();
                    [reply(wire::rep::META_CONTEXT, &context), reply(wire::rep::ACK, b"")].concat()
                }
                wire::option::GO => {
                    let about = [&[0, 0][..], &(1_u64 << 20).to_be_bytes(), &[0, 1]].concat();
                    [reply(wire::rep::INFO, &about), reply(wire::rep::ACK, b"")].concat()
                }
                _ => reply(wire::rep::ERR_UNSUP, b""),
            };
            stream.write_all(&bytes).expect("sent");
            if head.option == wire::option::GO {
                break;
            }
        }
        let _ = stream.read_exact(&mut [0; wire::REQUEST_BYTES]);
        let _ = stream.write_all(&answer);
        // Held open: silence is not the same as a goodbye.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    NbdUri { address: NbdAddress::Unix(path), export: "x".into() }
}

fn ask_hostile(structured: bool, answer: Vec<u8>, status: bool) -> Result<Vec<u8>, BlockError> {
    let dir = tempfile::tempdir().expect("a directory");
    let uri = hostile_server(dir.path(), structured, answer);
    let options = NbdOptions { timeout: Duration::from_millis(150), ..NbdOptions::default() };
    let client = NbdClient::connect(&uri, &options)?;
    if status {
        return client.extents(0..4096).map(|found| {
            assert!(!found.is_empty() && found[0].offset == 0);
            Vec::new()
        });
    }
    let mut bytes = vec![0; 4096];
    client.read_at(&mut bytes, 0).map(|()| bytes)
}

#[test]
fn a_server_that_lies_is_found_out() {
    let request =
        wire::Request { flags: 0, command: wire::command::READ, cookie: 1, offset: 0, length: 4096 };
    let chunk = |flags, kind, body: &[u8]| {
        let mut bytes =
            wire::ReplyHead::chunk(wire::Style::Structured, flags, kind, &request, body.len() as u32);
        bytes.extend(body);
        bytes
    };
    let data = |offset: u64, length: usize| [&offset.to_be_bytes()[..], &vec![5; length]].concat();
    use wire::chunk::{BLOCK_STATUS, FLAG_DONE, NONE, OFFSET_DATA, OFFSET_HOLE};
    assert_eq!(
        ask_hostile(true, chunk(FLAG_DONE, OFFSET_DATA, &data(0, 4096)), false).expect("good"),
        [5; 4096]
    );
    let bad = [
        chunk(FLAG_DONE, NONE, b""),
        chunk(FLAG_DONE, OFFSET_DATA, &data(0, 4095)),
        chunk(FLAG_DONE, OFFSET_DATA, &data(1, 4096)),
        [chunk(0, OFFSET_DATA, &data(0, 2048)), chunk(FLAG_DONE, OFFSET_DATA, &data(1, 2048))].concat(),
        chunk(FLAG_DONE, OFFSET_HOLE, &[[0; 8], [255; 8]].concat()[..12]),
        wire::ReplyHead::simple(0, 1),
        wire::ReplyHead::simple(0, 9),
        chunk(FLAG_DONE, 77, b"what"),
        vec![0; 100],
        // Nothing more comes.
        chunk(0, OFFSET_DATA, &data(0, 2048)),
        wire::ReplyHead::chunk(wire::Style::Structured, 1, OFFSET_DATA, &request, u32::MAX),
        Vec::new(),
    ];
    for (number, answer) in bad.into_iter().enumerate() {
        let before = Instant::now();
        let error = ask_hostile(true, answer, false).expect_err("found out");
        let expected = matches!(error, BlockError::Protocol { .. } | BlockError::TimedOut { .. });
        assert!(expected, "{number}: {error}");
        assert!(before.elapsed() < Duration::from_secs(3), "{number}");
    }
    let list = |pairs: &[u32]| pairs.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    assert!(ask_hostile(true, chunk(FLAG_DONE, BLOCK_STATUS, &list(&[1, u32::MAX, 3])), true).is_ok());
    for pairs in [&[1, 0, 3][..], &[2, 512, 0], &[1], &[1, 512]] {
        assert!(ask_hostile(true, chunk(FLAG_DONE, BLOCK_STATUS, &list(pairs)), true).is_err(), "{pairs:?}");
    }
    let simple = [wire::ReplyHead::simple(0, 1), vec![6; 4096]].concat();
    assert_eq!(ask_hostile(false, simple, false).expect("good"), [6; 4096]);
    let refused = ask_hostile(false, wire::ReplyHead::simple(5, 1), false).expect_err("refused");
    assert!(matches!(refused, BlockError::Refused { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rubbish_from_a_server_is_an_error(
        structured: bool, status: bool, head in 0..3_u8, rubbish in prop::collection::vec(any::<u8>(), 0..120)
    ) {
        let magic = [wire::SIMPLE_REPLY_MAGIC, wire::STRUCTURED_REPLY_MAGIC, 1][usize::from(head)];
        let _ = ask_hostile(structured, [&magic.to_be_bytes()[..], &rubbish].concat(), status);
    }
}

#[test]
fn a_stream_that_is_connected_already_is_a_disk() {
    let served = serve();
    let connect = || UnixStream::connect(served.socket()).expect("connected");
    let options = NbdOptions::default();
    let client =
        NbdClient::over_streams(vec![connect(), connect()], "the disk", "fixed", &options).expect("agreed");
    assert_eq!((client.connections(), BlockSource::name(&client)), (2, "the disk"));
    let mut bytes = [0; 10];
    client.read_at(&mut bytes, 1 << 20).expect("read");
    assert_eq!(bytes, [7; 10]);
    assert!(NbdClient::over_streams(Vec::new(), "none", "fixed", &options).is_err());
    assert!(NbdClient::over_streams(vec![connect()], "other", "none of this name", &options).is_err());
}
