//! How a client agrees with a server: the newest that both know, and which contexts may be asked for.
//!
//! Servers from QEMU 2 to today, nbdkit and our own are met with one sequence: extended headers, else structured
//! replies, then contexts, then GO, else the old way to name an export. What a server says is checked before it is used.

use std::{io::Write, time::Instant};

use super::{
    socket::{Reader, Stream},
    wire::{
        self, BASE_ALLOCATION, Fields, HANDSHAKE_FIXED_NEWSTYLE, HANDSHAKE_NO_ZEROES, MAGIC,
        OPTION_BYTES_MAX, OPTION_MAGIC, OPTION_REPLY_HEAD_BYTES, OptionReplyHead, PAYLOAD_MAX, Style, info,
        option, rep,
    },
};
use crate::BlockError;

/// Answers to one option.
const REPLIES_MAX: usize = 1024;
/// A server that wants larger blocks is no disk.
const MINIMUM_BYTES_MAX: u32 = 64 << 10;

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) size_bytes: u64,
    pub(super) flags: u16,
    pub(super) style: Style,
    /// Requests are multiples of this, and lie at multiples of it.
    pub(super) minimum_bytes: u32,
    pub(super) maximum_bytes: u32,
    /// The number of the context, if the server has it.
    pub(super) allocation: Option<u32>,
    pub(super) dirty: Option<u32>,
}

pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    pub(super) export: &'a str,
    /// The whole name of another context.
    pub(super) context: Option<&'a str>,
    pub(super) extended_headers: bool,
}

pub(super) struct Handshake<'a> {
    pub(super) reader: &'a mut Reader,
    pub(super) stream: &'a Stream,
    pub(super) deadline: Instant,
    pub(super) wanted: Wanted<'a>,
}

/// The answers to an option: its information and how it ended.
struct Answer {
    found: Vec<(u32, Vec<u8>)>,
    end: Result<(), (u32, String)>,
}

