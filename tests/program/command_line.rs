//! The command line: the program reports a mistake in one line before it serves anything, and
//! prints what it is asked to print.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

use super::harness::{Host, Page, Reply, Tree, run, run_into};

/// Checks that the program refuses these options with status 2 and one line on standard error that
/// contains these words.
fn assert_refused(options: &[&str], words: &[&str]) {
    let finished = run(options);
    assert_eq!(finished.status, Some(2), "{options:?}: {}", finished.stderr);
    assert_eq!(finished.stdout, "", "{options:?}");
    assert!(finished.stderr.starts_with("multipath_exporter: "), "{options:?}: {}", finished.stderr);
    assert!(finished.stderr.ends_with('\n'), "{options:?}: {}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "{options:?}: {}", finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{options:?}: no {word:?} in {}", finished.stderr);
    }
}

/// A file in a directory of its own.
fn file(name: &str, content: &str) -> (Tree, String) {
    let directory = Tree::empty();
    directory.write(name, content);
    let path = directory.path(name).display().to_string();
    (directory, path)
}

#[test]
fn bad_options() {
    for (options, words) in [
        (&["--web.listen-adress=:1"][..], &["--web.listen-adress"][..]),
        (&["serve"], &["serve"]),
        (&["-x"], &["-x"]),
        (&["--web.listen-address"], &["--web.listen-address"]),
        (&["--web.listen-address="], &["--web.listen-address"]),
        (&["--web.listen-address=10056"], &["--web.listen-address", "10056", "port"]),
        (&["--web.listen-address=:65536"], &["--web.listen-address", "65536"]),
        (&["--web.listen-address=:http"], &["--web.listen-address", "http"]),
        (&["--web.listen-address=::1:80"], &["--web.listen-address", "brackets"]),
        (&["--web.listen-address=[::1:80"], &["--web.listen-address", "bracket"]),
        (&["--web.telemetry-path=metrics"], &["--web.telemetry-path", "/"]),
        (&["--web.telemetry-path=/-/ready"], &["--web.telemetry-path"]),
        (&["--web.telemetry-path=/api/v1/devices"], &["--web.telemetry-path"]),
        (&["--web.telemetry-path=/runbooks/"], &["--web.telemetry-path"]),
        (&["--web.max-requests=many"], &["--web.max-requests", "many"]),
        (&["--web.max-requests=-1"], &["--web.max-requests"]),
        (&["--resync.interval=0s"], &["--resync.interval"]),
        (&["--resync.interval=30"], &["--resync.interval", "30"]),
        (&["--reread.interval=soon"], &["--reread.interval", "soon"]),
        (&["--multipathd.timeout=-1s"], &["--multipathd.timeout"]),
        (&["--multipathd.socket="], &["--multipathd.socket"]),
        (&["--multipathd.socket=@"], &["--multipathd.socket"]),
        (&["--collector.zfs"], &["--collector.zfs"]),
        (&["--log.level=loud"], &["--log.level", "loud"]),
        (&["--log.format=xml"], &["--log.format", "xml"]),
        (&["--config.check"], &["--config.file"]),
        (&["--oneshot=yes"], &["--oneshot"]),
        (&["--path.sysfs="], &["--path.sysfs"]),
        (&["--oneshot", "--oneshot"], &["--oneshot"]),
    ] {
        assert_refused(options, words);
    }
    let long = format!("--multipathd.socket=/{}", "s".repeat(107));
    assert_refused(&[&long], &["--multipathd.socket", "108", "107"]);
}

#[test]
fn durations_that_no_clock_can_hold() {
    for option in ["--resync.interval", "--reread.interval", "--multipathd.timeout"] {
        assert_refused(&["--web.listen-address=127.0.0.1:0", &format!("{option}=300000000000years")], &[option]);
    }
}

#[test]
fn options_that_are_no_text() {
    let finished = run(&[OsStr::from_bytes(b"--web.telemetry-path=/\xff")]);
    assert_eq!((finished.status, finished.stderr.lines().count()), (Some(2), 1), "{}", finished.stderr);
}

