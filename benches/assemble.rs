//! One round of the monitor over finished readings. It measures the assembly of changed devices,
//! and of a host without changes, which is the usual case.

use std::hint::black_box;
use std::time::{Duration, Instant};

use multipath_exporter::monitor::measure::Assembly;

const ROUNDS: usize = 41;

fn main() {
    for (devices, paths) in [(500, 4), (1_000, 8), (10_000, 8)] {
        let mut assembly = Assembly::new(devices, paths);
        let anew = median(|| assembly.all());
        let unchanged = median(|| assembly.again());
        let ratio = anew.div_duration_f64(unchanged);
        println!("{devices} × {paths}: anew {anew:.2?}, unchanged {unchanged:.2?}, {ratio:.1} times less");
    }
}

fn median(mut round: impl FnMut() -> usize) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            black_box(round());
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}
