//! Sessions, ports and controllers in sysfs, through which paths go. They have few files and no
//! events.
//!
//! ```text
//! iscsi.rs            sessions
//! fibre_channel.rs    ports of host and array
//! nvme.rs             controllers, and the namespace heads whose paths go through them
//! adapters.rs         the physical ports and fabrics of the host's ends
//! ```
//!
//! A thread of their own reads them, apart from block devices. A driver that hangs may block either
//! reading, and the other one still works.

mod adapters;
pub(crate) mod fibre_channel;
pub(crate) mod iscsi;
pub(crate) mod nvme;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::interfaces::Addresses;
use super::{Error, Io, unless_exhausted};
use crate::topology::{Ports, Transport, Transports};
use fibre_channel::FibreChannel;
use iscsi::Iscsi;
use nvme::{Head, Nvme};

/// Selects the parts that are read.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    /// NVMe multipath heads.
    pub nvme: bool,
    /// iSCSI sessions.
    pub iscsi: bool,
    /// Fibre Channel ports.
    pub fibre_channel: bool,
}

/// Says what to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TransportRequest {
    /// Also read the ports of each session, remote port and controller again. Otherwise they are
    /// read only if they are unknown or the state has changed.
    pub anew: bool,
    /// The addresses of the network interfaces.
    pub addresses: Arc<Addresses>,
    /// Interfaces to read beside those through which a session or controller leaves.
    pub wanted: Arc<BTreeSet<Arc<str>>>,
    /// The WWIDs of NVMe heads that were devices before this start.
    pub remembered: Arc<BTreeSet<Arc<str>>>,
}

/// The session, port or controller that a disk's I/O goes through, by its kernel name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// An iSCSI session.
    Iscsi(Arc<str>),
    /// An FC remote port.
    FibreChannel(Arc<str>),
    /// An NVMe controller whose namespaces are not heads (`nvme_core.multipath=N`).
    Nvme(Arc<str>),
}

/// The transport and the ports of each way.
pub(crate) type Ways = HashMap<Way, (Transport, Ports)>;

/// The result of one read. An object that did not change since the last reading keeps its
/// allocation.
#[derive(Clone, Debug, Default)]
pub struct TransportReading {
    /// Sessions and ports.
    pub transports: Arc<Transports>,
    /// The ways of the disks' I/O.
    pub(crate) ways: Arc<Ways>,
    /// The ways that carry I/O now. When a way opens or closes, the states of the disks behind it
    /// change.
    pub(crate) open: Arc<HashSet<Way>>,
    /// The remote ports that were blocked at this reading and at the one before.
    pub(crate) blocked: Arc<HashSet<Way>>,
    /// NVMe multipath heads.
    pub(crate) heads: Vec<Arc<Head>>,
    /// The I/O of the heads, by their kernel names.
    pub(crate) io: BTreeMap<Arc<str>, Io>,
    /// Objects that exist and could not be read. They keep their last state.
    pub unreadable: Vec<Error>,
}

/// Reads sessions, ports and controllers, and remembers them: a dead session no longer shows its
/// names.
#[derive(Debug)]
pub struct TransportReader {
    iscsi: Option<Iscsi>,
    fibre_channel: Option<FibreChannel>,
    nvme: Option<Nvme>,
    adapters: adapters::AdapterReader,
    transports: Arc<Transports>,
    ways: Arc<Ways>,
    open: Arc<HashSet<Way>>,
    /// The remote ports that were blocked at the last reading. `stay_blocked` has those that were
    /// also blocked at the reading before.
    blocked: HashSet<Way>,
    stay_blocked: Arc<HashSet<Way>>,
}

impl TransportReader {
    /// `sysfs` is the mount point of sysfs.
    pub fn new(sysfs: &Path, parts: Parts) -> Self {
        TransportReader {
            iscsi: parts.iscsi.then(|| Iscsi::new(sysfs)),
            fibre_channel: parts.fibre_channel.then(|| FibreChannel::new(sysfs)),
            nvme: parts.nvme.then(|| Nvme::new(sysfs)),
            adapters: adapters::AdapterReader::new(sysfs),
            transports: Arc::default(),
            ways: Arc::default(),
            open: Arc::default(),
            blocked: HashSet::new(),
            stay_blocked: Arc::default(),
        }
    }

