//! Measurements for `--bench`. They print each result beside the cost of the bare operation in the
//! same machine. An emulated processor is 10 to 50 times slower than a real one, so only ratios
//! have a meaning.

use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Scenario;
use super::storms::{make_maps, name, wwid};
use crate::dm::{BareReading, Dm};
use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::memory_disks;
use crate::programs;
use crate::udevd;
use crate::vm::IDLE_SECONDS;
use crate::wait::{PATIENCE, eventually, pause};

/// More than the cost of the watchdog's signs of life, and less than the cost of a resync.
const PULSE: Duration = Duration::from_millis(10);

pub const ALL: &[Scenario] = &[
    Scenario::new("measure_event_to_scrape", measure_event_to_scrape).then_power_off(),
    Scenario::new("measure_full_resync", measure_full_resync).then_power_off(),
    Scenario::new("measure_idle", measure_idle).then_power_off(),
];

/// The time from the return of the ioctl that fails a path to the end of the first scrape that
/// shows it. Scrapes follow each other without pause.
fn measure_event_to_scrape(lab: &Lab) {
    const TIMES: usize = 300;
    udevd::stop();
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    make_maps(&dm, 20, &disks);
    let exporter = lab.exporter().start();
    let mut scraper = Scraper::connect(&exporter);
    let series = |valid: u64| format!("multipath_device_valid_paths{{wwid=\"{}\"}} {valid}\n", wwid(7));

    let mut scrapes = Vec::new();
    for _ in 0..TIMES {
        let start = Instant::now();
        assert!(scraper.scrape().contains(&series(4)));
        scrapes.push(start.elapsed());
    }
    let mut latencies = Vec::new();
    for _ in 0..TIMES {
        for (valid, change) in [(3, Dm::fail_path as fn(&Dm, &str, &str)), (4, Dm::reinstate_path)] {
            change(&dm, &name(7), &disks[0]);
            let start = Instant::now();
            while !scraper.scrape().contains(&series(valid)) {
                assert!(start.elapsed() < PATIENCE, "the change is never shown");
            }
            latencies.push(start.elapsed());
        }
    }
    for (what, times) in [("a scrape of 20 devices", scrapes), ("event to scrape", latencies)] {
        lab.note(format!("{what}: p50 {:.1?}, p99 {:.1?}", percentile(&times, 50), percentile(&times, 99)));
    }
}

/// The processor time of a full resync, beside that of its ioctls alone.
fn measure_full_resync(lab: &Lab) {
    const TIMES: u32 = 30;
    udevd::stop();
    let disks = memory_disks::null_blk(8);
    let dm = Dm::open();
    make_maps(&dm, 1000, &disks);
    // Long intervals keep the timers away.
    let exporter = lab.exporter().flag("--resync.interval=1h").flag("--reread.interval=1h").start();
    let mut bare = Bare::of(&dm);

    let (mut ours, mut ioctls) = (Vec::new(), Vec::new());
    for _ in 0..TIMES {
        let before = exporter.cpu_time();
        exporter.hang_up();
        eventually("it has begun to read", PATIENCE, || {
            if exporter.cpu_time() > before + PULSE { Ok(()) } else { Err("not yet".to_owned()) }
        });
        settle(&exporter);
        ours.push(exporter.cpu_time() - before);
        ioctls.push(cpu_of(|| bare.ioctls.read(&dm)));
    }
    let [ours, ioctls] = [ours, ioctls].map(|times| percentile(&times, 50));
    lab.note(format!("1,000 devices of 8 paths, processor time, medians of {TIMES}"));
    lab.note(format!(
        "full resync {ours:.1?}, its bare ioctls {ioctls:.1?}, ratio {:.2}",
        ours.div_duration_f64(ioctls)
    ));
}

/// The processor time of an idle exporter, and its memory. The comparison is with the bare reads of
/// the same resyncs and re-reads at the same pace, because code that runs every few seconds is
/// slower than a tight loop. `LAB_IDLE_SECONDS` sets the duration (600).
fn measure_idle(lab: &Lab) {
    const REREAD: Duration = Duration::from_secs(5);
    const REREADS_PER_RESYNC: u32 = 6;
    let seconds: u32 = env::var(IDLE_SECONDS).ok().map_or(600, |text| text.parse().expect("a number of seconds"));
    udevd::stop();
    let disks = memory_disks::null_blk(4);
    let dm = Dm::open();
    make_maps(&dm, 500, &disks);
    let exporter = lab.exporter().start();
    let mut bare = Bare::of(&dm);
    settle(&exporter);

    let (before, start) = (exporter.cpu_time(), Instant::now());
    let mut bare_time = Duration::ZERO;
    for tick in 1..=seconds / REREAD.as_secs() as u32 {
        while start.elapsed() < REREAD * tick {
            pause();
        }
        let resync = tick % REREADS_PER_RESYNC == 0;
        bare_time += cpu_of(|| bare.ioctls.read(&dm)) + cpu_of(|| bare.read_files());
        if resync {
            bare_time += cpu_of(|| bare.ioctls.read(&dm));
        }
    }
    let ours = exporter.cpu_time() - before;
    lab.note(format!("500 devices of 4 paths, idle for {seconds} s: processor time {ours:.2?}, bare {bare_time:.2?}"));
    lab.note(format!("idle / bare {:.2}", ours.div_duration_f64(bare_time)));
    let (resident, anonymous) = exporter.resident_kb();
    lab.note(format!("VmRSS {resident} kB, RssAnon {anonymous} kB"));
}

/// The kernel calls of a re-read.
struct Bare {
    ioctls: BareReading,
    files: Vec<String>,
}

impl Bare {
    fn of(dm: &Dm) -> Self {
        let maps = dm.list();
        let files = maps.iter().map(|map| format!("/sys/block/{}/inflight", map.sysfs_name())).collect();
        Bare { ioctls: BareReading::of(&maps), files }
    }

    fn read_files(&self) {
        let mut buffer = [0; 4096];
        for file in &self.files {
            let read = File::open(file).and_then(|mut file| file.read(&mut buffer));
            assert!(read.is_ok_and(|read| read > 0), "{file}");
        }
    }
}

fn cpu_of(work: impl FnOnce()) -> Duration {
    let before = programs::cpu_time("/proc/self/task");
    work();
    programs::cpu_time("/proc/self/task") - before
}

/// Waits until the exporter no longer uses the processor.
fn settle(exporter: &Exporter) {
    let mut last = exporter.cpu_time();
    loop {
        pause();
        let now = exporter.cpu_time();
        if now - last < PULSE {
            return;
        }
        last = now;
    }
}

fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Scrapes over one connection like Prometheus, without compression.
struct Scraper(BufReader<TcpStream>);

impl Scraper {
    fn connect(exporter: &Exporter) -> Self {
        Scraper(BufReader::new(TcpStream::connect(exporter.address()).expect("the exporter accepts")))
    }

    fn scrape(&mut self) -> String {
        self.try_scrape().expect("a scrape is answered")
    }

    fn try_scrape(&mut self) -> io::Result<String> {
        self.0.get_mut().write_all(b"GET /metrics HTTP/1.1\r\nHost: lab\r\n\r\n")?;
        let (mut line, mut length) = (String::new(), 0);
        while line != "\r\n" {
            line.clear();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        String::from_utf8(body).map_err(io::Error::other)
    }
}
