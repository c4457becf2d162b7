//! The network interfaces of this host, to say which of them a connection leaves through.

use std::net::IpAddr;
use std::sync::Arc;

/// The interface that has this address, as `getifaddrs(3)` tells; empty if none has.
pub fn owner_of(address: IpAddr) -> Arc<str> {
    // No address can be looked up in a list that cannot be had, and what is not known is empty.
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Arc::default() };
    let owner = interfaces.filter(|interface| {
        let own = interface.address.as_ref();
        own.and_then(ip_address).is_some_and(|own| own == address)
    });
    owner.map(|interface| interface.interface_name.into()).next().unwrap_or_default()
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
        assert_eq!(&*owner_of("127.0.0.1".parse().unwrap()), "lo");
        assert_eq!(&*owner_of("192.0.2.255".parse().unwrap()), "");
    }
}
