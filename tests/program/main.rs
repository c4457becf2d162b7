//! The whole program, as a user meets it: the real binary, its command line, its log and its HTTP
//! server. It runs over a sysfs tree recorded on a real host, with a fake multipathd. The tests
//! need no root, no devices, and no network but loopback.
//!
//! - [`golden`]: output of a scrape, the API and `--oneshot`, byte for byte
//! - [`generated`]: manual page and completions match the options
//! - [`http`]: statuses, negotiation, readiness; no client or daemon delays a scrape
//! - [`events`]: the event stream
//! - [`openapi`]: the API matches its description
//! - [`tables`]: the tables of metrics and options in `docs/`
//! - [`documents`]: lines and links of the Markdown pages, and their claims about the source
//! - [`sentences`]: texts for users are plain English
//! - [`status_page`]: the page that a person sees
//! - [`command_line`]: refused options, and commands that print and exit
//! - [`start`]: corrections, refusals and warnings at the start
//! - [`signals`]: SIGTERM and SIGHUP
//! - [`robustness`]: a daemon that misbehaves, a tree with holes, hostile names
//! - [`unreadable`]: a map without a readable identity
//! - [`hanging`]: system calls that do not return
//! - [`exhausted`]: no file descriptors are left
//! - [`storage`]: ports below paths, NVMe, unassembled disks, mismatched paths, the root file
//!   system
//! - [`memory`]: the exporter's memory and its file
//! - [`logging`]: a machine can read every line
//! - [`captures`]: a capture replayed instead of its host
//! - [`systemd`]: messages to systemd
//! - [`web_config`]: the web configuration file, and sockets from systemd
//!
//! Tests that need a kernel are in `tests/lab`. The tools of these tests are in [`harness`]: a test
//! starts a [`Host`](harness::Host), then an [`Exporter`](harness::Exporter) on it. No test sleeps
//! for a result: it waits for it ([`harness::eventually`]) and fails after [`harness::PATIENCE`].

#![expect(clippy::disallowed_methods, reason = "the program under test is started as a program")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not know that all of this crate is one"
)]

mod captures;
mod command_line;
mod documents;
mod events;
mod exhausted;
mod generated;
mod golden;
mod hanging;
mod harness;
mod http;
mod logging;
mod memory;
mod openapi;
mod repository;
mod robustness;
mod sentences;
mod signals;
mod start;
mod status_page;
mod storage;
mod systemd;
mod tables;
mod unreadable;
mod web_config;
