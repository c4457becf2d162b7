//! The memory's file, and the process of its own that reads and writes it.
//!
//! On a host that boots from its multipath storage, the file lies on a device that may die. Whoever writes to it then waits
//! in the kernel for good, and nothing ends a process while one of its threads waits so. So a process of its own does it:
//!
//! ```text
//! exporter ── image ──► keeper   writes FILE.new, syncs it, and renames it to FILE
//!          ◄─ report ──
//! ```
//!
//! It is forked before the exporter has other threads, holds `FILE.lock`, and ends with the exporter's end of the socket. The
//! exporter waits [`DEADLINE`] for a report, and says so if none comes.

mod keeper;

use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream as Socket;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::{ForkResult, fork};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

use super::image::{Image, Machine};

/// How long the file may take to be read or written.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// No message is longer. [`LIMIT`](super::LIMIT) devices need a tenth of it.
const LONGEST: usize = 1 << 30;

/// A word of the keeper.
#[derive(Debug, Deserialize, Serialize)]
enum Report {
    /// The file as it was found.
    Read {
        /// Its text, if there is one that this machine wrote.
        text: Option<String>,
        /// What is to be told of it.
        warning: Option<String>,
        /// Another exporter holds the file.
        is_held: bool,
    },
    /// An image was written, or why not.
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
    /// Starts the keeper. Has to be called before this process has other threads.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (socket, theirs) = Socket::pair()?;
        let machine = keeper::this_machine();
        // SAFETY: the process has one thread, so the child finds no lock held and no state half changed.
        #[expect(unsafe_code, reason = "the standard library starts programs only, and this is none")]
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

    /// The machine that the file is about.
    pub fn machine(&self) -> Machine {
        self.machine.clone()
    }

    /// Starts the task that talks to the keeper, in a runtime.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn start(self) -> io::Result<Handle> {
        self.socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(self.socket)?;
        let (images, queue) = mpsc::unbounded_channel();
        let (found, loaded) = mpsc::channel(1);
        let health = Arc::new(FileHealth::default());
        let talk =
            Talk { socket, path: self.path, machine: self.machine, health: Arc::clone(&health), has_warned: false };
        tokio::spawn(talk.run(queue, found));
        Ok(Handle { images, loaded: Some(loaded), health })
    }
}

/// Whether the memory is on disk.
#[derive(Debug, Default)]
pub struct FileHealth {
    is_written: AtomicBool,
}

impl FileHealth {
    /// Whether what is remembered is on disk.
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }
}

/// An image to be written, and those who wait for it.
type Job = (Image, Option<oneshot::Sender<()>>);

/// The monitor's side.
#[derive(Debug)]
pub struct Handle {
    images: mpsc::UnboundedSender<Job>,
    /// Taken once the file has been read.
    loaded: Option<mpsc::Receiver<Image>>,
    /// Whether the memory is on disk.
    pub health: Arc<FileHealth>,
}

impl Handle {
    /// Of a file that cannot be kept: the exporter remembers only while it runs.
    pub fn broken(error: &io::Error) -> Self {
        warn!(%error, "the process that keeps the memory's file cannot be started");
        Handle { images: mpsc::unbounded_channel().0, loaded: None, health: Arc::default() }
    }

    /// The image that the file had, once it has been read. `None` if it has none. Cancel safe.
    pub async fn loaded(&mut self) -> Option<Image> {
        let Some(loaded) = &mut self.loaded else { return pending().await };
        let image = loaded.recv().await;
        self.loaded = None;
        image
    }

    /// Whether the file has been read. What is written before that would lose what it has.
    pub fn is_loaded(&self) -> bool {
        self.loaded.is_none()
    }

    /// Has an image written. It takes the place of one that still waits. `done` is told when it is written, or cannot be.
    pub fn write(&self, image: Image, done: Option<oneshot::Sender<()>>) {
        // Without its task nothing is written any more, and that has been told.
        let _ = self.images.send((image, done));
    }
}

/// The task.
struct Talk {
    socket: UnixStream,
    path: PathBuf,
    machine: Machine,
    health: Arc<FileHealth>,
    has_warned: bool,
}

impl Talk {
    async fn run(mut self, mut queue: mpsc::UnboundedReceiver<Job>, found: mpsc::Sender<Image>) {
        if let Err(error) = self.talk(&mut queue, found).await {
            self.fail(&format!("the process that keeps it has ended: {error}"));
        }
    }

    async fn talk(&mut self, queue: &mut mpsc::UnboundedReceiver<Job>, found: mpsc::Sender<Image>) -> io::Result<()> {
        if let Report::Read { text, warning, is_held } = self.report("read").await? {
            if let Some(warning) = warning {
                warn!(file = %self.path.display(), warning, "the memory's file");
            }
            if is_held {
                self.fail("another exporter holds it");
            }
            let image = text.and_then(|text| Image::read(text.as_bytes(), &self.machine).ok());
            self.health.is_written.store(image.is_some() && !is_held, Ordering::Relaxed);
            if let Some(image) = image {
                let _ = found.send(image).await;
            }
        }
        drop(found);
        while let Some(mut job) = queue.recv().await {
            let mut waiting = Vec::new();
            // Only the newest is of interest.
            while let Ok(newer) = queue.try_recv() {
                waiting.extend(job.1.take());
                job = newer;
            }
            let (image, waits) = job;
            waiting.extend(waits);
            self.write(image).await?;
            for done in waiting {
                let _ = done.send(());
            }
        }
        Ok(())
    }

    async fn write(&mut self, image: Image) -> io::Result<()> {
        // Milliseconds for a large host: off the threads that answer scrapes.
        let text = tokio::task::spawn_blocking(move || image.write()).await.map_err(io::Error::other)?;
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                self.fail(&error.to_string());
                return Ok(());
            }
        };
        let send = async |socket: &mut UnixStream| {
            socket.write_all(&(text.len() as u64).to_le_bytes()).await?;
            socket.write_all(&text).await
        };
        send(&mut self.socket).await?;
        if let Report::Written(written) = self.report("written").await? {
            match written {
                Ok(()) => self.succeed(),
                Err(error) => self.fail(&error),
            }
        }
        Ok(())
    }

    /// The keeper's next report. If it takes too long, that is told, and it is awaited on.
    async fn report(&mut self, what: &str) -> io::Result<Report> {
        let mut length = [0; 8];
        match timeout(DEADLINE, self.socket.read_exact(&mut length[..1])).await {
            Ok(read) => drop(read?),
            Err(_) => {
                self.fail(&format!("it has not been {what} within {DEADLINE:?}"));
                self.socket.read_exact(&mut length[..1]).await?;
            }
        }
        self.socket.read_exact(&mut length[1..]).await?;
        let length = usize::try_from(u64::from_le_bytes(length)).ok().filter(|length| *length <= LONGEST);
        let mut text = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        self.socket.read_exact(&mut text).await?;
        serde_json::from_slice(&text).map_err(io::Error::from)
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
