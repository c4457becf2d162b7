//! Which networks of the configured iSCSI bonds this host uses to reach its targets.
//!
//! A host in maintenance has logged out of all targets of a bond. A host that never had any of the
//! bond's networks reaches the targets over the default network. These are no outages. A network
//! that the host once had is expected to stay: an outage may take the host's addresses away too.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{self, Network};
use crate::source::interfaces::Addresses;
use crate::topology::{IscsiBond, IscsiSession, Transports};

/// Remembers the bonds of which this host has had a network.
#[derive(Debug, Default)]
pub(crate) struct Bonds {
    /// The names of the bonds. An outage may remove the addresses of a network, and sessions may
    /// log in again over another network.
    seen: BTreeSet<String>,
}

impl Bonds {
    /// Returns the bonds with a session on this host to one of their targets. A bond is left out
    /// while it is not known if the host has any of its networks.
    pub(crate) fn look(
        &mut self,
        bonds: &[config::ConfiguredBond],
        transports: &Transports,
        addresses: &Addresses,
    ) -> Vec<IscsiBond> {
        bonds.iter().filter_map(|bond| self.look_at(bond, transports, addresses)).collect()
    }

    fn look_at(
        &mut self,
        bond: &config::ConfiguredBond,
        transports: &Transports,
        addresses: &Addresses,
    ) -> Option<IscsiBond> {
        // A session that is just being created does not know its target yet.
        let of_bond = |session: &&Arc<IscsiSession>| {
            let target = &session.ports.target;
            !target.is_empty() && bond.targets.iter().any(|glob| glob.fits(target))
        };
        let sessions: Vec<_> = transports.iscsi_sessions.iter().filter(of_bond).collect();
        if sessions.is_empty() {
            self.seen.remove(&bond.name);
            return None;
        }
        let has_some = has_some(&bond.networks, transports, addresses);
        if has_some == Some(true) {
            self.seen.insert(bond.name.clone());
        }
        let is_watched = self.seen.contains(&bond.name) || may_go_over(&bond.networks, &sessions) || has_some?;
        let targets: BTreeSet<_> = sessions.iter().map(|session| &session.ports.target).collect();
        let is_up = |network: &Network| {
            let over =
                |session: &&&Arc<IscsiSession>| session.is_logged_in() && is_over(session, network) == Some(true);
            sessions.iter().filter(over).map(|session| &session.ports.target).collect::<BTreeSet<_>>() == targets
        };
        let networks = bond.networks.iter().map(|network| (network.name.as_str().into(), is_up(network)));
        Some(IscsiBond { name: bond.name.as_str().into(), networks: networks.collect(), is_watched })
    }
}

/// Returns true if this host has some of the networks, or `None` if that is not known yet. An
/// offload adapter's address, or the address of a session that is down, may belong to no interface
/// of the host.
fn has_some(networks: &[Network], transports: &Transports, addresses: &Addresses) -> Option<bool> {
    let sessions = &transports.iscsi_sessions;
    let is_here = |network: &Network| {
        if sessions.iter().any(|session| is_over(session, network) == Some(true)) {
            Some(true)
        } else {
            network.is_here(&transports.adapters, addresses)
        }
    };
    let are_here: Vec<Option<bool>> = networks.iter().map(is_here).collect();
    let has_some = are_here.contains(&Some(true));
    if !has_some && are_here.contains(&None) { None } else { Some(has_some) }
}

/// Returns true if all sessions of a bond are down and one of them may use one of the networks. A
/// session that was down when the exporter started does not show its source address. A session that
/// is logged in shows that the host reaches the targets in another way.
fn may_go_over(networks: &[Network], sessions: &[&Arc<IscsiSession>]) -> bool {
    let may = |session: &&Arc<IscsiSession>| networks.iter().any(|network| is_over(session, network).is_none());
    !sessions.iter().any(|session| session.is_logged_in()) && sessions.iter().any(may)
}

