//! The web configuration file, from its text to what clients get: real handshakes and requests over loopback, with a stub
//! for what is served. Certificates are made by the tests.
//!
//! - [`files`]: what is taken and what is refused, and in which words
//! - [`handshakes`]: versions, cipher suites, curves, and who may connect
//! - [`requests`]: users, rate limit, headers
//! - [`changes`]: what becomes of a server whose files change
//! - [`toolkit`]: the cases of Prometheus's exporter-toolkit, its outcome and ours
//! - [`hostile`]: clients of TLS and HTTP/2 that mean harm
//!
//! `tests/web/run` does much of this again with other people's clients: curl, openssl and Prometheus.

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
