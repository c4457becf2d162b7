//! The log: to standard error, one line per change of state.
//!
//! A thread of its own writes the lines. Standard error is a pipe to somebody's log daemon, and one that hangs must not
//! stop the monitor: beyond its queue (128,000 lines) the thread drops lines.

mod logfmt;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::cli::{LogFormat, LogLevel};
use logfmt::Logfmt;

/// Starts logging. What is queued when the guard is dropped is still written.
pub fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    // What a client does to their connection they warn of, once for each: a log that strangers can fill.
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
