//! Disks in sysfs: the members of multipath maps.
//!
//! ```text
//! …/6:0:0:1/block/sdb/          a disk's directory: its path shows SCSI address and way, or ports; dev, size, ro, stat
//! …/6:0:0:1/block/sdb/device/   the SCSI device: state, access_state, vendor, model, rev, wwid, ioerr_cnt, iotmo_cnt
//! ```
//!
//! Documented in `Documentation/ABI/stable/sysfs-block` and `testing/sysfs-class-scsi_device` of
//! the kernel.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::ports;
use super::udev_db::UdevDb;
use crate::source::files::{Anchors, Attribute, open_in_sysfs, or_last};
use crate::source::transports::{Way, nvme};
use crate::source::{Error, Stall};
use crate::topology::luns::scsi_target;
use crate::topology::{DevNo, Ports, Transport};

/// SCSI INQUIRY strings without padding; empty if there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) vendor: Arc<str>,
    pub(crate) product: Arc<str>,
    pub(crate) revision: Arc<str>,
}

/// A disk, as its files in sysfs describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    pub(crate) devno: DevNo,
    /// The kernel name, `sdb`.
    pub(crate) name: Arc<str>,
    /// SCSI host, channel, target and LUN, `6:0:0:1`; empty if the disk is not a SCSI device.
    pub(crate) hctl: Arc<str>,
    /// The transport, as far as the disk's directory shows it.
    pub(crate) transport: Transport,
    /// The session, remote port or controller that the I/O goes through, if the exporter reads it.
    pub(crate) way: Option<Way>,
    /// The ports of the disk, if its directory shows them and it has no way.
    pub(crate) ports: Ports,
    pub(crate) model: Model,
    /// The identity, as udev and the SCSI layer know it.
    pub(crate) identity: DiskIdentity,
    pub(crate) size_bytes: Option<u64>,
    pub(crate) read_only: Option<bool>,
    /// The error counts of its I/O.
    pub(crate) io: IoCounts,
    /// The time for which the same I/O had been in flight without any completion, at the last
    /// reading of the whole disk.
    pub(crate) stalled: Option<Duration>,
    pub(crate) states: States,
}

/// The identity of a disk. Either of the two values may be newer than the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskIdentity {
    /// udev's identity, which is the one that multipath gives to maps.
    pub(crate) udev: Option<Arc<str>>,
    /// The kernel's identity: the SCSI layer's (`naa.600…`) as of its last inquiry, or the NVMe
    /// layer's (`uuid.…`).
    pub(crate) kernel: Option<Arc<str>>,
}

/// The errors that a SCSI device has counted since it appeared; `None` if the kernel does not count
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IoCounts {
    /// Requests that ended with an error.
    pub(crate) errors: Option<u64>,
    /// Requests that timed out. Kernels before 6.0 do not count them.
    pub(crate) timeouts: Option<u64>,
}

/// The states of a SCSI device, in the kernel's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct States {
    /// `running`, `offline`, …; `None` if the disk is gone or not a SCSI device.
    pub(crate) device: Option<Arc<str>>,
    /// The ALUA state, if a hardware handler is attached.
    pub(crate) access: Option<Arc<str>>,
    /// True if I/O waits in this state of `device`, and waited at the reading before. A port that
    /// is back within seconds is not a fault.
    pub(crate) stays_blocked: bool,
    /// True if the disk has no state to read.
    pub(crate) absent: bool,
}

/// A disk as last read, and the places of its files.
#[derive(Debug)]
pub(crate) struct KnownDisk {
    /// The disk's directory, relative to the root.
    place: PathBuf,
    scsi: Option<ScsiDevice>,
    /// The file of the ALUA state.
    alua: Option<Alua>,
    /// The progress of its I/O, since some was in flight.
    stall: Stall,
    pub(crate) disk: Arc<Disk>,
}

