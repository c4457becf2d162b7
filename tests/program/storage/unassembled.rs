//! Disks with several paths that no multipath device holds.

use rustix::process::Signal;

use super::{SYSFS_ERRORS, assert_errors, assert_no_errors};
use crate::harness::{Host, MPATHA, MPATHB, Page, Reply, eventually, run};

const WWIDS: &str = "multipath_unassembled_wwids";
/// The disks in multipathd's output format.
const ALL: &str = "sda\nsdb\nsdc\nsdd\n";

fn paths(wwid: &str) -> String {
    format!("multipath_unassembled_paths{{wwid=\"{wwid}\"}}")
}

/// The recorded host before multipathd has made its maps: two disks on two paths each.
pub fn unassembled() -> Host {
    let host = Host::recorded("01-healthy");
    for map in ["block/dm-0", "block/dm-1"] {
        host.sysfs.remove(map);
    }
    host.multipathd.maps(Reply::Text("{\n   \"major_version\": 0,\n   \"maps\": []\n}\n".to_owned()));
    for (devno, wwid) in [("8:0", MPATHB), ("8:16", MPATHA), ("8:32", MPATHB), ("8:48", MPATHA)] {
        host.sysfs.udev(devno, &format!("ID_SERIAL={wwid}"));
    }
    // Other disks may also share a name.
    for devno in ["259:1", "259:3"] {
        host.sysfs.udev(devno, "ID_WWN=uuid.1");
    }
    for devno in ["7:0", "11:0", "254:0", "254:1", "8:1", "8:33"] {
        host.sysfs.udev(devno, "ID_SERIAL=3600a");
    }
    host
}

fn assert_both(page: &Page) {
    assert_eq!(page.value(WWIDS), Some(2.0));
    assert_eq!((page.value(&paths(MPATHA)), page.value(&paths(MPATHB))), (Some(2.0), Some(2.0)));
    assert_eq!(page.of_metric("multipath_unassembled_paths").len(), 2);
}

fn assert_none(page: &Page) {
    assert_eq!(page.value(WWIDS), Some(0.0));
    assert_eq!(page.of_metric("multipath_unassembled_paths").len(), 0);
}

#[test]
fn disks_that_multipathd_knows_and_has_in_no_map_are_shown() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text(ALL.to_owned()));
    let page = host.exporter(&[]).metrics();
    assert_both(&page);
    assert_no_errors(&page);
}

#[test]
fn what_multipathd_leaves_alone_is_not_shown() {
    for (known, what) in [("", "nothing"), ("\n", "a line without a name"), ("sda\nsdb\n", "one path of each")] {
        let host = unassembled();
        host.multipathd.paths(Reply::Text(known.to_owned()));
        let exporter = host.exporter(&[]);
        assert_none(&exporter.metrics());
        assert!(host.multipathd.asked_for_paths() > 0, "{what}");
    }
}

#[test]
fn a_disk_that_multipathd_knows_beside_one_that_it_leaves_alone_is_shown() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text("sda  \nsdc\n".to_owned()));
    let page = host.exporter(&[]).metrics();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHB))), (Some(1.0), Some(2.0)));
    assert_eq!(page.value(&paths(MPATHA)), None);
}

#[test]
fn what_multipathd_does_not_say_is_taken_as_known() {
    for (what, reply) in [
        ("refuses", Reply::Text("fail\n".to_owned())),
        ("is busy", Reply::Text("timeout\n".to_owned())),
        ("closes", Reply::closed()),
        ("is cut", Reply::cut(ALL, 5)),
        ("hangs", Reply::Hold),
    ] {
        let host = unassembled();
        host.multipathd.paths(reply);
        let exporter = host.exporter(&["--multipathd.timeout=300ms", "--reread.interval=1s"]);
        eventually(what, || (exporter.metrics().value(WWIDS) == Some(2.0)).then_some(()));
        let page = exporter.metrics();
        assert_both(&page);
        // On a busy machine another answer may be late, too.
        exporter.await_values(&[
            ("multipath_daemon_up", 1.0),
            ("multipath_exporter_source_up{source=\"multipathd\"}", 1.0),
        ]);
        let errors = page.value("multipath_exporter_errors_total{source=\"multipathd\"}");
        assert!(errors.is_some_and(|errors| errors > 0.0), "{what}: {errors:?}");
    }
}

