//! The whole program, as a user meets it: the real binary, its command line, its log and its HTTP, over a sysfs tree
//! recorded on a real host and a fake multipathd. No root, no devices, no network but loopback.
//!
//! - [`golden`]: what a scrape, the API and `--oneshot` give, byte for byte
//! - [`generated`]: manual page and completions are those of the options
//! - [`http`]: statuses, negotiation, readiness, and that no client or daemon holds up a scrape
//! - [`events`]: events as they come
//! - [`openapi`]: the API is as it is described
//! - [`readme`]: its tables of metrics and options
//! - [`status_page`]: what a person sees
//! - [`command_line`]: what is refused before anything is served, and what is printed and left
//! - [`start`]: what is put right, refused and warned of at the start
//! - [`signals`]: SIGTERM and SIGHUP
//! - [`robustness`]: a daemon that misbehaves, a tree with holes, names meant to do harm
//! - [`unreadable`]: a map that cannot be told apart
//! - [`hanging`]: calls in the kernel that do not return
//! - [`exhausted`]: no file can be opened any more
//! - [`storage`]: what paths go over, NVMe, disks never assembled, paths that differ, the root
//! - [`memory`]: what is remembered, and the file where it is kept
//! - [`logging`]: every line can be read by a machine
//! - [`captures`]: a host, captured and run from there
//! - [`systemd`]: what systemd is told
//! - [`web_config`]: the web configuration file, and sockets from systemd
//!
//! What only a kernel can show is in `tests/lab`. The tests' own tools are in [`harness`]: a test starts a
//! [`Host`](harness::Host), then an [`Exporter`](harness::Exporter) on it. Nothing sleeps: a test waits for what should
//! happen ([`harness::eventually`]) and fails if it has not after [`harness::PATIENCE`].

#![expect(clippy::disallowed_methods, reason = "the program under test is started as a program")]
#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but does not know that all of this crate is one"
)]

mod captures;
mod command_line;
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
mod readme;
mod robustness;
mod signals;
mod start;
mod status_page;
mod storage;
mod systemd;
mod unreadable;
mod web_config;
