//! Fibre Channel ports, as metric families.

use std::collections::BTreeMap;
use std::fmt;

use crate::metrics::{Families, labels};
use crate::topology::{FcRemotePort, Snapshot};

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

/// Writes the families of ports.
pub fn encode(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
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
