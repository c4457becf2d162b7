//! Metrics of the HTTP server.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::Counter;

use super::{Families, labels};

/// All status codes of responses, so that each has its series from the start.
const CODES: [&str; 10] = ["200", "400", "401", "404", "405", "421", "429", "431", "500", "503"];
const REASONS: [&str; 3] = ["evicted", "slow", "handshake"];

/// Reasons to close a connection that its client would have kept, in the order of [`REASONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// The client had more connections than its share, or another client needed the place.
    Evicted,
    /// The client took too long to send a request or to receive a response.
    Slow,
    /// The TLS handshake failed.
    Handshake,
}

labels!(CodeLabels { code: &'a str });
labels!(ClosedLabels { reason: &'a str });

/// Counters of responses and of connections that the server closed.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    responses: [Counter; CODES.len()],
    closed: [Counter; REASONS.len()],
}

impl HttpMetrics {
    /// Counts a response.
    pub fn count_response(&self, status: u16) {
        let status = status.to_string();
        if let Some(index) = CODES.iter().position(|code| *code == status) {
            self.responses[index].inc();
        }
    }

    /// Counts a connection that the server closed.
    pub fn count_closed(&self, reason: Closed) {
        self.closed[reason as usize].inc();
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        families.counter(
            "multipath_exporter_http_responses",
            "HTTP responses, by status code",
            CODES.iter().zip(&self.responses).map(|(code, counter)| (CodeLabels { code }, counter.get())),
        )?;
        families.counter(
            "multipath_exporter_http_connections_closed",
            "Connections that the exporter closed: to make room, because of a slow client, or after a failed handshake",
            REASONS.iter().zip(&self.closed).map(|(reason, counter)| (ClosedLabels { reason }, counter.get())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_and_reason_has_its_counter() {
        let metrics = HttpMetrics::default();
        for code in CODES {
            metrics.count_response(code.parse().unwrap());
        }
        metrics.count_response(302);
        assert!(metrics.responses.iter().all(|counter| counter.get() == 1));
        for (reason, word) in [(Closed::Evicted, "evicted"), (Closed::Slow, "slow"), (Closed::Handshake, "handshake")] {
            assert_eq!(REASONS[reason as usize], word);
        }
    }
}
