//! What server and client agree on before the first request: fixed newstyle, as the protocol calls it.
//!
//! It must never let a client go on that did not name an export, nor take an option longer than its limit.

use std::{
    io::{self, Write},
    time::Instant,
};

use super::{
    Export,
    socket::{Reader, Stream},
    wire::{
        self, BASE_ALLOCATION, HANDSHAKE_FIXED_NEWSTYLE, HANDSHAKE_NO_ZEROES, MAGIC, OPTION_BYTES_MAX,
        OPTION_MAGIC, OptionHead, PAYLOAD_MAX, Style, flag, info, option, rep,
    },
};

/// Of one client. QEMU sends five.
const OPTIONS_MAX: usize = 256;
pub(super) const BASE_ALLOCATION_ID: u32 = 1;

/// The result.
pub(super) struct Agreed {
    pub(super) export: Export,
    pub(super) style: Style,
    /// Whether the client may ask what is allocated.
    pub(super) allocation: bool,
}

struct Negotiation<'a> {
    stream: &'a Stream,
    exports: &'a [Export],
    style: Style,
    no_zeroes: bool,
    /// The export for which the context was chosen.
    allocation_of: Option<String>,
}

/// What comes of an option.
enum Next {
    More,
    Go(Export),
    End,
}

pub(super) fn negotiate(
    reader: &mut Reader,
    stream: &Stream,
    exports: &[Export],
    deadline: Instant,
) -> io::Result<Option<Agreed>> {
    let mut greeting = MAGIC.to_be_bytes().to_vec();
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend((HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES).to_be_bytes());
    send(stream, &greeting)?;
    let flags = u32::from_be_bytes(reader.array(Some(deadline))?);
    let known = u32::from(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES);
    if flags & !known != 0 || flags & u32::from(HANDSHAKE_FIXED_NEWSTYLE) == 0 {
        return Ok(None);
    }
    let no_zeroes = flags & u32::from(HANDSHAKE_NO_ZEROES) != 0;
    let mut state = Negotiation { stream, exports, style: Style::Simple, no_zeroes, allocation_of: None };
    for _ in 0..OPTIONS_MAX {
        let Some(head) = OptionHead::decode(&reader.array(Some(deadline))?) else { return Ok(None) };
        if head.length > OPTION_BYTES_MAX {
            state.reply(head.option, rep::ERR_TOO_BIG, b"")?;
            return Ok(None);
        }
        let body = reader.vec(head.length as usize, Some(deadline))?;
        match state.answer(head.option, &body)? {
            Next::More => {}
            Next::End => return Ok(None),
            Next::Go(export) => {
                let allocation = state.allocation_of.as_deref() == Some(&export.name);
                return Ok(Some(Agreed { export, style: state.style, allocation }));
            }
        }
    }
    Ok(None)
}

