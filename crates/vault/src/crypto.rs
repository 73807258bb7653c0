//! The seal of everything that a repository stores: secret, and refused when a bit of it changed.
//!
//! restic's design document, "Keys, Encryption and MAC": `IV (16 bytes) || AES-256-CTR || Poly1305-AES tag (16 bytes)`.
//! The counter is the IV, counted up as one 128-bit big-endian number. The tag covers the ciphertext; its one-time key
//! is `r || AES-128_k(IV)`. This module must never give out a byte whose tag was not checked, never show a key, and
//! never seal twice with one IV: an IV is always 16 fresh bytes of the system's generator.

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
