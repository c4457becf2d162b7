//! The cost of the exporter's memory: resident memory, the file's size, and the time of one look at
//! the host. The ratio compares it with the assembly of unchanged devices, which precedes each
//! look.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use multipath_exporter::config::Config;
use multipath_exporter::memory::{HostView, Image, Machine, Memory, Now, Order, Sighting};
use multipath_exporter::monitor::measure::Assembly;
use multipath_exporter::topology::{Device, Kind, Transports};

const ROUNDS: usize = 41;

fn main() {
    for (devices, paths) in [(500, 4), (10_000, 8)] {
        let mut assembly = Assembly::new(devices, paths);
        let seen = assembly.devices();
        let transports = Transports::default();
        let before = resident();
        let mut memory = Memory::default();
        look(&mut memory, &seen, &transports);
        let kept = resident().saturating_sub(before);
        let again = median(|| look(&mut memory, &seen, &transports));
        let assembled = median(|| {
            black_box(assembly.again());
        });
        let copied = median(|| drop(black_box(memory.last_image(Now::get()))));
        let Some(image) = memory.last_image(Now::get()) else { continue };
        let written = median(|| drop(black_box(image.write())));
        let Ok(text) = image.write() else { continue };
        let read = median(|| drop(black_box(Image::read(&text, &Machine::default()))));
        println!("{devices} × {paths}: {} KiB in memory, {} KiB in the file", kept / 1024, text.len() / 1024);
        println!(
            "  look where nothing has changed {again:.2?}, {:.2} of the assembly",
            again.div_duration_f64(assembled)
        );
        println!("  copy for the file {copied:.2?}; beside the monitor: write {written:.2?}, read {read:.2?}");
    }
}

fn look(memory: &mut Memory, devices: &[Arc<Device>], transports: &Transports) {
    let sightings = devices.iter().map(|device| Sighting { device, has_no_disk: false, numbers: None });
    let view = HostView {
        devices: sightings.collect(),
        transports,
        listed: &Kind::ALL,
        is_complete: true,
        all_answer: true,
        usage_is_known: true,
        config: &Config::default(),
        has_disks: &|_| false,
        order: &|_| Order::MapFirst,
        is_named: &|_| false,
    };
    black_box(memory.look(&view, Now::get()));
}

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

fn median(mut round: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            start.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}