impl Negotiation<'_> {
    fn reply(&self, option: u32, kind: u32, body: &[u8]) -> io::Result<()> {
        send(self.stream, &wire::option_reply(option, kind, body))
    }

    /// The default export is the only one there is.
    fn find(&self, name: &str) -> Option<&Export> {
        match self.exports {
            [only] if name.is_empty() => Some(only),
            exports => exports.iter().find(|export| export.name == name),
        }
    }

    fn answer(&mut self, option: u32, body: &[u8]) -> io::Result<Next> {
        let empty = body.is_empty();
        match option {
            option::EXPORT_NAME => return self.export_name(body),
            option::ABORT => {
                self.reply(option, rep::ACK, b"")?;
                return Ok(Next::End);
            }
            option::LIST if empty => self.list()?,
            option::INFO | option::GO => return self.go(option, body),
            option::STRUCTURED_REPLY if empty && self.style == Style::Extended => {
                self.reply(option, rep::ERR_EXT_HEADER_REQD, b"")?;
            }
            option::STRUCTURED_REPLY if empty => {
                self.style = Style::Structured;
                self.reply(option, rep::ACK, b"")?;
            }
            option::EXTENDED_HEADERS if empty => {
                self.style = Style::Extended;
                self.reply(option, rep::ACK, b"")?;
            }
            option::SET_META_CONTEXT | option::LIST_META_CONTEXT => self.contexts(option, body)?,
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS => {
                self.reply(option, rep::ERR_INVALID, b"this takes no data")?;
            }
            _ => self.reply(option, rep::ERR_UNSUP, b"")?,
        }
        Ok(Next::More)
    }

    fn list(&self) -> io::Result<()> {
        for export in self.exports {
            let mut body = Vec::new();
            wire::put_text(&mut body, &export.name);
            body.extend(export.description.as_bytes());
            self.reply(option::LIST, rep::SERVER, &body)?;
        }
        self.reply(option::LIST, rep::ACK, b"")
    }

    /// The old way to begin, which cannot say what is wrong but by closing.
    fn export_name(&self, body: &[u8]) -> io::Result<Next> {
        let Some(export) = std::str::from_utf8(body).ok().and_then(|name| self.find(name)) else {
            return Ok(Next::End);
        };
        let mut answer = export.source.size_bytes().to_be_bytes().to_vec();
        answer.extend(flags(export, self.style).to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        send(self.stream, &answer)?;
        Ok(Next::Go(export.clone()))
    }

    fn go(&self, option: u32, body: &[u8]) -> io::Result<Next> {
        let Some((name, wanted)) = wire::go_body(body) else {
            self.reply(option, rep::ERR_INVALID, b"")?;
            return Ok(Next::More);
        };
        let Some(export) = self.find(name) else {
            self.reply(option, rep::ERR_UNKNOWN, b"there is no such export")?;
            return Ok(Next::More);
        };
        let mut about = info::EXPORT.to_be_bytes().to_vec();
        about.extend(export.source.size_bytes().to_be_bytes());
        about.extend(flags(export, self.style).to_be_bytes());
        self.reply(option, rep::INFO, &about)?;
        for (kind, text) in [(info::NAME, &export.name), (info::DESCRIPTION, &export.description)] {
            if wanted.contains(&kind) && !text.is_empty() {
                self.reply(option, rep::INFO, &[&kind.to_be_bytes(), text.as_bytes()].concat())?;
            }
        }
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for bytes in [1, export.preferred_bytes, PAYLOAD_MAX] {
            sizes.extend(bytes.to_be_bytes());
        }
        self.reply(option, rep::INFO, &sizes)?;
        self.reply(option, rep::ACK, b"")?;
        Ok(if option == option::GO { Next::Go(export.clone()) } else { Next::More })
    }

    fn contexts(&mut self, option: u32, body: &[u8]) -> io::Result<()> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.allocation_of = None;
        }
        let Some((name, queries)) = wire::meta_context_body(body).filter(|_| self.style != Style::Simple)
        else {
            return self.reply(option, rep::ERR_INVALID, b"");
        };
        let Some(export) = self.find(name).map(|export| export.name.clone()) else {
            return self.reply(option, rep::ERR_UNKNOWN, b"there is no such export");
        };
        let all = !set && (queries.is_empty() || queries.contains(&"base:"));
        if all || queries.contains(&BASE_ALLOCATION) {
            let id = if set { BASE_ALLOCATION_ID } else { 0 };
            let context = [&id.to_be_bytes(), BASE_ALLOCATION.as_bytes()].concat();
            self.reply(option, rep::META_CONTEXT, &context)?;
            if set {
                self.allocation_of = Some(export);
            }
        }
        self.reply(option, rep::ACK, b"")
    }
}

fn flags(export: &Export, style: Style) -> u16 {
    let mut flags =
        flag::HAS_FLAGS | flag::CAN_MULTI_CONN | flag::SEND_CACHE | flag::SEND_FLUSH | flag::SEND_FUA;
    flags |= match export.target {
        None => flag::READ_ONLY,
        Some(_) => flag::SEND_TRIM | flag::SEND_WRITE_ZEROES,
    };
    if style != Style::Simple {
        flags |= flag::SEND_DF;
    }
    flags
}

fn send(mut stream: &Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}