    /// Reads all selected parts.
    ///
    /// # Errors
    /// If this process has no files or memory left to read with. The reading holds all other
    /// errors.
    pub fn read(&mut self, request: &TransportRequest) -> Result<TransportReading, Error> {
        let TransportRequest { anew, addresses, wanted, remembered } = request;
        let mut unreadable = Vec::new();
        let iscsi = self.iscsi.as_mut().map(|iscsi| iscsi.read(*anew, addresses, &mut unreadable));
        let fibre_channel = self.fibre_channel.as_mut().map(|ports| ports.read(&mut unreadable));
        let nvme = self.nvme.as_mut().map(|nvme| {
            let controllers = nvme.read_controllers(*anew, addresses, &mut unreadable);
            nvme.read_heads(*anew, remembered, &mut unreadable);
            controllers
        });
        unreadable.extend([iscsi, fibre_channel, nvme].into_iter().flatten().filter_map(Result::err));
        let (mut transports, ways, open) = (self.transports(), self.ways(), self.open());
        if *anew || *self.transports != transports || *self.ways != ways || *self.open != open {
            self.adapters.read(&(&interfaces(&ways) | wanted), self.fibre_channel.as_ref(), &mut unreadable);
            transports.adapters = Arc::clone(self.adapters.known());
        }
        unless_exhausted((), &unreadable)?;
        if *self.transports != transports {
            self.transports = Arc::new(transports);
        }
        if *self.ways != ways {
            self.ways = Arc::new(ways);
        }
        if *self.open != open {
            self.open = Arc::new(open);
        }
        let blocked = self.blocked();
        let stay_blocked: HashSet<Way> = blocked.intersection(&self.blocked).cloned().collect();
        self.blocked = blocked;
        if *self.stay_blocked != stay_blocked {
            self.stay_blocked = Arc::new(stay_blocked);
        }
        Ok(TransportReading {
            transports: Arc::clone(&self.transports),
            ways: Arc::clone(&self.ways),
            open: Arc::clone(&self.open),
            blocked: Arc::clone(&self.stay_blocked),
            heads: self.nvme.as_ref().map(Nvme::heads).unwrap_or_default(),
            io: self.nvme.as_ref().map(Nvme::io).unwrap_or_default(),
            unreadable,
        })
    }

    fn transports(&self) -> Transports {
        let (iscsi, fibre_channel) = (self.iscsi.as_ref(), self.fibre_channel.as_ref());
        Transports {
            iscsi_sessions: iscsi.map(|iscsi| iscsi.sessions().all()).unwrap_or_default(),
            fc_host_ports: fibre_channel.map(|ports| ports.hosts().all()).unwrap_or_default(),
            fc_remote_ports: fibre_channel.map(|ports| ports.remote_ports().all()).unwrap_or_default(),
            nvme_controllers: self.nvme.as_ref().map(Nvme::watched_controllers).unwrap_or_default(),
            nvme_subsystems: self.nvme.as_ref().map(Nvme::watched_subsystems).unwrap_or_default(),
            adapters: Arc::clone(self.adapters.known()),
        }
    }

    fn open(&self) -> HashSet<Way> {
        let sessions = self.iscsi.iter().flat_map(|iscsi| iscsi.sessions().named());
        let sessions = sessions.filter(|(_, session)| session.is_logged_in());
        let ports = self.fibre_channel.iter().flat_map(|ports| ports.remote_ports().named());
        let ports = ports.filter(|(_, port)| port.is_up());
        let controllers = self.nvme.iter().flat_map(|nvme| nvme.controllers().named());
        let controllers = controllers.filter(|(_, controller)| controller.is_live());
        sessions
            .map(|(name, _)| Way::Iscsi(Arc::clone(name)))
            .chain(ports.map(|(name, _)| Way::FibreChannel(Arc::clone(name))))
            .chain(controllers.map(|(name, _)| Way::Nvme(Arc::clone(name))))
            .collect()
    }

