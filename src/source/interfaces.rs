//! The network interfaces of this host, to say which of them a connection leaves through.
//!
//! `getifaddrs(3)` waits for the kernel's `rtnl` lock, which a network driver that hangs can hold for good. Paths over
//! that network fail at that very moment, so the reading of transports never asks for it: it is given the last answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Error, recorded, witness};

/// Which interface has which address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `None` if that has not been read yet.
    owned: Option<Vec<(IpAddr, Arc<str>)>>,
    /// Addresses that some connection came from when these were asked for, and that no interface had.
    foreign: BTreeSet<IpAddr>,
}

impl From<Vec<(IpAddr, Arc<str>)>> for Addresses {
    fn from(addresses: Vec<(IpAddr, Arc<str>)>) -> Self {
        Addresses { owned: Some(addresses), foreign: BTreeSet::new() }
    }
}

impl Addresses {
    /// Those of this host, or of the one that a capture was made on.
    ///
    /// # Errors
    /// If the kernel does not give them, or the capture cannot be read.
    pub(crate) fn read(capture: Option<&Path>) -> Result<Self, Error> {
        let Some(capture) = capture else { return own() };
        let interfaces = recorded::read(capture)?.interfaces.into_iter();
        let owned = interfaces.filter_map(|(address, name)| Some((address.parse().ok()?, name.into())));
        Ok(Addresses::from(owned.collect::<Vec<_>>()))
    }

    /// The same, asked for while there were connections from these addresses.
    pub(crate) fn beside(self, sources: &BTreeSet<IpAddr>) -> Self {
        let foreign = sources.iter().filter(|source| self.owner(source).is_none()).copied().collect();
        Addresses { foreign, ..self }
    }

    fn owner(&self, address: &IpAddr) -> Option<&Arc<str>> {
        self.owned.iter().flatten().find(|(own, _)| own == address).map(|(_, owner)| owner)
    }

    /// The interface that a connection from this address leaves through: the one that has the address. If none has it, the
    /// address stands for the interface: an offload adapter keeps its address to itself. Empty if that is not known yet.
    ///
    /// `last` is the answer of last time. An interface that has lost the address is still the one that it was.
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

    /// Whether no interface has this address, and one may have got it since these were asked for.
    pub(crate) fn are_older_than(&self, source: &IpAddr) -> bool {
        self.owned.is_some() && !self.foreign.contains(source) && self.owner(source).is_none()
    }

    /// Whether an interface has an address of this network; `None` if that is not known yet.
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

/// An IPv4 address may be told under a label of its own, `eth1:iscsi`. No interface has a colon in its name.
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
    fn an_address_stands_for_an_interface_only_where_there_never_was_one() {
        let before = Addresses::from(vec![("192.0.2.1".parse().unwrap(), "eth1".into())]);
        let sources = ["192.0.2.9", "2001:db8::1", "192.0.2.1"].map(|source| source.parse().unwrap());
        let addresses = before.clone().beside(&sources.into());
        for (addresses, source, last, expected) in [
            (&addresses, "192.0.2.1", "", "eth1"),
            (&addresses, "192.0.2.1", "192.0.2.1", "eth1"),
            (&addresses, "192.0.2.1", "eth2", "eth1"),
            // An interface may have got it since.
            (&before, "192.0.2.9", "", ""),
            (&before, "192.0.2.9", "192.0.2.8", ""),
            (&before, "192.0.2.9", "eth2", "eth2"),
            (&addresses, "192.0.2.9", "", "192.0.2.9"),
            (&addresses, "192.0.2.9", "192.0.2.8", "192.0.2.9"),
            (&addresses, "2001:0db8:0000:0000:0000:0000:0000:0001", "", "2001:db8::1"),
            // It has just lost the address.
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
    fn a_label_names_its_interface() {
        assert_eq!((name("eth1"), name("eth1:iscsi"), name("bond0.12")), ("eth1", "eth1", "bond0.12"));
    }
}
