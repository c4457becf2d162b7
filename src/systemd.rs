//! Reports to systemd (`sd_notify(3)`): that the exporter serves, that the monitor is alive, and
//! the state of the host.
//!
//! Does nothing if systemd does not ask for reports. A thread that may block sends each message,
//! because a slow systemd must not hold up a scrape.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::{NotifyState, notify};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::monitor::Command;
use crate::source::health::{Source, SourceHealth, SourceState, unknown_sources};
use crate::topology::{self, Counts, Snapshot};

/// The shortest time between two changes of the status line, for event storms.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the sources are checked while nothing changes: a lost source does not change a device.
const SOURCES_INTERVAL: Duration = Duration::from_secs(5);
/// The status line before anything is known.
const READING: &str = "reading for the first time";
/// How long the shutdown waits for systemd.
const STOPPING_DEADLINE: Duration = Duration::from_millis(500);

/// Reports to systemd until the monitor ends. Never returns: if systemd asks for no reports, or the
/// monitor has ended, it waits forever.
pub async fn inform(
    monitor: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    sources: Arc<SourceHealth>,
) -> Infallible {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return pending().await;
    }
    let beats = async {
        ready(&monitor).await;
        // systemd's documentation recommends two pings per watchdog period.
        let Some(limit) = sd_notify::watchdog_enabled() else { return };
        beat(&monitor, limit / 2, async || drop(tell(&[NotifyState::Watchdog]).await)).await;
    };
    tokio::join!(beats, follow(&monitor, snapshot, &sources));
    pending().await
}

/// Reports that a start or a reload is complete. The monitor takes no command before the end of the
/// first full read, which has its own deadlines. Sources that could not be read by then do not hold
/// up the host's start.
pub async fn ready(monitor: &mpsc::Sender<Command>) {
    if answers(monitor).await {
        let _ = tell(&[NotifyState::Ready]).await;
    }
}

/// Reports that a reload has begun; [`ready`] must follow.
pub async fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else { return };
    let _ = tell(&[NotifyState::Reloading, now]).await;
}

/// Reports that the shutdown has begun. Does not wait long for systemd.
pub async fn stopping() {
    let _ = timeout(STOPPING_DEADLINE, tell(&[NotifyState::Stopping])).await;
}

/// Sends pings as long as the monitor answers. Pings from a timer alone would keep a dead monitor
/// from being restarted. A reader that hangs in the kernel does not stop the pings, because a
/// restart would not help.
async fn beat(monitor: &mpsc::Sender<Command>, period: Duration, ping: impl AsyncFn()) {
    while answers(monitor).await {
        ping().await;
        sleep(period).await;
    }
}

/// Waits until the monitor's loop answers. Returns false if the monitor has ended.
async fn answers(monitor: &mpsc::Sender<Command>) -> bool {
    let (answer, answered) = oneshot::channel();
    monitor.send(Command::Answer(answer)).await.is_ok() && answered.await.is_ok()
}

async fn follow(
    monitor: &mpsc::Sender<Command>,
    mut snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    sources: &SourceHealth,
) {
    let _ = tell(&[NotifyState::Status(READING)]).await;
    // Before the end of the first read, the next source may still bring the answer, so none is
    // blamed.
    let mut monitor_lives = answers(monitor).await;
    let mut told = String::new();
    while monitor_lives {
        let now = snapshot.borrow_and_update().clone();
        let line = line(now.as_deref(), &sources.all());
        if line != told {
            let _ = tell(&[NotifyState::Status(&line)]).await;
            told = line;
        }
        sleep(STATUS_INTERVAL).await;
        let change = timeout(SOURCES_INTERVAL, snapshot.changed()).await;
        monitor_lives = !matches!(change, Ok(Err(_)));
    }
}

/// Returns the line that `systemctl status` shows.
fn line(snapshot: Option<&Snapshot>, sources: &[(Source, SourceState)]) -> String {
    // The sources of devices. Events are not one, and neither is a source that is not permitted.
    let readers = || sources.iter().filter(|(source, health)| *source != Source::Uevent && !health.not_permitted);
    let note = if sources.iter().any(|(source, health)| *source == Source::Dm && health.not_permitted) {
        "; device mapper is not permitted, so path states come from multipathd"
    } else {
        ""
    };
    let Some(snapshot) = snapshot else {
        return match list(readers().filter(|(_, health)| health.is_awaited())).as_str() {
            "" => READING.to_owned(),
            awaited => format!("waiting for the first reading of: {awaited}{note}"),
        };
    };
    let devices = summary(snapshot);
    if readers().all(|(_, health)| health.is_down()) {
        return format!("last read: {devices}; no source can be read now: {}{note}", list(readers()));
    }
    match list(unknown_sources(sources)).as_str() {
        "" => devices,
        unknown => format!("{devices}; no answer since the start of: {unknown}{note}"),
    }
}

