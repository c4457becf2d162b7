//! Clients that the log tells of, and how often.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// How long one and the same is told once.
const PERIOD: Duration = Duration::from_secs(60);

/// What is told within that, whoever it is about: more fill the log, and who fills it is no administrator's mistake.
const MOST: usize = 20;

/// Why handshakes with clients failed, told to the log so seldom that no client can flood it.
pub struct Complaints(Mutex<Told>);

struct Told {
    since: Instant,
    /// To whom, and why.
    told: HashSet<(IpAddr, String)>,
    /// How many were too many.
    untold: u64,
}

impl Complaints {
    pub fn new() -> Self {
        Complaints(Mutex::new(Told { since: Instant::now(), told: HashSet::new(), untold: 0 }))
    }

    pub fn handshake_failed(&self, peer: IpAddr, reason: String) {
        let peer = peer.to_canonical();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.elapsed() >= PERIOD {
            if state.untold > 0 {
                warn!(count = state.untold, "more handshakes failed than were told");
            }
            *state = Told { since: Instant::now(), told: HashSet::new(), untold: 0 };
        }
        let known = (peer, reason);
        if state.told.contains(&known) {
            return;
        }
        if state.told.len() >= MOST {
            state.untold += 1;
            return;
        }
        warn!(peer = %known.0, reason = known.1, "handshake failed");
        state.told.insert(known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_has_an_end_and_the_next_minute_begins_anew() {
        let complaints = Complaints::new();
        let noted = || {
            let state = complaints.0.lock().unwrap();
            (state.told.len(), state.untold)
        };
        let fail = |peer: u32, reason: &str| complaints.handshake_failed(IpAddr::V4(peer.into()), reason.to_owned());
        for _ in 0..100 {
            fail(1, "expired");
            fail(1, "no certificate");
            fail(2, "expired");
        }
        assert_eq!(noted(), (3, 0));
        for peer in 0..1000 {
            fail(1000 + peer, "expired");
        }
        assert_eq!(noted(), (MOST, 1003 - MOST as u64));
        tokio::time::advance(PERIOD).await;
        fail(1, "expired");
        assert_eq!(noted(), (1, 0));
    }

    #[test]
    fn an_address_is_the_same_in_ipv6() {
        let complaints = Complaints::new();
        for peer in ["192.0.2.1", "::ffff:192.0.2.1"] {
            complaints.handshake_failed(peer.parse().unwrap(), "expired".to_owned());
        }
        assert_eq!(complaints.0.lock().unwrap().told.len(), 1);
    }
}
