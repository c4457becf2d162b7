//! A procfs that tells of any boot of this machine, for what the exporter remembers across boots and over hours.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::programs::{run, try_run};

const PROCFS: &str = "/run/boots/proc";
const ID: &str = "/run/boots/boot_id";
const UPTIME: &str = "/run/boots/uptime";

/// The machine's own procfs at another place, but for two files; gone when dropped.
pub struct Boots(());

impl Boots {
    /// It tells of a boot a day ago.
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

    /// From now on this is the boot of that number, so long ago. A running exporter has read it already.
    pub fn tell(&self, number: u32, uptime: Duration) {
        let write = |file: &str, text: String| fs::write(file, text).expect("/run is writable");
        write(ID, format!("00000000-0000-4000-8000-{number:012}\n"));
        write(UPTIME, format!("{}.00 0.00\n", uptime.as_secs()));
    }

    /// The flag that makes an exporter read it.
    pub fn flag(&self) -> String {
        format!("--path.procfs={PROCFS}")
    }
}

impl Drop for Boots {
    fn drop(&mut self) {
        // A machine on which it stays is none the worse.
        let _ = try_run("umount", ["--recursive", "--lazy", PROCFS]);
    }
}
