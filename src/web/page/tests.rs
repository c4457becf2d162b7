use std::time::Duration;

use PathState::{Failed, Standby, Valid};

use super::*;
use crate::source::health::SourcePart;
use crate::topology::{
    DirectUse, FcHostPort, IscsiBond, IscsiSession, Kind, LossReason, LostDevice, Mismatches, NvmeController,
    NvmeSubsystem, Ports, Remembered, Transport, Transports, Unassembled, sample,
};

fn path(name: &str, state: PathState, from: &str, to: &str) -> Path {
    let ports = Ports { initiator_port: from.into(), target_port: to.into(), ..Ports::default() };
    Path { name: name.into(), state, ports, transport: Transport::Fc, group: Some(1), ..sample::path() }
}

fn device(name: &str, paths: Vec<Path>) -> Device {
    Device { wwid: format!("3600{name}").into(), name: name.into(), paths, ..sample::device() }
}

/// Devices with paths in these states. The paths use the host ports `h0`, `h1`, ….
fn host(devices: &[(&str, &[PathState])]) -> Snapshot {
    let device = |&(name, states): &(&str, &[PathState])| {
        let paths = states.iter().enumerate();
        let paths = paths.map(|(index, state)| path(&format!("sd{index}"), *state, &format!("h{index}"), "t"));
        Arc::new(device(name, paths.collect()))
    };
    Snapshot { devices: devices.iter().map(device).collect(), ..Snapshot::default() }
}

fn view(snapshot: &Snapshot) -> PageContent<'_> {
    PageContent {
        snapshot: Some(snapshot),
        events: &[],
        sources: &[],
        telemetry_path: "/metrics",
        host: "db01",
        query: Query::parse(""),
        now: SystemTime::UNIX_EPOCH,
    }
}

fn page(snapshot: &Snapshot) -> String {
    html(&view(snapshot))
}

fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).unwrap_or_else(|| panic!("no {start} in {page}"));
    rest.split_once(end).unwrap_or_else(|| panic!("no {end} after {start}")).0
}

