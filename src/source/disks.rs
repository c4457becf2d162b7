//! Disks in sysfs: the members of multipath maps.
//!
//! ```text
//! dev/block/8:16          a link to the disk's directory, by its number
//! …/6:0:0:1/block/sdb/    that directory: its path tells SCSI address and transport; dev, size, ro
//! …/6:0:0:1/block/sdb/device/   the SCSI device: state, access_state, vendor, model, rev, wwid
//! ```
//!
//! Documented in `Documentation/ABI/stable/sysfs-block` and `testing/sysfs-class-scsi_device` of the kernel. Opening files is what a
//! reading costs, so a file is only opened where nobody tells that it changed: see [`Disks::begin`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Anchors, Attribute, Entry, follow, or_last, or_note};
use super::sysfs::{Request, Scope, Way, Ways};
use super::udev_db::UdevDb;
use super::{Error, nvme};
use crate::topology::{DevNo, Ports, Transport};

/// SCSI INQUIRY strings, padding trimmed, empty where there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Vendor.
    pub vendor: Arc<str>,
    /// Product.
    pub product: Arc<str>,
    /// Product revision.
    pub revision: Arc<str>,
}

/// A member's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its device number.
    pub devno: DevNo,
    /// Its kernel name, `sdb`.
    pub name: Arc<str>,
    /// SCSI host, channel, target and LUN, `6:0:0:1`; empty where it is no SCSI device.
    pub hctl: Arc<str>,
    /// What carries its I/O.
    pub transport: Transport,
    /// What it goes over. Kept when that falls silent.
    pub ports: Ports,
    /// What it says it is.
    pub model: Model,
    /// Who it says it is, as udev and the SCSI layer know it.
    pub identity: Identity,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Write-protected.
    pub read_only: Option<bool>,
    /// How it fares.
    pub states: States,
}

/// Who a disk says it is. Neither source is always ahead of the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// udev's word, which is how multipath names maps.
    pub udev: Option<Arc<str>>,
    /// The kernel's word: the SCSI layer's (`naa.600…`) as of its last look at the disk, or the NVMe layer's (`uuid.…`).
    pub kernel: Option<Arc<str>>,
}

/// States of a SCSI device, in the kernel's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct States {
    /// `running`, `offline`, …; `None` where it is no SCSI device, or is gone.
    pub device: Option<Arc<str>>,
    /// ALUA state, where a hardware handler is attached.
    pub access: Option<Arc<str>>,
    /// There is none to be read.
    pub absent: bool,
}

/// What a reading of disks rests on besides their own files, and where it notes what could not be read.
#[derive(Debug)]
pub struct Context<'a> {
    /// All block devices, in a reading of everything.
    pub block: &'a [Entry],
    /// What they go over, read just before.
    pub ways: &'a Ways,
    /// Who udev says they are.
    pub identities: &'a UdevDb,
    /// What exists and could not be read.
    pub unreadable: &'a mut Vec<Error>,
}

/// Reads disks and remembers them.
#[derive(Debug)]
pub struct Disks {
    root: PathBuf,
    known: HashMap<DevNo, Known>,
    numbers: HashMap<PathBuf, DevNo>,
    /// Counts the readings. Maps may share members, so a disk is read once in each.
    reading: u64,
    /// Counts those of everything.
    resyncs: u64,
    /// States have been read by themselves since the last reading of everything.
    states_read: bool,
    /// The reading under way is one of everything.
    everything: bool,
    /// The reading under way leaves states as they are.
    leave_states: bool,
    anchors: Anchors,
    file: Attribute,
}

#[derive(Debug)]
struct Known {
    /// Its directory, relative to the root.
    place: PathBuf,
    scsi: Option<ScsiDevice>,
    way: Option<Way>,
    disk: Arc<Disk>,
    /// The last reading it was read in.
    read: u64,
    /// What does not change without an event has been read since the last one.
    fresh: bool,
}

/// Where a SCSI disk's own device lies: neither by way of a link nor all the way down, as it is read all the time.
#[derive(Debug)]
struct ScsiDevice {
    /// The directory of its session, port or host.
    anchor: Arc<Path>,
    /// `target6:0:0/6:0:0:1`
    below: String,
}

/// In how many readings of everything each thing is read whole though no event has told of it: that an array was updated
/// the kernel tells nobody, and in a container it may tell us of nothing.
const TURNS: u64 = 10;

/// Whose turn it is in a reading.
#[derive(Clone, Copy, Debug)]
pub struct Turn(Option<u64>);

impl Turn {
    /// Whether it is that of what has this number.
    pub fn is_of(self, number: u32) -> bool {
        self.0 == Some(u64::from(number) % TURNS)
    }
}

