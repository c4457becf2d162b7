//! Machines that stay up, for programs outside that look at them. `--stage` boots one, and commands
//! break and heal its storage.

use std::fs::File;
use std::net::SocketAddr;
use std::rc::Rc;

use super::Scenario;
use super::iscsi::CONF;
use crate::guest::Lab;
use crate::iscsi::IscsiSan;
use crate::multipathd::Conf;
use crate::network::{Network, Networks};
use crate::nvme;
use crate::scsi_disk::Disk;
use crate::uplink;

/// The exporter's port in the machine.
const EXPORTER: u16 = 9100;

/// The names of the demonstration's devices show their users.
const ALIASES: &str = "multipaths {
 multipath {
  wwid 360000000000000000e00000000010001
  alias postgres
 }
 multipath {
  wwid 360000000000000000e00000000010002
  alias backup
 }
}
";

pub const ALL: &[Scenario] = &[Scenario::new("stage_iscsi", iscsi), Scenario::new("stage_demo", demo)];

/// Two devices in use, with two paths over each of two networks. I/O waits without a path, as most
/// arrays require.
fn iscsi(lab: &Lab) {
    uplink::connect();
    let IscsiSan { san, networks, .. } = &IscsiSan::start(lab, 2, 2, Conf { no_path_retry: "queue", ..CONF });
    let open = |name| File::open(format!("/dev/mapper/{name}")).expect("a healthy device can be opened");
    let _in_use: Vec<_> = san.luns.iter().map(|lun| open(lun.name())).collect();
    let _exporter = lab.exporter().at(SocketAddr::from((uplink::ADDRESS, EXPORTER))).start();
    let network = |name: &str| networks.0.iter().find(|network| network.interface == name);
    let disk = |name: &str| san.luns.iter().flat_map(|lun| &lun.paths).find(|disk| disk.name == name);
    obey(lab, "cut NETWORK, mend NETWORK, offline DISK, running DISK", |words| match words {
        ["cut", name] => network(name).map(Network::cut),
        ["mend", name] => network(name).map(Network::mend),
        ["offline", name] => disk(name).map(Disk::set_offline),
        ["running", name] => disk(name).map(Disk::set_running),
        _ => None,
    });
}

/// The stage of `make demo`: two iSCSI devices and two NVMe namespaces, each over both networks.
fn demo(lab: &Lab) {
    uplink::connect();
    let networks = Rc::new(Networks::start());
    let conf = Conf { no_path_retry: "queue", sections: ALIASES, ..CONF };
    let IscsiSan { san, .. } = &IscsiSan::over(Rc::clone(&networks), lab, 2, 2, conf);
    let _namespaces = nvme::Array::over(Rc::clone(&networks));
    let _in_use = File::open("/dev/mapper/postgres").expect("a healthy device can be opened");
    let bond = "iscsi_bonds: [{name: storage, networks: [storage1, storage2], targets: ['iqn.2003-01.org.example:*']}]";
    let _exporter = lab.exporter().config(bond).at(SocketAddr::from((uplink::ADDRESS, EXPORTER))).start();
    let network = |name: &str| networks.0.iter().find(|network| network.interface == name);
    let disk = san.luns.iter().find(|lun| lun.name() == "backup").and_then(|lun| lun.paths.first());
    obey(lab, "cut NETWORK, mend NETWORK, offline, running", |words| match words {
        ["cut", name] => network(name).map(Network::cut),
        ["mend", name] => network(name).map(Network::mend),
        ["offline"] => disk.map(Disk::set_offline),
        ["running"] => disk.map(Disk::set_running),
        _ => None,
    });
}

/// Reports that the stage is ready, follows commands as long as the machine runs, and answers each
/// with a line.
fn obey(lab: &Lab, known: &str, follow: impl Fn(&[&str]) -> Option<()>) {
    lab.say(format!("ready: {known}"));
    for command in lab.commands() {
        let words: Vec<_> = command.split_whitespace().collect();
        lab.say(match follow(&words) {
            Some(()) => format!("done: {command}"),
            None => format!("not understood: {command}; known: {known}"),
        });
    }
}