/// The first sentence and the sentences below it, as plain text.
fn verdict(snapshot: &Snapshot) -> String {
    let page = page(snapshot);
    let text = between(&page, "<section id=\"verdict\"", "</section>").split_once('>').unwrap().1.to_owned();
    let (mut words, mut tag) = (String::new(), false);
    for c in text.replace('\n', " ").chars() {
        match c {
            '<' => tag = true,
            '>' => tag = false,
            c if !tag => words.push(c),
            _ => {}
        }
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A failing source, of which `part` has not been read since the start.
fn silent(part: SourcePart) -> SourceState {
    SourceState { up: Some(false), unanswered: vec![part], ..SourceState::default() }
}

fn event() -> Event {
    Event {
        id: 1,
        seqnum: None,
        dm_seqnum: None,
        time: SystemTime::UNIX_EPOCH,
        kind: EventType::PathFailed,
        wwid: Some("3600".into()),
        name: Some("mpatha".into()),
        path: Some("sdb".into()),
        devno: None,
        valid_paths: None,
    }
}

#[test]
fn one_sentence_a_tired_person_understands() {
    for (devices, words) in [
        (&[][..], "i This host has no multipath device"),
        (&[("a", &[Valid, Standby][..])], "✓ All paths of the only device work"),
        (&[("a", &[Failed])], "✕ The only device has no valid path"),
        (&[("a", &[])], "✕ The only device has no valid path"),
        (&[("a", &[Failed, Valid])], "! The only device has failed paths"),
        (&[("a", &[Valid]), ("b", &[Valid])], "✓ All paths of 2 devices work"),
        (
            &[("a", &[Valid]), ("b", &[Failed]), ("c", &[Failed, Valid])],
            "✕ 1 of 3 devices has no valid path 1 more has failed paths. All paths of 1 other device work. Both failed paths leave this host through h0.",
        ),
        (
            &[("a", &[Failed]), ("b", &[]), ("c", &[Valid]), ("d", &[Valid])],
            "✕ 2 of 4 devices have no valid path All paths of 2 other devices work.",
        ),
    ] {
        assert_eq!(verdict(&host(devices)), words);
    }
    assert!(html(&PageContent { snapshot: None, ..view(&host(&[])) }).contains("The first full read is in progress"));
}

#[test]
fn the_script_alone_reads_again_where_there_are_scripts() {
    let read = host(&[("a", &[Valid])]);
    let unread = html(&PageContent { snapshot: None, ..view(&read) });
    for (page, is_unread, seconds) in [(unread, true, 3), (page(&read), false, 30)] {
        assert_eq!(between(&page, "<html", ">").ends_with(" data-unread"), is_unread);
        let refresh = format!("<noscript><meta http-equiv=\"refresh\" content=\"{seconds}\"></noscript>");
        assert_eq!((page.matches(&refresh).count(), page.matches("http-equiv").count()), (1, 1), "{page}");
    }
}

#[test]
fn what_failed_paths_have_in_common() {
    let said = |paths: &[(PathState, &str, &str)]| {
        let paths: Vec<_> = paths.iter().map(|(state, from, to)| path("sda", *state, from, to)).collect();
        broken_port(paths.iter()).unwrap_or_default()
    };
    for (paths, words) in [
        (&[(Failed, "h0", "t0"), (Valid, "h1", "t0")][..], ""),
        (&[(Failed, "h0", "t0"), (Failed, "h0", "t1")], ""),
        (&[(Failed, "", "t0"), (Failed, "", "t1"), (Valid, "h0", "t2")], ""),
        (
            &[(Failed, "h0", "t0"), (Failed, "h0", "t1"), (Valid, "h1", "t0")],
            "Both failed paths leave this host through <b>h0</b>: no path through it is left.",
        ),
        (
            &[(Failed, "h0", "t0"), (Failed, "h0", "t1"), (Valid, "h0", "t1"), (Valid, "h1", "t0")],
            "Both failed paths leave this host through <b>h0</b>.",
        ),
        (
            &[(Failed, "h0", "<t>"), (Failed, "h1", "<t>"), (Failed, "h2", "<t>"), (Valid, "h0", "t")],
            "All 3 failed paths enter the storage at <b>&lt;t&gt;</b>: no path through it is left.",
        ),
        (
            &[(Failed, "h0", "t0"), (Failed, "h0", "t1"), (Failed, "h1", "t0"), (Valid, "h1", "t1")],
            "No path through this host’s port <b>h0</b> is left.",
        ),
    ] {
        assert_eq!(said(paths), words, "{paths:?}");
    }
}

#[test]
fn the_worst_comes_first_and_is_unfolded() {
    let mut snapshot =
        host(&[("a", &[Valid]), ("b", &[Failed, Valid, Valid]), ("c", &[Failed]), ("d", &[Failed, Valid])]);
    let mut odd = device("e", vec![path("sda", Valid, "h0", "t")]);
    odd.mismatches.wwid = 1;
    snapshot.devices.push(Arc::new(odd));
    let page = page(&snapshot);
    let summaries: Vec<_> =
        page.split("<details ").skip(1).map(|one| between(one, "data-device=\"3600", "<bdi>")).collect();
    let order: Vec<_> = summaries.iter().map(|one| &one[..1]).collect();
    assert_eq!(order, ["c", "e", "d", "b", "a"]);
    let open: Vec<_> = summaries.iter().map(|one| one.contains(" open ")).collect();
    assert_eq!(open, [true, true, true, true, false]);
    for (summary, word) in
        summaries.iter().zip(["✕ no valid path", "✕ another LUN", "! one path left", "! 1 path failed", "✓ healthy"])
    {
        assert!(summary.contains(word), "{summary}");
    }
}

#[test]
fn a_large_host_is_turned_over_and_filtered() {
    let names: Vec<String> = (0..120).map(|index| format!("m{index:03}")).collect();
    let devices: Vec<(&str, &[PathState])> = names.iter().map(|name| (&**name, &[Failed, Valid][..])).collect();
    let snapshot = host(&devices);
    let of = |query: &str| html(&PageContent { query: Query::parse(query), ..view(&snapshot) });
    let shown = |page: &str| page.matches("<details ").count();
    let first = of("");
    assert_eq!((shown(&first), first.matches(" open data-open>").count()), (50, 10));
    assert!(first.contains("Page 1 of 3") && first.contains("href=\"/?q=&amp;page=2\""), "{first}");
    assert!(!first.contains("rel=\"prev\""));
    for last in ["page=3", "page=99"] {
        let last = of(last);
        assert_eq!(shown(&last), 20);
        assert!(last.contains("Page 3 of 3") && last.contains("page=2") && !last.contains("rel=\"next\""));
    }
    let tenth = of("q=M01");
    assert_eq!(shown(&tenth), 10);
    assert!(tenth.contains("10 of 120 devices with “M01” in the name or WWID"));
    // The filter does not change the sentence about the host.
    assert!(of("q=nothing").contains("120 of 120 devices have failed paths"));
    assert!(of("q=%3Cb%3E%22").contains("value=\"&lt;b&gt;&quot;\""));
}

fn fc_host_port((port_name, state): (&str, &str)) -> Arc<FcHostPort> {
    Arc::new(FcHostPort { port_name: port_name.into(), state: state.into() })
}

fn nvme_controller((name, state): (&str, &str)) -> Arc<NvmeController> {
    let ports = Ports { initiator_port: "eth1".into(), target: "nqn.a".into(), target_port: "192.0.2.1:4420".into() };
    Arc::new(NvmeController { name: name.into(), state: state.into(), ports, ..NvmeController::default() })
}

fn nvme_subsystem((target, unreachable_namespaces): (&str, Option<usize>)) -> NvmeSubsystem {
    NvmeSubsystem { target: target.into(), unreachable_namespaces, ..NvmeSubsystem::default() }
}

/// An array may export a namespace through only some of its controllers.
#[test]
fn a_namespace_says_over_how_many_of_the_live_controllers_it_has_paths() {
    let said = |live_controllers, paths: &[&str], name: &str| {
        let mut snapshot = host(&[("a", &vec![Valid; paths.len()])]);
        let device = Arc::make_mut(&mut snapshot.devices[0]);
        device.sysfs_name = "nvme0n1".into();
        for (path, state) in device.paths.iter_mut().zip(paths) {
            path.device_state = Some((*state).into());
        }
        let subsystem = NvmeSubsystem { live_controllers, devices: vec![name.into()], ..NvmeSubsystem::default() };
        snapshot.transports = Arc::new(Transports { nvme_subsystems: vec![subsystem], ..Transports::default() });
        let page = page(&snapshot);
        let facts = between(&page, "<p class=\"facts\">", "</p>").to_owned();
        facts.split_once("paths through ").map(|(_, words)| words.to_owned())
    };
    assert_eq!(said(2, &["live"], "nvme0n1").as_deref(), Some("1 of the subsystem’s 2 live controllers"));
    assert_eq!(said(2, &["live", "live"], "nvme0n1"), None);
    assert_eq!(said(1, &["live"], "nvme0n1"), None);
    assert_eq!(said(1, &["live", "connecting"], "nvme0n1"), None);
    assert_eq!(said(2, &["live"], "nvme1n1"), None);
    // The namespace head stays after it has lost all paths.
    assert_eq!(said(1, &[], "nvme0n1").as_deref(), Some("0 of the subsystem’s 1 live controller"));
}

#[test]
fn the_worst_of_all_is_said_first() {
    let mut snapshot = host(&[("a", &[Valid]), ("b", &[Failed, Valid])]);
    Arc::make_mut(&mut snapshot.devices[0]).mismatches.wwid = 1;
    assert_eq!(verdict(&snapshot), "✕ Another LUN is behind a path of 1 device: stop using it 1 has failed paths.");
    let mut snapshot = host(&[("a", &[Failed])]);
    Arc::make_mut(&mut snapshot.devices[0]).in_use = Some(false);
    assert_eq!(verdict(&snapshot), "! The only device has no valid path");
    let nothing = PageContent { snapshot: None, ..view(&snapshot) };
    assert!(html(&nothing).contains("The first full read is in progress"));
    let unread = [(Source::Sysfs, silent(SourcePart::Block))];
    let page = html(&PageContent { sources: &unread, ..nothing });
    assert!(page.contains("No data yet: waiting for the first reading of sysfs"), "{page}");
}

#[test]
fn a_device_beside_which_a_disk_works_is_not_called_healthy() {
    let mut snapshot = host(&[("a", &[Valid, Valid]), ("b", &[Valid, Valid])]);
    let badge = |snapshot: &Snapshot, name: &str| {
        let page = page(snapshot);
        let device = between(&page, &format!("data-device=\"3600{name}\""), "</summary>").to_owned();
        between(&device, "<span class=\"badge\">", "</span>").to_owned()
    };
    assert_eq!((badge(&snapshot, "a"), badge(&snapshot, "b")), ("✓ healthy".to_owned(), "✓ healthy".to_owned()));
    Arc::make_mut(&mut snapshot.devices[1]).stray_paths = vec!["sdq".into()];
    assert_eq!((badge(&snapshot, "a"), badge(&snapshot, "b")), ("✓ healthy".to_owned(), "! stray path".to_owned()));
    let page = page(&snapshot);
    assert!(page.find("data-device=\"3600b\"").unwrap() < page.find("data-device=\"3600a\"").unwrap(), "{page}");
}

#[test]
fn the_numbers_of_luns_are_shown_where_they_differ() {
    let with = |lun: &str| Path { hctl: format!("1:0:0:{lun}").into(), ..path("sda", Valid, "h0", "t0") };
    let mut snapshot = Snapshot::default();
    for (luns, conflicts, mismatched, word) in [
        (["12", "12"], 0, 0, "healthy"),
        (["1", "2"], 0, 0, "healthy"),
        (["12", "7"], 0, 1, "paths differ"),
        (["12", "7"], 1, 1, "two LUNs"),
    ] {
        let mut device = device("a", luns.map(with).into());
        (device.lun_conflicts, device.mismatches.lun) = (conflicts, mismatched);
        snapshot.devices = vec![Arc::new(device)];
        let page = page(&snapshot);
        assert!(between(&page, "class=\"badge\">", "<").ends_with(word), "{luns:?} {page}");
        let shown = luns.map(|lun| page.contains(&format!("t0 <span class=\"words\">LUN {lun}</span>")));
        assert_eq!(shown, [luns[0] != luns[1]; 2], "{page}");
        assert_eq!(page.contains("1 path with another LUN number"), mismatched > 0, "{page}");
        assert_eq!(page.contains("1 port pair with two LUNs"), conflicts > 0, "{page}");
    }
    let words = "One pair of ports has two LUNs in 1 device: stop using it, data is at risk";
    assert_eq!(verdict(&snapshot), format!("✕ {words}"));
}

#[test]
fn io_that_does_not_get_through_is_said_first() {
    let edited = |devices: &[(&str, &[PathState])], change: &dyn Fn(&mut Device)| {
        let mut snapshot = host(devices);
        change(Arc::make_mut(&mut snapshot.devices[0]));
        snapshot
    };
    let two = [("a", &[Valid, Valid][..]), ("b", &[Valid, Failed])];
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    let blocked = edited(&two, &|device| device.blocked_paths = 2);
    let words = "✕ All valid paths of 1 device are blocked: no I/O completes 1 has failed paths.";
    assert_eq!(verdict(&blocked), words);
    assert!(page(&blocked).contains("2 paths blocked"));
    let stalled = edited(&two, &|device| device.stalled = seconds(60));
    assert_eq!(verdict(&stalled), "✕ I/O of 1 device is stalled: programs hang 1 has failed paths.");
    let text = page(&stalled);
    assert!(text.contains("(for 60 s)") && text.contains("no I/O has completed for 60 s"), "{text}");
    // The other device has no valid path, but nothing uses it.
    let unused = [("a", &[Failed][..]), ("b", &[Valid])];
    let mut unused = edited(&unused, &|device| device.in_use = Some(false));
    Arc::make_mut(&mut unused.devices[1]).blocked_paths = 1;
    assert!(
        verdict(&unused).starts_with("✕ All valid paths of 1 device are blocked: no I/O completes"),
        "{}",
        verdict(&unused)
    );
    // Only some of the device's paths are blocked.
    let one = [("a", &[Valid, Valid][..])];
    let not_well = "! No path of the only device has failed, but there are other problems";
    let in_part = edited(&one, &|device| device.blocked_paths = 1);
    assert_eq!(verdict(&in_part), not_well);
    assert!(page(&in_part).contains("1 device has blocked paths: I/O on them waits"));
    let swallows = edited(&one, &|device| device.paths[1].stalled = seconds(120));
    assert_eq!(verdict(&swallows), not_well);
    let text = page(&swallows);
    assert!(text.contains("I/O is stalled on 1 path, but flows on other paths of the device: sd1 of "), "{text}");
    assert!(text.contains("no I/O has completed here for 2 min"), "{text}");
    // The I/O is slow, not stalled.
    let slow = edited(&one, &|device| (device.stalled, device.paths[1].stalled) = (seconds(59), seconds(59)));
    assert_eq!(verdict(&slow), "✓ All paths of the only device work");
    assert!(!page(&slow).contains("completed"));
}

#[test]
fn the_past_has_its_words() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_480_000);
    let mut snapshot = host(&[("a", &[Valid, Valid])]);
    let remember = |snapshot: &mut Snapshot, remembered| snapshot.remembered = Arc::new(remembered);
    remember(&mut snapshot, Remembered { last_recovery: Some(time), ..Remembered::default() });
    let page = html(&view(&snapshot));
    assert!(between(&page, "<section id=\"verdict\"", "</section>").contains("Recovered at 2025-11-30 05:20:00 UTC."));

    let history = History { expected_paths: 4, missing_paths: 2, missing_since: Some(time), ..History::default() };
    remember(&mut snapshot, Remembered { devices: vec![("3600a".into(), history)], ..Remembered::default() });
    let page = html(&view(&snapshot));
    assert!(page.contains("2 of 4 paths, 2 missing since 2025-11-30 05:20:00 UTC"), "{page}");
}

