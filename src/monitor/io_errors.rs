//! I/O errors and timeouts of all disks that a device has had, from the counts of each disk.
//!
//! A disk's own count goes with the disk, and restarts with the next disk under its number. The
//! count here continues.

use std::sync::Arc;

use crate::source::block::disks::{Disk, IoCounts};
use crate::topology::DevNo;

/// How many former members are remembered. A disk that becomes a member again is not counted twice.
const MOST_DEPARTED: usize = 32;

/// The errors of one device's disks.
#[derive(Clone, Debug, Default)]
pub(crate) struct IoErrors {
    total: u64,
    /// The disks whose counts are in the total: first the former members, then the present ones.
    counted: Vec<Counted>,
}

#[derive(Clone, Debug)]
struct Counted {
    devno: DevNo,
    hctl: Arc<str>,
    io: IoCounts,
}

impl IoErrors {
    /// Returns the number of errors and timeouts so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Adds what the members have counted since the last call. `is_ghost` returns true for a disk
    /// that multipathd's checker calls `ghost`: its array refuses I/O, though the kernel does not
    /// show that.
    pub(crate) fn follow<'a>(&mut self, members: impl Iterator<Item = &'a Disk>, is_ghost: impl Fn(&Disk) -> bool) {
        let mut number = 0;
        for disk in members {
            let is_it = |counted: &Counted| counted.devno == disk.devno && counted.hctl == disk.hctl;
            let last = self.counted.iter().position(is_it).map(|index| self.counted.remove(index).io);
            let io = match last {
                // A disk that is gone never comes back. The next disk in its place counts from 0.
                _ if disk.states.absent => IoCounts::default(),
                Some(last) if refuses_io(disk) || is_ghost(disk) => {
                    self.add(IoCounts { errors: disk.io.errors, ..last }, disk.io)
                }
                last => self.add(last.unwrap_or_default(), disk.io),
            };
            self.counted.push(Counted { devno: disk.devno, hctl: Arc::clone(&disk.hctl), io });
            number += 1;
        }
        let departed = self.counted.len() - number;
        self.counted.drain(..departed.saturating_sub(MOST_DEPARTED));
    }

    fn add(&mut self, last: IoCounts, now: IoCounts) -> IoCounts {
        let grown = growth(last.errors, now.errors).saturating_add(growth(last.timeouts, now.timeouts));
        self.total = self.total.saturating_add(grown);
        IoCounts { errors: now.errors.or(last.errors), timeouts: now.timeouts.or(last.timeouts) }
    }
}

/// Returns true if the array rightly refuses I/O on this path. The checker sends I/O all the same,
/// and the kernel counts each refusal as an error (`scsi_complete` in `drivers/scsi/scsi_lib.c`).
/// The state names are those of `scsi_access_state`.
fn refuses_io(disk: &Disk) -> bool {
    matches!(disk.states.access.as_deref(), Some("standby" | "unavailable" | "offline" | "transitioning"))
}

