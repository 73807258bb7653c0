//! What the fuzz targets drive: everything here that reads bytes of a repository.
//!
//! Each takes any bytes, panics where a promise is broken, and says whether the bytes were taken for what they should
//! be. Its seeds are, so that a run does not begin with rubbish; the tests hold them to it. In a repository all but
//! key files lies behind a seal, which no mutation gets past: so the decoders behind it are driven themselves, and
//! where the seal takes part, what is sealed is the mutated bytes.

mod formats;
mod objects;
mod repositories;

use std::sync::LazyLock;

pub use formats::{
    index, index_seeds, key_file, key_file_seeds, pack_header, pack_header_seeds, point, point_seeds,
    segment, segment_seeds, small_file, small_file_seeds, snapshot, snapshot_seeds, tree, tree_seeds,
};
pub use objects::{blob, blob_seeds, object, object_seeds, pack, pack_seeds};
pub use repositories::{repository, repository_seeds};

use crate::{crypto::MasterKey, format::Timestamp};

/// The same in every run, so that an input means the same.
static KEY: LazyLock<MasterKey> = LazyLock::new(|| MasterKey::from_bytes(&[7; 64]).expect("a key"));

fn time() -> Timestamp {
    Timestamp::from_unix_nanoseconds(1_700_000_000_123_000_000)
}

/// Bytes that are taken apart from the front; at their end there are zeroes.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        first
    }

    fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// As many bytes as the next two say.
    fn counted(&mut self) -> &'a [u8] {
        let length = self.u16();
        self.bytes(usize::from(length))
    }
}

/// What [`Input::counted`] reads.
fn counted(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a short piece");
    [&length.to_le_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        type Target = (&'static str, fn(&[u8]) -> bool, fn() -> Vec<Vec<u8>>);
        let targets: [Target; 12] = [
            ("pack_header", pack_header, pack_header_seeds),
            ("index", index, index_seeds),
            ("tree", tree, tree_seeds),
            ("snapshot", snapshot, snapshot_seeds),
            ("small_file", small_file, small_file_seeds),
            ("key_file", key_file, key_file_seeds),
            ("point", point, point_seeds),
            ("segment", segment, segment_seeds),
            ("object", object, object_seeds),
            ("blob", blob, blob_seeds),
            ("pack", pack, pack_seeds),
            ("repository", repository, repository_seeds),
        ];
        for (name, drive, seeds) in targets {
            let seeds = seeds();
            assert!(!seeds.is_empty(), "{name}");
            for (number, seed) in seeds.iter().enumerate() {
                assert!(drive(seed), "{name} {number}");
            }
            // Rubbish is borne everywhere.
            drive(&[]);
            drive(&[0xff; 100]);
        }
    }
}
