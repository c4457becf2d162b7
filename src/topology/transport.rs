//! What paths go over.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Path, Snapshot};

/// What carries a path's I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Fibre Channel.
    Fc,
    /// iSCSI.
    Iscsi,
    /// Serial Attached SCSI.
    Sas,
    /// NVMe over TCP.
    NvmeTcp,
    /// NVMe over Fibre Channel.
    NvmeFc,
    /// NVMe over RDMA.
    NvmeRdma,
    /// NVMe over PCI Express.
    NvmePcie,
    /// virtio-scsi, the adapter of a virtual machine. The `transport` label has no word for it.
    VirtioScsi,
    /// Not known.
    #[default]
    Unknown,
}

impl Transport {
    /// The word of the `transport` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Fc => "fc",
            Transport::Iscsi => "iscsi",
            Transport::Sas => "sas",
            Transport::NvmeTcp => "nvme-tcp",
            Transport::NvmeFc => "nvme-fc",
            Transport::NvmeRdma => "nvme-rdma",
            Transport::NvmePcie => "nvme-pcie",
            Transport::VirtioScsi | Transport::Unknown => "unknown",
        }
    }
}

/// The parts that a path shares with others, so that it breaks with them. An unknown part is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// Where it leaves the host. FC: the host port's WWPN. iSCSI, NVMe over fabrics: the network interface; if none of
    /// this host has the source address, that address. SAS: the host adapter's SAS address, else its PCI address.
    /// virtio-scsi: the controller's PCI address. [`Adapters`] has what lies below.
    pub initiator_port: Arc<str>,
    /// The target as a whole. FC: its WWNN. iSCSI: its IQN. NVMe: the subsystem's NQN. SAS: the enclosure's identifier,
    /// else the expander's SAS address, else its name.
    pub target: Arc<str>,
    /// Where it enters the target. FC: WWPN. iSCSI, NVMe over fabrics: address and port. NVMe over PCIe: PCI address.
    /// SAS: the SAS address of the disk's port.
    pub target_port: Arc<str>,
}

impl Ports {
    /// Whether none is unknown.
    pub fn are_known(&self) -> bool {
        [&self.initiator_port, &self.target, &self.target_port].iter().all(|port| !port.is_empty())
    }

    /// These, and what they lack from the others: what a part was called does not change when it falls silent.
    pub fn or(self, last: &Ports) -> Ports {
        let or = |now: Arc<str>, last: &Arc<str>| if now.is_empty() { Arc::clone(last) } else { now };
        Ports {
            initiator_port: or(self.initiator_port, &last.initiator_port),
            target: or(self.target, &last.target),
            target_port: or(self.target_port, &last.target_port),
        }
    }
}

/// Address and port as they are written together: `192.0.2.1:3260`, `[2001:db8::1]:3260`; empty if one is.
pub fn portal(address: &str, port: &str) -> Arc<str> {
    match (address, port) {
        ("", _) | (_, "") => Arc::default(),
        (address, port) if address.contains(':') => format!("[{address}]:{port}").into(),
        (address, port) => format!("{address}:{port}").into(),
    }
}

/// The state of a session that carries I/O.
const LOGGED_IN: &str = "LOGGED_IN";
/// The state of a port that is well.
const ONLINE: &str = "Online";
/// The state of a port that the kernel uses for want of a better.
const MARGINAL: &str = "Marginal";

/// One iSCSI session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IscsiSession {
    /// The kernel's name for it, `session1`: another one after each login.
    pub name: Arc<str>,
    /// The interface that it is bound to or that has its source address (or that address), the target's IQN, the portal
    /// that it was made for.
    pub ports: Ports,
    /// The address that it comes from; `None` while that is not known.
    pub source: Option<IpAddr>,
    /// The kernel's word: `LOGGED_IN`, `FAILED`, `FREE`.
    pub state: Arc<str>,
    /// It is down, and the kernel has begun to take its disks away: somebody logs it out.
    pub is_ending: bool,
}

impl IscsiSession {
    /// Whether it carries I/O.
    pub fn is_logged_in(&self) -> bool {
        &*self.state == LOGGED_IN
    }
}

/// A Fibre Channel port of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FcHostPort {
    /// Its WWPN.
    pub port_name: Arc<str>,
    /// The kernel's word: `Online`, `Linkdown`, …
    pub state: Arc<str>,
}

