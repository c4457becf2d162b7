//! The network interfaces of this host, to say which of them a connection leaves through.
//!
//! `getifaddrs(3)` waits for the kernel's `rtnl` lock, which a network driver that hangs can hold for good. That is the very
//! moment in which paths over that network fail, so the reading of transports never asks for it: it is given the last answer.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::{Error, recorded, witness};

/// Which interface has which address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<(IpAddr, Arc<str>)>);

impl From<Vec<(IpAddr, Arc<str>)>> for Addresses {
    fn from(addresses: Vec<(IpAddr, Arc<str>)>) -> Self {
        Addresses(addresses)
    }
}

impl Addresses {
    /// Those of this host, or of the one that a capture was made on.
    ///
    /// # Errors
    /// If the kernel does not give them, or the capture cannot be read.
    pub fn read(capture: Option<&Path>) -> Result<Self, Error> {
        let Some(capture) = capture else { return own() };
        let interfaces = recorded::read(capture)?.interfaces.into_iter();
        Ok(Addresses(interfaces.filter_map(|(address, name)| Some((address.parse().ok()?, name.into()))).collect()))
    }

    /// The interface that has this address; empty if none has.
    pub fn owner_of(&self, address: IpAddr) -> Arc<str> {
        let Some((_, owner)) = self.0.iter().find(|(own, _)| *own == address) else { return Arc::default() };
        witness::interface(address, owner);
        Arc::clone(owner)
    }
}

fn own() -> Result<Addresses, Error> {
    let interfaces = nix::ifaddrs::getifaddrs().map_err(|cause| Error::new("network interfaces", cause))?;
    let owned = interfaces.filter_map(|interface| {
        let address = ip_address(interface.address.as_ref()?)?;
        Some((address, name(&interface.interface_name).into()))
    });
    Ok(Addresses(owned.collect()))
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
        assert_eq!(&*interfaces.owner_of("127.0.0.1".parse().unwrap()), "lo");
        assert_eq!(&*interfaces.owner_of("192.0.2.255".parse().unwrap()), "");
    }

    #[test]
    fn a_label_names_its_interface() {
        assert_eq!((name("eth1"), name("eth1:iscsi"), name("bond0.12")), ("eth1", "eth1", "bond0.12"));
    }
}
