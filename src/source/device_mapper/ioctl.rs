//! The device-mapper control file: the ioctls that only read.
//!
//! Layout and numbers are those of `include/uapi/linux/dm-ioctl.h`. The files in
//! `Documentation/admin-guide/device-mapper/` describe the text that the targets print. Every ioctl
//! takes one buffer: a fixed header, then variable data, both in the machine's own byte order. This
//! module reads the buffer by offset, so that only the system call itself needs `unsafe`.
//!
//! Every call needs `CAP_SYS_ADMIN`. Opening the file needs root or `CAP_DAC_READ_SEARCH`, because
//! it is opened read-only.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use crate::topology::DevNo;

/// The path of the kernel's control file.
pub(crate) const CONTROL_FILE: &str = "/dev/mapper/control";

const HEADER_BYTES: usize = 312;
const VERSION: [u32; 3] = [4, 0, 0];
const FLAG_READ_ONLY: u32 = 1 << 0;
const FLAG_SUSPENDED: u32 = 1 << 1;
const FLAG_STATUS_TABLE: u32 = 1 << 4;
const FLAG_ACTIVE_PRESENT: u32 = 1 << 5;
const FLAG_BUFFER_FULL: u32 = 1 << 8;
const FLAG_NOFLUSH: u32 = 1 << 11;
/// Asks `DM_LIST_DEVICES` for UUIDs (Linux 5.12 and later; earlier kernels ignore it).
const FLAG_UUID: u32 = 1 << 14;
const LIST_HAS_UUID: u32 = 1;
const LIST_HAS_NO_UUID: u32 = 2;

/// The largest reply in bytes that this module accepts. The list of 10,000 maps needs about 2 MiB.
const MAX_REPLY_BYTES: usize = 64 << 20;

#[derive(Clone, Copy)]
enum IoctlCommand {
    Version = 0,
    ListDevices = 2,
    DeviceStatus = 7,
    TableStatus = 12,
    ArmPoll = 16,
}

/// The first minor version whose list has event numbers. libdevmapper uses the same limit, and asks
/// no older kernel for them.
const MINOR_WITH_EVENT_NR: u32 = 38;

/// One device of `DM_LIST_DEVICES`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) devno: DevNo,
    /// The name, in the same form as [`Shown::name`].
    pub(crate) name: Vec<u8>,
    /// The event number, which counts the device's events: a new number means that something about
    /// the device changed. `None` before version 4.38 of the ioctls (Linux 4.15).
    pub(crate) event_nr: Option<u32>,
    /// The UUID: `None` if the kernel does not list UUIDs, empty if the device has none.
    pub(crate) uuid: Option<Vec<u8>>,
}

/// One device as `DM_TABLE_STATUS` returns it: the header, and the type and text of each target.
/// `DM_DEV_STATUS` returns the header alone.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    /// The name as the kernel holds it. libdevmapper has mangled special characters in it.
    pub(crate) name: &'a [u8],
    pub(crate) uuid: &'a [u8],
    /// The number of holders of the device.
    pub(crate) open_count: u32,
    pub(crate) read_only: bool,
    pub(crate) suspended: bool,
    /// True if the device has a live table. A device that is just being created has none yet.
    pub(crate) live: bool,
    /// The targets' part of the reply, for [`Shown::targets`].
    pub(crate) data: &'a [u8],
    target_count: u32,
}

/// The kind of text to ask the targets for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetText {
    /// The targets' state (`STATUSTYPE_INFO`).
    Status,
    /// The targets' configuration (`STATUSTYPE_TABLE`).
    Table,
}

/// The open control file and the buffers for its replies.
#[derive(Debug)]
pub(crate) struct Control {
    file: OwnedFd,
    /// The minor version of the kernel's ioctls.
    minor: u32,
    /// The buffer for the list, which grows with the number of devices.
    list: Vec<u64>,
    /// The buffer for all other calls. The kernel copies the whole buffer in at every call, so this
    /// buffer has only the size that one device needs.
    one: Vec<u64>,
}

