//! A whole scrape over HTTP, beside a bare loop that writes the same bytes to a loopback socket.
//!
//! The real program, as built for release, on a made-up host of 500 devices × 4 paths: a sysfs tree in a temporary
//! directory and a thread that answers as multipathd does, so that every series is there. Both sides answer one client
//! over a kept connection, turn by turn, so that what disturbs the one disturbs the other. Times are medians of rounds;
//! CPU is the answering process's or thread's own, from the kernel's scheduler statistics.

#![expect(clippy::disallowed_methods, reason = "a benchmark starts what it measures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

mod harness;

use harness::{Bare, Exporter, Host, ROUNDS, Round, median, round};

const DEVICES: usize = 500;
const PATHS: usize = 4;
const SCRAPES: u32 = 100;

fn main() {
    let exporter = Exporter::start(&Host { devices: DEVICES, paths: PATHS, sessions: false, lost: false });
    let mut plain = exporter.client("text/plain", "identity");
    let mut gzip = exporter.client("application/openmetrics-text", "gzip");

    let page = plain.body("/metrics");
    let samples = String::from_utf8_lossy(&page).lines().filter(|line| !line.starts_with('#')).count();
    let (length, zipped) = (page.len(), gzip.body("/metrics").len());
    println!("{DEVICES} devices × {PATHS} paths: {samples} samples, {length} bytes, {zipped} bytes as gzip");
    println!("medians of {ROUNDS} rounds of {SCRAPES} scrapes over one connection; CPU of the answering side\n");

    let mut bare = Bare::start(page);
    let mut rounds: [Vec<Round>; 3] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(round(SCRAPES, &bare.tasks, || bare.client.ask(length)));
        rounds[1].push(round(SCRAPES, &exporter.tasks, || drop(plain.body("/metrics"))));
        rounds[2].push(round(SCRAPES, &exporter.tasks, || drop(gzip.body("/metrics"))));
    }
    let [bare, plain, gzip] = rounds.map(median);
    println!("{:44} {:>10} {:>10}", "", "time", "CPU");
    for (name, round) in [("bare loop, same bytes", bare), ("plain", plain), ("gzip, nothing changed", gzip)] {
        round.show(name);
    }
    plain.show_ratio("plain / bare", bare);
}
