//! The components of initiator ports: the physical ports below an interface, and the fabric of an
//! FC port.
//!
//! ```text
//! class/net/bond0/lower_eth1/          an interface below a bond, team, bridge, VLAN or other stacked interface
//! class/net/eth1/                      operstate, carrier; tun_flags: the end of a virtual machine
//! class/net/eth1/device/driver         the driver of a real or virtual adapter
//! class/fc_host/host5/                 fabric_name, node_name
//! ```
//!
//! Documented in `Documentation/ABI/testing/sysfs-class-net`, `net/core/dev.c`
//! (`netdev_adjacent_sysfs_add`), `drivers/net/tun.c` and `drivers/scsi/scsi_transport_fc.c` of the
//! kernel. Only interfaces through which a session or controller leaves are read. A link that goes
//! down sends no event to the exporter. Each adapter is therefore read again at each resync, and
//! when a session, port or controller has changed. An interface of another network namespace is not
//! visible here, and counts as a port of its own.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fibre_channel::FibreChannel;
use crate::source::Error;
use crate::source::files::{Attribute, exists, follow, list_if_there, or_last};
use crate::topology::{Adapter, Adapters};

/// The drivers of virtual adapters: QEMU's, VMware's, Microsoft's (two), Amazon's, Google's, Xen's
/// and IBM's (two). They do not show which physical ports they use.
const VIRTUAL_DRIVERS: [&str; 9] =
    ["virtio_net", "vmxnet3", "hv_netvsc", "mana", "ena", "gve", "vif", "ibmveth", "ibmvnic"];

/// The bus of Xen's host side. There, `vif` is the end of a virtual machine.
const XEN_HOST_BUS: &str = "xen-backend";

/// The names that drivers print for no fabric or an unknown one.
const NO_FABRIC_NAMES: [&str; 4] = ["", "0x0", "0x0000000000000000", "0xffffffffffffffff"];

/// Reads adapters and remembers them.
#[derive(Debug)]
pub(crate) struct AdapterReader {
    root: PathBuf,
    file: Attribute,
    known: Arc<Adapters>,
}

/// An interface with no other interface below it.
#[derive(Debug)]
struct Leaf {
    name: Arc<str>,
    directory: PathBuf,
    /// True if the interface belongs to hardware.
    has_device: bool,
}

