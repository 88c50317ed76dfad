//! Secrets that are shown once and kept only as hashes.

use crate::digest::Sha256Digest;

/// A bearer token of 256 random bits, as text. It has no Debug and no Display: only [`Self::reveal`] shows it.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A new one, from the operating system's generator by way of the thread's (ChaCha12).
    pub fn generate() -> Self {
        Self(hex::encode(rand::random::<[u8; 32]>()))
    }

    /// The secret itself: for the one who is to hold it, never for a log.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it. A plain hash is enough: there is nothing to guess in 256 random bits.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_256_bits_and_no_two_are_alike() {
        let (a, b) = (Token::generate(), Token::generate());
        assert_eq!(a.reveal().len(), 64);
        assert!(a.digest() != b.digest());
    }
}
