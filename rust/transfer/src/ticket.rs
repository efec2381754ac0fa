//! Tickets, their keys, and the certificate of a source.

use std::fmt;

use holdfast_engine::signature;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version of the ticket that is written, and the highest that is read.
const VERSION: u32 = 1;
/// The name in certificates. Nothing checks it: the fingerprint is what counts.
const NAME: &str = "holdfast-transfer";

/// What a destination needs to fetch one offered directory. Its bearer can fetch it once.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// 1.
    pub version: u32,
    /// The id of the offer: 32 hexadecimal digits.
    pub offer: String,
    /// Addresses of the source, tried in this order.
    pub addresses: Vec<String>,
    /// The port of its data listener.
    pub port: u16,
    /// SHA-256 of its certificate, in hexadecimal.
    pub fingerprint: String,
    /// The single-use key: 64 hexadecimal digits.
    pub key: String,
    /// The path that is offered, for people.
    pub path: String,
    /// When it expires, in seconds since the epoch.
    pub expires_at: u64,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("offer", &self.offer).finish_non_exhaustive()
    }
}

impl Ticket {
    /// Return the id of the offer.
    ///
    /// # Errors
    /// [`Error::Engine`] for a malformed or newer ticket.
    pub(crate) fn id(&self) -> Result<[u8; 16]> {
        if self.version != VERSION {
            return Err(invalid(format!("the ticket has version {}, not {VERSION}", self.version)));
        }
        parse_hex(&self.offer).ok_or_else(|| invalid("the ticket has a malformed offer id"))
    }

    /// Return the single-use key.
    ///
    /// # Errors
    /// [`Error::Engine`] for a malformed key.
    pub(crate) fn secret(&self) -> Result<Secret> {
        Secret::parse(&self.key).ok_or_else(|| invalid("the ticket has a malformed key"))
    }

    /// Return the digest of the certificate that is believed.
    ///
    /// # Errors
    /// [`Error::Engine`] for a malformed fingerprint.
    pub(crate) fn pin(&self) -> Result<[u8; 32]> {
        parse_hex(&self.fingerprint)
            .ok_or_else(|| invalid("the ticket has a malformed fingerprint"))
    }
}

/// The seed of an Ed25519 key. It proves its holder and is never sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Draw a new one.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system has no randomness.
    pub fn generate() -> Result<Self> {
        random().map(Self)
    }

    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// Read what [`Secret::text`] returned; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    /// Return it as 64 hexadecimal digits.
    pub fn text(&self) -> String {
        hex(&self.0)
    }

    /// Return the public key by which its proofs are verified: all that a source stores of a ticket.
    ///
    /// # Errors
    /// [`Error::Engine`] never for a seed of 32 bytes.
    pub fn public(&self) -> Result<[u8; 32]> {
        let public = signature::public_key(&self.0)?;
        <[u8; 32]>::try_from(public.as_ref()).map_err(|_| invalid("a public key has 32 bytes"))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        Ok(signature::sign(&self.0, message)?.to_vec())
    }
}

/// A self-signed certificate and its key.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// Its key, PKCS #8 in DER.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Certificate {
    /// Make a new one.
    ///
    /// # Errors
    /// [`Error::Engine`] if the system has no randomness.
    pub fn generate() -> Result<Self> {
        let failed = |error: rcgen::Error| invalid(format!("making a certificate failed: {error}"));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let parameters = CertificateParams::new(vec![NAME.to_owned()]).map_err(failed)?;
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        Ok(Self { certificate: certificate.der().to_vec(), key: key.serialize_der() })
    }

    /// Return SHA-256 of the certificate in hexadecimal, as tickets have it.
    pub fn fingerprint(&self) -> String {
        hex(digest(&SHA256, &self.certificate).as_ref())
    }
}

/// Draw random bytes.
///
/// # Errors
/// [`Error::Engine`] if the system has no randomness.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| invalid("the system has no randomness"))?;
    Ok(bytes)
}

/// Return bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Read hexadecimal digits; `None` unless they are `N` bytes.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn invalid(reason: impl Into<String>) -> Error {
    holdfast_engine::Error::Invalid(reason.into()).into()
}

#[cfg(test)]
mod tests {
    use super::{Certificate, Secret, hex, parse_hex};

    #[test]
    fn hexadecimal_digits_are_read_back_and_nothing_else_is() {
        let bytes: [u8; 4] = [0, 1, 0xab, 0xff];
        assert_eq!(parse_hex(&hex(&bytes)), Some(bytes));
        for text in ["0001abf", "0001abff0", "0001abfg", "+001abff"] {
            assert_eq!(parse_hex::<4>(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_and_certificates_differ_each_time_and_show_nothing() {
        let (one, other) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        assert_ne!(one.public().unwrap(), other.public().unwrap());
        assert_eq!(Secret::parse(&one.text()), Some(one.clone()));
        assert_eq!(format!("{one:?}"), "Secret");
        let (a, b) = (Certificate::generate().unwrap(), Certificate::generate().unwrap());
        assert_ne!(a.fingerprint(), b.fingerprint());
    }
}
