//! Tests with Fibre Channel ports: a port counts as missed if it was up within the window.

use super::*;
use crate::topology::{FcHostPort, FcRemotePort};

const HOST: &str = "0x10000090fa000005";
const OTHER: &str = "0x10000090fa000006";
const TARGET: &str = "0x202000a098aad1e3";

impl SimulatedHost {
    /// The kernel lists these host ports, and these remote ports, as the first host port sees them.
    fn set_ports(&mut self, hosts: &[(&str, &str)], remote: &[(&str, &str)]) {
        let host = |(name, state): &(&str, &str)| FcHostPort { port_name: (*name).into(), state: (*state).into() };
        let remote_port = |(name, state): &(&str, &str)| {
            let ports = Ports { initiator_port: HOST.into(), target_port: (*name).into(), ..Ports::default() };
            FcRemotePort { ports, state: (*state).into() }
        };
        self.transports.fc_host_ports = hosts.iter().map(host).map(Arc::new).collect();
        self.transports.fc_remote_ports = remote.iter().map(remote_port).map(Arc::new).collect();
        self.look();
    }

    fn missed(&self) -> (Vec<String>, usize) {
        let shown = self.shown();
        (shown.fc_host_ports.iter().map(|name| name.to_string()).collect(), shown.fc_remote_ports.len())
    }
}

#[test]
fn a_port_that_never_had_a_cable_is_missed_by_nobody() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[(HOST, "Online"), (OTHER, "Linkdown")], &[(TARGET, "Online")]);
    host.wait(HOUR);
    host.restart();
    host.look();
    assert_eq!(host.missed(), (vec![HOST.to_owned()], 1));
}

#[test]
fn a_port_that_was_up_is_missed_until_the_window_ends() {
    for (seen, is_remote) in [("Linkdown", false), ("Marginal", false), ("Not Present", true), ("Blocked", true)] {
        let mut host = SimulatedHost::new();
        host.set_ports(&[(HOST, "Online")], &[(TARGET, "Online")]);
        host.wait(MINUTE);
        let (own, remote) = if is_remote { ("Online", seen) } else { (seen, "Online") };
        host.set_ports(&[(HOST, own)], &[(TARGET, remote)]);
        let missed = |host: &SimulatedHost| if is_remote { host.missed().1 } else { host.missed().0.len() };
        // The port stays missed through a restart and through a reboot that clears what the kernel
        // knew about the array. It also stays missed while the exporter has not read the ports yet.
        host.restart();
        host.wait(DAY);
        host.reboot();
        host.set_ports(&[], &[]);
        host.wait(2 * MINUTE);
        host.set_ports(&[(HOST, own)], &[(TARGET, remote)]);
        assert_eq!(missed(&host), 1, "{seen}");
        host.wait(DEFAULT_WINDOW - DAY - 5 * MINUTE);
        assert_eq!(missed(&host), 1, "{seen}");
        host.wait(5 * MINUTE);
        assert_eq!(missed(&host), 0, "{seen}");
        // A port that is there does not count as found again.
        host.wait(2 * MINUTE);
        host.restart();
        host.listed.clear();
        host.look();
        host.listed = Kind::ALL.to_vec();
        host.wait(2 * MINUTE);
        assert_eq!(missed(&host), 0, "{seen}");
        host.set_ports(&[(HOST, "Online")], &[(TARGET, "Marginal")]);
        host.set_ports(&[(HOST, own)], &[(TARGET, remote)]);
        assert_eq!(missed(&host), 1, "{seen}");
    }
}

#[test]
fn a_port_that_carries_a_path_is_missed_though_it_was_never_seen_online() {
    let mut host = SimulatedHost::new();
    // The paths of this device leave by `i0`.
    host.set("a", Thing { is_redundant: false, ..Thing::map(0, 2) });
    host.set_ports(&[("i0", "Linkdown"), ("i1", "Linkdown")], &[]);
    assert_eq!(host.missed().0, ["i0"]);
    host.remove("a");
    host.wait(DEFAULT_WINDOW);
    assert_eq!(host.missed().0, ["i0"]);
    host.wait(MINUTE);
    assert_eq!(host.missed().0, [""; 0]);
}

