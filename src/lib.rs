//! multipath_exporter: a Prometheus exporter for multipath storage. It shows that a server loses
//! paths to its storage, before the last path fails.
//!
//! The modules. Each uses only modules above it in this list:
//!
//! - `tasks`: notices if a task ends that must run as long as the program does
//! - `pages`: keeps the program in memory in case its disk fails, and returns unused memory
//! - `small_file`: reads files that others write
//! - [`shares`]: the share of each limit that one client may use
//! - [`topology`]: devices, paths and their states, as plain values that most other modules use
//! - [`privileges`]: decides which threads have capabilities
//! - [`source`]: reads device mapper, multipathd and sysfs
//! - [`config`], [`cli`], [`logging`]: the user's settings, and the log
//! - `capture`: writes what the sources read on a host, with names replaced, to be replayed
//!   elsewhere
//! - `watch`: waits for kernel events and for device mapper's event poll
//! - `event`: the feed of events of paths and devices
//! - [`memory`]: the past, and what follows from it: missing paths, lost devices, trouble and
//!   recovery
//! - [`metrics`]: the devices and the exporter's own numbers in Prometheus's formats
//! - [`monitor`]: the main loop: wake, read, compare, publish
//! - [`web_config`]: the web configuration file: TLS, users, rate limit. It knows nothing of
//!   multipath
//! - [`web`]: the HTTP server and its routes
//! - `systemd`: reports the state of the service to systemd
//! - `listen`: binds addresses, or takes the sockets that systemd has bound
//! - `reload`: reads the configuration file, at the start and on SIGHUP
//! - `commands`: combines all of this into serve, `--oneshot`, `--capture` and `--config.check`
//!
//! A path failure goes through the modules as follows. The kernel sends an event (uevent) and
//! increments the map's event number. `watch::uevent` and `watch::dm_event` each wake the
//! [`monitor`]. The monitor counts the event, logs it, adds it to the feed, and marks the map.
//! [`source::device_mapper`] reads the marked maps in full. The monitor rebuilds their devices and
//! publishes a [`topology::Snapshot`]. The next scrape finds it in [`web::routes`] and encodes it
//! once in [`metrics::exposition`]. Later scrapes reuse these bytes until the next snapshot. The
//! exporter's own numbers are encoded for each scrape and appended.

pub mod cli;
pub mod config;
pub mod logging;
pub mod memory;
pub mod metrics;
pub mod monitor;
pub mod privileges;
pub mod shares;
pub mod source;
pub mod topology;
pub mod web;
pub mod web_config;

mod capture;
mod commands;
mod event;
mod listen;
mod pages;
mod reload;
mod small_file;
mod systemd;
mod tasks;
mod watch;

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
