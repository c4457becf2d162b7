//! HTTP: each request gets the right answer, and no client delays a scrape.

use std::io::Write;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::harness::{Answer, Connection, Exporter, Host, MPATHA, Reply, Tree};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";

/// The paths that the server answers with 200.
pub const PATHS: [&str; 9] = [
    "/",
    "/metrics",
    "/-/healthy",
    "/-/ready",
    "/api/v1/devices",
    "/api/v1/multipath-health",
    "/api/v1/events",
    "/runbooks/",
    "/runbooks/MultipathFaultyPaths",
];

/// The `Accept` headers of Prometheus 2.x and 3.x (`scrape/scrape.go`, `acceptHeader`).
const PROMETHEUS_2: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
                            q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            application/openmetrics-text;version=0.0.1;q=0.5,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,\
                            */*;q=0.2";

/// A host whose page is larger than the socket buffers.
fn large_host() -> Host {
    let host = Host::recorded("01-healthy");
    let sysfs = Tree::empty();
    let disks: Vec<String> = (0..50).map(|disk| format!("sd{disk}")).collect();
    for (minor, disk) in disks.iter().enumerate() {
        sysfs.add_disk(disk, &format!("8:{minor}"));
    }
    let tail = "0".repeat(100);
    for minor in 0..240 {
        sysfs.add_map(minor, format!("mpath{minor}"), format!("mpath-3600{minor:04}{tail}"), &disks);
    }
    Host { sysfs, ..host }
}

/// An exporter on that host with these additional options. It does not ask multipathd.
pub fn large_exporter(options: &[&str]) -> (Host, Exporter) {
    let host = large_host();
    let exporter = host.exporter(&[&["--no-collector.multipathd"], options].concat());
    let page = exporter.get("/metrics");
    assert!(page.body.len() > 8 << 20, "{} bytes are no large page", page.body.len());
    (host, exporter)
}

/// A client that has read the head of a large page, but nothing of its body.
pub fn half_read(exporter: &Exporter) -> (Connection, Answer) {
    let mut connection = exporter.connect();
    connection.ask("GET", "/metrics", &[]);
    let answer = connection.head();
    assert_eq!(answer.status, 200);
    (connection, answer)
}

#[test]
fn each_path_has_its_answer() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for path in PATHS {
        let answer = exporter.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    for path in [
        "/metric",
        "/metrics/",
        "/api",
        "/api/v1/",
        "/api/v2/devices",
        "/-/reload",
        "/../etc/passwd",
        "/%2e",
        "//",
        "/.",
        "/..%2f..%2fetc%2fpasswd",
        "/api/v1/../v1/devices",
        "/api/v1/devices/",
        "/api/v1/devices%00",
        "/live.js",
        "/style.css",
        "/favicon.ico",
        "/runbooks",
        "/runbooks/README",
        "/runbooks/MultipathFaultyPaths.md",
        "/runbooks/MultipathFaultyPaths/",
        "/runbooks/multipathfaultypaths",
        "/runbooks/../metrics",
        "/runbooks/%00",
    ] {
        let answer = exporter.get(path);
        assert_eq!(answer.status, 404, "{path}");
    }
    assert_eq!(exporter.get("/metrics?a=b").status, 200);
}

#[test]
fn other_methods_are_refused_and_change_nothing() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for path in PATHS.iter().chain(&["/nothing", "/-/reload", "/-/quit"]) {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let mut connection = exporter.connect();
            connection.ask(method, path, &[("Content-Length", "0")]);
            let answer = connection.head();
            assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{method} {path}");
        }
    }
    assert_eq!(exporter.get("/-/ready").status, 200);
}

#[test]
fn head_is_get_without_the_body() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut connection = exporter.connect();
    for path in PATHS.iter().chain(&["/nothing"]) {
        for encoding in ["identity", "gzip"] {
            let mut ask = |method| {
                let answer = connection.request(method, path, &[("Accept-Encoding", encoding)]);
                let mut headers = answer.headers.clone();
                headers.retain(|(name, _)| name != "date");
                if ["/metrics", "/"].contains(path) {
                    // The first page counts its own scrapes and their processor time. The second
                    // one shows ages.
                    let length = headers.iter_mut().find(|(name, _)| name == "content-length").unwrap();
                    length.1.clear();
                }
                (answer.status, headers, answer.body)
            };
            let (get, head) = (ask("GET"), ask("HEAD"));
            assert_eq!((&get.0, &get.1), (&head.0, &head.1), "{path}");
            assert!(!get.2.is_empty() && head.2.is_empty(), "{path}");
        }
    }
}

#[test]
fn the_format_is_the_one_that_the_client_asks_for() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut connection = exporter.connect();
    for (accept, content_type) in [
        (None, TEXT),
        (Some("*/*"), TEXT),
        (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), TEXT),
        (Some("text/plain"), TEXT),
        (Some("text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), TEXT),
        (Some("application/json"), TEXT),
        (Some("nonsense"), TEXT),
        (Some(""), TEXT),
        (Some(PROMETHEUS_2), OPENMETRICS),
        (Some(PROMETHEUS_3), OPENMETRICS),
        (Some("application/openmetrics-text"), OPENMETRICS),
        (Some("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5"), OPENMETRICS),
        (Some("APPLICATION/OpenMetrics-Text; Version=1.0.0"), OPENMETRICS),
        (Some("application/openmetrics-text;q=0"), TEXT),
        (Some("application/openmetrics-text;q=0,*/*"), TEXT),
        (Some("application/openmetrics-text;q=0.1,text/plain;q=0.9"), TEXT),
        (Some("application/openmetrics-text;version=2.0.0"), TEXT),
        (Some("text/plain;q=0,application/openmetrics-text"), OPENMETRICS),
    ] {
        let says = |scheme| accept.is_some_and(|accept: &str| accept.contains(scheme));
        let content_type = if content_type == OPENMETRICS && says("escaping=allow-utf-8") {
            &OPENMETRICS.replace("underscores", "allow-utf-8")
        } else {
            content_type
        };
        let headers: Vec<_> = accept.map(|accept| ("Accept", accept)).into_iter().collect();
        let answer = connection.request("GET", "/metrics", &headers);
        assert_eq!(answer.status, 200, "{accept:?}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{accept:?}");
        assert_eq!(answer.header("vary"), Some("Accept, Accept-Encoding"), "{accept:?}");
        assert_eq!(answer.text().ends_with("# EOF\n"), content_type != TEXT, "{accept:?}");
    }
}

