//! The program's output for one recorded host, compared with `tests/golden`. Every change of the
//! public surface shows as a diff. `ACCEPT=1 cargo test --test program` writes the files.
//!
//! The host has lost a network: one path of each device has failed. In `make test`, promtool and
//! Prometheus' Python client (`tests/check_exposition.py`) also read the pages.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::harness::{Exporter, Host, Page, Reply, run, settle};

const OPENMETRICS: (&str, &str) = ("Accept", "application/openmetrics-text; version=1.0.0");

const CONFIG: &str = concat!("--config.file=", env!("CARGO_MANIFEST_DIR"), "/tests/golden/config.yml");

/// Options that read everything of the host.
const ALL: [&str; 2] = [CONFIG, "--collector.nvme"];

fn exporter() -> (Host, Exporter) {
    let host = host("02-net1-lost");
    let exporter = host.exporter(&ALL);
    (host, exporter)
}

/// The recorded host in this state. A logical volume lies on each device, so that the mounts of the
/// test machine do not matter.
fn host(state: &str) -> Host {
    let host = Host::recorded(state);
    let heads = "nvme-subsystem/nvme-subsys0/nvme0n";
    for device in ["block/dm-0", "block/dm-1", &format!("{heads}1"), &format!("{heads}2")] {
        host.sysfs.link(&format!("devices/virtual/{device}/holders/dm-2"), "../../dm-2");
    }
    host
}

fn assert_golden(name: &str, text: &str) {
    assert_file(&format!("tests/golden/{name}"), text);
}

