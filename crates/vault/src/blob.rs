//! Blobs: sealed and opened, one by one.
//!
//! A blob is given out only when its seal is whole and its plain bytes have the name that was asked for: a seal alone
//! does not say that the right blob lies there. What was just sealed is opened and compared before it counts.

use crate::{
    BlobId, PackId, VaultError,
    crypto::{MasterKey, SEAL_OVERHEAD},
    format::{
        compress::{Compressor, Decompressor},
        pack::PackBlob,
    },
    index::{Index, Location},
    storage::{FileKind, FileName, Storage},
};

/// No blob that anyone writes is longer; a longer one is refused before memory is taken for it.
pub(crate) const BLOB_BYTES_MAX: u32 = 256 << 20;

/// Samples of a chunk that are looked at before it is compressed.
const PROBES: usize = 4;
const PROBE_BYTES: usize = 2 << 10;

pub(crate) fn pack_file(pack: PackId) -> FileName {
    FileName { kind: FileKind::Pack, name: pack.to_string() }
}

/// Whether compressing is a waste: the bytes of samples are spread as evenly as those of random data are.
///
/// The sum of the squares of 256 counts of n bytes is n²/256 + n for random data, up to some percent, and several
/// times that for anything that a compressor could shorten by byte frequency. Repetition inside the chunk is not
/// seen; deduplication finds larger ones.
pub(crate) fn is_incompressible(plain: &[u8]) -> bool {
    if plain.len() < PROBES * PROBE_BYTES * 2 {
        return false;
    }
    let mut counts = [0_u32; 256];
    let step = (plain.len() - PROBE_BYTES) / (PROBES - 1);
    for probe in 0..PROBES {
        for byte in &plain[probe * step..probe * step + PROBE_BYTES] {
            counts[usize::from(*byte)] += 1;
        }
    }
    let n = (PROBES * PROBE_BYTES) as u64;
    let squares: u64 = counts.iter().map(|count| u64::from(*count) * u64::from(*count)).sum();
    squares < (n * n / 256 + n) * 108 / 100
}

/// Seals blobs, with buffers that are used again.
pub(crate) struct Sealer<'a> {
    key: &'a MasterKey,
    compressor: Compressor,
    compressed: Vec<u8>,
}

impl<'a> Sealer<'a> {
    pub(crate) fn new(key: &'a MasterKey, level: i32) -> Result<Self, VaultError> {
        Ok(Self {
            key,
            compressor: Compressor::new(level).map_err(|error| internal(&error))?,
            compressed: Vec::new(),
        })
    }

    /// Appends the sealed blob to `out`. The uncompressed length if it was compressed.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<Option<u32>, VaultError> {
        self.compressed.clear();
        if !is_incompressible(plain) {
            self.compressor.compress_into(plain, &mut self.compressed).map_err(|error| internal(&error))?;
        }
        let raw = self.compressed.is_empty() || self.compressed.len() >= plain.len();
        let body: &[u8] = if raw { plain } else { &self.compressed };
        let start = out.len();
        self.key.seal_into(body, out)?;
        // Memory and processors do fail; once the source is gone, this copy is all there is.
        if !self.key.opens_to(&out[start..], body) {
            return Err(VaultError::Invalid(
                "a chunk was not the same after it was sealed; check this machine's memory".into(),
            ));
        }
        let length =
            u32::try_from(plain.len()).map_err(|_| VaultError::Invalid("a chunk is too long".into()))?;
        Ok((!raw).then_some(length))
    }
}

fn internal(error: &crate::format::FormatError) -> VaultError {
    VaultError::Invalid(format!("a chunk could not be compressed: {error}"))
}

/// What an opener works with and can be used again by the next one.
#[derive(Default)]
pub(crate) struct Scratch {
    decompressor: Decompressor,
    sealed: Vec<u8>,
}

