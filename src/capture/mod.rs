//! A capture: everything that the readers read on this host, with all names replaced, so that
//! somebody else can run the exporter on it.
//!
//! ```text
//! take     every reader reads everything it ever reads; source::witness records what it gets
//! scrub    finds the names in a file                                             scrub.rs
//! names    replaces a name by a random one of the same form, the same everywhere  names.rs
//! check    makes sure that no name is left in what will be written               check.rs
//! archive  tar and gzip; the file appears complete or not at all                 archive.rs
//! ```
//!
//! All names are collected before the first one is replaced. Only then can new names be chosen that
//! differ from all old ones and keep the order of those with the same form. So the same code goes
//! through the text twice.

mod archive;
mod check;
mod names;
mod scrub;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::warn;

pub use archive::NewFile;

use crate::source::Places;
use crate::source::block::{self, BlockReader, Scope, Told};
use crate::source::device_mapper::{self, DeviceMapper};
use crate::source::health::Source;
use crate::source::interfaces::Addresses;
use crate::source::transports::{self, Parts};
use crate::source::witness::{self, Findings, Node};
use crate::source::{Error, multipathd, recorded};
use archive::{ArchiveEntry, EntryContent};
use check::Check;
use names::NameTable;
use scrub::Scrub;

/// Places of files in a capture.
const SYSFS: &str = "sys";
const PROCFS: &str = "proc";
const UDEV_DATA: &str = "udev/data";
const MULTIPATHD: &str = "multipathd";
/// Lists what was present but could not be read.
const UNREAD: &str = "unread.txt";
const README: &str = "README";

/// Reading a host takes much less time, unless a part of it hangs.
pub const READ_DEADLINE: Duration = Duration::from_secs(60);

/// The host to capture, and what to read of it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The places of its files.
    pub places: Places,
    /// The transports to read.
    pub parts: Parts,
    /// True to ask device mapper.
    pub device_mapper: bool,
    /// The client for multipathd; `None` to leave multipathd out.
    pub multipathd: Option<multipathd::DaemonClient>,
}

