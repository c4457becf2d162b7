//! The memory's file, and the keeper: a separate process that reads and writes it.
//!
//! On a host that boots from its multipath storage, the file lies on a device that may die. A write
//! to it then waits in the kernel forever. Nothing can end a process while one of its threads waits
//! like this. So a process of its own does the work:
//!
//! ```text
//! exporter ── image ──► keeper   writes FILE.new, syncs it, and renames it to FILE
//!          ◄─ report ──
//! ```
//!
//! The exporter forks the keeper before it has other threads. The keeper holds `FILE.lock`, and it
//! ends when the exporter's end of the socket closes. If no report comes within [`FILE_DEADLINE`],
//! the exporter logs that.

mod keeper;

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use super::image::{Image, Machine};

/// How long reading or writing the file may take.
pub(crate) const FILE_DEADLINE: Duration = Duration::from_secs(5);
/// The longest message that either side accepts, in bytes. [`MOST_RECORDS`](super::MOST_RECORDS)
/// devices need a tenth of it.
const LONGEST_MESSAGE: usize = 1 << 30;

/// A message from the keeper.
#[derive(Debug, Deserialize, Serialize)]
enum Report {
    /// The file has been read.
    Read {
        /// The file's text, if this machine wrote it.
        text: Option<String>,
        /// The problem to log, if there is one.
        warning: Option<String>,
        /// True if another exporter holds the file.
        is_held: bool,
    },
    /// An image has been written, or the write failed.
    Written(Result<(), String>),
}

/// The keeper, and the socket to it.
#[derive(Debug)]
pub struct MemoryFile {
    socket: Socket,
    path: PathBuf,
    machine: Machine,
}

impl MemoryFile {
    /// Starts the keeper. The caller must do this before the process has other threads.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (socket, theirs) = Socket::pair()?;
        let machine = keeper::this_machine();
        // SAFETY: the process has one thread, so the child finds no lock held and no state half
        // changed.
        #[expect(unsafe_code, reason = "the standard library can start programs, but cannot fork")]
        let forked = unsafe { fork() }?;
        match forked {
            ForkResult::Parent { .. } => Ok(MemoryFile { socket, path: path.to_owned(), machine }),
            ForkResult::Child => {
                drop(socket);
                keeper::run(theirs, path, &machine);
                exit(0)
            }
        }
    }

    pub(crate) fn machine(&self) -> Machine {
        self.machine.clone()
    }

    /// Starts the task that talks to the keeper. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub(crate) fn start(self) -> io::Result<Handle> {
        self.socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(self.socket)?;
        let desk = Arc::new(Desk::default());
        let (found, loaded) = mpsc::channel(1);
        let health = Arc::new(FileHealth::default());
        let talk = Talk {
            socket: Some(socket),
            path: self.path,
            machine: self.machine,
            health: Arc::clone(&health),
            has_warned: false,
        };
        tokio::spawn(talk.run(Arc::clone(&desk), found));
        Ok(Handle { desk, loaded: Some(loaded), health })
    }
}

/// The state of the memory's file.
#[derive(Debug, Default)]
pub(crate) struct FileHealth {
    is_written: AtomicBool,
}

impl FileHealth {
    /// Returns true if the last image is on disk.
    pub(crate) fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }
}

/// The newest image to write, and the requesters that wait for it.
#[derive(Debug, Default)]
struct Slot {
    image: Option<Image>,
    waiting: Vec<oneshot::Sender<()>>,
}

/// Where the monitor leaves images. While the keeper hangs, a newer image replaces the waiting one.
#[derive(Debug, Default)]
struct Desk {
    slot: Mutex<Slot>,
    filled: Notify,
}

impl Desk {
    fn leave(&self, image: Image, done: Option<oneshot::Sender<()>>) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        slot.image = Some(image);
        slot.waiting.extend(done);
        self.filled.notify_one();
    }

    async fn next(&self) -> (Image, Vec<oneshot::Sender<()>>) {
        loop {
            let slot = std::mem::take(&mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner));
            if let Some(image) = slot.image {
                return (image, slot.waiting);
            }
            self.filled.notified().await;
        }
    }
}

/// The monitor's side of the conversation.
#[derive(Debug)]
pub(crate) struct Handle {
    desk: Arc<Desk>,
    /// `None` once the file has been read.
    loaded: Option<mpsc::Receiver<Image>>,
    pub(crate) health: Arc<FileHealth>,
}