impl Disks {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        Disks {
            root: root.to_owned(),
            known: HashMap::new(),
            numbers: HashMap::new(),
            reading: 0,
            resyncs: 0,
            states_read: false,
            everything: false,
            leave_states: false,
            anchors: Anchors::default(),
            file: Attribute::default(),
        }
    }

    /// Begins a reading, and gives whose turn it is in it. States are left out if they have been read by themselves since
    /// the last reading of everything.
    pub fn begin(&mut self, request: &Request) -> Turn {
        self.reading += 1;
        self.everything = request.scope == Scope::Everything;
        let turn = Turn(self.everything.then_some(self.resyncs % TURNS));
        self.resyncs += u64::from(self.everything);
        self.leave_states = self.everything && self.states_read;
        self.states_read = request.scope == Scope::States || self.states_read && !self.everything;
        for (devno, known) in &mut self.known {
            // The numbers of whole disks are sixteen apart.
            let its_turn = turn.is_of(devno.major + devno.minor / 16 + devno.minor % 16);
            known.fresh &= !request.told(*devno) && !its_turn;
        }
        turn
    }

    /// Ends it. A disk that a reading of everything did not come across is forgotten.
    pub fn end(&mut self) {
        if self.everything {
            self.known.retain(|_, known| known.read == self.reading);
            self.numbers.retain(|place, devno| self.known.get(devno).is_some_and(|known| known.place == *place));
        }
        self.anchors.close();
    }

    /// Reads all known disks.
    pub fn read_known(&mut self, context: &mut Context<'_>) {
        let places: Vec<_> = self.known.iter().map(|(devno, known)| (*devno, known.place.clone())).collect();
        for (devno, place) in places {
            self.disk(devno, &place, context);
        }
    }

    /// The disk as it is known now.
    pub fn now(&self, disk: &Arc<Disk>) -> Arc<Disk> {
        self.known.get(&disk.devno).map_or_else(|| Arc::clone(disk), |known| Arc::clone(&known.disk))
    }

    /// The disk of this number; `None` if it is gone.
    pub fn numbered(&mut self, devno: DevNo, context: &mut Context<'_>) -> Option<Arc<Disk>> {
        if let Some(disk) = self.fresh_disk(devno, context).filter(|disk| !disk.states.absent) {
            return Some(disk);
        }
        let link = self.root.join("dev/block").join(devno.to_string());
        let place = or_note(follow(&link, Path::new("dev/block")), context.unreadable)?;
        Some(self.disk(devno, &place, context))
    }

    /// Another disk may be in this directory than before.
    pub fn forget_number_at(&mut self, place: &Path) {
        self.numbers.remove(place);
    }

    /// The disk in this directory. One that is gone, but that a map still holds, is still known by its last number.
    pub fn at(&mut self, place: &Path, context: &mut Context<'_>) -> Option<Arc<Disk>> {
        let known = self.numbers.get(place).copied();
        let is_fresh = |devno: &DevNo| self.known.get(devno).is_some_and(|known| known.fresh && known.place == place);
        let devno = match known.filter(is_fresh) {
            Some(devno) => devno,
            None => {
                let devno = self.file.parsed(&self.root.join(place), "dev");
                let devno = or_note(devno, context.unreadable).or(known)?;
                self.numbers.insert(place.to_owned(), devno);
                devno
            }
        };
        Some(self.disk(devno, place, context))
    }

    /// The disk of this number in this directory. What cannot be read of it stays as last read, and is read again next time.
    fn disk(&mut self, devno: DevNo, place: &Path, context: &mut Context<'_>) -> Arc<Disk> {
        let known = self.known.remove(&devno).filter(|known| known.place == place);
        let mut known = match known {
            Some(known) if known.fresh || known.read == self.reading => {
                let disk = Arc::clone(&known.disk);
                self.known.insert(devno, known);
                return self.fresh_disk(devno, context).unwrap_or(disk);
            }
            Some(known) => known,
            None => Known {
                way: way_of(place),
                scsi: scsi_device(&self.root, place),
                disk: Arc::new(Disk::at(devno, place)),
                place: place.to_owned(),
                read: 0,
                fresh: false,
            },
        };
        let errors = context.unreadable.len();
        let disk = self.read_whole(&known, context);
        if *known.disk != disk {
            known.disk = Arc::new(disk);
        }
        (known.read, known.fresh) = (self.reading, context.unreadable.len() == errors);
        let disk = Arc::clone(&known.disk);
        self.known.insert(devno, known);
        disk
    }

    /// The disk of this number, if nothing has to be read of it but what the kernel tells nobody.
    fn fresh_disk(&mut self, devno: DevNo, context: &mut Context<'_>) -> Option<Arc<Disk>> {
        let reading = self.reading;
        let known = self.known.get_mut(&devno).filter(|known| known.fresh || known.read == reading)?;
        if known.read == self.reading {
            return Some(Arc::clone(&known.disk));
        }
        known.read = self.reading;
        let disk = &known.disk;
        let mut device = ScsiFiles { root: &self.root, file: &mut self.file, anchors: &mut self.anchors, known };
        let states = if self.leave_states { Ok(disk.states.clone()) } else { device.states() };
        let states = or_last(states, Some(&disk.states), context.unreadable);
        let along = known.way.as_ref().and_then(|way| context.ways.along(way));
        let along = along.filter(|(transport, ports)| (*transport, *ports) != (disk.transport, &disk.ports));
        let udev = context.identities.wwid(devno, &disk.name);
        if disk.states != states || along.is_some() || disk.identity.udev.as_ref() != udev {
            let mut now = (**disk).clone();
            now.states = states;
            now.go_along(along);
            now.identity.udev = udev.cloned();
            // What it goes over may have fallen silent.
            if now != **disk {
                known.disk = Arc::new(now);
            }
        }
        Some(Arc::clone(&known.disk))
    }

    /// Reads all of a disk. What cannot be read stays as last read.
    fn read_whole(&mut self, known: &Known, context: &mut Context<'_>) -> Disk {
        let last = &*known.disk;
        let unreadable = &mut *context.unreadable;
        let mut device = ScsiFiles { root: &self.root, file: &mut self.file, anchors: &mut self.anchors, known };
        let states = or_last(device.states(), Some(&last.states), unreadable);
        let kernel = or_last(device.wwid(), Some(&last.identity.kernel), unreadable);
        let mut word = |name, last: &Arc<str>| {
            let word = device.text(name, &Some(Arc::clone(last))).map(Option::unwrap_or_default);
            or_last(word, Some(last), unreadable)
        };
        let model = Model {
            vendor: word("vendor", &last.model.vendor),
            product: word("model", &last.model.product),
            revision: word("rev", &last.model.revision),
        };
        let directory = self.root.join(&known.place);
        let size_bytes = self.file.size_bytes(&directory);
        let read_only = self.file.flag(&directory, "ro");
        let mut disk = Disk {
            model,
            identity: Identity { udev: context.identities.wwid(last.devno, &last.name).cloned(), kernel },
            size_bytes: or_last(size_bytes, Some(&last.size_bytes), unreadable),
            read_only: or_last(read_only, Some(&last.read_only), unreadable),
            states,
            ..last.clone()
        };
        disk.go_along(known.way.as_ref().and_then(|way| context.ways.along(way)));
        disk
    }
}

