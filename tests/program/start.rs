//! The start: the program raises limits, and refuses wrong directories or warns about them.

use std::fs;

use super::harness::{Exporter, Host, Tree, run};

#[test]
fn the_limit_of_open_files_is_raised() {
    let host = Host::bare();
    let exporter = Exporter::start_after("ulimit -S -n 100; ulimit -H -n 3000", &host.options());
    exporter.await_ready();
    assert_eq!(exporter.metrics().value("process_max_fds"), Some(3000.0));
}

/// Checks that all commands refuse this directory as sysfs for this reason.
#[track_caller]
fn assert_no_sysfs(sysfs: &Tree, directory: &str, why: &str) {
    let file = sysfs.path("capture.tar.gz");
    let capture = format!("--capture={}", file.display());
    let directory = sysfs.path(directory).display().to_string();
    let sysfs = format!("--path.sysfs={directory}");
    for mode in [&[][..], &["--oneshot"], &[&capture]] {
        let options = [&["--no-collector.dm", "--web.listen-address=127.0.0.1:0", &sysfs], mode].concat();
        let finished = run(&options);
        let line = format!("multipath_exporter: --path.sysfs: {directory} {why}\n");
        assert_eq!((finished.status, finished.stdout, finished.stderr), (Some(2), String::new(), line), "{mode:?}");
    }
    assert!(!file.exists());
}

#[test]
fn what_is_no_sysfs_is_refused() {
    for name in ["block", "class", "devices"] {
        let tree = Tree::empty();
        tree.remove(name);
        let why = format!("is not sysfs: missing directories: {name}");
        assert_no_sysfs(&tree, "", &why);
        tree.write(name, "");
        assert_no_sysfs(&tree, "", &why);
    }
    assert_no_sysfs(&Tree::empty(), "class", "is not sysfs: missing directories: block, class, devices");
    assert_no_sysfs(&Tree::empty(), "none", "is not sysfs: missing directories: block, class, devices");
}

#[test]
fn a_host_without_udev_is_warned_of_once() {
    let warnings = |exporter: &Exporter| {
        exporter.log().into_iter().filter(|line| line.contains("--path.udev.data")).collect::<Vec<_>>()
    };
    let host = Host::recorded("01-healthy");
    assert_eq!(warnings(&host.exporter(&[])), Vec::<String>::new());

    fs::remove_dir(host.sysfs.path("udev")).unwrap();
    let exporter = host.exporter(&[]);
    exporter.await_log(&["--path.udev.data"]);
    let [line] = &warnings(&exporter)[..] else { panic!("{:?}", exporter.log()) };
    let path = host.sysfs.path("udev").display().to_string();
    for word in ["level=warn", &path, "unassembled disks are not found", "WWID mismatches may be missed"] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    let finished = run(&[host.options(), vec!["--oneshot".to_owned()]].concat());
    assert_eq!((finished.status, finished.stderr.matches(&path).count()), (Some(0), 1), "{}", finished.stderr);
}