impl AdapterReader {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        AdapterReader { root: root.to_owned(), file: Attribute::default(), known: Arc::default() }
    }

    /// Returns the adapters as last read.
    pub(crate) fn known(&self) -> &Arc<Adapters> {
        &self.known
    }

    /// Reads the adapters of these interfaces and ports. An adapter that cannot be read keeps its
    /// last state.
    pub(crate) fn read(
        &mut self,
        interfaces: &BTreeSet<Arc<str>>,
        fibre_channel: Option<&FibreChannel>,
        unreadable: &mut Vec<Error>,
    ) {
        let mut adapters = Adapters::new();
        for name in interfaces {
            let adapter = or_last(self.interface(name), Some(&self.known.get(name).cloned()), unreadable);
            adapters.extend(adapter.map(|adapter| (Arc::clone(name), adapter)));
        }
        let ports = fibre_channel.iter().flat_map(|ports| ports.hosts().named());
        for (host, port) in ports.filter(|(_, port)| !port.port_name.is_empty()) {
            let name = &port.port_name;
            // Two ports may have the same name, for example after a driver has lost one. The used
            // one counts.
            if !port.is_used() && adapters.contains_key(name) {
                continue;
            }
            let last = self.known.get(name).map(|adapter| Arc::clone(&adapter.fabric)).unwrap_or_default();
            // A port that is down no longer shows its fabric.
            let fabric = if port.is_used() { self.fabric(host, name) } else { Ok(Arc::clone(&last)) };
            let fabric = or_last(fabric, Some(&last), unreadable);
            let adapter = Adapter { ports: vec![Arc::clone(name)], is_virtual: false, fabric };
            adapters.insert(Arc::clone(name), adapter);
        }
        if *self.known != adapters {
            self.known = Arc::new(adapters);
        }
    }

    /// Returns the adapter of an interface. `None` if the interface does not exist here.
    fn interface(&mut self, name: &Arc<str>) -> Result<Option<Adapter>, Error> {
        let (mut found, mut leaves, mut is_virtual) = (BTreeSet::new(), Vec::new(), false);
        let mut waiting = vec![Arc::clone(name)];
        while let Some(name) = waiting.pop() {
            // An interface may lie below two others, and a session may give any text as its
            // interface.
            if name.contains('/') || !found.insert(Arc::clone(&name)) {
                continue;
            }
            let directory = self.root.join("class/net").join(&*name);
            let Some(entries) = list_if_there(&directory)? else { continue };
            let driver = follow(&directory.join("device/driver"), Path::new(""))?;
            is_virtual |= driver.as_deref().is_some_and(is_of_virtual_machine);
            let below = entries.iter().filter_map(|entry| entry.name.strip_prefix("lower_")).map(Arc::from);
            let below: Vec<Arc<str>> = below.collect();
            if below.is_empty() {
                leaves.push(Leaf { name, directory, has_device: driver.is_some() });
            }
            waiting.extend(below);
        }
        let mut ports = match leaves.as_slice() {
            [] => return Ok(None),
            [leaf] if leaf.name == *name => vec![Arc::clone(name)],
            _ => self.ports_that_are_up(leaves)?,
        };
        ports.sort();
        Ok(Some(Adapter { ports, is_virtual, fabric: Arc::default() }))
    }

    /// Returns the ports that are up. If there are real adapters, only they count: other interfaces
    /// in a bridge lead to a guest or a container.
    fn ports_that_are_up(&mut self, mut leaves: Vec<Leaf>) -> Result<Vec<Arc<str>>, Error> {
        let have_devices = leaves.iter().any(|leaf| leaf.has_device);
        leaves.retain(|leaf| if have_devices { leaf.has_device } else { !exists(&leaf.directory.join("tun_flags")) });
        let mut ports = Vec::new();
        for leaf in leaves {
            let is_up = match self.file.text(&leaf.directory, "operstate")? {
                Some("up") => true,
                // Its driver does not report the state (RFC 2863).
                Some("unknown") => self.file.flag(&leaf.directory, "carrier")? == Some(true),
                _ => false,
            };
            ports.extend(is_up.then_some(leaf.name));
        }
        Ok(ports)
    }

    /// Returns the fabric that a port is connected to; empty if there is none. Without a fabric,
    /// drivers print the port's own name.
    fn fabric(&mut self, host: &str, port_name: &str) -> Result<Arc<str>, Error> {
        let directory = self.root.join("class/fc_host").join(host);
        let fabric = self.file.word(&directory, "fabric_name")?;
        let is_none = NO_FABRIC_NAMES.contains(&&*fabric)
            || *fabric == *port_name
            || self.file.text(&directory, "node_name")? == Some(&*fabric);
        Ok(if is_none { Arc::default() } else { fabric })
    }
}