#[test]
fn refused_again_and_again_it_does_not_come_and_go() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text("fail\n".to_owned()));
    let exporter = host.exporter(&["--reread.interval=20ms"]);
    eventually("it is refused", || (exporter.metrics().value(WWIDS) == Some(2.0)).then_some(()));
    let asked = host.multipathd.asked_for_paths();
    // The interval of the timer grows with the time of an answer.
    eventually("it is refused more often", || {
        assert_both(&exporter.metrics());
        (host.multipathd.asked_for_paths() > asked + 2).then_some(())
    });
    let asked = host.multipathd.asked_for_paths();
    for _ in 0..10 {
        assert_both(&exporter.reread());
    }
    assert!(host.multipathd.asked_for_paths() >= asked + 10);
    // The exporter uses an answer as soon as it arrives.
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    exporter.await_values(&[(WWIDS, 0.0)]);
}

#[test]
fn without_multipathd_all_are_shown() {
    let host = unassembled();
    host.multipathd.daemon(Reply::closed());
    assert_both(&host.exporter(&[]).metrics());
    assert_both(&host.exporter(&["--no-collector.multipathd"]).metrics());
}

#[test]
fn multipathd_comes_and_goes() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    let exporter = host.exporter(&["--reread.interval=50ms"]);
    assert_none(&exporter.metrics());
    host.multipathd.daemon(Reply::closed());
    assert_both(&exporter.await_values(&[(WWIDS, 2.0)]));
    host.multipathd.paths(Reply::Hold);
    let asked = host.multipathd.asked_for_paths();
    host.multipathd.daemon(Reply::Text("pid 4712 idle\n".to_owned()));
    eventually("it is asked for its paths", || (host.multipathd.asked_for_paths() > asked).then_some(()));
    assert_both(&exporter.metrics());
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    assert_none(&exporter.await_values(&[(WWIDS, 0.0)]));
}

#[test]
fn multipathd_is_asked_again_when_it_is_ready() {
    let host = unassembled();
    host.multipathd.daemon(Reply::Text("pid 4711 configure\n".to_owned()));
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    let exporter = host.exporter(&["--reread.interval=50ms"]);
    assert_none(&exporter.metrics());
    host.multipathd.paths(Reply::Text(ALL.to_owned()));
    host.multipathd.daemon(Reply::Text("pid 4711 idle\n".to_owned()));
    assert_both(&exporter.await_values(&[(WWIDS, 2.0)]));
}

#[test]
fn another_blacklist_is_noticed() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text(ALL.to_owned()));
    let exporter = host.exporter(&[]);
    assert_both(&exporter.metrics());
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    exporter.signal(Signal::HUP);
    assert_none(&exporter.await_values(&[(WWIDS, 0.0)]));
}

#[test]
fn oneshot_shows_them_too() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text(ALL.to_owned()));
    let options = [host.options(), vec!["--oneshot".to_owned()]].concat();
    assert_both(&Page::new(&run(&options).stdout));
    host.multipathd.paths(Reply::Text("\n".to_owned()));
    assert_none(&Page::new(&run(&options).stdout));
}

#[test]
fn assembled_they_are_gone() {
    let host = unassembled();
    host.multipathd.paths(Reply::Text(ALL.to_owned()));
    let exporter = host.exporter(&[]);
    host.sysfs.link("block/dm-0", "../devices/virtual/block/dm-0");
    let page = exporter.reread();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHB))), (Some(1.0), Some(2.0)));
    host.turn_into("01-healthy");
    assert_none(&exporter.reread());
}