impl Control {
    /// Opens the control file and checks that this process may use it.
    ///
    /// # Errors
    /// `NotFound` without the `dm_mod` module. `PermissionDenied` without the rights that the
    /// module documentation names.
    pub(crate) fn open() -> io::Result<Self> {
        let file = rustix::fs::open(CONTROL_FILE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut control = Control { file, minor: 0, list: vec![0; 16 << 10 >> 3], one: vec![0; 4 << 10 >> 3] };
        control.minor = u32_at(control.call(IoctlCommand::Version, 0, None)?, 4).unwrap_or_default();
        Ok(control)
    }

    /// Lists all device-mapper devices of this host.
    pub(crate) fn list(&mut self) -> io::Result<Vec<Listed>> {
        let minor = self.minor;
        let data = self.call(IoctlCommand::ListDevices, FLAG_UUID, None)?;
        parse_list(data, minor).ok_or_else(|| malformed("DM_LIST_DEVICES"))
    }

    /// Reads one device without its targets. The kernel looks the device up and does not ask the
    /// targets, whose answer may wait for I/O.
    ///
    /// # Errors
    /// `ENXIO` if the device does not exist or is already gone.
    pub(crate) fn glance(&mut self, devno: DevNo) -> io::Result<Shown<'_>> {
        let reply = self.call(IoctlCommand::DeviceStatus, 0, Some(devno))?;
        parse_shown(reply).ok_or_else(|| malformed("DM_DEV_STATUS"))
    }

    /// Reads one device, with the state or the configuration of its targets.
    ///
    /// # Errors
    /// `ENXIO` if the device does not exist or is already gone.
    pub(crate) fn show(&mut self, devno: DevNo, ask: TargetText) -> io::Result<Shown<'_>> {
        let flags = match ask {
            TargetText::Status => FLAG_NOFLUSH,
            TargetText::Table => FLAG_NOFLUSH | FLAG_STATUS_TABLE,
        };
        let reply = self.call(IoctlCommand::TableStatus, flags, Some(devno))?;
        parse_shown(reply).ok_or_else(|| malformed("DM_TABLE_STATUS"))
    }

    /// Makes the file readable for `poll(2)` at the next event of any device. Each call arms the
    /// poll for one wake-up.
    pub(crate) fn arm_poll(&mut self) -> io::Result<()> {
        self.call(IoctlCommand::ArmPoll, 0, None).map(drop)
    }

    /// Runs one ioctl and returns header and data. Enlarges the buffer until the reply fits.
    fn call(&mut self, command: IoctlCommand, flags: u32, devno: Option<DevNo>) -> io::Result<&[u8]> {
        let buffer = match command {
            IoctlCommand::ListDevices => &mut self.list,
            _ => &mut self.one,
        };
        loop {
            match command {
                // Clear the whole buffer: kernels that list no UUIDs leave gaps, which must read as
                // zero.
                IoctlCommand::ListDevices => buffer.fill(0),
                _ => buffer.iter_mut().take(HEADER_BYTES / 8).for_each(|word| *word = 0),
            }
            write_header(buffer, flags, devno);
            ioctl(self.file.as_fd(), command, buffer)?;
            if u32_at(bytes(buffer), 28).is_some_and(|flags| flags & FLAG_BUFFER_FULL == 0) {
                break;
            }
            if buffer.len() * 8 >= MAX_REPLY_BYTES {
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, "the reply exceeds the limit of 64 MiB"));
            }
            *buffer = vec![0; buffer.len() * 2];
        }
        let reply = bytes(buffer);
        let used = u32_at(reply, 12).map_or(0, |size| size as usize);
        Ok(reply.get(..used.max(HEADER_BYTES)).unwrap_or(reply))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<'a> Shown<'a> {
    /// Returns the length in sectors, the type and the text of each target.
    pub(crate) fn targets(&self) -> impl Iterator<Item = (u64, &'a [u8], &'a [u8])> {
        const SPEC_BYTES: usize = 40;
        let data = self.data;
        let mut at = 0;
        (0..self.target_count).map_while(move |_| {
            let spec = data.get(at..at + SPEC_BYTES)?;
            let target_type = until_nul(&spec[24..]);
            let text = until_nul(data.get(at + SPEC_BYTES..)?);
            // `next` counts from the start of the data, not from this target.
            at = u32_at(spec, 20)? as usize;
            Some((u64_at(spec, 8)?, target_type, text))
        })
    }
}

