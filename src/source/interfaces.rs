//! The network interfaces of this host, to say which of them a connection leaves through.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{recorded, witness};

/// Who has which address, as `getifaddrs(3)` tells when it is first asked for: once in a reading, as it waits for whoever
/// is configuring the network just then.
#[derive(Debug, Default)]
pub struct Interfaces {
    addresses: OnceCell<Vec<(IpAddr, Arc<str>)>>,
    /// The capture that tells it instead.
    capture: Option<PathBuf>,
}

impl Interfaces {
    /// Those of this host, or of the one that a capture was made on.
    pub fn of(capture: Option<PathBuf>) -> Self {
        Interfaces { capture, ..Interfaces::default() }
    }

    /// The interface that has this address; empty if none has.
    pub fn owner_of(&self, address: IpAddr) -> Arc<str> {
        let addresses =
            self.addresses.get_or_init(|| self.capture.as_deref().map_or_else(addresses, recorded_addresses));
        let Some((_, owner)) = addresses.iter().find(|(own, _)| *own == address) else { return Arc::default() };
        witness::interface(address, owner);
        Arc::clone(owner)
    }
}

fn recorded_addresses(capture: &Path) -> Vec<(IpAddr, Arc<str>)> {
    let interfaces = recorded::read(capture).unwrap_or_default().interfaces.into_iter();
    interfaces.filter_map(|(address, name)| Some((address.parse().ok()?, name.into()))).collect()
}

/// No address can be looked up in a list that cannot be had, and what is not known is empty.
fn addresses() -> Vec<(IpAddr, Arc<str>)> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let owned = interfaces.filter_map(|interface| {
        let address = ip_address(interface.address.as_ref()?)?;
        Some((address, name(&interface.interface_name).into()))
    });
    owned.collect()
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
        let interfaces = Interfaces::default();
        assert_eq!(&*interfaces.owner_of("127.0.0.1".parse().unwrap()), "lo");
        assert_eq!(&*interfaces.owner_of("192.0.2.255".parse().unwrap()), "");
    }

    #[test]
    fn a_label_names_its_interface() {
        assert_eq!((name("eth1"), name("eth1:iscsi"), name("bond0.12")), ("eth1", "eth1", "bond0.12"));
    }
}
