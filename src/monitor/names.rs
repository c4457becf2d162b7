//! Compares the names of members with the name of their map. Another name means another LUN, and
//! data at risk.
//!
//! A LUN has several names. udev and the kernel choose among them in different ways, and a map may
//! have a third one (`uid_attribute` in `multipath.conf(5)`). Names of two types cannot be
//! compared: a LUN may have both, and new firmware may add one. A source's name of the same type as
//! the map's name counts against a member in three cases. The source has called a member of the map
//! by the map's own name, both sources agree, or one vendor assigned both names.
//!
//! The names follow SPC-4, 7.8.6, and `drivers/nvme/host/sysfs.c`. The kernel prefers a SCSI name
//! string to an NAA name, and that to an EUI-64 or a T10 name (`scsi_vpd_lun_id` in
//! `drivers/scsi/scsi_lib.c`). udev's `scsi_id` prefers an NAA name.

use crate::source::block::disks::Disk;

/// The sources that have called a member of the map by the map's own name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Speakers {
    udev: bool,
    kernel: bool,
}

impl Speakers {
    /// Records which sources call one of these members by the map's name.
    pub(crate) fn hear<'a>(&mut self, wwid: &str, members: impl IntoIterator<Item = &'a Disk>) {
        let wwid = Name::of(wwid);
        for disk in members {
            self.udev |= udev_name(disk).is_some_and(|name| name.is(wwid));
            self.kernel |= kernel_name(disk).is_some_and(|name| name.is(wwid));
        }
    }

    /// Returns true if the sources show that this member of the map `wwid` is another LUN.
    pub(crate) fn call_another(self, wwid: &str, disk: &Disk) -> bool {
        let (wwid, udev, kernel) = (Name::of(wwid), udev_name(disk), kernel_name(disk));
        let agree = || wwid.is_certain && udev.zip(kernel).is_some_and(|(udev, kernel)| udev.is(kernel));
        let another = |name: Option<Name<'_>>, is_heard: bool| {
            let another = name.filter(|name| name.kind == wwid.kind && !name.is(wwid));
            another.is_some_and(|name| is_heard || agree() || have_one_vendor(name, wwid))
        };
        another(udev, self.udev) || another(kernel, self.kernel)
    }
}

fn udev_name(disk: &Disk) -> Option<Name<'_>> {
    disk.identity.udev.as_deref().map(Name::of)
}

fn kernel_name(disk: &Disk) -> Option<Name<'_>> {
    disk.identity.kernel.as_deref().map(Name::of)
}

/// The type of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NameType {
    /// A SCSI name from a vendor or a host: 16 or 32 digits.
    Naa,
    /// A SCSI or NVMe name: 16, 24 or 32 digits.
    Eui64,
    /// A vendor, and text of the vendor's choice.
    T10,
    /// A SCSI name string: the IQN of a target, and the LUN.
    Iqn,
    /// An NVMe name.
    Uuid,
    /// The NVMe name of last resort: the controller's vendor, serial number and model, and the
    /// namespace.
    Controller,
    /// A serial number, or the result of a site's own rule.
    Other,
}

/// A name as the kernel, udev or a map writes it.
#[derive(Clone, Copy, Debug)]
struct Name<'a> {
    kind: NameType,
    /// The name without the prefix for its type.
    text: &'a str,
    /// True if the type is certain. A site may name its maps by a serial number that looks like one
    /// of the other types.
    is_certain: bool,
}

impl<'a> Name<'a> {
    /// Parses a name. The kernel writes `naa.600…`, udev writes `3600…`. A site may name its maps
    /// by `ID_SERIAL_SHORT` (`600…`) or `ID_WWN_WITH_EXTENSION` (`0x600…`).
    fn of(name: &'a str) -> Self {
        let prefixed = [
            ("naa.", NameType::Naa),
            ("3", NameType::Naa),
            ("eui.", NameType::Eui64),
            ("2", NameType::Eui64),
            ("t10.", NameType::T10),
            ("1", NameType::T10),
            ("iqn.", NameType::Iqn),
            ("8iqn.", NameType::Iqn),
            ("uuid.", NameType::Uuid),
            ("nvme.", NameType::Controller),
        ];
        let prefixed = prefixed.into_iter().find_map(|(prefix, kind)| {
            let text = name.strip_prefix(prefix).filter(|text| kind.fits(text))?;
            Some(Name { kind, text, is_certain: matches!(kind, NameType::Naa | NameType::Eui64) })
        });
        prefixed.unwrap_or_else(|| {
            let digits = name.strip_prefix("0x").unwrap_or(name);
            let is_naa = digits.starts_with('6') && digits.len() == 32 && NameType::Naa.fits(digits);
            let (kind, text) = if is_naa { (NameType::Naa, digits) } else { (NameType::Other, name) };
            Name { kind, text, is_certain: false }
        })
    }