/// The open file of an ALUA state, and a reference that counts towards the limit of open files.
#[derive(Debug)]
struct Alua(OwnedFd, #[expect(dead_code, reason = "its reference count limits the open files")] Arc<()>);

/// The place of a SCSI disk's own device. It avoids the link `device`, and begins at an open
/// directory, because this place is read all the time.
#[derive(Debug)]
struct ScsiDevice {
    /// The directory of the session, port or host.
    anchor: Arc<Path>,
    /// The rest of the path, `target6:0:0/6:0:0:1`.
    below: String,
}

/// Reads the files of disks.
#[derive(Debug)]
pub(crate) struct Disks {
    root: PathBuf,
    anchors: Anchors,
    file: Attribute,
    /// Each open file of an ALUA state holds one reference.
    open: Arc<()>,
    max_open: usize,
}

/// The limit of open ALUA files. The kernel needs about 5 KiB for each open file of sysfs.
const MAX_OPEN_ALUA_FILES: u64 = 4096;

impl Disks {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        // Clients and other readers need files, too.
        let files = getrlimit(Resource::Nofile).current.map_or(MAX_OPEN_ALUA_FILES, |files| files / 8);
        Disks {
            root: root.to_owned(),
            anchors: Anchors::default(),
            file: Attribute::default(),
            open: Arc::default(),
            max_open: files.min(MAX_OPEN_ALUA_FILES) as usize,
        }
    }

    /// Closes the directories that were open for the files of many disks.
    pub(crate) fn end(&mut self) {
        self.anchors.close();
    }

    /// Reads everything about the disk of this number in this directory. `last` is the last state
    /// of the disk of this number. Values that cannot be read stay as they are there.
    pub(crate) fn read(
        &mut self,
        devno: DevNo,
        place: &Path,
        last: Option<KnownDisk>,
        identities: &UdevDb,
        unreadable: &mut Vec<Error>,
    ) -> KnownDisk {
        let mut known = last.filter(|known| known.place == place).unwrap_or_else(|| KnownDisk {
            scsi: scsi_device(&self.root, place),
            alua: None,
            stall: Stall::default(),
            disk: Arc::new(Disk::at(devno, place)),
            place: place.to_owned(),
        });
        let last = &*known.disk;
        let mut device = self.files(&known);
        let states = or_last(device.states(), Some(&last.states), unreadable);
        let kernel = or_last(device.wwid(), Some(&last.identity.kernel), unreadable);
        let io = IoCounts {
            errors: or_last(device.count("ioerr_cnt"), Some(&last.io.errors), unreadable),
            timeouts: or_last(device.count("iotmo_cnt"), Some(&last.io.timeouts), unreadable),
        };
        let mut word = |name, last: &Arc<str>| {
            let word = device.text(name, &Some(Arc::clone(last))).map(Option::unwrap_or_default);
            or_last(word, Some(last), unreadable)
        };
        let model = Model {
            vendor: word("vendor", &last.model.vendor),
            product: word("model", &last.model.product),
            revision: word("rev", &last.model.revision),
        };
        let directory = self.root.join(place);
        let size_bytes = self.file.size_bytes(&directory);
        let read_only = self.file.flag(&directory, "ro");
        let stall = self.file.stat(&directory).map(|io| known.stall.after(io.as_ref()));
        let stall = or_last(stall, Some(&known.stall), unreadable);
        let disk = Disk {
            ports: ports::read(&self.root, place, &last.ports, &mut self.file, unreadable),
            model,
            identity: DiskIdentity { udev: identities.wwid(devno, &last.name).cloned(), kernel },
            size_bytes: or_last(size_bytes, Some(&last.size_bytes), unreadable),
            read_only: or_last(read_only, Some(&last.read_only), unreadable),
            io,
            stalled: stall.duration(),
            states,
            ..last.clone()
        };
        known.stall = stall;
        known.replace(disk);
        known
    }

    /// Reads the states of a known disk, and looks up its identity in udev's database.
    pub(crate) fn read_states(&mut self, known: &mut KnownDisk, identities: &UdevDb, unreadable: &mut Vec<Error>) {
        let disk = &*known.disk;
        let states = or_last(self.files(known).states(), Some(&disk.states), unreadable);
        let udev = identities.wwid(disk.devno, &disk.name);
        if disk.states != states || disk.identity.udev.as_ref() != udev {
            let identity = DiskIdentity { udev: udev.cloned(), kernel: disk.identity.kernel.clone() };
            known.replace(Disk { states, identity, ..disk.clone() });
        }
    }

    /// Checks if the ALUA state of a known disk (which changes without an event) and its identity
    /// in udev's database are unchanged. Reads the states if not.
    pub(crate) fn read_access(&mut self, known: &mut KnownDisk, identities: &UdevDb, unreadable: &mut Vec<Error>) {
        let disk = &*known.disk;
        let is_same =
            disk.states.access.as_deref().is_none_or(|access| {
                known.alua.as_ref().is_some_and(|Alua(open, _)| self.file.still_says(open, access))
            });
        if is_same && identities.wwid(disk.devno, &disk.name) == disk.identity.udev.as_ref() {
            return;
        }
        known.alua = None;
        self.read_states(known, identities, unreadable);
        if known.disk.states.access.is_some() && Arc::strong_count(&self.open) <= self.max_open {
            let open =
                known.scsi.as_ref().and_then(|scsi| open_in_sysfs(&scsi.anchor.join(&scsi.below).join("access_state")));
            known.alua = open.map(|open| Alua(open, Arc::clone(&self.open)));
        }
    }

    fn files<'a>(&'a mut self, known: &'a KnownDisk) -> ScsiFiles<'a> {
        ScsiFiles { root: &self.root, file: &mut self.file, anchors: &mut self.anchors, known }
    }
}

