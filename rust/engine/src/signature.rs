//! Ed25519 (RFC 8032): signing a few bytes, and finding out whether a signature is good.

use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::{Error, Result};

/// Length of a seed, which is what a private key is made of, and of a public key, in bytes.
pub const KEY_BYTES: usize = 32;
/// Length of a signature, in bytes.
pub const SIGNATURE_BYTES: usize = 64;

/// The public key of a private one.
///
/// # Errors
/// [`Error::Invalid`] unless the seed has [`KEY_BYTES`].
pub fn public_key(seed: &[u8]) -> Result<[u8; KEY_BYTES]> {
    let mut public = [0; KEY_BYTES];
    public.copy_from_slice(pair(seed)?.public_key().as_ref());
    Ok(public)
}

/// Sign a message.
///
/// # Errors
/// [`Error::Invalid`] unless the seed has [`KEY_BYTES`].
pub fn sign(seed: &[u8], message: &[u8]) -> Result<[u8; SIGNATURE_BYTES]> {
    let mut signature = [0; SIGNATURE_BYTES];
    signature.copy_from_slice(pair(seed)?.sign(message).as_ref());
    Ok(signature)
}

/// Whether `signature` is one of `message` by the private key that belongs to `public_key`. Anything of
/// a wrong length is not.
pub fn verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public_key).verify(message, signature).is_ok()
}

fn pair(seed: &[u8]) -> Result<Ed25519KeyPair> {
    Ed25519KeyPair::from_seed_unchecked(seed)
        .map_err(|_| Error::Invalid(format!("a private key has {KEY_BYTES} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn as_rfc_8032_says() {
        // Section 7.1, test 2.
        let seed = bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
        let public = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        let signature = bytes(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        assert_eq!(public_key(&seed).unwrap()[..], public);
        assert_eq!(sign(&seed, &[0x72]).unwrap()[..], signature);
        assert!(verify(&public, &[0x72], &signature));
        assert!(!verify(&public, &[0x73], &signature));
        assert!(!verify(&public[1..], &[0x72], &signature));
        assert!(!verify(&public, &[0x72], &signature[..63]));
        assert!(sign(&seed[1..], &[]).is_err());
    }
}
