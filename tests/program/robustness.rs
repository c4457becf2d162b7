//! A daemon that misbehaves, a sysfs with holes, and hostile names. A fault of one device or source
//! costs only that one, and the exporter counts it.

use std::io::Write;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::process::Signal;
use serde_json::json;

use super::harness::{Answer, Exporter, Host, MPATHA, MPATHB, Page, Reply, Tree, eventually, recorded_reply};

const DAEMON_UP: &str = "multipath_daemon_up";
const MULTIPATHD_UP: &str = "multipath_exporter_source_up{source=\"multipathd\"}";
const MULTIPATHD_ERRORS: &str = "multipath_exporter_errors_total{source=\"multipathd\"}";
const SYSFS_UP: &str = "multipath_exporter_source_up{source=\"sysfs\"}";
const SYSFS_ERRORS: &str = "multipath_exporter_errors_total{source=\"sysfs\"}";

const DM_0: &str = "devices/virtual/block/dm-0";
const SDB: &str = "devices/platform/host6/session1/target6:0:0/6:0:0:2/block/sdb";

/// The host in its degraded state, and an exporter that has read it.
fn degraded() -> (Host, Exporter, Page) {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    let page = exporter.metrics();
    (host, exporter, page)
}

#[test]
fn no_answer_to_show_daemon_that_is_none_loses_a_device() {
    let mut enormous = u64::MAX.to_ne_bytes().to_vec();
    enormous.extend_from_slice(b"pid 1 idle\n\0");
    for (what, reply) in [
        ("closes", Reply::closed()),
        ("garbage", Reply::Bytes((0..=255).collect())),
        ("an HTTP server", Reply::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        ("half a length", Reply::Raw(vec![12, 0, 0])),
        ("an enormous length", Reply::Raw(enormous)),
        ("no length", Reply::Raw(vec![0; 8])),
        ("cut", Reply::cut("pid 4711 idle\n", 7)),
        ("empty", Reply::Text(String::new())),
        ("refuses", Reply::Text("permission deny: need to be root\n".to_owned())),
    ] {
        let (host, exporter, before) = degraded();
        host.multipathd.daemon(reply.clone());
        exporter.signal(Signal::HUP);
        let after = exporter.await_values(&[(DAEMON_UP, 0.0), (MULTIPATHD_UP, 0.0)]);
        for wwid in [MPATHA, MPATHB] {
            for metric in ["paths", "valid_paths", "failed_paths", "size_bytes", "queueing"] {
                assert_eq!(after.device(metric, wwid), before.device(metric, wwid), "{what}: {metric} of {wwid}");
            }
        }
        assert!(!after.text().contains("multipath_daemon_state{"), "{what}");
        assert!(!after.names().contains("multipath_path_checker_state"), "{what}");

        let at_start = Host::recorded("02-net1-lost");
        at_start.multipathd.daemon(reply);
        let page = at_start.exporter(&[]).metrics();
        // The SCSI states decide, because multipathd has never answered.
        for (series, value) in [(DAEMON_UP, 0.0), ("multipath_devices", 2.0), ("multipath_failed_paths", 2.0)] {
            assert_eq!(page.value(series), Some(value), "{what}: {series}");
        }

        host.multipathd.daemon(Reply::Text("pid 4712 idle (pending reconfigure)\n".to_owned()));
        exporter.signal(Signal::HUP);
        let back = exporter.await_values(&[(DAEMON_UP, 1.0), (MULTIPATHD_UP, 1.0)]);
        for wwid in [MPATHA, MPATHB] {
            assert_eq!(back.of_device(wwid), before.of_device(wwid), "{what}");
        }
    }
}

#[test]
fn without_an_answer_to_show_maps_the_last_one_stands() {
    let text = recorded_reply("02-net1-lost");
    for (what, reply) in [
        ("closes", Reply::closed()),
        ("garbage", Reply::Bytes((0..=255).cycle().take(5000).collect())),
        ("another document", Reply::Text("{\"paths\": []}\n".to_owned())),
        ("cut", Reply::cut(&text, text.len() / 2)),
        ("cut before the text", Reply::cut(&text, 0)),
        ("fails", Reply::Text("fail\n".to_owned())),
        ("is busy", Reply::Text("timeout\n".to_owned())),
    ] {
        let (host, exporter, before) = degraded();
        host.multipathd.maps(reply);
        exporter.signal(Signal::HUP);
        let after = exporter.await_values(&[(DAEMON_UP, 1.0), (MULTIPATHD_UP, 0.0)]);
        for wwid in [MPATHA, MPATHB] {
            assert_eq!(after.of_device(wwid), before.of_device(wwid), "{what}");
        }
        exporter.await_log(&["multipathd", "show maps json", "level=warn"]);
    }
}

#[test]
fn a_reply_that_breaks_off_is_read_as_far_as_it_goes() {
    let (host, exporter, _) = degraded();
    let text = recorded_reply("01-healthy");
    let second = text.find("mpathb").unwrap();
    host.multipathd.maps(Reply::Text(text[..second + 700].to_owned()));
    let after = exporter.reread();
    assert_eq!(after.device("failed_paths", MPATHA), Some(0.0));
    assert_eq!(after.device("failed_paths", MPATHB), Some(1.0));
    assert!(after.value(MULTIPATHD_ERRORS) > Some(0.0));
    assert_eq!(after.value("multipath_devices"), Some(2.0));
}

#[test]
fn an_object_that_makes_no_sense_is_left_out_alone() {
    let text = recorded_reply("02-net1-lost");
    for (what, from, to) in [
        ("a map without a uuid", format!("\"uuid\" : \"{MPATHA}\""), "\"uuid\" : \"\"".to_owned()),
        ("a map without paths", "\"path_groups\": [{".to_owned(), "\"path_gruops\": [{".to_owned()),
    ] {
        let (host, exporter, before) = degraded();
        let broken = text.replacen(&from, &to, 1);
        assert_ne!(broken, text);
        host.multipathd.maps(Reply::Text(broken));
        exporter.signal(Signal::HUP);
        let counted = || exporter.metrics().value(MULTIPATHD_ERRORS).filter(|errors| *errors > 0.0);
        eventually(format!("{what}: an error is counted"), counted);
        let after = exporter.metrics();
        for wwid in [MPATHA, MPATHB] {
            assert_eq!(after.of_device(wwid), before.of_device(wwid), "{what}");
        }
        assert_eq!(after.value(MULTIPATHD_UP), Some(1.0), "{what}");
    }
}

#[test]
fn a_change_that_only_a_reading_shows_is_told_once() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    assert_eq!(exporter.get("/api/v1/events").json(), json!({"events": []}));
    let started = SystemTime::now();
    host.turn_into("02-net1-lost");
    exporter.signal(Signal::HUP);
    let failures = format!("multipath_path_failures_total{{wwid=\"{MPATHA}\",path=\"sdb\"}}");
    let events = format!("multipath_device_path_events_total{{wwid=\"{MPATHA}\",action=\"path_failed\"}}");
    let last =
        format!("multipath_device_last_path_event_timestamp_seconds{{wwid=\"{MPATHA}\",action=\"path_failed\"}}");
    assert_eq!(exporter.metrics().value(&last), None);
    let page = exporter.await_values(&[(&failures, 1.0), (&events, 1.0)]);
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(page.value(&last).unwrap() > since - 0.001);

    exporter.reread();
    exporter.await_values(&[(&failures, 1.0), (&events, 1.0)]);
    let document = exporter.get("/api/v1/events").json();
    let told: Vec<_> = document["events"].as_array().unwrap().iter().filter(|event| event["wwid"] == MPATHA).collect();
    let [event] = told.as_slice() else { panic!("{told:?}") };
    for (key, value) in [
        ("seqnum", json!(null)),
        ("dm_seqnum", json!(null)),
        ("type", json!("path_failed")),
        ("name", json!("mpatha")),
        ("path", json!("sdb")),
        ("devno", json!("8:16")),
        ("valid_paths", json!(1)),
    ] {
        assert_eq!(event[key], value, "{key}");
    }
    let line = exporter.await_log(&["path failed", MPATHA]);
    assert!(line.contains("level=warn") && line.contains("1 valid path is left"), "{line}");

    host.turn_into("01-healthy");
    exporter.signal(Signal::HUP);
    let line = exporter.await_log(&["path reinstated", MPATHA]);
    assert!(line.contains("level=info") && line.contains("all paths are valid"), "{line}");
    assert_eq!(exporter.metrics().value(&failures), Some(1.0));
}

