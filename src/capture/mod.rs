//! A capture: what the readers find on this host, without its names, so that somebody else can run the exporter on it.
//!
//! ```text
//! take     every reader reads all that it ever would; source::witness takes down what it is given
//! scrub    which part of a file is a name                                               scrub.rs
//! names    what each name becomes: the same everywhere, of the same form, and random    names.rs
//! check    none of the names is left in anything that is to be written                  check.rs
//! archive  tar, gzip; the file is there as a whole or not at all                        archive.rs
//! ```
//!
//! All names are collected before the first is replaced: only then are new ones known to be none of the old ones, and in
//! the old ones' order. So the text is gone through twice, by the same code.

mod archive;
mod check;
mod names;
mod scrub;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use tracing::warn;

pub use archive::write;

use crate::source::device_mapper::{self, DeviceMapper};
use crate::source::health::Source;
use crate::source::sysfs::{Outline, Parts, Places, Request, Scope, Sysfs};
use crate::source::witness::{self, Findings, Node};
use crate::source::{Error, multipathd, recorded};
use archive::{Content, Entry};
use check::Check;
use names::Names;
use scrub::Scrub;

/// What lies where in a capture.
const SYSFS: &str = "sys";
const PROCFS: &str = "proc";
const UDEV_DATA: &str = "udev/data";
const MULTIPATHD: &str = "multipathd";
/// What was there and could not be read.
const UNREAD: &str = "unread.txt";
const README: &str = "README";

/// What a capture is made of.
#[derive(Debug)]
pub struct Host {
    /// Where its files are.
    pub places: Places,
    /// Which parts of it to read.
    pub parts: Parts,
    /// Ask device mapper.
    pub device_mapper: bool,
    /// Ask multipathd.
    pub multipathd: Option<multipathd::Client>,
}