/// Reasons why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureFailure {
    /// No source of devices can be read.
    #[error("the multipath devices are unknown: no source can be read")]
    NoSource,
    /// A reader hangs, perhaps forever.
    #[error("the host could not be read within {deadline:?}; the last read was of {last}")]
    Stuck {
        /// The deadline that has passed.
        deadline: Duration,
        /// The place of the last read in the capture.
        last: String,
    },
    /// Names could not be replaced.
    #[error("cannot replace the names: {0}")]
    Names(#[from] names::Impossible),
    /// The result cannot be searched for names.
    #[error("cannot search for names: {0}")]
    Search(#[from] regex::Error),
    /// The capture would disclose a name.
    #[error("nothing was written: {place} would still contain the name {name:?}")]
    NameLeft {
        /// The place in the capture.
        place: String,
        /// The original name, which should have been replaced.
        name: String,
    },
    /// The capture would be too large to be replayed.
    #[error("nothing was written: {what} would have {bytes} bytes, but --path.capture reads at most {most}")]
    TooLarge {
        /// The file, or the whole capture.
        what: &'static str,
        /// The size that it would have, in bytes.
        bytes: u64,
        /// The largest size that `--path.capture` reads, in bytes.
        most: u64,
    },
    /// The archive cannot be packed.
    #[error("cannot pack the capture: {0}")]
    Pack(#[from] io::Error),
}

/// Returns the places to read when a capture is replayed from the directory where it was unpacked.
///
/// # Errors
/// If the directory holds no capture, one that this version cannot read, or one with links that
/// lead outside.
pub fn places(directory: &Path) -> Result<Places, Error> {
    recorded::inspect(directory)?;
    recorded::read(directory)?;
    let place = |name| directory.join(name);
    Ok(Places {
        sysfs: place(SYSFS),
        procfs: place(PROCFS),
        udev_data: place(UDEV_DATA),
        capture: Some(directory.to_owned()),
    })
}

/// Returns the place of multipathd's replies in a capture.
pub fn replies(directory: &Path) -> PathBuf {
    directory.join(MULTIPATHD)
}

/// Makes a capture as a tar archive in gzip. It logs and leaves out what cannot be read; the
/// exporter will not find it in the capture either. `host_name` is another name to replace. Reading
/// takes at most `deadline`.
///
/// # Errors
/// See [`CaptureFailure`].
pub async fn take(host: Host, host_name: &str, deadline: Duration) -> Result<Vec<u8>, CaptureFailure> {
    let (replies, errors) = match &host.multipathd {
        Some(client) => client.record().await,
        None => Default::default(),
    };
    errors.iter().for_each(|error| missing(Source::Multipathd, error));
    let last = Arc::<Mutex<PathBuf>>::default();
    let reading = tokio::task::spawn_blocking({
        let last = Arc::clone(&last);
        move || read(&host, last)
    });
    let Ok(Ok((findings, found))) = tokio::time::timeout(deadline, reading).await else {
        let last = last.lock().unwrap_or_else(PoisonError::into_inner).display().to_string();
        return Err(CaptureFailure::Stuck { deadline, last });
    };
    if !found && replies.is_empty() {
        return Err(CaptureFailure::NoSource);
    }
    // For a large host this takes seconds.
    let host_name = host_name.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(&findings, &replies, &host_name));
    packing.await.map_err(io::Error::from)?
}

/// Packs the findings with all names replaced.
fn pack(findings: &Findings, replies: &[(&str, Vec<u8>)], host_name: &str) -> Result<Vec<u8>, CaptureFailure> {
    let mut scrub = Scrub::new(NameTable::new()?)?;
    scrub.names_also(host_name);
    for (place, node) in findings.tree.iter().filter(|(place, _)| place.ends_with("model")) {
        if let Node::File(model) = node {
            let vendor = findings.tree.get(&place.with_file_name("vendor"));
            scrub.model(model, if let Some(Node::File(vendor)) = vendor { vendor } else { &[] });
        }
    }
    // The first pass collects the names, the second one replaces them.
    entries(&mut scrub, findings, replies)?;
    scrub.begin_to_replace()?;
    let mut entries = entries(&mut scrub, findings, replies)?;
    entries.insert(0, ArchiveEntry { place: README.into(), content: EntryContent::File(readme().into()) });
    let kernel =
        entries.iter().find(|entry| entry.place == Path::new(recorded::FILE_NAME)).map_or(0, ArchiveEntry::bytes);
    let all = entries.iter().map(ArchiveEntry::bytes).sum();
    for (what, bytes, most) in
        [(recorded::FILE_NAME, kernel, recorded::MAX_KERNEL_BYTES), ("the capture", all, recorded::MAX_CAPTURE_BYTES)]
    {
        if bytes > most {
            return Err(CaptureFailure::TooLarge { what, bytes, most });
        }
    }
    let check = scrub.check();
    entries.iter().filter(|entry| entry.place != Path::new(README)).try_for_each(|entry| entry.check(&check))?;
    Ok(archive::pack(&entries)?)
}

fn missing(source: Source, error: &dyn std::fmt::Display) {
    warn!(source = source.as_str(), %error, "not in the capture");
}

/// Reads everything that an exporter with any options would read. Also returns true if it could
/// read any source of devices.
fn read(host: &Host, last: Arc<Mutex<PathBuf>>) -> (Findings, bool) {
    let places = &host.places;
    let roots =
        vec![(places.sysfs.clone(), SYSFS), (places.procfs.clone(), PROCFS), (places.udev_data.clone(), UDEV_DATA)];
    let everything = device_mapper::MapRequest { all: true, ..device_mapper::MapRequest::default() };
    let ((maps, block, transports), mut findings) = witness::record(roots, last, || {
        let maps = host.device_mapper.then(|| DeviceMapper::new(places).read(&everything));
        let told = maps.as_ref().and_then(|maps| maps.as_ref().ok()).map(told);
        // The readers read other files if they know the maps from device mapper. Read both ways.
        let ways = told.into_iter().map(Some).chain([None]);
        let block: Vec<_> = ways.map(|told| read_block(host, told)).collect();
        (maps, block, read_transports(host))
    });
    let mut found = block.iter().any(Result::is_ok);
    for unreadable in block.into_iter().take(1).chain([transports]) {
        match unreadable {
            Ok(unreadable) => unreadable.iter().for_each(|error| missing(Source::Sysfs, error)),
            Err(error) => missing(Source::Sysfs, &error),
        }
    }
    findings.kernel.format = recorded::FORMAT;
    match maps {
        Some(Ok(reading)) => {
            found = true;
            reading.unreadable.iter().for_each(|(_, error)| missing(Source::Dm, error));
            findings.kernel.device_mapper.get_or_insert_default();
        }
        Some(Err(error)) => {
            missing(Source::Dm, &error);
            let said = findings.kernel.device_mapper.get_or_insert_default();
            // Keep the words that could not be parsed: a reader of the capture wants to see them.
            if said.maps.is_empty() {
                said.error = Some(error.cause().to_owned());
            }
        }
        None => {}
    }
    (findings, found)
}

fn told(reading: &device_mapper::MapReading) -> Arc<[Told]> {
    reading.maps.iter().map(|map| Told { devno: map.devno, members: Some(map.members().collect()) }).collect()
}

/// Reads block devices and returns what could not be read of them.
fn read_block(host: &Host, told: Option<Arc<[Told]>>) -> Result<Vec<Error>, Error> {
    let mut block = BlockReader::new(host.places.clone());
    let request = |scope| block::BlockRequest { scope, told: told.clone(), ..block::BlockRequest::default() };
    let reading = block.read(&request(Scope::Everything))?;
    block.read(&request(Scope::States))?;
    Ok(reading.unreadable)
}

/// Reads sessions, ports and controllers and returns what could not be read of them.
fn read_transports(host: &Host) -> Result<Vec<Error>, Error> {
    let addresses = Addresses::read(host.places.capture.as_deref()).unwrap_or_default();
    let request = transports::TransportRequest { anew: true, addresses: addresses.into(), ..Default::default() };
    let reading = transports::TransportReader::new(&host.places.sysfs, host.parts).read(&request)?;
    Ok(reading.unreadable)
}

/// Returns all entries of the archive but the README.
fn entries(
    scrub: &mut Scrub,
    findings: &Findings,
    replies: &[(&str, Vec<u8>)],
) -> Result<Vec<ArchiveEntry>, CaptureFailure> {
    let file = |place: PathBuf, content| ArchiveEntry { place, content: EntryContent::File(content) };
    let mut kernel = serde_json::to_vec_pretty(&scrub.kernel(&findings.kernel)).map_err(io::Error::from)?;
    kernel.push(b'\n');
    let mut entries = vec![file(recorded::FILE_NAME.into(), kernel)];
    if !findings.unread.is_empty() {
        let lines = findings.unread.iter();
        let text: String = lines.map(|(place, why)| format!("{}: {}\n", scrub.path(place).display(), why)).collect();
        entries.push(file(UNREAD.into(), text.into()));
    }
    entries
        .extend(replies.iter().map(|(name, reply)| file(Path::new(MULTIPATHD).join(name), scrub.reply(name, reply))));
    entries.extend(findings.tree.iter().map(|(place, node)| ArchiveEntry {
        place: scrub.path(place),
        content: match node {
            Node::File(content) => EntryContent::File(scrub.file(place, content)),
            Node::Link(target) => EntryContent::Link(scrub.target(place.parent().unwrap_or(place), target)),
            Node::Directory => EntryContent::Directory,
        },
    }));
    Ok(entries)
}

impl ArchiveEntry {
    fn bytes(&self) -> u64 {
        if let EntryContent::File(content) = &self.content { content.len() as u64 } else { 0 }
    }

    fn check(&self, check: &Check) -> Result<(), CaptureFailure> {
        let place = self.place.display().to_string();
        let left = match &self.content {
            EntryContent::File(content) => check.find(content),
            EntryContent::Link(target) => check.find(target.as_os_str().as_encoded_bytes()),
            EntryContent::Directory => None,
        };
        match left.or_else(|| check.find(place.as_bytes())) {
            Some(name) => Err(CaptureFailure::NameLeft { name, place }),
            None => Ok(()),
        }
    }
}

fn readme() -> String {
    format!(
        "A capture of a host's multipath storage, made by multipath_exporter {version}, format {format}.\n\
         \n\
         It holds what the exporter reads on this host, and nothing else. Random names of the same form replace these:\n\
         serial numbers, WWIDs, WWNs, IQNs, NQNs, UUIDs, aliases, host names, IP addresses, MAC addresses, and names that\n\
         an administrator gave to network interfaces. A name has the same replacement everywhere, and nobody can turn it\n\
         back. Vendors, models, states, numbers and the kernel's own names are unchanged, unless a vendor or model\n\
         contains a name.\n\
         \n\
         One thing shows through. Many names may begin alike, and have all or nearly all characters of a kind in one\n\
         place. Then these characters are unchanged. Examples are the initials of 26 names from alpha to zulu, and the\n\
         last digits of a series from db0000 to db1999.\n\
         \n\
         To run the exporter on it: tar xzf FILE -C DIRECTORY, multipath_exporter --path.capture DIRECTORY --oneshot\n\
         \n\
         It shows no iSCSI bonds, because it holds no configuration. It holds only those addresses of the host that\n\
         connections come from.\n\
         \n\
         kernel.json     the answers of device mapper, and the interfaces that have the addresses of connections\n\
         multipathd/     the replies of multipathd\n\
         sys/ proc/ udev/    files and links; a file that could not be read is a directory here\n\
         unread.txt      what could not be read, and why\n",
        version = env!("CARGO_PKG_VERSION"),
        format = recorded::FORMAT,
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::{CWD, FileType, Mode};

    use super::*;

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let long = |bytes: u64| "1".repeat(bytes as usize);
        let mut kernel = Findings::default();
        kernel.kernel.nodes.insert("/dev/sda".to_owned(), long(recorded::MAX_KERNEL_BYTES));
        let mut all = Findings::default();
        all.tree.insert("sys/block/sda/size".into(), Node::File(long(recorded::MAX_CAPTURE_BYTES).into()));
        for (findings, what) in [(kernel, "kernel.json would have 167"), (all, "the capture would have 671")] {
            let failure = pack(&findings, &[], "").unwrap_err().to_string();
            assert!(failure.contains(what), "{failure}");
        }
        assert!(pack(&Findings::default(), &[], "").is_ok());
    }

    #[test]
    fn a_file_that_never_answers_is_not_awaited_for_good() {
        let tree = tempfile::tempdir().unwrap();
        let place = |name: &str| tree.path().join(name);
        ["sys/block", "sys/class/nvme", "proc/1"].iter().for_each(|name| fs::create_dir_all(place(name)).unwrap());
        let mounts = place("proc/1/mountinfo");
        rustix::fs::mknodat(CWD, &mounts, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let places = Places { sysfs: place("sys"), procfs: place("proc"), udev_data: place("udev"), capture: None };
        let parts = Parts { nvme: true, iscsi: false, fibre_channel: false };
        let host = Host { places, parts, device_mapper: false, multipathd: None };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let failure = runtime.block_on(take(host, "", Duration::from_millis(200))).unwrap_err().to_string();
        runtime.shutdown_background();
        assert!(failure.contains("within 200ms") && failure.contains("sys/block"), "{failure}");
    }
}