#[test]
fn what_is_found_failed_at_the_start_is_warned_of_and_is_no_event() {
    let (_host, exporter, page) = degraded();
    exporter.await_log(&["path failed", MPATHA, "sdb", "level=warn"]);
    exporter.await_log(&["path failed", MPATHB, "sda", "level=warn"]);
    assert_eq!(exporter.get("/api/v1/events").json(), json!({"events": []}));
    let events = format!("multipath_device_path_events_total{{wwid=\"{MPATHA}\",action=\"path_failed\"}}");
    assert_eq!(page.value(&events), Some(0.0));
}

#[test]
fn devices_come_and_go_with_the_tree() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    host.sysfs.remove("block/dm-0");
    exporter.signal(Signal::HUP);
    let page = exporter.await_values(&[("multipath_devices", 1.0), ("multipath_paths", 2.0)]);
    assert!(page.of_device(MPATHA).is_empty(), "{:?}", page.of_device(MPATHA));
    exporter.await_log(&["device removed", MPATHA]);

    host.turn_into("01-healthy");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_devices", 2.0), ("multipath_paths", 4.0)]);
    exporter.await_log(&["device added", MPATHA]);
}

/// Damages the tree of a healthy host before an exporter starts, and again while one runs. Checks
/// that `mpathb` is unharmed both times, and returns both pages.
fn damage(what: &str, damage: impl Fn(&Tree)) -> [Page; 2] {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let before = exporter.metrics();
    damage(&host.sysfs);
    let pages = [host.exporter(&[]).metrics(), exporter.reread()];
    for page in &pages {
        assert_eq!(page.of_device(MPATHB), before.of_device(MPATHB), "{what}");
        assert_eq!(page.value(SYSFS_UP), Some(1.0), "{what}");
    }
    pages
}