impl Handle {
    /// Returns a handle without a file: the exporter remembers only while it runs.
    pub(crate) fn broken(error: &io::Error) -> Self {
        warn!(%error, "the process that writes the memory's file cannot be started");
        Handle { desk: Arc::default(), loaded: None, health: Arc::default() }
    }

    /// Returns the image from the file once the file has been read, or `None` if it has none.
    /// Cancel safe.
    pub(crate) async fn loaded(&mut self) -> Option<Image> {
        let Some(loaded) = &mut self.loaded else { return pending().await };
        let image = loaded.recv().await;
        self.loaded = None;
        image
    }

    /// Returns true if the file has been read. An image written earlier would overwrite what the
    /// file has.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.is_none()
    }

    /// Writes an image. It replaces an image that still waits. `done` is notified when the image is
    /// written, or when the write has failed.
    pub(crate) fn write(&self, image: Image, done: Option<oneshot::Sender<()>>) {
        self.desk.leave(image, done);
    }
}

/// The task that talks to the keeper.
struct Talk {
    /// `None` while an exchange is under way.
    socket: Option<UnixStream>,
    path: PathBuf,
    machine: Machine,
    health: Arc<FileHealth>,
    has_warned: bool,
}

impl Talk {
    async fn run(mut self, desk: Arc<Desk>, found: mpsc::Sender<Image>) {
        if let Err(error) = self.talk(&desk, found).await {
            self.fail(&format!("the process that writes the file has ended: {error}"));
        }
        // The monitor must not wait for images that no process will write.
        loop {
            desk.next().await;
        }
    }

    async fn talk(&mut self, desk: &Desk, found: mpsc::Sender<Image>) -> io::Result<()> {
        if let Report::Read { text, warning, is_held } = self.exchange("read", &[]).await? {
            if let Some(warning) = warning {
                warn!(file = %self.path.display(), warning, "the memory's file cannot be used");
            }
            if is_held {
                self.fail("another exporter holds the file");
            }
            let machine = self.machine.clone();
            let parse = move || text.and_then(|text| Image::read(text.as_bytes(), &machine).ok());
            let image = tokio::task::spawn_blocking(parse).await.map_err(io::Error::other)?;
            self.health.is_written.store(image.is_some() && !is_held, Ordering::Relaxed);
            if let Some(image) = image {
                let _ = found.send(image).await;
            }
        }
        drop(found);
        loop {
            let (image, waiting) = desk.next().await;
            self.write(image).await?;
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    async fn write(&mut self, image: Image) -> io::Result<()> {
        // Takes milliseconds on a large host, so it runs off the threads that answer scrapes.
        let text = tokio::task::spawn_blocking(move || image.write()).await.map_err(io::Error::other)?;
        match text {
            Ok(text) => {
                if let Report::Written(written) = self.exchange("written", &text).await? {
                    match written {
                        Ok(()) => self.succeed(),
                        Err(error) => self.fail(&error),
                    }
                }
            }
            Err(error) => self.fail(&error.to_string()),
        }
        Ok(())
    }

    /// Sends the keeper a text, if there is one, and waits for its report. Logs a report that takes
    /// too long, and keeps waiting for it.
    async fn exchange(&mut self, what: &str, text: &[u8]) -> io::Result<Report> {
        let mut socket = self.socket.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let report = {
            let mut exchange = pin!(exchange(&mut socket, text));
            match timeout(FILE_DEADLINE, &mut exchange).await {
                Ok(report) => report,
                Err(_) => {
                    self.fail(&format!("the file has not been {what} within {FILE_DEADLINE:?}"));
                    exchange.await
                }
            }
        };
        self.socket = Some(socket);
        report
    }

    fn fail(&mut self, error: &str) {
        self.health.is_written.store(false, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_warned, true) {
            warn!(file = %self.path.display(), error, "the memory is not on disk");
        }
    }

    fn succeed(&mut self) {
        self.health.is_written.store(true, Ordering::Relaxed);
        if std::mem::take(&mut self.has_warned) {
            info!(file = %self.path.display(), "the memory is on disk again");
        }
    }
}

async fn exchange(socket: &mut UnixStream, text: &[u8]) -> io::Result<Report> {
    if !text.is_empty() {
        socket.write_all(&(text.len() as u64).to_le_bytes()).await?;
        socket.write_all(text).await?;
    }
    let mut length = [0; 8];
    socket.read_exact(&mut length).await?;
    let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= LONGEST_MESSAGE);
    let mut report = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    socket.read_exact(&mut report).await?;
    serde_json::from_slice(&report).map_err(io::Error::from)
}
