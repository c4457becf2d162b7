//! The start: limits are raised, wrong places are refused or warned of.

use super::harness::{Exporter, Host};

#[test]
fn the_limit_of_open_files_is_raised() {
    let host = Host::bare();
    let exporter = Exporter::start_after("ulimit -S -n 100; ulimit -H -n 3000", &host.options());
    exporter.await_ready();
    assert_eq!(exporter.metrics().value("process_max_fds"), Some(3000.0));
}
