//! Each command but the check puts the process right and looks at the host before it begins.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// Raises the limit of open files as far as we may. systemd and shells start programs with 1,024, for those that call
/// `select(2)`. A host with a thousand iSCSI sessions takes more.
pub fn raise_open_files() {
    let mut files = getrlimit(Resource::Nofile);
    if files.current == files.maximum {
        return;
    }
    files.current = files.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, files) {
        warn!(%error, "the limit of open files cannot be raised: large hosts may not be read whole");
    }
}
