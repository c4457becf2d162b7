//! The keeper: a process with one thread, which may wait in the kernel as long as the storage
//! takes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use nix::unistd::close;
use ring::hmac;
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::umask;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_name};

use super::{LONGEST_MESSAGE, Report};
use crate::memory::image::{Image, Machine};

/// How long an exporter that is ending may keep the lock that its successor waits for.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);
/// The largest file that the keeper reads, in bytes.
const LARGEST_FILE: u64 = 256 << 20;
/// Identifies this program where it derives an ID from the `machine-id`.
const ID_PURPOSE: &[u8] = b"multipath_exporter memory";

pub(crate) fn this_machine() -> Machine {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let id = match id.trim() {
        "" => String::new(),
        id => {
            let key = hmac::Key::new(hmac::HMAC_SHA256, id.as_bytes());
            hmac::sign(&key, ID_PURPOSE).as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        }
    };
    Machine { host, id }
}

/// Serves the exporter until its end of the socket closes.
pub(crate) fn run(mut socket: Socket, path: &Path, machine: &Machine) {
    leave_the_exporter(&socket);
    let mut files = MemoryFiles::of(path);
    let report = files.read(machine);
    if send(&mut socket, &report).is_err() {
        return;
    }
    drop(report);
    while let Ok(text) = receive(&mut socket) {
        let written = files.write(&text).map_err(|error| error.to_string());
        if send(&mut socket, &Report::Written(written)).is_err() {
            return;
        }
    }
}

/// Drops what the keeper inherited from the exporter: name, signals, files and capabilities. The
/// exporter may end first.
fn leave_the_exporter(socket: &Socket) {
    let _ = set_name(c"memory-keeper");
    // A service's umask may take permissions from its own user.
    umask(Mode::from_raw_mode(0o077));
    // systemd signals all processes of a service that ends. The keeper still has to write the last
    // image.
    let _ = SigSet::all().thread_block();
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    let ours = socket.as_fd().as_raw_fd();
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for other in open.into_iter().filter(|other| *other > 2 && *other != ours) {
        let _ = close(other);
    }
    if capabilities(None).is_ok_and(|held| held.permitted.intersects(CapabilitySet::SYS_ADMIN)) {
        let none = CapabilitySet::empty();
        let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
        let held = capabilities(None).map_or(none, |held| held.permitted) & kept;
        let _ = set_capabilities(None, CapabilitySets { effective: held, permitted: held, inheritable: none });
    }
}

fn send(socket: &mut Socket, report: &Report) -> io::Result<()> {
    let text = serde_json::to_vec(report)?;
    socket.write_all(&(text.len() as u64).to_le_bytes())?;
    socket.write_all(&text)
}

fn receive(socket: &mut Socket) -> io::Result<Vec<u8>> {
    let mut length = [0; 8];
    socket.read_exact(&mut length)?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= LONGEST_MESSAGE);
    let mut text = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    socket.read_exact(&mut text)?;
    Ok(text)
}

/// The memory's file and the files beside it.
struct MemoryFiles {
    path: PathBuf,
    /// Held while this exporter may write.
    lock: Option<File>,
    /// Why the keeper must not write, although no other exporter holds the file.
    obstacle: Option<String>,
}

impl MemoryFiles {
    fn of(path: &Path) -> Self {
        MemoryFiles { path: path.to_owned(), lock: None, obstacle: None }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    fn read(&mut self, machine: &Machine) -> Report {
        let is_held = self.is_held();
        let read = File::open(&self.path).and_then(|file| {
            let mut text = Vec::new();
            file.take(LARGEST_FILE).read_to_end(&mut text)?;
            Ok(text)
        });
        let understood = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Report::Read { text: None, warning: None, is_held };
            }
            Err(error) => Err(format!("the file cannot be read: {error}")),
            Ok(text) => Image::read(&text, machine)
                .and_then(|_| String::from_utf8(text).map_err(|error| format!("the file is damaged: {error}"))),
        };
        match understood {
            Ok(text) => Report::Read { text: Some(text), warning: None, is_held },
            Err(cause) if is_held => Report::Read {
                text: None,
                warning: Some(format!("{cause}; it is left alone, because another exporter holds it")),
                is_held,
            },
            Err(cause) => Report::Read { text: None, warning: Some(self.set_aside(&cause)), is_held },
        }
    }

    /// Renames a file that cannot be used, so that a person can look at it. Returns the text to
    /// log.
    fn set_aside(&mut self, cause: &str) -> String {
        let aside = self.beside(".unusable");
        match fs::rename(&self.path, &aside) {
            Ok(()) => format!("{cause}; it is renamed to {}, and the exporter starts without it", aside.display()),
            Err(error) => {
                let warning = format!("{cause}; it cannot be renamed to {}: {error}", aside.display());
                self.obstacle = Some(warning.clone());
                warning
            }
        }
    }

    /// Returns true if another exporter holds the file. Gives an exporter that has just ended time
    /// to let go.
    fn is_held(&mut self) -> bool {
        let began = Instant::now();
        while began.elapsed() < HAND_OVER_DEADLINE {
            match self.hold() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(20)),
                _ => return false,
            }
        }
        true
    }

    /// Takes the lock. If the lock file cannot be created, the next write reports that.
    fn hold(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(self.beside(".lock"))?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            self.lock = Some(lock);
        }
        Ok(())
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if let Some(obstacle) = &self.obstacle {
            return Err(io::Error::other(obstacle.clone()));
        }
        self.hold().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::other("another exporter holds the file"),
            _ => error,
        })?;
        let new = self.beside(".new");
        let written = write_whole(&new, text).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        // The new name is on disk only once its directory is synced.
        File::open(self.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // A service's umask may remove all permissions.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text)?;
    file.sync_all()
}