#[test]
fn all_that_is_wrong_has_a_line_and_a_runbook() {
    let mut snapshot = host(&[("dead", &[Failed]), ("queueing", &[Failed]), ("single", &[Failed, Valid])]);
    let edit = |snapshot: &mut Snapshot, index: usize, change: &dyn Fn(&mut Device)| {
        change(Arc::make_mut(&mut snapshot.devices[index]));
    };
    edit(&mut snapshot, 0, &|device| device.queueing = Some(false));
    edit(&mut snapshot, 1, &|device| device.queueing = Some(true));
    edit(&mut snapshot, 2, &|device| {
        device.mismatches = Mismatches { size: 1, read_only: 1, wwid: 1, lun: 1 };
        device.lun_conflicts = 1;
        device.suspended = Some(true);
        device.paths[1].marginal = Some(true);
    });
    snapshot.devices.push(Arc::new(device(
        "degraded",
        vec![path("sda", Failed, "h0", "t"), path("sdb", Valid, "h1", "t"), path("sdc", Valid, "h1", "t")],
    )));
    snapshot.daemon = Daemon::Down;
    let since = Some(SystemTime::UNIX_EPOCH);
    let missing = |expected_paths, missing_paths| History {
        expected_paths,
        missing_paths,
        missing_since: since,
        ..History::default()
    };
    let lost = |name: &str, reason| LostDevice {
        wwid: format!("3600{name}").into(),
        name: name.into(),
        kind: Kind::Nvme,
        vendor: Arc::default(),
        product: Arc::default(),
        reason,
        time: SystemTime::UNIX_EPOCH,
    };
    snapshot.remembered = Arc::new(Remembered {
        fc_host_ports: ["h0".into(), "h1".into()].into(),
        fc_remote_ports: [Default::default()].into(),
        devices: vec![("3600degraded".into(), missing(4, 1)), ("3600nowhere".into(), missing(2, 2))],
        lost: vec![
            lost("gone", LossReason::NoValidPath),
            lost("mounted", LossReason::InUse),
            lost("other", LossReason::NotBackAfterBoot),
        ],
        in_trouble: true,
        last_recovery: None,
    });
    let unassembled = |wwid: &str, held_by: Option<&str>| Unassembled {
        wwid: wwid.into(),
        paths: vec!["sdx".into(), "sdy".into()],
        held_by: held_by.map(Arc::from),
    };
    snapshot.unassembled = vec![unassembled("3600<lone>", None), unassembled("3600power", Some("emcpowera"))];
    edit(&mut snapshot, 2, &|device| device.stray_paths = vec!["sdq".into(), "sdr".into()]);
    let used = |wwid: &str, disk: &str, by: &str| DirectUse { wwid: wwid.into(), disk: disk.into(), by: by.into() };
    snapshot.used_directly =
        vec![used("3600<lone>", "sdq", "dm"), used("3600dead", "sdx", "md"), used("3600dead", "sdx", "mount")];
    let networks = |up: [bool; 2]| vec![("eth1".into(), up[0]), ("eth2".into(), up[1])];
    snapshot.iscsi_bonds = vec![
        IscsiBond { name: "bond0".into(), networks: networks([false, false]), is_watched: true },
        IscsiBond { name: "bond1".into(), networks: networks([true, false]), is_watched: true },
        IscsiBond { name: "bond2".into(), networks: networks([false, false]), is_watched: false },
        IscsiBond { name: "bond3".into(), networks: vec![], is_watched: false },
    ];
    let session = |name: &str, state: &str| {
        let ports = Ports { initiator_port: "eth1".into(), target: "iqn".into(), target_port: name.into() };
        let (name, state) = ("session1".into(), state.into());
        Arc::new(IscsiSession { name, ports, state, ..IscsiSession::default() })
    };
    snapshot.transports = Arc::new(Transports {
        iscsi_sessions: vec![session("192.0.2.1:3260", "FAILED"), session("192.0.2.2:3260", "LOGGED_IN")],
        fc_host_ports: [("h0", "Linkdown"), ("0x11", "Linkdown"), ("h1", "Marginal")].map(fc_host_port).into(),
        fc_remote_ports: vec![Arc::default()],
        nvme_controllers: [("nvme0", "connecting"), ("nvme1", "live")].map(nvme_controller).into(),
        nvme_subsystems: [("nqn.a", Some(2)), ("nqn.b", Some(0)), ("nqn.c", None)].map(nvme_subsystem).into(),
        ..Transports::default()
    });
    let unread = SourceState { up: Some(false), ..SourceState::default() };
    let in_part = SourceState { up: Some(true), error: Some("size: what?".to_owned()), ..SourceState::default() };
    let sources = [(Source::Dm, unread.clone()), (Source::Multipathd, unread), (Source::Sysfs, in_part)];
    let page = html(&PageContent { sources: &sources, ..view(&snapshot) });
    let list = between(&page, "<ul class=\"findings\">", "</ul>");
    let lines: Vec<&str> = list.lines().filter(|line| line.contains("<li")).collect();
    for (line, (alert, words)) in lines.iter().zip([
        ("MultipathQueueingWithoutPaths", "programs hang: <a href=\"/?q=3600queueing\">queueing</a>."),
        ("MultipathNoValidPaths", "1 device has no valid path: I/O fails: <a href=\"/?q=3600dead\">dead</a>."),
        ("MultipathWwidMismatch", "Another LUN is behind a path of 1 device"),
        ("MultipathLunConflict", "One pair of ports has two LUNs in 1 device: stop using it, data is at risk"),
        (
            "MultipathDeviceInUseLost",
            "1 device was lost while in use: mounted (3600mounted), lost since 1970-01-01 00:00:00 UTC",
        ),
        ("MultipathIscsiBondDown", "bond0 (eth1, eth2)"),
        ("MultipathDeviceLost", "1 device did not come back after the boot: other"),
        ("MultipathDeviceLost", "1 device had no valid path and is gone: gone"),
        ("MultipathSinglePath", "1 device has one valid path left"),
        (
            "MultipathDiskUsedDirectly",
            "2 disks are used without the multipath device: sdq of 3600&lt;lone&gt; (by dm), \
             sdx of <a href=\"/?q=3600dead\">dead</a> (by md, mount).",
        ),
        ("MultipathFaultyPaths", "degraded"),
        ("MultipathDeviceSuspended", "1 device is suspended"),
        ("MultipathPathsMissing", "degraded</a> (3 of 4), 3600nowhere (is not there)"),
        ("MultipathIscsiSessionDown", "1 of 2 iSCSI sessions is down: 192.0.2.1:3260 through eth1 (session1, FAILED)"),
        (
            "MultipathNvmeControllerDown",
            "1 of 2 NVMe controllers is down: nvme0 to 192.0.2.1:4420 through eth1 (connecting)",
        ),
        (
            "MultipathNvmeNamespaceUnreachable",
            "1 NVMe subsystem has namespaces that cannot be reached: nqn.a (2 paths)",
        ),
        ("MultipathIscsiBondNetworkDown", "bond1 (eth2)"),
        ("MultipathFcHostPortDown", "2 Fibre Channel ports of this host are down: h0 (Linkdown), h1 (Marginal)"),
        ("MultipathFcRemotePortDown", "1 Fibre Channel port of the storage cannot be reached"),
        ("MultipathDaemonDown", "multipathd does not answer"),
        ("MultipathStrayPath", "</a> (sdq, sdr)"),
        ("MultipathNotAssembled", "1 disk is not in a multipath device, but should be: 3600&lt;lone&gt; (sdx, sdy)"),
        ("MultipathSizeMismatch", "report different sizes"),
        ("MultipathReadOnlyMismatch", "write protection"),
        ("MultipathLunMismatch", "Paths of 1 device to one target have different LUN numbers"),
        ("MultipathPathMarginal", "1 device has a marginal path"),
        ("MultipathExporterErrors", ": sysfs."),
        ("MultipathExporterStale", ": dm."),
        (
            "MultipathIscsiBondNetworkDown",
            "This host has no network of 1 iSCSI bond, so the exporter does not watch it: bond2.",
        ),
        (
            "MultipathIscsiBondNetworkDown",
            "1 iSCSI bond has no networks in the configuration, so the exporter does not watch it: bond3.",
        ),
        ("MultipathFcHostPortDown", "1 Fibre Channel port of this host is down and not in use: 0x11 (Linkdown)"),
        ("MultipathNotAssembled", "holds 1 disk: 3600power (sdx, sdy, emcpowera)"),
    ]) {
        assert!(line.contains(words), "{alert}: {line}");
        assert!(line.contains(&format!("href=\"/runbooks/{alert}\"")), "{alert}: {line}");
        assert!(runbooks::html(alert, "db01").is_some(), "{alert}");
    }
    assert_eq!(lines.len(), 32);
}

