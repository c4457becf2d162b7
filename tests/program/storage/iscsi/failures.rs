//! The number of session failures.

use super::{SESSION1, SESSION2, TARGET};
use crate::harness::{Exporter, Host, Page, recorded_tree};

const FIRST: &str = "10.10.1.2:3260\",initiator_port=\"e1";
const SECOND: &str = "10.10.2.2:3260\",initiator_port=\"e2";

fn series(ports: &str) -> String {
    format!("multipath_iscsi_session_failures_total{{target=\"{TARGET}\",target_port=\"{ports}\"}}")
}

fn failures(page: &Page) -> [Option<f64>; 2] {
    [FIRST, SECOND].map(|ports| page.value(&series(ports)))
}

fn into(host: &Host, exporter: &Exporter, session: &str, state: &str) -> [Option<f64>; 2] {
    host.sysfs.write(&format!("{session}/state"), format!("{state}\n"));
    failures(&exporter.reread())
}

#[test]
fn a_session_that_flaps_counts_each_time() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    assert_eq!(failures(&exporter.metrics()), [Some(0.0); 2]);
    for count in 1..=4 {
        let counts = [Some(f64::from(count)), Some(0.0)];
        assert_eq!(into(&host, &exporter, SESSION1, "FAILED"), counts);
        // `replacement_timeout` has passed.
        assert_eq!(into(&host, &exporter, SESSION1, "FREE"), counts);
        assert_eq!(into(&host, &exporter, SESSION1, "LOGGED_IN"), counts);
    }
    assert_eq!(into(&host, &exporter, SESSION2, "FAILED"), [4.0, 1.0].map(Some));
}

#[test]
fn a_session_whose_failed_state_no_reading_saw_counts_when_it_stays_free_or_works_again() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--reread.interval=100ms"]);
    host.sysfs.write(&format!("{SESSION1}/state"), "FREE\n");
    exporter.await_values(&[(&series(FIRST), 1.0), (&series(SECOND), 0.0)]);
    assert_eq!(into(&host, &exporter, SESSION1, "LOGGED_IN"), [1.0, 0.0].map(Some));

    let exporter = host.exporter(&[]);
    assert_eq!(into(&host, &exporter, SESSION1, "FREE"), [0.0, 0.0].map(Some));
    assert_eq!(into(&host, &exporter, SESSION1, "LOGGED_IN"), [1.0, 0.0].map(Some));
}

/// The kernel says `FREE` just before it removes a session.
#[test]
fn a_logout_is_no_failure_though_a_reading_falls_into_it() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    exporter.metrics();
    for number in 3..6 {
        for state in ["FREE", "gone"] {
            match state {
                "gone" => host.sysfs.remove("class/iscsi_session/session1"),
                state => host.sysfs.write(&format!("{SESSION1}/state"), format!("{state}\n")),
            }
            let counts = failures(&exporter.reread());
            assert_eq!(counts, [(state == "FREE").then_some(0.0), Some(0.0)], "{number}");
        }
        host.sysfs.record(&recorded_tree("01-healthy"));
        assert_eq!(failures(&exporter.reread()), [Some(0.0); 2], "{number}");
    }
}

#[test]
fn a_logout_that_takes_long_is_no_failure() {
    for state in ["FREE", "FAILED"] {
        let host = Host::recorded("01-healthy");
        let exporter = host.exporter(&["--reread.interval=100ms"]);
        host.sysfs.write(&format!("{SESSION1}/target_state"), "UNBOUND\n");
        assert_eq!(into(&host, &exporter, SESSION1, state), [Some(0.0); 2], "{state}");
        // The other session has been down long enough to have failed.
        host.sysfs.write(&format!("{SESSION2}/target_state"), "SCANNED\n");
        host.sysfs.write(&format!("{SESSION2}/state"), "FREE\n");
        exporter.await_values(&[(&series(FIRST), 0.0), (&series(SECOND), 1.0)]);
    }
}

#[test]
fn a_new_login_between_the_same_ports_goes_on_counting() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    assert_eq!(into(&host, &exporter, SESSION1, "FAILED"), [1.0, 0.0].map(Some));
    for gone in ["class/iscsi_session/session1", "class/iscsi_connection/connection1:0", "devices/platform/host6"] {
        host.sysfs.remove(gone);
    }
    assert_eq!(failures(&exporter.reread()), [None, Some(0.0)]);
    let renumbered =
        recorded_tree("01-healthy").replace("session1", "session3").replace("connection1:0", "connection3:0");
    host.sysfs.record(&renumbered);
    assert_eq!(failures(&exporter.reread()), [1.0, 0.0].map(Some));
    let session3 = SESSION1.replace("session1", "session3");
    assert_eq!(into(&host, &exporter, &session3, "FAILED"), [2.0, 0.0].map(Some));
}