#[test]
fn a_disk_one_of_whose_paths_is_in_a_map_is_assembled() {
    let host = unassembled();
    host.turn_into("01-healthy");
    host.sysfs.remove("devices/virtual/block/dm-0/slaves/sdd");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert_eq!(page.device("paths", MPATHA), Some(1.0));
    assert_none(&page);
}

#[test]
fn a_disk_on_one_path_is_none() {
    let host = unassembled();
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    host.sysfs.remove("block/sdd");
    let page = exporter.reread();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHA))), (Some(1.0), None));
}

#[test]
fn udevs_latest_word_counts() {
    let host = unassembled();
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    host.sysfs.udev("8:48", "ID_SERIAL=3600a098000aad1e3");
    let page = exporter.reread();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHB))), (Some(1.0), Some(2.0)));
}

#[test]
fn two_luns_of_one_target_are_not_one_disk() {
    let host = unassembled();
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    // 7:0:0:2 has the name of 7:0:0:1.
    host.sysfs.udev("8:48", &format!("ID_SERIAL={MPATHB}"));
    assert_none(&exporter.reread());
    host.sysfs.remove("block/sdc");
    host.sysfs.remove("block/sdb");
    assert_eq!(exporter.reread().value(&paths(MPATHB)), Some(2.0));
}

#[test]
fn two_sizes_are_not_one_disk() {
    let host = unassembled();
    host.sysfs.replace("devices/platform/host7/session2/target7:0:0/7:0:0:2/block/sdd/size", "8\n");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHB))), (Some(1.0), Some(2.0)));
}

#[test]
fn one_path_is_shown_where_it_is_marked_or_beside_a_map() {
    let host = unassembled();
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    host.sysfs.remove("block/sda");
    host.sysfs.remove("block/sdd");
    assert_none(&exporter.reread());
    for (marks, shown) in [("1", 1.0), ("0", 0.0), ("2", 0.0), ("1\nE:DM_MULTIPATH_DEVICE_PATH=0", 0.0)] {
        host.sysfs.udev("8:16", &format!("ID_SERIAL={MPATHA}\nE:DM_MULTIPATH_DEVICE_PATH={marks}"));
        let page = exporter.reread();
        assert_eq!(page.value(WWIDS), Some(shown), "{marks}");
        assert_eq!(page.value(&paths(MPATHA)), (shown > 0.0).then_some(shown), "{marks}");
    }
    // The map over the other LUN appears.
    let host = unassembled();
    host.turn_into("01-healthy");
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    assert_none(&exporter.metrics());
    host.sysfs.remove("block/dm-0");
    host.sysfs.remove("devices/virtual/block/dm-0");
    host.sysfs.remove("block/sda");
    host.sysfs.remove("block/sdd");
    assert_eq!(exporter.reread().value(WWIDS), Some(1.0));
}