#[test]
fn the_page_is_compressed_for_who_asks() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut connection = exporter.connect();
    for (encoding, compressed) in [
        ("gzip", true),
        ("gzip, deflate, br", true),
        ("GZIP", true),
        ("*", true),
        ("zstd, gzip;q=0.5", true),
        ("identity", false),
        ("gzip;q=0", false),
        ("gzip;q=0, *", false),
        ("br", false),
        ("", false),
    ] {
        let answer = connection.request("GET", "/metrics", &[("Accept-Encoding", encoding)]);
        let encoding_of_answer = answer.header("content-encoding");
        assert_eq!(encoding_of_answer, compressed.then_some("gzip"), "{encoding:?}");
        assert_eq!(answer.body.starts_with(&[0x1f, 0x8b]), compressed, "{encoding:?}");
    }
}

#[test]
fn nothing_is_shown_before_the_first_full_read() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::Hold);
    let exporter = host.unready_exporter(&[]);
    for (path, status) in [
        ("/metrics", 503),
        ("/-/ready", 503),
        ("/api/v1/devices", 503),
        ("/api/v1/multipath-health", 503),
        ("/-/healthy", 200),
        ("/", 200),
        ("/api/v1/events", 200),
        ("/runbooks/", 200),
        ("/nothing", 404),
    ] {
        assert_eq!(exporter.get(path).status, status, "{path}");
    }
    host.multipathd.daemon(Reply::Text("pid 4711 idle\n".to_owned()));
    exporter.await_ready();
    assert_eq!(exporter.metrics().value("multipath_devices"), Some(2.0));
}