fn is_of_virtual_machine(driver: &Path) -> bool {
    let name = driver.file_name().and_then(OsStr::to_str).unwrap_or_default();
    VIRTUAL_DRIVERS.contains(&name) && driver.iter().all(|part| part != XEN_HOST_BUS)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    struct FakeHost {
        root: tempfile::TempDir,
        reader: AdapterReader,
        unreadable: Vec<Error>,
    }

    impl FakeHost {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let reader = AdapterReader::new(root.path());
            FakeHost { root, reader, unreadable: Vec::new() }
        }

        fn write(&self, file: &str, content: &str) {
            let file = self.root.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, format!("{content}\n")).unwrap();
        }

        /// Creates an interface in this state, on top of these others.
        fn interface(&self, name: &str, operstate: &str, above: &[&str]) {
            self.write(&format!("class/net/{name}/operstate"), operstate);
            for below in above {
                self.write(&format!("class/net/{name}/lower_{below}/ifindex"), "7");
            }
        }

        fn driver(&self, name: &str, driver: &str) {
            let device = self.root.path().join(format!("class/net/{name}/device"));
            fs::create_dir_all(&device).unwrap();
            symlink(format!("../../../../bus/{driver}"), device.join("driver")).unwrap();
        }

        fn read(&mut self, name: &str) -> Option<Adapter> {
            self.reader.read(&BTreeSet::from([name.into()]), None, &mut self.unreadable);
            self.reader.known().get(name).cloned()
        }

        fn ports(&mut self, name: &str) -> Vec<Arc<str>> {
            let adapter = self.read(name).unwrap();
            assert!(!adapter.is_virtual && adapter.fabric.is_empty(), "{adapter:?}");
            adapter.ports
        }
    }

    fn names(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn an_interface_counts_as_the_ports_below_it_that_are_up() {
        let mut host = FakeHost::new();
        host.interface("eth1", "up", &[]);
        host.interface("eth2", "up", &[]);
        host.interface("eth3", "down", &[]);
        host.interface("bond0", "up", &["eth1", "eth2", "eth3"]);
        host.interface("bond0.10", "up", &["bond0"]);
        host.interface("eth1.20", "up", &["eth1"]);
        host.interface("eth3.20", "lowerlayerdown", &["eth3"]);
        host.interface("br0", "up", &["bond0.10", "eth1"]);
        for (name, ports) in [
            ("eth1", &["eth1"][..]),
            // A port counts as itself, up or down.
            ("eth3", &["eth3"]),
            ("bond0", &["eth1", "eth2"]),
            ("bond0.10", &["eth1", "eth2"]),
            ("eth1.20", &["eth1"]),
            ("eth3.20", &[]),
            ("br0", &["eth1", "eth2"]),
        ] {
            assert_eq!(host.ports(name), names(ports), "{name}");
        }
        host.interface("eth2", "down", &[]);
        assert_eq!(host.ports("bond0"), names(&["eth1"]));
        assert_eq!(host.unreadable, []);
    }

    #[test]
    fn a_port_of_unknown_state_is_up_if_it_has_a_carrier() {
        let mut host = FakeHost::new();
        host.interface("bond0", "up", &["dummy0", "dummy1", "dummy2"]);
        ["dummy0", "dummy1", "dummy2"].iter().for_each(|name| host.interface(name, "unknown", &[]));
        host.write("class/net/dummy0/carrier", "1");
        host.write("class/net/dummy1/carrier", "0");
        assert_eq!(host.ports("bond0"), names(&["dummy0"]));
    }

    #[test]
    fn the_interfaces_of_guests_are_no_ports() {
        let mut host = FakeHost::new();
        ["eth1", "vnet0", "veth0"].iter().for_each(|name| host.interface(name, "up", &[]));
        host.write("class/net/vnet0/tun_flags", "0x1002");
        host.interface("br0", "up", &["eth1", "vnet0", "veth0"]);
        // In a lab or a container, there are only veth interfaces.
        assert_eq!(host.ports("br0"), names(&["eth1", "veth0"]));
        host.driver("eth1", "pci/drivers/mlx5_core");
        assert_eq!(host.ports("br0"), names(&["eth1"]));
        host.interface("br1", "up", &["vnet0"]);
        assert_eq!(host.ports("br1"), names(&[]));
    }

    #[test]
    fn a_virtual_adapter_is_recognised_by_its_driver() {
        for (driver, is_virtual) in [
            ("virtio/drivers/virtio_net", true),
            ("pci/drivers/vmxnet3", true),
            ("vmbus/drivers/hv_netvsc", true),
            ("pci/drivers/ena", true),
            ("xen/drivers/vif", true),
            ("xen-backend/drivers/vif", false),
            ("pci/drivers/mlx5_core", false),
            ("pci/drivers/e1000", false),
        ] {
            let mut host = FakeHost::new();
            host.interface("eth1", "up", &[]);
            host.interface("eth1.10", "up", &["eth1"]);
            host.driver("eth1", driver);
            for name in ["eth1", "eth1.10"] {
                let expected = Adapter { ports: names(&["eth1"]), is_virtual, fabric: Arc::default() };
                assert_eq!(host.read(name), Some(expected), "{driver} {name}");
            }
        }
        // On Azure, the real adapter lies below the virtual one.
        let mut host = FakeHost::new();
        host.interface("eth0", "up", &["enP1s1"]);
        host.interface("enP1s1", "up", &[]);
        host.driver("eth0", "vmbus/drivers/hv_netvsc");
        host.driver("enP1s1", "pci/drivers/mlx5_core");
        assert!(host.read("eth0").unwrap().is_virtual);
    }

    #[test]
    fn a_missing_or_circular_interface_has_no_adapter() {
        let mut host = FakeHost::new();
        host.interface("eth1", "up", &["eth2"]);
        host.interface("eth2", "up", &["eth1"]);
        host.write("elsewhere/operstate", "up");
        for name in ["eth0", "192.0.2.1", "eth1", "../../elsewhere"] {
            assert_eq!(host.read(name), None, "{name}");
        }
        assert_eq!(host.unreadable, []);
    }

    #[test]
    fn an_adapter_that_cannot_be_read_keeps_its_state() {
        let mut host = FakeHost::new();
        ["eth1", "eth2"].iter().for_each(|name| host.interface(name, "up", &[]));
        host.interface("bond0", "up", &["eth1", "eth2"]);
        let before = host.read("bond0");
        let operstate = host.root.path().join("class/net/eth2/operstate");
        fs::remove_file(&operstate).unwrap();
        fs::create_dir(operstate).unwrap();
        assert_eq!(host.read("bond0"), before);
        assert_eq!(host.unreadable.len(), 1);
    }

    #[test]
    fn the_fabric_of_a_port() {
        let mut host = FakeHost::new();
        let (port, node, fabric) = ("0x10000090fa000005", "0x20000090fa000005", "0x1000c4f57c000001");
        for (file, content) in [("port_name", port), ("node_name", node)] {
            host.write(&format!("class/fc_host/host5/{file}"), content);
        }
        let mut ports = FibreChannel::new(host.root.path());
        for (state, told, expected) in [
            ("Linkdown", "0xffffffffffffffff", ""),
            ("Online", fabric, fabric),
            // The last fabric stays while the port is down.
            ("Linkdown", "0xffffffffffffffff", fabric),
            ("Online", "0xffffffffffffffff", ""),
            ("Online", "0x0", ""),
            ("Online", "0x0000000000000000", ""),
            ("Online", port, ""),
            ("Online", node, ""),
            ("Marginal", fabric, fabric),
        ] {
            host.write("class/fc_host/host5/port_state", state);
            host.write("class/fc_host/host5/fabric_name", told);
            ports.read(&mut host.unreadable).unwrap();
            host.reader.read(&BTreeSet::new(), Some(&ports), &mut host.unreadable);
            let adapter = Adapter { ports: names(&[port]), is_virtual: false, fabric: expected.into() };
            assert_eq!(**host.reader.known(), Adapters::from([(port.into(), adapter)]), "{state} {told}");
        }
        assert_eq!(host.unreadable, []);
    }

    #[test]
    fn the_used_one_of_two_ports_of_one_name_has_the_fabric() {
        let (port, fabric) = ("0x10000090fa000005", "0x1000c4f57c000001");
        for states in [["Online", "Linkdown"], ["Linkdown", "Online"]] {
            let mut host = FakeHost::new();
            for (number, state) in states.into_iter().enumerate() {
                let told = if state == "Online" { fabric } else { "0xffffffffffffffff" };
                for (file, content) in [("port_name", port), ("port_state", state), ("fabric_name", told)] {
                    host.write(&format!("class/fc_host/host{number}/{file}"), content);
                }
            }
            let mut ports = FibreChannel::new(host.root.path());
            ports.read(&mut host.unreadable).unwrap();
            host.reader.read(&BTreeSet::new(), Some(&ports), &mut host.unreadable);
            assert_eq!(&*host.reader.known()[port].fabric, fabric, "{states:?}");
        }
    }
}
