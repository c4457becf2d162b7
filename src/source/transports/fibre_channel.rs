//! Fibre Channel ports, which several paths share.
//!
//! ```text
//! class/fc_host/host5/                   port_name, port_state: a port of this host
//! class/fc_remote_ports/rport-5:0-2/     port_name, node_name, port_state, scsi_target_id: a port of an array, seen from it
//! ```
//!
//! Documented in `Documentation/scsi/scsi_fc_transport.rst` and `drivers/scsi/scsi_transport_fc.c`
//! of the kernel. When a remote port is lost for good, the kernel keeps it as `Not Present` and
//! clears its role and node name. The exporter therefore remembers the names, and that the port was
//! a target. The port's SCSI target ID stays.

use std::path::Path;
use std::sync::Arc;

use crate::source::Error;
use crate::source::files::Attribute;
use crate::source::inventory::Inventory;
use crate::topology::{FcHostPort, FcRemotePort, Ports};

/// The kernel's text for a cleared name.
const CLEARED_NAME: &str = "0xffffffffffffffff";

/// Reads ports and remembers them.
#[derive(Debug)]
pub(crate) struct FibreChannel {
    hosts: Inventory<FcHostPort>,
    remote: Inventory<FcRemotePort>,
    file: Attribute,
}

impl FibreChannel {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        FibreChannel {
            hosts: Inventory::new(root.join("class/fc_host")),
            remote: Inventory::new(root.join("class/fc_remote_ports")),
            file: Attribute::default(),
        }
    }

    /// Reads all ports.
    ///
    /// # Errors
    /// If the ports cannot be listed. A host without Fibre Channel is not an error.
    pub(crate) fn read(&mut self, unreadable: &mut Vec<Error>) -> Result<(), Error> {
        let (hosts, file) = (&mut self.hosts, &mut self.file);
        let listed =
            hosts.read(unreadable, |directory, _, last, unreadable| read_host_port(file, directory, last, unreadable));
        self.remote.read(unreadable, |directory, name, last, unreadable| {
            let host = host_of(name).and_then(|host| hosts.get(&host));
            read_remote_port(file, directory, host.map(|host| &**host), last, unreadable)
        })?;
        listed
    }

    /// Returns the ports of this host.
    pub(crate) fn hosts(&self) -> &Inventory<FcHostPort> {
        &self.hosts
    }

    /// Returns the remote ports that are or were SCSI targets.
    pub(crate) fn remote_ports(&self) -> &Inventory<FcRemotePort> {
        &self.remote
    }
}

fn read_host_port(
    file: &mut Attribute,
    directory: &Path,
    last: Option<&FcHostPort>,
    unreadable: &mut Vec<Error>,
) -> Result<Option<FcHostPort>, Error> {
    let Some(state) = file.text(directory, "port_state")?.map(Arc::<str>::from) else { return Ok(None) };
    let port_name = match last {
        Some(last) if !last.port_name.is_empty() => Arc::clone(&last.port_name),
        // A driver that still starts has not set the name yet.
        _ => unless_cleared(file.word_or_note(directory, "port_name", unreadable)),
    };
    Ok(Some(FcHostPort { port_name, state }))
}

fn read_remote_port(
    file: &mut Attribute,
    directory: &Path,
    host: Option<&FcHostPort>,
    last: Option<&FcRemotePort>,
    unreadable: &mut Vec<Error>,
) -> Result<Option<FcRemotePort>, Error> {
    let Some(state) = file.text(directory, "port_state")?.map(Arc::<str>::from) else { return Ok(None) };
    if last.is_none() && file.parsed::<i64>(directory, "scsi_target_id")?.is_none_or(|id| id < 0) {
        return Ok(None);
    }
    let changed = last.is_none_or(|last| last.state != state);
    let mut port = FcRemotePort { state, ..last.cloned().unwrap_or_default() };
    // A port that returns may be another one: `tgtid_bind_type` configures which port replaces a
    // lost one.
    if (changed && port.is_up()) || !port.ports.are_known() {
        let mut name = |name| unless_cleared(file.word_or_note(directory, name, unreadable));
        let now = Ports {
            initiator_port: host.map(|host| Arc::clone(&host.port_name)).unwrap_or_default(),
            target: name("node_name"),
            target_port: name("port_name"),
        };
        port.ports = now.or(&port.ports);
    }
    Ok(Some(port))
}

fn unless_cleared(name: Arc<str>) -> Arc<str> {
    if &*name == CLEARED_NAME { Arc::default() } else { name }
}

/// Returns the host of a remote port: `host5` for `rport-5:0-2`.
fn host_of(remote_port: &str) -> Option<String> {
    let (host, _) = remote_port.strip_prefix("rport-")?.split_once(':')?;
    Some(format!("host{host}"))
}