impl FcHostPort {
    /// Whether it is well.
    pub fn is_up(&self) -> bool {
        &*self.state == ONLINE
    }

    /// Whether I/O goes over it, well or not.
    pub fn is_used(&self) -> bool {
        self.is_up() || &*self.state == MARGINAL
    }
}

/// A Fibre Channel port of an array, as one port of this host sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FcRemotePort {
    /// The WWPN of the host's port, the array's WWNN, its own WWPN.
    pub ports: Ports,
    /// The kernel's word: `Online`, `Blocked`, `Not Present`, `Marginal`, …
    pub state: Arc<str>,
}

impl FcRemotePort {
    /// Whether I/O goes over it, well or not.
    pub fn is_up(&self) -> bool {
        [ONLINE, MARGINAL].contains(&&*self.state)
    }

    /// Whether the kernel waits for it to come back (`fc_remote_port_delete` in `drivers/scsi/scsi_transport_fc.c`).
    /// Until `fast_io_fail_tmo` or `dev_loss_tmo` runs out, I/O to the disks beyond waits with it.
    pub fn is_blocked(&self) -> bool {
        &*self.state == "Blocked"
    }

    /// Whether the kernel only remembers it.
    pub fn is_lost(&self) -> bool {
        &*self.state == "Not Present"
    }
}

/// An NVMe controller: one connection of this host to a subsystem, or a port of a disk inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeController {
    /// Its kernel name, `nvme3`. It may come back as another one.
    pub name: Arc<str>,
    /// Tells it from an earlier controller of that name: the kernel gives a name anew as soon as it is free.
    pub instance: u64,
    /// The kernel's word: `live`, `connecting`, `resetting`, `deleting`, …
    pub state: Arc<str>,
    /// The carrier of its I/O.
    pub transport: Transport,
    /// It is not a part of this host.
    pub over_fabrics: bool,
    /// It is there for discovery or administration, so no path goes over it.
    pub has_no_namespaces: bool,
    /// Its ends: interface or host port, subsystem NQN, address.
    pub ports: Ports,
    /// The address that it comes from; `None` while that is not known, and where it has none.
    pub source: Option<IpAddr>,
    /// How long the kernel waits for it.
    pub timeouts: NvmeTimeouts,
    /// How often the kernel has reset it, also for a lost connection (Linux 7.2); `None` if it does not say. Root may set
    /// it to 0.
    pub resets: Option<u64>,
}

/// How long the kernel waits for a controller over fabrics, in seconds as it prints them, or `off`. Empty where it has
/// no such limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeTimeouts {
    /// `ctrl_loss_tmo`: after this time without a connection it removes the controller.
    pub ctrl_loss: Arc<str>,
    /// `fast_io_fail_tmo`: after this time without a connection it fails the I/O that waits for the controller.
    pub fast_io_fail: Arc<str>,
    /// `reconnect_delay`: the time between two attempts to connect.
    pub reconnect_delay: Arc<str>,
}

impl NvmeController {
    /// The state of one that carries I/O.
    pub const LIVE: &str = "live";

    /// Whether it carries I/O.
    pub fn is_live(&self) -> bool {
        &*self.state == Self::LIVE
    }

    /// Whether it is being removed: by order, or as given up.
    pub fn is_deleted(&self) -> bool {
        is_deleted(&self.state)
    }
}

/// An NVMe subsystem that has multipath devices, or controllers through which it could have some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeSubsystem {
    /// Its NQN.
    pub target: Arc<str>,
    /// How the kernel spreads I/O over paths, in its own word: `numa`, `round-robin`, `queue-depth`. `None` if it tells
    /// none.
    pub iopolicy: Option<Arc<str>>,
    /// Paths to namespaces for which the kernel has made no head: none of them has been usable since the connect.
    /// `None` without a controller.
    pub unreachable_namespaces: Option<usize>,
    /// How many of its controllers are live, whether over fabrics or not.
    pub live_controllers: usize,
    /// The kernel names of its devices, `nvme0n1`.
    pub devices: Vec<Arc<str>>,
}

/// Whether a controller in this state is being removed. The kernel says `deleting` and `deleting (no IO)`.
pub fn is_deleted(state: &str) -> bool {
    state.starts_with("deleting")
}

