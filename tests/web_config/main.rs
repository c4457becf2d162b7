//! The web configuration file and its effect on clients: real handshakes and requests over loopback
//! with a stub handler. The tests make the certificates.
//!
//! - [`files`]: accepted and refused files, and the error texts
//! - [`handshakes`]: versions, cipher suites, curves, and client authentication
//! - [`requests`]: users, rate limit, headers
//! - [`changes`]: files that change while the server runs
//! - [`toolkit`]: the cases of Prometheus's exporter-toolkit with both outcomes
//! - [`hostile`]: hostile clients of TLS and HTTP/2
//!
//! `tests/web/run` repeats much of this with curl, openssl and Prometheus.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not know that all of this crate is one"
)]

mod certificates;
mod changes;
mod files;
mod handshakes;
mod hostile;
mod requests;
mod site;
mod toolkit;
