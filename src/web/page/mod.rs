//! The status page at `/`, for an administrator who is called at night. It shows one sentence, the
//! problems, the devices (worst first), the recent events, and the state of the sources. It works
//! in any browser, without scripts and without further requests. The script only updates it without
//! a reload.
//!
//! ```text
//! mod.rs       the order of the page, and its first sentence
//! query.rs     the query of its address   escape.rs, words.rs: formats of texts and numbers
//! findings.rs  the problems               devices.rs, diagram.rs: the devices, with drawings
//! runbooks.rs  the runbooks, as pages of their own
//! style.css, live.js                      inline, and allowed by their hashes only
//! ```

mod devices;
mod diagram;
mod escape;
mod findings;
mod query;
pub(crate) mod runbooks;
#[cfg(test)]
mod tests;
mod words;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use ring::digest::{SHA256, digest};

use crate::event::{Event, EventType};
use crate::source::health::{Source, SourceState, unknown_sources};
use crate::topology::{
    Adapters, Counts, Daemon, Device, DirectUse, Health, History, Mismatches, Path, PathState, Snapshot,
};
use escape::Escaped;
use findings::Finding;
pub(crate) use query::Query;
use words::{Ago, Count, Severity, have};

/// The start of every page's head.
const HEAD_START: &str = "<meta charset=\"utf-8\">\n\
                    <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                    <meta name=\"color-scheme\" content=\"light dark\">\n";

/// The number of recent events on the page.
const SHOWN_EVENTS: usize = 20;
/// The time within which a device's events may belong to one kernel event storm.
const STORM_WINDOW: Duration = Duration::from_secs(1);
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");
const PROJECT: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main");

/// The facts that the page shows.
pub(crate) struct PageContent<'a> {
    /// `None` until the first full read.
    pub(crate) snapshot: Option<&'a Snapshot>,
    /// The recent events, newest last.
    pub(crate) events: &'a [Arc<Event>],
    /// The state of each source.
    pub(crate) sources: &'a [(Source, SourceState)],
    /// The path of the metrics page.
    pub(crate) telemetry_path: &'a str,
    pub(crate) host: &'a str,
    /// The query of the page's address.
    pub(crate) query: Query,
    pub(crate) now: SystemTime,
}

/// The `Content-Security-Policy` of all pages. It allows only this style, this script, and the
/// script's requests to the exporter.
pub(crate) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    // Base64 is visible ASCII, so this cannot fail.
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

pub(crate) fn html(view: &PageContent<'_>) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, view);
    page
}

fn write(page: &mut String, view: &PageContent<'_>) -> fmt::Result {
    let ranked = view.snapshot.map(rank).unwrap_or_default();
    let found = view.snapshot.map(|snapshot| findings::findings(snapshot, &ranked, view)).unwrap_or_default();
    let verdict = Verdict::of(view, &ranked, found.first());
    let (host, version) = (Escaped(view.host), env!("CARGO_PKG_VERSION"));
    // No event announces the first read, so a browser without scripts polls for it.
    let (unread, refresh) = if view.snapshot.is_none() { (" data-unread", 3) } else { ("", 30) };
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\" data-version=\"{version}\"{unread}>\n<head>\n{HEAD_START}<title>{} – {host}</title>\n\
         <noscript><meta http-equiv=\"refresh\" content=\"{refresh}\"></noscript>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <header><p>Multipath storage of <b>{host}</b></p>\n<p id=\"live\" role=\"status\"></p>\n\
         <p id=\"asof\" data-live>As of {} UTC</p></header>\n<main>",
        verdict.sentence,
        clock(view.now),
    )?;
    verdict.write(page)?;
    let events = newest_first(view.events);
    newest(page, &events, view.now)?;
    findings::write(page, &found)?;
    if !ranked.is_empty() {
        devices::write(page, &ranked, &view.query)?;
    }
    recent(page, &events, view)?;
    sources(page, view)?;
    page.push_str("</main>\n<footer>\n<h2>More</h2>\n<ul>\n");
    writeln!(
        page,
        "<li><a href=\"{}\">Metrics</a>, for Prometheus</li>\n\
         <li><a href=\"{}\">Runbooks</a>: what each alert means, and what to do</li>\n\
         <li>JSON: <a href=\"/api/v1/devices\">all devices</a>, \
         <a href=\"/api/v1/multipath-health\">devices in trouble</a>, <a href=\"/api/v1/events\">events</a>, \
         and <a href=\"{PROJECT}/src/web/openapi.yaml\">their description</a></li>\n\
         <li><a href=\"/-/healthy\">Healthy</a>, <a href=\"/-/ready\">ready</a></li>\n</ul>\n\
         <p>multipath_exporter {version}</p>\n</footer>\n<script>{SCRIPT}</script>\n</body>\n</html>",
        Escaped(view.telemetry_path),
        runbooks::RUNBOOKS_PATH,
    )
}

