//! Compares the LUN numbers of a device's paths. An array gives a LUN one number on all ports of a
//! target, and one pair of ports cannot reach one LUN under two numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::{Path, Transport};

/// Returns the number of paths whose LUN number differs from that of most paths to the same target.
/// A path counts only if its number and its target are known.
pub(crate) fn mismatched_paths(paths: &[Path]) -> usize {
    let mut targets: BTreeMap<&str, BTreeMap<u64, usize>> = BTreeMap::new();
    for (lun, path) in differing(paths).filter(|(_, path)| !path.ports.target.is_empty()) {
        *targets.entry(&path.ports.target).or_default().entry(lun).or_default() += 1;
    }
    // The count is the same whichever of several equally frequent numbers is right.
    let others =
        |luns: BTreeMap<u64, usize>| luns.values().sum::<usize>() - luns.into_values().max().unwrap_or_default();
    targets.into_values().map(others).sum()
}

/// Returns the number of nexuses (pairs of ports) that lead to several LUN numbers. The name of an
/// iSCSI port includes the target (RFC 7143, 3.4): two targets behind one address are two ports.
/// Where a port is unknown, SCSI host, channel and target identify the nexus. This does not work
/// for virtio-scsi, where a hypervisor may present two of its own paths as two LUNs of one target.
pub(crate) fn conflicts(paths: &[Path]) -> usize {
    let mut nexuses: BTreeMap<[&str; 3], BTreeSet<u64>> = BTreeMap::new();
    for (lun, path) in differing(paths) {
        let [initiator, target, port] = [&path.ports.initiator_port, &path.ports.target, &path.ports.target_port];
        let nexus = match scsi_target(&path.hctl) {
            _ if !initiator.is_empty() && !port.is_empty() => [&**initiator, target, port],
            Some(address) if path.transport != Transport::VirtioScsi => [address, "", ""],
            _ => continue,
        };
        nexuses.entry(nexus).or_default().insert(lun);
    }
    nexuses.values().filter(|luns| luns.len() > 1).count()
}

/// Returns true if the known numbers are not all the same.
pub(crate) fn differ(paths: &[Path]) -> bool {
    let mut luns = paths.iter().filter_map(Path::lun);
    let first = luns.next();
    luns.any(|lun| Some(lun) != first)
}

/// Returns the paths with a known number, or no path if all numbers are the same, as they nearly
/// always are.
fn differing(paths: &[Path]) -> impl Iterator<Item = (u64, &Path)> {
    let paths = if differ(paths) { paths } else { &[] };
    paths.iter().filter_map(|path| Some((path.lun()?, path)))
}

/// Returns host, channel and target of a SCSI address: `6:0:0` of `6:0:0:1`. `None` if it is not a
/// SCSI address.
pub(crate) fn scsi_target(hctl: &str) -> Option<&str> {
    hctl.rsplit_once(':').map(|(target, _)| target)
}

