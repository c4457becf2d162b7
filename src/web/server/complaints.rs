//! Clients that the log tells of, and how often.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

/// How long one and the same is told once.
const PERIOD: Duration = Duration::from_secs(60);

/// What is told within that, whoever it is about: more fill the log, and who fills it is no administrator's mistake.
const MOST: usize = 20;

/// How many of these one client may have: who tries everything should not hide another's one mistake.
const MOST_OF_ONE: usize = 4;

/// Why handshakes with clients failed, told to the log so seldom that no client can flood it.
#[derive(Clone)]
pub struct Complaints(Arc<Mutex<Told>>);

struct Told {
    since: Instant,
    /// To whom, and why.
    told: HashSet<(IpAddr, String)>,
    /// How many were too many.
    untold: u64,
}

impl Complaints {
    pub fn new() -> Self {
        Complaints(Arc::new(Mutex::new(Told::new())))
    }

    pub fn handshake_failed(&self, peer: IpAddr, reason: String) {
        let peer = peer.to_canonical();
        let mut state = self.lock();
        state.end_if_over();
        let known = (peer, reason);
        if state.told.contains(&known) {
            return;
        }
        let of_one = state.told.iter().filter(|(other, _)| *other == peer).count();
        if state.told.len() >= MOST || of_one >= MOST_OF_ONE {
            state.untold += 1;
            if state.untold == 1 {
                self.end_later(state.since + PERIOD);
            }
            return;
        }
        warn!(peer = %known.0, reason = known.1, "handshake failed");
        state.told.insert(known);
    }

    /// Tells how many were too many when the period ends, though nobody fails any more.
    fn end_later(&self, end: Instant) {
        let complaints = self.clone();
        tokio::spawn(async move {
            sleep_until(end).await;
            complaints.lock().end_if_over();
        });
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn new() -> Self {
        Told { since: Instant::now(), told: HashSet::new(), untold: 0 }
    }

    fn end_if_over(&mut self) {
        if self.since.elapsed() < PERIOD {
            return;
        }
        if self.untold > 0 {
            warn!(count = self.untold, "more handshakes failed in the last minute than were told");
        }
        *self = Told::new();
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
        // Without another failure.
        tokio::time::sleep(PERIOD + Duration::from_millis(1)).await;
        assert_eq!(noted(), (0, 0));
        tokio::time::sleep(2 * PERIOD).await;
        fail(1, "expired");
        assert_eq!(noted(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_hides_no_other() {
        let complaints = Complaints::new();
        let fail = |peer: u32, reason: &str| complaints.handshake_failed(IpAddr::V4(peer.into()), reason.to_owned());
        for reason in 0..100 {
            fail(1, &reason.to_string());
        }
        fail(2, "expired");
        let state = complaints.lock();
        assert_eq!((state.told.len(), state.untold), (MOST_OF_ONE + 1, 100 - MOST_OF_ONE as u64));
        assert!(state.told.contains(&(IpAddr::V4(2.into()), "expired".to_owned())));
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