#[test]
fn bad_configuration_files() {
    for (content, words) in [
        ("expected_path: []\n", &["line 1", "expected_path"][..]),
        ("expected_paths:\n  - {wwid: a, pats: 8}\n", &["line 2", "pats"]),
        ("expected_paths:\n  - {wwid: a}\n", &["line 2", "paths"]),
        ("expected_paths:\n  - {wwid: a, paths: many}\n", &["line 2"]),
        ("expected_paths:\n  - {wwid: a, paths: -1}\n", &["line 2"]),
        ("iscsi_bonds: yes\n", &["line 1"]),
        ("iscsi_bonds:\n  - {name: a, networks: eth0, targets: ['*']}\n", &["line 2"]),
        ("expected_paths: [\n", &["line"]),
        ("expected_paths: []\nexpected_paths: []\n", &["line 2", "expected_paths"]),
        ("- a\n", &["line 1"]),
        ("just words\n", &["line 1"]),
    ] {
        let (_directory, file) = file("config.yml", content);
        let words = [&[file.as_str()], words].concat();
        let option = format!("--config.file={file}");
        for mode in [&[][..], &["--config.check"], &["--oneshot"]] {
            let options = [&[option.as_str(), "--web.listen-address=127.0.0.1:0"], mode].concat();
            assert_refused(&options, &words);
        }
    }
}

#[test]
fn configuration_files_that_cannot_be_read() {
    let (directory, file) = file("config.yml", "");
    std::fs::write(&file, b"expected_paths: \xff\n").unwrap();
    let missing = directory.path("missing.yml").display().to_string();
    let no_file = directory.root().display().to_string();
    directory.write("large.yml", "#".repeat(2 << 20));
    let large = directory.path("large.yml").display().to_string();
    directory.fifo("pipe.yml");
    let pipe = directory.path("pipe.yml").display().to_string();
    for (path, words) in [
        (&missing, &["No such file"][..]),
        (&no_file, &["directory"]),
        (&file, &["line 1", "UTF-8"]),
        (&large, &["larger than"]),
        // No process ever writes to it.
        (&pipe, &["not a regular file"]),
        (&String::new(), &[]),
    ] {
        let words = [&[path.as_str()], words].concat();
        assert_refused(&[&format!("--config.file={path}"), "--web.listen-address=127.0.0.1:0"], &words);
        assert_refused(&[&format!("--config.file={path}"), "--config.check"], &words);
    }
}

/// Nothing is mounted there.
#[test]
fn a_sysfs_without_anything_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    let (sysfs, socket) = (format!("--path.sysfs={path}"), format!("--multipathd.socket={path}/nobody"));
    for mode in [&["--web.listen-address=127.0.0.1:0"][..], &["--oneshot"]] {
        assert_refused(&[&["--no-collector.dm", &sysfs, &socket], mode].concat(), &["--path.sysfs", &path]);
    }
}

/// A container may have no such file.
#[test]
fn no_database_of_udev_is_warned_of() {
    let host = Host::recorded("01-healthy");
    let nowhere = host.sysfs.path("nowhere").display().to_string();
    let exporter = host.exporter(&[&format!("--path.udev.data={nowhere}")]);
    exporter.await_log(&["level=warn", &nowhere]);
    assert_eq!(exporter.metrics().value("multipath_devices"), Some(2.0));

    let exporter = host.exporter(&[]);
    assert!(!exporter.log().iter().any(|line| line.contains("level=warn")), "{:?}", exporter.log());
}

#[test]
fn addresses_that_cannot_be_used() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    // A label of a host name has at most 63 bytes. The resolver refuses this name without a query.
    let unresolvable = format!("{}.example:10056", "x".repeat(64));
    // RFC 5737 reserves this address for documentation, so no machine has it.
    for address in [taken.as_str(), &unresolvable, "192.0.2.1:0"] {
        let option = format!("--web.listen-address={address}");
        assert_refused(&["--no-collector.dm", &option], &[address]);
        // The program also serves nothing on the addresses that it could use.
        assert_refused(&["--no-collector.dm", "--web.listen-address=127.0.0.1:0", &option], &[address]);
    }
}

#[test]
fn a_configuration_is_checked() {
    let content = "expected_paths:\n  - {wwid: 3600a098000aad1e3000064e45f2c2355, paths: 8}\n  \
                   - {vendor: NETAPP, product: 'INF-01-.*', paths: 4}\n\
                   iscsi_bonds:\n  \
                   - {name: storage, networks: [eth1, 192.0.2.0/24], targets: ['iqn.2003-01.org.example:*']}\n";
    for content in [content, "", "# nothing yet\n", "expected_paths: []\n"] {
        let (_directory, file) = file("config.yml", content);
        let finished = run(&[&format!("--config.file={file}"), "--config.check"]);
        assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""), "{content}");
        assert!(finished.stdout.contains(&file) && finished.stdout.lines().count() == 1, "{}", finished.stdout);
    }
}

