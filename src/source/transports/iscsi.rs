//! iSCSI sessions, which several paths share.
//!
//! ```text
//! class/iscsi_session/session1/        targetname, state, discovery_session; target_state: of its disks
//! class/iscsi_connection/connection1:0/    persistent_address, persistent_port: of the portal
//! class/iscsi_host/host6/              netdev, ipaddress: the interface that the session is bound to, and its source address
//! class/iscsi_iface/ipv4-iface-6-0/    ipaddress: of an offload adapter
//! ```
//!
//! Documented in `include/scsi/scsi_transport_iscsi.h` and `drivers/scsi/scsi_transport_iscsi.c` of
//! the kernel. A session whose connection is dead answers for `ipaddress` with `ENOTCONN`. The
//! exporter therefore remembers a session's names and address. It reads them again when the session
//! logs in, and at each resync while it is logged in. The reason is that an address may move to
//! another interface while the connection lasts. open-iscsi uses one connection for a session,
//! number 0. An iSER session has no `ipaddress`, so its source address is unknown here.
//!
//! Offload adapters have their own addresses, which the network stack does not know. qla4xxx gives
//! its IPv4 address as that of the host (`0.0.0.0` if it has none), and has an `iscsi_iface` for
//! each address. be2iscsi has only the latter. Neither has a `netdev`. bnx2i and cxgb4i report the
//! network interface of their port (`*_host_get_param` of the drivers). be2iscsi asks its firmware
//! for an address, which may take minutes (`beiscsi_if_get_info`). The exporter therefore asks an
//! adapter when a session has just logged in through it, and at each resync only while its address
//! is unknown.
//!
//! `target_state` came with Linux 6.2 and with its stable predecessors (commit a3be19b91ea7 in
//! `scsi_transport_iscsi.c`). A discovery session has no disks. open-iscsi ends its own discovery
//! sessions at once; an adapter may keep one. Only qla4xxx and iSER have `discovery_session`
//! (`*_attr_is_visible` of the drivers).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::source::files::{Attribute, follow, or_note};
use crate::source::interfaces::Addresses;
use crate::source::inventory::Inventory;
use crate::source::{Error, is_number};
use crate::topology::{IscsiSession, Ports, portal};

/// Returns true if `netdev` names an interface. A session that is not bound to one may have
/// open-iscsi's placeholder, or the name that an adapter (qedi) gives its own port, `host7`.
fn is_bound_to(netdev: &str) -> bool {
    !matches!(netdev, "" | "default") && !netdev.strip_prefix("host").is_some_and(is_number)
}

/// Reads sessions and remembers them.
#[derive(Debug)]
pub(crate) struct Iscsi {
    sessions: Inventory<IscsiSession>,
    reader: SessionReader,
}

#[derive(Debug)]
struct SessionReader {
    root: PathBuf,
    file: Attribute,
    /// The addresses of the adapters that were asked during this reading.
    asked: HashMap<PathBuf, Option<IpAddr>>,
}

impl Iscsi {
    /// `root` is the mount point of sysfs.
    pub(crate) fn new(root: &Path) -> Self {
        Iscsi {
            sessions: Inventory::new(root.join("class/iscsi_session")),
            reader: SessionReader { root: root.to_owned(), file: Attribute::default(), asked: HashMap::new() },
        }
    }

    /// Reads all sessions. The ports of sessions that are logged in and known are read only if
    /// `anew`.
    ///
    /// # Errors
    /// If the sessions cannot be listed. A host without iSCSI is not an error.
    pub(crate) fn read(&mut self, anew: bool, addresses: &Addresses, unreadable: &mut Vec<Error>) -> Result<(), Error> {
        let reader = &mut self.reader;
        reader.asked.clear();
        self.sessions.read(unreadable, |directory, name, last, unreadable| {
            reader.session(directory, name, last, anew, addresses, unreadable)
        })
    }

    pub(crate) fn sessions(&self) -> &Inventory<IscsiSession> {
        &self.sessions
    }
}