#[test]
fn what_may_be_of_yesterday_is_not_called_well() {
    let mut snapshot = host(&[("a", &[Valid]), ("b", &[Valid])]);
    let well = "✓ All paths of 2 devices work";
    let not_well = "! No path of 2 devices has failed, but there are other problems";
    let up = Daemon::Up("idle".into());
    let failed = || SourceState { up: Some(false), ..SourceState::default() };
    let not_permitted = || SourceState { not_permitted: true, ..failed() };
    for (daemon, unread, words) in [
        (up.clone(), &[][..], well),
        // The exporter runs without privileges.
        (up.clone(), &[(Source::Dm, not_permitted()), (Source::Uevent, failed())], well),
        (up.clone(), &[(Source::Dm, failed())], not_well),
        (up, &[(Source::Sysfs, failed())], not_well),
        (Daemon::Down, &[], not_well),
        (Daemon::NotAsked, &[(Source::Dm, not_permitted())], not_well),
    ] {
        snapshot.daemon = daemon;
        let page = html(&PageContent { sources: unread, ..view(&snapshot) });
        let (mark, sentence) = words.split_at(words.find(' ').unwrap());
        assert!(page.contains(&format!("{mark}</span> <span>{}</span></h1>", sentence.trim())), "{unread:?}: {page}");
        assert_eq!(page.contains("/runbooks/MultipathExporterStale\""), !unread.is_empty());
    }
}