    /// Returns true if both names are equal, regardless of case, and of blanks that udev replaces.
    fn is(self, other: Name<'_>) -> bool {
        self.kind == other.kind
            && match self.kind {
                NameType::T10 => words(self.text).eq(words(other.text)),
                _ => self.text.eq_ignore_ascii_case(other.text),
            }
    }
}

impl NameType {
    fn fits(self, text: &str) -> bool {
        let lengths: &[usize] = match self {
            NameType::Naa => &[16, 32],
            NameType::Eui64 => &[16, 24, 32],
            _ => return true,
        };
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// Splits a T10 name at its blanks and at the characters that udev replaces. Removes a NUL at its
/// end, which the kernel prints.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_kept = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@".contains(c);
    text.trim_end_matches("\\0").split(move |c| !is_kept(c)).filter(|word| !word.is_empty())
}

/// Returns true if one vendor assigned these two different names of one type. A LUN has only one
/// name of a type from a vendor, so these are two LUNs, no matter which source gives the names.
fn have_one_vendor(one: Name<'_>, other: Name<'_>) -> bool {
    let is_same = |digits: std::ops::Range<usize>| {
        let digits = one.text.get(digits.clone()).zip(other.text.get(digits));
        digits.is_some_and(|(one, other)| one.eq_ignore_ascii_case(other))
    };
    let begin_alike = |separator: char| {
        let beginnings = one.text.rsplit_once(separator).zip(other.text.rsplit_once(separator));
        beginnings.is_some_and(|((one, _), (other, _))| one.eq_ignore_ascii_case(other))
    };
    let are_as_long = one.text.len() == other.text.len();
    match one.kind {
        // The vendor is in digits 1 to 6 after the type digit (types 5 and 6), or in digits 4 to 9
        // (type 2). A host assigned the names of type 3.
        NameType::Naa => {
            let vendor = match one.text.as_bytes().first() {
                Some(b'5' | b'6') => 1..7,
                Some(b'2') => 4..10,
                _ => return false,
            };
            are_as_long && is_same(0..1) && is_same(vendor)
        }
        // Names of 16 bytes begin with an extension of 8 bytes.
        NameType::Eui64 => are_as_long && is_same(if one.text.len() == 32 { 16..22 } else { 0..6 }),
        // The vendor's text may be anything. If only the last word differs, that word is a serial
        // number.
        NameType::T10 => {
            let (mut one, mut other): (Vec<&str>, Vec<&str>) = (words(one.text).collect(), words(other.text).collect());
            let last = one.pop().zip(other.pop());
            !one.is_empty() && one == other && last.is_some_and(|(one, other)| one.len() == other.len())
        }
        // `2004-01.com.example:array,L,0x6…`
        NameType::Iqn => begin_alike(','),
        NameType::Uuid => true,
        // The namespace follows the last hyphen.
        NameType::Controller => begin_alike('-'),
        NameType::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::block::disks::DiskIdentity;

    fn is_another(wwid: &str, udev: &str, kernel: &str, speakers: Speakers) -> bool {
        let word = |word: &str| Some(Arc::from(word)).filter(|word: &Arc<str>| !word.is_empty());
        let identity = DiskIdentity { udev: word(udev), kernel: word(kernel) };
        let disk = Disk { identity, ..Disk::at("8:16".parse().unwrap(), "block/sdb".as_ref()) };
        speakers.call_another(wwid, &disk)
    }

    #[test]
    fn one_name_may_be_written_in_several_ways() {
        for (one, other) in [
            ("3600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2355"),
            ("3600A098000AAD1E3000064E45F2C2355", "naa.600a098000aad1e3000064e45f2c2355"),
            ("600a098000aad1e3000064e45f2c2355", "3600a098000aad1e3000064e45f2c2355"),
            ("0x600a098000aad1e3000064e45f2c2355", "naa.600A098000AAD1E3000064E45F2C2355"),
            ("35000c500a1b2c3d4", "naa.5000c500a1b2c3d4"),
            ("20024f40000000001", "eui.0024F40000000001"),
            ("2d6b2000100000000aabbccdd", "eui.d6b2000100000000aabbccdd"),
            ("1ATA_QEMU_HARDDISK_QM00001", "t10.ATA     QEMU HARDDISK                           QM00001"),
            ("1IET_00010001", "t10.IET     00010001"),
            ("1LIO-ORG_vg_db1:8a1b", r"t10.LIO-ORG vg/db1:8a1b\0"),
            ("8iqn.2004-01.com.example:array,L,0x0001", "iqn.2004-01.com.example:array,L,0x0001"),
        ] {
            assert!(Name::of(one).is(Name::of(other)) && Name::of(other).is(Name::of(one)), "{one} {other}");
            assert!(!is_another(one, one, other, Speakers::default()), "{one} {other}");
        }
    }

    /// A LUN number was given to another volume of the same array. Only the kernel or only udev has
    /// noticed, and no earlier name is known.
    #[test]
    fn two_names_from_one_vendor_are_two_luns() {
        for (wwid, kernel) in [
            // IBM, NetApp, Pure Storage, 3PAR, EMC, LIO, Dell.
            ("36005076380808aaaaaa000000000007f", "naa.6005076380808aaaaaa0000000000080"),
            ("3600a098038304437415d4b6a59684a52", "naa.600a098038304437415d4b6a59684a53"),
            ("3624a9370bd452205599f42d600011a01", "naa.624a9370bd452205599f42d600011a02"),
            ("360002ac0000000000000000a0001eb2f", "naa.60002ac0000000000000000b0001eb2f"),
            ("360060160a1b2c3d4e5f6071829304150", "naa.60060160A1B2C3D4E5F6071829304151"),
            ("36001405a1b2c3d4e5f6071829304150a", "naa.6001405b1b2c3d4e5f6071829304150a"),
            ("3600C0FF000AAAAAA0000000000000001", "naa.600c0ff000aaaaaa0000000000000002"),
            // Disks and older arrays.
            ("35000c500a1b2c3d4", "naa.5000c500a1b2c3d8"),
            ("32001001b4e000001", "naa.2002001b4e000001"),
            // Map names that a site may choose.
            ("600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2356"),
            ("0x600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2356"),
            ("20024f40000000001", "eui.0024f40000000002"),
            ("2d6b2000100000000aabbccdd", "eui.d6b2000200000000aabbccdd"),
            ("25e5a8f96e2c5c4a46c9ce9008e6bb5d7", "eui.4c5a8f96e2c5c4a56c9ce9008e6bb5d8"),
            ("1IET_00010001", "t10.IET     00010002"),
            ("1ATA_QEMU_HARDDISK_QM00001", "t10.ATA     QEMU HARDDISK                           QM00002"),
            ("8iqn.2004-01.com.example:array,L,0x0001", "iqn.2004-01.com.example:array,L,0x0002"),
            // NVMe.
            ("uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427", "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca428"),
            ("eui.00000000000000010025385a01234567", "eui.00000000000000020025385a01234567"),
            ("eui.0025385a01234567", "eui.0025385a01234568"),
            ("nvme.1344-3132-4d69-00000001", "nvme.1344-3132-4d69-00000002"),
        ] {
            for (udev, kernel) in [(wwid, kernel), ("", kernel), (kernel, "")] {
                assert!(is_another(wwid, udev, kernel, Speakers::default()), "{wwid}: {udev}, {kernel}");
            }
        }
    }

    #[test]
    fn another_kind_of_name_may_be_another_name_of_the_same_lun() {
        let everybody = Speakers { udev: true, kernel: true };
        for (wwid, udev, kernel) in [
            // NAA beside T10, EUI-64, a serial number, a SCSI name string.
            ("3600a098000aad1e3000064e45f2c2355", "3600a098000aad1e3000064e45f2c2355", "t10.NETAPP  LUN 1"),
            ("1NETAPP_LUN_1", "1NETAPP_LUN_1", "naa.600a098000aad1e3000064e45f2c2355"),
            ("20024f40000000001", "20024f40000000001", "naa.60024f40000000000000000000000001"),
            ("SNETAPP_LUN_1", "SNETAPP_LUN_1", "t10.NETAPP  LUN 1"),
            (
                "3600a098000aad1e3000064e45f2c2355",
                "3600a098000aad1e3000064e45f2c2355",
                "iqn.2004-01.com.example:a,L,0x1",
            ),
            // New firmware adds a name of another type.
            ("1NETAPP_LUN_1", "3600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2355"),
            (
                "eui.0025385a01234567",
                "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427",
                "uuid.1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            ),
            ("nvme.1344-3132-4d69-00000001", "eui.0025385a01234567", "eui.0025385a01234567"),
            // A map with a site's own name, and a DASD.
            ("my-database", "3600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2355"),
            ("0x600a098000aad1e3", "3600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2355"),
            ("IBM.750000000N8392.6900.5f", "IBM.750000000N8392.6900.5f", ""),
            // udev's rule could not query the disk.
            ("3600a098000aad1e3000064e45f2c2355", "SNETAPP_LUN_1", "naa.600a098000aad1e3000064e45f2c2355"),
        ] {
            for speakers in [Speakers::default(), everybody] {
                assert!(!is_another(wwid, udev, kernel, speakers), "{wwid}: {udev}, {kernel}, {speakers:?}");
            }
        }
    }

    #[test]
    fn a_name_from_another_vendor_counts_only_from_a_source_that_was_right_or_if_both_agree() {
        let udev = Speakers { udev: true, kernel: false };
        let kernel = Speakers { udev: false, kernel: true };
        let (wwid, own) = ("3600a098000aad1e3000064e45f2c2355", "naa.600a098000aad1e3000064e45f2c2355");
        let (other, others) = ("36001405a1b2c3d4e5f6071829304150a", "naa.6001405a1b2c3d4e5f6071829304150a");
        for (called_by_udev, called_by_kernel, speakers, expected) in [
            (wwid, others, Speakers::default(), false),
            (wwid, others, udev, false),
            (wwid, others, kernel, true),
            (other, own, Speakers::default(), false),
            (other, own, udev, true),
            (other, others, Speakers::default(), true),
            ("", "", udev, false),
        ] {
            let told = is_another(wwid, called_by_udev, called_by_kernel, speakers);
            assert_eq!(told, expected, "{called_by_udev}, {called_by_kernel}, {speakers:?}");
        }
        // A serial number that looks like an NAA name.
        assert!(!is_another("65b0a098000aad1e3000064e45f2c235", other, others, Speakers::default()));
        // Serial numbers that look like a T10 name, and new firmware that changes a T10 name.
        assert!(!is_another("1234-5678", "1ATA_DISK_QM00001", "t10.ATA     DISK QM00001", Speakers::default()));
        assert!(!is_another("1NETAPP_LUN_1", "1NETAPP_VDISK_1", "t10.NETAPP  VDISK 1", Speakers::default()));
        // Names without a vendor, and T10 names that differ in more than a serial number.
        for (wwid, name) in [
            ("33000000000000001", "naa.3000000000000002"),
            ("1LIO-ORG_db1:8a1b", "t10.LIO-ORG logs1:77aa"),
            ("1NETAPP_LUN_1", "t10.NETAPP  VDISK 2"),
            ("nvme.1344-3132-4d69-00000001", "nvme.1344-3133-4d69-00000001"),
            ("25e5a8f96e2c5c4a4", "eui.25e5a8f96e2c5c4a46c9ce9008e6bb5d"),
            ("my-database", "my-logs"),
        ] {
            assert!(!is_another(wwid, wwid, name, udev), "{wwid} {name}");
            assert!(is_another(wwid, wwid, name, kernel), "{wwid} {name}");
        }
    }
}
