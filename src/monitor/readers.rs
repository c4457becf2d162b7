//! The threads and tasks that read outside the loop. Each makes one reading at a time and sends it
//! back.
//!
//! A read in the kernel cannot be cancelled. A reader that hangs blocks no other reader, and its
//! reading is still accepted when it arrives.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use super::readings::{DaemonReply, DaemonRequest};
use crate::privileges::Privileged;
use crate::source::interfaces::Addresses;
use crate::source::{Error, Places, block, device_mapper, multipathd, transports};

/// A request to a reader.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Device mapper's maps.
    Kernel(device_mapper::MapRequest),
    /// Block devices in sysfs.
    Block(block::BlockRequest),
    /// Sessions, ports and controllers in sysfs.
    Transports(transports::TransportRequest),
    /// The addresses of the network interfaces.
    Interfaces,
    Daemon(DaemonRequest),
}

/// A reading from a reader.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Device mapper's maps.
    Kernel(Result<device_mapper::MapReading, Error>),
    /// Block devices in sysfs.
    Block(Result<block::BlockReading, Error>),
    /// Sessions, ports and controllers in sysfs.
    Transports(Result<transports::TransportReading, Error>),
    /// The addresses of the network interfaces.
    Interfaces(Result<Addresses, Error>),
    Daemon(Result<DaemonReply, Error>),
}

/// The settings of the readers.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The directories of the files to read.
    pub(crate) places: Places,
    /// The transports to read.
    pub(crate) parts: transports::Parts,
    /// True if device mapper is read.
    pub(crate) device_mapper: bool,
    /// The client for multipathd, if multipathd is asked.
    pub(crate) multipathd: Option<multipathd::DaemonClient>,
}

pub(crate) struct Readers {
    kernel: Option<HandOver<device_mapper::MapRequest>>,
    block: HandOver<block::BlockRequest>,
    transports: HandOver<transports::TransportRequest>,
    interfaces: HandOver<()>,
    daemon: Option<HandOver<DaemonRequest>>,
    replies: mpsc::UnboundedReceiver<Arrival>,
}

/// A reading and its cost: processor time of the thread, or the time for which multipathd was busy.
pub(crate) type Arrival = (Reply, Duration);

type HandOver<Request> = Box<dyn Fn(Request) + Send>;

impl Readers {
    /// Starts the threads.
    ///
    /// # Errors
    /// If one cannot be started.
    pub(crate) fn start(sources: Sources, privileged: &Privileged) -> io::Result<Self> {
        let Sources { places, parts, device_mapper, multipathd } = sources;
        let (outbox, replies) = mpsc::unbounded_channel();
        let kernel = if device_mapper {
            let mut reader = device_mapper::DeviceMapper::new(&places);
            let read = move |request: device_mapper::MapRequest| reader.read(&request);
            Some(on_thread(privileged, "device-mapper", &outbox, Reply::Kernel, read)?)
        } else {
            None
        };
        let plain = Privileged::default();
        let mut transports = transports::TransportReader::new(&places.sysfs, parts);
        let capture = places.capture.clone();
        let mut block = block::BlockReader::new(places);
        Ok(Readers {
            kernel,
            block: on_thread(&plain, "block", &outbox, Reply::Block, move |request| block.read(&request))?,
            transports: on_thread(&plain, "transports", &outbox, Reply::Transports, move |request| {
                transports.read(&request)
            })?,
            interfaces: on_thread(&plain, "interfaces", &outbox, Reply::Interfaces, move |()| {
                Addresses::read(capture.as_deref())
            })?,
            daemon: multipathd.map(|client| {
                let client = Arc::new(client);
                on_tasks("multipathd", &outbox, Reply::Daemon, move |request: DaemonRequest| {
                    let client = Arc::clone(&client);
                    async move { request.ask(&client).await }
                })
            }),
            replies,
        })
    }

