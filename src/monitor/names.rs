//! Who members say they are, held against the name of their map: another name means another LUN, and data at risk.
//!
//! udev and the kernel choose among the names that a LUN has, each in its own way, and a map may be called by a third
//! (`uid_attribute` in `multipath.conf(5)`). So a source's word counts against a member in three cases: that source has called a
//! member of the map by the map's own name, both sources agree, or both names are of one kind and one vendor.

use crate::source::block::disks::Disk;

/// Which sources have called a member of the map by the map's own name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Speakers {
    udev: bool,
    kernel: bool,
}

impl Speakers {
    /// Takes note of what they call these members of this map.
    pub fn hear<'a>(&mut self, wwid: &str, members: impl IntoIterator<Item = &'a Disk>) {
        for disk in members {
            self.udev |= udev_name(disk) == Some(wwid);
            self.kernel |= kernel_name(disk).is_some_and(|name| name == wwid);
        }
    }

    /// Whether they say that this member of the map of this name is another LUN.
    pub fn call_another(self, wwid: &str, disk: &Disk) -> bool {
        let (udev, kernel) = (udev_name(disk), kernel_name(disk));
        let agree = is_naa(wwid) && udev == kernel.as_deref();
        let another = |name: Option<&str>, is_heard: bool| {
            let another = name.filter(|name| *name != wwid && is_naa(name) == is_naa(wwid));
            another.is_some_and(|name| is_heard || agree || are_of_one_vendor(name, wwid))
        };
        another(udev, self.udev) || another(kernel.as_deref(), self.kernel)
    }
}

fn udev_name(disk: &Disk) -> Option<&str> {
    disk.identity.udev.as_deref()
}

/// The kernel's name of a disk as a WWID: `naa.600…` is `3600…`, and `eui.002…` is `2002…`, but for NVMe, whose names are
/// taken as they are. `None` for names that udev makes otherwise.
fn kernel_name(disk: &Disk) -> Option<String> {
    let name = disk.identity.kernel.as_deref()?;
    if disk.name.starts_with("nvme") {
        return Some(name.to_owned());
    }
    let wwid = |kind, digits: &str| format!("{kind}{}", digits.to_ascii_lowercase());
    let naa = name.strip_prefix("naa.").map(|digits| wwid('3', digits));
    naa.or_else(|| name.strip_prefix("eui.").map(|digits| wwid('2', digits)))
}

/// Whether both are NAA names of one type that one vendor gave. A LUN has one such name, so two of them are two LUNs, whoever
/// says so. The vendor is in digits 2 to 7 (types 5 and 6) or 5 to 10 (type 2), see SPC-4, 7.8.6.6.
fn are_of_one_vendor(one: &str, other: &str) -> bool {
    let vendor = match one.as_bytes().get(1) {
        Some(b'5' | b'6') => 2..8,
        Some(b'2') => 5..11,
        _ => return false,
    };
    let is_same = |digits: std::ops::Range<usize>| one.get(digits.clone()) == other.get(digits);
    is_naa(one) && is_naa(other) && one.len() == other.len() && is_same(1..2) && is_same(vendor)
}

/// Whether this is a WWID as udev makes it of a SCSI name of type NAA: `3`, then 16 or 32 hexadecimal digits.
fn is_naa(wwid: &str) -> bool {
    let digits = wwid.strip_prefix('3').unwrap_or_default();
    matches!(digits.len(), 16 | 32) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}
