//! One end of a port, on either side: sends and finds marks, and carries a session's bytes until something ends it.

use std::{io, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    time::timeout,
};

use super::wire::{Decoder, Mark, escape};

const READ_BYTES: usize = 32 << 10;
/// Between the port and the HTTP connection.
pub(super) const SESSION_BYTES: usize = 64 << 10;
/// For the local HTTP connection to take what has come, which it always does unless it hangs.
const TAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side says that something new begins.
    Mark(Mark),
    /// The port is closed at the other side, or broken.
    Gone,
    /// The local HTTP connection has ended.
    Local,
}

pub(super) struct Port<IO> {
    reader: ReadHalf<IO>,
    writer: WriteHalf<IO>,
    decoder: Decoder,
    /// Read from the port and not yet decoded.
    raw: BytesMut,
}

impl<IO: AsyncRead + AsyncWrite> Port<IO> {
    pub fn new(io: IO) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self { reader, writer, decoder: Decoder::default(), raw: BytesMut::new() }
    }

    pub fn into_inner(self) -> IO
    where
        IO: Unpin,
    {
        self.reader.unsplit(self.writer)
    }

    pub async fn send(&mut self, mark: &Mark) -> io::Result<()> {
        self.writer.write_all(&mark.encode()).await?;
        self.writer.flush().await
    }

    /// The next mark; data before it belongs to nobody and is dropped.
    pub async fn mark(&mut self) -> io::Result<Mark> {
        let mut dropped = Vec::new();
        next(&mut self.reader, &mut self.decoder, &mut self.raw, &mut dropped, true).await?.ok_or_else(eof)
    }

    /// Carries bytes between the port and `session`, while `local` runs.
    pub async fn carry(&mut self, session: DuplexStream, local: impl Future<Output = ()>) -> Ended {
        let (mut from_session, mut to_session) = tokio::io::split(session);
        let Self { reader, writer, decoder, raw } = self;
        let inwards = async {
            let mut data = Vec::new();
            loop {
                data.clear();
                let found = next(reader, decoder, raw, &mut data, false).await;
                match timeout(TAKE_TIMEOUT, to_session.write_all(&data)).await {
                    Ok(Ok(())) => {}
                    _ => return Ended::Local,
                }
                match found {
                    Ok(Some(mark)) => return Ended::Mark(mark),
                    Ok(None) => {}
                    Err(_) => return Ended::Gone,
                }
            }
        };
        let outwards = async {
            let mut plain = vec![0; READ_BYTES];
            let mut escaped = Vec::new();
            loop {
                match from_session.read(&mut plain).await {
                    Ok(0) | Err(_) => return Ended::Local,
                    Ok(n) => {
                        escaped.clear();
                        escape(&plain[..n], &mut escaped);
                    }
                }
                if writer.write_all(&escaped).await.is_err() || writer.flush().await.is_err() {
                    return Ended::Gone;
                }
            }
        };
        tokio::select! {
            ended = inwards => ended,
            ended = outwards => ended,
            () = local => Ended::Local,
        }
    }
}

/// Reads until there is a mark or, unless only marks count, some data.
async fn next(
    reader: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
    raw: &mut BytesMut,
    data: &mut Vec<u8>,
    only_marks: bool,
) -> io::Result<Option<Mark>> {
    loop {
        let mut input = &raw[..];
        let mark = decoder.feed(&mut input, data);
        let used = raw.len() - input.len();
        raw.advance(used);
        if mark.is_some() {
            return Ok(mark);
        }
        if only_marks {
            data.clear();
        } else if !data.is_empty() {
            return Ok(None);
        }
        raw.reserve(READ_BYTES);
        if reader.read_buf(raw).await? == 0 {
            return Err(eof());
        }
    }
}

fn eof() -> io::Error {
    io::Error::from(io::ErrorKind::UnexpectedEof)
}
