//! The program: reads the command line, runs, and turns the end into one line and an exit status.

use std::process::ExitCode;

use multipath_exporter::cli::{Cli, Leave};
use multipath_exporter::{Failure, logging, run};

/// The command line, an address or a configuration is wrong; nothing was served.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Leave::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Leave::Wrong(line)) => return end(WRONG, &line),
    };
    let log = logging::start(cli.general.log_level, cli.general.log_format);
    let result = run(&cli);
    drop(log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Settings(line)) => end(WRONG, &line),
        Err(Failure::Fatal(line)) => end(1, &line),
    }
}

fn end(status: u8, line: &str) -> ExitCode {
    eprintln!("multipath_exporter: {line}");
    ExitCode::from(status)
}