/// Returns true if the session uses the network, or `None` if that is not known.
fn is_over(session: &IscsiSession, network: &Network) -> Option<bool> {
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

    /// The networks of the only bond on a host with these sessions, interfaces, and addresses.
    /// `None` inside if the bond is not watched.
    fn networks(
        config: &str,
        sessions: &[Arc<IscsiSession>],
        interfaces: &[&str],
        addresses: Option<&[&str]>,
    ) -> Option<Option<Vec<bool>>> {
        networks_next(&mut Bonds::default(), config, sessions, interfaces, addresses)
    }

    fn networks_next(
        bonds: &mut Bonds,
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
        let mut seen = bonds.look(&config.iscsi_bonds, &transports, &addresses).into_iter();
        let up = |bond: IscsiBond| bond.networks.into_iter().map(|(_, up)| up).collect();
        let first = seen.next().map(|bond| bond.is_watched.then(|| up(bond)));
        assert_eq!(seen.next(), None);
        first
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
            // No session is logged in to a target of the bond.
            (&[][..], &["eth1"][..], Some(&["192.0.2.7"][..]), None),
            (&[session("", "eth1", "192.0.2.7", "FREE")], &["eth1"], Some(&["192.0.2.7"]), None),
            (&by_default, &["eth0"], Some(&["203.0.113.1"]), Some(None)),
            // The host has one of the three networks, by name or by address.
            (&by_default, &["eth0", "eth3"], Some(&["203.0.113.1"]), all_down.clone()),
            (&by_default, &["eth0"], Some(&["203.0.113.1", "192.0.2.7"]), all_down.clone()),
            // Only a session shows the network: it has an offload adapter's address, or an
            // interface of another network namespace.
            (&[session(A, "192.0.2.9", "192.0.2.9", "FAILED")], &[], Some(&[]), all_down.clone()),
            (&[session(A, "eth3", "", "FREE")], &[], Some(&[]), all_down.clone()),
            // The host may have the address range.
            (&by_default, &["eth0"], None, None),
            (&by_default, &["eth1"], None, all_down.clone()),
            // The sessions were down when the exporter started, and their addresses are gone.
            (&[session(A, "", "", "FAILED"), session(B, "", "", "FREE")], &[], Some(&[]), all_down.clone()),
            (&[session(A, "", "", "FAILED")], &["eth0"], Some(&["203.0.113.1"]), all_down.clone()),
            (&[session(A, "", "", "FAILED")], &["eth0"], None, all_down),
            // One session is down, and another one shows how this host reaches the targets.
            (
                &[session(A, "", "", "FAILED"), session(A, "eth0", "203.0.113.1", "LOGGED_IN")],
                &["eth0"],
                Some(&["203.0.113.1"]),
                Some(None),
            ),
            (&[session(A, "eth0", "203.0.113.1", "FAILED")], &["eth0"], Some(&["203.0.113.1"]), Some(None)),
            // The source of a session over RDMA is never known.
            (&[session(A, "eth0", "", "LOGGED_IN")], &["eth0"], Some(&["203.0.113.1"]), Some(None)),
        ] {
            let what = format!("{sessions:?} {interfaces:?} {addresses:?}");
            assert_eq!(networks(BONDS, sessions, interfaces, addresses), expected, "{what}");
        }
    }

    #[test]
    fn a_bond_stays_watched_when_its_networks_vanish_in_an_outage() {
        let mut bonds = Bonds::default();
        let mut look =
            |sessions: &[_], addresses| networks_next(&mut bonds, BONDS, sessions, &["eth0", "eth2"], Some(addresses));
        let over_range = session(A, "eth2", "192.0.2.7", "LOGGED_IN");
        assert_eq!(look(&[over_range], &["203.0.113.1", "192.0.2.7"]), Some(Some(vec![false, true, false])));
        // The addresses go, and the sessions log in again over another interface.
        let elsewhere = [session(A, "eth0", "203.0.113.1", "LOGGED_IN")];
        assert_eq!(look(&elsewhere, &["203.0.113.1"]), Some(Some(vec![false; 3])));
        // The host goes into maintenance, and later uses the default network.
        assert_eq!(look(&[session("iqn.2024-01.net.example:c", "eth0", "", "LOGGED_IN")], &["203.0.113.1"]), None);
        assert_eq!(look(&elsewhere, &["203.0.113.1"]), Some(None));
    }

    #[test]
    fn an_empty_bond_has_no_network_that_could_be_down() {
        let empty = "iscsi_bonds: [{name: storage, networks: [], targets: ['*']}]\n";
        let sessions = [session(A, "eth0", "203.0.113.1", "LOGGED_IN")];
        assert_eq!(networks(empty, &sessions, &["eth0"], Some(&["203.0.113.1"])), Some(None));
        assert_eq!(networks(empty, &sessions, &[], None), Some(None));
        assert_eq!(networks(empty, &[session(A, "", "", "FAILED")], &[], None), Some(None));
    }
}