#[test]
fn a_daemon_that_never_answers_holds_up_the_first_read_only_for_its_timeout() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(Reply::Hold);
    let started = Instant::now();
    let exporter = host.unready_exporter(&["--multipathd.timeout=3s"]);
    assert_eq!(exporter.get("/metrics").status, 503);
    exporter.await_ready();
    let took = started.elapsed();
    assert!(took > Duration::from_millis(2900), "ready after {took:?}, without having waited");
    let page = exporter.metrics();
    assert_eq!(page.value("multipath_daemon_up"), Some(0.0));
    assert_eq!(page.value("multipath_devices"), Some(2.0));
}

#[test]
fn a_daemon_that_hangs_later_holds_up_no_scrape() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&["--multipathd.timeout=1s"]);
    let before = exporter.metrics();
    host.multipathd.daemon(Reply::Hold);
    host.multipathd.maps(Reply::Hold);
    host.multipathd.asked_after(|| exporter.signal(Signal::HUP));

    let asked = Instant::now();
    let during = exporter.metrics();
    let took = asked.elapsed();
    assert!(took < Duration::from_millis(500), "a scrape took {took:?}");
    assert_eq!(during.of_device(MPATHA), before.of_device(MPATHA));

    let after = exporter.await_values(&[
        ("multipath_daemon_up", 0.0),
        ("multipath_exporter_source_up{source=\"multipathd\"}", 0.0),
        ("multipath_failed_paths", 2.0),
    ]);
    assert_eq!(after.device("valid_paths", MPATHA), Some(1.0));
    assert_eq!(after.value("multipath_daemon_state{state=\"idle\"}"), None);

    host.turn_into("01-healthy");
    host.multipathd.daemon(Reply::Text("pid 4712 running\n".to_owned()));
    exporter.signal(Signal::HUP);
    exporter.await_values(&[
        ("multipath_daemon_up", 1.0),
        ("multipath_daemon_state{state=\"running\"}", 1.0),
        ("multipath_failed_paths", 0.0),
    ]);
}

/// The number is above the default of `--web.max-requests`, and equals the connections that one
/// address may have.
#[test]
fn clients_that_do_not_read_take_no_place_from_others() {
    let (_host, exporter) = large_exporter(&["--web.max-requests=1"]);
    let mut slow: Vec<_> = (0..100).map(|_| half_read(&exporter)).collect();
    for path in ["/-/ready", "/metrics"] {
        assert_eq!(exporter.get(path).status, 200, "{path}");
    }
    // The exporter soon ends a connection that takes nothing. Larger pages may take longer than that
    // on a slow machine.
    let (mut connection, answer) = slow.pop().unwrap();
    let length = answer.header("content-length").unwrap().to_owned();
    assert_eq!(connection.body(answer).body.len().to_string(), length);
    for path in ["/api/v1/multipath-health", "/api/v1/devices", "/"] {
        let _slow = half_read(&exporter);
        assert_eq!(exporter.get(path).status, 200, "{path}");
    }
}

#[test]
fn the_metrics_may_stand_elsewhere() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--web.telemetry-path=/mpath/metrics"]);
    assert_eq!(exporter.get("/metrics").status, 404);
    let answer = exporter.get("/mpath/metrics");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(TEXT)));
    assert!(exporter.get("/").text().contains("href=\"/mpath/metrics\""));
}

