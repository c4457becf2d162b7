//! Metric families of Fibre Channel ports.

use std::fmt;

use crate::metrics::{Families, labels};
use crate::topology::Snapshot;

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

/// Writes the families of host ports and remote ports.
pub fn encode(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let hosts = snapshot.fc_host_ports();
    families.gauge(
        "multipath_fc_host_port_up",
        "1 if the Fibre Channel host port is online; only ports that were online or carried a path in the memory window",
        hosts.iter().map(|(initiator_port, port)| (HostPort { initiator_port }, u64::from(port.is_up()))),
    )?;
    let remote = snapshot.fc_remote_ports();
    families.gauge(
        "multipath_fc_remote_port_up",
        "1 if the Fibre Channel remote port is online or marginal; kept until the memory window ends",
        remote.iter().map(|((initiator_port, target_port), port)| {
            (RemotePort { initiator_port, target_port }, u64::from(port.is_up()))
        }),
    )?;
    families.gauge(
        "multipath_fc_remote_port_state",
        "Current state of the Fibre Channel remote port",
        remote.iter().map(|((initiator_port, target_port), port)| {
            (RemotePortState { initiator_port, target_port, state: &port.state }, 1u64)
        }),
    )
}
