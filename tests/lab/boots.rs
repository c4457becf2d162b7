//! A procfs that simulates boots of this machine. It serves tests of facts that the exporter
//! remembers across boots and over hours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::programs::{run, try_run};

const PROCFS: &str = "/run/boots/proc";
const ID: &str = "/run/boots/boot_id";
const UPTIME: &str = "/run/boots/uptime";

/// The machine's procfs at another place, with two files replaced. Dropping the value unmounts it.
pub struct Boots(());

impl Boots {
    /// Starts with a boot one day ago.
    pub fn start() -> Self {
        fs::create_dir_all(PROCFS).expect("/run is writable");
        let boots = Boots(());
        boots.tell(1, Duration::from_secs(24 * 60 * 60));
        run("mount", ["--bind", "/proc", PROCFS]);
        for (file, place) in [(ID, "sys/kernel/random/boot_id"), (UPTIME, "uptime")] {
            run("mount", [Path::new("--bind"), Path::new(file), &Path::new(PROCFS).join(place)]);
        }
        boots
    }

    /// Simulates the boot with this number and uptime. A running exporter has already read the
    /// former one.
    pub fn tell(&self, number: u32, uptime: Duration) {
        let write = |file: &str, text: String| fs::write(file, text).expect("/run is writable");
        write(ID, format!("00000000-0000-4000-8000-{number:012}\n"));
        write(UPTIME, format!("{}.00 0.00\n", uptime.as_secs()));
    }

    /// The flag that makes an exporter read this procfs.
    pub fn flag(&self) -> String {
        format!("--path.procfs={PROCFS}")
    }
}

impl Drop for Boots {
    fn drop(&mut self) {
        // A leftover mount does no harm.
        let _ = try_run("umount", ["--recursive", "--lazy", PROCFS]);
    }
}
