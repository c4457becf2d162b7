//! A first reading hangs. The exporter waits, then continues without that source and reports it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use tempfile::TempDir;

use super::Scenario;
use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[Scenario::new("first_reading_of_sysfs_hangs", first_reading_of_sysfs_hangs)];

/// The exporter waits at most a minute for a first reading. An emulated machine needs some more
/// seconds.
const GIVEN_UP: Duration = Duration::from_secs(90);

/// This machine's sysfs with an additional NVMe controller. The controller's state is a FIFO, so
/// its reader waits for a writer.
struct Sysfs(TempDir);

impl Sysfs {
    fn new() -> Self {
        let sysfs = Sysfs(tempfile::tempdir_in("/run").expect("/run is writable"));
        let link = |from: &Path, to: &Path| symlink(to, from).expect("/run is writable");
        for directory in ["block", "dev", "devices", "fs"] {
            link(&sysfs.root().join(directory), &Path::new("/sys").join(directory));
        }
        let controller = sysfs.controller();
        fs::create_dir_all(&controller).expect("/run is writable");
        for entry in fs::read_dir("/sys/class").expect("/sys is there") {
            let class = entry.expect("/sys/class can be listed").file_name();
            if class != "nvme" {
                link(&sysfs.root().join("class").join(&class), &Path::new("/sys/class").join(&class));
            }
        }
        for (file, content) in [("transport", "tcp\n"), ("subsysnqn", "nqn.2014-08.org.example:array\n")] {
            fs::write(controller.join(file), content).expect("/run is writable");
        }
        let mode = Mode::from(0o644);
        mknodat(CWD, controller.join("state"), FileType::Fifo, mode, 0).expect("/run can hold a FIFO");
        sysfs
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn flag(&self) -> String {
        format!("--path.sysfs={}", self.root().display())
    }

    fn controller(&self) -> PathBuf {
        self.root().join("class/nvme/nvme0")
    }

    /// Answers the waiting reader. A regular file takes the FIFO's place for later readings.
    fn mend(&self) {
        let (state, file) = (self.controller().join("state"), self.controller().join("new"));
        // This open succeeds only while a reader waits.
        let waits = eventually("a reader waits for the file", PATIENCE, || {
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            open(&state, flags, Mode::empty()).map_err(|e| e.to_string())
        });
        fs::write(&file, "live\n").expect("/run is writable");
        fs::rename(&file, &state).expect("/run is writable");
        File::from(waits).write_all(b"live\n").expect("the reader still waits");
    }
}

fn first_reading_of_sysfs_hangs(lab: &Lab) {
    let san = San::start(lab, 4, 1, Conf::BLIND);
    let (lun, failed) = (&san.luns[0], &san.luns[0].paths[0]);
    san.dm.fail_path(lun.name(), &failed.devno);
    // Each program has a tree of its own, because only one reader receives a line from a FIFO.
    let (sysfs, oneshot_sysfs) = (Sysfs::new(), Sysfs::new());
    let start = Instant::now();
    let oneshot = lab.exporter().flag(&oneshot_sysfs.flag()).spawn_oneshot();
    let exporter = lab.exporter().flag(&sysfs.flag()).spawn();
    let status = |path: &str| exporter.get(path).map(|answer| answer.status);

    let first = eventually("it answers", PATIENCE, || status("/metrics").map_err(|e| e.to_string()));
    assert_eq!(first, 503, "nothing is known yet");
    let page = exporter.get_ok("/").body;
    assert!(page.contains("<html"), "{page}");
    assert_eq!(status("/-/ready").expect("it answers"), 503);
    assert_eq!(status("/metrics").expect("it answers"), 503);

    eventually("it goes on without", GIVEN_UP, || match status("/metrics") {
        Ok(200) => Ok(()),
        other => Err(format!("/metrics: {other:?}")),
    });
    lab.note(format!("it went on without what it cannot read after {:.0?}", start.elapsed()));
    assert_eq!(status("/-/ready").expect("it answers"), 200);
    let up = || {
        let metrics = exporter.metrics();
        ["dm", "sysfs"].map(|source| metrics.value("multipath_exporter_source_up", &[("source", source)]))
    };
    assert_eq!(up(), [1.0, 0.0], "device mapper, sysfs");
    exporter.wait_for_counts(&lun.wwid, 3, 1);
    assert_eq!(exporter.differences(&san.dm), Vec::<String>::new());
    let metrics = exporter.metrics();
    assert_eq!(metrics.labels("multipath_device_info", &[("wwid", &lun.wwid)])["name"], lun.name());

    sysfs.mend();
    eventually_eq("all is read", [1.0, 1.0], up);
    for disk in &lun.paths {
        let path = [("wwid", lun.wwid.as_str()), ("path", disk.name.as_str())];
        eventually_eq("each path has its address", disk.hctl.clone(), || {
            exporter.metrics().labels("multipath_path_info", &path)["hctl"].clone()
        });
    }
    assert_eq!(exporter.differences(&san.dm), Vec::<String>::new());

    let (ended, printed) = oneshot.end(GIVEN_UP);
    lab.note(format!("--oneshot ended after {:.0?}", start.elapsed()));
    assert_eq!((ended.code(), printed.as_str()), (Some(1), ""), "--oneshot");
}