/// The files of the disk's own device, which are read all the time.
struct ScsiFiles<'a> {
    root: &'a Path,
    file: &'a mut Attribute,
    anchors: &'a mut Anchors,
    known: &'a Known,
}

impl ScsiFiles<'_> {
    fn states(&mut self) -> Result<States, Error> {
        let last = &self.known.disk.states;
        match self.text("state", &last.device)? {
            None => Ok(States { absent: true, ..States::default() }),
            device => Ok(States { device, access: self.text("access_state", &last.access)?, absent: false }),
        }
    }

    fn wwid(&mut self) -> Result<Option<Arc<str>>, Error> {
        match self.known.way {
            // Of its controller there may be several.
            Some(Way::Nvme(_)) => Ok(self.file.text(&self.root.join(&self.known.place), "wwid")?.map(Arc::from)),
            _ => self.text("wwid", &self.known.disk.identity.kernel),
        }
    }

    /// A file's text; the same allocation where it is what it was, as it mostly is.
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
    /// A disk of which nothing is known but where it is.
    fn at(devno: DevNo, place: &Path) -> Self {
        Disk {
            devno,
            name: place.file_name().unwrap_or_default().to_string_lossy().into(),
            hctl: hctl_of(place).into(),
            transport: transport_of(place),
            ports: Ports::default(),
            model: Model::default(),
            identity: Identity::default(),
            size_bytes: None,
            read_only: None,
            states: States::default(),
        }
    }

    /// Takes over what is known of the way that it goes.
    fn go_along(&mut self, way: Option<(Transport, &Ports)>) {
        if let Some((transport, ports)) = way {
            self.transport = transport;
            self.ports = ports.clone().or(&self.ports);
        }
    }
}

