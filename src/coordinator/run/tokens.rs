//! The tokens of a run's clients, as SHA-256: every request of a client is looked up here, not in the database.

use crate::digest::Sha256Digest;
use app::api::ClientId;
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// See the module. Follows what the ledger stores.
#[derive(Debug, Default)]
pub struct Tokens(RwLock<Maps>);

#[derive(Debug, Default)]
struct Maps {
    by_client: HashMap<ClientId, Sha256Digest>,
    by_token: HashMap<[u8; 32], ClientId>,
}

impl Tokens {
    pub(in crate::coordinator) fn new(stored: Vec<(ClientId, Sha256Digest)>) -> Self {
        let tokens = Self::default();
        stored.into_iter().for_each(|(client, token)| tokens.insert(client, token));
        tokens
    }

    pub(super) fn insert(&self, client: ClientId, token: Sha256Digest) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_token.insert(token.0, client.clone());
        maps.by_client.insert(client, token);
    }

    pub(super) fn remove(&self, client: &ClientId) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = maps.by_client.remove(client) {
            maps.by_token.remove(&token.0);
        }
    }

    /// Whether that is the token of that client. Compared in constant time.
    pub fn is_of(&self, client: &ClientId, token: &str) -> bool {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_client.get(client).is_some_and(|kept| *kept == Sha256Digest::of(token))
    }

    /// The client with that token.
    pub fn holder(&self, token: &str) -> Option<ClientId> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_token.get(&Sha256Digest::of(token).0).cloned()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_left_has_no_token() {
        let client: ClientId = "client".parse().unwrap();
        let tokens = Tokens::new(vec![(client.clone(), Sha256Digest::of("token"))]);
        assert!(tokens.is_of(&client, "token") && !tokens.is_of(&client, "other"));
        assert_eq!((tokens.holder("token"), tokens.holder("other")), (Some(client.clone()), None));
        tokens.remove(&client);
        assert!(!tokens.is_of(&client, "token"));
        assert_eq!(tokens.holder("token"), None);
    }
}
