//! The tables of metrics and options in `docs/` are those of the program.
//! `ACCEPT=1 cargo test --test program tables` writes them again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::CommandFactory;
use multipath_exporter::cli::Cli;
use multipath_exporter::metrics::devices::{DeviceMetrics, PathSeries};
use multipath_exporter::metrics::exposition::{self, Format};
use multipath_exporter::topology::{
    Daemon, DaemonCounters, Device, DirectUse, Failures, FcHostPort, FcRemotePort, Group, History, IscsiBond,
    IscsiSession, Kind, LossReason, LostDevice, Mismatches, NvmeController, NvmeSubsystem, Path, PathEventCounts,
    PathState, Ports, Remembered, Snapshot, Transport, Transports, Unassembled,
};
use prometheus_client::registry::Registry;

use super::golden::assert_file;

/// Prefixes of metric names and their subjects. The first match counts.
const SUBJECTS: [(&str, &str); 6] = [
    ("multipath_exporter_", "The exporter"),
    ("process_", "Its process"),
    ("multipath_device_", "A device"),
    ("multipath_lost_device_", "A device"),
    ("multipath_path_", "A path, or a group of paths"),
    ("multipath_", "The host"),
];

/// Metrics of transports. They are not properties of the whole host.
const TRANSPORT: [&str; 5] = [
    "multipath_iscsi_",
    "multipath_fc_",
    "multipath_nvme_",
    "multipath_unassembled_paths",
    "multipath_disk_used_directly",
];

struct Family {
    name: String,
    help: String,
    kind: String,
    labels: Vec<String>,
}

/// Metric families in the order of the page, with the labels of their first sample.
fn families(page: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let (name, help) = (name.to_owned(), help.to_owned());
            families.push(Family { name, help, kind: String::new(), labels: Vec::new() });
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.last_mut().unwrap().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let family = families.last_mut().unwrap();
            if family.labels.is_empty() && family.kind != "histogram" {
                let names = labels.split("=\"").filter_map(|before| before.rsplit(['"', ',', '{']).next());
                let labels = labels.matches("=\"").count();
                family.labels = names.take(labels).map(str::to_owned).collect();
            }
        }
    }
    families
}

/// A host with one object of each kind and with every fault.
fn snapshot() -> Snapshot {
    let ports = || Ports { initiator_port: "i".into(), target: "t".into(), target_port: "p".into() };
    let path = Path {
        name: "sda".into(),
        devno: "8:0".parse().ok(),
        hctl: "1:0:0:1".into(),
        transport: Transport::Fc,
        ports: ports(),
        group: Some(1),
        state: PathState::Valid,
        is_told: true,
        failures: 0,
        priority: Some(50),
        checker_state: Some("faulty".into()),
        device_state: Some("running".into()),
        access_state: Some("active/optimized".into()),
        ana_state: Some("optimized".into()),
        marginal: Some(true),
        io_errors: Some(0),
        io_timeouts: Some(0),
        stalled: None,
    };
    let device = Device {
        wwid: "3600".into(),
        name: "mpatha".into(),
        sysfs_name: "dm-0".into(),
        uuid: "mpath-3600".into(),
        kind: Kind::DeviceMapper,
        vendor: "v".into(),
        product: "p".into(),
        revision: "r".into(),
        paths: vec![path],
        groups: vec![Group { index: 1, state: "active".into() }],
        queueing: Some(false),
        suspended: Some(true),
        read_only: Some(false),
        size_bytes: Some(1),
        open_count: Some(1),
        in_use: Some(true),
        inflight_requests: Some(0),
        blocked_paths: 1,
        stalled: Some(Duration::from_secs(60)),
        root: false,
        stray_paths: vec!["sdc".into()],
        mismatches: Mismatches { size: 1, read_only: 1, wwid: 1, lun: 1 },
        lun_conflicts: 1,
        daemon_counters: Some(DaemonCounters::default()),
        active_group_priority: Some(10),
        best_group_priority: Some(50),
        path_events: PathEventCounts { last_failed: Some(SystemTime::UNIX_EPOCH), ..PathEventCounts::default() },
        repeated_path_failures: 0,
        path_io_errors: 0,
    };
    let transports = Transports {
        iscsi_sessions: vec![Arc::new(IscsiSession {
            name: "session1".into(),
            ports: ports(),
            source: None,
            state: "LOGGED_IN".into(),
            is_ending: false,
        })],
        fc_host_ports: vec![Arc::new(FcHostPort { port_name: "0x1".into(), state: "Online".into() })],
        fc_remote_ports: vec![Arc::new(FcRemotePort { ports: ports(), state: "Online".into() })],
        nvme_controllers: vec![Arc::new(NvmeController {
            name: "nvme0".into(),
            state: "live".into(),
            ports: ports(),
            ..NvmeController::default()
        })],
        nvme_subsystems: vec![NvmeSubsystem {
            target: "t".into(),
            iopolicy: Some("numa".into()),
            unreachable_namespaces: Some(1),
            ..NvmeSubsystem::default()
        }],
        adapters: Arc::default(),
    };
    let history = History { is_redundant: Some(true), has_lost_redundancy: Some(false), ..History::default() };
    Snapshot {
        devices: vec![Arc::new(device)],
        daemon: Daemon::Up("idle".into()),
        transports: Arc::new(transports),
        iscsi_session_paths: BTreeMap::from([("session1".into(), 1)]),
        iscsi_session_failures: Arc::new(Failures::from([(ports(), 1)])),
        nvme_controller_failures: Arc::new(Failures::from([(ports(), 1)])),
        iscsi_bonds: vec![IscsiBond {
            name: "storage".into(),
            networks: vec![("eth1".into(), true)],
            is_watched: true,
        }],
        unassembled: vec![Unassembled { wwid: "3600".into(), paths: vec!["sda".into()], held_by: None }],
        used_directly: vec![DirectUse { wwid: "3600".into(), disk: "sda".into(), by: "mount".into() }],
        remembered: Arc::new(Remembered {
            devices: vec![("3600".into(), history)],
            lost: vec![LostDevice {
                wwid: "3600".into(),
                name: "mpatha".into(),
                kind: Kind::DeviceMapper,
                vendor: "v".into(),
                product: "p".into(),
                reason: LossReason::InUse,
                time: SystemTime::UNIX_EPOCH,
            }],
            fc_host_ports: ["0x1".into()].into(),
            fc_remote_ports: [("i".into(), "p".into())].into(),
            in_trouble: true,
            last_recovery: Some(SystemTime::UNIX_EPOCH),
        }),
    }
}