#[test]
fn an_attribute_that_is_not_there_is_not_shown() {
    for (attribute, metric) in [("size", "size_bytes"), ("ro", "read_only"), ("inflight", "inflight_requests")] {
        let [at_start, later] = damage(attribute, |tree| tree.remove(&format!("{DM_0}/{attribute}")));
        for page in [&at_start, &later] {
            assert_eq!(page.device("valid_paths", MPATHA), Some(2.0), "{attribute}");
            assert_eq!(page.value(SYSFS_ERRORS), Some(0.0), "{attribute}");
        }
        assert_eq!(at_start.device(metric, MPATHA), None, "{attribute}");
    }
}

#[test]
fn a_name_that_is_not_there_is_multipathds() {
    for page in damage("dm/name", |tree| tree.remove(&format!("{DM_0}/dm/name"))) {
        let info = page
            .samples()
            .map(|(series, _)| series)
            .find(|series| series.starts_with("multipath_device_info{") && series.contains(MPATHA));
        assert!(info.is_some_and(|info| info.contains("name=\"mpatha\"")), "{info:?}");
    }
}

#[test]
fn content_that_makes_no_sense_is_counted_and_harms_one_device_only() {
    let no_utf8 = b"\xff\xfe\n";
    for (what, file, content) in [
        ("words for a size", "size", Some(&b"abc\n"[..])),
        ("a negative size", "size", Some(b"-1\n")),
        ("nothing for a size", "size", Some(b"")),
        ("bytes for a size", "size", Some(no_utf8)),
        ("words for a flag", "ro", Some(b"yes\n")),
        ("words for a device number", "dev", Some(b"dm-0\n")),
        ("words for the state of a device", "dm/suspended", Some(b"maybe\n")),
        ("a size that cannot be read", "size", None),
        ("a name that cannot be read", "dm/name", None),
    ] {
        let [_, later] = damage(what, |tree| match content {
            Some(content) => tree.write(&format!("{DM_0}/{file}"), content),
            None => tree.make_unreadable(&format!("{DM_0}/{file}")),
        });
        assert!(later.value(SYSFS_ERRORS) > Some(0.0), "{what}");
        // The map keeps its last reading.
        for (metric, value) in [("valid_paths", 2.0), ("paths", 2.0), ("size_bytes", 67_108_864.0), ("read_only", 0.0)]
        {
            assert_eq!(later.device(metric, MPATHA), Some(value), "{what}: {metric}");
        }
    }
}

