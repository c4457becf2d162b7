//! Counts and tells what the server does to its clients.
//!
//! The log gets one line for each kind and minute, so that no client can flood it. The first of a kind is told at once, and
//! how many followed at the end of each minute.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::sleep;
use tracing::warn;

pub use crate::metrics::http::Closed;
use crate::metrics::http::HttpMetrics;

/// How long one kind is told once.
const PERIOD: Duration = Duration::from_secs(60);

/// Kinds told of at a time. There are fewer; a handshake's reason comes from a library.
const KINDS: usize = 64;

/// Counters, and the log lines of the last minute.
#[derive(Clone, Debug, Default)]
pub struct Notice {
    metrics: Arc<HttpMetrics>,
    told: Arc<Mutex<HashMap<Kind, u64>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Requests answered with this code.
    Refused(u16),
    Closed(Closed),
    /// Handshakes that failed, and the reason.
    Handshake(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Refused(code) => write!(f, "request answered with {code}"),
            Kind::Closed(Closed::Evicted) => f.write_str("connection closed to make room"),
            Kind::Closed(Closed::Slow) => f.write_str("connection closed because its client is too slow"),
            Kind::Closed(Closed::Handshake) | Kind::Handshake(_) => f.write_str("handshake failed"),
        }
    }
}

impl Kind {
    fn reason(&self) -> Option<&str> {
        match self {
            Kind::Handshake(reason) => Some(reason),
            Kind::Refused(_) | Kind::Closed(_) => None,
        }
    }
}

impl Notice {
    /// Counts in these metrics.
    pub fn new(metrics: Arc<HttpMetrics>) -> Self {
        Notice { metrics, told: Arc::default() }
    }

    /// A request was answered.
    pub fn answered(&self, peer: SocketAddr, status: StatusCode) {
        self.expected(status);
        // A path or method that is not served is no trouble of anybody's.
        if !status.is_success() && !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            self.tell(Kind::Refused(status.as_u16()), peer.ip().to_canonical());
        }
    }

    /// A request was answered as its client has to expect.
    pub fn expected(&self, status: StatusCode) {
        self.metrics.count_response(status.as_u16());
    }

    /// A conversation has broken. hyper answers by itself what it cannot read.
    pub fn broken(&self, peer: SocketAddr, error: Option<&hyper::Error>) {
        match error {
            Some(error) if error.is_parse_too_large() => {
                self.answered(peer, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
            // It answers nothing to one that begins to speak HTTP/2.
            Some(error) if error.is_parse() && !error.to_string().contains("HTTP2 preface") => {
                self.answered(peer, StatusCode::BAD_REQUEST);
            }
            _ => {}
        }
    }

    /// A connection was closed for this, or an answer to a client was cut off.
    pub fn closed(&self, reason: Closed, client: impl fmt::Display) {
        self.metrics.count_closed(reason);
        self.tell(Kind::Closed(reason), client);
    }

    /// A handshake failed for this.
    pub fn handshake_failed(&self, peer: IpAddr, reason: String) {
        self.metrics.count_closed(Closed::Handshake);
        self.tell(Kind::Handshake(reason), peer.to_canonical());
    }

    fn tell(&self, kind: Kind, peer: impl fmt::Display) {
        let mut told = self.lock();
        if let Some(more) = told.get_mut(&kind) {
            *more += 1;
        } else if told.len() < KINDS {
            warn!(%peer, reason = kind.reason(), "{kind}");
            told.insert(kind.clone(), 0);
            tokio::spawn(self.clone().sum_up(kind));
        }
    }

    /// Tells at the end of each minute how many more there were, until there are none.
    async fn sum_up(self, kind: Kind) {
        loop {
            sleep(PERIOD).await;
            let mut told = self.lock();
            match told.get_mut(&kind).map(std::mem::take) {
                None | Some(0) => {
                    told.remove(&kind);
                    return;
                }
                Some(times) => warn!(times, reason = kind.reason(), "{kind}, again in the last minute"),
            }
        }
    }

    /// Usable after a panic elsewhere: no code that holds it can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, u64>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_kind_is_told_once_a_minute() {
        let notice = Notice::default();
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let told = || {
            let mut told: Vec<_> = notice.lock().iter().map(|(kind, more)| (kind.to_string(), *more)).collect();
            told.sort();
            told
        };
        for _ in 0..100 {
            notice.answered(peer, StatusCode::OK);
            notice.answered(peer, StatusCode::NOT_FOUND);
            notice.answered(peer, StatusCode::TOO_MANY_REQUESTS);
        }
        notice.closed(Closed::Slow, peer.ip());
        let slow = ("connection closed because its client is too slow".to_owned(), 0);
        assert_eq!(told(), [slow, ("request answered with 429".to_owned(), 99)]);
        sleep(PERIOD + Duration::from_secs(1)).await;
        // The end of the first minute told the sum, and the one that was told is over.
        assert_eq!(told(), [("request answered with 429".to_owned(), 0)]);
        notice.answered(peer, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(told(), [("request answered with 429".to_owned(), 1)]);
        sleep(2 * PERIOD).await;
        assert_eq!(told(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_without_end_have_one() {
        let notice = Notice::default();
        for reason in 0..1000 {
            notice.handshake_failed(IpAddr::from([192, 0, 2, 1]), reason.to_string());
        }
        assert_eq!(notice.lock().len(), KINDS);
    }
}
