//! A capture of a host with iSCSI and NVMe over two networks, one of them cut. The replayed capture
//! shows the same page except for names, and `grep` finds no original name.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use regex::Regex;

use super::{Scenario, iscsi};
use crate::exporter::Launch;
use crate::guest::Lab;
use crate::iscsi::{IscsiSan, TARGET};
use crate::memory_disks;
use crate::multipathd::Conf;
use crate::network::{self, Network};
use crate::nvme;
use crate::programs::{run, try_run};
use crate::udevd;
use crate::wait::{PATIENCE, eventually};

/// The lab never removes parts of the NVMe target.
pub const ALL: &[Scenario] =
    &[Scenario::new("capture_shows_the_host_without_its_names", capture_shows_the_host_without_its_names)
        .then_power_off()];

/// tgt names its LUNs after their numbers.
const WWIDS: [&str; 2] = ["360000000000000000e00000000010001", "360000000000000000e00000000010002"];
const ALIASES: [&str; 2] = ["ledger-db-01", "ledger-db-02"];
const CONF: Conf = Conf {
    sections: "multipaths {\n multipath {\n  wwid 360000000000000000e00000000010001\n  alias ledger-db-01\n }\n \
               multipath {\n  wwid 360000000000000000e00000000010002\n  alias ledger-db-02\n }\n}\n",
    ..iscsi::CONF
};

const SUBSYSTEM: &str = "nqn.2003-01.org.example:flash";
/// Linux 5.10 takes a number, and shows its bytes in reverse order. These bytes read the same both
/// ways.
const NVME_SERIAL: &str = "2003b1c4c4b10320";
const NAMESPACE: &str = "7c1f2b64-52a1-4c8e-9d0b-5e6f708192a3";

/// A namespace of the kernel's own target, and a controller to it over each network.
fn add_nvme(networks: &[Network; 2]) {
    ["nvmet-tcp", "nvme-tcp"].into_iter().for_each(|module| drop(run("modprobe", [module])));
    let root = Path::new("/sys/kernel/config");
    if !root.join("nvmet").exists() {
        run("mount", ["-t", "configfs", "none", "/sys/kernel/config"]);
    }
    memory_disks::null_blk(1);
    let make = |directory: &str, attributes: &[(&str, &str)]| {
        let directory = root.join("nvmet").join(directory);
        fs::create_dir(&directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
        for (name, value) in attributes {
            fs::write(directory.join(name), value).unwrap_or_else(|e| panic!("{directory:?}/{name}: {e}"));
        }
        directory
    };
    let attributes = [("attr_allow_any_host", "1"), ("attr_serial", NVME_SERIAL), ("attr_model", "EXAMPLE")];
    let subsystem = make(&format!("subsystems/{SUBSYSTEM}"), &attributes);
    let attributes = [("device_path", "/dev/nullb0"), ("device_uuid", NAMESPACE), ("enable", "1")];
    make(&format!("subsystems/{SUBSYSTEM}/namespaces/1"), &attributes);
    for (number, network) in (1..).zip(networks) {
        let address = network.address.to_string();
        let attributes =
            [("addr_trtype", "tcp"), ("addr_adrfam", "ipv4"), ("addr_traddr", &*address), ("addr_trsvcid", "4420")];
        let port = make(&format!("ports/{number}"), &attributes);
        // The port listens in the network namespace of the process that makes this link.
        let link = port.join("subsystems").join(SUBSYSTEM);
        network::run_there("ln", [Path::new("-s"), &subsystem, &link]);
        let controller = nvme::connect(SUBSYSTEM, network, "");
        let serial = fs::read_to_string(format!("/sys/class/nvme/{controller}/serial"));
        assert_eq!(serial.expect("sysfs is there").trim(), NVME_SERIAL);
    }
}

/// The lines that do not depend on the time.
fn settled(page: &str) -> Vec<String> {
    let varies =
        ["multipath_exporter_source_last_success_timestamp_seconds{", "multipath_exporter_source_duration_seconds{"];
    page.lines().filter(|line| !varies.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
}

/// The labels whose values a capture replaces.
const NAMES: [&str; 6] = ["wwid", "name", "uuid", "target", "target_port", "initiator_port"];

/// Captures the host, unpacks the capture, and checks that the page is the same except for names.
/// Returns the unpacked directory, the capture's size, and the names.
fn capture<'a>(name: &str, launch: impl Fn() -> Launch<'a>) -> (PathBuf, u64, BTreeMap<String, String>) {
    // The scenario's own directory keeps only files.
    let directory = Path::new("/run/captures").join(name);
    let (file, tree) = (directory.join("capture.tar.gz"), directory.join("tree"));
    // A controller that tries to connect changes between two states.
    let (page, size, replayed) = eventually("the host stays as it is for so long", 2 * PATIENCE, || {
        // After an event, udevd opens a device briefly, and the open count shows that.
        udevd::settle()?;
        // The directory does not exist at first.
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&tree).expect("/run is writable");
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("it is ours");
        let page = settled(&launch().oneshot());
        let exporter = launch().flag(&format!("--capture={}", file.display())).spawn();
        // The capture appears as a whole.
        let size =
            eventually("the capture is there", PATIENCE, || fs::metadata(&file).map_err(|e| e.to_string())).len();
        drop(exporter);
        run("tar", [Path::new("-xzf"), &file, Path::new("-C"), &tree]);
        let replayed = settled(&launch().flag(&format!("--path.capture={}", tree.display())).oneshot());
        if settled(&launch().oneshot()) != page {
            return Err("it has changed meanwhile".to_owned());
        }
        // The controller may have been in the other state during the capture.
        same_but_for_names(&page, &replayed)?;
        Ok((page, size, replayed))
    });
    (tree, size, names(&page, &replayed))
}

