//! The worker's protocol, for `crate::fuzzing`.

use std::sync::Arc;

use nestling_block::BlockSource;

use crate::{
    Composed, ComposedVolume, Content, Cursor, ErrorKind, FileName, Kind, Node, Page, StreamInfo, Volume,
    VolumeId, Volumes,
};

use super::{
    protocol::{ANSWER_BYTES_MAX, Answer, DATA_BYTES_MAX, REQUEST_BYTES_MAX, Request, receive, send},
    session::Session,
};

/// Answers all requests; what is answered is within the limits of a client. Whether there was one.
pub(crate) fn fuzz_requests(mut input: &[u8], source: Arc<dyn BlockSource>) -> bool {
    let mut session = Session::over(source);
    let mut taken = false;
    while let Ok(Some(message)) = receive::<Request>(&mut input, REQUEST_BYTES_MAX, 0) {
        taken = true;
        let Ok((answer, data)) = session.answer(message.body) else { continue };
        let mut bytes = Vec::new();
        send(&mut bytes, &answer, &data).expect("memory");
        let back =
            receive::<Answer>(&mut &bytes[..], ANSWER_BYTES_MAX, DATA_BYTES_MAX).expect("within the limits");
        assert_eq!(back.map(|message| message.body), Some(answer));
    }
    taken
}

fn encode<T: serde::Serialize>(bodies: &[T]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bodies.iter().for_each(|body| send(&mut bytes, body, b"").expect("memory"));
    bytes
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let (node, stream, name) = (Node(0), FileName::default(), FileName::from(&b"sub"[..]));
    let list = Request::List { directory: node, from: Cursor(0), limit: 10 };
    vec![
        encode(&[Request::Detect, Request::Open, list, Request::Lookup { directory: node, name }]),
        encode(&[
            Request::Open,
            Request::Stat { node },
            Request::Read { node, stream: stream.clone(), offset: 0, length: 9 },
        ]),
        encode(&[
            Request::Open,
            Request::Extents { node, stream, start: 0, end: 9 },
            Request::Streams { node },
            Request::ExtendedAttributes { node },
            Request::SecurityDescriptor { node },
            Request::ReparsePoint { node },
            Request::LinkTarget { node },
        ]),
        encode(&[
            Request::Volumes,
            Request::Enter { place: "0:/sub/a//1:/".to_owned() },
            Request::Enter { place: "0:/".to_owned() },
            Request::ReadDisk { offset: 0, length: 9 },
            Request::DiskExtents { start: 0, end: 9 },
            Request::Open,
        ]),
        encode(&[
            Request::Version,
            Request::Compose { key: None },
            Request::Mount { disk: 0, place: "lvm/a/b:/".to_owned() },
        ]),
        encode(&[Request::Attach { export: "x".to_owned(), name: "y".to_owned() }]),
    ]
}

pub(crate) fn answer_seeds() -> Vec<Vec<u8>> {
    let name = FileName::from(&b"a\xff"[..]);
    let content = Content { kind: Kind::Xfs, label: "label".to_owned(), uuid: None };
    let volume = Volume {
        id: VolumeId::Number(1),
        name: String::new(),
        size_bytes: 7,
        content: Some(content.clone()),
        problem: None,
    };
    let composed = Composed {
        volumes: vec![ComposedVolume { disk: Some(1), volume }],
        opened: 1,
        locked: 0,
        problems: vec!["lacks a disk".to_owned()],
    };
    let stream = StreamInfo { name: name.clone(), size_bytes: 1, allocated_bytes: 2 };
    vec![
        encode(&[
            Answer::Attached { size_bytes: 7 },
            Answer::Entered { size_bytes: 7 },
            Answer::Volumes(Volumes::default()),
            Answer::Detected(content),
            Answer::Version(1),
            Answer::Composed(composed),
            Answer::Found(Some(Node(3))),
        ]),
        encode(&[
            Answer::Listed(Page::default()),
            Answer::Bytes,
            Answer::Nothing,
            Answer::Reparse { tag: 1 },
        ]),
        encode(&[
            Answer::Extents(vec![(4, true)]),
            Answer::Attributes(vec![(name, 0)]),
            Answer::Streams(vec![stream]),
        ]),
        encode(&[Answer::Refused { kind: ErrorKind::Damaged, what: "why".to_owned() }]),
    ]
}