#[test]
fn a_device_that_sysfs_shows_but_not_whole_is_there_from_the_start() {
    let [at_start, _] = damage("words for a size", |tree| tree.write(&format!("{DM_0}/size"), "abc\n"));
    assert!(at_start.value(SYSFS_ERRORS) > Some(0.0));
    assert_eq!(at_start.value("multipath_devices"), Some(2.0));
    assert_eq!(at_start.device("valid_paths", MPATHA), Some(2.0));
}

#[test]
fn a_disk_that_cannot_be_read_harms_its_own_device_only() {
    for (what, file) in [("its number", "dev"), ("its state", "../../state"), ("its vendor", "../../vendor")] {
        let [at_start, later] = damage(what, |tree| tree.make_unreadable(&format!("{SDB}/{file}")));
        assert!(at_start.value(SYSFS_ERRORS) > Some(0.0), "{what}");
        assert_eq!(later.device("paths", MPATHA), Some(2.0), "{what}");
    }
}

#[test]
fn a_disk_that_is_gone_is_a_member_as_long_as_its_device_holds_it() {
    // The kernel removes the link only when the map is loaded without the disk.
    let [at_start, later] = damage("a dangling link", |tree| tree.remove(SDB));
    assert_eq!(later.device("paths", MPATHA), Some(2.0));
    // An exporter that has never seen the disk knows it from multipathd, which reads the kernel's
    // status.
    assert_eq!(at_start.device("paths", MPATHA), Some(2.0));
    assert_eq!(at_start.device("valid_paths", MPATHA), Some(2.0));
}

#[test]
fn a_failed_disk_that_is_deleted_is_no_recovery() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::closed());
    let exporter = host.exporter(&[]);
    host.sysfs.write(&format!("{SDB}/../../state"), "transport-offline\n");
    let failed = exporter.reread();
    assert_eq!((failed.device("valid_paths", MPATHA), failed.device("failed_paths", MPATHA)), (Some(1.0), Some(1.0)));

    host.sysfs.remove(SDB);
    let deleted = exporter.reread();
    assert_eq!((deleted.device("valid_paths", MPATHA), deleted.device("failed_paths", MPATHA)), (Some(1.0), Some(1.0)));
}

#[test]
fn what_is_no_multipath_device_is_not_shown() {
    for uuid in [
        "LVM-wPzcBnVR2rLdDWSTpHbLhGKVXPLfJbFTzUeYBkb1OiQAJzdsrNNXzzMRpVDHFuTM",
        "CRYPT-LUKS2-38d1b0a5b2cf4c0c9a8d0c5a1b2c3d4e-data",
        "part1-mpath-360000000000000000e00000000010002",
        "",
        "\n\n",
        "mpath",
        "MPATH-3600",
    ] {
        for page in damage(uuid, |tree| tree.add_map(7, "other", uuid, &[])) {
            assert_eq!(page.value("multipath_devices"), Some(2.0), "{uuid:?}");
            assert_eq!(page.value(SYSFS_ERRORS), Some(0.0), "{uuid:?}");
        }
    }
    for page in damage("a UUID that is emptied", |tree| tree.write(&format!("{DM_0}/dm/uuid"), "")) {
        assert_eq!(page.value("multipath_devices"), Some(1.0));
    }
}

