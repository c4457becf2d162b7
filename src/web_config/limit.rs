//! The rate limit: token buckets that count like Go's `golang.org/x/time/rate`.
//!
//! Each client has a bucket of the configured size. All clients together have a larger one, so that
//! one client with too many requests does not keep the others out.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::values::RateLimit;
use crate::shares::{AddressShare, Client};

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct Limiter {
    limit: RateLimit,
    /// The limit of all clients, as a multiple of one client's.
    clients: f64,
    level: Mutex<Levels>,
}

#[derive(Debug)]
struct Levels {
    all: Bucket,
    /// The buckets that may not be full.
    each: HashMap<Client, Bucket>,
    /// The number of buckets at which full ones are removed next.
    next_look: usize,
}

/// The number of tokens, and the time of this number.
#[derive(Clone, Copy, Debug)]
struct Bucket(f64, Instant);

/// The number of buckets up to which full ones are not removed, because each search costs time.
const CLEANUP_THRESHOLD: usize = 64;

impl Limiter {
    pub(crate) fn new(limit: RateLimit, share: AddressShare, now: Instant) -> Self {
        let clients = share.clients();
        let all = Bucket(f64::from(limit.burst) * clients, now);
        Limiter {
            limit,
            clients,
            level: Mutex::new(Levels { all, each: HashMap::new(), next_look: CLEANUP_THRESHOLD }),
        }
    }

    pub(crate) fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes a token for a client. Returns false if there is none.
    pub(crate) fn allow(&self, client: Client, now: Instant) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        level.all.fill(self.limit, self.clients, now);
        if !level.all.has_token() {
            return false;
        }
        let full = Bucket(self.limit.burst.into(), now);
        let mut own = level.each.get(&client).copied().unwrap_or(full);
        own.fill(self.limit, 1.0, now);
        let is_allowed = own.has_token();
        if is_allowed {
            own.0 -= 1.0;
            level.all.0 -= 1.0;
        }
        // With a burst of 0, the bucket is empty and full at the same time.
        if own.0 < full.0 {
            level.each.insert(client, own);
        }
        if level.each.len() > level.next_look {
            level.each.retain(|_, bucket| {
                bucket.fill(self.limit, 1.0, now);
                bucket.0 < full.0
            });
            level.next_look = CLEANUP_THRESHOLD.max(2 * level.each.len());
        }
        is_allowed
    }
}

impl Bucket {
    /// Adds the tokens since the last call, at `times` the configured rate.
    fn fill(&mut self, limit: RateLimit, times: f64, now: Instant) {
        let gained = now.saturating_duration_since(self.1).as_secs_f64() / limit.interval.as_secs_f64();
        *self = Bucket((self.0 + gained * times).min(f64::from(limit.burst) * times), now.max(self.1));
    }

    fn has_token(self) -> bool {
        self.0 >= 1.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use super::*;

    fn limiter(burst: u32, start: Instant) -> Limiter {
        Limiter::new(RateLimit { interval: Duration::from_secs(1), burst }, AddressShare::default(), start)
    }

    fn client(last: u8) -> Client {
        IpAddr::from([192, 0, 2, last]).into()
    }

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let limiter = limiter(2, start);
        let allowed = |millis| limiter.allow(client(1), at(millis));
        assert_eq!([allowed(0), allowed(0), allowed(0), allowed(999)], [true, true, false, false]);
        assert_eq!([allowed(1001), allowed(1001), allowed(1900)], [true, false, false]);
        // The bucket fills up to the burst. A clock that stands still or goes back adds nothing.
        assert_eq!([allowed(60_000), allowed(60_000), allowed(60_000), allowed(0)], [true, true, false, false]);
    }

    #[test]
    fn without_a_burst_nothing_is_allowed() {
        let start = Instant::now();
        let limiter = limiter(0, start);
        assert!(!limiter.allow(client(1), start) && !limiter.allow(client(1), start + Duration::from_secs(3600)));
    }

    #[test]
    fn one_client_does_not_keep_others_out_and_all_have_a_limit() {
        let start = Instant::now();
        let limiter = limiter(5, start);
        let allowed = |last| (0..100).filter(|_| limiter.allow(client(last), start)).count();
        assert_eq!((1..=6).map(allowed).collect::<Vec<_>>(), [5, 5, 5, 5, 0, 0]);
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let start = Instant::now();
        let limiter = limiter(5, start);
        for second in 0..1000 {
            let client = IpAddr::from([192, 0, (second / 256) as u8, (second % 256) as u8]).into();
            assert!(limiter.allow(client, start + Duration::from_secs(second)));
        }
        assert!(limiter.level.lock().unwrap().each.len() <= CLEANUP_THRESHOLD + 1);
    }
}