/// The parts that an initiator port stands on: it breaks with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    /// The physical ports that carry it, sorted: those below a bond, team or bridge that are up, otherwise itself.
    pub ports: Vec<Arc<str>>,
    /// A hypervisor made it. The ports behind it are not known.
    pub is_virtual: bool,
    /// The name of the FC fabric that it is connected to; empty if there is none, or the kernel does not know it.
    pub fabric: Arc<str>,
}

/// The adapters by the names that paths have for them, [`Ports::initiator_port`]. A port that is not there stands on
/// itself.
pub type Adapters = BTreeMap<Arc<str>, Adapter>;

/// All that paths go over, on one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transports {
    /// iSCSI sessions, by name.
    pub iscsi_sessions: Vec<Arc<IscsiSession>>,
    /// Fibre Channel ports of this host, by their SCSI host's name.
    pub fc_host_ports: Vec<Arc<FcHostPort>>,
    /// Remote ports that are, or have been, SCSI targets, by the kernel's name for them.
    pub fc_remote_ports: Vec<Arc<FcRemotePort>>,
    /// NVMe controllers over fabrics that have namespaces, by name.
    pub nvme_controllers: Vec<Arc<NvmeController>>,
    /// NVMe subsystems, by NQN.
    pub nvme_subsystems: Vec<NvmeSubsystem>,
    /// The parts that initiator ports stand on.
    pub adapters: Arc<Adapters>,
}

impl Transports {
    /// The addresses that connections come from which leave through no interface that is known, and what stands for
    /// one: nothing, or the address.
    pub fn sources(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let sessions = self.iscsi_sessions.iter().map(|session| (session.source, &session.ports.initiator_port));
        let controllers = self.nvme_controllers.iter();
        let controllers = controllers.map(|controller| (controller.source, &controller.ports.initiator_port));
        let sources = sessions.chain(controllers).filter_map(|(source, port)| Some((source?, &**port)));
        sources.filter(|(_, port)| port.is_empty() || port.parse::<IpAddr>().is_ok())
    }
}

/// The Fibre Channel fabric that a path goes over, if the kernel knows it.
pub fn fabric_of<'a>(path: &Path, adapters: &'a Adapters) -> Option<&'a str> {
    adapters.get(&path.ports.initiator_port).map(|adapter| &*adapter.fabric).filter(|fabric| !fabric.is_empty())
}

impl Snapshot {
    /// The Fibre Channel ports of this host that somebody would miss, by WWPN: those that were up within the memory
    /// window. Where several have one name, the one that is up counts.
    pub fn fc_host_ports(&self) -> BTreeMap<&str, &FcHostPort> {
        let ports = self.transports.fc_host_ports.iter().map(|port| (&*port.port_name, &**port));
        let ports = ports.filter(|(name, _)| self.remembered.fc_host_ports.contains(*name));
        let mut known: BTreeMap<&str, &FcHostPort> = BTreeMap::new();
        for (name, port) in ports {
            let known = known.entry(name).or_insert(port);
            if port.is_up() {
                *known = port;
            }
        }
        known
    }

    /// The Fibre Channel remote ports that were up within the memory window, by the WWPN of the host's port and by
    /// their own. The kernel may know one twice, under the object of an earlier login, too. Then the one that is up
    /// counts, else the one that is there.
    pub fn fc_remote_ports(&self) -> BTreeMap<(&str, &str), &FcRemotePort> {
        let mut known: BTreeMap<(&str, &str), &FcRemotePort> = BTreeMap::new();
        for port in &self.transports.fc_remote_ports {
            let Ports { initiator_port, target_port, .. } = &port.ports;
            if !self.remembered.fc_remote_ports.contains(&(Arc::clone(initiator_port), Arc::clone(target_port))) {
                continue;
            }
            let known = known.entry((initiator_port, target_port)).or_insert(port);
            if port.is_up() || known.is_lost() {
                *known = port;
            }
        }
        known
    }
}

/// Failures since the exporter started, by the ports between which they were.
pub type Failures = BTreeMap<Ports, u64>;

/// Networks over which some targets must be reached: oVirt's iSCSI bond, watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiBond {
    /// Its name.
    pub name: Arc<str>,
    /// Its networks, as the configuration names them, and whether each is up: every target of the bond that has a
    /// session on this host has one logged in over this network.
    pub networks: Vec<(Arc<str>, bool)>,
    /// This host has a network of it, or has had one. Otherwise oVirt uses the default network, and none of the bond's
    /// can be down.
    pub is_watched: bool,
}
