//! Which networks of the configured iSCSI bonds this host reaches its targets over.
//!
//! A host that is in maintenance has logged out of all targets of a bond, and one that has none of its networks reaches them
//! over the default network. Neither is an outage.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{self, Network};
use crate::source::interfaces::Addresses;
use crate::topology::{IscsiBond, IscsiSession, Transports};

/// The bonds of which a target has a session on this host. One is left out while it is not known whether the host has any
/// of its networks.
pub fn look(bonds: &[config::IscsiBond], transports: &Transports, addresses: &Addresses) -> Vec<IscsiBond> {
    bonds.iter().filter_map(|bond| look_at(bond, transports, addresses)).collect()
}

fn look_at(bond: &config::IscsiBond, transports: &Transports, addresses: &Addresses) -> Option<IscsiBond> {
    // A session that is just being made does not know its target yet.
    let of_bond = |session: &&Arc<IscsiSession>| {
        let target = &session.ports.target;
        !target.is_empty() && bond.targets.iter().any(|glob| glob.fits(target))
    };
    let sessions: Vec<_> = transports.iscsi_sessions.iter().filter(of_bond).collect();
    if sessions.is_empty() {
        return None;
    }
    let targets: BTreeSet<_> = sessions.iter().map(|session| &session.ports.target).collect();
    let is_up = |network: &Network| {
        let over = sessions.iter().filter(|session| session.is_logged_in() && is_over(session, network));
        over.map(|session| &session.ports.target).collect::<BTreeSet<_>>() == targets
    };
    let has_some = has_some(&bond.networks, transports, addresses)?;
    let networks = bond.networks.iter().map(|network| (network.name.as_str().into(), is_up(network)));
    Some(IscsiBond { name: bond.name.as_str().into(), networks: has_some.then(|| networks.collect()) })
}

/// Whether this host has some of the networks; `None` if that is not known yet. The address of an offload adapter, or that of
/// a session which is down, may be none of the host's.
fn has_some(networks: &[Network], transports: &Transports, addresses: &Addresses) -> Option<bool> {
    let sessions = &transports.iscsi_sessions;
    let is_here = |network: &Network| match sessions.iter().any(|session| is_over(session, network)) {
        true => Some(true),
        false => network.is_here(&transports.adapters, addresses),
    };
    let are_here: Vec<Option<bool>> = networks.iter().map(is_here).collect();
    match are_here.contains(&Some(true)) {
        false if are_here.contains(&None) => None,
        some => Some(some),
    }
}