    /// Requests a reading. A source that is switched off is never asked.
    pub(crate) fn ask(&self, ask: Ask) {
        match ask {
            Ask::Kernel(request) => self.kernel.iter().for_each(|reader| reader(request.clone())),
            Ask::Block(request) => (self.block)(request),
            Ask::Transports(request) => (self.transports)(request),
            Ask::Interfaces => (self.interfaces)(()),
            Ask::Daemon(request) => self.daemon.iter().for_each(|reader| reader(request)),
        }
    }

    /// Waits for the next reading and its cost. Cancel safe.
    pub(crate) async fn reply(&mut self) -> Arrival {
        match self.replies.recv().await {
            Some(arrival) => arrival,
            // The block reader's thread holds a sender as long as `self` exists.
            None => std::future::pending().await,
        }
    }
}

/// Starts a thread for reads that block.
fn on_thread<Request: Send + 'static, Reading: 'static>(
    threads: &Privileged,
    name: &'static str,
    outbox: &mpsc::UnboundedSender<Arrival>,
    wrap: fn(Result<Reading, Error>) -> Reply,
    mut read: impl FnMut(Request) -> Result<Reading, Error> + Send + 'static,
) -> io::Result<HandOver<Request>> {
    let (requests, inbox) = std::sync::mpsc::channel();
    let outbox = outbox.clone();
    let work = move || {
        for request in inbox {
            // A reader that panics has a bug. The other readers must keep running.
            let before = processor_time();
            let reading = catch_unwind(AssertUnwindSafe(|| read(request))).unwrap_or_else(|_| Err(panicked(name)));
            if outbox.send((wrap(reading), processor_time().saturating_sub(before))).is_err() {
                return;
            }
        }
    };
    threads.spawn(name, work)?;
    // The thread lives until its request channel closes, so it receives this request.
    Ok(Box::new(move |request| drop(requests.send(request))))
}

/// Starts a task for each read that waits for a peer.
fn on_tasks<Request: 'static, Reading: Send + 'static, F>(
    name: &'static str,
    outbox: &mpsc::UnboundedSender<Arrival>,
    wrap: fn(Result<Reading, Error>) -> Reply,
    read: impl Fn(Request) -> F + Send + 'static,
) -> HandOver<Request>
where
    F: Future<Output = Result<Reading, Error>> + Send + 'static,
{
    let outbox = outbox.clone();
    Box::new(move |request| {
        let (outbox, reading) = (outbox.clone(), tokio::spawn(read(request)));
        // A task that panics sends no reading. Without this reply, the source would wait forever.
        tokio::spawn(async move {
            let start = Instant::now();
            let reading = reading.await.unwrap_or_else(|_| Err(panicked(name)));
            drop(outbox.send((wrap(reading), start.elapsed())));
        });
    })
}

/// Returns the processor time of this thread. Time spent waiting does not count as cost.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

fn panicked(name: &str) -> Error {
    Error::new(name, "the reader panicked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_panics_says_so_and_reads_again() {
        let (outbox, mut replies) = mpsc::unbounded_channel();
        let mut first = true;
        let panic_once = move |()| {
            assert!(!std::mem::take(&mut first), "a bug");
            Ok(Addresses::default())
        };
        let thread = on_thread(&Privileged::default(), "interfaces", &outbox, Reply::Interfaces, panic_once).unwrap();
        let task = on_tasks("multipathd", &outbox, Reply::Interfaces, |panics: bool| async move {
            assert!(!panics, "a bug");
            Ok(Addresses::default())
        });
        let asks: [(&dyn Fn(), bool); 4] =
            [(&|| thread(()), false), (&|| thread(()), true), (&|| task(true), false), (&|| task(false), true)];
        for (ask, reads) in asks {
            ask();
            let Some((Reply::Interfaces(reading), _)) = replies.recv().await else { panic!("no reply") };
            assert_eq!(reading.is_ok(), reads);
        }
    }
}
