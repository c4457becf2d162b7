//! Counts and logs refused requests, closed connections and failed handshakes.
//!
//! The log gets one line per kind and minute, so that no client can flood it. The first occurrence
//! of a kind is logged at once. The number of further ones is logged at the end of each minute.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::time::sleep;
use tracing::warn;

pub(crate) use crate::metrics::http::Closed;
use crate::metrics::http::HttpMetrics;

/// The time in which one kind is logged once.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// The number of kinds that are logged at the same time. We know fewer, but a handshake's reason
/// comes from a library.
const MAX_KINDS: usize = 64;

/// Counters, and the kinds that were logged in the last minute.
#[derive(Clone, Debug, Default)]
pub struct Notice {
    metrics: Arc<HttpMetrics>,
    told: Arc<Mutex<HashMap<NoticeKind, u64>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum NoticeKind {
    /// Requests that got this status.
    Refused(u16),
    Closed(Closed),
    /// Handshakes that failed for this reason.
    Handshake(String),
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoticeKind::Refused(code) => write!(f, "request failed with status {code}"),
            NoticeKind::Closed(Closed::Evicted) => f.write_str("connection closed to make room for another one"),
            NoticeKind::Closed(Closed::Slow) => f.write_str("connection closed because the client is too slow"),
            NoticeKind::Closed(Closed::Handshake) | NoticeKind::Handshake(_) => f.write_str("TLS handshake failed"),
        }
    }
}

impl NoticeKind {
    fn reason(&self) -> Option<&str> {
        match self {
            NoticeKind::Handshake(reason) => Some(reason),
            NoticeKind::Refused(_) | NoticeKind::Closed(_) => None,
        }
    }
}

impl Notice {
    /// Counts in `metrics`.
    pub(crate) fn new(metrics: Arc<HttpMetrics>) -> Self {
        Notice { metrics, told: Arc::default() }
    }

    /// Counts a response, and logs it if it is a refusal.
    pub(crate) fn answered(&self, peer: SocketAddr, status: StatusCode) {
        self.expected(status);
        // An unknown path or method is no sign of trouble.
        if !status.is_success() && !matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            self.tell(NoticeKind::Refused(status.as_u16()), peer.ip().to_canonical());
        }
    }

    /// Counts a response that the client has to expect.
    pub(crate) fn expected(&self, status: StatusCode) {
        self.metrics.count_response(status.as_u16());
    }

    /// Counts and logs a connection that broke, if hyper has sent an error response by itself.
    pub(crate) fn broken(&self, peer: SocketAddr, error: Option<&hyper::Error>) {
        match error {
            Some(error) if error.is_parse_too_large() => {
                self.answered(peer, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
            // hyper sends no response to a client that begins with HTTP/2.
            Some(error) if error.is_parse() && !error.to_string().contains("HTTP2 preface") => {
                self.answered(peer, StatusCode::BAD_REQUEST);
            }
            _ => {}
        }
    }

    /// Counts and logs a connection that was closed for this reason, or a response that was cut
    /// off.
    pub(crate) fn closed(&self, reason: Closed, client: impl fmt::Display) {
        self.metrics.count_closed(reason);
        self.tell(NoticeKind::Closed(reason), client);
    }

    /// Counts and logs a failed handshake.
    pub(crate) fn handshake_failed(&self, peer: IpAddr, reason: String) {
        self.metrics.count_closed(Closed::Handshake);
        self.tell(NoticeKind::Handshake(reason), peer.to_canonical());
    }

    fn tell(&self, kind: NoticeKind, peer: impl fmt::Display) {
        let mut told = self.lock();
        if let Some(more) = told.get_mut(&kind) {
            *more += 1;
        } else if told.len() < MAX_KINDS {
            warn!(%peer, reason = kind.reason(), "{kind}");
            told.insert(kind.clone(), 0);
            tokio::spawn(self.clone().sum_up(kind));
        }
    }

    /// Logs the number of further occurrences at the end of each minute, until there are none.
    async fn sum_up(self, kind: NoticeKind) {
        loop {
            sleep(SUMMARY_INTERVAL).await;
            let mut told = self.lock();
            match told.get_mut(&kind).map(std::mem::take) {
                None | Some(0) => {
                    told.remove(&kind);
                    return;
                }
                Some(times) => warn!(times, reason = kind.reason(), "{kind}, repeatedly in the last minute"),
            }
        }
    }

    /// Ignores poisoning: no code that holds the lock can leave the map half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<NoticeKind, u64>> {
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
        let slow = ("connection closed because the client is too slow".to_owned(), 0);
        assert_eq!(told(), [slow, ("request failed with status 429".to_owned(), 99)]);
        sleep(SUMMARY_INTERVAL + Duration::from_secs(1)).await;
        // The end of the first minute logged the sum. The kind that occurred once is over.
        assert_eq!(told(), [("request failed with status 429".to_owned(), 0)]);
        notice.answered(peer, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(told(), [("request failed with status 429".to_owned(), 1)]);
        sleep(2 * SUMMARY_INTERVAL).await;
        assert_eq!(told(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn reasons_without_end_have_one() {
        let notice = Notice::default();
        for reason in 0..1000 {
            notice.handshake_failed(IpAddr::from([192, 0, 2, 1]), reason.to_string());
        }
        assert_eq!(notice.lock().len(), MAX_KINDS);
    }
}
