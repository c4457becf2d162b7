//! The log, as a log collector reads it: one line for each event, whatever the names contain.

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Exporter, Host, MPATHA, Reply};
use super::robustness::HOSTILE;

/// An exporter with many log lines in this format.
fn talkative(format: &str) -> (Host, Exporter) {
    let host = Host::recorded("02-net1-lost");
    for (minor, name) in (10..).zip(HOSTILE) {
        host.sysfs.add_map(minor, name, [b"mpath-", name].concat(), &[]);
    }
    let exporter = host.exporter(&[&format!("--log.format={format}"), "--log.level=debug"]);
    host.sysfs.write("devices/virtual/block/dm-0/size", HOSTILE[1]);
    host.multipathd.maps(Reply::Bytes(HOSTILE.concat()));
    exporter.signal(Signal::HUP);
    for words in [
        &["listening"][..],
        &["path failed", MPATHA],
        &["device without valid path"],
        &["some objects could not be read"],
        &["source cannot be read", "multipathd"],
        &["configuration reloaded"],
    ] {
        exporter.await_log(words);
    }
    (host, exporter)
}

#[test]
fn json_lines_are_json() {
    let (_host, exporter) = talkative("json");
    let lines = exporter.log();
    for line in &lines {
        let document: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        for key in ["timestamp", "level", "message"] {
            assert!(document[key].is_string(), "no {key}: {line}");
        }
    }
    let found = lines.iter().filter(|line| line.contains("path failed"));
    let found: Vec<Value> = found.map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_mpatha = found.iter().find(|line| line["wwid"] == MPATHA).unwrap();
    assert_eq!((&of_mpatha["level"], &of_mpatha["path"]), (&Value::from("WARN"), &Value::from("sdb")));
    assert_eq!((&of_mpatha["name"], &of_mpatha["valid_paths"]), (&Value::from("mpatha"), &Value::from(1)));
}

#[test]
fn logfmt_lines_are_logfmt() {
    let (_host, exporter) = talkative("logfmt");
    for line in exporter.log() {
        let fields = logfmt(&line).unwrap_or_else(|| panic!("no logfmt: {line:?}"));
        for key in ["ts", "level", "message"] {
            assert_eq!(fields.iter().filter(|(other, _)| other == key).count(), 1, "{key}: {line:?}");
        }
    }
    let line = exporter.await_log(&["path failed", MPATHA]);
    let fields = logfmt(&line).unwrap();
    for (key, value) in
        [("level", "warn"), ("message", "path failed"), ("name", "mpatha"), ("path", "sdb"), ("valid_paths", "1")]
    {
        assert!(fields.contains(&(key.to_owned(), value.to_owned())), "no {key}={value}: {line}");
    }
}

/// Parses `key=value key="quoted value"`, or returns `None` for anything else. `tests/logfmt` asks
/// go-logfmt itself.
fn logfmt(line: &str) -> Option<Vec<(String, String)>> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') {
            return None;
        }
        let value = match after.strip_prefix('"') {
            None => {
                let end = after.find(' ').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                rest = after;
                if value.contains(|c: char| c == '"' || c == '=' || c.is_control()) {
                    return None;
                }
                value.to_owned()
            }
            Some(_) => {
                // A JSON string.
                let mut strings = serde_json::Deserializer::from_str(after).into_iter::<String>();
                let value = strings.next()?.ok()?;
                rest = &after[strings.byte_offset()..];
                value
            }
        };
        fields.push((key.to_owned(), value));
        if !rest.is_empty() {
            rest = rest.strip_prefix(' ')?;
        }
    }
    Some(fields)
}

#[test]
fn the_level_bounds_what_is_told() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    host.multipathd.maps(Reply::closed());
    exporter.signal(Signal::HUP);
    exporter.await_log(&["source cannot be read", "multipathd"]);
    assert!(!exporter.log().iter().any(|line| line.contains("level=debug")), "{:?}", exporter.log());
}

#[test]
fn a_scrape_tells_nothing() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let before = exporter.log();
    for path in ["/metrics", "/", "/nothing", "/api/v1/devices"] {
        exporter.get(path);
    }
    assert_eq!(exporter.log(), before);
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let host = Host::recorded("01-healthy");
    let mut exporter = Exporter::start_and_ignore(&[host.options(), vec!["--log.level=debug".to_owned()]].concat());
    exporter.await_ready();
    let mut connection = exporter.connect();
    // One line each. Together they exceed the capacity of a pipe several times.
    for _ in 0..2000 {
        assert_eq!(connection.request("GET", "/-/healthy", &[]).status, 200);
    }
    host.turn_into("03-both-lost");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_failed_paths", 4.0)]);
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

#[test]
fn a_trouble_that_lasts_is_told_once() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--resync.interval=50ms"]);
    host.multipathd.daemon(Reply::closed());
    exporter.await_log(&["source cannot be read", "multipathd"]);
    for _ in 0..5 {
        host.multipathd.asked_after(|| {});
    }
    let told = exporter.log().iter().filter(|line| line.contains("source cannot be read")).count();
    assert_eq!(told, 1, "{:?}", exporter.log());
}
