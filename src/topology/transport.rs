//! The sessions, ports and controllers that paths use.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Path, Snapshot};

/// The transport that carries a path's I/O.
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
    /// virtio-scsi, the adapter of a virtual machine. The `transport` label shows it as `unknown`.
    VirtioScsi,
    /// The transport is not known.
    #[default]
    Unknown,
}

impl Transport {
    /// The value of the `transport` label.
    pub(crate) fn as_str(self) -> &'static str {
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

/// The parts that a path shares with other paths and with which it breaks. An unknown part is
/// empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// Where the path leaves the host. FC: the host port's WWPN. iSCSI and NVMe over fabrics: the
    /// network interface, or the source address if no interface of this host has it. SAS: the host
    /// adapter's SAS address, else its PCI address. virtio-scsi: the controller's PCI address.
    /// [`Adapters`] has the parts below it.
    pub initiator_port: Arc<str>,
    /// The target as a whole. FC: its WWNN. iSCSI: its IQN. NVMe: the subsystem's NQN. SAS: the
    /// enclosure's identifier, else the expander's SAS address, else its name.
    pub target: Arc<str>,
    /// Where the path enters the target. FC: WWPN. iSCSI and NVMe over fabrics: address and port.
    /// NVMe over PCIe: PCI address. SAS: the SAS address of the disk's port.
    pub target_port: Arc<str>,
}

impl Ports {
    /// Returns true if all parts are known.
    pub(crate) fn are_known(&self) -> bool {
        [&self.initiator_port, &self.target, &self.target_port].iter().all(|port| !port.is_empty())
    }

    /// Fills unknown parts from `last`. The name of a part stays valid when the part falls silent.
    pub(crate) fn or(self, last: &Ports) -> Ports {
        let or = |now: Arc<str>, last: &Arc<str>| if now.is_empty() { Arc::clone(last) } else { now };
        Ports {
            initiator_port: or(self.initiator_port, &last.initiator_port),
            target: or(self.target, &last.target),
            target_port: or(self.target_port, &last.target_port),
        }
    }
}

/// Joins address and port: `192.0.2.1:3260`, `[2001:db8::1]:3260`. The result is empty if either
/// is.
pub(crate) fn portal(address: &str, port: &str) -> Arc<str> {
    match (address, port) {
        ("", _) | (_, "") => Arc::default(),
        (address, port) if address.contains(':') => format!("[{address}]:{port}").into(),
        (address, port) => format!("{address}:{port}").into(),
    }
}

/// The state of a session that carries I/O.
const LOGGED_IN: &str = "LOGGED_IN";
/// The state of a healthy port.
const ONLINE: &str = "Online";
/// The state of a port that the kernel uses only if no better one is left.
const MARGINAL: &str = "Marginal";

/// One iSCSI session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IscsiSession {
    /// The kernel's name, such as `session1`. It changes with each login.
    pub name: Arc<str>,
    /// Initiator port: the interface that the session is bound to or that has its source address,
    /// else that address. Target: the IQN. Target port: the portal that the session was made for.
    pub ports: Ports,
    /// The source address; `None` while it is unknown, or if there is none.
    pub source: Option<IpAddr>,
    /// The state in the kernel's word: `LOGGED_IN`, `FAILED`, `FREE`.
    pub state: Arc<str>,
    /// True if the session is down and the kernel has begun to remove its disks, because of a
    /// logout.
    pub is_ending: bool,
}

impl IscsiSession {
    /// Returns true if it carries I/O.
    pub(crate) fn is_logged_in(&self) -> bool {
        &*self.state == LOGGED_IN
    }
}

/// A Fibre Channel port of this host (host port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FcHostPort {
    /// The port's WWPN.
    pub port_name: Arc<str>,
    /// The state in the kernel's word: `Online`, `Linkdown`, …
    pub state: Arc<str>,
}

impl FcHostPort {
    /// Returns true if the port is healthy.
    pub(crate) fn is_up(&self) -> bool {
        &*self.state == ONLINE
    }

