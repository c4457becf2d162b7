//! The directory that the host and its machines share, and what they tell each other in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a machine finds the shared directory.
pub const MOUNT_POINT: &str = "/mnt";

/// What a machine reports, one JSON document per line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// It has taken a scenario from the queue and runs it now.
    Started(String),
    /// The scenario is over.
    Finished(Verdict),
    /// Something that whoever booted a stage wants to read.
    Said(String),
    /// It could not be cleaned and must be booted anew.
    Unclean(String),
}

/// How a scenario ended.
#[derive(Serialize, Deserialize)]
pub struct Verdict {
    pub scenario: String,
    pub seconds: f64,
    /// What the scenario measured.
    pub notes: Vec<String>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// The shared directory, under the path that this side knows.
#[derive(Clone)]
pub struct Share(PathBuf);

impl Share {
    /// The directory as it is.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Share(path.into())
    }

    /// The directory's own path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// This program, and the exporter, as machines run them: a machine has its own `/tmp`, and builds may be there.
    pub fn lab_program(&self) -> PathBuf {
        self.0.join("lab")
    }

    /// See [`Share::lab_program`].
    pub fn exporter_program(&self) -> PathBuf {
        self.0.join("multipath_exporter")
    }

    /// What belongs to one machine: its console, its reports, artefacts of its scenarios.
    pub fn machine_dir(&self, machine: &str) -> PathBuf {
        self.0.join(machine)
    }

    /// Puts a scenario into the queue that all machines take from.
    pub fn enqueue(&self, scenario: &str) -> io::Result<()> {
        fs::create_dir_all(self.queue())?;
        File::create(self.queue().join(scenario)).map(drop)
    }

    /// Takes a scenario from the queue; false if it is not there or another machine was faster.
    pub fn claim(&self, scenario: &str) -> bool {
        // Unlinking succeeds for exactly one of several.
        fs::remove_file(self.queue().join(scenario)).is_ok()
    }

    /// How many scenarios no machine has taken.
    pub fn queued(&self) -> io::Result<usize> {
        Ok(fs::read_dir(self.queue())?.count())
    }

    /// Tells the host something.
    pub fn report(&self, machine: &str, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        append(&self.reports(machine), &line)
    }

    /// What a machine has said since `seen` bytes, which moves on.
    pub fn new_reports(&self, machine: &str, seen: &mut usize) -> io::Result<Vec<Report>> {
        let lines = new_lines(&self.reports(machine), seen)?;
        lines.iter().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Gives a stage a command of one line.
    pub fn command(&self, machine: &str, line: &str) -> io::Result<()> {
        append(&self.commands(machine), format!("{line}\n").as_bytes())
    }

    /// The commands since `seen` bytes, which moves on.
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

/// The complete lines of a file since `seen` bytes, which moves on; none if it is not there yet.
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
