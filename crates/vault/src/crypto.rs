//! The seal of everything that a repository stores: secret, and refused when a bit of it changed.
//!
//! restic's design document, "Keys, Encryption and MAC": `IV (16 bytes) || AES-256-CTR || Poly1305-AES tag (16 bytes)`.
//! The counter is the IV, counted up as one 128-bit big-endian number. The tag covers the ciphertext; its one-time key
//! is `r || AES-128_k(IV)`.
//!
//! Measured on one busy core of a Xeon with AES, AVX2 and SHA instructions, pieces of 256 KiB: AES-256-CTR 6.3 GB/s,
//! Poly1305 5.7 GB/s, both together 3.0 GB/s to seal and to open; SHA-256, which every blob needs as well, 2.0 GB/s. The
//! AVX-512 backend of `aes`, which wants a flag to the compiler, gains nothing here, and the libraries that are faster
//! at AES-GCM (ring: 10 GB/s) offer neither of the two primitives. `speed.rs` in `format` measures again.
//!
//! This module must never give out a byte whose tag was not checked, never show a key, and never seal twice with one
//! IV: an IV is always 16 fresh bytes of the system's generator.

use std::fmt;

use aes::{Aes128, Aes256};
use ctr::{
    Ctr128BE, CtrCore,
    cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper},
    flavors,
};
use poly1305::{Block, Poly1305, universal_hash::UniversalHash};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of the initialization vector that a sealed object begins with.
pub const IV_BYTES: usize = 16;
/// Bytes of the tag that a sealed object ends with.
pub const TAG_BYTES: usize = 16;
/// How many bytes longer than its plain content a sealed object is.
pub const SEAL_OVERHEAD: usize = IV_BYTES + TAG_BYTES;
/// Bytes of key material: AES-256 key, then AES-128 key `k` and `r` of the tag.
pub(crate) const KEY_BYTES: usize = 64;

/// Encrypting and tagging alternate in pieces of this size, so that the tag reads from the first-level cache.
const PIECE_BYTES: usize = 8 * 1024;

/// Why something was not sealed or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    /// Shorter than the overhead alone.
    #[error(
        "{length_bytes} bytes are too few for a sealed object, which has at least {SEAL_OVERHEAD}: it was cut off"
    )]
    TooShort { length_bytes: usize },
    /// Damaged, forged, or sealed with another key: the tag cannot tell which.
    #[error("the seal is broken: the data was changed after it was written, or was sealed with another key")]
    BrokenSeal,
    /// Key material that no writer makes: all zero.
    #[error("the key material is all zero, which no writer makes")]
    InvalidKey,
    /// The system's random generator failed.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// Fills `bytes` from the system's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<(), CryptoError> {
    getrandom::fill(bytes).map_err(|e| CryptoError::Random(e.to_string()))
}

/// The keys of a repository: they encrypt and authenticate everything in it. Wiped from memory when dropped.
pub struct MasterKey(Box<Keys>);

struct Keys {
    encrypt: [u8; 32],
    k: [u8; 16],
    r: [u8; 16],
    // The expanded forms of `encrypt` and `k`; they wipe themselves.
    stream: Aes256,
    tag: Aes128,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.encrypt.zeroize();
        self.k.zeroize();
        self.r.zeroize();
    }
}

