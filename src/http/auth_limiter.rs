//! Limits how often one address tries a join secret or a log-in.
//!
//! Tokens need no limit: 256 random bits cannot be guessed, and a wrong one costs one read by an index.
//!
//! A right secret counts as well. If it did not, an address over its limit could find the right one by the answer. An
//! agent registers once and keeps its token, so the limit delays only many new agents of one address: 10 a second.

use super::error::{ApiError, ApiResult};
use super::proxies::Peer;
use app::api::ErrorCode;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

const TRIES_A_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("it is not 0");
const TRIES_AT_ONCE: NonZeroU32 = NonZeroU32::new(50).expect("it is not 0");
/// Addresses kept before those with a full budget are dropped, some 50 bytes each. Each try keeps its address for 0.2 s at
/// most, so 16,384 would need 80,000 tries a second.
const MAX_ADDRESSES: usize = 16_384;

type ByAddress<C> = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// See the module.
#[derive(Debug)]
pub struct AuthLimiter<C: Clock = DefaultClock>(ByAddress<C>);

impl Default for AuthLimiter {
    fn default() -> Self {
        Self::with_clock(DefaultClock::default())
    }
}

impl<C: Clock> AuthLimiter<C> {
    fn with_clock(clock: C) -> Self {
        let quota = Quota::per_second(TRIES_A_SECOND).allow_burst(TRIES_AT_ONCE);
        Self(RateLimiter::new(quota, HashMapStateStore::default(), clock))
    }

    /// Counts a try of this address.
    ///
    /// # Errors
    /// 429 with `Retry-After`: the address is over its limit.
    pub fn count_try(&self, peer: Peer) -> ApiResult<()> {
        if self.0.len() > MAX_ADDRESSES {
            self.0.retain_recent();
        }
        self.0.check_key(&peer.network()).map_err(|denied| {
            let wait = denied.wait_time_from(self.0.clock().now()) + Duration::from_millis(999);
            let message = format!(
                "too many log-ins or join secrets from this address: {TRIES_AT_ONCE} at once and {TRIES_A_SECOND} a second \
                 are accepted; wait as long as Retry-After says"
            );
            ApiError::new(ErrorCode::TooMany, message).retry_after_s((wait.as_secs() as u32).max(1)) // at most one try's time
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;

    fn peer(address: &str) -> Peer {
        Peer(address.parse().unwrap())
    }

    /// Tries until a try is rejected; returns the number of tries before.
    fn tries(limiter: &AuthLimiter<FakeRelativeClock>, address: &str) -> usize {
        (0..1_000).take_while(|_| limiter.count_try(peer(address)).is_ok()).count()
    }

    #[test]
    fn an_address_over_its_limit_waits_and_others_do_not() {
        // Given an address that has used up its tries,
        let clock = FakeRelativeClock::default();
        let limiter = AuthLimiter::with_clock(clock.clone());
        assert_eq!(tries(&limiter, "10.0.0.1"), 50);
        // when it writes itself in another way, then it waits as well,
        assert_eq!(tries(&limiter, "::ffff:10.0.0.1"), 0);
        // another address does not wait,
        assert_eq!(tries(&limiter, "10.0.0.2"), 50);
        // and a second later ten more tries are accepted.
        clock.advance(Duration::from_secs(1));
        assert_eq!(tries(&limiter, "10.0.0.1"), 10);
    }

    #[test]
    fn an_ipv6_network_has_one_limit() {
        let limiter = AuthLimiter::with_clock(FakeRelativeClock::default());
        assert_eq!(tries(&limiter, "2001:db8::1"), 50);
        assert_eq!(tries(&limiter, "2001:db8::ffff:0:1"), 0);
        assert_eq!(tries(&limiter, "2001:db8:0:1::1"), 50);
    }

    #[test]
    fn addresses_with_a_full_budget_are_dropped() {
        // Given more addresses than are kept,
        let clock = FakeRelativeClock::default();
        let limiter = AuthLimiter::with_clock(clock.clone());
        for address in 0..20_000u32 {
            limiter.count_try(Peer(IpAddr::V4(address.into()))).unwrap();
        }
        // when their budgets are full again and one more comes, then only that one is kept.
        clock.advance(Duration::from_secs(1));
        limiter.count_try(peer("10.0.0.1")).unwrap();
        assert_eq!(limiter.0.len(), 1);
    }
}
