//! Objects that are no packs: index, snapshot, lock. One byte that says how, then the content, sealed.
//!
//! restic's design document, "Unpacked Data Format": `0x02 || zstd(JSON)`; the config, and all of version 1, is plain
//! JSON, known by its first byte.

use super::{
    FormatError,
    compress::{Compressor, decompress_bounded},
};
use crate::crypto::{MasterKey, SEAL_OVERHEAD};

const ZSTD: u8 = 2;
const LEVEL: i32 = 3;

/// `json`, compressed and sealed. The SHA-256 of the result is the object's name.
pub fn seal_object(key: &MasterKey, json: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut plain = vec![ZSTD];
    Compressor::new(LEVEL)?.compress_into(json, &mut plain)?;
    Ok(key.seal(&plain)?)
}

/// The JSON of a sealed object, of at most `limit_bytes`.
pub fn open_object(key: &MasterKey, mut sealed: Vec<u8>, limit_bytes: usize) -> Result<Vec<u8>, FormatError> {
    const WHAT: &str = "object";
    let plain = key.open_in_place(&mut sealed)?;
    match *plain {
        [b'{' | b'[', ..] if plain.len() > limit_bytes => {
            Err(FormatError::TooLarge { what: WHAT, limit_bytes: limit_bytes as u64 })
        }
        [b'{' | b'[', ..] => {
            let length = plain.len();
            sealed.copy_within(SEAL_OVERHEAD / 2..SEAL_OVERHEAD / 2 + length, 0);
            sealed.truncate(length);
            Ok(sealed)
        }
        [ZSTD, ref frames @ ..] => decompress_bounded(frames, limit_bytes, WHAT),
        [] => Err(FormatError::invalid(WHAT, "it is empty")),
        [other, ..] => Err(FormatError::invalid(WHAT, format!("its encoding {other:#04x} is not known"))),
    }
}
