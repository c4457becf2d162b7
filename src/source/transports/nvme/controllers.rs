//! Controllers: their states, their ports, and the times for which the kernel waits for them.
//!
//! ```text
//! class/nvme/nvme3/    state, transport, address, subsysnqn, cntrltype
//!                      ctrl_loss_tmo, fast_io_fail_tmo, reconnect_delay, diag/reset_count: of a controller over fabrics
//! ```
//!
//! Documented in `drivers/nvme/host/sysfs.c` of the kernel.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use crate::source::Error;
use crate::source::files::{Attribute, or_last};
use crate::source::interfaces::Addresses;
use crate::topology::{NvmeController, NvmeTimeouts, Ports, Transport, portal};

/// The name of each discovery subsystem that has no name of its own (`NVME_DISC_SUBSYS_NAME` in
/// `include/linux/nvme.h`).
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// What the kernel prints for `subsysnqn` of a controller that has not yet joined a subsystem: it
/// follows a null pointer (`check_pointer_msg` in `lib/vsprintf.c`).
const NO_SUBSYSTEM: [&str; 2] = ["(efault)", "(null)"];

/// Reads controllers.
#[derive(Debug, Default)]
pub(crate) struct ControllerReader {
    file: Attribute,
    /// The number of controllers seen so far.
    seen: u64,
}