/// Returns how much a count has grown. A smaller count has restarted. It may also have exceeded its
/// 32 bits: then the growth up to that point is left out.
pub(crate) fn growth(last: Option<u64>, now: Option<u64>) -> u64 {
    let now = now.unwrap_or_default();
    last.and_then(|last| now.checked_sub(last)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::block::disks::{DiskIdentity, Model, States};
    use crate::topology::{Ports, Transport};

    /// A disk with this minor number, address, and number of errors.
    fn disk(minor: u32, hctl: &str, errors: u64) -> Disk {
        Disk {
            devno: DevNo { major: 8, minor },
            name: "sd".into(),
            hctl: hctl.into(),
            transport: Transport::Unknown,
            way: None,
            ports: Ports::default(),
            model: Model::default(),
            identity: DiskIdentity::default(),
            size_bytes: None,
            read_only: None,
            io: IoCounts { errors: Some(errors), timeouts: None },
            stalled: None,
            states: States::default(),
        }
    }

    fn gone(disk: Disk) -> Disk {
        Disk { states: States { absent: true, ..States::default() }, ..disk }
    }

    /// The totals after each of these readings.
    fn totals<const N: usize>(readings: [&[Disk]; N]) -> [u64; N] {
        let mut errors = IoErrors::default();
        readings.map(|disks| {
            errors.follow(disks.iter(), |_| false);
            errors.total()
        })
    }

    const A: &str = "1:0:0:0";
    const B: &str = "2:0:0:0";

    #[test]
    fn errors_of_all_members_are_added_up() {
        let readings = [&[disk(0, A, 3), disk(16, B, 4)][..], &[disk(0, A, 3), disk(16, B, 9)], &[disk(0, A, 4)]];
        assert_eq!(totals(readings), [7, 12, 13]);
    }

    #[test]
    fn errors_and_timeouts_count_alike_and_an_unknown_count_stays() {
        let told = |errors, timeouts| Disk { io: IoCounts { errors, timeouts }, ..disk(0, A, 0) };
        let readings = [told(None, None), told(Some(1), Some(2)), told(None, Some(3)), told(Some(5), None)];
        let readings: [&[Disk]; 4] = readings.each_ref().map(std::slice::from_ref);
        assert_eq!(totals(readings), [0, 3, 4, 8]);
    }

    #[test]
    fn refusals_of_a_standby_path_are_no_errors_and_its_timeouts_are() {
        let told = |access: &str, errors, timeouts| {
            let states = States { access: Some(access.into()), ..States::default() };
            Disk { io: IoCounts { errors: Some(errors), timeouts: Some(timeouts) }, states, ..disk(0, A, 0) }
        };
        let readings = [
            told("active/optimized", 2, 0),
            told("standby", 9, 1),
            told("standby", 11, 1),
            told("active/optimized", 12, 1),
        ];
        let readings: [&[Disk]; 4] = readings.each_ref().map(std::slice::from_ref);
        assert_eq!(totals(readings), [2, 3, 3, 4]);
    }

    #[test]
    fn refusals_of_a_path_that_only_the_checker_calls_passive_are_no_errors() {
        let mut errors = IoErrors::default();
        let mut total = |count, is_ghost| {
            errors.follow([disk(0, A, count)].iter(), |_| is_ghost);
            errors.total()
        };
        assert_eq!([total(2, false), total(9, true), total(11, true), total(12, false)], [2, 2, 2, 3]);
    }

    #[test]
    fn a_count_that_passes_its_end_adds_what_it_shows_since() {
        let end = u64::from(u32::MAX);
        assert_eq!(totals([&[disk(0, A, end - 1)], &[disk(0, A, end)], &[disk(0, A, 4)]]), [end - 1, end, end + 4]);
    }

    #[test]
    fn a_disk_that_leaves_and_comes_back_is_counted_once() {
        assert_eq!(totals([&[disk(0, A, 3)], &[], &[disk(0, A, 5)]]), [3, 3, 5]);
    }

    #[test]
    fn a_count_that_starts_anew_adds_to_the_one_before() {
        // Another address, a smaller count, or a disk that was gone.
        assert_eq!(totals([&[disk(0, A, 3)], &[disk(0, B, 5)]]), [3, 8]);
        assert_eq!(totals([&[disk(0, A, 3)], &[disk(0, A, 2)]]), [3, 5]);
        assert_eq!(
            totals([&[disk(0, A, 3)], &[gone(disk(0, A, 3))], &[gone(disk(0, A, 3))], &[disk(0, A, 4)]]),
            [3, 3, 3, 7]
        );
    }

    #[test]
    fn it_remembers_a_few_that_have_left_and_never_falls() {
        let mut errors = IoErrors::default();
        for round in 1..=100 {
            errors.follow([disk(round, A, 2), disk(0, B, 1)].iter(), |_| false);
            assert_eq!(errors.total(), u64::from(round) * 2 + 1);
        }
        assert_eq!(errors.counted.len(), MOST_DEPARTED + 2);
        errors.follow([disk(0, B, u64::MAX), disk(1, B, u64::MAX)].iter(), |_| false);
        assert_eq!(errors.total(), u64::MAX);
    }
}