impl Handshake<'_> {
    pub(super) fn agree(&mut self) -> Result<Agreed, BlockError> {
        let greeting: [u8; 18] = self.read()?;
        let mut fields = Fields(&greeting);
        if (fields.u64(), fields.u64()) != (Some(MAGIC), Some(OPTION_MAGIC)) {
            return Err(self.protocol("it does not greet as an NBD server of today"));
        }
        let flags = fields.u16().unwrap_or_default();
        if flags & HANDSHAKE_FIXED_NEWSTYLE == 0 {
            return Err(self.protocol("it does not negotiate (fixed newstyle)"));
        }
        let no_zeroes = flags & HANDSHAKE_NO_ZEROES != 0;
        self.send(&u32::from(flags & (HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)).to_be_bytes())?;
        let style = self.style()?;
        let mut agreed = Agreed {
            size_bytes: 0,
            flags: 0,
            style,
            minimum_bytes: 1,
            maximum_bytes: PAYLOAD_MAX,
            allocation: None,
            dirty: None,
        };
        if style != Style::Simple {
            self.contexts(&mut agreed)?;
        }
        if self.wanted.context.is_some() && agreed.dirty.is_none() {
            let context = self.wanted.context.unwrap_or_default();
            return Err(BlockError::unsupported(
                self.wanted.name,
                format!("the server has no {context:?} for it"),
            ));
        }
        self.go(&mut agreed, no_zeroes)?;
        if agreed.size_bytes > i64::MAX.cast_unsigned() {
            return Err(self.protocol(format!("it says the disk has {} bytes", agreed.size_bytes)));
        }
        Ok(agreed)
    }

    fn style(&mut self) -> Result<Style, BlockError> {
        if self.wanted.extended_headers && self.ask(option::EXTENDED_HEADERS, b"")?.end.is_ok() {
            return Ok(Style::Extended);
        }
        match self.ask(option::STRUCTURED_REPLY, b"")?.end {
            Ok(()) => Ok(Style::Structured),
            Err(_) => Ok(Style::Simple),
        }
    }

    fn contexts(&mut self, agreed: &mut Agreed) -> Result<(), BlockError> {
        let mut body = Vec::new();
        wire::put_text(&mut body, self.wanted.export);
        let queries: Vec<&str> = [Some(BASE_ALLOCATION), self.wanted.context].into_iter().flatten().collect();
        body.extend((queries.len() as u32).to_be_bytes());
        for query in queries {
            wire::put_text(&mut body, query);
        }
        let answer = self.ask(option::SET_META_CONTEXT, &body)?;
        if answer.end.is_err() {
            return Ok(());
        }
        for (_, body) in answer.found.iter().filter(|(kind, _)| *kind == rep::META_CONTEXT) {
            let mut fields = Fields(body);
            let id = fields.u32().ok_or_else(|| self.protocol("a context without a number"))?;
            if fields.0 == BASE_ALLOCATION.as_bytes() {
                agreed.allocation = Some(id);
            } else if self.wanted.context.is_some_and(|context| context.as_bytes() == fields.0) {
                agreed.dirty = Some(id);
            }
        }
        if agreed.dirty.is_some() && agreed.dirty == agreed.allocation {
            return Err(self.protocol("it gives two contexts one number"));
        }
        Ok(())
    }

    fn go(&mut self, agreed: &mut Agreed, no_zeroes: bool) -> Result<(), BlockError> {
        let mut body = Vec::new();
        wire::put_text(&mut body, self.wanted.export);
        body.extend(1_u16.to_be_bytes());
        body.extend(info::BLOCK_SIZE.to_be_bytes());
        let answer = self.ask(option::GO, &body)?;
        match answer.end {
            Ok(()) => {}
            Err((rep::ERR_UNSUP, _)) => return self.export_name(agreed, no_zeroes),
            Err((_, text)) => {
                let what = format!("the server does not give this export: {text}");
                return Err(BlockError::unsupported(self.wanted.name, what));
            }
        }
        let mut sized = false;
        for (_, body) in answer.found.iter().filter(|(kind, _)| *kind == rep::INFO) {
            let mut fields = Fields(body);
            match fields.u16() {
                Some(info::EXPORT) => {
                    let (Some(size), Some(flags)) = (fields.u64(), fields.u16()) else {
                        return Err(self.protocol("the export's size is missing"));
                    };
                    (agreed.size_bytes, agreed.flags, sized) = (size, flags, true);
                }
                Some(info::BLOCK_SIZE) => self.block_sizes(fields, agreed)?,
                _ => {}
            }
        }
        if sized { Ok(()) } else { Err(self.protocol("it did not say how large the export is")) }
    }

    fn block_sizes(&self, mut fields: Fields<'_>, agreed: &mut Agreed) -> Result<(), BlockError> {
        let (Some(minimum), Some(_), Some(maximum)) = (fields.u32(), fields.u32(), fields.u32()) else {
            return Err(self.protocol("block sizes are missing"));
        };
        if !minimum.is_power_of_two() || minimum > MINIMUM_BYTES_MAX || maximum < minimum {
            return Err(self.protocol(format!("block sizes from {minimum} to {maximum}")));
        }
        agreed.minimum_bytes = minimum;
        agreed.maximum_bytes = (maximum.min(PAYLOAD_MAX) / minimum * minimum).max(minimum);
        Ok(())
    }

    fn export_name(&mut self, agreed: &mut Agreed, no_zeroes: bool) -> Result<(), BlockError> {
        self.send(&wire::option_request(option::EXPORT_NAME, self.wanted.export.as_bytes()))?;
        let answer: [u8; 10] = self.read()?;
        let mut fields = Fields(&answer);
        (agreed.size_bytes, agreed.flags) =
            (fields.u64().unwrap_or_default(), fields.u16().unwrap_or_default());
        if !no_zeroes {
            self.read::<124>()?;
        }
        Ok(())
    }

    fn ask(&mut self, option: u32, body: &[u8]) -> Result<Answer, BlockError> {
        self.send(&wire::option_request(option, body))?;
        let mut found = Vec::new();
        while found.len() < REPLIES_MAX {
            let head: [u8; OPTION_REPLY_HEAD_BYTES] = self.read()?;
            let Some(head) = OptionReplyHead::decode(&head).filter(|head| head.option == option) else {
                return Err(self.protocol("an answer that belongs to no question"));
            };
            if head.length > OPTION_BYTES_MAX {
                return Err(self.protocol(format!("an answer of {} bytes", head.length)));
            }
            let body =
                self.reader.vec(head.length as usize, Some(self.deadline)).map_err(|e| self.lost(&e))?;
            match head.kind {
                rep::ACK => return Ok(Answer { found, end: Ok(()) }),
                kind if kind & rep::ERROR != 0 => {
                    let text = String::from_utf8_lossy(&body)
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(200)
                        .collect();
                    return Ok(Answer { found, end: Err((kind, text)) });
                }
                kind => found.push((kind, body)),
            }
        }
        Err(self.protocol("too many answers to one question"))
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N], BlockError> {
        self.reader.array(Some(self.deadline)).map_err(|e| self.lost(&e))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let mut stream = self.stream;
        stream.write_all(bytes).map_err(|e| self.lost(&e))
    }

    fn protocol(&self, what: impl Into<String>) -> BlockError {
        BlockError::Protocol { name: self.wanted.name.to_owned(), what: what.into() }
    }

    fn lost(&self, error: &std::io::Error) -> BlockError {
        BlockError::Disconnected {
            name: self.wanted.name.to_owned(),
            what: format!("while it was agreed what to speak: {error}"),
        }
    }
}