fn is_over(session: &IscsiSession, network: &Network) -> bool {
    network.carries(&session.ports.initiator_port, session.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::topology::{Adapter, Adapters, Ports};

    const BONDS: &str = "iscsi_bonds:\n- {name: storage, networks: [eth1, 192.0.2.0/24, eth3], targets: ['iqn.2003-01.org.example:*']}\n";
    const A: &str = "iqn.2003-01.org.example:a";
    const B: &str = "iqn.2003-01.org.example:b";

    fn session(target: &str, interface: &str, source: &str, state: &str) -> Arc<IscsiSession> {
        let ports = Ports { initiator_port: interface.into(), target: target.into(), ..Ports::default() };
        Arc::new(IscsiSession { ports, source: source.parse().ok(), state: state.into(), ..IscsiSession::default() })
    }

    /// What the only bond's networks are, on a host with these sessions, interfaces, and addresses.
    fn networks(
        config: &str,
        sessions: &[Arc<IscsiSession>],
        interfaces: &[&str],
        addresses: Option<&[&str]>,
    ) -> Option<Option<Vec<bool>>> {
        let config = Config::parse(config).unwrap();
        let adapters: Adapters = interfaces.iter().map(|name| (Arc::from(*name), Adapter::default())).collect();
        let transports =
            Transports { iscsi_sessions: sessions.to_vec(), adapters: adapters.into(), ..Transports::default() };
        let of = |addresses: &[&str]| -> Vec<_> {
            addresses.iter().map(|own| (own.parse().unwrap(), Arc::default())).collect()
        };
        let addresses = addresses.map(|addresses| of(addresses).into()).unwrap_or_default();
        let bonds = look(&config.iscsi_bonds, &transports, &addresses);
        assert!(bonds.len() < 2, "{bonds:?}");
        bonds.into_iter().next().map(|bond| bond.networks.map(|all| all.into_iter().map(|(_, up)| up).collect()))
    }

    #[test]
    fn a_network_is_up_if_all_targets_are_reached_over_it() {
        let stranger = "iqn.2024-01.net.example:c";
        for (sessions, up) in [
            (vec![session(A, "eth1", "198.51.100.1", "LOGGED_IN")], [true, false, false]),
            (vec![session(A, "eth1", "198.51.100.1", "FAILED")], [false, false, false]),
            (
                vec![session(A, "eth1", "198.51.100.1", "LOGGED_IN"), session(A, "eth2", "192.0.2.7", "LOGGED_IN")],
                [true, true, false],
            ),
            // The other target has a session, but not over eth1.
            (
                vec![session(A, "eth1", "198.51.100.1", "LOGGED_IN"), session(B, "eth2", "192.0.2.7", "FREE")],
                [false, false, false],
            ),
            // One of two sessions of a target over the same network is enough.
            (
                vec![session(A, "eth1", "198.51.100.1", "FREE"), session(A, "eth1", "198.51.100.2", "LOGGED_IN")],
                [true, false, false],
            ),
            (
                vec![session(A, "eth1", "198.51.100.1", "LOGGED_IN"), session(stranger, "eth9", "203.0.113.1", "FREE")],
                [true, false, false],
            ),
        ] {
            assert_eq!(networks(BONDS, &sessions, &[], Some(&[])), Some(Some(up.to_vec())), "{sessions:?}");
        }
    }

    #[test]
    fn a_bond_is_watched_where_the_host_has_a_session_and_a_network() {
        let by_default = [session(A, "eth0", "203.0.113.1", "LOGGED_IN")];
        let all_down = Some(Some(vec![false; 3]));
        for (sessions, interfaces, addresses, expected) in [
            // Neither logged in to.
            (&[][..], &["eth1"][..], Some(&["192.0.2.7"][..]), None),
            (&[session("", "eth1", "192.0.2.7", "FREE")], &["eth1"], Some(&["192.0.2.7"]), None),
            (&by_default, &["eth0"], Some(&["203.0.113.1"]), Some(None)),
            // It has one of the three, by name or by address.
            (&by_default, &["eth0", "eth3"], Some(&["203.0.113.1"]), all_down.clone()),
            (&by_default, &["eth0"], Some(&["203.0.113.1", "192.0.2.7"]), all_down.clone()),
            // Only a session tells of it: an offload adapter's address, an interface of another namespace.
            (&[session(A, "192.0.2.9", "192.0.2.9", "FAILED")], &[], Some(&[]), all_down.clone()),
            (&[session(A, "eth3", "", "FREE")], &[], Some(&[]), all_down.clone()),
            // It may have the range.
            (&by_default, &["eth0"], None, None),
            (&by_default, &["eth1"], None, all_down),
        ] {
            let what = format!("{sessions:?} {interfaces:?} {addresses:?}");
            assert_eq!(networks(BONDS, sessions, interfaces, addresses), expected, "{what}");
        }
    }

    #[test]
    fn an_empty_bond_has_no_network_that_could_be_down() {
        let empty = "iscsi_bonds: [{name: storage, networks: [], targets: ['*']}]\n";
        let sessions = [session(A, "eth0", "203.0.113.1", "LOGGED_IN")];
        assert_eq!(networks(empty, &sessions, &["eth0"], Some(&["203.0.113.1"])), Some(None));
        assert_eq!(networks(empty, &sessions, &[], None), Some(None));
    }
}
