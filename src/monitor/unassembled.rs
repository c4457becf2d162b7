//! Disks that no multipath device holds, although one should. An installer would show a disk with
//! two paths twice. A user of one of the paths loses the disk with that path.
//!
//! Equal names do not always mean one disk. These names are misleading:
//!
//! - The LUNs of one UFS device, or of one bad target, all repeat its name. They are two LUNs
//!   behind one nexus.
//! - The volumes of a RAID adapter, and the disks of a hypervisor, may repeat a serial number. They
//!   have no transport and no registered name.
//! - Some names are just the model.
//! - Targets of tgt and IET with default settings count their LUNs from the same name.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use crate::source::block::disks::Disk;
use crate::source::block::strangers::Candidate;
use crate::source::transports::{Way, Ways};
use crate::topology::{Device, Transport, Unassembled};

/// The kernel names of the paths that multipathd knows, in a map or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownPaths {
    /// multipathd does not answer, or does not give its paths. This holds until it does.
    CannotTell,
    /// multipathd has not been asked yet.
    NotAsked,
    These(HashSet<String>),
}

/// The disks of one WWID that are members of no map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namesakes {
    wwid: Arc<str>,
    /// At least one.
    disks: Vec<Candidate>,
}

/// Returns the candidates that may be unassembled, sorted by WWID. Later the ways may show that
/// some are not. `member_ways` are the ways of members.
pub(crate) fn suspects(candidates: &[Candidate], member_ways: &HashSet<Way>) -> Vec<Namesakes> {
    let mut namesakes: BTreeMap<&Arc<str>, Vec<Candidate>> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| is_name(candidate)) {
        namesakes.entry(&candidate.wwid).or_default().push(candidate.clone());
    }
    let namesakes = namesakes.into_iter().map(|(wwid, disks)| Namesakes { wwid: Arc::clone(wwid), disks });
    let is_suspect = |namesakes: &Namesakes| {
        let may_be_beside = |disk: &Candidate| disk.disk.way.is_some() && !member_ways.is_empty();
        !share_a_nexus(&namesakes.disks) && !one_disk(namesakes.disks.iter().collect(), may_be_beside).is_empty()
    };
    namesakes.filter(is_suspect).collect()
}

/// The facts that decide which of the suspects are unassembled.
pub(crate) struct Context<'a> {
    /// The ports of the ways, which show the targets.
    pub(crate) ways: &'a Ways,
    /// The ways of members.
    pub(crate) member_ways: &'a HashSet<Way>,
    /// The paths that multipathd knows. Disks that it ignores are not among them.
    pub(crate) known: &'a KnownPaths,
    /// Returns true if our own configuration ignores this WWID.
    pub(crate) is_ignored: &'a dyn Fn(&str) -> bool,
    pub(crate) devices: &'a BTreeMap<&'a Arc<str>, &'a Arc<Device>>,
}

impl Context<'_> {
    /// Returns the unassembled disks, without those that a map has been made from since. `members`
    /// are the kernel names of members and their WWIDs in udev.
    pub(crate) fn look<'a>(
        &self,
        suspects: &'a [Namesakes],
        members: impl Iterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Vec<Unassembled> {
        let mut found: Vec<Unassembled> = suspects.iter().filter_map(|namesakes| self.look_at(namesakes)).collect();
        // On nearly every host, there are none.
        if found.is_empty() {
            return found;
        }
        let (mut names, mut wwids) = (HashSet::new(), HashSet::new());
        for (name, wwid) in members {
            names.insert(name);
            wwids.extend(wwid);
        }
        found.retain(|disk| !wwids.contains(&*disk.wwid) && !disk.paths.iter().any(|path| names.contains(&**path)));
        found
    }

    fn look_at(&self, Namesakes { wwid, disks }: &Namesakes) -> Option<Unassembled> {
        if self.devices.contains_key(wwid) || (self.is_ignored)(wwid) || !may_be_of_one_target(disks, self.ways) {
            return None;
        }
        let is_known = |disk: &&Candidate| match self.known {
            KnownPaths::CannotTell => true,
            KnownPaths::NotAsked => false,
            KnownPaths::These(known) => known.contains(&*disk.disk.name),
        };
        let disks = one_disk(disks.iter().filter(is_known).collect(), |disk| self.has_member_at_its_target(disk));
        let holder = disks.iter().find_map(|disk| disk.held_by.as_ref());
        let holder = holder.or_else(|| disks.iter().find_map(|disk| disk.resembles.as_ref()));
        let paths: Vec<_> = disks.iter().map(|disk| Arc::clone(&disk.disk.name)).collect();
        (!paths.is_empty()).then(|| Unassembled { wwid: Arc::clone(wwid), paths, held_by: holder.cloned() })
    }

    /// Returns true if the disk's target has members, even over another way.
    fn has_member_at_its_target(&self, disk: &Candidate) -> bool {
        let Some(target) = target_of(&disk.disk, self.ways) else { return false };
        self.member_ways.iter().any(|way| self.ways.get(way).is_some_and(|(_, ports)| *ports.target == *target))
    }
}