#[test]
fn a_device_without_members_has_no_valid_path() {
    for page in damage("no members", |tree| tree.add_map(7, "empty", "mpath-3600empty", &[])) {
        assert_eq!(page.value("multipath_devices"), Some(3.0));
        assert_eq!(page.value("multipath_devices_without_valid_paths"), Some(1.0));
        assert_eq!(page.device("paths", "3600empty"), Some(0.0));
    }
}

#[test]
fn two_devices_of_one_wwid_are_one() {
    for page in damage("twice", |tree| tree.add_map(7, "again", format!("mpath-{MPATHA}"), &[])) {
        assert_eq!(page.value("multipath_devices"), Some(2.0));
    }
}

#[test]
fn without_sysfs_the_last_state_stays() {
    let (host, exporter, before) = degraded();
    host.sysfs.remove("block");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[(SYSFS_UP, 0.0), (MULTIPATHD_UP, 1.0)]);
    let after = exporter.metrics();
    for wwid in [MPATHA, MPATHB] {
        assert_eq!(after.of_device(wwid), before.of_device(wwid));
    }
    exporter.await_log(&["source=sysfs", "level=warn", "No such file"]);

    host.turn_into("01-healthy");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[(SYSFS_UP, 1.0), ("multipath_failed_paths", 0.0)]);
    exporter.await_log(&["source is back", "sysfs"]);
}

#[test]
fn without_sysfs_from_the_start_nothing_is_claimed_though_multipathd_answers() {
    let host = Host::recorded("02-net1-lost");
    let sysfs = host.sysfs.path("block").display().to_string();
    let unlistable = host.sysfs.make_unlistable("block");
    let exporter = host.unready_exporter(&["--reread.interval=100ms"]);
    exporter.await_log(&["source cannot be read", "sysfs"]);
    eventually("multipathd has answered", || {
        let text = exporter.get("/-/ready").text().to_owned();
        (text.contains("sysfs") && !text.contains("multipathd")).then_some(())
    });
    for path in ["/metrics", "/-/ready", "/api/v1/devices", "/api/v1/multipath-health"] {
        let answer = exporter.get(path);
        assert_eq!(answer.status, 503, "{path}");
        let reason = format!("waiting for the first reading of:\nsysfs: {sysfs}");
        assert!(answer.text().starts_with(&reason), "{}", answer.text());
    }
    let page = exporter.get("/");
    assert!(page.text().contains("<title>No data yet: waiting for the first reading of sysfs"), "{}", page.text());

    // The exporter serves a page as soon as it can read the directory. It warns of a path that has
    // already failed, and counts no event.
    drop(unlistable);
    exporter.await_ready();
    let page = exporter.metrics();
    for (series, value) in [
        (SYSFS_UP, 1.0),
        (MULTIPATHD_UP, 1.0),
        ("multipath_devices", 2.0),
        ("multipath_paths", 4.0),
        ("multipath_failed_paths", 2.0),
        ("multipath_degraded_devices", 2.0),
    ] {
        assert_eq!(page.value(series), Some(value), "{series}");
    }
    assert_eq!(exporter.get("/api/v1/events").json()["events"], serde_json::json!([]));
    exporter.await_log(&["path failed", MPATHA, "level=warn"]);
    exporter.await_log(&["path failed", MPATHB, "level=warn"]);
}

