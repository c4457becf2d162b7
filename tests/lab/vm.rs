//! On the host: boots a machine with virtme-ng and watches it.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::share::{MOUNT_POINT, Report, Share, Verdict};
use crate::uplink::{self, Forward};
use crate::wait::pause;

/// The argument that makes this program run scenarios, followed by the machine's name.
pub const GUEST_FLAG: &str = "--in-guest";

/// Environment: for how many seconds the measurement of an idle exporter takes (600).
pub const IDLE_SECONDS: &str = "LAB_IDLE_SECONDS";

/// The variable that makes machines keep the artefacts of every scenario.
pub const KEEP: &str = "LAB_KEEP";

/// Plain emulation, which needs nothing of the host; one processor boots fastest. What the kernel complains about goes to
/// the console.
const MACHINE: [&str; 12] = [
    "--disable-kvm",
    "--disable-microvm",
    "--force-9p",
    "--cpus",
    "1",
    "--memory",
    "1G",
    "--user",
    "root",
    "--verbose",
    "--append",
    "loglevel=4",
];

/// A machine that has said nothing for so long hangs.
const SILENCE: Duration = Duration::from_secs(900);

/// Lines of the console in a report.
const CONSOLE_TAIL: usize = 40;

/// What is needed to boot a machine.
#[derive(Clone)]
pub struct Host {
    pub share: Share,
    vng: PathBuf,
    kernel: PathBuf,
}

impl Host {
    /// Looks for all that the lab needs here, and gives the whole list of what is missing.
    pub fn find(share: Share) -> Result<Self, Vec<String>> {
        let vng = find_vng();
        let kernel = find_kernel();
        let missing_programs = [
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("script", "bsdutils"),
            ("setpriv", "util-linux"),
            ("busybox", "busybox-static"),
            ("crun", "crun"),
            ("multipathd", "multipath-tools"),
            ("dmsetup", "dmsetup"),
            ("ip", "iproute2"),
            ("iscsiadm", "open-iscsi"),
            ("tgtd", "tgt"),
            ("udevadm", "udev"),
            ("modprobe", "kmod"),
            ("lvm", "lvm2"),
            ("cryptsetup", "cryptsetup-bin"),
            ("mkfs.ext4", "e2fsprogs"),
            ("mkfs.btrfs", "btrfs-progs"),
            ("prometheus", "prometheus"),
            ("prometheus-alertmanager", "prometheus-alertmanager"),
        ]
        .into_iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(program, package)| format!("no {program} (Debian package {package})"));
        let missing: Vec<_> = [vng.as_ref().err(), kernel.as_ref().err()]
            .into_iter()
            .flatten()
            .cloned()
            .chain(missing_programs)
            .collect();
        match (vng, kernel) {
            (Ok(vng), Ok(kernel)) if missing.is_empty() => Ok(Host { share, vng, kernel }),
            _ => Err(missing),
        }
    }

    /// One line about what machines run.
    pub fn describe(&self) -> String {
        format!("{} booted by {}", self.kernel.display(), self.vng.display())
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn find_vng() -> Result<PathBuf, String> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/venv/bin/vng");
    let found = if own.is_file() { Some(own) } else { find_program("vng") };
    found.ok_or_else(|| "no vng (virtme-ng of PyPI, in .cache/venv or on PATH)".to_owned())
}

fn find_kernel() -> Result<PathBuf, String> {
    if let Some(kernel) = env::var_os("LAB_KERNEL") {
        return Ok(kernel.into());
    }
    let kernels = fs::read_dir("/boot").into_iter().flatten().flatten().filter_map(|entry| {
        let release = entry.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        let modules = Path::new("/lib/modules").join(&release).join("kernel/drivers/md/dm-multipath.ko");
        modules.exists().then(|| (version_key(&release), entry.path()))
    });
    let newest = kernels.max().map(|(_, path)| path);
    newest.ok_or_else(|| "no kernel in /boot with dm-multipath (Debian package linux-image-amd64)".to_owned())
}

/// The numbers of a release, so that 6.10 comes after 6.9.
fn version_key(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
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
    script: Child,
    /// The scenario it has started and not finished.
    running: Option<String>,
    /// It is a stage, which waits for commands and may be silent.
    stands: bool,
    verdicts: usize,
}

impl Vm {
    /// A machine with its own directory in the share, and these ports of the host leading into it.
    pub fn new(host: Host, name: String, forwards: Vec<Forward>) -> io::Result<Self> {
        let dir = host.share.machine_dir(&name);
        fs::create_dir_all(&dir)?;
        Ok(Vm { host, name, dir, forwards, seen: 0 })
    }

    /// Boots it until the queue is empty. An error says why it cannot go on.
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

    /// Runs it once and gives the number of scenarios that came to a verdict.
    fn boot(&mut self, verdicts: &Sender<Verdict>) -> io::Result<usize> {
        let mut boot = Boot { script: self.spawn()?, running: None, stands: false, verdicts: 0 };
        let mut last_word = Instant::now();
        loop {
            let ended = boot.script.try_wait()?;
            for report in self.host.share.new_reports(&self.name, &mut self.seen)? {
                last_word = Instant::now();
                boot.take(report, &self.name, verdicts);
            }
            let hangs = !boot.stands && last_word.elapsed() > SILENCE;
            if hangs {
                self.kill()?;
                boot.script.wait()?;
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
        let beside_vng = self.host.vng.parent().into_iter().map(PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(beside_vng.chain(env::split_paths(&path))).map_err(io::Error::other)?;
        let console = OpenOptions::new().append(true).create(true).open(self.console())?;
        let command: Vec<_> = self.command_line().iter().map(|word| quote(word)).collect();
        // vng wants a terminal, which script(1) gives it; the machine goes when the lab goes.
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "script", "--quiet", "--return", "--command"])
            .args([&command.join(" "), "/dev/null"])
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
    }

    fn command_line(&self) -> Vec<String> {
        let Host { share, vng, kernel } = &self.host;
        let booted = [vng, Path::new("--run"), kernel].map(|word| word.display().to_string());
        let machine = MACHINE.map(str::to_owned);
        let places = [
            format!("--rwdir={MOUNT_POINT}={}", share.path().display()),
            format!("--qemu-opts=-pidfile {}{}", self.pid_file().display(), uplink::qemu_options(&self.forwards)),
        ];
        let environment = ["--", "env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"].map(str::to_owned);
        let handed_in =
            [KEEP, IDLE_SECONDS].into_iter().filter_map(|name| Some(format!("{name}={}", env::var(name).ok()?)));
        let program = Share::at(MOUNT_POINT).lab_program().display().to_string();
        let program = [program, GUEST_FLAG.to_owned(), self.name.clone()];
        booted.into_iter().chain(machine).chain(places).chain(environment).chain(handed_in).chain(program).collect()
    }

    /// Ends the emulator, and so all that waits for it.
    fn kill(&self) -> io::Result<()> {
        let pid = fs::read_to_string(self.pid_file())?;
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no pid of QEMU"))?;
        Ok(kill_process(pid, Signal::KILL)?)
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("qemu.pid")
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

/// A word for the shell that script(1) starts.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
