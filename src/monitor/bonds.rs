//! Which networks of the configured iSCSI bonds this host reaches its targets over.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config;
use crate::topology::{IscsiBond, IscsiSession};

/// Holds the sessions against the configured bonds.
pub fn look(bonds: &[config::IscsiBond], sessions: &[Arc<IscsiSession>]) -> Vec<IscsiBond> {
    let bond = |bond: &config::IscsiBond| {
        // A session that is just being made does not know its target yet.
        let of_bond = |session: &&Arc<IscsiSession>| {
            let target = &session.ports.target;
            !target.is_empty() && bond.targets.iter().any(|glob| glob.fits(target))
        };
        let sessions: Vec<_> = sessions.iter().filter(of_bond).collect();
        let targets: BTreeSet<_> = sessions.iter().map(|session| &session.ports.target).collect();
        let networks = bond.networks.iter().map(|network| {
            let reached: BTreeSet<_> = sessions
                .iter()
                .filter(|session| session.is_logged_in())
                .filter(|session| network.carries(&session.ports.initiator_port, session.source))
                .map(|session| &session.ports.target)
                .collect();
            (network.name.as_str().into(), !targets.is_empty() && reached == targets)
        });
        IscsiBond { name: bond.name.as_str().into(), networks: networks.collect() }
    };
    bonds.iter().map(bond).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::topology::Ports;

    fn session(target: &str, interface: &str, source: &str, state: &str) -> Arc<IscsiSession> {
        let ports = Ports { initiator_port: interface.into(), target: target.into(), ..Ports::default() };
        Arc::new(IscsiSession { ports, source: source.parse().ok(), state: state.into(), ..IscsiSession::default() })
    }

    #[test]
    fn a_network_is_up_if_all_targets_are_reached_over_it() {
        let config = Config::parse(
            "iscsi_bonds:\n- {name: storage, networks: [eth1, 192.0.2.0/24, eth3], targets: ['iqn.2003-01.org.example:*']}\n",
        )
        .unwrap();
        let (a, b, stranger) = ("iqn.2003-01.org.example:a", "iqn.2003-01.org.example:b", "iqn.2024-01.net.example:c");
        for (sessions, up) in [
            (vec![], [false, false, false]),
            (vec![session(a, "eth1", "198.51.100.1", "LOGGED_IN")], [true, false, false]),
            (vec![session(a, "eth1", "198.51.100.1", "FAILED")], [false, false, false]),
            (
                vec![session(a, "eth1", "198.51.100.1", "LOGGED_IN"), session(a, "eth2", "192.0.2.7", "LOGGED_IN")],
                [true, true, false],
            ),
            // The other target has a session, but not over eth1.
            (
                vec![session(a, "eth1", "198.51.100.1", "LOGGED_IN"), session(b, "eth2", "192.0.2.7", "FREE")],
                [false, false, false],
            ),
            // One of two sessions of a target over the same network is enough.
            (
                vec![session(a, "eth1", "198.51.100.1", "FREE"), session(a, "eth1", "198.51.100.2", "LOGGED_IN")],
                [true, false, false],
            ),
            (
                vec![session(a, "eth1", "198.51.100.1", "LOGGED_IN"), session(stranger, "eth9", "203.0.113.1", "FREE")],
                [true, false, false],
            ),
        ] {
            let bonds = look(&config.iscsi_bonds, &sessions);
            let networks: Vec<bool> = bonds[0].networks.iter().map(|(_, up)| *up).collect();
            assert_eq!(networks, up, "{sessions:?}");
        }
    }
}
