//! The page at `/`: one sentence, the devices, worst first, and what happened last. A person reads it at night, in
//! whatever browser is there: it works without scripts and asks for nothing else.

use std::cmp::Reverse;
use std::fmt::{self, Display, Write};
use std::sync::Arc;

use crate::event::{Event, EventType};
use crate::topology::{Counts, Device, Health, Path, PathState, Snapshot};

/// Devices shown; the rest is in the API. The page of a host with thousands would be no help.
const DEVICES: usize = 200;
/// Recent events shown.
const EVENTS: usize = 50;

/// The page; `snapshot` is `None` until the first full read, `events` are the recent ones, newest last.
pub fn html(snapshot: Option<&Snapshot>, events: &[Arc<Event>], telemetry_path: &str) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut page, snapshot, events, telemetry_path);
    page
}

fn write(page: &mut String, snapshot: Option<&Snapshot>, events: &[Arc<Event>], telemetry_path: &str) -> fmt::Result {
    let sentence = snapshot.map_or_else(|| "The first full read is under way.".to_owned(), sentence);
    page.push_str(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>multipath_exporter</title>\n</head>\n<body>\n\
         <h1>multipath_exporter</h1>\n",
    );
    writeln!(page, "<p><strong>{sentence}</strong></p>")?;
    if let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.devices.is_empty()) {
        devices(page, snapshot)?;
    }
    if !events.is_empty() {
        recent(page, events)?;
    }
    writeln!(
        page,
        "<h2>More</h2>\n<ul>\n<li><a href=\"{}\">Metrics</a>, for Prometheus</li>\n\
         <li><a href=\"/api/v1/multipath-health\">Devices with failed paths or without valid ones</a> (JSON)</li>\n\
         <li><a href=\"/api/v1/devices\">All devices</a> (JSON)</li>\n\
         <li><a href=\"/api/v1/events\">Recent events</a> (JSON)</li>\n\
         <li><a href=\"/-/healthy\">Healthy</a>, <a href=\"/-/ready\">ready</a></li>\n</ul>\n\
         <p>Version {}</p>\n</body>\n</html>",
        Escaped(telemetry_path),
        env!("CARGO_PKG_VERSION")
    )
}

fn devices(page: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let mut devices: Vec<(Counts, &Device)> =
        snapshot.devices.iter().map(|device| (device.counts(), &**device)).collect();
    devices.sort_by_key(|(counts, _)| Reverse(severity(counts.health())));
    page.push_str(
        "<h2>Devices</h2>\n<table>\n<tr><th scope=\"col\">State</th><th scope=\"col\">Name</th>\
         <th scope=\"col\">WWID</th><th scope=\"col\">Valid</th><th scope=\"col\">Paths</th></tr>\n",
    );
    for (counts, device) in devices.iter().take(DEVICES) {
        let state = match counts.health() {
            Health::Healthy => "healthy",
            Health::Degraded => "degraded",
            Health::WithoutValidPaths => "no valid path",
        };
        let (name, wwid) = (Escaped(&device.name), Escaped(&device.wwid));
        write!(page, "<tr><td>{state}</td><td>{name}</td><td>{wwid}</td>")?;
        write!(page, "<td>{} of {}</td><td>", counts.valid, counts.paths())?;
        for (index, path) in device.paths.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(page, "{comma}{} {}", Escaped(&path.name), path_state(path))?;
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table>\n");
    match devices.len().checked_sub(DEVICES) {
        None | Some(0) => Ok(()),
        Some(more) => writeln!(page, "<p>And {more} more, none of them worse: see the JSON below.</p>"),
    }
}

fn recent(page: &mut String, events: &[Arc<Event>]) -> fmt::Result {
    page.push_str(
        "<h2>Recent events</h2>\n<table>\n<tr><th scope=\"col\">Time</th><th scope=\"col\">Event</th>\
         <th scope=\"col\">Name</th><th scope=\"col\">Path</th><th scope=\"col\">Valid paths</th></tr>\n",
    );
    for event in events.iter().rev().take(EVENTS) {
        let time = humantime::format_rfc3339_millis(event.time);
        let what = match event.kind {
            EventType::PathFailed => "path failed",
            EventType::PathReinstated => "path reinstated",
            EventType::DeviceAdded => "device added",
            EventType::DeviceRemoved => "device removed",
            EventType::PathAdded => "path added",
            EventType::PathRemoved => "path removed",
        };
        let (name, path) = (Escaped(&event.name), Escaped(event.path.as_deref().unwrap_or_default()));
        let valid = event.valid_paths.map(|valid| valid.to_string()).unwrap_or_default();
        writeln!(page, "<tr><td>{time}</td><td>{what}</td><td>{name}</td><td>{path}</td><td>{valid}</td></tr>")?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn severity(health: Health) -> u8 {
    match health {
        Health::Healthy => 0,
        Health::Degraded => 1,
        Health::WithoutValidPaths => 2,
    }
}

fn path_state(path: &Path) -> &'static str {
    match path.state {
        PathState::Valid => "valid",
        PathState::Standby => "standby",
        PathState::Failed => "FAILED",
    }
}

/// What a tired person needs to know.
fn sentence(snapshot: &Snapshot) -> String {
    let all = snapshot.devices.len();
    let with = |health| snapshot.devices.iter().filter(|device| device.counts().health() == health).count();
    let of_all = match all {
        1 => "the one multipath device".to_owned(),
        _ => format!("{all} multipath devices"),
    };
    match (all, with(Health::WithoutValidPaths), with(Health::Degraded)) {
        (0, ..) => "There is no multipath device on this host.".to_owned(),
        (1, 0, 0) => "The one multipath device has all its paths.".to_owned(),
        (_, 0, 0) => format!("All {all} multipath devices have all their paths."),
        (_, 0, degraded) => format!("{degraded} of {of_all} {} failed paths.", have(degraded)),
        (_, dead, 0) => format!("{dead} of {of_all} {} no valid path.", have(dead)),
        (_, dead, degraded) => {
            format!("{dead} of {of_all} {} no valid path, {degraded} more {} failed paths.", have(dead), have(degraded))
        }
    }
}

fn have(number: usize) -> &'static str {
    if number == 1 { "has" } else { "have" }
}

/// Names come from outside: shown as they are, never as markup.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            c => f.write_char(c),
        })
    }
}