/// Returns these disks, which have the same WWID, if they are one LUN without a device. Otherwise
/// returns none. All disks must have the same size. There must be at least two, or udev's mark or
/// the target must show that the disk belongs to multipath.
fn one_disk(disks: Vec<&Candidate>, is_beside: impl Fn(&Candidate) -> bool) -> Vec<&Candidate> {
    let sizes: BTreeSet<_> = disks.iter().filter_map(|disk| size_of(&disk.disk)).collect();
    let is_multipaths = |disk: &&Candidate| disk.mark == Some(true) || disk.is_beside_member || is_beside(disk);
    let is_one = sizes.len() < 2 && (disks.len() > 1 || disks.iter().any(is_multipaths));
    if is_one { disks } else { Vec::new() }
}

/// Returns the disk's size. A disk that is not ready has none.
fn size_of(disk: &Disk) -> Option<u64> {
    disk.size_bytes.filter(|size| *size > 0)
}

/// Returns true if two of the disks share a nexus, which makes them two LUNs.
fn share_a_nexus(disks: &[Candidate]) -> bool {
    let mut seen = HashSet::new();
    disks.iter().map(nexus).any(|nexus| !seen.insert(nexus))
}

#[derive(PartialEq, Eq, Hash)]
enum Nexus<'a> {
    Way(&'a Way),
    Target(&'a str),
    /// A disk without a transport. It has no second path, whatever its serial number.
    Local,
}

fn nexus(candidate: &Candidate) -> Nexus<'_> {
    let disk = &candidate.disk;
    let has_ports = disk.way.is_some() || disk.transport == Transport::Sas;
    match (&disk.way, disk.target()) {
        (_, Some(_)) if !has_ports && !is_registered(&candidate.wwid) && candidate.mark != Some(true) => Nexus::Local,
        (Some(way), _) => Nexus::Way(way),
        (None, target) => Nexus::Target(target.unwrap_or(&disk.name)),
    }
}

/// Returns true if a registered vendor gave the WWID to this one LUN. udev's WWIDs begin with 3 for
/// a name of type NAA, with 2 for EUI-64, and with 8 for a SCSI name string (`scsi_id(8)`). The
/// others contain a serial number.
fn is_registered(wwid: &str) -> bool {
    let is_hexadecimal = |digits: &str| digits.len() >= 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    match wwid.split_at_checked(1) {
        Some(("2" | "3", digits)) => is_hexadecimal(digits),
        Some(("8", _)) => true,
        _ => false,
    }
}

/// Returns true if the WWID names the disk. Without a serial number it is just the vendor and the
/// model.
fn is_name(Candidate { disk, wwid, .. }: &Candidate) -> bool {
    let plain = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let (name, vendor, product) = (plain(wwid), plain(&disk.model.vendor), plain(&disk.model.product));
    let rest = name.strip_prefix(['0', '1', 'S']).unwrap_or(&name);
    let is_model = |text: &str| text == product || text.strip_prefix(&*vendor).is_some_and(|text| text == product);
    !is_model(&name) && !is_model(rest)
}

/// Returns the target's own name, if it is known.
fn target_of<'a>(disk: &Disk, ways: &'a Ways) -> Option<&'a str> {
    let (_, ports) = ways.get(disk.way.as_ref()?)?;
    Some(&*ports.target).filter(|target| !target.is_empty())
}