/// One table for each subject, with the families of the golden page. That page is real and has all
/// families.
fn metrics_section() -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(DeviceMetrics {
        snapshot: Arc::new(snapshot()),
        paths: PathSeries::All,
        events: true,
    }));
    let mut page = String::new();
    exposition::encode(&registry, Format::Text, &mut page).unwrap();
    let of_devices = families(&page);

    let subject = |name: &str| {
        if TRANSPORT.iter().any(|start| name.starts_with(start)) {
            "Sessions, ports and networks"
        } else {
            SUBJECTS.iter().find(|(start, _)| name.starts_with(start)).unwrap().1
        }
    };
    let golden = include_str!("../golden/metrics.txt");
    let mut section = String::new();
    let mut last = "";
    for mut family in families(golden) {
        if let Some(known) = of_devices.iter().find(|known| known.name == family.name) {
            assert!(family.labels.is_empty() || family.labels == known.labels, "{}", family.name);
            family.labels.clone_from(&known.labels);
        }
        let subject = subject(&family.name);
        if subject != last {
            section.push_str(&format!(
                "\n**{subject}**\n\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
            ));
            last = subject;
        }
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let Family { name, help, kind, .. } = family;
        section.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
    section
}

fn options_section() -> String {
    let command = Cli::command();
    let mut section = "\n| option | default | meaning |\n| --- | --- | --- |\n".to_owned();
    for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
        let name = format!("--{}", option.get_long().unwrap());
        let value = match (option.get_action().takes_values(), option.get_value_names()) {
            (true, Some([value])) => format!(" {value}"),
            _ => String::new(),
        };
        let default = option.get_default_values().iter().map(|value| format!("`{}`", value.to_str().unwrap()));
        let default = default.collect::<Vec<_>>().join(", ");
        let help = option.get_help().unwrap().to_string();
        let words: Vec<String> = if option.get_action().takes_values() {
            option.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect()
        } else {
            Vec::new()
        };
        let words = if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
        section.push_str(&format!("| `{name}{value}` | {default} | {help}{words} |\n"));
    }
    section
}

/// Checks that the page of this name in `docs/` has this section.
fn assert_section(name: &str, page: &str, section: &str) {
    let (begin, end) = (format!("<!-- {name}: written by a test -->\n"), format!("\n<!-- end of {name} -->"));
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{name}.md has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{name}.md has no {end}"));
    assert_file(&format!("docs/{name}.md"), &format!("{before}{begin}{section}{end}{after}"));
}

#[test]
fn the_table_of_metrics() {
    assert_section("metrics", include_str!("../../docs/metrics.md"), &metrics_section());
}

#[test]
fn the_table_of_options() {
    assert_section("options", include_str!("../../docs/options.md"), &options_section());
}
