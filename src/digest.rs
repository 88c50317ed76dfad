//! SHA-256, which names bodies and blobs, and is what is kept of secrets.

use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// A SHA-256. Compared in constant time, because some of them are hashes of secrets.
#[derive(Clone, Copy)]
pub struct Sha256Digest(pub [u8; 32]);

impl Sha256Digest {
    /// The hash of these bytes.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The way back from the database.
    ///
    /// # Errors
    /// It is not 32 bytes long.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, String> {
        bytes.try_into().map(Self).map_err(|_| format!("a SHA-256 of {} bytes", bytes.len()))
    }
}

impl FromStr for Sha256Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut digest = [0; 32];
        match hex::decode_to_slice(text, &mut digest) {
            Ok(()) => Ok(Self(digest)),
            Err(_) => Err(format!("'{text}' is no SHA-256: 64 hexadecimal digits")),
        }
    }
}

impl PartialEq for Sha256Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Sha256Digest {}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_writes_and_nothing_else() {
        let digest = Sha256Digest::of("abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        for text in ["", "ab", &digest.to_string()[1..], &"g".repeat(64), &"a".repeat(66)] {
            assert!(text.parse::<Sha256Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_digest_is_that_of_the_text() {
        assert_eq!(
            Sha256Digest::of("abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