    fn blocked(&self) -> HashSet<Way> {
        let ports = self.fibre_channel.iter().flat_map(|ports| ports.remote_ports().named());
        let ports = ports.filter(|(_, port)| port.is_blocked());
        ports.map(|(name, _)| Way::FibreChannel(Arc::clone(name))).collect()
    }

    fn ways(&self) -> Ways {
        let mut ways = Ways::new();
        if let Some(iscsi) = &self.iscsi {
            let sessions = iscsi.sessions().named();
            ways.extend(
                sessions
                    .map(|(name, session)| (Way::Iscsi(Arc::clone(name)), (Transport::Iscsi, session.ports.clone()))),
            );
        }
        if let Some(ports) = &self.fibre_channel {
            let ports = ports.remote_ports().named();
            ways.extend(
                ports.map(|(name, port)| (Way::FibreChannel(Arc::clone(name)), (Transport::Fc, port.ports.clone()))),
            );
        }
        if let Some(nvme) = &self.nvme {
            let controllers = nvme.controllers().named();
            ways.extend(controllers.map(|(name, controller)| {
                (Way::Nvme(Arc::clone(name)), (controller.transport, controller.ports.clone()))
            }));
        }
        ways
    }
}

/// Returns the network interfaces through which the ways leave. An address in place of an interface
/// has no adapter and is left out.
fn interfaces(ways: &Ways) -> BTreeSet<Arc<str>> {
    let by_network =
        |transport: &Transport| matches!(transport, Transport::Iscsi | Transport::NvmeTcp | Transport::NvmeRdma);
    let ways = ways.values().filter(|(transport, _)| by_network(transport));
    ways.map(|(_, ports)| Arc::clone(&ports.initiator_port)).filter(|name| is_interface(name)).collect()
}

fn is_interface(initiator_port: &str) -> bool {
    !initiator_port.is_empty() && initiator_port.parse::<IpAddr>().is_err()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn adapters_are_read_again_at_each_resync_and_when_a_session_has_changed() {
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, content: &str| {
            let file = root.path().join("class").join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{content}\n")).unwrap();
        };
        let session = root.path().join("devices/platform/host6/session1/iscsi_session/session1");
        fs::create_dir_all(&session).unwrap();
        let state = |state: &str| fs::write(session.join("state"), state).unwrap();
        fs::create_dir_all(root.path().join("class/iscsi_session")).unwrap();
        let link = root.path().join("class/iscsi_session/session1");
        std::os::unix::fs::symlink("../../devices/platform/host6/session1/iscsi_session/session1", link).unwrap();
        write("iscsi_host/host6/netdev", "bond0");
        write("net/bond0/lower_eth1/operstate", "up");
        write("net/bond0/lower_eth2/operstate", "up");
        let parts = Parts { nvme: false, iscsi: true, fibre_channel: true };
        let mut reader = TransportReader::new(root.path(), parts);
        let mut ports = |anew| {
            let reading = reader.read(&TransportRequest { anew, ..TransportRequest::default() }).unwrap();
            let adapters = &reading.transports.adapters;
            adapters.iter().map(|(name, adapter)| format!("{name}: {}", adapter.ports.join(" "))).collect::<String>()
        };
        let both = |first: &str, second: &str| {
            write("net/eth1/operstate", first);
            write("net/eth2/operstate", second);
        };
        state("LOGGED_IN");
        both("up", "up");
        assert_eq!(ports(false), "bond0: eth1 eth2");
        both("down", "up");
        assert_eq!(ports(false), "bond0: eth1 eth2");
        assert_eq!(ports(true), "bond0: eth2");
        both("down", "down");
        state("FAILED");
        assert_eq!(ports(false), "bond0: ");
        both("up", "up");
        assert_eq!(ports(false), "bond0: ");
        fs::remove_dir_all(root.path().join("class/iscsi_session")).unwrap();
        assert_eq!(ports(false), "");
    }
}
