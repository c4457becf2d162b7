//! Finds out if the kernel sends an event when a path fails. It may be built without these events
//! (`CONFIG_DM_UEVENT`), as Talos Linux is.
//!
//! The kernel's configuration has the answer. The kernel may contain it (`CONFIG_IKCONFIG_PROC`),
//! or the distribution installs it as a file. Without it, events are expected.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::{io, thread};

use flate2::read::GzDecoder;
use tokio::sync::mpsc;

use super::{Wake, send};

/// Looks once, in a separate thread, because a file system may hang.
///
/// # Errors
/// If the thread cannot be started.
pub fn look(wakes: mpsc::Sender<Wake>, procfs: &Path) -> io::Result<()> {
    let places = places(procfs);
    let look = move || {
        let configuration = places.into_iter().find_map(|place| Some((read(&place)?, place)));
        if let Some((configuration, place)) = configuration
            && lacks_path_events(&configuration)
        {
            let _ = send(&wakes, Wake::NoPathEvents(place));
        }
    };
    thread::Builder::new().name("kernel-config".to_owned()).spawn(look).map(drop)
}

fn places(procfs: &Path) -> Vec<PathBuf> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    vec![
        procfs.join("config.gz"),
        format!("/boot/config-{release}").into(),
        format!("/lib/modules/{release}/config").into(),
    ]
}

fn read(place: &Path) -> Option<String> {
    /// In bytes. Ten times as long as any real configuration.
    const MOST: u64 = 4 << 20;
    let file = std::fs::File::open(place).ok()?;
    let mut text = String::new();
    if place.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(file).take(MOST).read_to_string(&mut text).ok()?;
    } else {
        file.take(MOST).read_to_string(&mut text).ok()?;
    }
    Some(text)
}

/// Returns true if this kernel has device mapper but not its path events.
fn lacks_path_events(configuration: &str) -> bool {
    let has = |option: &str| {
        let values = configuration.lines().filter_map(|line| line.strip_prefix(option)?.strip_prefix('='));
        values.into_iter().any(|value| matches!(value.trim_end(), "y" | "m"))
    };
    has("CONFIG_BLK_DEV_DM") && !has("CONFIG_DM_UEVENT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_whether_path_events_are_built_in() {
        for (configuration, lacks) in [
            ("CONFIG_BLK_DEV_DM=m\nCONFIG_DM_UEVENT=y\n", false),
            ("CONFIG_BLK_DEV_DM=y\n# CONFIG_DM_UEVENT is not set\n", true),
            ("CONFIG_BLK_DEV_DM_BUILTIN=y\nCONFIG_DM_UEVENTS=y\n", false),
            ("# CONFIG_BLK_DEV_DM is not set\n", false),
            ("", false),
        ] {
            assert_eq!(lacks_path_events(configuration), lacks, "{configuration}");
        }
    }
}
