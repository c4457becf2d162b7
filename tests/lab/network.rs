//! Two networks between this machine and an array. The array has a network namespace of its own.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use crate::programs::{run, try_run};

const NAMESPACE: &str = "array";

/// One network.
pub struct Network {
    /// The machine's interface.
    pub interface: &'static str,
    /// The machine's address.
    pub own_address: Ipv4Addr,
    /// The array's address.
    pub address: Ipv4Addr,
    /// The whole network.
    pub cidr: &'static str,
}

/// Both networks. Dropping the value removes them.
pub struct Networks(pub [Network; 2]);

impl Networks {
    /// Creates the networks.
    pub fn start() -> Self {
        let networks = Networks([
            Network {
                interface: "storage1",
                own_address: Ipv4Addr::new(192, 0, 2, 1),
                address: Ipv4Addr::new(192, 0, 2, 2),
                cidr: "192.0.2.0/24",
            },
            Network {
                interface: "storage2",
                own_address: Ipv4Addr::new(198, 51, 100, 1),
                address: Ipv4Addr::new(198, 51, 100, 2),
                cidr: "198.51.100.0/24",
            },
        ]);
        run("ip", ["netns", "add", NAMESPACE]);
        for Network { interface, own_address, address, .. } in &networks.0 {
            let peer = format!("{interface}a");
            run("ip", ["link", "add", interface, "type", "veth", "peer", "name", &peer, "netns", NAMESPACE]);
            run("ip", ["addr", "add", &format!("{own_address}/24"), "dev", interface]);
            run("ip", ["-n", NAMESPACE, "addr", "add", &format!("{address}/24"), "dev", &peer]);
            run("ip", ["link", "set", interface, "up"]);
            run("ip", ["-n", NAMESPACE, "link", "set", &peer, "up"]);
        }
        networks
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for network in &self.0 {
            // The link may not exist if the creation failed.
            let _ = try_run("ip", ["link", "del", network.interface]);
        }
        let _ = try_run("ip", ["netns", "del", NAMESPACE]);
    }
}

impl Network {
    /// Takes the link down.
    pub fn cut(&self) {
        run("ip", ["link", "set", self.interface, "down"]);
    }

    /// Undoes [`Network::cut`].
    pub fn mend(&self) {
        run("ip", ["link", "set", self.interface, "up"]);
    }

    /// Drops all packets while the link stays up.
    pub fn lose_all(&self) {
        run("tc", ["qdisc", "add", "dev", self.interface, "root", "netem", "loss", "100%"]);
    }

    /// Undoes [`Network::lose_all`].
    pub fn lose_nothing(&self) {
        run("tc", ["qdisc", "del", "dev", self.interface, "root"]);
    }
}

/// A command that runs a program in the array's namespace.
pub fn command(program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{NAMESPACE}")).arg("--").arg(program).stdin(Stdio::null());
    command
}

/// Runs a program of the array. It must succeed.
#[track_caller]
pub fn run_there<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) {
    let output = command(program).args(args).output().expect("nsenter starts");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Ends a program that runs in the foreground.
pub fn end(child: &mut Child) {
    // The process may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}