impl SessionReader {
    /// Reads a session. `None` if it is gone. An error if its state cannot be read; other values
    /// that cannot be read go to `unreadable`.
    fn session(
        &mut self,
        directory: &Path,
        name: &Arc<str>,
        last: Option<&IscsiSession>,
        anew: bool,
        addresses: &Addresses,
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<IscsiSession>, Error> {
        let Some(state) = self.file.text(directory, "state")?.map(Arc::<str>::from) else { return Ok(None) };
        let last = last.cloned().unwrap_or_default();
        let has_changed = last.state != state;
        if has_changed && or_note(self.file.flag(directory, "discovery_session"), unreadable) == Some(true) {
            return Ok(None);
        }
        let mut session = IscsiSession { name: Arc::clone(name), state, is_ending: false, ..last };
        if !session.is_logged_in() {
            let of_disks = self.file.word_or_note(directory, "target_state", unreadable);
            session.is_ending = matches!(&*of_disks, "UNBINDING" | "UNBOUND");
        }
        let Ports { target, target_port, .. } = &session.ports;
        let is_being_made = target.is_empty() || target_port.is_empty();
        let is_unknown = session.source.is_none() || !session.ports.are_known();
        if is_being_made || (anew || has_changed) && (session.is_logged_in() || is_unknown) {
            let asks_adapter = session.is_logged_in() && (has_changed || anew && session.source.is_none());
            self.read_details(directory, &mut session, asks_adapter, addresses, unreadable);
        }
        Ok(Some(session))
    }

    /// Reads the session's names, ports and source address. Its adapter is asked for an address
    /// only if `asks_adapter`. Values that cannot be read keep their last state.
    fn read_details(
        &mut self,
        directory: &Path,
        session: &mut IscsiSession,
        asks_adapter: bool,
        addresses: &Addresses,
        unreadable: &mut Vec<Error>,
    ) {
        let number = session.name.trim_start_matches("session");
        let connection = self.root.join("class/iscsi_connection").join(format!("connection{number}:0"));
        let host = or_note(host_of(directory), unreadable);
        let mut word = |directory: &Path, name| self.file.word_or_note(directory, name, unreadable);
        let (address, port) = (word(&connection, "persistent_address"), word(&connection, "persistent_port"));
        let mut now =
            Ports { target: word(directory, "targetname"), target_port: portal(&address, &port), ..Ports::default() };
        if let Some(host) = host {
            let family = if address.contains(':') { 6 } else { 4 };
            let adapter = self.root.join(format!("class/iscsi_iface/ipv{family}-iface-{host}-0"));
            let host = self.root.join(format!("class/iscsi_host/host{host}"));
            let bound = word(&host, "netdev");
            let mut source = own_address(&word(&host, "ipaddress"));
            if source.is_none() && asks_adapter {
                source = match self.asked.entry(adapter) {
                    Entry::Occupied(asked) => *asked.get(),
                    Entry::Vacant(adapter) => {
                        let address = own_address(&word(adapter.key(), "ipaddress"));
                        *adapter.insert(address)
                    }
                };
            }
            session.source = source.or(session.source);
            now.initiator_port = match session.source {
                _ if is_bound_to(&bound) => bound,
                Some(source) => addresses.leave_from(source, &session.ports.initiator_port),
                None => Arc::default(),
            };
        }
        session.ports = now.or(&session.ports);
    }
}

/// Returns the number of the session's iSCSI host. The session lies in that host's directory.
fn host_of(session: &Path) -> Result<Option<String>, Error> {
    let Some(place) = follow(session, Path::new("class/iscsi_session"))? else { return Ok(None) };
    let mut numbers =
        place.components().filter_map(|part| part.as_os_str().to_str()?.strip_prefix("host").map(str::to_owned));
    Ok(numbers.rfind(|number| is_number(number)))
}

/// Parses an adapter's address. A link-local address may have its interface behind it,
/// `fe80::1%eth1`. An adapter without an address prints `0.0.0.0`.
fn own_address(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(address).filter(|address| !address.is_unspecified())
}