/// `…/target6:0:0/6:0:0:1/block/sdb` lies in its device.
fn scsi_device(root: &Path, place: &Path) -> Option<ScsiDevice> {
    let device = place.parent().filter(|block| block.ends_with("block"))?.parent()?;
    let (hctl, target) = (device.file_name()?.to_str()?, device.parent()?);
    let anchor = target.parent().filter(|_| hctl == hctl_of(place))?;
    let below = format!("{}/{hctl}", target.file_name()?.to_str()?);
    Some(ScsiDevice { anchor: root.join(anchor).into(), below })
}

/// The names of the directories that the member's own lies in: they tell its SCSI address and what it goes over.
fn lineage(place: &Path) -> impl Iterator<Item = &str> {
    place.components().filter_map(|part| part.as_os_str().to_str())
}

fn hctl_of(place: &Path) -> &str {
    let is_address =
        |part: &&str| part.split(':').count() == 4 && part.bytes().all(|byte| byte == b':' || byte.is_ascii_digit());
    lineage(place).filter(is_address).last().unwrap_or_default()
}

fn is_numbered(part: &str, prefix: &str) -> bool {
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
        // Its controller knows.
        Some(Way::Nvme(_)) => Transport::Unknown,
        None if lineage(place).any(|part| is_numbered(part, "end_device-")) => Transport::Sas,
        None => Transport::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::sysfs::{Outline, Parts, Places, Sysfs};
    use super::*;

    const SCSI: &str = "devices/pci/host6/target6:0:0/6:0:0:1";

    /// A host with one disk, a reader that has read it once by device mapper's word, and what to ask it.
    fn host() -> (tempfile::TempDir, Sysfs, impl Fn(Scope) -> Request) {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for directory in [&format!("{SCSI}/block/sdb"), "block", "dev/block"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (file, content) in [("state", "running"), ("wwid", "naa.1"), ("block/sdb/dev", "8:16")] {
            fs::write(root.join(SCSI).join(file), content).unwrap();
        }
        symlink("../../../6:0:0:1", root.join(SCSI).join("block/sdb/device")).unwrap();
        symlink(format!("../../{SCSI}/block/sdb"), root.join("dev/block/8:16")).unwrap();
        let devno = |text: &str| text.parse().unwrap();
        let outline = Outline { wwid: "3600a".into(), devno: devno("254:0"), members: [devno("8:16")].into() };
        let outlines: Arc<[Outline]> = [outline].into();
        let request = move |scope| Request { scope, outlines: Some(Arc::clone(&outlines)), ..Request::default() };
        let (sysfs, udev_data) = (root.to_owned(), root.join("udev"));
        let places = Places { sysfs, procfs: "/proc".into(), udev_data, capture: None };
        let mut reader = Sysfs::new(places, Parts { nvme: true, iscsi: true, fibre_channel: true });
        reader.read(&request(Scope::Everything)).unwrap();
        (tree, reader, request)
    }

    fn disk(reader: &mut Sysfs, request: Request) -> Option<Arc<Disk>> {
        let reading = reader.read(&request).unwrap();
        assert_eq!(reading.unreadable, []);
        reading.maps[0].members.first().cloned()
    }

    fn state(reader: &mut Sysfs, request: Request) -> Option<String> {
        disk(reader, request)?.states.device.as_deref().map(str::to_owned)
    }

    #[test]
    fn states_are_left_to_readings_of_their_own_where_there_are_some() {
        let (tree, mut reader, request) = host();
        let file = tree.path().join(SCSI).join("state");
        for word in ["offline", "blocked"] {
            fs::write(&file, word).unwrap();
            assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some(word));
        }
        fs::write(&file, "running").unwrap();
        assert_eq!(state(&mut reader, request(Scope::States)).as_deref(), Some("running"));
        fs::write(&file, "offline").unwrap();
        assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some("running"));
        assert_eq!(state(&mut reader, request(Scope::Everything)).as_deref(), Some("offline"));
    }

    #[test]
    fn without_an_event_a_disk_is_read_anew_in_its_turn() {
        let (tree, mut reader, request) = host();
        fs::write(tree.path().join(SCSI).join("wwid"), "naa.2").unwrap();
        let seen = (0..TURNS).any(|_| {
            let disk = disk(&mut reader, request(Scope::Everything)).unwrap();
            disk.identity.kernel.as_deref() == Some("naa.2")
        });
        assert!(seen);
    }

    #[test]
    fn a_disk_that_is_gone_is_no_member_once_its_state_is() {
        let (tree, mut reader, request) = host();
        fs::remove_file(tree.path().join("dev/block/8:16")).unwrap();
        fs::remove_dir_all(tree.path().join(SCSI)).unwrap();
        assert_eq!(disk(&mut reader, request(Scope::Everything)), None);
    }
}