/// A device, and the facts that decide its rank on the page.
pub(crate) struct Ranked<'a> {
    device: &'a Device,
    counts: Counts,
    history: History,
    /// Users of its disks that bypass the device.
    direct_users: &'a [DirectUse],
    /// The number of live controllers of its NVMe subsystem.
    live_controllers: usize,
    /// The network or PCI devices that its paths' host ports belong to.
    adapters: &'a Adapters,
}

/// The adapters of the paths' host ports.
fn rank(snapshot: &Snapshot) -> Vec<Ranked<'_>> {
    let mut live: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    for subsystem in &snapshot.transports.nvme_subsystems {
        live.extend(subsystem.devices.iter().map(|name| (name, subsystem.live_controllers)));
    }
    let ranked = snapshot.devices.iter().map(|device| {
        let history = snapshot.remembered.of(&device.wwid).copied().unwrap_or_default();
        Ranked {
            device,
            counts: device.counts(),
            history,
            direct_users: snapshot.direct_users(&device.wwid),
            adapters: &snapshot.transports.adapters,
            live_controllers: live.get(&device.sysfs_name).copied().unwrap_or_default(),
        }
    });
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by_key(|one| (Reverse(one.rank()), !one.device.root, &one.device.name, &one.device.wwid));
    ranked
}

impl Ranked<'_> {
    fn rank(&self) -> u8 {
        match self.counts.health() {
            Health::WithoutValidPaths => 5,
            _ if self.is_dangerous() || self.hangs() => 4,
            Health::Degraded if self.has_one_left() => 3,
            Health::Degraded => 2,
            Health::Healthy => u8::from(self.severity() > Severity::Well),
        }
    }

    fn severity(&self) -> Severity {
        let is_odd = self.differs()
            || self.misses_paths()
            || self.is_suspended()
            || self.is_marginal()
            || self.hangs_in_part()
            || self.has_strays()
            || !self.direct_users.is_empty();
        match self.counts.health() {
            Health::WithoutValidPaths if self.is_unused() => Severity::Warning,
            Health::WithoutValidPaths => Severity::Critical,
            _ if self.is_dangerous() || self.hangs() => Severity::Critical,
            Health::Degraded => Severity::Warning,
            Health::Healthy if is_odd => Severity::Warning,
            Health::Healthy => Severity::Well,
        }
    }

    /// The device's state in a few words.
    fn word(&self) -> String {
        match (self.counts.health(), self.severity()) {
            (Health::WithoutValidPaths, _) => "no valid path".to_owned(),
            _ if self.leads_elsewhere() => "another LUN".to_owned(),
            _ if self.holds_two_luns() => "two LUNs".to_owned(),
            _ if self.device.is_blocked() => "all paths blocked".to_owned(),
            _ if self.device.is_stalled() => "I/O stalled".to_owned(),
            (Health::Degraded, _) if self.has_one_left() => "one path left".to_owned(),
            (Health::Degraded, _) => format!("{} failed", Count(self.counts.failed, "path")),
            (Health::Healthy, Severity::Well) => "healthy".to_owned(),
            _ if !self.direct_users.is_empty() => "disk used directly".to_owned(),
            _ if self.differs() => "paths differ".to_owned(),
            _ if self.is_suspended() => "suspended".to_owned(),
            _ if self.hangs_in_part() => "path hangs".to_owned(),
            _ if self.misses_paths() => "paths missing".to_owned(),
            _ if self.has_strays() => "stray path".to_owned(),
            _ => "marginal path".to_owned(),
        }
    }

    fn has_one_left(&self) -> bool {
        self.counts.valid == 1 && self.counts.failed > 0
    }

    fn misses_paths(&self) -> bool {
        self.history.missing_paths > 0
    }

    /// I/O through one of its paths reaches another LUN.
    fn leads_elsewhere(&self) -> bool {
        self.device.mismatches.wwid > 0
    }

    /// One pair of ports leads to several LUN numbers of this device.
    fn holds_two_luns(&self) -> bool {
        self.device.lun_conflicts > 0
    }

    /// Its users may destroy data.
    fn is_dangerous(&self) -> bool {
        self.leads_elsewhere() || self.holds_two_luns()
    }

    /// I/O to the device does not complete.
    fn hangs(&self) -> bool {
        self.device.is_blocked() || self.device.is_stalled()
    }

    /// I/O to some of its paths does not complete.
    fn hangs_in_part(&self) -> bool {
        self.device.blocked_paths > 0 || self.device.swallowing_paths().next().is_some()
    }

    fn differs(&self) -> bool {
        let Mismatches { size, read_only, lun, .. } = self.device.mismatches;
        size + read_only + lun > 0
    }

    fn is_marginal(&self) -> bool {
        self.device.paths.iter().any(|path| path.marginal == Some(true))
    }

    /// Disks that should be paths of the device are not.
    fn has_strays(&self) -> bool {
        !self.device.stray_paths.is_empty()
    }

    /// Nothing uses the device. If that is unknown, it counts as used.
    fn is_unused(&self) -> bool {
        self.device.in_use == Some(false)
    }

    fn is_suspended(&self) -> bool {
        self.device.suspended == Some(true)
    }
}