impl ZeroizeOnDrop for MasterKey {}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl MasterKey {
    /// A new key of 512 random bits.
    pub fn generate() -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(&mut bytes[..])?;
        Self::from_bytes(&bytes)
    }

    /// From `encrypt || k || r`, the order in which scrypt's output is cut up.
    pub(crate) fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<Self, CryptoError> {
        let (mut encrypt, mut k, mut r) = ([0; 32], [0; 16], [0; 16]);
        encrypt.copy_from_slice(&bytes[..32]);
        k.copy_from_slice(&bytes[32..48]);
        r.copy_from_slice(&bytes[48..]);
        let zero = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all | byte) == 0;
        if zero(&encrypt) || zero(&k) || zero(&r) {
            return Err(CryptoError::InvalidKey);
        }
        let keys = Keys { stream: Aes256::new(&encrypt.into()), tag: Aes128::new(&k.into()), encrypt, k, r };
        encrypt.zeroize();
        k.zeroize();
        r.zeroize();
        Ok(Self(Box::new(keys)))
    }

    /// `encrypt`, `k` and `r`, to be stored in a key file and nowhere else.
    pub(crate) fn parts(&self) -> (&[u8; 32], &[u8; 16], &[u8; 16]) {
        (&self.0.encrypt, &self.0.k, &self.0.r)
    }

    /// Appends `plain`, sealed, to `out`: [`SEAL_OVERHEAD`] bytes more than `plain` has. Fails only when the system
    /// has no random bytes, and then leaves `out` as it was.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), CryptoError> {
        let mut iv = [0; IV_BYTES];
        random(&mut iv)?;
        out.reserve(plain.len() + SEAL_OVERHEAD);
        out.extend_from_slice(&iv);
        let mut stream = self.stream(&iv);
        let mut tag = self.tagger(&iv);
        let mut pieces = plain.chunks_exact(PIECE_BYTES);
        for piece in &mut pieces {
            let start = out.len();
            out.extend_from_slice(piece);
            stream.apply_keystream(&mut out[start..]);
            update(&mut tag, &out[start..]);
        }
        let start = out.len();
        out.extend_from_slice(pieces.remainder());
        stream.apply_keystream(&mut out[start..]);
        let tag = finish(tag, &out[start..]);
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// `plain`, sealed.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let mut out = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        self.seal_into(plain, &mut out)?;
        Ok(out)
    }

    /// Checks the seal, then decrypts within `sealed`, and returns the plain part of it. When the seal is broken,
    /// nothing was decrypted and `sealed` is as it was.
    pub fn open_in_place<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], CryptoError> {
        let too_short = CryptoError::TooShort { length_bytes: sealed.len() };
        let Some((iv, rest)) = sealed.split_first_chunk_mut::<IV_BYTES>() else { return Err(too_short) };
        let Some((text, stored)) = rest.split_last_chunk_mut::<TAG_BYTES>() else { return Err(too_short) };
        let mut tag = self.tagger(iv);
        let whole = text.len() / PIECE_BYTES * PIECE_BYTES;
        update(&mut tag, &text[..whole]);
        let computed = finish(tag, &text[whole..]);
        if !same(&computed, stored) {
            return Err(CryptoError::BrokenSeal);
        }
        self.stream(iv).apply_keystream(text);
        Ok(text)
    }

    /// Whether `sealed` would be opened, and `plain` come out of it. Nothing is kept of it, so that it costs less than opening.
    pub(crate) fn opens_to(&self, sealed: &[u8], plain: &[u8]) -> bool {
        let Some((iv, rest)) = sealed.split_first_chunk::<IV_BYTES>() else { return false };
        let Some((text, stored)) = rest.split_last_chunk::<TAG_BYTES>() else { return false };
        if text.len() != plain.len() {
            return false;
        }
        let (mut stream, mut tag) = (self.stream(iv), self.tagger(iv));
        let mut buffer = Zeroizing::new([0; PIECE_BYTES]);
        let mut opens_to = |text: &[u8], plain: &[u8]| {
            let opened = &mut buffer[..text.len()];
            opened.copy_from_slice(text);
            stream.apply_keystream(opened);
            *opened == *plain
        };
        let (mut pieces, mut plains) = (text.chunks_exact(PIECE_BYTES), plain.chunks_exact(PIECE_BYTES));
        let mut same_text = true;
        for (piece, plain) in (&mut pieces).zip(&mut plains) {
            update(&mut tag, piece);
            same_text &= opens_to(piece, plain);
        }
        same_text &= opens_to(pieces.remainder(), plains.remainder());
        same(&finish(tag, pieces.remainder()), stored) && same_text
    }

    fn stream(&self, iv: &[u8; IV_BYTES]) -> StreamCipherCoreWrapper<CtrCore<&Aes256, flavors::Ctr128BE>> {
        Ctr128BE::from_core(CtrCore::inner_iv_init(&self.0.stream, iv.into()))
    }

    fn tagger(&self, iv: &[u8; IV_BYTES]) -> Poly1305 {
        let mut nonce = (*iv).into();
        self.0.tag.encrypt_block(&mut nonce);
        let mut key = Zeroizing::new([0; poly1305::KEY_SIZE]);
        key[..16].copy_from_slice(&self.0.r);
        key[16..].copy_from_slice(&nonce);
        Poly1305::new((&*key).into())
    }
}

/// Takes `bytes`, a multiple of 16, into the tag.
fn update(tag: &mut Poly1305, bytes: &[u8]) {
    let (blocks, _) = Block::slice_as_chunks(bytes);
    tag.update(blocks);
}

/// Takes the last bytes into the tag and computes it. Whole blocks go the fast way.
fn finish(mut tag: Poly1305, bytes: &[u8]) -> [u8; TAG_BYTES] {
    let (blocks, rest) = Block::slice_as_chunks(bytes);
    tag.update(blocks);
    tag.compute_unpadded(rest).into()
}

