//! When Fibre Channel ports were last up. A port that never was up does not count as missed, and no
//! port counts as missed forever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::MOST_RECORDS;
use super::clock::Moment;
use crate::topology::{Device, FcRemotePort, Transports};

/// A remote port: the WWPN of the host port that sees it, and its own WWPN.
type RemoteName = (Arc<str>, Arc<str>);

/// The Fibre Channel ports that are remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct FcPorts {
    /// Host ports by WWPN. A port that is not online but carries a path also counts as up.
    hosts: LastUp<Arc<str>>,
    /// Remote ports that are, or have been, SCSI targets.
    remote: LastUp<RemoteName>,
}

impl FcPorts {
    /// Records the ports as they are now, and the paths over them.
    pub(crate) fn note<'a>(&mut self, seen: &Transports, devices: impl Iterator<Item = &'a Device>, now: Moment) {
        for port in &seen.fc_remote_ports {
            let name = name_of(port);
            // The host port was online when this remote port became a target. When either was last
            // up is unknown, so their time begins with the first sight.
            self.hosts.was_up(&name.0, now);
            if port.is_up() {
                self.remote.is_up(&name, now);
            } else {
                self.remote.was_up(&name, now);
            }
        }
        let (up, down): (Vec<_>, Vec<_>) = seen.fc_host_ports.iter().partition(|port| port.is_up());
        up.iter().for_each(|port| self.hosts.is_up(&port.port_name, now));
        let down: BTreeSet<&str> = down.iter().map(|port| &*port.port_name).collect();
        // On nearly every host no port is down, and the paths need not be searched.
        if !down.is_empty() {
            let used = devices.flat_map(|device| &device.paths).map(|path| &path.ports.initiator_port);
            used.filter(|name| down.contains(&***name)).for_each(|name| self.hosts.is_up(name, now));
        }
        // Ports whose name is not known yet all have an empty name.
        self.hosts.0.remove("");
    }

    /// Returns the WWPNs of the host ports that are there and were up within the window.
    pub(crate) fn hosts(&self, seen: &Transports, now: Moment, window: Duration) -> BTreeSet<Arc<str>> {
        let names = seen.fc_host_ports.iter().map(|port| &port.port_name);
        names.filter(|name| self.hosts.is_recent(name, now, window)).cloned().collect()
    }

    /// Returns the remote ports that are there and were up within the window.
    pub(crate) fn remote(&self, seen: &Transports, now: Moment, window: Duration) -> BTreeSet<RemoteName> {
        let names = seen.fc_remote_ports.iter().map(|port| name_of(port));
        names.filter(|name| self.remote.is_recent(name, now, window)).collect()
    }

    /// Drops ports that are gone and older than the window, and ports beyond the limit. A port that
    /// is there stays, or the next look would count as its first sight.
    pub(crate) fn expire(&mut self, seen: &Transports, now: Moment, window: Duration) {
        let hosts = seen.fc_host_ports.iter().map(|port| Arc::clone(&port.port_name)).collect();
        self.hosts.expire(&hosts, now, window);
        let remote = seen.fc_remote_ports.iter().map(|port| name_of(port)).collect();
        self.remote.expire(&remote, now, window);
    }

    /// How many host ports and remote ports are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> (usize, usize) {
        (self.hosts.0.len(), self.remote.0.len())
    }

    /// Returns true if a file holds more ports than the exporter would ever write.
    pub(crate) fn are_too_many(&self) -> bool {
        self.hosts.0.len().max(self.remote.0.len()) > MOST_RECORDS
    }

    /// Takes over what an earlier run wrote at a moment of the same clock. The ports that have been
    /// seen since may be missing from it.
    pub(crate) fn resume(&mut self, earlier: FcPorts, written: Moment, now: Moment) {
        self.hosts.resume(earlier.hosts, written, now);
        self.remote.resume(earlier.remote, written, now);
    }
}

/// When each port was last up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Vec<(Name, Moment)>", into = "Vec<(Name, Moment)>")]
#[serde(bound = "Name: Clone + Ord + Serialize + DeserializeOwned")]
struct LastUp<Name: Clone + Ord>(BTreeMap<Name, Moment>);

