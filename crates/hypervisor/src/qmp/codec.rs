//! Lines of JSON with a bound on their length, as both the monitor and the guest agent send them.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line has more than {0} bytes")]
    TooLong(usize),
    #[error("the connection broke")]
    Io(#[from] io::Error),
}

/// Splits what is read into lines. Dropping a future of it loses nothing.
pub(crate) struct Lines<R> {
    reader: R,
    buffer: BytesMut,
    /// How much of `buffer` is known to hold no end of a line.
    searched: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new(), searched: 0 }
    }

    /// The next line without its end; `None` when the other side has closed. An unfinished last line is dropped.
    pub async fn next(&mut self, limit: usize) -> Result<Option<Bytes>, LineError> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if line.len() > limit {
                    return Err(LineError::TooLong(limit));
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > limit {
                return Err(LineError::TooLong(limit));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Drops everything up to and including `mark`, at most `limit` bytes; false when the other side has closed.
    pub async fn skip_past(&mut self, mark: u8, limit: usize) -> Result<bool, LineError> {
        let mut skipped = 0;
        self.searched = 0;
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == mark) {
                self.buffer.advance(at + 1);
                return Ok(true);
            }
            skipped += self.buffer.len();
            self.buffer.clear();
            if skipped > limit {
                return Err(LineError::TooLong(limit));
            }
            if self.fill().await? == 0 {
                return Ok(false);
            }
        }
    }

    /// How much of the next line has come.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(4096);
        self.reader.read_buf(&mut self.buffer).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn all(chunks: Vec<Vec<u8>>, limit: usize) -> Result<Vec<Bytes>, LineError> {
        let (mut sender, receiver) = tokio::io::duplex(64);
        tokio::spawn(async move {
            for chunk in chunks {
                if sender.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        });
        let mut lines = Lines::new(receiver);
        let mut found = Vec::new();
        while let Some(line) = lines.next(limit).await? {
            found.push(line);
        }
        Ok(found)
    }

    proptest! {
        /// However the bytes are cut, the same lines come out, and never a longer one than allowed.
        #[test]
        fn lines_do_not_depend_on_how_bytes_arrive(
            chunks in proptest::collection::vec(proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..40), 0..20)
        ) {
            let whole = chunks.concat();
            let mut expected: Vec<&[u8]> = whole.split(|b| *b == b'\n').collect();
            expected.pop();
            match block_on(all(chunks, 50)) {
                Ok(found) => prop_assert_eq!(found, expected),
                Err(_) => prop_assert!(whole.split(|b| *b == b'\n').any(|l| l.len() > 50)),
            }
        }
    }

    #[tokio::test]
    async fn an_endless_line_is_refused_before_it_fills_the_memory() {
        let (mut sender, receiver) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move { while sender.write_all(&[b'x'; 4096]).await.is_ok() {} });
        let mut lines = Lines::new(receiver);
        assert!(matches!(lines.next(1 << 20).await, Err(LineError::TooLong(_))));
        assert!(lines.buffer.capacity() <= 4 << 20);
        assert!(matches!(lines.skip_past(b'y', 1 << 20).await, Err(LineError::TooLong(_))));
    }

    #[tokio::test]
    async fn what_stands_before_a_mark_is_dropped() {
        let mut lines = Lines::new(&b"old reply\n{\"x\xffnew\nnext\n"[..]);
        assert!(lines.skip_past(0xff, 100).await.unwrap());
        assert_eq!(lines.next(100).await.unwrap().unwrap(), "new");
        assert_eq!(lines.next(100).await.unwrap().unwrap(), "next");
        assert!(lines.next(100).await.unwrap().is_none());
    }
}