/// The first sentence of the page, and the sentences below it.
struct Verdict {
    severity: Severity,
    sentence: String,
    /// Sentences in HTML.
    more: Vec<String>,
}

impl Verdict {
    fn of(view: &PageContent<'_>, ranked: &[Ranked<'_>], worst: Option<&Finding>) -> Self {
        let all = ranked.len();
        let with = |health| ranked.iter().filter(|one| one.counts.health() == health).count();
        let (dead, degraded) = (with(Health::WithoutValidPaths), with(Health::Degraded));
        let none_that_is_used_is_dead =
            ranked.iter().all(|one| one.counts.health() != Health::WithoutValidPaths || one.is_unused());
        let of_all = match all {
            1 => "The only device".to_owned(),
            _ => format!("{} of {all} devices", if dead > 0 { dead } else { degraded }),
        };
        let all_devices = if all == 1 { "the only device".to_owned() } else { format!("{all} devices") };
        let awaited = unknown_sources(view.sources).map(|(source, _)| source.name());
        let awaited = awaited.collect::<Vec<_>>().join(" and ");
        let severity = worst.map_or(Severity::Well, |worst| worst.severity);
        let (severity, sentence) = match (view.snapshot, worst) {
            (None, _) if !awaited.is_empty() => {
                (Severity::Warning, format!("No data yet: waiting for the first reading of {awaited}"))
            }
            (None, _) => (Severity::Note, "The first full read is in progress".to_owned()),
            (Some(_), Some(worst)) if none_that_is_used_is_dead && severity == Severity::Critical => {
                (severity, worst.what.clone())
            }
            (Some(snapshot), Some(_)) if dead + degraded == 0 && !snapshot.remembered.lost.is_empty() => {
                let lost = snapshot.remembered.lost.len();
                (severity, format!("{} {} lost", Count(lost, "device"), words::are(lost)))
            }
            (Some(_), _) if all == 0 && !awaited.is_empty() => {
                (severity, format!("No multipath device found yet: waiting for the first reading of {awaited}"))
            }
            (Some(_), _) if all == 0 => (severity.max(Severity::Note), "This host has no multipath device".to_owned()),
            (Some(_), _) if dead > 0 => (severity, format!("{of_all} {} no valid path", have(dead))),
            (Some(_), _) if degraded > 0 => (severity, format!("{of_all} {} failed paths", have(degraded))),
            (Some(_), _) if severity > Severity::Note => {
                (severity, format!("No path of {all_devices} has failed, but there are other problems"))
            }
            // Only the configuration could tell if all expected devices are present.
            (Some(_), _) => (Severity::Well, format!("All paths of {all_devices} work")),
        };
        let mut more = Vec::new();
        if degraded > 0 && (dead > 0 || severity == Severity::Critical) {
            let others = if dead > 0 { " more" } else { "" };
            more.push(format!("{degraded}{others} {} failed paths.", have(degraded)));
        }
        let well = ranked.iter().filter(|one| one.severity() == Severity::Well).count();
        if dead + degraded > 0 && well > 0 {
            more.push(format!("All paths of {} work.", Count(well, "other device")));
        }
        let recovery = view.snapshot.and_then(|snapshot| snapshot.remembered.last_recovery);
        if let Some(recovery) = recovery.filter(|_| severity == Severity::Well) {
            more.push(format!("Recovered at {} UTC.", clock(recovery)));
        }
        more.extend(broken_port(ranked.iter().flat_map(|one| &one.device.paths)));
        Verdict { severity, sentence, more }
    }

    fn write(&self, page: &mut String) -> fmt::Result {
        let (class, mark) = (self.severity.class(), self.severity.mark());
        write!(page, "<section id=\"verdict\" class=\"{class}\" data-live aria-live=\"polite\">\n<h1>")?;
        writeln!(page, "<span class=\"mark\">{mark}</span> <span>{}</span></h1>", self.sentence)?;
        if !self.more.is_empty() {
            writeln!(page, "<p>{}</p>", self.more.join(" "))?;
        }
        page.push_str("</section>\n");
        Ok(())
    }
}