impl Path {
    /// Returns the LUN number as the kernel computes it from the 8 bytes of SAM-5, 4.7
    /// (`scsilun_to_int` in `drivers/scsi/scsi_common.c`). Number 1 in flat space addressing is
    /// 16385.
    pub(crate) fn lun(&self) -> Option<u64> {
        self.hctl.rsplit_once(':')?.1.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{Ports, sample};

    /// Parses paths: `eth1 iqn a 7` is a path from port `eth1` to port `a` of target `iqn` with
    /// number 7. `-` stands for unknown.
    fn paths(text: &str) -> Vec<Path> {
        let words: Vec<&str> = text.split_whitespace().map(|word| if word == "-" { "" } else { word }).collect();
        let path = |words: &[&str]| {
            let [initiator_port, target, target_port, lun] = words else { panic!("{words:?}") };
            let ports = Ports {
                initiator_port: (*initiator_port).into(),
                target: (*target).into(),
                target_port: (*target_port).into(),
            };
            let hctl = if lun.is_empty() { String::new() } else { format!("6:0:0:{lun}") };
            Path { ports, hctl: hctl.into(), ..sample::path() }
        };
        words.chunks(4).map(path).collect()
    }

    #[test]
    fn paths_are_counted_that_have_another_number_than_most() {
        for (text, mismatched, conflicts) in [
            ("", 0, 0),
            ("e1 t a 12", 0, 0),
            ("e1 t a 0 e2 t b 0", 0, 0),
            ("e1 t a 12 e1 t b 12 e2 t a 12 e2 t b 7", 1, 0),
            ("e1 t a 7 e1 t b 12 e2 t a 12 e2 t b 12", 1, 0),
            ("e1 t a 1 e1 t b 2 e2 t a 3 e2 t b 4", 3, 0),
            // A tie.
            ("e1 t a 12 e2 t b 7", 1, 0),
            ("e1 t a 12 e1 t b 7 e2 t a 12 e2 t b 7", 2, 0),
            // Each target has its own numbers.
            ("e1 t a 1 e2 t b 1 e1 u c 5 e2 u d 5", 0, 0),
            ("e1 t a 1 e2 u b 2 e1 v c 3", 0, 0),
            ("e1 t a 1 e2 t b 1 e1 t c 5 e1 u d 5 e2 u e 5 e2 u f 1", 2, 0),
            // Numbers are compared as wholes, not by their digits.
            ("e1 t a 16385 e2 t b 1", 1, 0),
            ("e1 t a 16385 e2 t b 16385", 0, 0),
            ("e1 t a 4611967493404098560 e2 t b 4611967493404098560 e2 t c 4611967493404098561", 1, 0),
            ("e1 t a 18446744073709551615 e2 t b 18446744073709551616", 0, 0),
            // Unknown parts say nothing.
            ("e1 t a 12 e2 t b -", 0, 0),
            ("e1 - a 12 e2 - b 7", 0, 0),
            ("e1 t a 12 e2 - b 7", 0, 0),
            ("- t - 12 - t - 7", 1, 1),
            ("e1 t - 12 e1 t - 7", 1, 1),
            ("- t a 12 - t a 7", 1, 1),
            // One pair of ports, by one session or two.
            ("e1 t a 12 e1 t a 12", 0, 0),
            ("e1 t a 12 e1 t a 7", 1, 1),
            ("e1 - a 12 e1 - a 7", 0, 1),
            ("e1 t a 12 e1 t a 7 e1 t a 3 e2 t a 12", 2, 1),
            ("e1 t a 12 e1 t a 7 e2 t b 12 e2 t b 7", 2, 2),
            ("e1 t a 12 e2 t a 7", 1, 0),
            // Two targets behind one address.
            ("e1 t a 1 e1 u a 2", 0, 0),
        ] {
            let paths = paths(text);
            assert_eq!((mismatched_paths(&paths), super::conflicts(&paths)), (mismatched, conflicts), "{text}");
        }
    }

    #[test]
    fn an_address_tells_the_nexus_where_a_port_is_unknown() {
        let path = |hctl: &str, transport| Path { hctl: hctl.into(), transport, ..sample::path() };
        for (one, other, transport, expected) in [
            ("1:0:0:12", "1:0:0:7", Transport::Unknown, 1),
            ("1:0:0:0", "1:0:0:1", Transport::Sas, 1),
            ("1:0:0:12", "1:0:1:7", Transport::Unknown, 0),
            ("1:0:0:12", "2:0:0:7", Transport::Unknown, 0),
            ("1:0:0:12", "1:0:0:7", Transport::VirtioScsi, 0),
            ("12", "7", Transport::Unknown, 0),
        ] {
            let paths =
                [path(one, transport), path(other, transport)].map(|path| Path { ports: Ports::default(), ..path });
            assert_eq!(conflicts(&paths), expected, "{one} {other} {transport:?}");
        }
    }

    #[test]
    fn a_number_is_the_last_part_of_an_address() {
        for (hctl, lun) in
            [("6:0:1:12", Some(12)), ("6:0:1:18446744073709551615", Some(u64::MAX)), ("6:0:1:", None), ("", None)]
        {
            assert_eq!(Path { hctl: hctl.into(), ..sample::path() }.lun(), lun, "{hctl}");
        }
    }
}
