//! One pack: its name, its header and every blob in it.

use sha2::{Digest, Sha256};

use super::Defect;
use crate::{
    BlobId, PackId, VaultError,
    blob::{Opener, pack_file},
    format::pack::{self, PackBlob},
    index::Location,
    repo::Repository,
    storage::StorageErrorKind,
};

const PIECE_BYTES: usize = 4 << 20;
const DISAGREES: &str = "its header and the index do not agree";

/// One pack, read whole, or in pieces where it is longer than `whole_bytes_max`.
pub(crate) struct PackCheck<'a> {
    repository: &'a Repository,
    opener: Opener<'a>,
    pack: PackId,
    size: u64,
    whole_bytes_max: u64,
    /// That were read.
    pub(crate) bytes: u64,
    pub(crate) defects: Vec<Defect>,
    pub(crate) bad: Vec<BlobId>,
    /// Input or output failed.
    pub(crate) unsure: Option<String>,
}

impl<'a> PackCheck<'a> {
    pub(crate) fn new(
        repository: &'a Repository,
        pack: PackId,
        size: u64,
        whole_bytes_max: u64,
    ) -> Result<Self, VaultError> {
        let opener = Opener::new(repository.storage.as_ref(), &repository.key);
        let (defects, bad) = (Vec::new(), Vec::new());
        Ok(Self { repository, opener, pack, size, whole_bytes_max, bytes: 0, defects, bad, unsure: None })
    }

    fn defect(&mut self, what: String) {
        self.defects.push(Defect { object: format!("pack {}", self.pack), what });
    }

    /// What was told of a file; other errors stay errors.
    fn told(&mut self, error: VaultError) -> Result<(), VaultError> {
        if error.is_io() {
            self.unsure.get_or_insert_with(|| error.to_string());
        } else if !error.is_damage() {
            return Err(error);
        }
        self.defect(error.to_string());
        Ok(())
    }

    pub(crate) fn run(&mut self, blobs: &[PackBlob]) -> Result<(), VaultError> {
        let mut bytes = match self.repository.storage.get(&pack_file(self.pack), self.whole_bytes_max) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StorageErrorKind::TooLarge => return self.in_pieces(blobs),
            Err(error) => {
                self.told(error.into())?;
                return self.one_by_one(blobs);
            }
        };
        self.bytes = bytes.len() as u64;
        if PackId::of(&bytes) != self.pack {
            self.defect("its bytes are not those of its name".to_owned());
        }
        if let Err(why) = self.header(&bytes, blobs) {
            self.defect(why);
        }
        let mut plain = Vec::new();
        for blob in blobs {
            let (from, to) = (blob.offset as usize, blob.offset as usize + blob.length as usize);
            let opened = match bytes.get_mut(from..to) {
                Some(sealed) => {
                    self.opener.open(self.pack, blob, sealed, &mut plain).map_err(|e| e.to_string())
                }
                None => Err(format!("chunk {} lies behind its end", blob.id)),
            };
            if let Err(why) = opened {
                self.defect(why);
                self.bad.push(blob.id);
            }
        }
        Ok(())
    }

    /// Of a pack that cannot be read as a whole, parts may still be there.
    fn one_by_one(&mut self, blobs: &[PackBlob]) -> Result<(), VaultError> {
        let mut plain = Vec::new();
        for blob in blobs {
            match self.opener.load_at(&Location { pack: self.pack, blob: *blob }, &mut plain) {
                Ok(()) => {}
                Err(error) => {
                    self.told(error)?;
                    self.bad.push(blob.id);
                }
            }
        }
        Ok(())
    }

    /// As `run`, with little memory.
    fn in_pieces(&mut self, blobs: &[PackBlob]) -> Result<(), VaultError> {
        match self.name_in_pieces() {
            Ok(true) => {}
            Ok(false) => self.defect("its bytes are not those of its name".to_owned()),
            Err(error) => self.told(error)?,
        }
        match self.repository.pack_header(self.pack, self.size) {
            Ok(mut found) => {
                let mut expected = blobs.to_vec();
                found.sort_by_key(|blob| blob.offset);
                expected.sort_by_key(|blob| blob.offset);
                if found != expected {
                    self.defect(DISAGREES.to_owned());
                }
            }
            Err(error) => self.told(error)?,
        }
        self.one_by_one(blobs)
    }

    fn name_in_pieces(&mut self) -> Result<bool, VaultError> {
        let (storage, file) = (self.repository.storage.as_ref(), pack_file(self.pack));
        let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
        while self.bytes < self.size {
            let length = usize::try_from(self.size - self.bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            storage.get_range(&file, self.bytes, &mut piece[..length])?;
            hash.update(&piece[..length]);
            self.bytes += length as u64;
        }
        Ok(hash.finalize().as_slice() == self.pack.0)
    }

    /// The pack's own header says what the index says.
    fn header(&self, bytes: &[u8], blobs: &[PackBlob]) -> Result<(), String> {
        let tail = bytes.last_chunk().ok_or("it is empty")?;
        let place = pack::header_position(*tail, bytes.len() as u64).map_err(|error| error.to_string())?;
        let blobs_end = place.start;
        let place =
            usize::try_from(place.start).unwrap_or_default()..usize::try_from(place.end).unwrap_or_default();
        let mut sealed = bytes.get(place).ok_or("its header lies outside of it")?.to_vec();
        let plain = self.repository.key.open_in_place(&mut sealed).map_err(|error| error.to_string())?;
        let mut found = pack::parse_header(plain, blobs_end).map_err(|error| error.to_string())?;
        let mut expected = blobs.to_vec();
        found.sort_by_key(|blob| blob.offset);
        expected.sort_by_key(|blob| blob.offset);
        if found == expected { Ok(()) } else { Err(DISAGREES.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        job::Job,
        storage::FileKind,
        testing::{MIB, Place},
    };

    #[test]
    fn a_long_pack_is_checked_in_pieces_as_well() {
        let place = Place::new();
        place.save_at("a", &place.disk(MIB), 1);
        let index = place.repository.load_index(&Job::default()).expect("an index");
        for pack in index.packs() {
            let (file, bytes) = place.get(FileKind::Pack, &pack.to_string());
            let of_pack = index.iter().filter(|location| location.pack == *pack);
            let blobs: Vec<PackBlob> = of_pack.map(|location| location.blob).collect();
            let first = blobs.iter().find(|blob| blob.offset == 0).expect("a first one").id;
            let check = |limit| {
                let size = bytes.len() as u64;
                let mut check = PackCheck::new(&place.repository, *pack, size, limit).expect("a check");
                check.run(&blobs).expect("checked");
                assert_eq!(check.bytes, size);
                (check.defects.len(), check.bad)
            };
            for limit in [10, 1 << 30] {
                assert_eq!(check(limit), (0, vec![]));
            }
            let mut flipped = bytes.clone();
            flipped[20] ^= 1;
            place.put(&(file.clone(), flipped.clone()));
            assert_eq!(check(10).1, [first]);
            assert_eq!(check(1 << 30).1, [first]);
            flipped[20] ^= 1;
            flipped[bytes.len() - 10] ^= 1;
            place.put(&(file.clone(), flipped));
            assert_eq!(check(10), (2, vec![]), "the name and the header");
            place.put(&(file, bytes));
        }
    }
}
