//! The listening sockets: bound by the exporter, or by systemd.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpSocket};
use tracing::info;

use crate::cli::ListenAddress;

/// Binds all addresses.
///
/// # Errors
/// If an address cannot be resolved or bound: one line that names it.
pub(crate) async fn listen(addresses: &[ListenAddress]) -> Result<Vec<TcpListener>, String> {
    let mut listeners = Vec::new();
    for address in addresses {
        let failed = |cause: io::Error| format!("cannot listen on {address}: {cause}");
        for resolved in resolve(address).await.map_err(failed)? {
            let listener = bind(resolved).map_err(failed)?;
            let local = listener.local_addr().map_err(failed)?;
            listeners.push((listener, local));
        }
    }
    Ok(log(listeners))
}

/// The sockets that systemd has opened for the exporter (`sd_listen_fds(3)`).
///
/// # Errors
/// If a socket cannot be served, or if there is none: one line that says so.
pub(crate) fn from_systemd(mut passed: ListenFd) -> Result<Vec<TcpListener>, String> {
    let failed = |cause: io::Error| format!("--web.systemd-socket: {cause}");
    let mut listeners = Vec::new();
    for number in 0..passed.len() {
        if let Ok(Some(_)) = passed.take_unix_listener(number) {
            let cause = "systemd passed a Unix socket, but only TCP is supported: ListenStream= must name a port";
            return Err(failed(io::Error::other(cause)));
        }
        let Some(listener) = passed.take_tcp_listener(number).map_err(failed)? else { continue };
        if !rustix::net::sockopt::socket_acceptconn(&listener).map_err(|error| failed(error.into()))? {
            let cause = "systemd passed a socket that does not listen: remove Accept=yes from the socket unit";
            return Err(failed(io::Error::other(cause)));
        }
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        listeners.push((TcpListener::from_std(listener).map_err(failed)?, address));
    }
    if listeners.is_empty() {
        return Err(failed(io::Error::other("systemd passed no socket")));
    }
    Ok(log(listeners))
}

/// Logs the addresses, after all of them are bound.
fn log(listeners: Vec<(TcpListener, SocketAddr)>) -> Vec<TcpListener> {
    let logged = listeners.into_iter().map(|(listener, address)| {
        info!(%address, "listening");
        listener
    });
    logged.collect()
}

async fn resolve(address: &ListenAddress) -> io::Result<Vec<SocketAddr>> {
    let Some(host) = &address.host else { return Ok(vec![(Ipv6Addr::UNSPECIFIED, address.port).into()]) };
    tokio::net::lookup_host((host.as_str(), address.port)).await.map(Iterator::collect)
}

/// The wildcard address gives one socket for IPv6 and IPv4. A host without IPv6 gets one for IPv4.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let all = address.ip() == Ipv6Addr::UNSPECIFIED;
    match bind_one(address) {
        Err(error) if all && error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
            bind_one((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        result => result,
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Accepts IPv4 too, for any value of net.ipv6.bindv6only.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Allows a restart while old connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