impl KnownDisk {
    /// Keeps the allocation of a disk that did not change. The monitor rebuilds only devices whose
    /// disks have another allocation.
    fn replace(&mut self, disk: Disk) {
        if *self.disk != disk {
            self.disk = Arc::new(disk);
        }
    }
}

/// The files of the disk's own device, which are read all the time.
struct ScsiFiles<'a> {
    root: &'a Path,
    file: &'a mut Attribute,
    anchors: &'a mut Anchors,
    known: &'a KnownDisk,
}

impl ScsiFiles<'_> {
    fn states(&mut self) -> Result<States, Error> {
        let last = &self.known.disk.states;
        match self.text("state", &last.device)? {
            None => Ok(States { absent: true, ..States::default() }),
            device => {
                let access = self.text("access_state", &last.access)?;
                let stays_blocked = is_blocked(device.as_deref()) && is_blocked(last.device.as_deref());
                Ok(States { device, access, stays_blocked, absent: false })
            }
        }
    }

    fn wwid(&mut self) -> Result<Option<Arc<str>>, Error> {
        match self.known.disk.way {
            // A controller may have several namespaces, each with a WWID of its own.
            Some(Way::Nvme(_)) => Ok(self.file.text(&self.root.join(&self.known.place), "wwid")?.map(Arc::from)),
            _ => self.text("wwid", &self.known.disk.identity.kernel),
        }
    }

    /// Reads a number that the kernel prints as `0x1a`.
    fn count(&mut self, name: &str) -> Result<Option<u64>, Error> {
        let Some(text) = self.text(name, &None)? else { return Ok(None) };
        let file = || self.root.join(&self.known.place).join("device").join(name);
        let unexpected = || Error::new(file().display(), format!("found {text:?}, expected a hexadecimal number"));
        counter(&text).ok_or_else(unexpected).map(Some)
    }

    /// Reads a file's text. Returns the last allocation if the text did not change, which is the
    /// usual case.
    fn text(&mut self, name: &str, last: &Option<Arc<str>>) -> Result<Option<Arc<str>>, Error> {
        let text = match &self.known.scsi {
            Some(ScsiDevice { anchor, below }) => match self.anchors.get(anchor)? {
                Some(open) => self.file.text_below(open, anchor, &[below, name])?,
                None => None,
            },
            None => self.file.text(&self.root.join(&self.known.place).join("device"), name)?,
        };
        Ok(match (text, last) {
            (Some(text), Some(last)) if *text == **last => Some(Arc::clone(last)),
            (text, _) => text.map(Arc::from),
        })
    }
}

impl Disk {
    /// Returns SCSI host, channel and target, `6:0:0`. `None` if the disk is not a SCSI device.
    pub(crate) fn target(&self) -> Option<&str> {
        scsi_target(&self.hctl)
    }

