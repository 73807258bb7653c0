//! The bytes of one disk onto another that reads as zeroes.
//!
//! Holes are not read, and what turns out to be zero is not written, so that the copy takes no more room than it must.
//! Several pieces are under way at once.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{BlockError, BlockSource, BlockTarget, ExtentKind, Extents, extents, zero::is_zero};

const THREADS: usize = 4;
const PIECE_BYTES: u64 = 1 << 20;
/// Zeroes are looked for in units of this size.
const UNIT_BYTES: usize = 64 << 10;

/// How far a copy is, and the wish that it end.
#[derive(Debug, Default)]
pub struct CopyWatch {
    done_bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl CopyWatch {
    /// Bytes of the disk that are dealt with, holes included.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Relaxed)
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub enum CopyError {
    Read(BlockError),
    Write(BlockError),
}

/// Copies all of `from` to the beginning of `to`, which must be at least as large and read as zeroes; how many bytes were
/// written. What was written is durable afterwards, unless it was cancelled.
pub fn copy(from: &dyn BlockSource, to: &dyn BlockTarget, watch: &CopyWatch) -> Result<u64, CopyError> {
    if to.size_bytes() < from.size_bytes() {
        let (name, size_bytes) = (to.name().to_owned(), to.size_bytes());
        let error = BlockError::OutOfRange { name, offset: 0, length: from.size_bytes(), size_bytes };
        return Err(CopyError::Write(error));
    }
    let pieces = Mutex::new(Pieces { extents: extents(from, 0..from.size_bytes()), rest: None });
    let (written, failed) = (AtomicU64::new(0), Mutex::new(None));
    let work = || {
        let mut buffer = vec![0; PIECE_BYTES as usize];
        while !watch.is_cancelled() && lock(&failed).is_none() {
            let next = lock(&pieces).next(watch);
            let copied = match next {
                None => return,
                Some(piece) => piece.map_err(CopyError::Read).and_then(|(offset, length)| {
                    let part = buffer.get_mut(..length as usize).unwrap_or_default();
                    from.read_at(part, offset).map_err(CopyError::Read)?;
                    write(to, part, offset).map_err(CopyError::Write)
                }),
            };
            match copied {
                Ok(bytes) => {
                    written.fetch_add(bytes, Relaxed);
                }
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(work);
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None if watch.is_cancelled() => Ok(written.into_inner()),
        None => to.flush().map(|()| written.into_inner()).map_err(CopyError::Write),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left to be copied.
struct Pieces<'a> {
    extents: Extents<'a, dyn BlockSource + 'a>,
    /// Of the extent that is being cut up: where it goes on, and where it ends.
    rest: Option<(u64, u64)>,
}

impl Pieces<'_> {
    fn next(&mut self, watch: &CopyWatch) -> Option<Result<(u64, u64), BlockError>> {
        loop {
            if let Some((at, end)) = self.rest.take() {
                let length = (end - at).min(PIECE_BYTES);
                self.rest = (at + length < end).then_some((at + length, end));
                watch.done_bytes.fetch_add(length, Relaxed);
                return Some(Ok((at, length)));
            }
            match self.extents.next()? {
                Ok(extent) if extent.kind == ExtentKind::Zero => {
                    watch.done_bytes.fetch_add(extent.length, Relaxed);
                }
                Ok(extent) => self.rest = (extent.length > 0).then_some((extent.offset, extent.end())),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Writes what is not zero, in as few calls as that takes.
fn write(to: &dyn BlockTarget, piece: &[u8], offset: u64) -> Result<u64, BlockError> {
    let (mut written, mut from) = (0, 0);
    while from < piece.len() {
        let mut end = from;
        let unit = |at: usize| piece.get(at..piece.len().min(at + UNIT_BYTES)).unwrap_or_default();
        let is_data = |at: usize| !is_zero(unit(at));
        while end < piece.len() && is_data(end) {
            end += unit(end).len();
        }
        if let Some(data) = piece.get(from..end).filter(|data| !data.is_empty()) {
            to.write_at(data, offset + from as u64)?;
            written += data.len() as u64;
        }
        // What ended the stretch is zero.
        from = end + unit(end).len();
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    fn all(disk: &MemoryDisk) -> Vec<u8> {
        let mut bytes = vec![0; BlockSource::size_bytes(disk) as usize];
        disk.read_at(&mut bytes, 0).expect("its bytes");
        bytes
    }

    #[test]
    fn a_copy_is_the_same_and_writes_no_zeroes() {
        let mut bytes = vec![0; (5 << 20) + 777];
        bytes[100] = 1;
        bytes[(3 << 20)..(3 << 20) + (200 << 10)].fill(7);
        *bytes.last_mut().expect("a byte") = 9;
        let from = MemoryDisk::from_bytes("from", &bytes);
        let to = MemoryDisk::new("to", 6 << 20);
        let watch = CopyWatch::default();
        let written = copy(&from, &to, &watch).expect("a copy");
        assert_eq!(all(&to)[..bytes.len()], bytes);
        assert!(((200 << 10) + 2..1 << 20).contains(&written), "{written}");
        assert_eq!(watch.done_bytes(), bytes.len() as u64);
    }

    #[test]
    fn what_has_no_room_or_is_cancelled_is_not_called_a_copy() {
        let (from, small) = (MemoryDisk::from_bytes("from", &[1; 4096]), MemoryDisk::new("to", 512));
        assert!(copy(&from, &small, &CopyWatch::default()).is_err());
        let (to, watch) = (MemoryDisk::new("to", 4096), CopyWatch::default());
        watch.cancel();
        assert_eq!(copy(&from, &to, &watch).expect("ended"), 0);
    }
}