/// Whether two tags are equal, in a time that does not depend on where they differ.
fn same(a: &[u8; TAG_BYTES], b: &[u8; TAG_BYTES]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let mut bytes = [0; N];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
        }
        bytes
    }

    fn key(encrypt: [u8; 32], k: [u8; 16], r: [u8; 16]) -> MasterKey {
        MasterKey::from_bytes(&[&encrypt[..], &k, &r].concat().try_into().unwrap()).unwrap()
    }

    fn fixed() -> MasterKey {
        key([1; 32], [2; 16], [3; 16])
    }

    #[test]
    fn the_tag_is_that_of_the_paper_on_poly1305_aes() {
        let (k, r) = (bytes("ec074c835580741701425b623235add6"), bytes("851fc40c3467ac0be05cc20404f3f700"));
        let iv = bytes("fb447350c4e868c52ac3275cf9d4327e");
        let tag = finish(key([1; 32], k, r).tagger(&iv), &[0xf3, 0xf6]);
        assert_eq!(tag, bytes("f4c633c3044fc145f84f335cb81953de"));
    }

    #[test]
    fn the_stream_is_that_of_the_standard_on_counter_mode() {
        // NIST SP 800-38A, F.5.5, first two blocks.
        let encrypt = bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let mut text: [u8; 32] = bytes("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let iv = bytes("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
        key(encrypt, [2; 16], [3; 16]).stream(&iv).apply_keystream(&mut text);
        assert_eq!(text, bytes("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"));
    }

    #[test]
    fn the_counter_carries_over_all_128_bits() {
        let (mut first, mut second) = ([0; 32], [0; 16]);
        fixed().stream(&bytes("00000000000000ffffffffffffffffff")).apply_keystream(&mut first);
        fixed().stream(&bytes("00000000000001000000000000000000")).apply_keystream(&mut second);
        assert_eq!(first[16..], second);
        let mut first = [0; 32];
        fixed().stream(&[0xff; 16]).apply_keystream(&mut first);
        fixed().stream(&[0; 16]).apply_keystream({
            second = [0; 16];
            &mut second
        });
        assert_eq!(first[16..], second);
    }

    #[test]
    fn what_was_sealed_in_pieces_is_what_is_opened_at_once() {
        let plain: Vec<u8> = (0..3 * PIECE_BYTES + 77).map(|i| (i * 7 % 251) as u8).collect();
        for length in
            [0, 1, 15, 16, 17, 63, 64, 65, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, plain.len()]
        {
            let mut out = b"before".to_vec();
            fixed().seal_into(&plain[..length], &mut out).unwrap();
            assert_eq!(out.len(), 6 + length + SEAL_OVERHEAD);
            assert_eq!(fixed().open_in_place(&mut out[6..]).unwrap(), &plain[..length]);
            assert!(out.starts_with(b"before"));
        }
    }

    #[test]
    fn no_two_seals_are_alike_and_no_other_key_opens_them() {
        let (a, b) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
        let mut sealed = a.seal(b"content").unwrap();
        assert_ne!(sealed, a.seal(b"content").unwrap());
        assert_eq!(b.open_in_place(&mut sealed), Err(CryptoError::BrokenSeal));
        assert_eq!(a.open_in_place(&mut sealed).unwrap(), b"content");
    }

    #[test]
    fn keys_are_not_shown_and_must_be_some() {
        assert_eq!(format!("{:?}", fixed()), "MasterKey(..)");
        assert!(matches!(MasterKey::from_bytes(&[0; 64]), Err(CryptoError::InvalidKey)));
        let mut no_r = [1; 64];
        no_r[48..].fill(0);
        assert!(matches!(MasterKey::from_bytes(&no_r), Err(CryptoError::InvalidKey)));
    }

    #[test]
    fn what_opens_to_something_opens_to_nothing_else() {
        let plain: Vec<u8> = (0..2 * PIECE_BYTES + 77).map(|i| (i * 7 % 251) as u8).collect();
        for length in [0, 1, 16, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, plain.len()] {
            let sealed = fixed().seal(&plain[..length]).unwrap();
            assert!(fixed().opens_to(&sealed, &plain[..length]), "{length} bytes");
            assert!(!MasterKey::generate().unwrap().opens_to(&sealed, &plain[..length]), "another key");
            assert!(!fixed().opens_to(&sealed, &vec![0; length + 1]), "more bytes");
            for at in [0, length / 2, length.saturating_sub(1)].into_iter().filter(|at| *at < length) {
                let mut other = plain[..length].to_vec();
                other[at] ^= 1;
                assert!(!fixed().opens_to(&sealed, &other), "byte {at} of {length}");
            }
            for at in [0, IV_BYTES, sealed.len() / 2, sealed.len() - 1] {
                let mut broken = sealed.clone();
                broken[at] ^= 0x80;
                assert!(!fixed().opens_to(&broken, &plain[..length]), "sealed byte {at} of {length}");
            }
        }
        assert!(!fixed().opens_to(&[0; SEAL_OVERHEAD - 1], &[]));
    }

    proptest! {
        #[test]
        fn a_changed_bit_breaks_the_seal(plain in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8) {
            let mut sealed = fixed().seal(&plain).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1_u8 << bit;
            let before = sealed.clone();
            prop_assert_eq!(fixed().open_in_place(&mut sealed), Err(CryptoError::BrokenSeal));
            prop_assert_eq!(sealed, before);
        }

        #[test]
        fn what_was_cut_off_is_refused(plain in prop::collection::vec(any::<u8>(), 0..200), length in any::<prop::sample::Index>()) {
            let mut sealed = fixed().seal(&plain).unwrap();
            sealed.truncate(length.index(sealed.len()));
            prop_assert!(fixed().open_in_place(&mut sealed).is_err());
        }
    }
}