/// DNS rebinding: a foreign web page sends requests under its own host name.
#[test]
fn what_people_read_is_read_by_names_of_this_host() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--web.allowed-host=storage.example.org", "--web.allowed-host=other.example."]);
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let address = exporter.addresses()[0].to_string();
    let mut connection = exporter.connect();
    let for_people = |path: &str| !path.starts_with("/-/") && path != "/metrics";
    for (name, known) in [
        (address.as_str(), true),
        ("127.0.0.1", true),
        ("[::1]:10056", true),
        ("localhost:10056", true),
        (&node, true),
        (&format!("{}.:10056", node.to_uppercase()), true),
        ("Storage.Example.org", true),
        ("other.example:443", true),
        ("evil.example", false),
        (&format!("{node}.evil.example"), false),
        ("", false),
    ] {
        for path in PATHS.iter().chain(&["/api/v2", "/runbooks/README", "/?q=a"]) {
            for method in ["GET", "HEAD"] {
                let answer = connection.request(method, path, &[("Host", name)]);
                let misdirected = !known && for_people(path);
                assert_eq!(answer.status == 421, misdirected, "{method} {path} of {name}: {}", answer.status);
                if misdirected && method == "GET" {
                    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
                    assert!(answer.text().contains("--web.allowed-host") && !answer.text().contains("example"));
                }
            }
        }
    }
    for path in PATHS {
        let mut connection = exporter.connect();
        connection.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        assert_eq!(connection.head().status, 200, "{path}");
    }
}

#[test]
fn without_the_status_page_there_are_metrics_and_health() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--web.no-status-page"]);
    for path in PATHS {
        let served = path == "/metrics" || path.starts_with("/-/");
        for name in ["localhost", "evil.example"] {
            let answer = exporter.connect().request("GET", path, &[("Host", name)]);
            assert_eq!(answer.status, if served { 200 } else { 404 }, "{path}");
        }
    }
}

#[test]
fn several_addresses() {
    let host = Host::recorded("01-healthy");
    let addresses = ["--web.listen-address=127.0.0.1:0", "--web.listen-address=127.0.0.1:0"];
    let exporter = host.exporter(&addresses);
    let [one, other] = exporter.addresses() else { panic!("{:?}", exporter.addresses()) };
    assert_ne!(one, other);
    for address in [one, other] {
        assert_eq!(Connection::open(*address).request("GET", "/metrics", &[]).status, 200);
    }
}

#[test]
fn ipv6_and_all_addresses() {
    if let Err(error) = TcpListener::bind("[::1]:0") {
        // This bypasses the test runner, which shows output only of failed tests.
        writeln!(std::io::stderr(), "NOT TESTED: serving on [::1], which this machine has not: {error}").unwrap();
        return;
    }
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&["--web.listen-address=[::1]:0", "--web.listen-address=:0"]);
    let [loopback, all] = exporter.addresses() else { panic!("{:?}", exporter.addresses()) };
    assert!(loopback.is_ipv6());
    let all_by_ipv6 = (std::net::Ipv6Addr::LOCALHOST, all.port()).into();
    for address in [*loopback, *all, all_by_ipv6] {
        assert_eq!(Connection::open(address).request("GET", "/metrics", &[]).status, 200, "{address}");
    }
}

#[test]
fn scrapes_are_counted() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for number in 1..=3 {
        assert_eq!(exporter.metrics().value("multipath_exporter_scrapes_total"), Some(f64::from(number)));
    }
    for path in ["/", "/-/ready", "/api/v1/devices", "/nothing"] {
        exporter.get(path);
    }
    assert_eq!(exporter.metrics().value("multipath_exporter_scrapes_total"), Some(4.0));
}

#[test]
fn one_connection_serves_many_requests() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut connection = exporter.connect();
    for path in PATHS.iter().cycle().take(50) {
        assert_eq!(connection.request("GET", path, &[]).status, 200);
    }
    connection.send("GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\nGET /-/ready HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..2 {
        let head = connection.head();
        assert_eq!(connection.body(head).status, 200);
    }
}

#[test]
fn http_1_0_is_answered() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut connection = exporter.connect();
    connection.send("GET /metrics HTTP/1.0\r\n\r\n");
    let head = connection.head();
    assert_eq!(connection.body(head).status, 200);
    assert!(connection.is_closed());
}

#[test]
fn what_is_no_http_harms_nobody() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    for bytes in
        [&b"\0\xff\r\n\r\n"[..], b"GET /metrics\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"]
    {
        let mut connection = exporter.connect();
        connection.send(bytes);
        let answer = connection.head();
        assert_eq!(answer.status, 400, "{bytes:?}");
    }
    assert_eq!(exporter.get("/metrics").status, 200);
}