/// Returns false if the disks seem to belong to several targets, each of which gave the default
/// name by itself. A session whose target is not known may lead to any target.
fn may_be_of_one_target(disks: &[Candidate], ways: &Ways) -> bool {
    let targets: HashSet<_> = disks.iter().filter_map(|disk| target_of(&disk.disk, ways)).collect();
    let may_be_several = targets.len() > 1 || disks.len() > 1 && disks.iter().any(|disk| may_lead_anywhere(disk, ways));
    !may_be_several || !disks.iter().any(|disk| is_default(&disk.wwid))
}

fn may_lead_anywhere(Candidate { disk, .. }: &Candidate, ways: &Ways) -> bool {
    matches!(disk.way, Some(Way::Iscsi(_))) && target_of(disk, ways).is_none()
}

/// Returns true if tgt or IET made the name from the numbers of target and LUN, without a vendor
/// (`36000000…`).
fn is_default(wwid: &str) -> bool {
    wwid.len() == 33 && wwid.starts_with("36000000")
}

/// Returns true if the disk may be a LUN of a device with this name at these targets.
pub(crate) fn may_be_at(candidate: &Candidate, targets: impl Iterator<Item = Arc<str>>, ways: &Ways) -> bool {
    if !is_default(&candidate.wwid) {
        return true;
    }
    let Some(own) = target_of(&candidate.disk, ways) else { return !may_lead_anywhere(candidate, ways) };
    let mut targets = targets.filter(|target| !target.is_empty()).peekable();
    targets.peek().is_none() || targets.any(|target| *target == *own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::block::disks::Model;
    use crate::source::block::strangers::tests::candidate;
    use crate::topology::Ports;

    fn with(mut candidate: Candidate, edit: impl Fn(&mut Disk)) -> Candidate {
        edit(Arc::make_mut(&mut candidate.disk));
        candidate
    }

    fn size(candidate: Candidate, size: u64) -> Candidate {
        with(candidate, |disk| disk.size_bytes = Some(size))
    }

    fn session(candidate: Candidate, number: u32) -> Candidate {
        with(candidate, |disk| {
            (disk.way, disk.transport) = (Some(Way::Iscsi(format!("session{number}").into())), Transport::Iscsi);
        })
    }

    /// Sessions 1 and 2 lead to one target, session 3 to another.
    fn ways() -> Ways {
        let target = |number: u32| if number < 3 { "iqn.a" } else { "iqn.b" };
        let ports = |number| Ports { target: target(number).into(), ..Ports::default() };
        (1..=3)
            .map(|number| (Way::Iscsi(format!("session{number}").into()), (Transport::Iscsi, ports(number))))
            .collect()
    }

    /// The paths of the disks that are found if members use these ways.
    fn found(candidates: &[Candidate], known: &KnownPaths, member_ways: &[&str]) -> Vec<usize> {
        let member_ways: HashSet<Way> = member_ways.iter().map(|way| Way::Iscsi((*way).into())).collect();
        let (ways, devices) = (ways(), BTreeMap::new());
        let context =
            Context { ways: &ways, member_ways: &member_ways, known, is_ignored: &|_| false, devices: &devices };
        let suspects = suspects(candidates, &member_ways);
        context.look(&suspects, std::iter::empty()).iter().map(|disk| disk.paths.len()).collect()
    }

    fn alone(candidates: &[Candidate]) -> Vec<usize> {
        found(candidates, &KnownPaths::CannotTell, &[])
    }

    const NAA: &str = "3600a098000aad1e3";
    const SERIAL: &str = "HPT_DISK_6_0_00193c00";
    const TGT: &str = "360000000000000000e00000000010001";

    #[test]
    fn two_paths_are_a_disk() {
        let two = [candidate("sda", NAA, "6:0:0:1"), candidate("sdb", NAA, "7:0:0:1")];
        assert_eq!(alone(&two), [2]);
        assert!(alone(&two[..1]).is_empty());
        assert_eq!(alone(&[candidate("sda", NAA, "6:0:0:1"), candidate("sdb", NAA, "6:0:1:1")]), [2]);
        let by_serial = |name, hctl, number| session(candidate(name, SERIAL, hctl), number);
        assert_eq!(alone(&[by_serial("sda", "6:0:0:1", 1), by_serial("sdb", "7:0:0:1", 2)]), [2]);
    }

    #[test]
    fn names_that_are_not_one_disk() {
        let ufs = |name, lun: u32, bytes| size(candidate(name, "28ce38e0000000000", &format!("0:0:0:{lun}")), bytes);
        let local = |name, hctl| candidate(name, SERIAL, hctl);
        let nameless = |name, hctl| {
            let model = Model { vendor: "QEMU".into(), product: "QEMU HARDDISK".into(), revision: "2.5+".into() };
            let disk = candidate(name, "0QEMU_QEMU_HARDDISK", hctl);
            with(disk, |disk| (disk.model, disk.transport) = (model.clone(), Transport::Sas))
        };
        let longhorn = |name, hctl, number| session(candidate(name, TGT, hctl), number);
        for (what, disks) in [
            ("LUNs of one UFS device", vec![ufs("sda", 0, 9), ufs("sdb", 1, 1), ufs("sdc", 2, 1)]),
            ("volumes of one RAID adapter", vec![local("sdb", "6:0:0:0"), size(local("sdc", "6:0:1:0"), 7)]),
            ("volumes of one size", vec![local("sdb", "6:0:0:0"), local("sdc", "6:0:1:0")]),
            ("disks of a hypervisor", vec![local("sdb", "2:0:0:0"), local("sdc", "3:0:0:0")]),
            ("disks without a serial number", vec![nameless("sda", "2:0:0:0"), nameless("sdb", "3:0:0:0")]),
            ("two sizes", vec![candidate("sda", NAA, "6:0:0:1"), size(candidate("sdb", NAA, "7:0:0:1"), 7)]),
            ("two volumes of Longhorn", vec![longhorn("sda", "6:0:0:1", 1), longhorn("sdb", "7:0:0:1", 3)]),
        ] {
            assert!(alone(&disks).is_empty(), "{what}");
        }
        assert_eq!(alone(&[longhorn("sda", "6:0:0:1", 1), longhorn("sdb", "7:0:0:1", 2)]), [2]);
    }

    #[test]
    fn two_sizes_are_two_disks() {
        let three =
            ["sda", "sdb", "sdc"].iter().zip(6..).map(|(name, host)| candidate(name, NAA, &format!("{host}:0:0:1")));
        let other = size(candidate("sdd", NAA, "9:0:0:1"), 7);
        assert!(alone(&three.clone().chain([other.clone()]).collect::<Vec<_>>()).is_empty());
        // A disk that is not ready has no size yet.
        assert_eq!(alone(&three.chain([size(other, 0)]).collect::<Vec<_>>()), [4]);
    }

    #[test]
    fn one_path_is_a_disk_if_it_is_multipaths() {
        let one = || candidate("sda", NAA, "6:0:0:1");
        for (mark, expected) in [(None, &[][..]), (Some(false), &[]), (Some(true), &[1])] {
            assert_eq!(alone(&[Candidate { mark, ..one() }]), expected, "{mark:?}");
        }
        assert_eq!(alone(&[Candidate { is_beside_member: true, ..one() }]), [1]);
        let by_session = [session(one(), 1)];
        for (member_ways, expected) in [(&["session1"][..], &[1][..]), (&["session2"], &[1]), (&["session3"], &[])] {
            assert_eq!(found(&by_session, &KnownPaths::CannotTell, member_ways), expected, "{member_ways:?}");
        }
    }

    #[test]
    fn a_disk_that_multipathd_ignores_is_no_path() {
        let two = [candidate("sda", NAA, "6:0:0:1"), candidate("sdb", NAA, "7:0:0:1")];
        let these = |names: &[&str]| KnownPaths::These(names.iter().map(|name| (*name).to_owned()).collect());
        for (known, expected) in [
            (KnownPaths::CannotTell, &[2][..]),
            (KnownPaths::NotAsked, &[]),
            (these(&[]), &[]),
            (these(&["sda"]), &[]),
            (these(&["sda", "sdb"]), &[2]),
        ] {
            assert_eq!(found(&two, &known, &[]), expected, "{known:?}");
        }
    }

    #[test]
    fn names_that_a_vendor_registered() {
        for (wwid, registered) in [
            (NAA, true),
            ("28ce38e0000000000", true),
            ("8iqn.2001-05.com.example:lun", true),
            ("3600", false),
            ("3NOTHEXADECIMALATALL", false),
            (SERIAL, false),
            ("0QEMU_QEMU_HARDDISK_x", false),
            ("", false),
            ("é", false),
        ] {
            assert_eq!(is_registered(wwid), registered, "{wwid}");
        }
    }
}
