//! Digests of file content.

use std::fmt;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3Default;

use crate::xxh64::Xxh64;

/// An algorithm, by the name it has in records and in the HTTP interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// XXH64 with seed 0, as `xxh64sum` computes it. Finds accidents, not forgeries.
    Xxh64,
    /// XXH3 with 128 bits, as `xxh128sum` computes it. Finds accidents, not forgeries.
    #[serde(rename = "xxh3_128")]
    Xxh3_128,
    /// BLAKE3, as `b3sum` computes it. Cryptographic: finds forgeries as well.
    Blake3,
}

impl Algorithm {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Xxh64 => "xxh64",
            Self::Xxh3_128 => "xxh3_128",
            Self::Blake3 => "blake3",
        }
    }
}

/// A digest. Shown in hexadecimal, most significant digit first, as the algorithm's own tools do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// Of [`Algorithm::Xxh64`].
    Xxh64(u64),
    /// Of [`Algorithm::Xxh3_128`]: the high half, the low half.
    Xxh3_128([u64; 2]),
    /// Of [`Algorithm::Blake3`].
    Blake3([u8; 32]),
}

impl Digest {
    /// Read what [`Display`](fmt::Display) shows, in either case; `None` for anything else.
    pub fn parse(algorithm: Algorithm, text: &str) -> Option<Self> {
        let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match (algorithm, text.len()) {
            (Algorithm::Xxh64, 16) if hexadecimal => {
                u64::from_str_radix(text, 16).ok().map(Self::Xxh64)
            }
            (Algorithm::Xxh3_128, 32) if hexadecimal => {
                let half = |text| u64::from_str_radix(text, 16).ok();
                Some(Self::Xxh3_128([half(&text[..16])?, half(&text[16..])?]))
            }
            (Algorithm::Blake3, 64) if hexadecimal => {
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
                    *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
                }
                Some(Self::Blake3(bytes))
            }
            _ => None,
        }
    }

    /// Which algorithm it is of.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Xxh64(_) => Algorithm::Xxh64,
            Self::Xxh3_128(_) => Algorithm::Xxh3_128,
            Self::Blake3(_) => Algorithm::Blake3,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh64(digest) => write!(f, "{digest:016x}"),
            Self::Xxh3_128([high, low]) => write!(f, "{high:016x}{low:016x}"),
            Self::Blake3(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A running digest.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// Of [`Algorithm::Xxh64`].
    Xxh64(Xxh64),
    /// Of [`Algorithm::Xxh3_128`].
    Xxh3_128(Box<Xxh3>),
    /// Of [`Algorithm::Blake3`].
    Blake3(Box<blake3::Hasher>),
}

/// [`Xxh3Default`], which does not show what is in it.
#[derive(Clone)]
pub struct Xxh3(Xxh3Default);

impl fmt::Debug for Xxh3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Xxh3")
    }
}

impl Hasher {
    /// Begin.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Xxh64 => Self::Xxh64(Xxh64::default()),
            Algorithm::Xxh3_128 => Self::Xxh3_128(Box::new(Xxh3(Xxh3Default::new()))),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
        }
    }

    /// Take in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh64(hasher) => hasher.update(bytes),
            Self::Xxh3_128(hasher) => hasher.0.update(bytes),
            Self::Blake3(hasher) => _ = hasher.update(bytes),
        }
    }

    /// The digest of all bytes taken in so far.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Xxh64(hasher) => Digest::Xxh64(hasher.digest()),
            Self::Xxh3_128(hasher) => {
                let digest = hasher.0.digest128();
                Digest::Xxh3_128([(digest >> 64) as u64, digest as u64])
            }
            Self::Blake3(hasher) => Digest::Blake3(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Digest, Hasher};

    /// What `printf abc | xxh64sum`, `xxh128sum` and `b3sum` print.
    const ABC: [(Algorithm, &str); 3] = [
        (Algorithm::Xxh64, "44bc2cf5ad770999"),
        (Algorithm::Xxh3_128, "06b05ab6733a618578af5f94892f3950"),
        (Algorithm::Blake3, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
    ];

    #[test]
    fn digests_are_those_of_the_algorithms_own_tools_and_are_read_back() {
        for (algorithm, text) in ABC {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"a");
            hasher.update(b"bc");
            let digest = hasher.digest();
            assert_eq!(digest.to_string(), text);
            assert_eq!(Digest::parse(algorithm, text), Some(digest));
            assert_eq!(Digest::parse(algorithm, &text.to_uppercase()), Some(digest));
            assert_eq!(Digest::parse(algorithm, &text[1..]), None);
            assert_eq!(Digest::parse(algorithm, &text.replace('b', "+")), None);
        }
    }
}
