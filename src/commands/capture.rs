//! `--capture`: writes what the exporter reads on this host, with all names replaced.

use std::fs;
use std::future::poll_fn;
use std::io::{self, Write};
use std::path::Path;
use std::task::Poll;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::{Failure, host};
use crate::capture;
use crate::cli::Cli;

/// Writes a capture to this file, or to standard output if it is called `-`.
pub async fn capture(cli: &Cli, file: &Path) -> Result<(), Failure> {
    let to_stdout = file == Path::new("-");
    let failed = |cause| {
        if to_stdout {
            Failure::fatal("cannot print")(cause)
        } else {
            Failure::Settings(format!("--capture: {}: {cause}", file.display()))
        }
    };
    let stopped = stopped()?;
    // This comes first, so that nothing is read in vain.
    let new = if to_stdout { None } else { Some(capture::NewFile::create(file).map_err(failed)?) };
    let system = rustix::system::uname();
    let host_name = system.nodename().to_string_lossy();
    let written = async {
        let archive = capture::take(host(cli)?, &host_name, capture::READ_DEADLINE).await;
        let archive = archive.map_err(|error| Failure::Fatal(format!("--capture: {error}")))?;
        let bytes = archive.len();
        let content = new.as_ref().map(capture::NewFile::content).transpose().map_err(failed)?;
        // The write may block forever on a pipe or a file server. A signal drops this future but
        // not that thread. The new file stays outside the thread, so that it is deleted then.
        let writing = tokio::task::spawn_blocking(move || match content {
            Some(mut content) => content.write_all(&archive).and_then(|()| content.sync_all()),
            None => io::stdout().write_all(&archive).and_then(|()| io::stdout().flush()),
        });
        writing.await.map_err(io::Error::from).flatten().map_err(failed)?;
        Ok(bytes)
    };
    let bytes = tokio::select! {
        written = written => written?,
        () = stopped => return Err(Failure::Fatal("--capture: stopped by a signal before the file was written".to_owned())),
    };
    if let Some(new) = new {
        new.keep().map_err(failed)?;
        info!(file = %file.display(), bytes, "captured");
    }
    Ok(())
}

/// Returns the signals that the parent process set to be ignored, a bit each, the lowest for signal
/// 1 (`SigIgn` in `proc(5)`).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default()
}

/// Returns a future that ends on a signal. From now on no signal kills the process while something
/// is half done. Signals that the parent process set to be ignored, as `nohup` does, stay ignored.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let ignored = ignored_signals();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].into_iter();
    let kinds = kinds.filter(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
    let signals = kinds.map(signal).collect::<io::Result<Vec<_>>>();
    let mut signals = signals.map_err(Failure::fatal("cannot handle signals"))?;
    Ok(poll_fn(move |context| {
        let is_stopped = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if is_stopped { Poll::Ready(()) } else { Poll::Pending }
    }))
}
