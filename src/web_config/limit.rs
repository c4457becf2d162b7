//! How often requests may come: a token bucket, counted as Go's `golang.org/x/time/rate` counts it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::values::RateLimit;

/// The bucket. Full at first; a request takes one token, and is refused if there is none.
#[derive(Debug)]
pub struct Limiter {
    limit: RateLimit,
    /// Tokens, and as of when.
    level: Mutex<(f64, Instant)>,
}

impl Limiter {
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Limiter { limit, level: Mutex::new((f64::from(limit.burst), now)) }
    }

    pub fn limit(&self) -> RateLimit {
        self.limit
    }

    /// Takes a token; false if there is none.
    pub fn allow(&self, now: Instant) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, last) = *level;
        let gained = now.saturating_duration_since(last).as_secs_f64() / self.limit.interval.as_secs_f64();
        let tokens = (tokens + gained).min(f64::from(self.limit.burst));
        let allowed = tokens >= 1.0;
        *level = (if allowed { tokens - 1.0 } else { tokens }, now.max(last));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_and_then_one_per_interval() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let limiter = Limiter::new(RateLimit { interval: Duration::from_secs(1), burst: 2 }, start);
        let allowed = |millis| limiter.allow(at(millis));
        assert_eq!([allowed(0), allowed(0), allowed(0), allowed(999)], [true, true, false, false]);
        assert_eq!([allowed(1001), allowed(1001), allowed(1900)], [true, false, false]);
        // It fills up to the burst, no further, and a clock that stands still or goes back adds nothing.
        assert_eq!([allowed(60_000), allowed(60_000), allowed(60_000), allowed(0)], [true, true, false, false]);
    }

    #[test]
    fn without_a_burst_nothing_is_allowed() {
        let start = Instant::now();
        let limiter = Limiter::new(RateLimit { interval: Duration::from_secs(1), burst: 0 }, start);
        assert!(!limiter.allow(start) && !limiter.allow(start + Duration::from_secs(3600)));
    }
}