#[test]
fn without_any_source_nothing_is_claimed_and_the_reasons_are_told() {
    let host = Host::recorded("01-healthy");
    let sysfs = host.sysfs.path("block").display().to_string();
    let unlistable = host.sysfs.make_unlistable("block");
    host.multipathd.daemon(Reply::closed());
    let exporter = host.unready_exporter(&["--reread.interval=100ms"]);
    exporter.await_log(&["source cannot be read", "sysfs"]);
    exporter.await_log(&["source cannot be read", "multipathd"]);
    for path in ["/metrics", "/-/ready", "/api/v1/devices", "/api/v1/multipath-health"] {
        let answer = exporter.get(path);
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.text().contains(&sysfs) && answer.text().contains("multipathd: "), "{}", answer.text());
    }
    assert_eq!(exporter.get("/-/healthy").status, 200);

    // The exporter serves a page as soon as it can read a directory. The page shows the present
    // state and no changes.
    drop(unlistable);
    exporter.await_ready();
    exporter.await_values(&[("multipath_devices", 2.0), ("multipath_paths", 4.0)]);
    assert_eq!(exporter.get("/api/v1/events").json()["events"], serde_json::json!([]));
}

#[test]
fn without_procfs_neither_the_process_nor_whether_a_device_is_in_use_is_shown() {
    let (host, _, before) = degraded();
    let nothing = host.sysfs.path("no-proc");
    let page = host.exporter(&[&format!("--path.procfs={}", nothing.display())]).metrics();
    let is_of_procfs = |name: &str| name.starts_with("process_") || name == "multipath_device_in_use";
    let rest = before.names().into_iter().filter(|name| !is_of_procfs(name)).collect();
    assert_eq!(page.names(), rest);
}

#[test]
fn the_first_socket_that_answers_is_asked() {
    let host = Host::recorded("02-net1-lost");
    let nobody = format!("--multipathd.socket={}", host.sysfs.path("nobody").display());
    let multipathd = format!("--multipathd.socket={}", host.multipathd.socket().display());
    let page = host.exporter(&["--multipathd.socket=@multipath-exporter-nobody", &nobody, &multipathd]).metrics();
    assert_eq!((page.value(DAEMON_UP), page.value(MULTIPATHD_UP)), (Some(1.0), Some(1.0)));
}

/// Names that try to end a label, a line, a string or a tag.
pub const HOSTILE: [&[u8]; 8] = [
    b"a\"b",
    b"a\nmultipath_devices 99",
    b"a\\",
    b"a\\n\"} 1\n# EOF\n",
    b"<script>alert(1)</script>",
    b"\xff\xfe\xfd",
    b"a\x1b[31m\r\tb\x07",
    b"{\"a\": [",
];

#[test]
fn a_hostile_name_is_only_a_name() {
    for name in HOSTILE {
        let what = name.escape_ascii().to_string();
        let host = Host::recorded("02-net1-lost");
        let wwid = [b"3600", name].concat();
        let disks = ["sdx".to_owned()];
        host.sysfs.add_disk("sdx", "65:112");
        host.sysfs.add_map(7, name, [b"mpath-".as_slice(), &wwid].concat(), &disks);
        let reply = recorded_reply("02-net1-lost").into_bytes();
        let at = reply.windows(6).position(|window| window == b"mpatha").unwrap();
        host.multipathd.maps(Reply::Bytes([&reply[..at], name, &reply[at + 6..]].concat()));
        host.sysfs.write(&format!("{DM_0}/dm/name"), [name, b"\n"].concat());
        let exporter = host.exporter(&[]);
        let page = exporter.metrics();

        assert_eq!(page.value("multipath_devices"), Some(3.0), "{what}");
        assert_eq!(page.value("multipath_failed_paths"), Some(2.0), "{what}");
        for (series, value) in page.samples() {
            assert!(series.starts_with("multipath_") || series.starts_with("process_"), "{what}: {series}");
            assert!(value.parse::<f64>().is_ok(), "{what}: {series} {value}");
            if let Some((_, labels)) = series.split_once('{') {
                assert_labels(labels.strip_suffix('}').unwrap_or_else(|| panic!("{what}: {series}")), &what);
            }
        }
        let openmetrics = exporter.connect().request("GET", "/metrics", &[("Accept", "application/openmetrics-text")]);
        assert_eq!(openmetrics.text().matches("\n# EOF").count(), 1, "{what}");

        let document = exporter.get("/api/v1/devices").json();
        assert_eq!(document["devices"].as_array().unwrap().len(), 3, "{what}");
        let lossy = String::from_utf8_lossy(name);
        let names: Vec<_> = document["devices"].as_array().unwrap().iter().map(|device| &device["name"]).collect();
        assert_eq!(names.iter().filter(|name| ***name == *lossy).count(), 2, "{what}: {names:?}");
        assert_page(&exporter.get("/"), &what);
        for line in exporter.log() {
            assert!(!line.contains('\u{1b}'), "{what}: an escape sequence in the log: {line:?}");
        }
    }
}

