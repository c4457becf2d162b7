//! Ports of the host that lead into a machine, over a network interface that only this machine has.

use std::fs;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::programs::run;
use crate::udevd;
use crate::wait::{PATIENCE, eventually};

/// The address of the machine in QEMU's user network. Programs that the host should reach listen
/// there.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// A port of the host's loopback interface, and the port of the machine behind it.
#[derive(Clone, Copy)]
pub struct Forward {
    host: u16,
    guest: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
        let (host, guest) = ports.ok_or_else(|| format!("{text}: not HOST_PORT:MACHINE_PORT"))?;
        Ok(Forward { host, guest })
    }
}

/// QEMU's options for a machine with these ports, or none without any. The machine cannot reach the
/// host or other networks through them.
pub fn qemu_options(forwards: &[Forward]) -> Vec<String> {
    if forwards.is_empty() {
        return Vec::new();
    }
    let rules = forwards.iter().map(|Forward { host, guest }| format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
    let network = format!("user,id=uplink,restrict=on{}", rules.collect::<String>());
    ["-device", "virtio-net-pci,netdev=uplink", "-netdev", &network].map(str::to_owned).into()
}

/// Brings the interface up in the machine.
pub fn connect() {
    run("modprobe", ["virtio_net"]);
    // udevd renames the interface.
    udevd::settle().expect("udevd keeps up");
    let interface = eventually("the machine has an interface to the host", PATIENCE, interface);
    run("ip", ["addr", "add", &format!("{ADDRESS}/24"), "dev", &interface]);
    run("ip", ["link", "set", &interface, "up"]);
}

fn interface() -> Result<String, String> {
    let interfaces = fs::read_dir("/sys/class/net").map_err(|e| e.to_string())?.filter_map(Result::ok);
    let is_uplink = |driver: std::path::PathBuf| driver.ends_with("virtio_net");
    let found =
        interfaces.into_iter().find(|one| fs::canonicalize(one.path().join("device/driver")).is_ok_and(is_uplink));
    found.and_then(|one| one.file_name().into_string().ok()).ok_or_else(|| "no interface of virtio_net".to_owned())
}
