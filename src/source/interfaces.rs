//! The network interfaces of this host. They show through which interface a connection leaves.
//!
//! `getifaddrs(3)` waits for the kernel's `rtnl` lock. A network driver that hangs can hold this
//! lock for good, at the very moment when the paths over that network fail. The reading of
//! transports therefore never asks the kernel for addresses; it receives the last answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Error, recorded, witness};

/// The addresses of the network interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `None` before the first read.
    owned: Option<Vec<(IpAddr, Arc<str>)>>,
    /// Source addresses of connections that no interface had when the addresses were read.
    foreign: BTreeSet<IpAddr>,
}

impl From<Vec<(IpAddr, Arc<str>)>> for Addresses {
    fn from(addresses: Vec<(IpAddr, Arc<str>)>) -> Self {
        Addresses { owned: Some(addresses), foreign: BTreeSet::new() }
    }
}

impl Addresses {
    /// Reads the addresses of this host, or of the host on which the capture was made.
    ///
    /// # Errors
    /// If the kernel does not give the addresses, or the capture cannot be read.
    pub(crate) fn read(capture: Option<&Path>) -> Result<Self, Error> {
        let Some(capture) = capture else { return own() };
        let interfaces = recorded::read(capture)?.interfaces.into_iter();
        let owned = interfaces.filter_map(|(address, name)| Some((address.parse().ok()?, name.into())));
        Ok(Addresses::from(owned.collect::<Vec<_>>()))
    }

    /// Returns the same addresses, as read while connections from these sources existed.
    pub(crate) fn beside(self, sources: &BTreeSet<IpAddr>) -> Self {
        let foreign = sources.iter().filter(|source| self.owner(source).is_none()).copied().collect();
        Addresses { foreign, ..self }
    }

    fn owner(&self, address: &IpAddr) -> Option<&Arc<str>> {
        self.owned.iter().flatten().find(|(own, _)| own == address).map(|(_, owner)| owner)
    }

    /// Returns the interface through which a connection from this address leaves: the one that has
    /// the address. If no interface has it, the address itself is returned: an offload adapter
    /// keeps its address to itself. Empty if the answer is not known yet.
    ///
    /// `last` is the previous answer. It stays valid if the interface has lost the address.
    pub(crate) fn leave_from(&self, source: IpAddr, last: &Arc<str>) -> Arc<str> {
        match self.owner(&source) {
            Some(owner) => {
                witness::interface(source, owner);
                Arc::clone(owner)
            }
            None if !last.is_empty() && last.parse::<IpAddr>().is_err() => Arc::clone(last),
            None if self.foreign.contains(&source) => source.to_string().into(),
            None => Arc::default(),
        }
    }

    /// Returns true if no interface had this address at the last read, but one may have received it
    /// since.
    pub(crate) fn are_older_than(&self, source: &IpAddr) -> bool {
        self.owned.is_some() && !self.foreign.contains(source) && self.owner(source).is_none()
    }

    /// Returns true if an interface has an address in this network. `None` if this is not known
    /// yet.
    pub(crate) fn have_any_of(&self, network: &IpNet) -> Option<bool> {
        Some(self.owned.as_ref()?.iter().any(|(own, _)| network.contains(own)))
    }
}

fn own() -> Result<Addresses, Error> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|cause| Error::new("network interfaces", cause))?;
    let owned = interfaces.filter_map(|interface| {
        let address = ip_address(interface.address.as_ref()?)?;
        Some((address, name(&interface.interface_name).into()))
    });
    Ok(Addresses::from(owned.collect::<Vec<_>>()))
}

/// Returns the interface of a label. An IPv4 address may have a label of its own, `eth1:iscsi`. No
/// interface has a colon in its name.
fn name(label: &str) -> &str {
    label.split(':').next().unwrap_or(label)
}

fn ip_address(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_its_address() {
        let interfaces = Addresses::read(None).unwrap();
        assert_eq!(&*interfaces.leave_from("127.0.0.1".parse().unwrap(), &"".into()), "lo");
    }

    #[test]
    fn an_address_replaces_an_interface_only_if_none_ever_had_it() {
        let before = Addresses::from(vec![("192.0.2.1".parse().unwrap(), "eth1".into())]);
        let sources = ["192.0.2.9", "2001:db8::1", "192.0.2.1"].map(|source| source.parse().unwrap());
        let addresses = before.clone().beside(&sources.into());
        for (addresses, source, last, expected) in [
            (&addresses, "192.0.2.1", "", "eth1"),
            (&addresses, "192.0.2.1", "192.0.2.1", "eth1"),
            (&addresses, "192.0.2.1", "eth2", "eth1"),
            // An interface may have received the address since.
            (&before, "192.0.2.9", "", ""),
            (&before, "192.0.2.9", "192.0.2.8", ""),
            (&before, "192.0.2.9", "eth2", "eth2"),
            (&addresses, "192.0.2.9", "", "192.0.2.9"),
            (&addresses, "192.0.2.9", "192.0.2.8", "192.0.2.9"),
            (&addresses, "2001:0db8:0000:0000:0000:0000:0000:0001", "", "2001:db8::1"),
            // The interface has just lost the address.
            (&addresses, "192.0.2.9", "eth2", "eth2"),
            (&Addresses::default(), "192.0.2.1", "", ""),
        ] {
            let source = source.parse().unwrap();
            let told = addresses.leave_from(source, &last.into());
            assert_eq!(&*told, expected, "{source}, last {last:?}");
            assert_eq!(addresses.are_older_than(&source), *addresses == before && source != sources[2], "{source}");
        }
    }

    #[test]
    fn a_label_yields_its_interface() {
        assert_eq!((name("eth1"), name("eth1:iscsi"), name("bond0.12")), ("eth1", "eth1", "bond0.12"));
    }
}