impl ControllerReader {
    /// Reads a controller. `None` if it is gone. An error if its state cannot be read; other values
    /// that cannot be read keep their last state.
    pub(crate) fn controller(
        &mut self,
        directory: &Path,
        name: &Arc<str>,
        last: Option<&NvmeController>,
        anew: bool,
        addresses: &Addresses,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<NvmeController>, Error> {
        let Some(state) = self.file.text(directory, "state")?.map(Arc::<str>::from) else { return Ok(None) };
        let anew = anew || last.is_none_or(|last| last.state != state);
        let last = last.cloned().unwrap_or_else(|| self.new_controller());
        let mut controller = NvmeController { name: Arc::clone(name), state, ..last };
        // A controller inside the host has no initiator port.
        let is_known = controller.ports.are_known() || controller.transport == Transport::NvmePcie;
        if (anew && controller.is_live()) || !is_known {
            self.read_details(directory, &mut controller, addresses, unreadable);
        }
        if controller.over_fabrics {
            if anew {
                self.read_timeouts(directory, &mut controller.timeouts, unreadable);
            }
            // Read this after the state: a loss between the two reads then counts already.
            let resets = self.file.parsed(directory, "diag/reset_count");
            controller.resets = or_last(resets, Some(&controller.resets), unreadable);
        }
        Ok(Some(controller))
    }

    fn new_controller(&mut self) -> NvmeController {
        self.seen += 1;
        NvmeController { instance: self.seen, ..NvmeController::default() }
    }

    /// Reads the controller's names, transport and ports. Values that cannot be read keep their
    /// last state.
    fn read_details(
        &mut self,
        directory: &Path,
        controller: &mut NvmeController,
        addresses: &Addresses,
        unreadable: &mut Vec<Error>,
    ) {
        let mut word = |name| self.file.word_or_note(directory, name, unreadable);
        let transport = word("transport");
        if !transport.is_empty() {
            (controller.transport, controller.over_fabrics) = transport_named(&transport);
        }
        let (target, address) = (word("subsysnqn"), word("address"));
        let target = if NO_SUBSYSTEM.contains(&&*target) { Arc::default() } else { target };
        let kind = word("cntrltype");
        let last = &controller.ports.initiator_port;
        let (source, initiator_port, target_port) = ends(controller.transport, &address, addresses, last);
        controller.source = source.or(controller.source);
        let ports = Ports { initiator_port, target, target_port }.or(&controller.ports);
        // There is no `cntrltype` before Linux 5.18, nor before the controller has connected for
        // the first time.
        controller.has_no_namespaces = match &*kind {
            "discovery" | "admin" => true,
            _ => controller.has_no_namespaces && kind.is_empty() || *ports.target == *DISCOVERY_NQN,
        };
        controller.ports = ports;
    }

    /// Reads the timeouts. Root may change them at any time. The kernel uses the value that
    /// `fast_io_fail_tmo` had when the controller began to connect.
    fn read_timeouts(&mut self, directory: &Path, timeouts: &mut NvmeTimeouts, unreadable: &mut Vec<Error>) {
        let NvmeTimeouts { ctrl_loss, fast_io_fail, reconnect_delay } = timeouts;
        for (name, value) in
            [("ctrl_loss_tmo", ctrl_loss), ("fast_io_fail_tmo", fast_io_fail), ("reconnect_delay", reconnect_delay)]
        {
            *value = or_last(self.file.word(directory, name), Some(value), unreadable);
        }
    }
}

/// Returns the transport of this name, and true if it goes over fabrics. Other transports exist: a
/// disk on Apple's own bus is not over fabrics.
fn transport_named(name: &str) -> (Transport, bool) {
    match name {
        "tcp" => (Transport::NvmeTcp, true),
        "fc" => (Transport::NvmeFc, true),
        "rdma" => (Transport::NvmeRdma, true),
        "loop" => (Transport::Unknown, true),
        "pcie" => (Transport::NvmePcie, false),
        _ => (Transport::Unknown, false),
    }
}

/// Returns both ends of a controller: its source address, `initiator_port`, and `target_port`. Each
/// is empty if it is unknown. `last` is the previous initiator port.
///
/// The ends come from `address`:
/// `traddr=192.0.2.1,trsvcid=4420,host_iface=eth0,src_addr=192.0.2.9`; over FC
/// `traddr=nn-0x…:pn-0x…,host_traddr=nn-0x…:pn-0x…`; over PCIe the PCI address.
fn ends(
    transport: Transport,
    address: &str,
    addresses: &Addresses,
    last: &Arc<str>,
) -> (Option<IpAddr>, Arc<str>, Arc<str>) {
    let field = |name: &str| {
        let mut fields = address.split(',').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value).unwrap_or_default()
    };
    let port_name = |address: &str| Arc::from(address.split_once("pn-").map(|(_, name)| name).unwrap_or_default());
    match transport {
        Transport::NvmePcie => (None, Arc::default(), address.into()),
        Transport::NvmeFc => (None, port_name(field("host_traddr")), port_name(field("traddr"))),
        _ => {
            let source = match field("src_addr") {
                "" => field("host_traddr"),
                source => source,
            };
            let source = source.parse().ok();
            let initiator_port = match field("host_iface") {
                "" => source.map(|source| addresses.leave_from(source, last)).unwrap_or_default(),
                interface => interface.into(),
            };
            (source, initiator_port, portal(field("traddr"), field("trsvcid")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Addresses {
        let own = Addresses::from([("127.0.0.1".parse().unwrap(), "lo".into())].to_vec());
        own.beside(&["192.0.2.255".parse().unwrap()].into())
    }

    #[test]
    fn both_ends_of_a_controller() {
        let over_fc = "traddr=nn-0x200900a098aad2dc:pn-0x200a00a098aad2dc,host_traddr=nn-0x20000090fadcc545:pn-0x10000090fadcc545";
        let unread = Addresses::default();
        for (transport, address, addresses, initiator, target) in [
            (
                Transport::NvmeTcp,
                "traddr=192.0.2.2,trsvcid=4420,host_iface=e1,src_addr=192.0.2.1",
                &unread,
                "e1",
                "192.0.2.2:4420",
            ),
            (
                Transport::NvmeTcp,
                "traddr=192.0.2.2,trsvcid=4420,src_addr=127.0.0.1",
                &loopback(),
                "lo",
                "192.0.2.2:4420",
            ),
            (
                Transport::NvmeTcp,
                "traddr=192.0.2.2,trsvcid=4420,src_addr=192.0.2.255",
                &loopback(),
                "192.0.2.255",
                "192.0.2.2:4420",
            ),
            (Transport::NvmeTcp, "traddr=192.0.2.2,trsvcid=4420,src_addr=192.0.2.255", &unread, "", "192.0.2.2:4420"),
            (Transport::NvmeTcp, "traddr=2001:db8::1,trsvcid=4420", &loopback(), "", "[2001:db8::1]:4420"),
            (Transport::NvmeFc, over_fc, &loopback(), "0x10000090fadcc545", "0x200a00a098aad2dc"),
            (Transport::NvmePcie, "0000:01:00.0", &loopback(), "", "0000:01:00.0"),
            (Transport::Unknown, "", &loopback(), "", ""),
        ] {
            let told = ends(transport, address, addresses, &"".into());
            assert_eq!((&*told.1, &*told.2), (initiator, target), "{address}");
        }
    }
}