#[test]
fn what_no_source_has_told_is_unknown_and_not_well() {
    let (devices, nothing) = (host(&[("a", &[Valid]), ("b", &[Valid])]), host(&[]));
    for (source, part, words) in [
        (Source::Sysfs, SourcePart::Transports, "Native NVMe devices, sessions and ports are unknown: sysfs could"),
        (Source::Sysfs, SourcePart::Block, "States, sizes and identities of disks are unknown: sysfs could"),
        (Source::Dm, SourcePart::DeviceMapper, "Path states do not come from the kernel: device mapper could"),
    ] {
        let sources = [(source, silent(part))];
        let said = |snapshot| {
            let page = html(&PageContent { sources: &sources, ..view(snapshot) });
            let wrong = between(&page, "<section id=\"wrong\"", "</section>");
            assert!(wrong.contains(&format!("{words} not be read since the start. ")), "{wrong}");
            assert_eq!(wrong.matches("<li class=\"warning\"").count(), 1, "{wrong}");
            between(&page, "<h1>", "</h1>").to_owned()
        };
        assert!(
            said(&devices).contains("!</span> <span>No path of 2 devices has failed, but there are other problems<")
        );
        let no_device = format!("No multipath device found yet: waiting for the first reading of {}<", source.name());
        assert!(said(&nothing).contains(&no_device), "{}", said(&nothing));
    }
    // Access to device mapper is not permitted, so the page does not wait for it.
    let sources = [(Source::Dm, SourceState { not_permitted: true, ..silent(SourcePart::DeviceMapper) })];
    let page = html(&PageContent { sources: &sources, ..view(&nothing) });
    assert!(page.contains("This host has no multipath device") && !page.contains("since the start"), "{page}");
    assert!(page.contains("<td>i not permitted, so path states come from multipathd"), "{page}");
}