/// Lists these sources with the error of each.
fn list<'a>(sources: impl Iterator<Item = &'a (Source, SourceState)>) -> String {
    let told = sources.map(|(source, health)| {
        let error = health.error.as_deref().unwrap_or_default();
        // systemd would take text behind a line break for another field.
        let error = error.split(['\n', '\r']).find(|line| !line.is_empty());
        error.map_or_else(|| source.name().to_owned(), |error| format!("{}: {error}", source.name()))
    });
    told.collect::<Vec<_>>().join("; ")
}

/// Summarises the state of the devices.
fn summary(snapshot: &Snapshot) -> String {
    let devices = match snapshot.devices.len() {
        0 => return "no multipath devices".to_owned(),
        1 => "1 device".to_owned(),
        number => format!("{number} devices"),
    };
    let counts: Vec<Counts> = snapshot.devices.iter().map(|device| device.counts()).collect();
    let with = |health| counts.iter().filter(|counts| counts.health() == health).count();
    match (with(topology::Health::WithoutValidPaths), with(topology::Health::Degraded)) {
        (0, 0) => format!("{devices}, no failed path"),
        (0, degraded) => format!("{devices}, {degraded} with failed paths"),
        (without, 0) => format!("{devices}, {without} with no valid path"),
        (without, degraded) => format!("{devices}, {without} with no valid path, {degraded} with failed paths"),
    }
}

fn tell(news: &[NotifyState]) -> JoinHandle<()> {
    /// True while messages fail. The warning comes once per series of failures, since it concerns
    /// every message.
    static UNHEARD: AtomicBool = AtomicBool::new(false);
    let message = news.iter().map(NotifyState::to_string).collect::<Vec<_>>().join("\n");
    spawn_blocking(move || {
        let told = notify(&[NotifyState::Custom(&message)]);
        let unheard = UNHEARD.swap(told.is_err(), Ordering::Relaxed);
        match told {
            Ok(()) => {}
            Err(error) if unheard => debug!(%error, "cannot notify systemd"),
            Err(error) => {
                warn!(%error, "cannot notify systemd, which may consider the service not started or hung");
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::source::health::SourcePart;

    const PERIOD: Duration = Duration::from_secs(10);

    #[test]
    fn the_line_says_what_is_not_known_and_what_is_no_fault() {
        let health = |up, unanswered: &[SourcePart], error: &str| SourceState {
            up: Some(up),
            unanswered: unanswered.to_vec(),
            error: Some(error.to_owned()).filter(|error| !error.is_empty()),
            ..SourceState::default()
        };
        let refused = || SourceState { not_permitted: true, ..health(false, &[SourcePart::DeviceMapper], "EACCES") };
        let (read, failed) = (|| health(true, &[], ""), || health(false, &[], "refused\nREADY=1"));
        let silent = || health(false, &[SourcePart::Block], "no directory");
        let snapshot = Snapshot::default();
        for (is_known, dm, multipathd, sysfs, words) in [
            (false, read(), failed(), silent(), "waiting for the first reading of: sysfs: no directory"),
            (
                false,
                refused(),
                health(false, &[SourcePart::Multipathd], "refused\nREADY=1"),
                silent(),
                "waiting for the first reading of: multipathd: refused; sysfs: no directory; \
                 device mapper is not permitted, so path states come from multipathd",
            ),
            (true, refused(), read(), read(), "no multipath devices"),
            (true, read(), read(), failed(), "no multipath devices"),
            (
                true,
                refused(),
                read(),
                silent(),
                "no multipath devices; no answer since the start of: sysfs: no directory; \
                 device mapper is not permitted, so path states come from multipathd",
            ),
            (
                true,
                failed(),
                failed(),
                failed(),
                "last read: no multipath devices; no source can be read now: \
                 device mapper: refused; multipathd: refused; sysfs: refused",
            ),
        ] {
            let sources = [
                (Source::Dm, dm),
                (Source::Multipathd, multipathd),
                (Source::Sysfs, sysfs),
                (Source::Uevent, health(false, &[SourcePart::Uevent], "none")),
            ];
            assert_eq!(line(is_known.then_some(&snapshot), &sources), words);
        }
    }

    /// Returns how many pings systemd gets in a day from a monitor that takes this many commands.
    async fn pings(commands: usize) -> usize {
        let (sender, mut orders) = mpsc::channel(1);
        let pings = Cell::new(0);
        let monitor = async {
            for _ in 0..commands {
                let Some(Command::Answer(answer)) = orders.recv().await else { panic!("not asked") };
                answer.send(()).unwrap();
            }
            // It hangs without ending.
            std::future::pending::<()>().await;
        };
        let beats = beat(&sender, PERIOD, async || pings.set(pings.get() + 1));
        let day = Duration::from_secs(24 * 60 * 60);
        let _ = timeout(day, async { tokio::join!(beats, monitor) }).await;
        pings.get()
    }

    #[tokio::test(start_paused = true)]
    async fn a_monitor_that_hangs_is_not_called_alive() {
        assert_eq!(pings(0).await, 0);
        assert_eq!(pings(3).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_with_the_monitor() {
        let (sender, orders) = mpsc::channel(1);
        drop(orders);
        beat(&sender, PERIOD, async || panic!("it is dead")).await;
    }
}
