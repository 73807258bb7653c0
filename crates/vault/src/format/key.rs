//! Key files: the master key of a repository, sealed with a key that is derived from a password.
//!
//! restic's design document, "Keys, Encryption and MAC": plain JSON, named by its SHA-256; scrypt makes 64 bytes of the
//! password and the salt, of which 32 encrypt and 32 authenticate the master key. Several files are several passwords
//! for one master key. Whoever can write to the storage can write a key file, so its costs are bounded before memory
//! is taken; and nothing here may ever show a password or a key, not in errors either.

use base64ct::{Base64, Encoding};
use nestling_block::JsonObject;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::Timestamp;
use crate::crypto::{CryptoError, KEY_BYTES, MasterKey, random};

/// The most bytes that a key file may have.
pub const MAX_BYTES: usize = 64 * 1024;
const SALT_BYTES: usize = 64;
/// restic itself takes at most 60 MiB, and rustic 128 MiB.
const MAX_MEMORY_BYTES: u64 = 256 << 20;
/// N * r * p of a derivation that takes some seconds; restic aims at half a second.
const MAX_WORK: u64 = 1 << 24;

/// Why a key file was not made or not opened.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The one error that another password can mend.
    #[error("the password does not open this key file")]
    WrongPassword,
    #[error("the key file is not readable: {0}")]
    Json(serde_json::Error),
    #[error("the key file is not valid: {0}")]
    Invalid(&'static str),
    /// Deriving a key would take more memory or time than any writer asks for.
    #[error("the key file asks for too much or too little: N={n}, r={r}, p={p}")]
    Cost { n: u64, r: u32, p: u32 },
    #[error(transparent)]
    Crypto(CryptoError),
}

/// How much memory and time one guess of a password costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KdfCost {
    /// What restic measures out on usual machines: N 32768, r 8, p 3: 32 MiB and some 0.2 s.
    Standard,
    /// For tests only: next to nothing, so that a password is as good as none.
    Fast,
}

/// What a key file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyFile {
    pub created: Timestamp,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub hostname: String,
    /// Always "scrypt".
    pub kdf: String,
    /// scrypt's cost, a power of two.
    #[serde(rename = "N")]
    pub n: u64,
    /// scrypt's block size.
    pub r: u32,
    /// scrypt's parallelism.
    pub p: u32,
    /// 64 random bytes.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub salt: Vec<u8>,
    /// The master key as JSON, sealed.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
}

impl KeyFile {
    /// A key file that opens `master` with `password`.
    pub fn create(
        password: &[u8],
        master: &MasterKey,
        hostname: &str,
        username: &str,
        created: &Timestamp,
        cost: KdfCost,
    ) -> Result<Self, KeyError> {
        let (n, r, p) = match cost {
            KdfCost::Standard => (1 << 15, 8, 3),
            KdfCost::Fast => (2, 8, 1),
        };
        let mut salt = vec![0; SALT_BYTES];
        random(&mut salt).map_err(KeyError::Crypto)?;
        let mut file = Self {
            created: *created,
            username: username.into(),
            hostname: hostname.into(),
            kdf: "scrypt".into(),
            n,
            r,
            p,
            salt,
            data: Vec::new(),
        };
        file.data = file.derive(password)?.seal(&encode_master(master)).map_err(KeyError::Crypto)?;
        Ok(file)
    }

    /// The master key, when `password` is the right one. Takes the time and the memory that the file asks for, within
    /// bounds: 256 MiB and some seconds.
    pub fn open(&self, password: &[u8]) -> Result<MasterKey, KeyError> {
        let derived = self.derive(password)?;
        let mut data = Zeroizing::new(self.data.clone());
        let json = derived.open_in_place(&mut data).map_err(|error| match error {
            CryptoError::BrokenSeal => KeyError::WrongPassword,
            other => KeyError::Crypto(other),
        })?;
        decode_master(json)
    }

    /// The bytes of a key file.
    pub fn encode(&self) -> Result<Vec<u8>, KeyError> {
        serde_json::to_vec(self).map_err(KeyError::Json)
    }

    /// A key file from its bytes. Only [`open`](Self::open) judges the costs.
    pub fn decode(json: &[u8]) -> Result<Self, KeyError> {
        if json.len() > MAX_BYTES {
            return Err(KeyError::Invalid("it is too large"));
        }
        serde_json::from_slice(json).map(|JsonObject(file)| file).map_err(KeyError::Json)
    }

    fn derive(&self, password: &[u8]) -> Result<MasterKey, KeyError> {
        if self.kdf != "scrypt" {
            return Err(KeyError::Invalid("its key derivation is not scrypt, the only one known"));
        }
        if self.salt.len() != SALT_BYTES {
            return Err(KeyError::Invalid("its salt does not have 64 bytes"));
        }
        let (n, r, p) = (self.n, self.r, self.p);
        let refused = || KeyError::Cost { n, r, p };
        let blocks = n.checked_mul(r.into()).ok_or_else(refused)?;
        let work = blocks.checked_mul(p.into()).ok_or_else(refused)?;
        // p blocks of 128 * r bytes are taken as well, but N is at least as large as p or work bounds both.
        let memory = blocks.max(u64::from(r) * u64::from(p)).checked_mul(128).ok_or_else(refused)?;
        if !n.is_power_of_two() || n < 2 || work == 0 || work > MAX_WORK || memory > MAX_MEMORY_BYTES {
            return Err(refused());
        }
        // The logarithm of 64 bits fits.
        let parameters = scrypt::Params::new(n.ilog2() as u8, r, p).map_err(|_| refused())?;
        let mut derived = Zeroizing::new([0; KEY_BYTES]);
        scrypt::scrypt(password, &self.salt, &parameters, &mut derived[..]).map_err(|_| refused())?;
        MasterKey::from_bytes(&derived).map_err(KeyError::Crypto)
    }
}

/// `{"mac":{"k":...,"r":...},"encrypt":...}`, built by hand so that no copy of it is left in memory.
fn encode_master(master: &MasterKey) -> Zeroizing<Vec<u8>> {
    let (encrypt, k, r) = master.parts();
    let mut json = Zeroizing::new(Vec::with_capacity(256));
    let mut field = |before: &str, key: &[u8]| {
        json.extend_from_slice(before.as_bytes());
        json.extend_from_slice(Zeroizing::new(Base64::encode_string(key)).as_bytes());
    };
    field("{\"mac\":{\"k\":\"", k);
    field("\",\"r\":\"", r);
    field("\"},\"encrypt\":\"", encrypt);
    json.extend_from_slice(b"\"}");
    json
}

fn decode_master(json: &[u8]) -> Result<MasterKey, KeyError> {
    #[derive(Deserialize)]
    struct Mac<'a> {
        k: &'a str,
        r: &'a str,
    }
    #[derive(Deserialize)]
    struct Master<'a> {
        #[serde(borrow)]
        mac: Mac<'a>,
        encrypt: &'a str,
    }
    // serde's errors may quote what they read, which here is the key.
    let refused = || KeyError::Invalid("what it seals is not a master key");
    let master: Master<'_> = serde_json::from_slice(json).map_err(|_| refused())?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    for (text, range) in [(master.encrypt, 0..32), (master.mac.k, 32..48), (master.mac.r, 48..64)] {
        let length = range.len();
        let decoded = Base64::decode(text, &mut bytes[range]).map_err(|_| refused())?;
        if decoded.len() != length {
            return Err(refused());
        }
    }
    MasterKey::from_bytes(&bytes).map_err(KeyError::Crypto)
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Base64::encode_string(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Base64::decode_vec(&text).map_err(serde::de::Error::custom)
}
