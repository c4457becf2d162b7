//! The program: reads the command line, runs, and ends with an exit status and at most one line.

use std::io::Write;
use std::process::ExitCode;

use multipath_exporter::cli::{Cli, Leave};
use multipath_exporter::memory::file::MemoryFile;
use multipath_exporter::privileges::Privileged;
use multipath_exporter::{Failure, logging, run};

/// Exit status if the command line, an address or a configuration file is wrong. Nothing was served.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Leave::Print(text)) => {
            return match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => end(1, &format!("cannot print: {error}")),
            };
        }
        Err(Leave::Wrong(line)) => return end(WRONG, &line),
    };
    // The memory file starts a process of its own, which must happen before there are threads.
    let remembers = cli.general.capture.is_none() && !cli.general.config_check;
    let memory_file = cli.general.memory_file.as_deref().filter(|_| remembers).map(MemoryFile::open);
    // This comes before the thread that writes the log, which needs no capabilities. A capture
    // keeps them, because it asks device mapper from an ordinary thread.
    let confined = if cli.general.capture.is_some() { Ok(Privileged::default()) } else { Privileged::confine() };
    let log = logging::start(cli.general.log_level, cli.general.log_format);
    let privileged = confined.unwrap_or_else(|(privileged, error)| {
        tracing::warn!(%error, "cannot drop capabilities: all threads keep those that only two need");
        privileged
    });
    let result = run(&cli, privileged, memory_file);
    drop(log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(line)) => end(WRONG, &line),
        Err(Failure::Fatal(line)) => end(1, &line),
    }
}

fn end(status: u8, line: &str) -> ExitCode {
    // A file name may have line breaks, but this stays one line. If this write fails, there is no
    // other place to report the error.
    let _ = writeln!(std::io::stderr(), "multipath_exporter: {}", line.replace('\n', "\\n"));
    ExitCode::from(status)
}
