//! Inside a machine: takes scenarios from the queue, runs each, and cleans up after it.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::io;
use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::dm::Dm;
use crate::exporter::Launch;
use crate::programs::{run as run_program, try_run};
use crate::scenarios::{self, Afterwards, Scenario};
use crate::share::{MOUNT_POINT, Report, Share, Verdict};
use crate::udevd;
use crate::vm::KEEP;
use crate::wait::{PATIENCE, pause, try_eventually};

/// Drivers of the devices that scenarios make.
const DEVICE_MODULES: [&str; 3] = ["scsi_debug", "null_blk", "brd"];

/// The directory is in memory. The share is slow, and a slow log would change the behaviour that it
/// records.
const WORK: &str = "/run/lab";

/// Lines of each log in a failure's report.
const TAIL: usize = 40;

/// The environment of a scenario.
pub struct Lab {
    dir: PathBuf,
    exporter: PathBuf,
    notes: RefCell<Vec<String>>,
    share: Share,
    machine: String,
}

impl Lab {
    /// A launch of the exporter as root with default flags.
    pub fn exporter(&self) -> Launch<'_> {
        Launch::new(&self.exporter, &self.dir)
    }

    /// The program itself, for a scenario that starts it in another way.
    pub fn exporter_program(&self) -> &Path {
        &self.exporter
    }

    /// The directory of the scenario's logs.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps a measurement. The host prints it beside the verdict.
    pub fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    /// Sends a line to the program that booted a stage.
    pub fn say(&self, line: String) {
        self.share.report(&self.machine, &Report::Said(line)).expect("the share is writable");
    }

    /// The commands of the program that booted a stage, from the first one on. The iterator never
    /// ends.
    pub fn commands(&self) -> impl Iterator<Item = String> {
        let mut seen = 0;
        let next = move || {
            pause();
            self.share.new_commands(&self.machine, &mut seen).expect("the share is readable")
        };
        iter::repeat_with(next).flatten()
    }
}

/// Works through the queue.
pub fn run(machine: &str) -> ExitCode {
    let share = Share::at(MOUNT_POINT);
    let exporter = Path::new(WORK).join("multipath_exporter");
    fs::create_dir_all(WORK).expect("/run is writable");
    fs::copy(share.exporter_program(), &exporter).expect("the exporter can be copied");
    udevd::mask_rules().expect("/etc is writable in the guest");
    for module in ["dm-multipath", "dm-service-time", "scsi_dh_alua"] {
        run_program("modprobe", [module]);
    }
    for scenario in scenarios::all().filter(|scenario| share.claim(scenario.name)) {
        let report = |report| share.report(machine, &report).expect("the share is writable");
        report(Report::Started(scenario.name.to_owned()));
        let lab = Lab {
            dir: Path::new(WORK).join(scenario.name),
            exporter: exporter.clone(),
            notes: RefCell::default(),
            share: share.clone(),
            machine: machine.to_owned(),
        };
        let verdict = judge(scenario, &lab);
        if verdict.failure.is_some() || env::var_os(KEEP).is_some() {
            copy_files(&lab.dir, &share.machine_dir(machine).join(scenario.name)).expect("the share is writable");
        }
        report(Report::Finished(verdict));
        if scenario.afterwards == Afterwards::PowerOff {
            break;
        }
        if let Err(reason) = tear_down() {
            report(Report::Unclean(format!("after {}: {reason}", scenario.name)));
            break;
        }
    }
    ExitCode::SUCCESS
}

fn judge(scenario: &Scenario, lab: &Lab) -> Verdict {
    fs::create_dir_all(&lab.dir).expect("/run is writable");
    let failure = Arc::new(Mutex::new(None));
    let (slot, dir) = (failure.clone(), lab.dir.clone());
    // The hook runs before the stack unwinds. Unwinding stops programs and so changes the evidence.
    panic::set_hook(Box::new(move |panic| {
        let mut slot = slot.lock().expect("the hook does not panic");
        slot.get_or_insert_with(|| format!("{panic}\n{}", surroundings(&dir)));
    }));
    let start = Instant::now();
    // A panic destroys the scenario's values, and the lab's notes only grow.
    let ended = panic::catch_unwind(AssertUnwindSafe(|| (scenario.run)(lab)));
    let seconds = start.elapsed().as_secs_f64();
    drop(panic::take_hook());
    let failure = failure.lock().expect("the hook does not panic").take();
    assert_eq!(ended.is_err(), failure.is_some(), "the hook sees every panic");
    Verdict { scenario: scenario.name.to_owned(), seconds, notes: lab.notes.take(), failure }
}

/// The evidence that a person needs beside a failed assertion.
fn surroundings(dir: &Path) -> String {
    let mut text = String::new();
    let mut add = |title: &str, body: &str| {
        let lines: Vec<_> = body.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL)..];
        text.push_str(&format!(
            "--- {title} (of {} lines, the last {})\n{}\n",
            lines.len(),
            tail.len(),
            tail.join("\n")
        ));
    };
    let logs = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut logs: Vec<_> =
        logs.map(|entry| entry.path()).filter(|path| path.extension() == Some("log".as_ref())).collect();
    logs.sort();
    for log in logs {
        let content = fs::read(&log).unwrap_or_default();
        add(&log.to_string_lossy(), &String::from_utf8_lossy(&content));
    }
    for (title, command) in [
        ("dmsetup status", ["timeout", "20", "dmsetup", "status", "--noflush"].as_slice()),
        ("dmsetup info", &["timeout", "20", "dmsetup", "info", "-c"]),
        ("dmesg", &["dmesg"]),
    ] {
        add(title, &try_run(command[0], &command[1..]).unwrap_or_else(|failure| failure));
    }
    text
}

/// Removes every device that a scenario may have created. udevd starts afterwards if a scenario
/// stopped it.
fn tear_down() -> Result<(), String> {
    let dm = Dm::open();
    try_eventually(PATIENCE, || dm.clear())?;
    for module in DEVICE_MODULES.into_iter().filter(|module| Path::new("/sys/module").join(module).exists()) {
        try_eventually(PATIENCE, || try_run("modprobe", ["-r", module]))?;
    }
    udevd::start()?;
    udevd::settle()
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
