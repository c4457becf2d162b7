//! The page at `/`: its headers, its address, and its agreement with the metrics. The runbooks
//! share its headers. `tests/page` shows it in a browser, and unit tests beside the code check its
//! sentences.

use std::io::Read;

use flate2::read::GzDecoder;
use rustix::process::Signal;

use super::harness::{Host, MPATHA, MPATHB};

#[test]
fn it_allows_nothing_but_its_own() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    for path in ["/", "/runbooks/MultipathFaultyPaths"] {
        let page = exporter.get(path);
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
        let policy = page.header("content-security-policy").unwrap();
        let directives: Vec<_> = policy.split("; ").map(|directive| directive.split_once(' ').unwrap()).collect();
        for (name, value) in &directives {
            match *name {
                "default-src" | "base-uri" | "frame-ancestors" => assert_eq!(*value, "'none'", "{name}"),
                "connect-src" | "form-action" => assert_eq!(*value, "'self'", "{name}"),
                "style-src" | "script-src" => assert!(value.starts_with("'sha256-") && !value.contains(' '), "{value}"),
                other => panic!("{other} {value}"),
            }
        }
        assert_eq!(directives.len(), 7);
        for (what, _) in page.text().match_indices("http") {
            let outside = &page.text()[what..];
            assert!(
                outside.starts_with("https://github.com/multipath-exporter/") || outside.starts_with("http-equiv"),
                "{}",
                &outside[..60]
            );
        }
    }
}

#[test]
fn it_leads_to_what_to_do() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    let page = exporter.get("/");
    let links: Vec<&str> =
        page.text().split("href=\"/runbooks/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(links.contains(&"") && links.contains(&"MultipathSinglePath"), "{links:?}");
    for name in links {
        let runbook = exporter.get(&format!("/runbooks/{name}"));
        assert_eq!(runbook.status, 200, "{name}");
        assert!(runbook.text().contains("<a href=\"/\">Status page</a>"), "{name}");
        assert!(!runbook.text().contains("<script"), "{name}");
    }
}

#[test]
fn it_works_without_scripts() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    let page = exporter.get("/");
    for words in [
        "<noscript><meta http-equiv=\"refresh\" content=\"30\"></noscript>",
        "<title>2 of 2 devices have failed paths",
        "<form action=\"/\" method=\"get\" role=\"search\">",
        "Both failed paths",
    ] {
        assert!(page.text().contains(words), "no {words} in {}", page.text());
    }
}

#[test]
fn an_address_filters_and_never_fails() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let shown = |query: &str| {
        let page = exporter.get(&format!("/{query}"));
        assert_eq!(page.status, 200, "{query}");
        let text = page.text();
        assert!(text.contains("All paths of 2 devices work"), "{query}");
        [MPATHA, MPATHB].map(|wwid| text.contains(&format!("data-device=\"{wwid}\"")))
    };
    for (query, devices) in [
        ("", [true, true]),
        ("?", [true, true]),
        ("?q=", [true, true]),
        ("?q=MPATHA", [true, false]),
        (&format!("?q={MPATHB}"), [false, true]),
        ("?q=dm-0&page=7", [true, false]),
        ("?page=2", [true, true]),
        ("?page=-1&page=x", [true, true]),
        ("?q=%00%ff%0d%0aSet-Cookie:%20a=b", [false, false]),
        ("?q=%3Cscript%3Ealert(1)%3C/script%3E", [false, false]),
        ("?q=../../etc/passwd", [false, false]),
        ("?%&&&===", [true, true]),
        (&format!("?q={}", "x".repeat(5000)), [false, false]),
    ] {
        assert_eq!(shown(query), devices, "{query}");
    }
    let page = exporter.get("/?q=%3Cscript%3Ealert(1)%3C/script%3E%0d%0aX:%20y");
    assert!(page.text().contains("&lt;script&gt;alert(1)&lt;/script&gt;\u{fffd}\u{fffd}X: y"), "{}", page.text());
    assert_eq!(page.header("x"), None);
}

#[test]
fn it_says_what_is_known_of_each_source() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    assert!(exporter.get("/").text().contains("<th scope=\"row\">multipathd</th><td>✓ idle</td>"));
    host.sysfs.remove("block");
    host.multipathd.daemon(super::harness::Reply::closed());
    exporter.signal(Signal::HUP);
    exporter.await_log(&["source cannot be read", "sysfs"]);
    exporter.await_log(&["source cannot be read", "multipathd"]);
    let page = exporter.get("/");
    for words in ["multipathd does not answer", "✕ cannot be read</span>", "No such file", "MultipathExporterStale"] {
        assert!(page.text().contains(words), "no {words} in {}", page.text());
    }
}

#[test]
fn before_the_first_read_it_says_so() {
    let host = Host::recorded("01-healthy");
    host.multipathd.daemon(super::harness::Reply::Hold);
    let exporter = host.unready_exporter(&[]);
    let page = exporter.get("/");
    for words in [
        "<title>The first full read is in progress",
        "<noscript><meta http-equiv=\"refresh\" content=\"3\"></noscript>",
    ] {
        assert!(page.text().contains(words), "no {words} in {}", page.text());
    }
}

#[test]
fn it_is_compressed_for_who_asks_for_it() {
    let host = Host::recorded("02-net1-lost");
    let exporter = host.exporter(&[]);
    for path in ["/", "/runbooks/", "/runbooks/MultipathFaultyPaths"] {
        let ask = |encoding| exporter.connect().request("GET", path, &[("Accept-Encoding", encoding)]);
        let (plain, compressed) = (ask("identity"), ask("gzip, deflate, br"));
        assert_eq!((plain.header("content-encoding"), compressed.header("content-encoding")), (None, Some("gzip")));
        for answer in [&plain, &compressed] {
            assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
            assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        }
        assert!(compressed.body.len() * 2 < plain.body.len(), "{} of {}", compressed.body.len(), plain.body.len());
        let mut text = String::new();
        GzDecoder::new(&compressed.body[..]).read_to_string(&mut text).unwrap();
        // Times differ between the two requests.
        let without_times = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(without_times(&text), without_times(plain.text()));
    }
}