    /// Returns a disk of which only the directory is known.
    pub(crate) fn at(devno: DevNo, place: &Path) -> Self {
        Disk {
            devno,
            name: place.file_name().unwrap_or_default().to_string_lossy().into(),
            hctl: hctl_of(place).into(),
            transport: transport_of(place),
            way: way_of(place),
            ports: Ports::default(),
            model: Model::default(),
            identity: DiskIdentity::default(),
            size_bytes: None,
            read_only: None,
            io: IoCounts::default(),
            stalled: None,
            states: States::default(),
        }
    }
}

/// Returns true if I/O to a SCSI device in this state waits (`sdev_states` in
/// `drivers/scsi/scsi_sysfs.c`).
fn is_blocked(state: Option<&str>) -> bool {
    matches!(state, Some("blocked" | "created-blocked" | "quiesce"))
}

/// Parses a counter of `show_iostat_…` in `drivers/scsi/scsi_sysfs.c`. The counter is a signed
/// number of 32 bits. From the middle of its range on, the kernel prints it as a negative number of
/// 64 bits, whose lower half is still the count.
fn counter(text: &str) -> Option<u64> {
    const NEGATIVE: u64 = i32::MIN as i64 as u64;
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    match u64::from_str_radix(digits, 16).ok()? {
        count @ NEGATIVE.. => Some(count & u64::from(u32::MAX)),
        count => i64::try_from(count).is_ok().then_some(count),
    }
}

/// Returns the place of the SCSI device in which `…/target6:0:0/6:0:0:1/block/sdb` lies.
fn scsi_device(root: &Path, place: &Path) -> Option<ScsiDevice> {
    let device = place.parent().filter(|block| block.ends_with("block"))?.parent()?;
    let (hctl, target) = (device.file_name()?.to_str()?, device.parent()?);
    let anchor = target.parent().filter(|_| hctl == hctl_of(place))?;
    let below = format!("{}/{hctl}", target.file_name()?.to_str()?);
    Some(ScsiDevice { anchor: root.join(anchor).into(), below })
}

/// Returns the names of the directories above the disk's own. They show its SCSI address and the
/// session, port or controller.
fn lineage(place: &Path) -> impl Iterator<Item = &str> {
    place.components().filter_map(|part| part.as_os_str().to_str())
}

fn hctl_of(place: &Path) -> &str {
    lineage(place).filter(|part| is_scsi_address(part)).last().unwrap_or_default()
}

/// Returns true for SCSI host, channel, target and LUN: `6:0:0:1`.
pub(crate) fn is_scsi_address(part: &str) -> bool {
    part.split(':').count() == 4 && part.bytes().all(|byte| byte == b':' || byte.is_ascii_digit())
}

/// Returns true for a kernel name of this kind: `rport-6:0-1`, `end_device-0:2:139`.
pub(crate) fn is_numbered(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

fn way_of(place: &Path) -> Option<Way> {
    lineage(place).find_map(|part| match part {
        session if is_numbered(session, "session") => Some(Way::Iscsi(session.into())),
        port if is_numbered(port, "rport-") => Some(Way::FibreChannel(port.into())),
        controller if nvme::is_controller(controller) => Some(Way::Nvme(controller.into())),
        _ => None,
    })
}

fn transport_of(place: &Path) -> Transport {
    match way_of(place) {
        Some(Way::Iscsi(_)) => Transport::Iscsi,
        Some(Way::FibreChannel(_)) => Transport::Fc,
        // The controller shows its transport.
        Some(Way::Nvme(_)) => Transport::Unknown,
        None => ports::transport(place),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_counters_continue_when_printed_as_negative() {
        for (text, expected) in [
            ("0x0", Some(0)),
            ("0x1a", Some(26)),
            ("0x7fffffff", Some(0x7fff_ffff)),
            ("0x80000000", Some(0x8000_0000)),
            ("0xffffffff80000000", Some(0x8000_0000)),
            ("0xffffffffffffffff", Some(0xffff_ffff)),
            ("0x100000000", Some(0x1_0000_0000)),
            ("0xffffffff7fffffff", None),
            ("0x8000000000000000", None),
            ("0x10000000000000000", None),
            ("0x", None),
            ("0x-1", None),
            ("0x+1", None),
            ("-1", None),
            ("26", None),
            ("", None),
        ] {
            assert_eq!(counter(text), expected, "{text:?}");
        }
    }
}
