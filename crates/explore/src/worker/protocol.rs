//! What a reader's process and its client say to each other, and a machine that reads and its client.
//!
//! A message is two lengths, JSON, and bytes that are none of it (what a file holds, values). Each side takes the
//! other for hostile, and takes nothing longer than its limits. Questions are answered one by one, in order.

use std::{
    io::{self, Read, Write},
    ops::Range,
};

use nestling_block::{Extent, ExtentKind, ExtentList};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Composed, Content, Cursor, ErrorKind, FileName, Node, Page, Stat, StreamInfo, Summary, Volumes,
    machine::Key,
};

const HEAD_BYTES: usize = 8;
pub(crate) const REQUEST_BYTES_MAX: u32 = 64 << 10;
pub(crate) const ANSWER_BYTES_MAX: u32 = 8 << 20;
/// Of a file in one answer, or of all values of a file's attributes.
pub(crate) const DATA_BYTES_MAX: u32 = 4 << 20;
/// Entries of one answer: with the longest names there are, they stay below the limit of an answer.
pub(crate) const PAGE_ENTRIES_MAX: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Agrees with the server of the disk. The first one, once.
    Attach {
        export: String,
        name: String,
    },
    /// From now on all questions are about what a place of the attached disk is in.
    Enter {
        place: String,
    },
    Volumes,
    Detect,
    Open,
    /// Bytes of the disk or volume that it is in.
    ReadDisk {
        offset: u64,
        length: u32,
    },
    DiskExtents {
        start: u64,
        end: u64,
    },
    /// Of this protocol. To a machine, the first one.
    Version,
    /// To a machine: puts volumes together, opens what is encrypted if there is a key, and says what came of it.
    Compose {
        key: Option<Key>,
    },
    /// To a machine: from now on all questions are about this place of the disk that is the machine's so-and-so-many-th.
    Mount {
        disk: u32,
        place: String,
    },
    Lookup {
        directory: Node,
        name: FileName,
    },
    List {
        directory: Node,
        from: Cursor,
        limit: usize,
    },
    Stat {
        node: Node,
    },
    Read {
        node: Node,
        stream: FileName,
        offset: u64,
        length: u32,
    },
    Extents {
        node: Node,
        stream: FileName,
        start: u64,
        end: u64,
    },
    LinkTarget {
        node: Node,
    },
    ExtendedAttributes {
        node: Node,
    },
    Streams {
        node: Node,
    },
    SecurityDescriptor {
        node: Node,
    },
    ReparsePoint {
        node: Node,
    },
}

impl Request {
    /// For messages.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Self::Attach { .. } => "to connect to the disk",
            Self::Enter { .. } => "to open a disk inside the disk",
            Self::Volumes => "which volumes there are",
            Self::Detect => "what the volume holds",
            Self::Open => "to open the file system",
            Self::ReadDisk { .. } => "to read a disk",
            Self::DiskExtents { .. } => "for the map of a disk",
            Self::Version => "to start",
            Self::Compose { .. } => "to put volumes together",
            Self::Mount { .. } => "to mount a volume",
            Self::Lookup { .. } => "to look up a name",
            Self::List { .. } => "to list a directory",
            Self::Stat { .. } => "about a file",
            Self::Read { .. } => "to read a file",
            Self::Extents { .. } => "for the map of a file",
            Self::LinkTarget { .. } => "where a link leads",
            Self::ExtendedAttributes { .. } => "for extended attributes",
            Self::Streams { .. } => "for the streams of a file",
            Self::SecurityDescriptor { .. } => "for a security descriptor",
            Self::ReparsePoint { .. } => "for a reparse point",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Attached {
        size_bytes: u64,
    },
    Entered {
        size_bytes: u64,
    },
    Volumes(Volumes),
    Version(u64),
    Composed(Composed),
    Detected(Content),
    Opened {
        summary: Summary,
        root: Node,
    },
    Found(Option<Node>),
    Listed(Page),
    Stat(Stat),
    /// The message's data.
    Bytes,
    /// Lengths, and whether it is zero, from the start of the range on.
    Extents(Vec<(u64, bool)>),
    /// Names, and the lengths of their values in the message's data.
    Attributes(Vec<(FileName, u32)>),
    Streams(Vec<StreamInfo>),
    /// There is no descriptor or reparse point.
    Nothing,
    Reparse {
        tag: u32,
    },
    Refused {
        kind: ErrorKind,
        what: String,
    },
}

/// A message and its data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<T> {
    pub(crate) body: T,
    pub(crate) data: Vec<u8>,
}

/// Told apart are versions of this program: what both sides say is written down in these files.
pub(crate) fn version() -> u64 {
    const FILES: &[&str] = &[
        include_str!("protocol.rs"),
        include_str!("../fs.rs"),
        include_str!("../detect.rs"),
        include_str!("../nest.rs"),
        include_str!("../place.rs"),
        include_str!("../volume_id.rs"),
        include_str!("../machine/mod.rs"),
    ];
    // FNV-1a: they are no forgeries.
    let bytes = FILES.iter().flat_map(|file| file.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Broken(String),
}

pub(crate) fn send<T: Serialize>(to: &mut impl Write, body: &T, data: &[u8]) -> Result<(), ProtocolError> {
    let json = serde_json::to_vec(body).map_err(|e| ProtocolError::Broken(e.to_string()))?;
    let mut message = Vec::with_capacity(HEAD_BYTES + json.len() + data.len());
    message.extend((json.len() as u32).to_le_bytes());
    message.extend((data.len() as u32).to_le_bytes());
    message.extend(json);
    message.extend(data);
    to.write_all(&message)?;
    Ok(())
}

/// The next message; None when the other side has closed between two.
pub(crate) fn receive<T: DeserializeOwned>(
    from: &mut impl Read,
    body_max: u32,
    data_max: u32,
) -> Result<Option<Message<T>>, ProtocolError> {
    let mut head = [0; HEAD_BYTES];
    let first = loop {
        match from.read(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[first..])?;
    let length = |at| crate::bytes::le32(&head, at);
    let (body, data) = (length(0), length(4));
    if body > body_max || data > data_max {
        return Err(ProtocolError::Broken(format!("a message of {body} and {data} bytes")));
    }
    let mut json = vec![0; body as usize];
    from.read_exact(&mut json)?;
    let mut bytes = vec![0; data as usize];
    from.read_exact(&mut bytes)?;
    let body =
        serde_json::from_slice(&json).map_err(|e| ProtocolError::Broken(format!("no message: {e}")))?;
    Ok(Some(Message { body, data: bytes }))
}

pub(crate) fn pack_extents(extents: &[Extent]) -> Vec<(u64, bool)> {
    extents.iter().map(|extent| (extent.length, extent.kind == ExtentKind::Zero)).collect()
}

/// Cannot be wrong but in what it says: it begins at the start of the range and does not go over its end.
pub(crate) fn unpack_extents(packed: &[(u64, bool)], range: Range<u64>) -> Vec<Extent> {
    let mut list = ExtentList::new(range);
    for (length, zero) in packed {
        if !list.push(*length, if *zero { ExtentKind::Zero } else { ExtentKind::Data }) {
            break;
        }
    }
    list.finish()
}