/// Checks that the project's file of this name holds `text`.
pub fn assert_file(name: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("ACCEPT").is_some_and(|accept| accept == "1") {
        std::fs::write(&file, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    if golden == text {
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (wanted, given) = (lines(&golden), lines(text));
    let gone: String = wanted.difference(&given).map(|line| format!("-{line}\n")).collect();
    let new: String = given.difference(&wanted).map(|line| format!("+{line}\n")).collect();
    let order = if gone.is_empty() && new.is_empty() { "only the order or number of lines differs\n" } else { "" };
    panic!("not as in {} (ACCEPT=1 takes it over):\n{gone}{new}{order}", file.display());
}

fn assert_golden_document(name: &str, document: &serde_json::Value) {
    assert_golden(name, &format!("{document:#}\n"));
}

#[test]
fn the_text_page() {
    let (_host, exporter) = exporter();
    let answer = exporter.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_golden("metrics.txt", &settle(answer.text()));
}

#[test]
fn the_openmetrics_page() {
    let (_host, exporter) = exporter();
    let answer = exporter.connect().request("GET", "/metrics", &[OPENMETRICS]);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
    assert_eq!(answer.header("content-type"), Some(content_type));
    assert_golden("metrics.om", &settle(answer.text()));
}

#[test]
fn the_devices() {
    let (_host, exporter) = exporter();
    assert_golden_document("devices.json", &exporter.get("/api/v1/devices").json());
}

#[test]
fn the_health() {
    let (_host, exporter) = exporter();
    assert_golden_document("multipath-health.json", &exporter.get("/api/v1/multipath-health").json());
}

#[test]
fn oneshot_in_each_state_of_the_host() {
    for state in ["01-healthy", "02-net1-lost", "03-both-lost", "04-back"] {
        let host = host(state);
        let mut options = host.options();
        options.extend(ALL.iter().chain(&["--oneshot"]).map(|option| (*option).to_owned()));
        let printed = run(&options);
        assert_golden(&format!("oneshot/{state}.txt"), &settle(&printed.stdout));
    }
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    let (_host, exporter) = exporter();
    for accept in [("Accept", "*/*"), OPENMETRICS] {
        let scrape = || exporter.connect().request("GET", "/metrics", &[accept]);
        assert_eq!(settle(scrape().text()), settle(scrape().text()));
    }
}

#[test]
fn the_compressed_page_is_the_plain_one() {
    let (_host, exporter) = exporter();
    for accept in [("Accept", "*/*"), OPENMETRICS] {
        let plain = exporter.connect().request("GET", "/metrics", &[accept]);
        let compressed = exporter.connect().request("GET", "/metrics", &[accept, ("Accept-Encoding", "gzip")]);
        assert_eq!((plain.header("content-encoding"), compressed.header("content-encoding")), (None, Some("gzip")));
        let mut text = String::new();
        MultiGzDecoder::new(compressed.body.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(settle(plain.text()), settle(&text));
    }
}

#[test]
fn every_series_is_there_once() {
    let (_host, exporter) = exporter();
    let page = exporter.metrics();
    let mut seen = BTreeSet::new();
    for (series, _) in page.samples() {
        assert!(seen.insert(series), "twice: {series}");
    }
}

#[test]
fn the_api_has_what_the_page_has() {
    let (_host, exporter) = exporter();
    let (page, document) = (exporter.metrics(), exporter.get("/api/v1/devices").json());
    for device in document["devices"].as_array().unwrap() {
        assert_has_keys(device, &page, "multipath_device_");
        for path in device["paths"].as_array().unwrap() {
            assert_has_keys(path, &page, "multipath_path_");
        }
    }
}

/// Checks that the object has a key for each metric with this prefix and for each label of its info
/// series.
fn assert_has_keys(object: &serde_json::Value, page: &Page, start: &str) {
    let names = page.names();
    // A group is not a path, and has a list of its own.
    let metrics = names.iter().filter_map(|name| name.strip_prefix(start)).filter(|name| *name != "group_state");
    let info = page.samples().find_map(|(series, _)| series.strip_prefix(&format!("{start}info{{"))).unwrap();
    let labels = info.split(',').map(|label| label.split_once('=').unwrap().0);
    let keys: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let of_another_object = |key: &&str| *key == "info" || (start == "multipath_path_" && *key == "wwid");
    let missing: Vec<_> = metrics.chain(labels).filter(|key| !of_another_object(key) && !keys.contains(key)).collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in the API's {start}…");
}

#[test]
fn a_healthy_host() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    assert_eq!(exporter.get("/api/v1/multipath-health").json(), serde_json::json!({"multipathHealth": {}}));
    let page = exporter.metrics();
    for (series, value) in [
        ("multipath_devices", 2.0),
        ("multipath_degraded_devices", 0.0),
        ("multipath_devices_without_valid_paths", 0.0),
        ("multipath_paths", 4.0),
        ("multipath_failed_paths", 0.0),
        ("multipath_daemon_up", 1.0),
        ("multipath_daemon_state{state=\"idle\"}", 1.0),
    ] {
        assert_eq!(page.value(series), Some(value), "{series}");
    }
}

#[test]
fn a_host_with_nothing() {
    let host = Host::recorded("01-healthy");
    host.multipathd.maps(Reply::Text("{\n   \"major_version\": 0,\n   \"maps\": []\n}\n".to_owned()));
    for device in ["block/dm-0", "block/dm-1"] {
        host.sysfs.remove(device);
    }
    let page = host.exporter(&[]).metrics();
    for series in [
        "multipath_devices",
        "multipath_degraded_devices",
        "multipath_devices_without_valid_paths",
        "multipath_paths",
        "multipath_failed_paths",
        "multipath_unassembled_wwids",
        "multipath_exporter_errors_total{source=\"sysfs\"}",
        "multipath_exporter_errors_total{source=\"multipathd\"}",
    ] {
        assert_eq!(page.value(series), Some(0.0), "{series}");
    }
    assert!(!page.text().contains("wwid="), "{}", page.text());
}

#[test]
fn series_of_each_path_for_devices_that_are_not_well() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--collector.paths.unhealthy-only"]);
    let with_paths = || {
        let page = exporter.reread();
        let series = page.of_metric("multipath_path_info").into_iter().map(|(series, _)| series.to_owned());
        series.collect::<Vec<_>>()
    };
    assert_eq!(with_paths(), [] as [String; 0]);
    host.turn_into("02-net1-lost");
    let series = with_paths();
    assert_eq!(series.len(), 4, "{series:?}");
    assert!(series.iter().any(|series| series.contains("path=\"sda\"")), "{series:?}");
}

#[test]
fn without_the_series_of_each_path() {
    let host = Host::recorded("02-net1-lost");
    let page = host.exporter(&["--no-collector.paths"]).metrics();
    let of_paths: Vec<_> = page.samples().filter(|(series, _)| series.contains(",path=")).collect();
    assert_eq!(of_paths, []);
    assert_eq!(page.value("multipath_failed_paths"), Some(2.0));
}

#[test]
fn without_multipathd() {
    let host = Host::recorded("02-net1-lost");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert!(!page.text().contains("source=\"multipathd\""));
    assert_eq!(page.value("multipath_daemon_up"), None);
    // The SCSI states alone decide.
    assert_eq!(page.value("multipath_failed_paths"), Some(2.0));
    assert!(!page.names().contains("multipath_path_checker_state"));
}
