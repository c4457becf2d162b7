//! The storage below the devices, beyond device-mapper maps and the states of their paths.
//!
//! Three rules hold everywhere. Labels do not change at the moment of failure. Unreadable facts
//! keep their last reading. A feature that the host lacks is no error.

mod blocked;
pub mod direct;
mod fc_window;
pub mod fibre_channel;
mod io_errors;
mod iscsi;
pub mod luns;
mod mismatches;
pub mod nvme;
mod nvme_controllers;
pub mod root;
pub mod sas;
mod stalled;
pub mod strays;
pub mod unassembled;
mod usage;

use super::harness::Page;

const SYSFS_UP: &str = "multipath_exporter_source_up{source=\"sysfs\"}";
const SYSFS_ERRORS: &str = "multipath_exporter_errors_total{source=\"sysfs\"}";

/// Checks that the exporter could read everything.
fn assert_no_errors(page: &Page) {
    assert_eq!((page.value(SYSFS_UP), page.value(SYSFS_ERRORS)), (Some(1.0), Some(0.0)));
}

/// Checks that the only fault is a reading error.
fn assert_errors(what: &str, page: &Page) {
    assert_eq!(page.value(SYSFS_UP), Some(1.0), "{what}");
    assert!(page.value(SYSFS_ERRORS) > Some(0.0), "{what}");
}