#[test]
fn many_are_named_by_their_number() {
    let names: Vec<String> = (0..8).map(|index| format!("m{index}")).collect();
    let devices: Vec<(&str, &[PathState])> = names.iter().map(|name| (&**name, &[Failed][..])).collect();
    assert!(page(&host(&devices)).contains(">m4</a> and 3 more. "));
}

#[test]
fn events_and_sources_are_told_with_their_age() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
    let event =
        |kind, valid_paths| Arc::new(Event { time: now - Duration::from_secs(61), kind, valid_paths, ..event() });
    let events = [event(EventType::PathFailed, Some(0)), event(EventType::PathReinstated, Some(1))];
    let read = SourceState { up: Some(true), last_success: Some(now - Duration::from_secs(3)), ..Default::default() };
    let failed = SourceState { up: Some(false), error: Some("<denied>".to_owned()), ..Default::default() };
    let sources = [(Source::Sysfs, read), (Source::Dm, failed)];
    let page = html(&PageContent { now, events: &events, sources: &sources, ..view(&host(&[])) });
    let (newest, oldest) =
        (page.find("path sdb is back, 1 valid path<"), page.find("path sdb failed</span>, no valid path left"));
    assert!(newest.is_some() && newest < oldest, "{page}");
    for words in [
        "1970-01-01 23:58:59 <span class=\"ago\">61 s ago",
        "3 s ago",
        "✕ cannot be read</span>: &lt;denied&gt;",
        "never",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[test]
fn the_newest_event_is_told_before_the_devices() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    // The kernel's order: the last event of a group comes first.
    let failed = |name: &str, at: u64, dm_seqnum, path: &str, valid_paths| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
        let path = Some(path.into());
        let valid_paths = Some(valid_paths);
        Arc::new(Event {
            time,
            dm_seqnum,
            wwid: Some(name.into()),
            name: Some(name.into()),
            path,
            valid_paths,
            ..event()
        })
    };
    let told = |events: &[Arc<Event>]| {
        let page = html(&PageContent { now: time, events, ..view(&host(&[("m", &[Failed])])) });
        let newest = between(&page, "<p id=\"newest\" data-live>", "</p>").to_owned();
        assert!(page.find("id=\"newest\"") < page.find("id=\"devices\""));
        let list = between(&page, "<section id=\"events\"", "</section>");
        let paths = list.split("✕ path ").skip(1).map(|rest| rest.split(' ').next().unwrap().to_owned());
        (newest, paths.collect::<Vec<_>>())
    };
    assert_eq!(told(&[]), (String::new(), Vec::new()));
    let burst = [
        failed("m", 80_000, Some(3), "sdo", 3),
        failed("m", 90_000, Some(6), "sdc", 0),
        failed("m", 90_010, Some(5), "sdb", 1),
        failed("m", 90_020, Some(4), "sda", 2),
    ];
    let (newest, paths) = told(&burst);
    assert_eq!(
        newest,
        "Last event 10 s ago. <b><bdi>m</bdi></b>: <span class=\"failed\">✕ path sdc failed</span>, no valid path left. \
         <a href=\"#events\">Recent events</a>"
    );
    assert_eq!(paths, ["sdc", "sdb", "sda", "sdo"]);
    // Numbers start again for a map that was created again, each map has its own, and re-reads have
    // none.
    let apart = [
        failed("m", 90_000, Some(6), "sda", 3),
        failed("m", 91_000, Some(1), "sdb", 3),
        failed("n", 91_001, Some(9), "sdc", 3),
        failed("m", 91_002, None, "sdd", 2),
    ];
    assert_eq!(told(&apart).1, ["sdd", "sdc", "sdb", "sda"]);
    // A switch fails: more events than are shown, of two devices alternately, the last of each
    // first.
    let many: Vec<_> = (1..=15)
        .rev()
        .flat_map(|dm_seqnum| {
            ["m", "n"].map(|name| {
                let at = 90_000 + (15 - dm_seqnum) * 20;
                failed(name, at, Some(dm_seqnum), &format!("{name}{dm_seqnum}"), 15 - dm_seqnum)
            })
        })
        .collect();
    let (newest, paths) = told(&many);
    assert!(newest.contains("<bdi>n</bdi></b>: <span class=\"failed\">✕ path n15 failed</span>, no valid path left"));
    let expected: Vec<_> = (6..=15).rev().flat_map(|number| [format!("n{number}"), format!("m{number}")]).collect();
    assert_eq!(paths, expected);
}