#[test]
fn what_another_driver_holds_is_counted_and_no_alert_is_about_it() {
    let disk = "devices/platform/host6/session1/target6:0:0/6:0:0:2/block/sdb";
    for (what, held_by, make) in [
        (
            "md holds one",
            "md0",
            (|host, disk| host.sysfs.write(&format!("{disk}/holders/md0/x"), "")) as fn(&Host, &str),
        ),
        ("md holds a partition", "md127", |host, disk| {
            host.sysfs.write(&format!("{disk}/sdb1/holders/md127/x"), "");
        }),
        ("md tells of its disks", "md1", |host, disk| {
            host.sysfs.write("devices/virtual/block/md1/dev", "9:1\n");
            host.sysfs.link("block/md1", "../devices/virtual/block/md1");
            host.sysfs.link("devices/virtual/block/md1/slaves/sdb1", &format!("../../../../../{disk}/sdb1"));
        }),
        ("PowerPath holds one", "emcpowera", |host, disk| {
            host.sysfs.write(&format!("{disk}/holders/emcpowera/x"), "");
        }),
        ("HDLM holds one", "sddlmaa", |host, disk| {
            host.sysfs.write(&format!("{disk}/holders/sddlmaa/x"), "");
        }),
        ("VxVM's device is named alike", "VxDMP3", |host, _| {
            host.sysfs.write("devices/virtual/block/VxDMP3/dev", "201:48\n");
            host.sysfs.link("block/VxDMP3", "../devices/virtual/block/VxDMP3");
            host.sysfs.udev("201:48", &format!("ID_SERIAL={MPATHA}"));
        }),
    ] {
        let host = unassembled();
        make(&host, disk);
        let exporter = host.exporter(&["--no-collector.multipathd"]);
        let page = exporter.metrics();
        let shown = (page.value(WWIDS), page.value(&paths(MPATHA)), page.value(&paths(MPATHB)));
        assert_eq!(shown, (Some(2.0), None, Some(2.0)), "{what}");
        assert_no_errors(&page);
        let document = exporter.get("/api/v1/devices").json();
        let told = document["unassembled"].as_array().unwrap();
        let told: Vec<_> = told.iter().map(|disk| (&disk["wwid"], &disk["held_by"], &disk["disks"])).collect();
        let expected = (serde_json::json!(MPATHA), serde_json::json!(held_by), serde_json::json!(["sdb", "sdd"]));
        assert!(told.contains(&(&expected.0, &expected.1, &expected.2)), "{what}: {told:?}");
    }
    // If no source says which disks a map holds, the map's size decides.
    let host = unassembled();
    host.sysfs.write("devices/virtual/block/emcpowera/size", "131072\n");
    host.sysfs.link("block/emcpowera", "../devices/virtual/block/emcpowera");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert_eq!((page.value(WWIDS), page.of_metric("multipath_unassembled_paths").len()), (Some(2.0), 0));
    // A mount on the disk itself is direct use, and does not suppress the finding.
    let host = unassembled();
    host.sysfs.write(&format!("{disk}/holders/dm-9/x"), "");
    assert_both(&host.exporter(&["--no-collector.multipathd"]).metrics());
}

#[test]
fn what_udev_does_not_say_is_not_known() {
    let host = unassembled();
    host.sysfs.remove("udev");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert_none(&page);
    assert_no_errors(&page);
}

#[test]
fn what_cannot_be_read_stays_as_last_read() {
    let host = unassembled();
    let exporter = host.exporter(&["--no-collector.multipathd"]);
    for devno in ["8:0", "8:16"] {
        host.sysfs.make_unreadable(&format!("udev/b{devno}"));
    }
    let page = exporter.reread();
    assert_both(&page);
    assert_errors("udev's entries", &page);

    host.sysfs.replace("udev", "");
    assert_both(&exporter.reread());
    host.sysfs.replace("block/sda", "");
    let errors = page.value(SYSFS_ERRORS);
    let page = exporter.reread();
    assert!(page.value(SYSFS_ERRORS) > errors);
}

#[test]
fn disks_of_other_multipath_software_can_be_ignored() {
    let host = unassembled();
    host.sysfs.write("config.yml", format!("ignore_unassembled: ['{}*']\n", &MPATHA[..MPATHA.len() - 1]));
    let file = format!("--config.file={}", host.sysfs.path("config.yml").display());
    assert_none(&host.exporter(&["--no-collector.multipathd", &file]).metrics());
    host.sysfs.replace("config.yml", format!("ignore_unassembled: ['{MPATHA}']\n"));
    let page = host.exporter(&["--no-collector.multipathd", &file]).metrics();
    assert_eq!((page.value(WWIDS), page.value(&paths(MPATHB))), (Some(1.0), Some(2.0)));
}

#[test]
fn entries_that_make_no_sense_are_nobodys() {
    let host = unassembled();
    host.sysfs.replace("udev/b8:0", "");
    host.sysfs.replace("udev/b8:16", [&b"E:ID_SERIAL=\xff\n"[..], b"garbage"].concat());
    host.sysfs.write("udev/b8", "E:ID_SERIAL=3600a\n");
    host.sysfs.write("udev/bx:y", "E:ID_SERIAL=3600a\n");
    let page = host.exporter(&["--no-collector.multipathd"]).metrics();
    assert_none(&page);
    assert_no_errors(&page);
}
