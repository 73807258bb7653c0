//! The NBD protocol's words: constants, and what encodes and decodes its messages.
//!
//! Pure functions of bytes, one place for both ends, after the protocol's own document (`doc/proto.md` of the NBD
//! project). It must never read a socket, nor let a length through that its limit does not allow.

/// `NBDMAGIC`, then `IHAVEOPT`: the server's greeting.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// The most bytes of a read or a write; more is refused. What peers can rely on without asking.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// The most bytes of an option or of an answer to one.
pub const OPTION_BYTES_MAX: u32 = 64 << 10;
/// The longest name of an export, by the protocol.
pub const NAME_BYTES_MAX: usize = 4096;
/// The most bytes of a chunk that lists extents. QEMU sends 2 MiB at most.
pub const STATUS_BYTES_MAX: u64 = 8 << 20;
/// The most that is asked with 32 bits at once, and stays aligned.
pub const SHORT_LENGTH_MAX: u64 = (1 << 32) - (64 << 10);

pub const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
pub const HANDSHAKE_NO_ZEROES: u16 = 2;

pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Answers to options; an error has the highest bit set.
pub mod rep {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub mod flag {
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
}

pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISCONNECT: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;

    pub const FLAG_FUA: u16 = 1;
    pub const FLAG_NO_HOLE: u16 = 1 << 1;
    pub const FLAG_DF: u16 = 1 << 2;
    pub const FLAG_REQ_ONE: u16 = 1 << 3;
    pub const FLAG_PAYLOAD_LEN: u16 = 1 << 5;
}

/// Chunks of an answer.
pub mod chunk {
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    pub const IS_ERROR: u16 = 1 << 15;
    pub const ERROR: u16 = IS_ERROR | 1;
}

/// Error numbers on the wire.
pub mod errno {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;

    /// For people.
    #[must_use]
    pub fn text(number: u32) -> String {
        std::io::Error::from_raw_os_error(number.cast_signed()).to_string()
    }
}

pub const BASE_ALLOCATION: &str = "base:allocation";
pub const STATE_HOLE: u64 = 1;
pub const STATE_ZERO: u64 = 2;

/// Bytes that are taken apart from the front; none when they end too early.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A length, then as much text.
    pub fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        if length > NAME_BYTES_MAX {
            return None;
        }
        std::str::from_utf8(self.bytes(length)?).ok()
    }
}

/// What a client asks for while it negotiates. 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHead {
    pub option: u32,
    pub length: u32,
}

pub const OPTION_HEAD_BYTES: usize = 16;

impl OptionHead {
    #[must_use]
    pub fn decode(bytes: &[u8; OPTION_HEAD_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        (fields.u64()? == OPTION_MAGIC).then_some(())?;
        Some(Self { option: fields.u32()?, length: fields.u32()? })
    }
}

#[must_use]
pub fn option_request(option: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// An answer to an option. 20 bytes before its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHead {
    pub option: u32,
    pub kind: u32,
    pub length: u32,
}

pub const OPTION_REPLY_HEAD_BYTES: usize = 20;

impl OptionReplyHead {
    #[must_use]
    pub fn decode(bytes: &[u8; OPTION_REPLY_HEAD_BYTES]) -> Option<Self> {
        let mut fields = Fields(bytes);
        (fields.u64()? == OPTION_REPLY_MAGIC).then_some(())?;
        Some(Self { option: fields.u32()?, kind: fields.u32()?, length: fields.u32()? })
    }
}

#[must_use]
pub fn option_reply(option: u32, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A length, then the text.
pub fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// The body of GO and INFO: which export, and what is wanted to be known.
pub fn go_body(body: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(body);
    let name = fields.text()?;
    let count = fields.u16()?;
    let wanted = (0..count).map(|_| fields.u16()).collect::<Option<Vec<_>>>()?;
    fields.0.is_empty().then_some((name, wanted))
}

/// The body of SET_META_CONTEXT and LIST_META_CONTEXT.
pub fn meta_context_body(body: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(body);
    let name = fields.text()?;
    let count = fields.u32()?;
    // Each takes four bytes at least, so that a false count ends with the body.
    let mut queries = Vec::new();
    for _ in 0..count {
        queries.push(fields.text()?);
    }
    fields.0.is_empty().then_some((name, queries))
}

/// A request, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub length: u64,
}

pub const REQUEST_BYTES: usize = 28;
pub const EXTENDED_REQUEST_BYTES: usize = 32;

impl Request {
    #[must_use]
    pub fn decode(bytes: &[u8], extended: bool) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        (fields.u32()? == magic).then_some(())?;
        let (flags, command) = (fields.u16()?, fields.u16()?);
        let (cookie, offset) = (fields.u64()?, fields.u64()?);
        let length = if extended { fields.u64()? } else { fields.u32()?.into() };
        Some(Self { flags, command, cookie, offset, length })
    }

    /// None if the length needs extended headers.
    #[must_use]
    pub fn encode(&self, extended: bool) -> Option<Vec<u8>> {
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        if extended {
            bytes.extend(self.length.to_be_bytes());
        } else {
            bytes.extend(u32::try_from(self.length).ok()?.to_be_bytes());
        }
        Some(bytes)
    }
}

/// How answers look, as negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Simple,
    Structured,
    Extended,
}

/// The head of a simple answer, or of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyHead {
    Simple { error: u32, cookie: u64 },
    Chunk { flags: u16, kind: u16, cookie: u64, length: u64 },
}

pub const SIMPLE_REPLY_BYTES: usize = 16;
pub const STRUCTURED_REPLY_BYTES: usize = 20;
pub const EXTENDED_REPLY_BYTES: usize = 32;