fn write_header(buffer: &mut [u64], flags: u32, devno: Option<DevNo>) {
    let size = buffer.len() * 8;
    let [major, minor, patch] = VERSION;
    let header = [[major, minor], [patch, size as u32], [HEADER_BYTES as u32, 0], [0, flags]];
    for (place, pair) in buffer.iter_mut().zip(header) {
        let [first, second] = pair.map(u32::to_ne_bytes);
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&first);
        bytes[4..].copy_from_slice(&second);
        *place = u64::from_ne_bytes(bytes);
    }
    if let (Some(place), Some(devno)) = (buffer.get_mut(40 / 8), devno) {
        *place = encode_dev(devno);
    }
}

fn parse_shown(reply: &[u8]) -> Option<Shown<'_>> {
    let flags = u32_at(reply, 28)?;
    Some(Shown {
        name: until_nul(reply.get(48..176)?),
        uuid: until_nul(reply.get(176..305)?),
        open_count: u32_at(reply, 24)?,
        read_only: flags & FLAG_READ_ONLY != 0,
        suspended: flags & FLAG_SUSPENDED != 0,
        live: flags & FLAG_ACTIVE_PRESENT != 0,
        data: reply.get(u32_at(reply, 16)? as usize..)?,
        target_count: u32_at(reply, 20)?,
    })
}

fn parse_list(reply: &[u8], minor: u32) -> Option<Vec<Listed>> {
    let mut entries = Vec::new();
    let mut entry = reply.get(u32_at(reply, 16)? as usize..)?;
    // An empty list is one entry with device number 0, or nothing at all.
    while let Some(dev) = u64_at(entry, 0).filter(|&dev| dev != 0) {
        let next = u32_at(entry, 8)? as usize;
        let name = until_nul(entry.get(12..)?);
        // An older kernel has the next entry in this place.
        let tail = entry.get((12 + name.len() + 1).next_multiple_of(8)..).filter(|_| minor >= MINOR_WITH_EVENT_NR);
        let tail = tail.unwrap_or_default();
        let uuid = match u32_at(tail, 4) {
            Some(flags) if flags & LIST_HAS_UUID != 0 => Some(until_nul(tail.get(8..)?).to_vec()),
            Some(flags) if flags & LIST_HAS_NO_UUID != 0 => Some(Vec::new()),
            _ => None,
        };
        entries.push(Listed { devno: decode_dev(dev), name: name.to_vec(), event_nr: u32_at(tail, 0), uuid });
        if next == 0 {
            break;
        }
        entry = entry.get(next..)?;
    }
    Some(entries)
}

fn malformed(call: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the reply to {call} is incomplete"))
}

/// Encodes a device number as the kernel's `huge_encode_dev` does.
fn encode_dev(devno: DevNo) -> u64 {
    let (major, minor) = (u64::from(devno.major), u64::from(devno.minor));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn decode_dev(dev: u64) -> DevNo {
    DevNo { major: (dev >> 8 & 0xfff) as u32, minor: (dev & 0xff | dev >> 12 & 0xfff00) as u32 }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[expect(unsafe_code, reason = "a view of integers as bytes: no byte of a u64 is invalid")]
fn bytes(buffer: &[u64]) -> &[u8] {
    // SAFETY: the slice covers exactly the buffer's memory, and u8 needs no alignment.
    unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast(), size_of_val(buffer)) }
}

#[expect(unsafe_code, reason = "the ioctls that the module documentation describes")]
fn ioctl(file: BorrowedFd<'_>, command: IoctlCommand, buffer: &mut [u64]) -> io::Result<()> {
    // SAFETY: the kernel writes at most the `data_size` bytes that the header announces. This is
    // the buffer's size.
    Ok(unsafe { rustix::ioctl::ioctl(file, Call { command, buffer }) }?)
}

struct Call<'a> {
    command: IoctlCommand,
    buffer: &'a mut [u64],
}

