//! Compression of blobs and objects: zstd frames that say how long their content is.
//!
//! restic's reader takes any concatenation of zstd frames; no checksum is written, since the seal is a stronger one.
//! Nothing here may allocate by what a frame claims before that was compared with what the caller expects.

use std::{
    io::Read,
    sync::{Mutex, MutexGuard, PoisonError},
};

use zstd::zstd_safe;

use super::FormatError;

fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> FormatError {
    move |error| FormatError::Compression { action, why: error.to_string() }
}

/// Compresses one buffer after the other, with the memory of the first.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// `level` is zstd's: 1 (fast) to 19 (small), 3 is usual; others are brought into that range.
    pub fn new(level: i32) -> Result<Self, FormatError> {
        zstd::bulk::Compressor::new(level.clamp(1, 19)).map(Self).map_err(failed("compressed"))
    }

    /// Appends `plain` to `out` as one frame. When it fails, `out` is as it was.
    pub fn compress_into(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), FormatError> {
        let start = out.len();
        out.reserve(zstd_safe::compress_bound(plain.len()));
        let mut cursor = std::io::Cursor::new(std::mem::take(out));
        cursor.set_position(start as u64);
        let result = self.0.compress_to_buffer(plain, &mut cursor);
        *out = cursor.into_inner();
        result.map(|_| ()).map_err(failed("compressed"))
    }

    /// `plain` as one frame.
    pub fn compress(&mut self, plain: &[u8]) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.compress_into(plain, &mut out)?;
        Ok(out)
    }
}

/// Decompresses one buffer after the other, with the memory of the first. That memory is made when it is first needed, and goes on to
/// the next of these: to make it costs more than a small object does.
#[derive(Default)]
pub struct Decompressor(Option<zstd::bulk::Decompressor<'static>>);

/// Those that nobody uses now: each has some 160 KiB.
static SPARE: Mutex<Vec<zstd::bulk::Decompressor<'static>>> = Mutex::new(Vec::new());
const SPARE_MAX: usize = 16;

fn spare() -> MutexGuard<'static, Vec<zstd::bulk::Decompressor<'static>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Decompressor {
    fn drop(&mut self) {
        let mut spare = spare();
        if spare.len() < SPARE_MAX {
            spare.extend(self.0.take());
        }
    }
}

impl Decompressor {
    fn context(&mut self) -> Result<&mut zstd::bulk::Decompressor<'static>, FormatError> {
        match &mut self.0 {
            Some(context) => Ok(context),
            none => {
                let context = spare().pop();
                let context =
                    context.map_or_else(zstd::bulk::Decompressor::new, Ok).map_err(failed("decompressed"))?;
                Ok(none.insert(context))
            }
        }
    }

    /// The content of `frames`, of exactly `expected_bytes`. The caller bounds `expected_bytes` by what it would take.
    pub fn decompress(&mut self, frames: &[u8], expected_bytes: usize) -> Result<Vec<u8>, FormatError> {
        let mut out = Vec::new();
        self.decompress_into(frames, expected_bytes, &mut out)?;
        Ok(out)
    }

    /// As [`decompress`](Self::decompress), replacing what is in `out` and using its memory.
    pub fn decompress_into(
        &mut self,
        frames: &[u8],
        expected_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), FormatError> {
        out.clear();
        let wrong = |why| FormatError::Compression { action: "decompressed", why };
        if let Some(claimed) = content_bytes(frames)
            && claimed != expected_bytes as u64
        {
            return Err(wrong(format!("it says it has {claimed} bytes, but {expected_bytes} were expected")));
        }
        out.reserve_exact(expected_bytes);
        let written = self.context()?.decompress_to_buffer(frames, out).map_err(failed("decompressed"))?;
        if written != expected_bytes {
            out.clear();
            return Err(wrong(format!("it has {written} bytes, but {expected_bytes} were expected")));
        }
        Ok(())
    }
}

/// The content of `frames`, whose length nobody knows, unless it has more than `limit_bytes`.
pub fn decompress_bounded(
    frames: &[u8],
    limit_bytes: usize,
    what: &'static str,
) -> Result<Vec<u8>, FormatError> {
    let too_large = || FormatError::TooLarge { what, limit_bytes: limit_bytes as u64 };
    if let Some(claimed) = content_bytes(frames) {
        if claimed > limit_bytes as u64 {
            return Err(too_large());
        }
        return Decompressor::default()
            .decompress(frames, usize::try_from(claimed).map_err(|_| too_large())?);
    }
    let mut out = Vec::new();
    let decoder = zstd::stream::read::Decoder::with_buffer(frames).map_err(failed("decompressed"))?;
    decoder.take(limit_bytes as u64 + 1).read_to_end(&mut out).map_err(failed("decompressed"))?;
    if out.len() > limit_bytes { Err(too_large()) } else { Ok(out) }
}

/// How many bytes all of `frames` say they have; `None` when one does not say, or is none.
fn content_bytes(mut frames: &[u8]) -> Option<u64> {
    let mut total = 0_u64;
    while !frames.is_empty() {
        let length = zstd_safe::find_frame_compressed_size(frames).ok()?;
        total = total.checked_add(zstd_safe::get_frame_content_size(frames).ok()??)?;
        frames = frames.get(length..)?;
    }
    Some(total)
}
