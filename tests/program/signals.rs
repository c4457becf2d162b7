//! SIGTERM, SIGINT and SIGHUP.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::harness::{Connection, Exporter, Host, MPATHA, MPATHB, Reply, Tree};
use super::http::{half_read, large_exporter};

/// Unfinished answers get 900 ms (`Limits::grace`). The rest allows for a busy machine.
const SOON: Duration = Duration::from_millis(1500);

#[test]
fn it_ends_when_told_though_clients_hold_on() {
    let (_host, mut exporter) = large_exporter(&[]);
    let mut idle = exporter.connect();
    assert_eq!(idle.request("GET", "/-/ready", &[]).status, 200);
    let (_slow, _) = half_read(&exporter);

    let told = Instant::now();
    exporter.signal(Signal::TERM);
    let status = exporter.wait();
    let took = told.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < SOON, "it took {took:?}");
    assert!(idle.is_closed());
}

#[test]
fn idle_connections_do_not_delay_the_end() {
    for signal in [Signal::TERM, Signal::INT] {
        let host = Host::recorded("01-healthy");
        let mut exporter = host.exporter(&[]);
        let mut idle: Vec<Connection> = (0..5).map(|_| exporter.connect()).collect();
        for connection in &mut idle {
            assert_eq!(connection.request("GET", "/metrics", &[]).status, 200);
        }
        let told = Instant::now();
        exporter.signal(signal);
        assert_eq!(exporter.wait().code(), Some(0));
        let took = told.elapsed();
        assert!(took < Duration::from_millis(900), "it took {took:?}, as if something had been under way");
    }
}

#[test]
fn it_ends_when_told_though_multipathd_hangs() {
    let host = Host::recorded("01-healthy");
    let mut exporter = host.exporter(&[]);
    host.multipathd.daemon(Reply::Hold);
    host.multipathd.asked_after(|| exporter.signal(Signal::HUP));
    let told = Instant::now();
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
    let took = told.elapsed();
    assert!(took < SOON, "it took {took:?}");
}

#[test]
fn it_ends_when_told_before_it_is_ready() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::Hold);
    let mut exporter = host.unready_exporter(&[]);
    // The program waits for signals before it answers requests.
    assert_eq!(exporter.get("/-/ready").status, 503);
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));
}

#[test]
fn hangup_right_after_the_start_does_no_harm() {
    // Repeats a race: without its handler, the signal would end some of these processes.
    for _ in 0..20 {
        let host = Host::recorded("01-healthy");
        let exporter = Exporter::start_and_signal(&host.options(), Signal::HUP);
        exporter.await_ready();
        exporter.await_values(&[("multipath_exporter_resyncs_total{reason=\"signal\"}", 1.0)]);
    }
}

#[test]
fn hangup_reads_everything_again() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let resyncs =
        |reason| exporter.metrics().value(&format!("multipath_exporter_resyncs_total{{reason=\"{reason}\"}}"));
    assert_eq!((resyncs("start"), resyncs("signal"), resyncs("timer")), (Some(1.0), Some(0.0), Some(0.0)));

    host.turn_into("03-both-lost");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[
        ("multipath_exporter_resyncs_total{reason=\"signal\"}", 1.0),
        ("multipath_devices_without_valid_paths", 2.0),
        ("multipath_failed_paths", 4.0),
    ]);

    host.turn_into("01-healthy");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[
        ("multipath_exporter_resyncs_total{reason=\"signal\"}", 2.0),
        ("multipath_failed_paths", 0.0),
        ("multipath_exporter_resyncs_total{reason=\"timer\"}", 0.0),
    ]);
}

#[test]
fn a_timer_reads_everything_again() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--resync.interval=100ms"]);
    host.turn_into("03-both-lost");
    exporter.await_values(&[("multipath_failed_paths", 4.0)]);
    let timer = "multipath_exporter_resyncs_total{reason=\"timer\"}";
    assert!(exporter.metrics().value(timer) > Some(0.0));
}

#[test]
fn a_timer_reads_what_has_no_event() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--reread.interval=100ms"]);
    host.turn_into("03-both-lost");
    exporter.await_values(&[
        ("multipath_failed_paths", 4.0),
        ("multipath_exporter_resyncs_total{reason=\"timer\"}", 0.0),
        (
            "multipath_path_device_state{wwid=\"360000000000000000e00000000010002\",path=\"sdb\",\
             state=\"transport-offline\"}",
            1.0,
        ),
    ]);
}

#[test]
fn hangup_reads_the_configuration_again() {
    const SUCCESSFUL: &str = "multipath_exporter_config_last_reload_successful";
    const LAST_SUCCESS: &str = "multipath_exporter_config_last_reload_success_timestamp_seconds";
    let directory = Tree::empty();
    directory.write("config.yml", "expected_paths:\n  - {vendor: LABARRAY, product: VD.*, paths: 4}\n");
    let host = Host::recorded("01-healthy");
    let file = directory.path("config.yml").display().to_string();
    let exporter = host.exporter(&[&format!("--config.file={file}")]);
    let at_start = exporter.await_values(&[(SUCCESSFUL, 1.0)]).value(LAST_SUCCESS);
    assert!(at_start > Some(0.0));
    let expected = |wwid: &str| format!("multipath_device_expected_paths{{wwid=\"{wwid}\"}}");

    for (content, words) in [
        (Some("expected_paths:\n  - {wwid: a, pats: 8}\n"), &["line 2", "pats"][..]),
        (Some("expected_path: []\n"), &["line 1", "expected_path"]),
        (None, &["No such file"]),
    ] {
        match content {
            Some(content) => directory.write("config.yml", content),
            None => directory.remove("config.yml"),
        }
        exporter.signal(Signal::HUP);
        let bad = exporter.await_values(&[(SUCCESSFUL, 0.0)]);
        assert_eq!(bad.value(LAST_SUCCESS), at_start);
        assert_eq!(bad.value("multipath_devices"), Some(2.0));
        assert_eq!(bad.value(&expected(MPATHA)), Some(4.0), "the last good configuration stays");
        let line = exporter.await_log(words);
        assert!(line.contains("level=warn") && line.contains(&file), "{line}");
    }

    directory.fifo("config.yml");
    exporter.signal(Signal::HUP);
    exporter.await_log(&["not a regular file"]);
    directory.remove("config.yml");

    directory.write(
        "config.yml",
        format!("expected_paths:\n  - {{wwid: a, paths: 8}}\n  - {{wwid: '{MPATHB}', paths: 2}}\n"),
    );
    exporter.signal(Signal::HUP);
    let good = exporter.await_values(&[(SUCCESSFUL, 1.0), (&expected("a"), 8.0), (&expected(MPATHB), 2.0)]);
    assert!(good.value(LAST_SUCCESS) > at_start);
    assert_eq!(good.value(&expected(MPATHA)), Some(2.0), "as many as it has had");
}

#[test]
fn a_storm_of_hangups_is_survived() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for _ in 0..100 {
        exporter.signal(Signal::HUP);
    }
    host.turn_into("03-both-lost");
    exporter.signal(Signal::HUP);
    exporter.await_values(&[("multipath_failed_paths", 4.0)]);
}
