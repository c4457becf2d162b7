//! multipath_exporter: tells Prometheus that a server is losing its paths to its storage, before the last one goes.
//!
//! The tour of the house. Each room knows only rooms that stand above it in this list:
//!
//! - `tasks`: notices the end of a task that has to run for as long as the program does
//! - `pages`: keeps the program in memory, should its disk die, and gives back what it does not need
//! - `small_file`: reads the files that somebody else writes
//! - [`shares`]: what one client may take of what all share
//! - [`topology`]: devices, paths and their states; plain values in which all others speak
//! - [`privileges`]: which threads have capabilities
//! - [`source`]: how we read: device mapper, multipathd, sysfs
//! - [`config`], [`cli`], [`logging`]: what the user sets
//! - [`capture`]: what the sources read on a host, without its names, to be run from elsewhere
//! - [`watch`]: what wakes us: kernel uevents, device mapper's event poll
//! - [`event`]: what happened to paths: the feed
//! - [`memory`]: what was, and what that means: missing paths, lost devices, trouble and recovery
//! - [`metrics`]: the devices, and the exporter's own numbers, as Prometheus reads them
//! - [`monitor`]: the loop: wake, read, compare, publish
//! - [`web_config`]: the web configuration file: TLS, users, rate limit; it knows nothing of multipath
//! - [`web`]: the HTTP server and its routes
//! - `systemd`: tells systemd how the service is
//! - `listen`: binds addresses, or takes the sockets that systemd has bound
//! - `reload`: reads the configuration file, at the start and on SIGHUP
//! - `commands`: puts all of this together: serve, `--oneshot`, `--capture`, `--config.check`
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
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod privileges;
pub mod shares;
pub mod source;
pub mod topology;
pub mod watch;
pub mod web;
pub mod web_config;

mod commands;
mod listen;
mod pages;
mod reload;
mod small_file;
mod systemd;
mod tasks;

pub use commands::{Failure, run};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use regex::Regex;

    fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files_below(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }

    #[test]
    fn each_room_knows_only_rooms_above_it_in_the_tour() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let tour = fs::read_to_string(source.join("lib.rs")).unwrap();
        let named = Regex::new("`([a-z_]+)`\\]?[,:]").unwrap();
        let lines = tour.lines().filter_map(|line| line.strip_prefix("//! - "));
        let rooms: Vec<&str> =
            lines.flat_map(|line| named.captures_iter(line)).map(|room| room.extract::<1>().1[0]).collect();
        let used = Regex::new(r"\bcrate::([a-z_]+)").unwrap();
        let mut files = Vec::new();
        files_below(&source, &mut files);
        for file in files {
            let place = file.strip_prefix(&source).unwrap();
            let room = place.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
            if ["lib", "main"].contains(&room) {
                continue;
            }
            let at = rooms.iter().position(|other| *other == room);
            let at = at.unwrap_or_else(|| panic!("{room} is not in the tour: {rooms:?}"));
            let text = fs::read_to_string(&file).unwrap();
            let uses: BTreeSet<&str> = used.captures_iter(&text).map(|used| used.extract::<1>().1[0]).collect();
            let below: Vec<_> = uses.iter().filter(|used| !rooms[..=at].contains(used)).collect();
            assert!(below.is_empty(), "{} uses {below:?}", place.display());
        }
    }
}
