//! I/O errors and timeouts of all disks that a device has had, out of what each disk counts since it came.
//!
//! A disk's own count is lost with the disk, and starts anew with the next one under its number. The count here stays.

use std::sync::Arc;

use crate::source::block::disks::{Disk, IoCounts};
use crate::topology::DevNo;

/// A disk that is no member any more may become one again, and is not counted again then. So many are remembered.
const MOST_DEPARTED: usize = 32;

/// The errors of one device's disks.
#[derive(Clone, Debug, Default)]
pub(crate) struct IoErrors {
    total: u64,
    /// The disks whose counts are in the total: those that have left first, then the members.
    counted: Vec<Counted>,
}

#[derive(Clone, Debug)]
struct Counted {
    devno: DevNo,
    hctl: Arc<str>,
    io: IoCounts,
}

impl IoErrors {
    /// Errors and timeouts so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Adds what the members have counted since the last time. `is_ghost` tells which of them multipathd's checker calls so: the
    /// array refuses I/O there, though no word of the kernel says so.
    pub(crate) fn follow<'a>(&mut self, members: impl Iterator<Item = &'a Disk>, is_ghost: impl Fn(&Disk) -> bool) {
        let mut number = 0;
        for disk in members {
            let is_it = |counted: &Counted| counted.devno == disk.devno && counted.hctl == disk.hctl;
            let last = self.counted.iter().position(is_it).map(|index| self.counted.remove(index).io);
            let io = match last {
                // A disk that is gone never comes back: the next one at its place counts from 0.
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

/// Whether the array refuses I/O on this path, as it should. The path checker asks all the same, and the kernel counts each
/// refusal as an error (`scsi_complete` in `drivers/scsi/scsi_lib.c`). States as `scsi_access_state` names them.
fn refuses_io(disk: &Disk) -> bool {
    matches!(disk.states.access.as_deref(), Some("standby" | "unavailable" | "offline" | "transitioning"))
}

/// How much a count has grown. One that has fallen has started anew: it may also have passed the end of its 32 bits, and what it
/// counted up to there is left out.
pub(crate) fn growth(last: Option<u64>, now: Option<u64>) -> u64 {
    let now = now.unwrap_or_default();
    last.and_then(|last| now.checked_sub(last)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::block::disks::{Identity, Model, States};
    use crate::topology::{Ports, Transport};

    /// The disk of this minor number at this address, with these errors.
    fn disk(minor: u32, hctl: &str, errors: u64) -> Disk {
        Disk {
            devno: DevNo { major: 8, minor },
            name: "sd".into(),
            hctl: hctl.into(),
            transport: Transport::Unknown,
            way: None,
            ports: Ports::default(),
            model: Model::default(),
            identity: Identity::default(),
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
    fn errors_and_timeouts_count_alike_and_what_is_not_told_stays() {
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
