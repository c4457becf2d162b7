//! The log on standard error: one line per change of state.
//!
//! A separate thread writes the lines. Standard error is often a pipe to a log daemon, and a daemon
//! that hangs must not stop the monitor. If the queue (128,000 lines) is full, new lines are
//! dropped.

mod logfmt;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::cli::{LogFormat, LogLevel};
use logfmt::Logfmt;

/// Starts logging. Lines that are queued when the guard is dropped are still written.
pub fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // These crates warn about every misbehaving client, so anyone could flood the log. Show only
    // their errors.
    let libraries = ["h2", "hyper", "rustls"].map(|library| (library, level.min(LevelFilter::ERROR)));
    let level = Targets::new().with_default(level).with_targets(libraries);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Logfmt => {
            Box::new(tracing_subscriber::fmt::layer().event_format(Logfmt).with_writer(writer).with_filter(level))
        }
        LogFormat::Json => Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_target(false)
                .with_current_span(false)
                .with_writer(writer)
                .with_filter(level),
        ),
    };
    tracing_subscriber::registry().with(lines).init();
    guard
}
