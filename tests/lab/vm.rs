//! On the host: boots a machine and watches it.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::share::{Report, Share, Verdict};
use crate::uplink::{self, Forward};
use crate::wait::pause;

/// The argument that makes this program run scenarios. The machine's name follows.
pub const GUEST_FLAG: &str = "--in-guest";

/// Environment variable with the seconds that the measurement of an idle exporter takes (600).
pub const IDLE_SECONDS: &str = "LAB_IDLE_SECONDS";

/// Environment variable with the number of times that a scenario attaches and detaches a volume
/// ([`crate::scenarios::memory`]).
pub const CYCLES: &str = "LAB_CYCLES";

/// Environment variable that makes machines keep the artefacts of every scenario.
pub const KEEP: &str = "LAB_KEEP";

/// Environment variable with the Debian release to boot, as in `tests/machine/image`.
pub const SUITE: &str = "SUITE";

/// The script that creates the image, and the script that boots it.
const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machine/image");
const BOOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/machine/boot");

/// A machine that is silent for this long hangs.
const SILENCE: Duration = Duration::from_secs(900);
/// The limit if [`CYCLES`] asks for many cycles.
const LONG_SILENCE: Duration = Duration::from_secs(3600);

/// The number of console lines in a report.
const CONSOLE_TAIL: usize = 40;

/// The requirements for a boot.
#[derive(Clone)]
pub struct Host {
    pub share: Share,
    image: PathBuf,
}

impl Host {
    /// Checks every requirement of the lab, and returns the list of missing ones.
    pub fn find(share: Share) -> Result<Self, Vec<String>> {
        let missing = [("qemu-system-x86_64", "qemu-system-x86"), ("setpriv", "util-linux")]
            .into_iter()
            .filter(|(program, _)| find_program(program).is_none())
            .map(|(program, package)| format!("no {program} (Debian package {package})"));
        let image = find_image();
        let missing: Vec<_> = missing.chain(image.as_ref().err().cloned()).collect();
        match image {
            Ok(image) if missing.is_empty() => Ok(Host { share, image }),
            _ => Err(missing),
        }
    }

    /// The name of the image.
    pub fn describe(&self) -> String {
        self.image.file_name().unwrap_or_default().display().to_string()
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The directory of the image. The call may have to create the image first.
fn find_image() -> Result<PathBuf, String> {
    let output = Command::new(IMAGE)
        .args(env::var(SUITE).ok())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{IMAGE}: {e}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

/// One machine, booted as often as the queue needs.
pub struct Vm {
    host: Host,
    name: String,
    dir: PathBuf,
    forwards: Vec<Forward>,
    seen: usize,
}

/// One boot.
struct Boot {
    machine: Child,
    /// The scenario that has started but not finished.
    running: Option<String>,
    /// The machine is a stage, which waits for commands and may be silent.
    stands: bool,
    verdicts: usize,
}

impl Vm {
    /// A machine with its own directory in the share and these ports of the host.
    pub fn new(host: Host, name: String, forwards: Vec<Forward>) -> io::Result<Self> {
        let dir = host.share.machine_dir(&name);
        fs::create_dir_all(&dir)?;
        Ok(Vm { host, name, dir, forwards, seen: 0 })
    }

    /// Boots the machine until the queue is empty. The error says why it cannot continue.
    pub fn drain(mut self, verdicts: &Sender<Verdict>) -> Result<(), String> {
        let mut queued = self.queued()?;
        while queued > 0 {
            let ran = self.boot(verdicts).map_err(|e| format!("{}: {e}", self.name))?;
            queued = self.queued()?;
            if ran == 0 && queued > 0 {
                return Err(format!("{} ended without running anything.\n{}", self.name, self.console_tail()));
            }
        }
        Ok(())
    }

    fn queued(&self) -> Result<usize, String> {
        self.host.share.queued().map_err(|e| format!("the queue: {e}"))
    }

    /// Runs the machine once, and returns the number of scenarios with a verdict.
    fn boot(&mut self, verdicts: &Sender<Verdict>) -> io::Result<usize> {
        let patience = if env::var_os(CYCLES).is_some() { LONG_SILENCE } else { SILENCE };
        let mut boot = Boot { machine: self.spawn()?, running: None, stands: false, verdicts: 0 };
        let mut last_word = Instant::now();
        loop {
            let ended = boot.machine.try_wait()?;
            for report in self.host.share.new_reports(&self.name, &mut self.seen)? {
                last_word = Instant::now();
                boot.take(report, &self.name, verdicts);
            }
            let hangs = !boot.stands && last_word.elapsed() > patience;
            if hangs {
                boot.machine.kill()?;
                boot.machine.wait()?;
            }
            if hangs || ended.is_some() {
                if let Some(scenario) = boot.running.take() {
                    let why = if hangs { "hung" } else { "died" };
                    let failure = format!("{} {why} in this scenario.\n{}", self.name, self.console_tail());
                    let seconds = last_word.elapsed().as_secs_f64();
                    boot.conclude(Verdict { scenario, seconds, notes: Vec::new(), failure: Some(failure) }, verdicts);
                }
                return Ok(boot.verdicts);
            }
            pause();
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let handed_in = [KEEP, IDLE_SECONDS, CYCLES]
            .into_iter()
            .filter_map(|name| Some(format!("{name}={} ", env::var(name).ok()?)));
        let kernel = format!("first=/usr/local/sbin/lab {}-- {}", handed_in.collect::<String>(), self.name);
        let share = format!("local,id=share,path={},security_model=none", self.host.share.path().display());
        let console = format!("file,id=console,append=on,path={}", self.console().display());
        let complaints = OpenOptions::new().append(true).create(true).open(self.console())?;
        // The machine ends with the lab.
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", BOOT, &kernel, "-smp", "1"])
            .args(["-fsdev", &share, "-device", "virtio-9p-pci,fsdev=share,mount_tag=share"])
            .args(["-chardev", &console, "-serial", "chardev:console"])
            .args(uplink::qemu_options(&self.forwards))
            .stdin(Stdio::null())
            .stdout(complaints.try_clone()?)
            .stderr(complaints)
            .spawn()
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn console_tail(&self) -> String {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<_> = console.lines().collect();
        let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
        format!("--- console, {}\n{}", self.console().display(), tail.join("\n"))
    }
}

impl Boot {
    fn take(&mut self, report: Report, machine: &str, verdicts: &Sender<Verdict>) {
        match report {
            Report::Started(scenario) => self.running = Some(scenario),
            Report::Finished(verdict) => {
                self.running = None;
                self.conclude(verdict, verdicts);
            }
            Report::Said(line) => {
                self.stands = true;
                println!("{line}");
            }
            Report::Unclean(reason) => eprintln!("{machine} could not be cleaned: {reason}"),
        }
    }

    fn conclude(&mut self, verdict: Verdict, verdicts: &Sender<Verdict>) {
        self.verdicts += 1;
        verdicts.send(verdict).expect("the host listens until all machines are done");
    }
}
