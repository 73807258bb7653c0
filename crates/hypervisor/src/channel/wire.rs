//! Bytes of a session, and the marks between sessions.
//!
//! A flag byte begins a mark and never occurs anywhere else: data and marks alike escape it, as HDLC does. So a mark is
//! found from any position in the stream, and no file that is sent through a channel can look like one.
//!
//! ```text
//! mark = FLAG kind version nonce[16]        HELLO: the host begins a session
//!                                           ACK:   the node inside has begun it (the nonce is the HELLO's)
//!                                           READY: a node inside has just opened the port
//! ```

const FLAG: u8 = 0x7e;
const ESCAPE: u8 = 0x7d;
const TWIST: u8 = 0x20;
/// Kind, version and nonce.
const MARK_BYTES: usize = 18;

pub(super) const VERSION: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Hello,
    Ack,
    Ready,
    /// From another version; passed over.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub kind: Kind,
    pub version: u8,
    pub nonce: [u8; 16],
}

impl Mark {
    pub fn new(kind: Kind, nonce: [u8; 16]) -> Self {
        Self { kind, version: VERSION, nonce }
    }

    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Hello => b'H',
            Kind::Ack => b'A',
            Kind::Ready => b'R',
            Kind::Unknown => b'?',
        };
        let mut bytes = vec![FLAG];
        escape(&[kind, self.version], &mut bytes);
        escape(&self.nonce, &mut bytes);
        bytes
    }

    fn decode(bytes: &[u8; MARK_BYTES]) -> Self {
        let kind = match bytes[0] {
            b'H' => Kind::Hello,
            b'A' => Kind::Ack,
            b'R' => Kind::Ready,
            _ => Kind::Unknown,
        };
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&bytes[2..]);
        Self { kind, version: bytes[1], nonce }
    }
}

/// Appends `data` to `out` as it travels.
pub(super) fn escape(data: &[u8], out: &mut Vec<u8>) {
    let mut rest = data;
    while let Some(at) = rest.iter().position(|b| matches!(*b, FLAG | ESCAPE)) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[ESCAPE, rest[at] ^ TWIST]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Where in the stream the reader is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    escaped: bool,
    /// The mark that is being read, and how much of it has been.
    mark: Option<([u8; MARK_BYTES], usize)>,
}

impl Decoder {
    /// Takes bytes from `input`: data is appended to `data`; a mark ends the turn.
    pub fn feed(&mut self, input: &mut &[u8], data: &mut Vec<u8>) -> Option<Mark> {
        while let Some((&byte, after)) = input.split_first() {
            if self.mark.is_none() && !self.escaped {
                let plain = input.iter().position(|b| matches!(*b, FLAG | ESCAPE)).unwrap_or(input.len());
                data.extend_from_slice(&input[..plain]);
                if plain > 0 {
                    *input = &input[plain..];
                    continue;
                }
            }
            *input = after;
            match byte {
                // Also in the middle of a mark or of an escape: whoever wrote that is gone.
                FLAG => {
                    self.mark = Some(([0; MARK_BYTES], 0));
                    self.escaped = false;
                }
                ESCAPE => self.escaped = true,
                _ => {
                    let byte = if std::mem::take(&mut self.escaped) { byte ^ TWIST } else { byte };
                    match &mut self.mark {
                        None => data.push(byte),
                        Some((bytes, filled)) => {
                            bytes[*filled] = byte;
                            *filled += 1;
                            if *filled == MARK_BYTES {
                                let mark = Mark::decode(bytes);
                                self.mark = None;
                                return Some(mark);
                            }
                        }
                    }
                }
            }
        }
        None
    }
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_stream(chunks: &[&[u8]]) -> (Vec<u8>, usize) {
    let (mut decoder, mut data, mut marks) = (Decoder::default(), Vec::new(), 0);
    for mut chunk in chunks.iter().copied() {
        while !chunk.is_empty() {
            marks += usize::from(decoder.feed(&mut chunk, &mut data).is_some());
        }
    }
    (data, marks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(stream: &[u8], cut: usize) -> (Vec<u8>, Vec<Mark>) {
        let (mut decoder, mut data, mut marks) = (Decoder::default(), Vec::new(), Vec::new());
        for mut chunk in stream.chunks(cut.max(1)) {
            while !chunk.is_empty() {
                marks.extend(decoder.feed(&mut chunk, &mut data));
            }
        }
        (data, marks)
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(FLAG), Just(ESCAPE), any::<u8>()], 0..max)
    }

    proptest! {
        /// Whatever was written before, half a mark included, a mark is found and the data after it is whole.
        #[test]
        fn a_mark_is_found_after_anything(before in bytes(60), nonce: [u8; 16], data in bytes(100), cut in 1usize..50) {
            let mark = Mark::new(Kind::Hello, nonce);
            let mut stream = before;
            stream.extend(mark.encode());
            escape(&data, &mut stream);
            let (found, marks) = decode_all(&stream, cut);
            prop_assert!(marks.contains(&mark));
            prop_assert!(found.ends_with(&data));
        }

        /// No data looks like a mark, not even an encoded one.
        #[test]
        fn data_arrives_as_it_was_sent(data in bytes(200), cut in 1usize..50) {
            let mut data = data;
            data.extend(Mark::new(Kind::Hello, [FLAG; 16]).encode());
            let mut stream = Vec::new();
            escape(&data, &mut stream);
            prop_assert!(!stream.contains(&FLAG));
            prop_assert_eq!(decode_all(&stream, cut), (data, vec![]));
        }
    }
}
