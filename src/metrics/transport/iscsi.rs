//! Metric families of iSCSI sessions and bonds.

use std::fmt;

use super::failures;
use crate::metrics::{Families, labels};
use crate::topology::{IscsiSession, Snapshot};

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

labels!(Bond {
    bond: &'a str,
});

labels!(BondNetwork {
    bond: &'a str,
    network: &'a str,
});

/// Writes the families of sessions and bonds. Only with `events` it writes those that count events
/// since the start.
pub fn encode(snapshot: &Snapshot, events: bool, families: &mut Families) -> fmt::Result {
    sessions(snapshot, families)?;
    if events {
        failures(
            families,
            "multipath_iscsi_session_failures",
            "Times an iSCSI session between these ports was lost without a logout, as seen by re-reads",
            &snapshot.iscsi_session_failures,
        )?;
    }
    bonds(snapshot, families)
}

fn sessions(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let sessions = || snapshot.transports.iscsi_sessions.iter();
    families.gauge(
        "multipath_iscsi_session_up",
        "1 if the iSCSI session is logged in",
        sessions().map(|session| (labels_of(session), u64::from(session.is_logged_in()))),
    )?;
    families.gauge(
        "multipath_iscsi_session_state",
        "Current state of the iSCSI session",
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

fn bonds(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let bonds = || snapshot.iscsi_bonds.iter().filter(|bond| bond.is_watched).map(|bond| (&bond.name, &bond.networks));
    families.gauge(
        "multipath_iscsi_bond_network_up",
        "1 if every target of the iSCSI bond that has a session also has a logged-in session over this network",
        bonds().flat_map(|(bond, networks)| {
            networks.iter().map(|(network, up)| (BondNetwork { bond, network }, u64::from(*up)))
        }),
    )?;
    families.gauge(
        "multipath_iscsi_bond_networks",
        "Configured networks of the iSCSI bond",
        bonds().map(|(bond, networks)| (Bond { bond }, networks.len() as u64)),
    )?;
    families.gauge(
        "multipath_iscsi_bond_networks_up",
        "Networks of the iSCSI bond that are up",
        bonds().map(|(bond, networks)| {
            let up = networks.iter().filter(|(_, up)| *up).count();
            (Bond { bond }, up as u64)
        }),
    )
}
