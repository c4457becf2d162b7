//! The program's own memory: keeps its code in memory, and returns unused memory to the kernel.
//!
//! On a host that boots from multipath storage, the program and its libraries are on a device that
//! may fail. A thread that then needs a page which is not in memory blocks in the kernel forever,
//! and scrapes block with it. All pages are therefore loaded at startup (`MADV_POPULATE_READ`,
//! Linux 5.14), and locked as far as `RLIMIT_MEMLOCK` permits (`mlock(2)`). Pages for which neither
//! works stay as they are. Nothing helps if the host swaps to such a device.

use std::convert::Infallible;
use std::fs;
use std::ops::Range;
use std::time::Duration;

use rustix::mm::{Advice, madvise, mlock};
use tokio::time::sleep;

/// Loads or locks the file-backed pages of the program and its libraries, as far as the kernel
/// permits.
pub(crate) fn keep() {
    let mappings = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for Range { start, end } in mappings.lines().filter_map(of_file) {
        let (address, length) = (std::ptr::with_exposed_provenance_mut(start), end - start);
        // SAFETY: neither call changes the content of the mapping. The kernel rejects a mapping
        // that no longer exists.
        #[expect(unsafe_code, reason = "addresses of the kernel's")]
        let _ = unsafe { mlock(address, length).or_else(|_| madvise(address, length, Advice::LinuxPopulateRead)) };
    }
}

/// The interval at which free memory is returned.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);

/// Returns free memory to the kernel periodically, forever. The allocator keeps freed memory for
/// later use, which may be most of the memory after a burst (`malloc_trim(3)`).
pub(crate) async fn give_back() -> Infallible {
    loop {
        sleep(TRIM_INTERVAL).await;
        // SAFETY: the call touches only free memory.
        #[cfg(target_env = "gnu")]
        #[expect(unsafe_code, reason = "a call of the C library")]
        let trim = || unsafe { libc::malloc_trim(0) };
        #[cfg(target_env = "gnu")]
        drop(tokio::task::spawn_blocking(trim).await);
    }
}

/// The addresses of a mapping in a line of `proc_pid_maps(5)`. `None` unless the mapping is of a
/// file and readable.
fn of_file(line: &str) -> Option<Range<usize>> {
    let (addresses, rest) = line.split_once(' ')?;
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (rest.starts_with('r') && rest.contains(" /")).then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_kept() {
        for (line, kept) in [
            ("7f00-9f00 r-xp 00001000 fd:00 1234                       /usr/bin/multipath_exporter", true),
            ("7f00-9f00 r--p 00000000 fd:00 1234                       /a name/with spaces (deleted)", true),
            ("7f00-9f00 rw-p 00000000 00:00 0                          [heap]", false),
            ("7f00-9f00 r-xp 00000000 00:00 0                          [vdso]", false),
            ("7f00-9f00 rw-p 00000000 00:00 0 ", false),
            ("7f00-9f00 ---p 00001000 fd:00 1234                       /usr/lib/libc.so.6", false),
            ("7f00 r-xp 00001000 fd:00 1234                            /usr/lib/libc.so.6", false),
            ("xf00-9f00 r-xp 00001000 fd:00 1234                       /usr/lib/libc.so.6", false),
            ("", false),
        ] {
            assert_eq!(of_file(line), kept.then_some(0x7f00..0x9f00), "{line}");
        }
    }

    #[test]
    fn all_of_the_program_is_in_memory() {
        keep();
        let program = std::env::current_exe().unwrap();
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let kilobytes = |lines: &[&str], name: &str| {
            let value = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB")).unwrap();
            value.trim().parse::<usize>().unwrap()
        };
        let lines: Vec<_> = smaps.lines().collect();
        let of_program = (0..lines.len()).filter(|at| lines[*at].ends_with(program.to_str().unwrap()));
        for at in of_program {
            assert_eq!(kilobytes(&lines[at..], "Rss:"), kilobytes(&lines[at..], "Size:"), "{}", lines[at]);
        }
    }
}