/// Why there is no capture.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No source says which devices there are.
    #[error("no source says which devices there are")]
    NoSource,
    /// Names could not be replaced.
    #[error("cannot replace the names: {0}")]
    Names(#[from] names::Impossible),
    /// They cannot be looked for.
    #[error("cannot look for the names: {0}")]
    Search(#[from] regex::Error),
    /// A name would have been given away.
    #[error("nothing was written: {place} would still hold {name:?}, which is a name")]
    NameLeft {
        /// Where, in the capture.
        place: String,
        /// What.
        name: String,
    },
    /// It cannot be packed.
    #[error("cannot pack the capture: {0}")]
    Pack(#[from] io::Error),
}

/// Where to read on the host that a capture was made of, from where it was unpacked.
///
/// # Errors
/// If the directory holds no capture, or none that this version can read.
pub fn places(directory: &Path) -> Result<Places, Error> {
    recorded::read(directory)?;
    let place = |name| directory.join(name);
    Ok(Places {
        sysfs: place(SYSFS),
        procfs: place(PROCFS),
        udev_data: place(UDEV_DATA),
        capture: Some(directory.to_owned()),
    })
}

/// Where the replies of its multipathd are.
pub fn replies(directory: &Path) -> PathBuf {
    directory.join(MULTIPATHD)
}

/// Makes a capture, to be unpacked by `tar xz`. What of the host cannot be read is logged and left out, and the exporter
/// will not find it in the capture, either. `host_name` is another name that must not be in it.
///
/// # Errors
/// See [`Failure`].
pub async fn take(host: &Host, host_name: &str) -> Result<Vec<u8>, Failure> {
    let (replies, errors) = match &host.multipathd {
        Some(client) => client.record().await,
        None => Default::default(),
    };
    errors.iter().for_each(|error| missing(Source::Multipathd, error));
    // Nothing else is to be done meanwhile.
    let (findings, found) = read(host);
    if !found && replies.is_empty() {
        return Err(Failure::NoSource);
    }
    let mut scrub = Scrub::new(Names::new()?)?;
    // Once to collect the names, and once to replace them.
    entries(&mut scrub, &findings, &replies)?;
    scrub.begin_to_replace()?;
    let mut entries = entries(&mut scrub, &findings, &replies)?;
    scrub.names_also(host_name);
    let check = Check::new(scrub.old_names(), &scrub.plain);
    entries.iter().try_for_each(|entry| entry.check(&check))?;
    entries.insert(0, Entry { place: README.into(), content: Content::File(readme().into()) });
    Ok(archive::pack(&entries)?)
}

fn missing(source: Source, error: &dyn std::fmt::Display) {
    warn!(source = source.as_str(), %error, "not in the capture");
}

/// Reads all that is read by any exporter, whatever its flags, and says whether it found out anything.
fn read(host: &Host) -> (Findings, bool) {
    let places = &host.places;
    let roots =
        vec![(places.sysfs.clone(), SYSFS), (places.procfs.clone(), PROCFS), (places.udev_data.clone(), UDEV_DATA)];
    let ((maps, sysfs), mut findings) = witness::record(roots, || {
        let maps = host.device_mapper.then(|| DeviceMapper::new(places).read(&HashSet::new(), true));
        let outlines = maps.as_ref().and_then(|maps| maps.as_ref().ok()).map(outlines);
        // With the kernel's word on the maps, and without.
        let ways = outlines.into_iter().map(Some).chain([None]);
        let sysfs: Vec<_> = ways.map(|outlines| read_sysfs(host, outlines)).collect();
        (maps, sysfs)
    });
    let mut found = sysfs.iter().any(Result::is_ok);
    match sysfs.into_iter().next() {
        Some(Ok(unreadable)) => unreadable.iter().for_each(|error| missing(Source::Sysfs, error)),
        Some(Err(error)) => missing(Source::Sysfs, &error),
        None => {}
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
            findings.kernel.device_mapper.get_or_insert_default().error = Some(error.to_string());
        }
        None => {}
    }
    (findings, found)
}

fn outlines(reading: &device_mapper::Reading) -> Vec<Outline> {
    let maps = reading.maps.iter();
    maps.map(|map| Outline { wwid: map.wwid.clone(), devno: map.devno, members: map.members().collect() }).collect()
}

/// What of it cannot be read.
fn read_sysfs(host: &Host, outlines: Option<Vec<Outline>>) -> Result<Vec<Error>, Error> {
    let mut sysfs = Sysfs::new(host.places.clone(), host.parts);
    let request = |scope| Request { scope, outlines: outlines.clone().map(Into::into), ..Request::default() };
    let reading = sysfs.read(&request(Scope::Everything))?;
    sysfs.read(&request(Scope::States))?;
    Ok(reading.unreadable)
}

/// All that goes into the archive.
fn entries(scrub: &mut Scrub, findings: &Findings, replies: &[(&str, Vec<u8>)]) -> Result<Vec<Entry>, Failure> {
    let file = |place: PathBuf, content| Entry { place, content: Content::File(content) };
    let mut kernel = serde_json::to_vec_pretty(&scrub.kernel(&findings.kernel)).map_err(io::Error::from)?;
    kernel.push(b'\n');
    let mut entries = vec![file(recorded::FILE.into(), kernel)];
    if !findings.unread.is_empty() {
        let lines = findings.unread.iter();
        let text: String =
            lines.map(|(place, why)| format!("{}: {}\n", scrub.path(place).display(), scrub.keep(why))).collect();
        entries.push(file(UNREAD.into(), text.into()));
    }
    entries
        .extend(replies.iter().map(|(name, reply)| file(Path::new(MULTIPATHD).join(name), scrub.reply(name, reply))));
    entries.extend(findings.tree.iter().map(|(place, node)| Entry {
        place: scrub.path(place),
        content: match node {
            Node::File(content) => Content::File(scrub.file(place, content)),
            Node::Link(target) => Content::Link(scrub.path(target)),
            Node::Directory => Content::Directory,
        },
    }));
    Ok(entries)
}

impl Entry {
    fn check(&self, check: &Check) -> Result<(), Failure> {
        let place = self.place.display().to_string();
        let left = match &self.content {
            Content::File(content) => check.find(content),
            Content::Link(target) => check.find(target.as_os_str().as_encoded_bytes()),
            Content::Directory => None,
        };
        match left.or_else(|| check.find(place.as_bytes())) {
            Some(name) => Err(Failure::NameLeft { name, place }),
            None => Ok(()),
        }
    }
}

fn readme() -> String {
    format!(
        "A capture of a host's multipath storage, made by multipath_exporter {version}, format {format}.\n\
         \n\
         It holds what the exporter reads on such a host, and nothing else. Serial numbers, WWIDs, WWNs, IQNs, NQNs, \n\
         UUIDs, aliases, host names, IP and MAC addresses were replaced by random ones, the same everywhere; nobody can \n\
         turn them back. Vendors, models, states, numbers and the kernel's own names are as they were.\n\
         \n\
         To run the exporter on it: tar xzf FILE -C DIRECTORY, multipath_exporter --path.capture DIRECTORY --oneshot\n\
         \n\
         kernel.json     what device mapper's ioctls gave, and the interfaces that have the addresses of connections\n\
         multipathd/     its replies\n\
         sys/ proc/ udev/    files and links; a file that could not be read is a directory here\n\
         unread.txt      what could not be read, and why\n",
        version = env!("CARGO_PKG_VERSION"),
        format = recorded::FORMAT,
    )
}