impl ReplyHead {
    /// How many bytes the head has that begins with this magic number; none if it is wrong here.
    #[must_use]
    pub fn bytes(magic: u32, style: Style) -> Option<usize> {
        match (style, magic) {
            (Style::Simple | Style::Structured, SIMPLE_REPLY_MAGIC) => Some(SIMPLE_REPLY_BYTES),
            (Style::Structured, STRUCTURED_REPLY_MAGIC) => Some(STRUCTURED_REPLY_BYTES),
            (Style::Extended, EXTENDED_REPLY_MAGIC) => Some(EXTENDED_REPLY_BYTES),
            _ => None,
        }
    }

    #[must_use]
    pub fn decode(bytes: &[u8], style: Style) -> Option<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        (bytes.len() == Self::bytes(magic, style)?).then_some(())?;
        if magic == SIMPLE_REPLY_MAGIC {
            return Some(Self::Simple { error: fields.u32()?, cookie: fields.u64()? });
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let length = if style == Style::Extended {
            fields.u64()?; // the request's offset, which the client knows
            fields.u64()?
        } else {
            fields.u32()?.into()
        };
        Some(Self::Chunk { flags, kind, cookie, length })
    }

    #[must_use]
    pub fn simple(error: u32, cookie: u64) -> Vec<u8> {
        let mut bytes = SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(error.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes
    }

    /// The head of a chunk of `length` bytes that answers `request`.
    #[must_use]
    pub fn chunk(style: Style, flags: u16, kind: u16, request: &Request, length: u32) -> Vec<u8> {
        let extended = style == Style::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend(request.cookie.to_be_bytes());
        if extended {
            bytes.extend(request.offset.to_be_bytes());
            bytes.extend(u64::from(length).to_be_bytes());
        } else {
            bytes.extend(length.to_be_bytes());
        }
        bytes
    }
}

/// What one context says of a stretch of the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub length: u64,
    pub flags: u64,
}

/// A chunk that lists extents: of which context, and the list. None if it is not as it should be.
pub fn decode_status(kind: u16, body: &[u8]) -> Option<(u32, Vec<Status>)> {
    let mut fields = Fields(body);
    let context = fields.u32()?;
    let wide = kind == chunk::BLOCK_STATUS_EXT;
    let announced = if wide { Some(fields.u32()? as usize) } else { None };
    let mut found = Vec::with_capacity(fields.0.len() / if wide { 16 } else { 8 });
    while !fields.0.is_empty() {
        let status = if wide {
            Status { length: fields.u64()?, flags: fields.u64()? }
        } else {
            Status { length: fields.u32()?.into(), flags: fields.u32()?.into() }
        };
        // An empty one would be asked for again without end.
        (status.length > 0).then_some(())?;
        found.push(status);
    }
    let as_announced = announced.is_none_or(|count| count == found.len());
    (as_announced && !found.is_empty()).then_some((context, found))
}

/// The body of such a chunk. Lengths that do not fit are cut, and the list ends there.
#[must_use]
pub fn encode_status(style: Style, context: u32, list: &[Status]) -> Vec<u8> {
    let mut bytes = context.to_be_bytes().to_vec();
    if style == Style::Extended {
        bytes.extend((list.len() as u32).to_be_bytes());
        for status in list {
            bytes.extend(status.length.to_be_bytes());
            bytes.extend(status.flags.to_be_bytes());
        }
        return bytes;
    }
    for status in list {
        bytes.extend((status.length.min(SHORT_LENGTH_MAX) as u32).to_be_bytes());
        bytes.extend((status.flags as u32).to_be_bytes());
        if status.length > SHORT_LENGTH_MAX {
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn requests_come_back(
            flags: u16, command: u16, cookie: u64, offset: u64, length: u32, extended: bool
        ) {
            let request = Request { flags, command, cookie, offset, length: length.into() };
            let bytes = request.encode(extended).expect("it fits");
            prop_assert_eq!(bytes.len(), if extended { EXTENDED_REQUEST_BYTES } else { REQUEST_BYTES });
            prop_assert_eq!(Request::decode(&bytes, extended), Some(request));
            prop_assert_eq!(Request::decode(&bytes, !extended), None);
        }

        #[test]
        fn lists_of_extents_come_back(pairs in prop::collection::vec((1..1_u64 << 31, 0..4_u64), 1..50), wide: bool) {
            let list: Vec<Status> = pairs.into_iter().map(|(length, flags)| Status { length, flags }).collect();
            let (style, kind) = if wide {
                (Style::Extended, chunk::BLOCK_STATUS_EXT)
            } else {
                (Style::Structured, chunk::BLOCK_STATUS)
            };
            prop_assert_eq!(decode_status(kind, &encode_status(style, 7, &list)), Some((7, list)));
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..8_u16) {
            let _ = (go_body(&bytes), meta_context_body(&bytes), decode_status(kind, &bytes));
            for style in [Style::Simple, Style::Structured, Style::Extended] {
                let _ = ReplyHead::decode(&bytes, style);
            }
            let _ = (Request::decode(&bytes, false), Request::decode(&bytes, true));
            if let Some(head) = bytes.first_chunk() {
                let _ = OptionHead::decode(head);
            }
            if let Some(head) = bytes.first_chunk() {
                let _ = OptionReplyHead::decode(head);
            }
        }
    }

    #[test]
    fn a_count_that_is_too_large_ends_with_the_body() {
        let mut body = Vec::new();
        put_text(&mut body, "x");
        body.extend(u32::MAX.to_be_bytes());
        assert_eq!(meta_context_body(&body), None);
        assert_eq!(decode_status(chunk::BLOCK_STATUS, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
