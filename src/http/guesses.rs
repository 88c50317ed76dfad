//! How often an address may be wrong about who it is. What a flood of guesses costs is bounded, and nobody else pays for it.
//!
//! Many clients share an address behind NAT or a proxy, so an address is never shut out: what was right before goes past
//! its budget. This lets nobody in, either: who a token belongs to is remembered here, whether that still holds is asked of
//! the roster or the store each time. Forgetting anything costs one look-up and no more.
//!
//! `governor`'s keyed limiter was looked at: it takes from the budget with every look, also for what turns out right, so
//! that a thousand clients who come back to one address after a restart would shut out each other.

use super::error::{ApiError, ApiResult};
use crate::digest::Sha256Digest;
use app::api::{ClientId, ErrorCode, RunId};
use axum::extract::FromRequestParts;
use axum::http::Extensions;
use axum::http::request::Parts;
use hashlink::LruCache;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What an address may spend on being wrong at once.
const BUDGET: f64 = 200.0;
/// How much of it comes back in a second.
const REFILL_PER_S: f64 = 10.0;
/// What it owes at most: who tries many at once has each of them let in, and pays for all, for a minute.
const MOST_SPENT: f64 = 4.0 * BUDGET;
/// Of a wrong token. Nobody guesses 256 bits: this is about the work that it makes.
pub const TOKEN: f64 = 1.0;
/// Of a wrong join secret, which somebody has thought up: one guess a second.
pub const SECRET: f64 = 10.0;
/// Addresses remembered, about 100 bytes each. The ones heard of longest ago are forgotten first, which forgives them.
const MAX_ADDRESSES: usize = 16_384;
/// Tokens remembered, about 200 bytes each. Only right ones are.
const MAX_TOKENS: usize = 131_072;

/// Where a request comes from: the address of its connection, or the one that a trusted proxy names. Of others that name
/// is not looked at: anybody can write anything there.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Peer {
    /// As the request carries it.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
    }

    /// What is one budget: whoever has one IPv6 address has the other 2^64 of its network.
    fn network(self) -> IpAddr {
        match self.0.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            address => address,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// Whose a token was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The operator's, or a session of theirs.
    Operator,
    /// That client's.
    Client(RunId, ClientId),
}

#[derive(Debug, Clone, Copy)]
struct Spent {
    amount: f64,
    at: Instant,
}

impl Spent {
    fn now(self, now: Instant) -> f64 {
        (self.amount - now.saturating_duration_since(self.at).as_secs_f64() * REFILL_PER_S).max(0.0)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Guesses {
    // Std locks: held for a look, never across an await.
    spent: Mutex<LruCache<IpAddr, Spent>>,
    /// By hash, which nobody can choose: the time that a look takes says nothing.
    holders: Mutex<LruCache<[u8; 32], Holder>>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { spent: Mutex::new(LruCache::new(MAX_ADDRESSES)), holders: Mutex::new(LruCache::new(MAX_TOKENS)) }
    }
}

impl Guesses {
    /// Lets an address try what may turn out wrong.
    ///
    /// # Errors
    /// It was wrong too often: 429, and when to come back.
    pub fn may_try(&self, peer: Peer, cost: f64, now: Instant) -> ApiResult<()> {
        let spent = lock(&self.spent).peek(&peer.network()).map_or(0.0, |spent| spent.now(now));
        let missing = spent + cost - BUDGET;
        if missing <= 0.0 {
            return Ok(());
        }
        let message = "too many wrong tokens, secrets or log-ins from this address";
        let seconds = (missing / REFILL_PER_S).ceil() as u32; // of at most a budget
        Err(ApiError::new(ErrorCode::TooMany, message).retry_after_s(seconds.max(1)))
    }

    /// What it tried was wrong.
    pub fn was_wrong(&self, peer: Peer, cost: f64, now: Instant) {
        let (mut all, network) = (lock(&self.spent), peer.network());
        let spent = all.peek(&network).map_or(0.0, |spent| spent.now(now));
        all.insert(network, Spent { amount: (spent + cost).min(MOST_SPENT), at: now });
    }

    /// Whose that token was when it was right.
    pub fn holder(&self, token: &Sha256Digest) -> Option<Holder> {
        lock(&self.holders).get(&token.0).cloned()
    }

    /// That token is right.
    pub fn was_right(&self, token: &Sha256Digest, holder: Holder) {
        lock(&self.holders).insert(token.0, holder);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(address: &str) -> Peer {
        Peer(address.parse().unwrap())
    }

    /// Wrong until it is told to wait; returns how often, at most 1,000 times.
    fn tries(guesses: &Guesses, peer: Peer, cost: f64, now: Instant) -> usize {
        let guess =
            |_: &usize| guesses.may_try(peer, cost, now).inspect(|()| guesses.was_wrong(peer, cost, now)).is_ok();
        (0..1_000).take_while(guess).count()
    }

    #[test]
    fn who_is_wrong_too_often_waits_and_others_do_not() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(tries(&guesses, peer("10.0.0.1"), TOKEN, now), 200);
        assert!(
            guesses.may_try(peer("::ffff:10.0.0.1"), TOKEN, now).is_err(),
            "the same address, written in another way"
        );
        assert!(guesses.may_try(peer("10.0.0.2"), TOKEN, now).is_ok());
        assert_eq!(tries(&guesses, peer("10.0.0.3"), SECRET, now), 20);
    }

    #[test]
    fn a_budget_comes_back_with_time() {
        let (guesses, start, peer) = (Guesses::default(), Instant::now(), peer("10.0.0.1"));
        tries(&guesses, peer, TOKEN, start);
        let later = start + Duration::from_secs(1);
        assert_eq!(tries(&guesses, peer, TOKEN, later), 10);
        assert_eq!(tries(&guesses, peer, SECRET, later + Duration::from_secs(3)), 3);
        assert_eq!(tries(&guesses, peer, TOKEN, later + Duration::from_secs(3_600)), 200);
    }

    #[test]
    fn who_tries_many_at_once_pays_for_all_of_them() {
        let (guesses, start, peer) = (Guesses::default(), Instant::now(), peer("10.0.0.1"));
        // Let in at the same time, and wrong, all of them: as many as may come to it.
        (0..1_000).for_each(|_| guesses.was_wrong(peer, TOKEN, start));
        assert!(guesses.may_try(peer, TOKEN, start + Duration::from_secs(60)).is_err());
        assert_eq!(tries(&guesses, peer, TOKEN, start + Duration::from_secs(61)), 10);
    }

    #[test]
    fn an_ipv6_network_has_one_budget() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        tries(&guesses, peer("2001:db8::1"), TOKEN, now);
        assert!(guesses.may_try(peer("2001:db8::ffff:0:1"), TOKEN, now).is_err());
        assert!(guesses.may_try(peer("2001:db8:0:1::1"), TOKEN, now).is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for i in 0..20_000u32 {
            guesses.was_wrong(Peer(IpAddr::V4(i.into())), TOKEN, now);
        }
        assert_eq!(lock(&guesses.spent).len(), MAX_ADDRESSES);
        for i in 0..140_000u32 {
            guesses.was_right(&Sha256Digest([i.to_le_bytes(); 8].concat().try_into().unwrap()), Holder::Operator);
        }
        assert_eq!(lock(&guesses.holders).len(), MAX_TOKENS);
    }
}
