//! Failures of iSCSI sessions and NVMe controllers, counted by the ports between which they go.
//!
//! The kernel counts none of them. A failure here is the difference between two readings, so one that ended before the next
//! reading is not seen. A new login or connection has another name and the same ports, so it counts on from there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::topology::{Failures, IscsiSession, NvmeController, Ports};

/// The part that a reading shows of a session or controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It carries I/O.
    Works,
    /// It has failed.
    Failed,
    /// It is being ended in order, or the reading does not say whether it is. The next reading tells.
    Ending,
}

impl Standing {
    /// The standing of a session. The kernel says `FREE` of one that logs out, too.
    pub fn of_session(session: &IscsiSession) -> Self {
        match &*session.state {
            _ if session.is_logged_in() => Standing::Works,
            "FREE" => Standing::Ending,
            _ => Standing::Failed,
        }
    }

    /// The standing of a controller. One that was given up has failed before the kernel removes it.
    pub fn of_controller(controller: &NvmeController) -> Self {
        match controller {
            _ if controller.is_live() => Standing::Works,
            _ if controller.is_deleted() => Standing::Ending,
            _ => Standing::Failed,
        }
    }
}

/// Counts failures from reading to reading.
#[derive(Debug, Default)]
pub struct Tally {
    /// Whether each object worked when that was last known, by its kernel name.
    worked: HashMap<Arc<str>, bool>,
    counts: BTreeMap<Ports, u64>,
    present: Arc<Failures>,
}

impl Tally {
    /// Takes a reading of all objects: kernel name, ports, and standing.
    pub fn follow<'a>(&mut self, objects: impl Iterator<Item = (&'a Arc<str>, &'a Ports, Standing)>) {
        let (mut worked, mut present) = (HashMap::new(), Failures::new());
        for (name, ports, standing) in objects {
            let before = self.worked.get(name).copied().unwrap_or_default();
            let works = match standing {
                Standing::Works => true,
                Standing::Failed => false,
                Standing::Ending => before,
            };
            worked.insert(Arc::clone(name), works);
            let count = match self.counts.get_mut(ports) {
                Some(count) => count,
                None => self.counts.entry(ports.clone()).or_default(),
            };
            *count += u64::from(before && !works);
            present.insert(ports.clone(), *count);
        }
        self.worked = worked;
        if *self.present != present {
            self.present = Arc::new(present);
        }
    }

    /// The failures between each pair of ports that some object of the last reading has.
    pub fn present(&self) -> &Arc<Failures> {
        &self.present
    }
}

#[cfg(test)]
mod tests {
    use super::Standing::{Ending, Failed, Works};
    use super::*;

    fn ports(port: &str) -> Ports {
        Ports { initiator_port: "eth1".into(), target: "iqn.2003-01.org.example:a".into(), target_port: port.into() }
    }

    /// The counts after each reading.
    fn counts(readings: &[&[(&str, &str, Standing)]]) -> Vec<Vec<u64>> {
        let mut tally = Tally::default();
        let mut take = |reading: &&[(&str, &str, Standing)]| {
            let objects: Vec<(Arc<str>, Ports, Standing)> =
                reading.iter().map(|(name, port, standing)| ((*name).into(), ports(port), *standing)).collect();
            tally.follow(objects.iter().map(|(name, ports, standing)| (name, ports, *standing)));
            tally.present().values().copied().collect()
        };
        readings.iter().map(&mut take).collect()
    }

    #[test]
    fn each_fall_counts_once() {
        let one = |standing| [("session1", "1", standing)];
        let readings = [one(Works), one(Failed), one(Failed), one(Works), one(Failed)];
        assert_eq!(counts(&readings.each_ref().map(|one| &one[..])), [[0], [1], [1], [1], [2]]);
    }

    #[test]
    fn what_is_found_failed_or_ends_in_order_is_no_failure() {
        let readings: [&[_]; 5] = [
            &[("session1", "1", Failed), ("session2", "2", Works)],
            &[("session1", "1", Ending), ("session2", "2", Ending)],
            &[("session1", "1", Works)],
            &[("session1", "1", Ending)],
            &[("session1", "1", Failed)],
        ];
        assert_eq!(counts(&readings), [vec![0, 0], vec![0, 0], vec![0], vec![0], vec![1]]);
    }

    #[test]
    fn twins_share_a_count_and_a_successor_goes_on() {
        let readings: [&[_]; 4] = [
            &[("session1", "1", Works), ("session2", "1", Works)],
            &[("session1", "1", Failed), ("session2", "1", Failed)],
            &[],
            &[("session3", "1", Works)],
        ];
        assert_eq!(counts(&readings), [vec![0], vec![2], vec![], vec![2]]);
    }
}
