//! What a host's storage is made of, beyond device-mapper maps and the states of their paths.
//!
//! Three things hold everywhere: labels do not change at the moment of failure, what cannot be read stays as last read,
//! and what a host does not have is no error.

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

/// Everything could be read.
fn assert_no_errors(page: &Page) {
    assert_eq!((page.value(SYSFS_UP), page.value(SYSFS_ERRORS)), (Some(1.0), Some(0.0)));
}

/// Something could not be read, and that is all.
fn assert_errors(what: &str, page: &Page) {
    assert_eq!(page.value(SYSFS_UP), Some(1.0), "{what}");
    assert!(page.value(SYSFS_ERRORS) > Some(0.0), "{what}");
}
