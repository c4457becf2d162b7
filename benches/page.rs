//! The status page of a large host over HTTP, compared with a bare loop that writes the same bytes
//! to a loopback socket.
//!
//! The benchmark runs the release build on an artificial host of 1,000 devices × 8 paths. The host
//! is healthy first, and then loses one of its two networks, so that every device is in trouble.
//! The server renders the page for each request, because the page shows ages. The method is that of
//! the scrape benchmark.

#![expect(clippy::disallowed_methods, reason = "a benchmark starts what it measures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

mod harness;

use harness::{Bare, Exporter, Host, ROUNDS, Round, median, round};

const DEVICES: usize = 1000;
const PATHS: usize = 8;
const TIMES: u32 = 50;

fn main() {
    println!("{DEVICES} devices × {PATHS} paths, medians of {ROUNDS} rounds of {TIMES} requests over one connection\n");
    println!("{:44} {:>10} {:>10}", "", "time", "CPU");
    for (state, lost) in [("healthy", false), ("one network lost", true)] {
        let exporter = Exporter::start(&Host { devices: DEVICES, paths: PATHS, sessions: true, lost }, &[]);
        let mut client = exporter.client("text/html", "identity");
        let page = client.body("/");
        let length = page.len();
        let mut bare = Bare::start(page);
        let mut compressed = exporter.client("text/html", "gzip");
        let compressed_length = compressed.body("/").len();
        let mut rounds: [Vec<Round>; 4] = Default::default();
        for _ in 0..ROUNDS {
            rounds[0].push(round(TIMES, &bare.tasks, || bare.client.ask(length)));
            rounds[1].push(round(TIMES, &exporter.tasks, || drop(client.body("/"))));
            rounds[2].push(round(TIMES, &exporter.tasks, || drop(client.body("/?q=mpath77"))));
            rounds[3].push(round(TIMES, &exporter.tasks, || drop(compressed.body("/"))));
        }
        let [bare, page, filtered, compressed] = rounds.map(median);
        bare.show(&format!("{state}: bare loop, {length} bytes"));
        page.show(&format!("{state}: page"));
        filtered.show(&format!("{state}: page, filtered by name"));
        compressed.show(&format!("{state}: page, gzip, {compressed_length} bytes"));
        page.show_ratio(&format!("{state}: page / bare"), bare);
    }
}
