//! The config: which version of the format a repository has, and its identity.
//!
//! restic's design document, "Repository Layout": sealed, but never compressed, so that a reader can learn the version
//! before it knows about compression. We cut disks at fixed places and never use the polynomial of restic's own
//! chunker, but restic refuses a repository without an irreducible one, and cuts files by it.

use nestling_block::JsonObject;
use serde::{Deserialize, Serialize};

use super::FormatError;
use crate::{
    crypto::{MasterKey, random},
    hex,
};

const WHAT: &str = "config";
const MAX_BYTES: usize = 64 * 1024;
/// Highest power of a chunker polynomial.
const DEGREE: u32 = 53;

/// What the config of a repository says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Of the format: 1 or 2. Only from 2 on may anything be compressed.
    pub version: u32,
    /// 64 hexadecimal digits, random: caches know the repository by it.
    pub id: String,
    /// The coefficients of an irreducible polynomial of degree 53 over GF(2), as a hexadecimal number.
    pub chunker_polynomial: String,
}

impl Config {
    /// The config of a new repository of version 2.
    pub fn generate() -> Result<Self, FormatError> {
        let mut id = [0; 32];
        random(&mut id)?;
        let chunker_polynomial = format!("{:x}", random_polynomial()?);
        Ok(Self { version: 2, id: hex(&id), chunker_polynomial })
    }

    /// The JSON of a config.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        serde_json::to_vec(self).map_err(FormatError::json(WHAT))
    }

    /// A config from its JSON, when a stock restic would take it as well.
    pub fn decode(json: &[u8]) -> Result<Self, FormatError> {
        let JsonObject::<Self>(config) = serde_json::from_slice(json).map_err(FormatError::json(WHAT))?;
        if !matches!(config.version, 1 | 2) {
            let why = format!("version {} of the format is not known, only 1 and 2 are", config.version);
            return Err(FormatError::invalid(WHAT, why));
        }
        if config.id.parse::<crate::BlobId>().is_err() {
            return Err(FormatError::invalid(WHAT, "its id is not 64 hexadecimal digits"));
        }
        // Rust takes a plus before the digits, and restic does not.
        let digits = Some(&config.chunker_polynomial).filter(|text| !text.starts_with('+'));
        match digits.map(|digits| u64::from_str_radix(digits, 16)) {
            Some(Ok(polynomial)) if degree(polynomial) == Some(DEGREE) && is_irreducible(polynomial) => {
                Ok(config)
            }
            _ => Err(FormatError::invalid(WHAT, "its chunker polynomial is not irreducible of degree 53")),
        }
    }

    /// The bytes of the file `config`.
    pub fn seal(&self, key: &MasterKey) -> Result<Vec<u8>, FormatError> {
        Ok(key.seal(&self.encode()?)?)
    }

    /// A config from the bytes of the file `config`.
    pub fn open(key: &MasterKey, mut sealed: Vec<u8>) -> Result<Self, FormatError> {
        if sealed.len() > MAX_BYTES {
            return Err(FormatError::TooLarge { what: WHAT, limit_bytes: MAX_BYTES as u64 });
        }
        Self::decode(key.open_in_place(&mut sealed)?)
    }
}

/// About one in 26 odd polynomials is irreducible.
fn random_polynomial() -> Result<u64, FormatError> {
    loop {
        let mut bytes = [0; 8];
        random(&mut bytes)?;
        let polynomial = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(polynomial) {
            return Ok(polynomial);
        }
    }
}

/// The highest power with a coefficient, `None` for zero.
fn degree(polynomial: u64) -> Option<u32> {
    polynomial.checked_ilog2()
}

/// `a` mod `m`, for `m` other than zero.
fn remainder(mut a: u64, m: u64) -> u64 {
    while let (Some(da), Some(dm)) = (degree(a), degree(m))
        && da >= dm
    {
        a ^= m << (da - dm);
    }
    a
}

/// `a` squared mod `m`, for `a` of a lower degree than `m`.
fn square(a: u64, m: u64) -> u64 {
    let (mut product, Some(dm)) = (0, degree(m)) else { return 0 };
    // Horner's scheme: double what is there, then add.
    for bit in (0..dm).rev() {
        product <<= 1;
        if product >> dm & 1 == 1 {
            product ^= m;
        }
        if a >> bit & 1 == 1 {
            product ^= a;
        }
    }
    product
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, remainder(a, b));
    }
    a
}

/// Whether a polynomial of degree 1 to 62 over GF(2) has no factors (the test of Ben-Or): x^(2^i) - x is the product
/// of all irreducible polynomials whose degree divides i, and a reducible one has a factor of at most half its degree.
fn is_irreducible(polynomial: u64) -> bool {
    let Some(degree @ 1..=62) = degree(polynomial) else { return false };
    let mut power = 2;
    (1..=degree / 2).all(|_| {
        power = square(power, polynomial);
        greatest_common_divisor(polynomial, power ^ 2) == 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether anything of a lower degree divides.
    fn has_no_divisor(polynomial: u64) -> bool {
        (2..polynomial).all(|divisor| remainder(polynomial, divisor) != 0)
    }

    #[test]
    fn irreducible_polynomials_are_those_without_divisors() {
        for polynomial in 4..2048 {
            assert_eq!(is_irreducible(polynomial), has_no_divisor(polynomial), "{polynomial:b}");
        }
    }

    #[test]
    fn a_product_of_large_factors_is_reducible() {
        // Both factors are irreducible: x^26 + x^4 + x^3 + x + 1 and x^27 + x^5 + x^2 + x + 1.
        let (a, b) = (1_u64 << 26 | 0b11011, 1_u64 << 27 | 0b100111);
        assert!(is_irreducible(a) && is_irreducible(b));
        let product = (0..28).filter(|bit| b >> bit & 1 == 1).fold(0, |sum, bit| sum ^ a << bit);
        assert_eq!(degree(product), Some(DEGREE));
        assert!(!is_irreducible(product));
    }

    #[test]
    fn a_new_config_is_sealed_and_opened() {
        let key = MasterKey::generate().unwrap();
        let config = Config::generate().unwrap();
        assert_eq!(Config::open(&key, config.seal(&key).unwrap()).unwrap(), config);
        assert_ne!(config.id, Config::generate().unwrap().id);
    }

    #[test]
    fn what_restic_would_refuse_is_refused() {
        let good = Config { version: 2, id: "0f".repeat(32), chunker_polynomial: "3027fdfb419915".into() };
        assert_eq!(Config::decode(&good.encode().unwrap()).unwrap(), good);
        for bad in [
            Config { version: 0, ..good.clone() },
            Config { version: 3, ..good.clone() },
            Config { id: "0f".repeat(31), ..good.clone() },
            Config { id: "../../../etc".into(), ..good.clone() },
            Config { chunker_polynomial: "3027fdfb419914".into(), ..good.clone() },
            Config { chunker_polynomial: "7".into(), ..good.clone() },
            Config { chunker_polynomial: String::new(), ..good.clone() },
            Config { chunker_polynomial: "f".repeat(17), ..good },
        ] {
            assert!(Config::decode(&bad.encode().unwrap()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_polynomial_with_a_sign_is_refused() {
        let signed = r#"{"version":2,"id":"ID","chunker_polynomial":"+3027fdfb419915"}"#;
        let signed = signed.replace("ID", &"0f".repeat(32));
        assert!(Config::decode(signed.as_bytes()).is_err());
        assert!(Config::decode(signed.replace('+', "").as_bytes()).is_ok());
    }
}