impl<Name: Clone + Ord> LastUp<Name> {
    fn is_up(&mut self, name: &Name, now: Moment) {
        self.0.insert(name.clone(), now);
    }

    /// The port is not up but was. Its time is now, unless an earlier one is known.
    fn was_up(&mut self, name: &Name, now: Moment) {
        self.0.entry(name.clone()).or_insert(now);
    }

    fn is_recent(&self, name: &Name, now: Moment, window: Duration) -> bool {
        self.0.get(name).is_some_and(|last| now.since(*last) <= window)
    }

    fn expire(&mut self, there: &BTreeSet<Name>, now: Moment, window: Duration) {
        self.0.retain(|name, last| there.contains(name) || now.since(*last) <= window);
        let gone = self.0.iter().filter(|(name, _)| !there.contains(name));
        let mut gone: Vec<_> = gone.map(|(name, last)| (*last, name.clone())).collect();
        gone.sort();
        gone.truncate(self.0.len().saturating_sub(MOST_RECORDS));
        for (_, name) in gone {
            self.0.remove(&name);
        }
    }

    fn resume(&mut self, earlier: LastUp<Name>, written: Moment, now: Moment) {
        // A damaged file may give times in the future, which would never expire.
        let earlier = earlier.0.into_iter().map(|(name, last)| (name, last.min(written))).collect();
        let since = std::mem::replace(&mut self.0, earlier);
        since.into_keys().for_each(|name| self.was_up(&name, now));
    }
}

impl<Name: Clone + Ord> Default for LastUp<Name> {
    fn default() -> Self {
        LastUp(BTreeMap::new())
    }
}

impl<Name: Clone + Ord> From<Vec<(Name, Moment)>> for LastUp<Name> {
    fn from(list: Vec<(Name, Moment)>) -> Self {
        LastUp(list.into_iter().collect())
    }
}

impl<Name: Clone + Ord> From<LastUp<Name>> for Vec<(Name, Moment)> {
    fn from(LastUp(last): LastUp<Name>) -> Self {
        last.into_iter().collect()
    }
}