    /// Returns true if I/O goes over the port, which may be marginal.
    pub(crate) fn is_used(&self) -> bool {
        self.is_up() || &*self.state == MARGINAL
    }
}

/// A Fibre Channel port of an array, as one host port sees it (remote port).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FcRemotePort {
    /// The WWPN of the host port, the array's WWNN, and the remote port's own WWPN.
    pub ports: Ports,
    /// The state in the kernel's word: `Online`, `Blocked`, `Not Present`, `Marginal`, …
    pub state: Arc<str>,
}

impl FcRemotePort {
    /// Returns true if I/O goes over the port, which may be marginal.
    pub(crate) fn is_up(&self) -> bool {
        [ONLINE, MARGINAL].contains(&&*self.state)
    }

    /// Returns true if the kernel waits for the port to come back (`fc_remote_port_delete` in
    /// `drivers/scsi/scsi_transport_fc.c`). I/O to the disks behind it waits until
    /// `fast_io_fail_tmo` or `dev_loss_tmo` expires.
    pub(crate) fn is_blocked(&self) -> bool {
        &*self.state == "Blocked"
    }

    /// Returns true if the port is gone and the kernel only keeps its object.
    pub(crate) fn is_lost(&self) -> bool {
        &*self.state == "Not Present"
    }
}

/// An NVMe controller: one connection of this host to a subsystem, or a port of an NVMe disk inside
/// the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeController {
    /// The kernel name, such as `nvme3`. The controller may come back under another name.
    pub name: Arc<str>,
    /// Distinguishes it from an earlier controller of the same name: the kernel reuses a name as
    /// soon as it is free.
    pub instance: u64,
    /// The state in the kernel's word: `live`, `connecting`, `resetting`, `deleting`, …
    pub state: Arc<str>,
    /// The transport that carries its I/O.
    pub transport: Transport,
    /// True if the controller is reached over fabrics and is not a part of this host.
    pub over_fabrics: bool,
    /// True for a discovery or administrative controller. No path goes over it.
    pub has_no_namespaces: bool,
    /// Its ends: interface or host port, subsystem NQN, and address.
    pub ports: Ports,
    /// The source address; `None` while it is unknown, or if there is none.
    pub source: Option<IpAddr>,
    /// The kernel's timeouts for it.
    pub timeouts: NvmeTimeouts,
    /// How often the kernel has reset the controller, including after a lost connection (Linux 7.2
    /// and later). `None` if the kernel does not say. Root may set the count to 0.
    pub resets: Option<u64>,
}

/// The kernel's timeouts for an NVMe over Fabrics controller, in seconds as it prints them, or
/// `off`. Empty where it has no such limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeTimeouts {
    /// `ctrl_loss_tmo`: after this time without a connection the kernel removes the controller.
    pub ctrl_loss: Arc<str>,
    /// `fast_io_fail_tmo`: after this time without a connection the kernel fails the I/O that waits
    /// for the controller.
    pub fast_io_fail: Arc<str>,
    /// `reconnect_delay`: the time between two attempts to connect.
    pub reconnect_delay: Arc<str>,
}

impl NvmeController {
    /// The state of a controller that carries I/O.
    pub const LIVE: &str = "live";

    /// Returns true if it carries I/O.
    pub(crate) fn is_live(&self) -> bool {
        &*self.state == Self::LIVE
    }

    /// Returns true if it is being removed, by an administrator or because the kernel has given up.
    pub(crate) fn is_deleted(&self) -> bool {
        is_deleted(&self.state)
    }
}

/// An NVMe subsystem that has multipath devices, or controllers through which it could have some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NvmeSubsystem {
    /// The subsystem's NQN.
    pub target: Arc<str>,
    /// The I/O policy, by which the kernel spreads I/O over paths: `numa`, `round-robin`,
    /// `queue-depth`. `None` if the kernel shows none.
    pub iopolicy: Option<Arc<str>>,
    /// Paths to namespaces for which the kernel has made no head, because none of them has been
    /// usable since the connect. `None` without a controller.
    pub unreachable_namespaces: Option<usize>,
    /// The number of live controllers, over fabrics or not.
    pub live_controllers: usize,
    /// The kernel names of its devices, such as `nvme0n1`.
    pub devices: Vec<Arc<str>>,
}