/// Checks that both pages have the same lines, except for names.
fn same_but_for_names(page: &[String], replayed: &[String]) -> Result<(), String> {
    let names = Regex::new(&format!(r#"\b({})="[^"]*""#, NAMES.join("|"))).expect("it is an expression");
    let bare = |page: &[String]| page.iter().map(|line| names.replace_all(line, "$1").into_owned()).collect::<Vec<_>>();
    let (was, is) = (bare(page), bare(replayed));
    match was.iter().zip(&is).find(|(was, is)| was != is) {
        Some((was, is)) => Err(format!("the capture says {is} for {was}")),
        None if was.len() != is.len() => Err(format!("the capture has {} lines for {}", is.len(), was.len())),
        None => Ok(()),
    }
}

/// The replaced names and their replacements. Everything else is equal.
fn names(page: &[String], replayed: &[String]) -> BTreeMap<String, String> {
    let label = Regex::new(r#"([a-z_]+)="([^"]*)""#).expect("it is an expression");
    let (mut there, mut back) = (BTreeMap::new(), BTreeMap::new());
    for (line, new_line) in page.iter().zip(replayed) {
        for (old, new) in label.captures_iter(line).zip(label.captures_iter(new_line)) {
            assert!(NAMES.contains(&&old[1]) || old[2] == new[2], "{line}\n{new_line}");
            let (old, new) = (old[2].to_owned(), new[2].to_owned());
            assert_eq!(*there.entry(old.clone()).or_insert_with(|| new.clone()), new, "{line}\n{new_line}");
            assert_eq!(*back.entry(new).or_insert_with(|| old.clone()), old, "{line}\n{new_line}");
        }
    }
    there.into_iter().filter(|(old, new)| old != new).collect()
}

/// The places where `grep` finds a name: files, their names, and the targets of links.
fn left(name: &str, tree: &Path) -> String {
    let tree = tree.display();
    let text =
        format!("cd {tree} && {{ grep -rFi -- '{name}' . ; find . -printf '%p %l\\n' | grep -Fi -- '{name}'; }}; true");
    try_run("sh", ["-c", &text]).expect("a shell that has grep and find")
}

fn capture_shows_the_host_without_its_names(lab: &Lab) {
    let array = IscsiSan::start(lab, 2, 1, CONF);
    let networks = &array.networks.0;
    add_nvme(networks);
    let exporter = lab.exporter().start();
    let nvme = format!("uuid.{NAMESPACE}");
    exporter.wait_for_counts(&nvme, 2, 0);
    networks[0].cut();
    for wwid in WWIDS.into_iter().chain([nvme.as_str()]) {
        exporter.wait_for_counts(wwid, 1, 1);
    }
    exporter.wait_for_sessions(1);
    drop(exporter);

    let addresses = networks.each_ref().map(|network| [network.address, network.own_address]);
    let addresses: Vec<String> = addresses.into_iter().flatten().map(|address| address.to_string()).collect();
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").expect("procfs is there");
    let shown = [TARGET, SUBSYSTEM, &nvme, NAMESPACE];
    let shown = shown.into_iter().chain(WWIDS).chain(ALIASES);
    let hidden = [&WWIDS[0][1..], &WWIDS[1][1..], "ledger", "org.example", NVME_SERIAL, host_name.trim()];
    let hidden = hidden.into_iter().chain(addresses.iter().map(String::as_str));
    // The lab, like an administrator, chose these interface names.
    let shown = shown.chain(networks.each_ref().map(|network| network.interface));

    let (root, size, names) = capture("root", || lab.exporter());
    lab.note(format!("a capture of 3 devices with 6 paths has {size} bytes"));
    for name in shown.clone() {
        assert!(names.contains_key(name), "{name} is shown, and replaced: {names:?}");
    }
    for network in networks {
        assert!(names.contains_key(&format!("{}:3260", network.address)), "{names:?}");
    }
    for name in shown.chain(hidden) {
        assert_eq!(left(name, &root), "", "{name} is left");
    }
    // The search can find a name.
    assert_ne!(left(&names[WWIDS[0]], &root), "");
    fs::copy(root.with_file_name("capture.tar.gz"), lab.dir().join("capture.tar.gz")).expect("both are ours");

    // A user who may not ask device mapper captures everything else.
    let (tree, _, names) = capture("nobody", || lab.exporter().unprivileged());
    assert!(names.contains_key(WWIDS[0]) && names.contains_key(ALIASES[1]), "{names:?}");
    let logs = fs::read_dir(lab.dir()).expect("it is ours").filter_map(Result::ok);
    let logs = logs.filter_map(|log| fs::read_to_string(log.path()).ok()).collect::<String>();
    let line = logs.lines().find(|line| line.contains("not in the capture")).expect("the log says what is missing");
    assert!(line.contains("source=dm") && line.contains("/dev/mapper/control"), "{line}");
    for name in WWIDS.into_iter().chain(ALIASES).chain([TARGET, SUBSYSTEM, NAMESPACE]) {
        assert_eq!(left(name, &tree), "", "{name} is left");
    }
}