fn name_of(FcRemotePort { ports, .. }: &FcRemotePort) -> RemoteName {
    (Arc::clone(&ports.initiator_port), Arc::clone(&ports.target_port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topology::{FcHostPort, Path, Ports, sample};

    const MINUTE: Duration = Duration::from_secs(60);
    const WINDOW: Duration = Duration::from_secs(60 * 60);
    const PORTS: [&str; 3] = ["0x10", "0x11", "0x12"];

    /// The ports as the kernel shows them. Each may be gone.
    #[derive(Clone, Copy, Debug)]
    enum PortStep {
        Host(usize, Option<&'static str>),
        Remote(usize, usize, Option<&'static str>),
        /// A path leaves by this port, or by none.
        Path(Option<usize>),
        Wait(u32),
        /// The exporter restarts, and its file comes this many minutes late.
        Restart(u32),
    }

    fn step() -> impl Strategy<Value = PortStep> {
        let state = |states: &'static [&'static str]| proptest::option::weighted(0.8, prop::sample::select(states));
        prop_oneof![
            3 => (0usize..3, state(&["Online", "Linkdown", "Marginal"])).prop_map(|(port, state)| PortStep::Host(port, state)),
            3 => (0usize..3, 0usize..2, state(&["Online", "Marginal", "Blocked", "Not Present"]))
                .prop_map(|(host, port, state)| PortStep::Remote(host, port, state)),
            1 => proptest::option::of(0usize..3).prop_map(PortStep::Path),
            4 => (1u32..100).prop_map(PortStep::Wait),
            1 => prop_oneof![Just(0), 0u32..3].prop_map(PortStep::Restart),
        ]
    }

    #[derive(Default)]
    struct KernelPorts {
        hosts: [Option<&'static str>; 3],
        remote: [[Option<&'static str>; 2]; 3],
        path: Option<usize>,
    }

    impl KernelPorts {
        fn transports(&self) -> Transports {
            let hosts = self.hosts.iter().zip(PORTS);
            let hosts =
                hosts.filter_map(|(state, name)| Some(FcHostPort { port_name: name.into(), state: (*state)?.into() }));
            let remote = self.remote.iter().zip(PORTS).flat_map(|(states, host)| {
                states.iter().zip(["0x20", "0x21"]).filter_map(move |(state, name)| {
                    let ports = Ports { initiator_port: host.into(), target_port: name.into(), ..Ports::default() };
                    Some(FcRemotePort { ports, state: (*state)?.into() })
                })
            });
            Transports {
                fc_host_ports: hosts.map(Arc::new).collect(),
                fc_remote_ports: remote.map(Arc::new).collect(),
                ..Transports::default()
            }
        }

        fn device(&self) -> Device {
            let path = |port: usize| {
                let ports = Ports { initiator_port: PORTS[port].into(), ..Ports::default() };
                Path { ports, ..sample::path() }
            };
            Device { paths: self.path.map(path).into_iter().collect(), ..sample::device() }
        }
    }

    proptest! {
        /// The definition, kept as simple as possible: the minute in which each port was last up.
        /// For a port that was found lost, it is the minute in which it was first seen.
        #[test]
        fn a_port_is_missed_until_the_window_ends(steps in proptest::collection::vec(step(), 1..60)) {
            let (mut memory, mut kernel, mut minute) = (FcPorts::default(), KernelPorts::default(), 0u32);
            let (mut hosts, mut remote) = ([None; 3], [[None; 2]; 3]);
            for step in steps {
                let (mut minutes, mut file) = (0, None);
                match step {
                    PortStep::Host(port, state) => kernel.hosts[port] = state,
                    PortStep::Remote(host, port, state) => kernel.remote[host][port] = state,
                    PortStep::Path(port) => kernel.path = port,
                    PortStep::Wait(wait) => minutes = wait,
                    PortStep::Restart(late) => {
                        let text = serde_json::to_string(&std::mem::take(&mut memory)).unwrap();
                        (minutes, file) = (late, Some(serde_json::from_str::<FcPorts>(&text).unwrap()));
                    }
                }
                for passed in 0..=minutes {
                    minute += u32::from(passed > 0);
                    let now = Moment::default() + MINUTE * minute;
                    if let Some(file) = file.take_if(|_| passed == minutes) {
                        memory.resume(file, now, now);
                    }
                    let (seen, device) = (kernel.transports(), kernel.device());
                    memory.note(&seen, std::iter::once(&device), now);
                    memory.expire(&seen, now, WINDOW);
                    let is_fresh = |last: &u32| minute - *last <= 60;
                    for (host, last) in hosts.iter_mut().enumerate() {
                        for (state, last) in kernel.remote[host].iter().zip(&mut remote[host]) {
                            match state {
                                Some("Online" | "Marginal") => *last = Some(minute),
                                Some(_) => *last = last.or(Some(minute)),
                                // A port that is gone and forgotten counts as found lost when it is
                                // back.
                                None => *last = last.filter(is_fresh),
                            }
                        }
                        let is_there = kernel.hosts[host].is_some();
                        if kernel.hosts[host] == Some("Online") || is_there && kernel.path == Some(host) {
                            *last = Some(minute);
                        } else if kernel.remote[host].iter().any(Option::is_some) {
                            *last = last.or(Some(minute));
                        }
                        *last = last.filter(|last| is_there || is_fresh(last));
                    }
                }
                let now = Moment::default() + MINUTE * minute;
                let (shown_hosts, shown_remote) = (memory.hosts(&kernel.transports(), now, WINDOW), memory.remote(&kernel.transports(), now, WINDOW));
                for (host, name) in PORTS.into_iter().enumerate() {
                    let is_missed = kernel.hosts[host].is_some() && hosts[host].is_some_and(|last| minute - last <= 60);
                    prop_assert_eq!(shown_hosts.contains(name), is_missed, "{} after {:?}", name, step);
                    for (port, target) in ["0x20", "0x21"].into_iter().enumerate() {
                        let is_missed = kernel.remote[host][port].is_some() && remote[host][port].is_some_and(|last| minute - last <= 60);
                        prop_assert_eq!(shown_remote.contains(&(name.into(), target.into())), is_missed, "{} {} after {:?}", name, target, step);
                    }
                }
            }
        }
    }
}