#[expect(unsafe_code, reason = "describes the ioctl to rustix")]
// SAFETY: the opcode is `_IOWR(0xfd, command, struct dm_ioctl)`, and the buffer outlives the call.
unsafe impl Ioctl for Call<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u8; HEADER_BYTES]>(0xfd, self.command as u8)
    }

    fn as_ptr(&mut self) -> *mut rustix::ffi::c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut rustix::ffi::c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn device_numbers_survive_the_kernels_encoding() {
        for (major, minor) in [(254, 0), (254, 255), (254, 256), (8, 1_048_575), (259, 70_000)] {
            let devno = DevNo { major, minor };
            assert_eq!(decode_dev(encode_dev(devno)), devno);
        }
    }

    fn reply(data: &[u8]) -> Vec<u8> {
        let mut reply = vec![0; HEADER_BYTES];
        reply[16..20].copy_from_slice(&(HEADER_BYTES as u32).to_ne_bytes());
        reply.extend_from_slice(data);
        reply
    }

    fn list_entry(devno: DevNo, next: u32, name: &str, tail: &[u8]) -> Vec<u8> {
        let mut entry = encode_dev(devno).to_ne_bytes().to_vec();
        entry.extend(next.to_ne_bytes());
        entry.extend(name.as_bytes());
        entry.push(0);
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry.extend(tail);
        entry.resize(entry.len().next_multiple_of(8), 0);
        entry
    }

    #[test]
    fn a_list_with_uuids() {
        let devno = |minor| DevNo { major: 254, minor };
        let with = [&7u32.to_ne_bytes()[..], &LIST_HAS_UUID.to_ne_bytes(), b"mpath-3600\0"].concat();
        let without = [3u32.to_ne_bytes(), LIST_HAS_NO_UUID.to_ne_bytes()].concat();
        let first = list_entry(devno(0), 0, "données", &with);
        let next = first.len() as u32;
        let data = [list_entry(devno(0), next, "données", &with), list_entry(devno(1), 0, "root", &without)].concat();
        assert_eq!(
            parse_list(&reply(&data), 45).unwrap(),
            [
                Listed {
                    devno: devno(0),
                    name: "données".into(),
                    event_nr: Some(7),
                    uuid: Some(b"mpath-3600".to_vec())
                },
                Listed { devno: devno(1), name: b"root".to_vec(), event_nr: Some(3), uuid: Some(vec![]) },
            ]
        );
    }

    #[test]
    fn a_list_from_before_uuids_were_listed() {
        let devno = DevNo { major: 253, minor: 4 };
        let data = list_entry(devno, 0, "mpatha", &9u32.to_ne_bytes());
        let listed = |event_nr| Listed { devno, name: b"mpatha".to_vec(), event_nr, uuid: None };
        assert_eq!(parse_list(&reply(&data), 43).unwrap(), [listed(Some(9))]);
    }

    #[test]
    fn a_list_from_before_event_numbers_were_listed() {
        let devno = |minor| DevNo { major: 253, minor };
        // The next entry begins where a newer kernel has the event number.
        let next = list_entry(devno(0), 0, "mpatha", &[]).len() as u32;
        let data = [list_entry(devno(0), next, "mpatha", &[]), list_entry(devno(1), 0, "mpathb", &[])].concat();
        let listed = |minor, name: &str| Listed { devno: devno(minor), name: name.into(), event_nr: None, uuid: None };
        assert_eq!(parse_list(&reply(&data), 35).unwrap(), [listed(0, "mpatha"), listed(1, "mpathb")]);
    }

    #[test]
    fn an_empty_list() {
        assert_eq!(parse_list(&reply(&[]), 45).unwrap(), []);
        assert_eq!(parse_list(&reply(&[0; 16]), 45).unwrap(), []);
    }

    proptest! {
        #[test]
        fn no_reply_causes_a_panic(data in proptest::collection::vec(any::<u8>(), 0..400), start in 0u32..400) {
            let mut reply = reply(&data);
            reply[16..20].copy_from_slice(&start.to_ne_bytes());
            reply[20..24].copy_from_slice(&5u32.to_ne_bytes());
            let _ = parse_list(&reply, start);
            if let Some(shown) = parse_shown(&reply) {
                let _ = shown.targets().count();
            }
            let _ = parse_list(&data, start);
            let _ = parse_shown(&data);
        }
    }
}