/// Opens blobs, with buffers that are used again. One per thread.
pub(crate) struct Opener<'a> {
    storage: &'a dyn Storage,
    key: &'a MasterKey,
    scratch: Scratch,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, key: &'a MasterKey) -> Self {
        Self::with(storage, key, Scratch::default())
    }

    pub(crate) fn with(storage: &'a dyn Storage, key: &'a MasterKey, scratch: Scratch) -> Self {
        Self { storage, key, scratch }
    }

    pub(crate) fn into_scratch(self) -> Scratch {
        self.scratch
    }

    /// A blob from the first of its copies that is whole. Where none is, an error that says that one of them may be.
    pub(crate) fn load(&mut self, index: &Index, id: &BlobId, out: &mut Vec<u8>) -> Result<(), VaultError> {
        let mut last = VaultError::BlobMissing(*id);
        for location in index.copies(id) {
            match self.load_at(&location, out) {
                Ok(()) => return Ok(()),
                Err(error) if last.is_damage() => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }

    pub(crate) fn load_at(&mut self, location: &Location, out: &mut Vec<u8>) -> Result<(), VaultError> {
        check_lengths(location.pack, &location.blob)?;
        let mut sealed = std::mem::take(&mut self.scratch.sealed);
        sealed.resize(location.blob.length as usize, 0);
        let result = self
            .storage
            .get_range(&pack_file(location.pack), u64::from(location.blob.offset), &mut sealed)
            .map_err(VaultError::from)
            .and_then(|()| self.open(location.pack, &location.blob, &mut sealed, out));
        self.scratch.sealed = sealed;
        result
    }

    /// Opens a sealed blob that was read from `pack` into `out`, and checks its name.
    pub(crate) fn open(
        &mut self,
        pack: PackId,
        blob: &PackBlob,
        sealed: &mut [u8],
        out: &mut Vec<u8>,
    ) -> Result<(), VaultError> {
        check_lengths(pack, blob)?;
        let damaged = |why: String| VaultError::BlobDamaged { blob: blob.id, pack, why };
        let body = self.key.open_in_place(sealed).map_err(|error| damaged(error.to_string()))?;
        match blob.uncompressed_length {
            Some(length) => {
                self.scratch
                    .decompressor
                    .decompress_into(body, length as usize, out)
                    .map_err(|e| damaged(e.to_string()))?;
            }
            None => {
                out.clear();
                out.extend_from_slice(body);
            }
        }
        if BlobId::of(out) == blob.id {
            Ok(())
        } else {
            Err(damaged("its bytes are not those of its name".into()))
        }
    }
}

/// To be called before memory is taken for a blob: an index may say anything.
pub(crate) fn check_lengths(pack: PackId, blob: &PackBlob) -> Result<(), VaultError> {
    let fits = (SEAL_OVERHEAD..=BLOB_BYTES_MAX as usize).contains(&(blob.length as usize))
        && blob.uncompressed_length.unwrap_or_default() <= BLOB_BYTES_MAX;
    if fits {
        return Ok(());
    }
    let why = "its length is not one that a blob can have".to_owned();
    Err(VaultError::BlobDamaged { blob: blob.id, pack, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{format::pack::BlobKind, storage::MemoryStorage};

    #[test]
    fn no_memory_is_taken_for_a_length_that_no_blob_has() {
        let (storage, key) = (MemoryStorage::new(), MasterKey::generate().expect("a key"));
        let mut opener = Opener::new(&storage, &key);
        let (pack, mut plain) = (PackId::of(b""), Vec::new());
        let blob = PackBlob {
            id: BlobId::of(b""),
            kind: BlobKind::Data,
            offset: 0,
            length: 100,
            uncompressed_length: Some(u32::MAX),
        };
        let long = PackBlob { length: u32::MAX, uncompressed_length: None, ..blob };
        for blob in [blob, long, PackBlob { length: 31, ..long }] {
            assert!(matches!(check_lengths(pack, &blob), Err(VaultError::BlobDamaged { .. })));
            let mut sealed = Vec::new();
            key.seal_into(&[0; 68], &mut sealed).expect("sealed");
            let opened = opener.open(pack, &blob, &mut sealed, &mut plain);
            assert!(opened.expect_err("refused").to_string().contains("its length"));
            assert!(opener.load_at(&Location { pack, blob }, &mut plain).is_err());
            assert_eq!(plain.capacity(), 0);
        }
    }

    #[test]
    fn random_bytes_are_told_from_all_others() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let noise: Vec<u8> = (0..32 << 10).flat_map(|_| random()).collect();
        assert!(is_incompressible(&noise));
        let base64ish: Vec<u8> = noise.iter().map(|b| b'A' + b % 60).collect();
        assert!(!is_incompressible(&base64ish));
        let mut mixed = noise.clone();
        mixed[..noise.len() / 4].fill(0);
        assert!(!is_incompressible(&mixed));
        assert!(!is_incompressible(&noise[..4096]), "what is short costs nothing to try");
        assert!(!is_incompressible(&vec![0; 1 << 18]));
    }
}
