//! multipath_exporter: tells Prometheus that a server is losing its paths to its storage, before the last one goes.
//!
//! The tour of the house. Each room knows those above it in this list and none below:
//!
//! - [`topology`]: devices, paths and their states; plain values in which all others speak
//! - [`source`]: how we read: device mapper, multipathd, sysfs
//! - [`capture`]: what the sources read on a host, without its names, to be run from elsewhere
//! - [`watch`]: what wakes us: kernel uevents, device mapper's event poll
//! - [`event`]: what happened to paths: the feed
//! - [`metrics`]: the devices, and the exporter's own numbers, as Prometheus reads them
//! - [`monitor`]: the loop: wake, read, compare, publish
//! - [`web_config`]: the web configuration file: TLS, users, rate limit; it knows none of the above
//! - [`web`]: the HTTP server and its routes
//! - [`cli`], [`config`], [`logging`]: what the user sets
//!
//! A path that fails travels like this. The kernel raises a uevent and moves the map's event number;
//! [`watch::uevent`] and [`watch::dm_event`] each wake the [`monitor`]. The uevent is counted, logged and put in the
//! feed; the map is marked. [`source::device_mapper`] reads the marked maps whole, the monitor assembles their devices
//! anew and publishes a [`topology::Snapshot`]. The next scrape finds it in [`web::routes`], encodes it once in
//! [`metrics::exposition`], and every scrape after that gets the same bytes until something changes.

pub mod capture;
pub mod cli;
pub mod config;
pub mod event;
pub mod logging;
pub mod metrics;
pub mod monitor;
pub mod source;
pub mod topology;
pub mod watch;
pub mod web;
pub mod web_config;

mod run;
mod small_file;
mod systemd;

pub use run::{Failure, run};