/// Returns true if a controller in this state is being removed. The kernel prints `deleting` and
/// `deleting (no IO)`.
pub(crate) fn is_deleted(state: &str) -> bool {
    state.starts_with("deleting")
}

/// The hardware below an initiator port. The port breaks with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapter {
    /// The physical ports that carry it, sorted. For a bond, team or bridge these are its ports
    /// that are up, otherwise the port itself.
    pub ports: Vec<Arc<str>>,
    /// True if a hypervisor made the port. The hardware behind it is unknown.
    pub is_virtual: bool,
    /// The name of the FC fabric that it is connected to. Empty if there is none, or the kernel
    /// does not know it.
    pub fabric: Arc<str>,
}

/// Adapters by [`Ports::initiator_port`]. A port without an entry is itself the hardware.
pub type Adapters = BTreeMap<Arc<str>, Adapter>;

/// All sessions, ports and controllers of one host at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transports {
    /// iSCSI sessions, by name.
    pub iscsi_sessions: Vec<Arc<IscsiSession>>,
    /// Host ports, by the name of their SCSI host.
    pub fc_host_ports: Vec<Arc<FcHostPort>>,
    /// Remote ports that are or have been SCSI targets, by the kernel's name.
    pub fc_remote_ports: Vec<Arc<FcRemotePort>>,
    /// NVMe controllers over fabrics that have namespaces, by name.
    pub nvme_controllers: Vec<Arc<NvmeController>>,
    /// NVMe subsystems, by NQN.
    pub nvme_subsystems: Vec<NvmeSubsystem>,
    /// The hardware below the initiator ports.
    pub adapters: Arc<Adapters>,
}

impl Transports {
    /// Returns the source addresses of connections whose interface is unknown, each with what
    /// stands in for the interface: an empty text or the address.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        let sessions = self.iscsi_sessions.iter().map(|session| (session.source, &session.ports.initiator_port));
        let controllers = self.nvme_controllers.iter();
        let controllers = controllers.map(|controller| (controller.source, &controller.ports.initiator_port));
        let sources = sessions.chain(controllers).filter_map(|(source, port)| Some((source?, &**port)));
        sources.filter(|(_, port)| port.is_empty() || port.parse::<IpAddr>().is_ok())
    }
}

/// Returns the Fibre Channel fabric of a path, if the kernel knows it.
pub(crate) fn fabric_of<'a>(path: &Path, adapters: &'a Adapters) -> Option<&'a str> {
    adapters.get(&path.ports.initiator_port).map(|adapter| &*adapter.fabric).filter(|fabric| !fabric.is_empty())
}

impl Snapshot {
    /// Returns the host ports that were up within the memory window, by WWPN. If several have one
    /// name, the one that is up counts.
    pub(crate) fn fc_host_ports(&self) -> BTreeMap<&str, &FcHostPort> {
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

    /// Returns the remote ports that were up within the memory window, by the WWPN of the host port
    /// and by their own. The kernel may have a port twice, the second time under the object of an
    /// earlier login. Then the one that is up counts, else the one that is present.
    pub(crate) fn fc_remote_ports(&self) -> BTreeMap<(&str, &str), &FcRemotePort> {
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

/// Numbers of failures since the exporter started, by the ports at both ends.
pub type Failures = BTreeMap<Ports, u64>;

/// A configured iSCSI bond: networks over which some targets must be reachable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IscsiBond {
    /// The name of the bond.
    pub name: Arc<str>,
    /// Each network by its name in the configuration, and true if it is up. A network is up if
    /// every target of the bond that has a session has a logged-in one over it.
    pub networks: Vec<(Arc<str>, bool)>,
    /// True if this host has, or had, a network of the bond. Otherwise oVirt uses the default
    /// network, and no network of the bond can be down.
    pub is_watched: bool,
}