#[test]
fn only_our_own_style_and_script_are_allowed() {
    let policy = POLICY.to_str().unwrap();
    let page = page(&host(&[("<script>alert(1)</script>", &[Failed])]));
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let text = between(&page, &format!("<{element}>"), &format!("</{element}>"));
        let hash = format!("{directive} 'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
        assert!(policy.contains(&hash), "{policy}");
        assert_eq!(page.matches(&format!("<{element}")).count(), 1);
    }
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    for attribute in [" style=", " onclick=", " onload=", "javascript:", "src="] {
        assert!(!page.contains(attribute), "{attribute}");
    }
}

#[test]
fn the_paths_are_drawn_by_host_port() {
    let paths = vec![
        path("sdb", Failed, "h1", "t1"),
        path("sda", Valid, "h0", "t0"),
        path("sdc", Standby, "h1", "t2"),
        path("s<d", Failed, "", ""),
    ];
    let mut drawn = String::new();
    diagram::draw(&mut drawn, &device("m", paths)).unwrap();
    let words = ["of m. Failed: sdb, from h1 to t1. Failed: s&lt;d, from unknown to unknown."];
    let order = [
        ">unknown<",
        ">s&lt;d<",
        ">h0<",
        ">sda<",
        ">t0<",
        "valid, group 1",
        ">h1<",
        ">sdb<",
        "FAILED, group 1",
        ">sdc<",
        "standby",
    ];
    let mut rest = drawn.as_str();
    for word in words.into_iter().chain(order) {
        let (_, after) = rest.split_once(word).unwrap_or_else(|| panic!("no {word} in {rest}"));
        rest = after;
    }
    assert_eq!((drawn.matches("class=\"cross\"").count(), drawn.matches("<circle").count()), (2, 4));
    let mut nothing = String::new();
    diagram::draw(&mut nothing, &device("m", Vec::new())).unwrap();
    assert_eq!(nothing, "");
}
