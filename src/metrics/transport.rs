//! What paths go over, as metric families.

use std::collections::BTreeMap;
use std::fmt;

use super::{Families, labels};
use crate::topology::{DirectUse, FcRemotePort, IscsiSession, Snapshot};

labels!(SessionLabels {
    session: &'a str,
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
});

labels!(SessionState {
    session: &'a str,
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
    state: &'a str,
});

labels!(HostPort {
    initiator_port: &'a str,
});

labels!(RemotePort {
    initiator_port: &'a str,
    target_port: &'a str,
});

labels!(RemotePortState {
    initiator_port: &'a str,
    target_port: &'a str,
    state: &'a str,
});

labels!(Unassembled {
    wwid: &'a str,
});

labels!(UsedDirectly {
    wwid: &'a str,
    disk: &'a str,
    by: &'a str,
});

labels!(Bond {
    bond: &'a str,
});

labels!(BondNetwork {
    bond: &'a str,
    network: &'a str,
});

/// Writes the families of iSCSI and Fibre Channel, and of disks that multipath does not hold, or does not hold alone.
pub fn encode(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    iscsi(snapshot, families)?;
    fibre_channel(snapshot, families)?;
    bonds(snapshot, families)?;
    families.gauge(
        "multipath_unassembled_paths",
        "Paths of a disk that no multipath device holds, nor another driver",
        // A disk that another driver holds is not for multipath, so no alert may tell of it.
        snapshot
            .unassembled
            .iter()
            .filter(|disk| disk.held_by.is_none())
            .map(|disk| (Unassembled { wwid: &disk.wwid }, disk.paths.len() as u64)),
    )?;
    families.gauge(
        "multipath_disk_used_directly",
        "1 for each disk that is used itself though it should be used through its multipath device",
        snapshot.used_directly.iter().map(|DirectUse { wwid, disk, by }| (UsedDirectly { wwid, disk, by }, 1u64)),
    )
}

fn iscsi(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let sessions = || snapshot.transports.iscsi_sessions.iter();
    families.gauge(
        "multipath_iscsi_session_up",
        "1 if the iSCSI session is logged in",
        sessions().map(|session| (labels_of(session), u64::from(session.is_logged_in()))),
    )?;
    families.gauge(
        "multipath_iscsi_session_state",
        "Present state of the iSCSI session",
        sessions().map(|session| {
            let SessionLabels { session: name, target, target_port, initiator_port } = labels_of(session);
            (SessionState { session: name, target, target_port, initiator_port, state: &session.state }, 1u64)
        }),
    )?;
    families.gauge(
        "multipath_iscsi_session_paths",
        "Paths of multipath devices that use the iSCSI session",
        sessions().map(|session| {
            let paths = snapshot.iscsi_session_paths.get(&session.name).copied().unwrap_or_default();
            (labels_of(session), paths as u64)
        }),
    )
}

fn labels_of(session: &IscsiSession) -> SessionLabels<'_> {
    SessionLabels {
        session: &session.name,
        target: &session.ports.target,
        target_port: &session.ports.target_port,
        initiator_port: &session.ports.initiator_port,
    }
}

fn fibre_channel(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    // Ports that have no name yet are all called the same.
    let mut hosts: BTreeMap<&str, bool> = BTreeMap::new();
    for port in &snapshot.transports.fc_host_ports {
        *hosts.entry(&port.port_name).or_default() |= port.is_up();
    }
    families.gauge(
        "multipath_fc_host_port_up",
        "1 if the Fibre Channel port of this host is online",
        hosts.into_iter().map(|(initiator_port, up)| (HostPort { initiator_port }, u64::from(up))),
    )?;
    // The kernel may know a port twice, under the object of an earlier login, too: the one that works counts, then the
    // one that is there.
    let mut remote: BTreeMap<(&str, &str), &FcRemotePort> = BTreeMap::new();
    for port in &snapshot.transports.fc_remote_ports {
        let known = remote.entry((&port.ports.initiator_port, &port.ports.target_port)).or_insert(port);
        if port.is_up() || known.is_lost() {
            *known = port;
        }
    }
    families.gauge(
        "multipath_fc_remote_port_up",
        "1 if the Fibre Channel remote port is online",
        remote.iter().map(|((initiator_port, target_port), port)| {
            (RemotePort { initiator_port, target_port }, u64::from(port.is_up()))
        }),
    )?;
    families.gauge(
        "multipath_fc_remote_port_state",
        "Present state of the Fibre Channel remote port",
        remote.iter().map(|((initiator_port, target_port), port)| {
            (RemotePortState { initiator_port, target_port, state: &port.state }, 1u64)
        }),
    )
}

fn bonds(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let bonds = || snapshot.iscsi_bonds.iter();
    families.gauge(
        "multipath_iscsi_bond_network_up",
        "1 if every target of the iSCSI bond that has a session is logged in to over this network, and there is one",
        bonds().flat_map(|bond| {
            let networks = bond.networks.iter();
            networks.map(|(network, up)| (BondNetwork { bond: &bond.name, network }, u64::from(*up)))
        }),
    )?;
    families.gauge(
        "multipath_iscsi_bond_networks",
        "Networks of the iSCSI bond",
        bonds().map(|bond| (Bond { bond: &bond.name }, bond.networks.len() as u64)),
    )?;
    families.gauge(
        "multipath_iscsi_bond_networks_up",
        "Networks of the iSCSI bond that are up",
        bonds().map(|bond| {
            let up = bond.networks.iter().filter(|(_, up)| *up).count();
            (Bond { bond: &bond.name }, up as u64)
        }),
    )
}