#[test]
fn version() {
    for option in ["--version", "-V"] {
        let finished = run(&[option]);
        assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""));
        assert_eq!(finished.stdout, format!("multipath_exporter {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn help() {
    for option in ["--help", "-h"] {
        let finished = run(&[option]);
        assert_eq!((finished.status, finished.stderr.as_str()), (Some(0), ""));
        for name in [
            "--web.listen-address",
            "--web.systemd-socket",
            "--web.config.file",
            "--web.telemetry-path",
            "--web.max-requests",
            "--path.sysfs",
            "--path.procfs",
            "--path.udev.data",
            "--multipathd.socket",
            "--multipathd.timeout",
            "--no-collector.dm",
            "--resync.interval",
            "--reread.interval",
            "--config.file",
            "--config.check",
            "--log.level",
            "--log.format",
            "--oneshot",
            "--version",
            "--help",
        ] {
            assert!(finished.stdout.contains(name), "{option}: no {name}");
        }
    }
}

#[test]
fn what_cannot_be_printed_is_an_error() {
    let host = Host::recorded("01-healthy");
    let (_directory, file) = file("config.yml", "");
    let config = format!("--config.file={file}");
    let oneshot = [host.options(), vec!["--oneshot".to_owned()]].concat();
    for options in
        [&["--version".to_owned()][..], &["--help".to_owned()], &[config, "--config.check".to_owned()], &oneshot]
    {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let finished = run_into(full, options);
        assert_eq!(finished.status, Some(1), "{options:?}: {}", finished.stderr);
        assert_eq!(finished.stderr.lines().count(), 1, "{options:?}: {}", finished.stderr);
        assert!(finished.stderr.contains("No space left on device"), "{options:?}: {}", finished.stderr);
    }
}

#[test]
fn oneshot_prints_the_page_without_what_only_a_running_exporter_knows() {
    let host = Host::recorded("02-net1-lost");
    let options = [host.options(), vec!["--oneshot".to_owned()]].concat();
    let finished = run(&options);
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.ends_with('\n') && !finished.stdout.contains("# EOF"));

    let printed = Page::new(&finished.stdout);
    let scraped = host.exporter(&[]).metrics();
    let (printed, scraped) = (printed.names(), scraped.names());
    assert_eq!(printed.difference(&scraped).collect::<Vec<_>>(), Vec::<&&str>::new());
    let missing: BTreeSet<&str> = scraped.difference(&printed).copied().collect();
    let of_events = [
        "multipath_device_path_events_total",
        "multipath_device_repeated_path_failures_total",
        "multipath_path_failures_total",
        "multipath_iscsi_session_failures_total",
    ];
    let allowed = |name: &&str| {
        let only_running = ["process_", "multipath_exporter_"].iter().any(|start| name.starts_with(start));
        only_running || of_events.contains(name)
    };
    assert!(missing.iter().all(allowed), "{missing:?}");
    let of_program =
        ["process_cpu_seconds_total", "multipath_exporter_scrapes_total", "multipath_exporter_uevents_total"];
    for name in of_program.into_iter().chain(of_events) {
        assert!(missing.contains(name), "{name} is printed");
        assert!(!finished.stdout.contains(name), "{name} is described");
    }
}

#[test]
fn oneshot_ends_though_multipathd_does_not_answer() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::Hold);
    let mut options = host.options();
    options.retain(|option| !option.starts_with("--multipathd.timeout"));
    options.extend(["--multipathd.timeout=300ms".to_owned(), "--oneshot".to_owned()]);
    let finished = run(&options);
    assert_eq!(finished.status, Some(0), "{}", finished.stderr);
    let page = Page::new(&finished.stdout);
    assert_eq!((page.value("multipath_daemon_up"), page.value("multipath_devices")), (Some(0.0), Some(2.0)));
}

#[test]
fn oneshot_prints_nothing_though_multipathd_answers_where_sysfs_does_not() {
    let host = Host::recorded("01-healthy");
    let _unlistable = host.sysfs.make_unlistable("block");
    let options = [host.options(), vec!["--oneshot".to_owned()]].concat();
    for multipathd_answers in [true, false] {
        if !multipathd_answers {
            host.multipathd.daemon(Reply::closed());
        }
        let finished = run(&options);
        assert_eq!((finished.status, finished.stdout.as_str()), (Some(1), ""), "{}", finished.stderr);
        // The other lines belong to the log.
        let told: Vec<_> = finished.stderr.lines().filter(|line| line.starts_with("multipath_exporter: ")).collect();
        assert!(matches!(told[..], [line] if line.contains("sysfs")), "{}", finished.stderr);
    }
}
