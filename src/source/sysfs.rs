//! sysfs: what stands in files for everyone to read.
//!
//! ```text
//! maps.rs, disks.rs   multipath maps and their members
//! iscsi.rs            sessions                \  what members go over: read first, so that a path that has just failed
//! fibre_channel.rs    ports of host and array  > finds its session, port or controller failed too
//! nvme.rs             controllers             /  … and namespace heads
//! unassembled.rs      disks with several paths that no map holds; udev_db.rs says who a disk is
//! ```
//!
//! Opening a file costs more than an ioctl that tells it all, so what device mapper has told is not read again: see
//! [`Request::outlines`]. Of the rest a map or disk is read whole if it is new, if an event has told of it or may have been
//! lost, if the last reading of it failed, and in its turn; otherwise a map's links to its members, and what changes without an
//! event: see [`Scope::States`]. What is read of NVMe and transports is little, and has no events: it is read every time.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::disks::Context;
use super::fibre_channel::FibreChannel;
use super::files::{Entry, list};
use super::interfaces::Interfaces;
use super::iscsi::Iscsi;
use super::maps::{Map, Maps};
use super::nvme::{Head, Nvme};
use super::udev_db::UdevDb;
use super::unassembled::{Unassembled, WholeDisks};
use super::{Error, root};
use crate::topology::{DevNo, Ports, Transport, Transports};

/// What to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Everything of every device; but see [`Scope::States`].
    #[default]
    Everything,
    /// Of the known maps what changes without an event: suspended, in-flight requests, their members' SCSI states. Where these
    /// are read by themselves now and then, a reading of everything leaves them out: they are most of what it would cost.
    States,
    /// Everything of these devices.
    Devices(HashSet<DevNo>),
    /// Nothing of block devices, but what is read whatever the scope: NVMe and transports.
    Others,
}

/// What to read, and what is known already.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What to read.
    pub scope: Scope,
    /// The maps and their members, where device mapper has told them; of a map only the rest is read then. `None` to
    /// find them here.
    pub outlines: Option<Arc<[Outline]>>,
    /// Devices that came or changed: nothing of them is known any more.
    pub forget: HashSet<DevNo>,
    /// Events may have been lost, and with them that devices came or changed.
    pub forget_all: bool,
}

impl Request {
    /// Whether an event has told of this device, or may have.
    pub fn told(&self, devno: DevNo) -> bool {
        self.forget_all || self.forget.contains(&devno)
    }
}

/// A map as device mapper tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its device number.
    pub devno: DevNo,
    /// Its members.
    pub members: Arc<[DevNo]>,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Multipath maps. One whose files did not change since the last reading is the same allocation.
    pub maps: Vec<Arc<Map>>,
    /// NVMe multipath heads; likewise.
    pub heads: Vec<Arc<Head>>,
    /// What paths go over; likewise.
    pub transports: Arc<Transports>,
    /// Disks with several paths that no map holds; likewise.
    pub unassembled: Arc<[Unassembled]>,
    /// Kernel names of the block devices that the root file system stands on; likewise.
    pub root: Arc<HashSet<String>>,
    /// What exists and could not be read; what was seen before stands as last read.
    pub unreadable: Vec<Error>,
}

/// Where to read.
#[derive(Clone, Debug)]
pub struct Places {
    /// Where sysfs is mounted.
    pub sysfs: PathBuf,
    /// Where procfs is: what is mounted is told there.
    pub procfs: PathBuf,
    /// Where udev keeps its database.
    pub udev_data: PathBuf,
    /// The capture that all of these lie in, if they do: it also tells what else is asked of the kernel.
    pub capture: Option<PathBuf>,
}

/// Which parts are read besides device mapper's maps.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// NVMe multipath heads.
    pub nvme: bool,
    /// iSCSI sessions.
    pub iscsi: bool,
    /// Fibre Channel ports.
    pub fibre_channel: bool,
}

/// Reads it and remembers it.
#[derive(Debug)]
pub struct Sysfs {
    places: Places,
    maps: Maps,
    ways: Ways,
    transports: Arc<Transports>,
    identities: UdevDb,
    whole_disks: WholeDisks,
    unassembled: Arc<[Unassembled]>,
    root: Arc<HashSet<String>>,
}

impl Sysfs {
    /// A reader of these places.
    pub fn new(places: Places, parts: Parts) -> Self {
        let root = &places.sysfs;
        Sysfs {
            maps: Maps::new(root),
            identities: UdevDb::new(&places.udev_data),
            whole_disks: WholeDisks::new(root),
            unassembled: Arc::default(),
            root: Arc::default(),
            ways: Ways {
                nvme: parts.nvme.then(|| Nvme::new(root)),
                iscsi: parts.iscsi.then(|| Iscsi::new(root)),
                fibre_channel: parts.fibre_channel.then(|| FibreChannel::new(root)),
            },
            transports: Arc::default(),
            places,
        }
    }

