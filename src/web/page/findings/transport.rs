//! Problems of sessions, controllers, ports and bonds.

use super::Found;
use crate::topology::{FcHostPort, IscsiBond, IscsiSession, Snapshot};
use crate::web::page::escape::Escaped;
use crate::web::page::words::Count;
use crate::web::page::words::Severity::{Critical, Note, Warning};
use crate::web::page::words::{are, have, it};

/// Adds the problems of the transports.
pub(crate) fn find(snapshot: &Snapshot, found: &mut Found) {
    let bond = |is_meant: fn(usize, usize) -> bool| {
        let bonds = snapshot.iscsi_bonds.iter().filter(|bond| bond.is_watched).map(|bond| (&bond.name, &bond.networks));
        let bonds = bonds.filter(move |(_, networks)| {
            let up = networks.iter().filter(|(_, up)| *up).count();
            is_meant(up, networks.len())
        });
        bonds.map(|(name, networks)| {
            let down = networks.iter().filter(|(_, up)| !up).map(|(name, _)| Escaped(name).to_string());
            format!("{} ({})", Escaped(name), down.collect::<Vec<_>>().join(", "))
        })
    };
    found.add(Critical, "MultipathIscsiBondDown", bond(|up, _| up == 0).collect(), |number| {
        format!("No network of {} reaches its targets", Count(number, "iSCSI bond"))
    });
    let transports = &snapshot.transports;
    let sessions = transports.iscsi_sessions.iter().filter(|session| !session.is_logged_in());
    let sessions = sessions.map(|session| {
        let IscsiSession { name, ports, state, .. } = &**session;
        let (to, from) = (Escaped(&ports.target_port), Escaped(&ports.initiator_port));
        format!("{to} through {from} ({}, {})", Escaped(name), Escaped(state))
    });
    found.add(Warning, "MultipathIscsiSessionDown", sessions.collect(), |number| {
        format!("{} of {} {} down", number, Count(transports.iscsi_sessions.len(), "iSCSI session"), are(number))
    });
    let controllers = transports.nvme_controllers.iter().filter(|controller| !controller.is_live());
    let controllers = controllers.map(|controller| {
        let (to, from, state) = (&controller.ports.target_port, &controller.ports.initiator_port, &controller.state);
        format!("{} to {} through {} ({})", Escaped(&controller.name), Escaped(to), Escaped(from), Escaped(state))
    });
    found.add(Warning, "MultipathNvmeControllerDown", controllers.collect(), |number| {
        format!("{} of {} {} down", number, Count(transports.nvme_controllers.len(), "NVMe controller"), are(number))
    });
    let unreachable = transports.nvme_subsystems.iter().filter_map(|subsystem| {
        let number = subsystem.unreachable_namespaces.filter(|number| *number > 0)?;
        Some(format!("{} ({})", Escaped(&subsystem.target), Count(number, "path")))
    });
    found.add(Warning, "MultipathNvmeNamespaceUnreachable", unreachable.collect(), |number| {
        format!("{} {} namespaces that cannot be reached", Count(number, "NVMe subsystem"), have(number))
    });
    found.add(Warning, "MultipathIscsiBondNetworkDown", bond(|up, all| up > 0 && up < all).collect(), |number| {
        format!("{} {} a network that does not reach all targets", Count(number, "iSCSI bond"), have(number))
    });
    let (empty, elsewhere): (Vec<_>, Vec<_>) =
        snapshot.iscsi_bonds.iter().filter(|bond| !bond.is_watched).partition(|bond| bond.networks.is_empty());
    let names = |bonds: Vec<&IscsiBond>| bonds.into_iter().map(|bond| Escaped(&bond.name).to_string()).collect();
    found.add(Note, "MultipathIscsiBondNetworkDown", names(elsewhere), |number| {
        format!(
            "This host has no network of {}, so the exporter does not watch {}",
            Count(number, "iSCSI bond"),
            it(number)
        )
    });
    found.add(Note, "MultipathIscsiBondNetworkDown", names(empty), |number| {
        let (bonds, have, it) = (Count(number, "iSCSI bond"), have(number), it(number));
        format!("{bonds} {have} no networks in the configuration, so the exporter does not watch {it}")
    });
    let named = |port: &FcHostPort| format!("{} ({})", Escaped(&port.port_name), Escaped(&port.state));
    let hosts = snapshot.fc_host_ports().into_values().filter(|port| !port.is_up()).map(named);
    found.add(Warning, "MultipathFcHostPortDown", hosts.collect(), |number| {
        format!("{} of this host {} down", Count(number, "Fibre Channel port"), are(number))
    });
    // A port that was never cabled is always down. It is not a problem.
    let unused = transports.fc_host_ports.iter().filter(|port| !port.is_up() && !port.port_name.is_empty());
    let unused = unused.filter(|port| !snapshot.remembered.fc_host_ports.contains(&port.port_name));
    found.add(Note, "MultipathFcHostPortDown", unused.map(|port| named(port)).collect(), |number| {
        format!("{} of this host {} down and not in use", Count(number, "Fibre Channel port"), are(number))
    });
    let remote = snapshot.fc_remote_ports().into_iter().filter(|(_, port)| !port.is_up());
    let remote = remote
        .map(|((from, to), port)| format!("{} through {} ({})", Escaped(to), Escaped(from), Escaped(&port.state)));
    found.add(Warning, "MultipathFcRemotePortDown", remote.collect(), |number| {
        format!("{} of the storage cannot be reached", Count(number, "Fibre Channel port"))
    });
}