/// The one port that the failed paths have in common, in HTML. This port is usually the broken
/// part. `None` if only one path failed, or if there is only one port.
fn broken_port<'a>(paths: impl Iterator<Item = &'a Path> + Clone) -> Option<String> {
    type Port = fn(&Path) -> &str;
    let sides: [(Port, &str, &str); 2] = [
        (|path| &path.ports.initiator_port, "leave this host through", "this host’s port"),
        (|path| &path.ports.target_port, "enter the storage at", "the storage’s port"),
    ];
    let failed = paths.clone().filter(|path| path.state == PathState::Failed).count();
    sides.into_iter().filter(|_| failed > 1).find_map(|(port, verb, noun)| {
        let mut ports: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for path in paths.clone() {
            let (failed, all) = ports.entry(port(path)).or_default();
            *failed += usize::from(path.state == PathState::Failed);
            *all += 1;
        }
        ports.retain(|port, _| !port.is_empty());
        if ports.len() < 2 {
            return None;
        }
        if let Some((port, (_, through))) = ports.iter().find(|(_, (here, _))| *here == failed) {
            let all = if failed == 2 { "Both failed paths".to_owned() } else { format!("All {failed} failed paths") };
            let none = if *through == failed { ": no path through it is left" } else { "" };
            return Some(format!("{all} {verb} <b>{}</b>{none}.", Escaped(port)));
        }
        let mut dead = ports.iter().filter(|(_, (failed, all))| failed == all && *all > 1);
        let (port, _) = dead.next().filter(|_| dead.next().is_none())?;
        Some(format!("No path through {noun} <b>{}</b> is left.", Escaped(port)))
    })
}

/// The recent events to show, newest first. If the kernel raises several events of a device
/// together, the last may arrive first, and events of other devices may be between them. This
/// restores the order for each device, so that the newest one has the current number of valid
/// paths.
fn newest_first(events: &[Arc<Event>]) -> Vec<&Event> {
    let noticed: Vec<&Event> = events.iter().rev().map(|event| &**event).collect();
    let mut of_devices: Vec<usize> = (0..noticed.len()).collect();
    of_devices.sort_by_key(|&place| &noticed[place].wwid);
    let together = |&one: &usize, &other: &usize| {
        let (one, other) = (noticed[one], noticed[other]);
        let apart = one.time.duration_since(other.time).unwrap_or_default();
        one.wwid == other.wwid && one.dm_seqnum.is_some() && other.dm_seqnum.is_some() && apart < STORM_WINDOW
    };
    let mut happened = noticed.clone();
    for places in of_devices.chunk_by(together) {
        let mut run: Vec<&Event> = places.iter().map(|&place| noticed[place]).collect();
        run.sort_by_key(|event| Reverse(event.dm_seqnum));
        for (&place, event) in places.iter().zip(run) {
            happened[place] = event;
        }
    }
    happened.truncate(SHOWN_EVENTS);
    happened
}

/// The last event, and a link to the others, which follow after the devices.
fn newest(page: &mut String, events: &[&Event], now: SystemTime) -> fmt::Result {
    page.push_str("<p id=\"newest\" data-live>");
    if let Some(event) = events.first() {
        write!(page, "Last event {}. ", Ago(event.time, now))?;
        happened(page, event)?;
        page.push_str(". <a href=\"#events\">Recent events</a>");
    }
    page.push_str("</p>\n");
    Ok(())
}

