//! How often somebody may ask: so many requests a second for each caller, of whom one is then no burden
//! to the others. Who has said who they are is known by that; else the address that a connection comes
//! from is all that is known. What headers say of addresses anybody can make up.
//!
//! Each process counts for itself, and remembers nobody who could send as much as anyone again.

use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::{ConnectInfo, Request};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::{Error, Result};
use crate::model::Caller;
use crate::telemetry::meters;

/// Above this a rate is as good as none, and the limiter would count in less than nanoseconds.
const MAX_RATE: u32 = 1_000_000;
/// How many requests without a good key or token an address may send at once, and then each second.
/// Many callers may share one, behind a proxy, and try with what has ended.
const FAILURES: (u32, u32) = (1_000, 10);
/// How often those are forgotten who sent nothing lately.
const FORGET: Duration = Duration::from_secs(10);
/// A site of IPv6 has all addresses that begin as its own does, up to here.
const SITE: u128 = u128::MAX << 64;

/// Who sends how much.
pub struct Rates {
    /// Absent where the rate is not limited.
    callers: Option<Limiter<String>>,
    addresses: Option<Limiter<IpAddr>>,
    /// Those whose key or token was not good.
    failures: Limiter<IpAddr>,
}

struct Limiter<K: Hash + Eq + Clone> {
    rate: u32,
    seen: DefaultKeyedRateLimiter<K>,
}

impl Rates {
    /// `rate` is in requests a second for each caller, and 0 for no limit. `burst` is how many may come
    /// at once after a pause; by default, as many as in two seconds.
    pub fn new(rate: u32, burst: Option<u32>) -> Self {
        let rate = rate.min(MAX_RATE);
        let burst = burst.unwrap_or(rate.saturating_mul(2));
        let (failed_at_once, failed) = FAILURES;
        Self {
            callers: (rate > 0).then(|| Limiter::new(rate, burst)),
            addresses: (rate > 0).then(|| Limiter::new(rate, burst)),
            failures: Limiter::new(failed, failed_at_once),
        }
    }

    /// # Errors
    /// `Throttling` for a caller who sends too much, whichever of their keys they send it with.
    pub(super) fn allow(&self, caller: &Caller) -> Result<()> {
        let Some(callers) = &self.callers else { return Ok(()) };
        if callers.has_room(&caller.name().to_owned()) {
            return Ok(());
        }
        meters::turned_away("rate");
        let rate = callers.rate;
        Err(throttled(format!("'{caller}' sends more than {rate} requests a second")))
    }

    /// # Errors
    /// `Throttling` when too much comes from an address.
    pub(super) fn allow_address(&self, address: IpAddr) -> Result<()> {
        let Some(addresses) = &self.addresses else { return Ok(()) };
        if addresses.has_room(&site(address)) {
            return Ok(());
        }
        meters::turned_away("rate");
        let rate = addresses.rate;
        Err(throttled(format!("more than {rate} requests a second come from your address")))
    }

    /// What a request is answered that comes from `address` and failed: `Throttling` for one of too many
    /// whose sender did not show who they are.
    pub(super) fn failed(&self, error: Error, address: IpAddr) -> Error {
        if !matches!(error, Error::Unauthenticated(_)) || self.failures.has_room(&site(address)) {
            return error;
        }
        meters::turned_away("failed_logins");
        throttled("too many requests without a good key come from your address".into())
    }

    /// Forgets those who sent nothing lately, until it is dropped.
    pub async fn keep_small(&self) {
        loop {
            tokio::time::sleep(FORGET).await;
            self.forget();
        }
    }

    fn forget(&self) {
        self.callers.iter().for_each(Limiter::forget);
        self.addresses.iter().for_each(Limiter::forget);
        self.failures.forget();
    }
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    fn new(rate: u32, burst: u32) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(at_least_one(rate)).allow_burst(at_least_one(burst));
        Self { rate, seen: RateLimiter::dashmap(quota) }
    }

    /// Counts a request, if there is room for it.
    fn has_room(&self, key: &K) -> bool {
        self.seen.check_key(key).is_ok()
    }

    fn forget(&self) {
        self.seen.retain_recent();
        self.seen.shrink_to_fit();
    }
}

fn throttled(why: String) -> Error {
    Error::Throttling(format!("{why}; nothing was done: try again in a moment"))
}

/// Where the connection of a request comes from.
pub(super) fn address_of(request: &Request) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(peer)| peer.ip())
}

/// All addresses that one sender may well have.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & SITE)),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_one_sender() {
        let of = |text: &str| site(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    /// Else everybody who ever came would be remembered.
    #[test]
    fn who_sent_nothing_lately_is_forgotten() {
        let rates = Rates::new(MAX_RATE, None);
        for number in 0..1_000 {
            let address = IpAddr::V4(Ipv4Addr::from_bits(number));
            rates.allow_address(address).unwrap();
            rates.allow(&Caller::from_stored(number.to_string())).unwrap();
        }
        let remembered = || {
            let (callers, addresses) = (rates.callers.as_ref(), rates.addresses.as_ref());
            callers.unwrap().seen.len() + addresses.unwrap().seen.len()
        };
        assert_eq!(remembered(), 2_000);
        std::thread::sleep(Duration::from_millis(10));
        rates.forget();
        assert_eq!(remembered(), 0);
    }

    #[test]
    fn without_a_rate_nobody_is_counted() {
        let rates = Rates::new(0, Some(1));
        for _ in 0..10 {
            rates.allow(&Caller::anonymous()).unwrap();
            rates.allow_address(IpAddr::V4(Ipv4Addr::LOCALHOST)).unwrap();
        }
    }

    #[test]
    fn only_failed_logins_are_counted_as_such() {
        let rates = Rates::new(0, None);
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let fail = |error: Error| rates.failed(error, here);
        for _ in 0..FAILURES.0 * 2 {
            let other = fail(Error::PermissionDenied("x".into()));
            assert!(matches!(other, Error::PermissionDenied(_)));
        }
        let wrong = || Error::Unauthenticated("x".into());
        assert!(matches!(fail(wrong()), Error::Unauthenticated(_)));
        let mut others = (0..FAILURES.0 * 100).map(|_| fail(wrong()));
        assert!(others.any(|error| matches!(error, Error::Throttling(_))));
    }
}
