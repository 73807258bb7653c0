use std::{
    io,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream::MapErr};
use http::Response;
use http_body_util::{BodyDataStream, BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::{
    io::{CopyToBytes, SinkWriter, StreamReader},
    sync::PollSender,
};

use super::{ClientError, RequestBody, Result};
use crate::limits::LINE_BYTES_MAX;

/// A stream of JSON objects, one a line.
#[derive(Debug)]
pub struct Lines<T> {
    body: BodyDataStream<Incoming>,
    buffer: BytesMut,
    /// How far the buffer was searched for the end of a line.
    searched: usize,
    ended: bool,
    what: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        Self {
            body: response.into_body().into_data_stream(),
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
            what: PhantomData,
        }
    }

    /// The next object; `None` when the node ended the stream. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<Result<T>> {
        loop {
            if self.ended {
                return None;
            }
            if let Some(line) = self.line() {
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Some(self.parse(&line));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return self.end(ClientError::unreadable("a stream", &"one of its lines is too long"));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.buffer.extend_from_slice(&bytes),
                Some(Err(error)) => return self.end(ClientError::lost(&super::connection::why(&error))),
                None if self.buffer.is_empty() => self.ended = true,
                None => return self.end(ClientError::lost(&"it ended in the middle of a line")),
            }
        }
    }

    fn line(&mut self) -> Option<BytesMut> {
        let end = self.buffer[self.searched..].iter().position(|b| *b == b'\n');
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end + 1);
        self.searched = 0;
        Some(line)
    }

    fn parse(&mut self, line: &[u8]) -> Result<T> {
        serde_json::from_slice(line).map_err(|error| {
            self.ended = true;
            ClientError::unreadable("a stream", &error)
        })
    }

    fn end(&mut self, error: ClientError) -> Option<Result<T>> {
        self.ended = true;
        Some(Err(error))
    }
}

type IoBody = MapErr<BodyDataStream<Incoming>, fn(hyper::Error) -> io::Error>;

/// What a machine writes to its console.
pub struct ConsoleReader(StreamReader<IoBody, Bytes>);

/// What is typed at a machine's console. Dropping it leaves the output running.
pub struct ConsoleWriter(
    SinkWriter<CopyToBytes<futures_util::sink::SinkMapErr<PollSender<Bytes>, SendError>>>,
);

type SendError = fn(tokio_util::sync::PollSendError<Bytes>) -> io::Error;

/// A machine's console, both ways.
pub struct Console {
    pub reader: ConsoleReader,
    pub writer: ConsoleWriter,
}

/// The two ends of a request body that is written while the answer is read.
pub(super) fn writable_body() -> (ConsoleWriter, RequestBody) {
    use futures_util::SinkExt;
    let (sender, receiver) = mpsc::channel::<Bytes>(8);
    let frames = tokio_stream::wrappers::ReceiverStream::new(receiver).map(|b| Ok(Frame::data(b)));
    let sink = PollSender::new(sender).sink_map_err((|_| io::ErrorKind::BrokenPipe.into()) as SendError);
    (ConsoleWriter(SinkWriter::new(CopyToBytes::new(sink))), BodyExt::boxed_unsync(StreamBody::new(frames)))
}

/// A request body that is read from elsewhere while it is sent.
pub(super) fn readable_body(reader: impl AsyncRead + Send + 'static) -> RequestBody {
    let frames = tokio_util::io::ReaderStream::with_capacity(reader, 64 << 10).map_ok(Frame::data);
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

impl Console {
    pub(super) fn new(response: Response<Incoming>, writer: ConsoleWriter) -> Self {
        let body = response.into_body().into_data_stream();
        let body: IoBody = body.map_err(io::Error::other);
        Self { reader: ConsoleReader(StreamReader::new(body)), writer }
    }
}

impl AsyncRead for ConsoleReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for ConsoleWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