fn recent(page: &mut String, events: &[&Event], view: &PageContent<'_>) -> fmt::Result {
    page.push_str("<section id=\"events\" data-live>\n<h2>Recent events</h2>\n");
    if events.is_empty() {
        page.push_str("<p>None since the exporter started.</p>\n</section>\n");
        return Ok(());
    }
    page.push_str(
        "<table>\n<thead><tr><th scope=\"col\">Time (UTC)</th><th scope=\"col\">Event</th></tr></thead>\n<tbody>\n",
    );
    for event in events {
        write!(
            page,
            "<tr><td>{} <span class=\"ago\">{}</span></td><td>",
            clock(event.time),
            Ago(event.time, view.now)
        )?;
        happened(page, event)?;
        page.push_str("</td></tr>\n");
    }
    page.push_str("</tbody>\n</table>\n");
    if view.events.len() > SHOWN_EVENTS {
        writeln!(page, "<p><a href=\"/api/v1/events\">All {} recorded events</a> (JSON)</p>", view.events.len())?;
    }
    page.push_str("</section>\n");
    Ok(())
}

fn happened(page: &mut String, event: &Event) -> fmt::Result {
    let path = Escaped(event.path.as_deref().unwrap_or_default());
    if let Some(name) = &event.name {
        write!(page, "<b><bdi>{}</bdi></b>: ", Escaped(name))?;
    }
    match event.kind {
        EventType::PathFailed => write!(page, "<span class=\"failed\">✕ path {path} failed</span>"),
        EventType::PathReinstated => write!(page, "✓ path {path} is back"),
        EventType::DeviceAdded => write!(page, "device added"),
        EventType::DeviceRemoved => write!(page, "device removed"),
        EventType::PathAdded => write!(page, "path {path} added"),
        EventType::PathRemoved => write!(page, "path {path} removed"),
        EventType::DeviceLost => write!(page, "<span class=\"failed\">✕ device lost</span>"),
        EventType::Recovered => write!(page, "✓ all devices have recovered"),
    }?;
    match event.valid_paths {
        Some(0) => write!(page, ", no valid path left"),
        Some(valid) => write!(page, ", {}", Count(usize::try_from(valid).unwrap_or(usize::MAX), "valid path")),
        None => Ok(()),
    }
}

fn sources(page: &mut String, view: &PageContent<'_>) -> fmt::Result {
    page.push_str(
        "<section id=\"sources\" data-live>\n<h2>Sources</h2>\n<table>\n<thead><tr><th scope=\"col\">Source</th>\
         <th scope=\"col\">State</th><th scope=\"col\">Last read</th></tr></thead>\n<tbody>\n",
    );
    for (source, state) in view.sources {
        write!(page, "<tr><th scope=\"row\">{}</th><td>", source.name())?;
        match (state.up, source, view.snapshot.map(|snapshot| &snapshot.daemon)) {
            (None, ..) => write!(page, "not read yet"),
            (Some(false), _, daemon) if state.not_permitted => {
                write!(page, "i not permitted, so path states come from {}", findings::stand_in(daemon))
            }
            (Some(false), ..) => write!(page, "<span class=\"failed\">✕ cannot be read</span>"),
            (_, Source::Multipathd, Some(Daemon::Up(word))) => write!(page, "✓ {}", Escaped(word)),
            (Some(true), ..) => write!(page, "✓ read"),
        }?;
        if let Some(error) = &state.error {
            write!(page, ": {}", Escaped(error))?;
        }
        if let Some(remark) = state.remark {
            write!(page, "; {}", Escaped(remark))?;
        }
        page.push_str("</td><td>");
        match state.last_success {
            Some(time) => write!(page, "{}", Ago(time, view.now)),
            None => write!(page, "never"),
        }?;
        page.push_str("</td></tr>\n");
    }
    page.push_str("</tbody>\n</table>\n</section>\n");
    Ok(())
}

/// Date and time of day.
fn clock(time: SystemTime) -> String {
    let mut text = humantime::format_rfc3339_seconds(time).to_string().replace('T', " ");
    text.truncate(text.trim_end_matches('Z').len());
    text
}