#[test]
fn ports_that_are_found_lost_are_missed_from_the_first_sight() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[(HOST, "Linkdown"), (OTHER, "Linkdown")], &[(TARGET, "Not Present")]);
    assert_eq!(host.missed(), (vec![HOST.to_owned()], 1));
    for _ in 0..6 {
        host.wait(DAY);
        host.restart();
        host.look();
    }
    assert_eq!(host.missed(), (vec![HOST.to_owned()], 1));
    host.wait(DAY + MINUTE);
    assert_eq!(host.missed(), (vec![], 0));
    host.restart();
    host.wait(DAY);
    assert_eq!(host.missed(), (vec![], 0));
}

#[test]
fn ports_without_a_name_are_not_remembered() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[("", "Online"), ("", "Linkdown")], &[]);
    assert_eq!(host.missed().0, [""; 0]);
}

#[test]
fn a_file_that_comes_late_keeps_what_it_says_of_ports() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[(HOST, "Online")], &[(TARGET, "Not Present")]);
    host.wait(DEFAULT_WINDOW - HOUR);
    let now = host.now();
    let late = host.memory.last_image(now).unwrap();
    host.memory =
        Memory::new(Boot { id: "1".to_owned(), uptime: DAY }, Machine::default(), DEFAULT_WINDOW, host.instant);
    host.set_ports(&[(HOST, "Linkdown"), (OTHER, "Online")], &[(TARGET, "Not Present")]);
    host.set_ports(&[(HOST, "Linkdown"), (OTHER, "Linkdown")], &[(TARGET, "Not Present")]);
    host.wait(MINUTE);
    let now = host.now();
    host.memory.resume(late, now);
    host.look();
    assert_eq!(host.missed(), (vec![HOST.to_owned(), OTHER.to_owned()], 1));
    // The time of the remote port continues from when the earlier run first saw it.
    host.wait(HOUR + MINUTE);
    assert_eq!(host.missed().1, 0);
}

#[test]
fn a_file_of_an_older_program_knows_no_ports() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[(HOST, "Online")], &[(TARGET, "Online")]);
    let now = host.now();
    let text = host.memory.last_image(now).unwrap().write().unwrap();
    let mut old: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert!(old.as_object_mut().unwrap().remove("fc_ports").is_some());
    let image = Image::read(old.to_string().as_bytes(), &Machine::default()).unwrap();
    assert_eq!(image.fc_ports, FcPorts::default());
}

#[test]
fn ports_that_come_and_go_leave_a_bounded_memory() {
    let mut host = SimulatedHost::new();
    // For example, a virtual machine with its own port (NPIV) for each boot.
    let names: Vec<String> = (0..MOST_RECORDS + 500).map(|number| format!("0x{number:016x}")).collect();
    for names in names.chunks(400) {
        let ports: Vec<_> = names.iter().map(|name| (&**name, "Online")).collect();
        host.set_ports(&ports, &ports);
        host.wait(MINUTE);
    }
    host.set_ports(&[(&names[0], "Online")], &[]);
    host.wait(2 * MINUTE);
    assert_eq!(host.memory.fc_ports.len(), (MOST_RECORDS, MOST_RECORDS));
    assert_eq!(host.missed().0, [names[0].clone()]);
    host.set_ports(&[], &[]);
    host.instant += DEFAULT_WINDOW;
    host.wait(2 * MINUTE);
    assert_eq!(host.memory.fc_ports.len(), (0, 0));
}

#[test]
fn a_damaged_file_leaves_no_times_that_never_pass() {
    let mut host = SimulatedHost::new();
    host.set_ports(&[(HOST, "Online")], &[(TARGET, "Online")]);
    let now = host.now();
    let text = host.memory.last_image(now).unwrap().write().unwrap();
    let mut damaged: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for kind in ["hosts", "remote"] {
        damaged["fc_ports"][kind][0][1] = u64::MAX.into();
    }
    let image = Image::read(damaged.to_string().as_bytes(), &Machine::default()).unwrap();
    host.memory.resume(image, now);
    host.set_ports(&[(HOST, "Linkdown")], &[(TARGET, "Not Present")]);
    assert_eq!(host.missed(), (vec![HOST.to_owned()], 1));
    host.wait(DEFAULT_WINDOW + MINUTE);
    assert_eq!(host.missed(), (vec![], 0));
}
