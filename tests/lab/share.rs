//! The directory that the host and its machines share, and the messages in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The mount point of the shared directory in a machine.
pub const MOUNT_POINT: &str = "/mnt";

/// A report of a machine: one JSON document per line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The machine has taken a scenario from the queue and runs it.
    Started(String),
    /// The scenario is over.
    Finished(Verdict),
    /// A line of a stage for the program that booted it.
    Said(String),
    /// The machine cannot be cleaned and must boot again.
    Unclean(String),
}

/// The result of a scenario.
#[derive(Serialize, Deserialize)]
pub struct Verdict {
    pub scenario: String,
    pub seconds: f64,
    /// The scenario's measurements.
    pub notes: Vec<String>,
    /// The reason of a failure.
    pub failure: Option<String>,
}

/// The shared directory, under this side's path.
#[derive(Clone)]
pub struct Share(PathBuf);

impl Share {
    /// The existing directory.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Share(path.into())
    }

    /// The directory's own path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The copy of this program that machines run. A machine has its own `/tmp`, and builds may be
    /// there.
    pub fn lab_program(&self) -> PathBuf {
        self.0.join("lab")
    }

    /// The libraries of the lab program and their loader. A machine's own may be older.
    pub fn libraries(&self) -> PathBuf {
        self.0.join("libraries")
    }

    /// The copy of the exporter that machines run.
    pub fn exporter_program(&self) -> PathBuf {
        self.0.join("multipath_exporter")
    }

    /// The files of one machine: its console, its reports, and artefacts of its scenarios.
    pub fn machine_dir(&self, machine: &str) -> PathBuf {
        self.0.join(machine)
    }

    /// Puts a scenario into the queue of all machines.
    pub fn enqueue(&self, scenario: &str) -> io::Result<()> {
        fs::create_dir_all(self.queue())?;
        File::create(self.queue().join(scenario)).map(drop)
    }

    /// Takes a scenario from the queue. Returns false if it is absent or another machine was
    /// faster.
    pub fn claim(&self, scenario: &str) -> bool {
        // If several machines unlink the file, one succeeds.
        fs::remove_file(self.queue().join(scenario)).is_ok()
    }

    /// The number of scenarios that no machine has taken.
    pub fn queued(&self) -> io::Result<usize> {
        Ok(fs::read_dir(self.queue())?.count())
    }

    /// Sends a report to the host.
    pub fn report(&self, machine: &str, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        append(&self.reports(machine), &line)
    }

    /// The machine's reports since `seen` bytes. The call advances `seen`.
    pub fn new_reports(&self, machine: &str, seen: &mut usize) -> io::Result<Vec<Report>> {
        let lines = new_lines(&self.reports(machine), seen)?;
        lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Sends a stage a command of one line.
    pub fn command(&self, machine: &str, line: &str) -> io::Result<()> {
        append(&self.commands(machine), format!("{line}\n").as_bytes())
    }

    /// The commands since `seen` bytes. The call advances `seen`.
    pub fn new_commands(&self, machine: &str, seen: &mut usize) -> io::Result<Vec<String>> {
        new_lines(&self.commands(machine), seen)
    }

    fn queue(&self) -> PathBuf {
        self.0.join("queue")
    }

    fn reports(&self, machine: &str) -> PathBuf {
        self.machine_dir(machine).join("reports.jsonl")
    }

    fn commands(&self, machine: &str) -> PathBuf {
        self.machine_dir(machine).join("commands")
    }
}

fn append(file: &Path, text: &[u8]) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(file)?.write_all(text)
}

/// The complete lines of a file since `seen` bytes, or none if the file does not exist yet. The
/// call advances `seen`.
fn new_lines(file: &Path, seen: &mut usize) -> io::Result<Vec<String>> {
    let text = match fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    let complete = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
    let new = String::from_utf8_lossy(&text[*seen..complete]);
    *seen = complete;
    Ok(new.lines().map(str::to_owned).collect())
}