    /// Reads what is asked for and gives all of it.
    ///
    /// # Errors
    /// If there is no `block`. A single device's trouble is in the reading.
    pub fn read(&mut self, request: &Request) -> Result<Reading, Error> {
        let mut unreadable = Vec::new();
        let interfaces = Interfaces::of(self.places.capture.clone());
        self.ways.read(request.scope == Scope::Everything, &interfaces, &mut unreadable);
        let transports = self.ways.transports();
        if *self.transports != transports {
            self.transports = Arc::new(transports);
        }
        // Nothing is read of it where nothing changed; and what a disk was called before another took its name would make
        // that one look exchanged.
        let identities = self.identities.read(&mut unreadable);
        unreadable.extend(identities.err());
        let block = self.block(request)?;
        let mut context =
            Context { block: &block, ways: &self.ways, identities: &self.identities, unreadable: &mut unreadable };
        let maps = self.maps.read(request, &mut context);
        if request.scope == Scope::Everything {
            self.look_for_unassembled(&block, &maps, &mut unreadable);
            match root::devices(&self.places) {
                Ok(root) if root == *self.root => {}
                Ok(root) => self.root = Arc::new(root),
                Err(error) => unreadable.push(error),
            }
        }
        // They have nothing to do with maps.
        if let Some(nvme) = self.ways.nvme.as_mut().filter(|_| !matches!(request.scope, Scope::Devices(_))) {
            nvme.read_heads(&mut unreadable);
        }
        Ok(Reading {
            maps,
            heads: self.ways.nvme.as_ref().map(Nvme::heads).unwrap_or_default(),
            transports: Arc::clone(&self.transports),
            unassembled: Arc::clone(&self.unassembled),
            root: Arc::clone(&self.root),
            unreadable,
        })
    }

    /// All block devices, where everything is to be read.
    fn block(&self, request: &Request) -> Result<Vec<Entry>, Error> {
        let block = self.places.sysfs.join("block");
        fs::metadata(&block).map_err(|cause| Error::new(block.display(), cause))?;
        if request.scope == Scope::Everything { list(&block) } else { Ok(Vec::new()) }
    }

    fn look_for_unassembled(&mut self, block: &[Entry], maps: &[Arc<Map>], unreadable: &mut Vec<Error>) {
        let members = |map: &Arc<Map>| -> Vec<DevNo> {
            map.members.iter().map(|disk| disk.devno).chain(map.asked.iter().copied()).collect()
        };
        let members: HashSet<DevNo> = maps.iter().flat_map(members).collect();
        let unassembled = self.whole_disks.unassembled(block, &self.identities, &members, unreadable);
        if *unassembled != *self.unassembled {
            self.unassembled = unassembled.into();
        }
    }
}

/// What members of maps go over.
#[derive(Debug)]
pub struct Ways {
    iscsi: Option<Iscsi>,
    fibre_channel: Option<FibreChannel>,
    nvme: Option<Nvme>,
}

/// Which of them a member goes over, by the directories that its own lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// This session.
    Iscsi(Arc<str>),
    /// This remote port.
    FibreChannel(Arc<str>),
    /// This controller, whose namespaces are no heads (`nvme_core.multipath=N`).
    Nvme(Arc<str>),
}

impl Ways {
    fn read(&mut self, anew: bool, interfaces: &Interfaces, unreadable: &mut Vec<Error>) {
        let iscsi = self.iscsi.as_mut().map(|iscsi| iscsi.read(anew, interfaces, unreadable));
        let fibre_channel = self.fibre_channel.as_mut().map(|ports| ports.read(unreadable));
        let nvme = self.nvme.as_mut().map(|nvme| nvme.read_controllers(anew, interfaces, unreadable));
        unreadable.extend([iscsi, fibre_channel, nvme].into_iter().flatten().filter_map(Result::err));
    }

    fn transports(&self) -> Transports {
        let (iscsi, fibre_channel) = (self.iscsi.as_ref(), self.fibre_channel.as_ref());
        Transports {
            iscsi_sessions: iscsi.map(|iscsi| iscsi.sessions().all()).unwrap_or_default(),
            fc_host_ports: fibre_channel.map(|ports| ports.hosts().all()).unwrap_or_default(),
            fc_remote_ports: fibre_channel.map(|ports| ports.remote_ports().all()).unwrap_or_default(),
        }
    }

    /// What carries I/O this way, and its ports, as last read.
    pub fn along(&self, way: &Way) -> Option<(Transport, &Ports)> {
        match way {
            Way::Iscsi(session) => Some((Transport::Iscsi, &self.iscsi.as_ref()?.sessions().get(session)?.ports)),
            Way::FibreChannel(port) => {
                Some((Transport::Fc, &self.fibre_channel.as_ref()?.remote_ports().get(port)?.ports))
            }
            Way::Nvme(controller) => {
                let controller = self.nvme.as_ref()?.controller(controller)?;
                Some((controller.transport, &controller.ports))
            }
        }
    }
}