/// The status page contains only its own markup and headers.
fn assert_page(answer: &Answer, what: &str) {
    let page = answer.text();
    for (element, times) in [("<script", 1), ("<style", 1), ("<meta", 4), ("<form", 1), ("alert(1)</script>", 0)] {
        assert_eq!(page.matches(element).count(), times, "{what}: {element}");
    }
    assert!(!page.contains(|c: char| c.is_control() && c != '\n'), "{what}");
    assert!(
        page.contains("<title>3 of 3 devices have failed paths") || page.contains("<title>2 of 3"),
        "{what}: {page}"
    );
    let mut names: Vec<&str> = answer.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    let ours =
        ["cache-control", "content-length", "content-security-policy", "content-type", "date", "referrer-policy"];
    assert_eq!(names, [&ours[..], &["vary", "x-content-type-options"]].concat(), "{what}");
}

/// `name="value",…`, as both formats write it.
fn assert_labels(mut rest: &str, what: &str) {
    loop {
        let (name, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("{what}: {rest}"));
        assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{what}: {name}");
        let mut escaped = false;
        let end = value.find(|c| match (escaped, c) {
            (false, '"') => true,
            (before, c) => {
                assert!(!before || ['\\', '"', 'n'].contains(&c), "{what}: {value}");
                escaped = !before && c == '\\';
                false
            }
        });
        rest = &value[end.unwrap_or_else(|| panic!("{what}: {value}")) + 1..];
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return assert_eq!(rest, "", "{what}"),
        }
    }
}

#[test]
fn a_page_of_a_hostile_host_has_no_series_twice() {
    let host = Host::recorded("01-healthy");
    for (minor, name) in (10..).zip(HOSTILE) {
        host.sysfs.add_map(minor, name, [b"mpath-", name].concat(), &[]);
    }
    let page = host.exporter(&[]).metrics();
    let series: Vec<_> = page.samples().map(|(series, _)| series).collect();
    let once: std::collections::BTreeSet<_> = series.iter().collect();
    assert_eq!(series.len(), once.len());
}

/// The configuration of a kernel without device-mapper uevents. The kernel of the test machine has
/// them.
#[test]
fn a_kernel_without_path_events_is_told_once_in_the_log_and_on_the_page() {
    let host = Host::recorded("01-healthy");
    let mut configuration = GzEncoder::new(Vec::new(), Compression::fast());
    configuration.write_all(b"CONFIG_BLK_DEV_DM=y\n# CONFIG_DM_UEVENT is not set\n").unwrap();
    host.sysfs.write("proc/config.gz", configuration.finish().unwrap());
    let exporter = host.exporter(&[&format!("--path.procfs={}", host.sysfs.path("proc").display())]);
    exporter.await_log(&["level=warn", "proc/config.gz", "CONFIG_DM_UEVENT"]);
    exporter.reread();
    assert_eq!(exporter.log().iter().filter(|line| line.contains("CONFIG_DM_UEVENT")).count(), 1);
    eventually("the page says so", || {
        exporter.get("/").text().contains("this kernel sends no path events (CONFIG_DM_UEVENT)").then_some(())
    });
}
