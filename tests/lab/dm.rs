//! Device mapper through its own ioctls (`include/uapi/linux/dm-ioctl.h`): the kernel's state, and
//! ways to change it.
//!
//! dmsetup could do most of this. It starts too slowly for a storm of events, and it mangles the
//! names that matter here.

#![expect(unsafe_code, reason = "the ioctls of /dev/mapper/control")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::str::SplitAsciiWhitespace;

use rustix::io::Errno;
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode};

use crate::wait::{PATIENCE, eventually};

const HEADER: usize = 312;
const TARGET_SPEC: usize = 40;

const REMOVE_ALL: u8 = 1;
const LIST_DEVICES: u8 = 2;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_RENAME: u8 = 5;
const DEV_SUSPEND: u8 = 6;
const DEV_STATUS: u8 = 7;
const TABLE_LOAD: u8 = 9;
const TABLE_STATUS: u8 = 12;
const TARGET_MSG: u8 = 14;

const SUSPEND_FLAG: u32 = 1 << 1;
const PERSISTENT_DEV_FLAG: u32 = 1 << 3;
const STATUS_TABLE_FLAG: u32 = 1 << 4;
const BUFFER_FULL_FLAG: u32 = 1 << 8;
const NOFLUSH_FLAG: u32 = 1 << 11;
const UUID_FLAG: u32 = 1 << 14;

/// A device as device mapper lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Any bytes except a slash and NUL.
    pub name: Vec<u8>,
    pub uuid: String,
    pub minor: u32,
}

impl Map {
    /// The kernel name of the block device.
    pub fn sysfs_name(&self) -> String {
        format!("dm-{}", self.minor)
    }

    /// The name, if it is valid UTF-8.
    pub fn alias(&self) -> &str {
        std::str::from_utf8(&self.name).expect("a map's name is UTF-8")
    }

    /// The identity of a multipath device, or `None` for other devices.
    pub fn wwid(&self) -> Option<&str> {
        self.uuid.strip_prefix("mpath-")
    }

    /// The size according to sysfs.
    pub fn size_bytes(&self) -> u64 {
        let sectors = fs::read_to_string(format!("/sys/block/{}/size", self.sysfs_name())).expect("a map has a size");
        512 * sectors.trim().parse::<u64>().expect("a size is a number")
    }
}

/// The paths of one map by device number. True means active.
pub type Paths = BTreeMap<String, bool>;

/// The table of a multipath target with these groups of device numbers. `features` is a string such
/// as `2 queue_mode bio`.
pub fn multipath_table(features: &str, groups: &[&[String]]) -> String {
    let groups: String = groups
        .iter()
        .map(|group| {
            let paths: String = group.iter().map(|devno| format!(" {devno} 1")).collect();
            format!(" service-time 0 {} 1{paths}", group.len())
        })
        .collect();
    let count = groups.matches("service-time").count();
    format!("{features} 0 {count} {}{groups}", count.min(1))
}

/// The device number of a disk, as the kernel prints it.
pub fn devno(disk: &str) -> String {
    fs::read_to_string(Path::new("/sys/block").join(disk).join("dev"))
        .unwrap_or_else(|e| panic!("{disk}: {e}"))
        .trim()
        .to_owned()
}

/// The control device.
pub struct Dm(File);

impl Dm {
    /// Opens the control device. This needs root and a loaded `dm_mod`.
    pub fn open() -> Self {
        let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control");
        Dm(control.expect("/dev/mapper/control opens"))
    }

    /// Creates a map of 2,048 sectors with one multipath target, and starts it.
    #[track_caller]
    pub fn create(&self, name: &str, uuid: &str, table: &str) {
        self.create_device(name, uuid, table, None);
    }

    /// Like [`Dm::create`], with this minor number.
    #[track_caller]
    pub fn create_as(&self, name: &str, uuid: &str, table: &str, minor: u32) {
        self.create_device(name, uuid, table, Some(minor));
    }

    #[track_caller]
    fn create_device(&self, name: &str, uuid: &str, table: &str, minor: Option<u32>) {
        let mut create = Request::new(name.as_bytes());
        create.set_uuid(uuid);
        if let Some(minor) = minor {
            create.set_flags(PERSISTENT_DEV_FLAG);
            create.set_dev(encode_minor(minor));
        }
        self.call(DEV_CREATE, &mut create).unwrap_or_else(|e| panic!("create {name}: {e}"));

        let mut load = Request::new(name.as_bytes());
        load.set_target_count(1);
        let mut spec = vec![0; TARGET_SPEC];
        spec[8..16].copy_from_slice(&2048_u64.to_ne_bytes());
        spec[24..33].copy_from_slice(b"multipath");
        spec.extend_from_slice(table.as_bytes());
        spec.push(0);
        load.push(&spec);
        self.call(TABLE_LOAD, &mut load).unwrap_or_else(|e| panic!("load {name}: {e}: {table}"));
        self.resume(name);
    }

    /// Sends a message to the map's first target.
    #[track_caller]
    pub fn message(&self, name: &str, text: &str) {
        self.try_message(name.as_bytes(), text).unwrap_or_else(|e| panic!("message {name} {text}: {e}"));
    }

    fn try_message(&self, name: &[u8], text: &str) -> Result<(), Errno> {
        let mut request = Request::new(name);
        request.push(&0_u64.to_ne_bytes());
        request.push(text.as_bytes());
        request.push(&[0]);
        self.call(TARGET_MSG, &mut request)
    }

    /// Marks a path as failed in the map, like the kernel after an I/O error.
    #[track_caller]
    pub fn fail_path(&self, name: &str, devno: &str) {
        self.message(name, &format!("fail_path {devno}"));
    }

    /// Reinstates a path in the map, like multipathd.
    #[track_caller]
    pub fn reinstate_path(&self, name: &str, devno: &str) {
        self.message(name, &format!("reinstate_path {devno}"));
    }

    /// Suspends the map: all its I/O waits.
    #[track_caller]
    pub fn suspend(&self, name: &str) {
        let mut request = Request::new(name.as_bytes());
        request.set_flags(SUSPEND_FLAG);
        self.call(DEV_SUSPEND, &mut request).unwrap_or_else(|e| panic!("suspend {name}: {e}"));
    }

    /// Resumes the map with the table that was loaded last.
    #[track_caller]
    pub fn resume(&self, name: &str) {
        self.call(DEV_SUSPEND, &mut Request::new(name.as_bytes())).unwrap_or_else(|e| panic!("resume {name}: {e}"));
    }

    /// Renames the map. The name may be any bytes except a slash and NUL.
    #[track_caller]
    pub fn rename(&self, name: &[u8], new: &[u8]) {
        let mut request = Request::new(name);
        request.push(new);
        request.push(&[0]);
        self.call(DEV_RENAME, &mut request).unwrap_or_else(|e| panic!("rename {}: {e}", name.escape_ascii()));
    }

    /// Removes a map that nothing holds open.
    pub fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        self.call(DEV_REMOVE, &mut Request::new(name))
    }

    /// Removes every device. The error names devices that something holds open.
    pub fn clear(&self) -> Result<(), String> {
        for map in self.multipaths().into_values() {
            // I/O that waits for a path holds its map open. A map that is disappearing accepts no
            // message.
            let _ = self.try_message(&map.name, "fail_if_no_path");
        }
        self.call(REMOVE_ALL, &mut Request::new(b"")).map_err(|e| format!("remove all: {e}"))?;
        match self.list() {
            left if left.is_empty() => Ok(()),
            left => Err(format!("these devices stay: {left:?}")),
        }
    }

    /// Every device of device mapper, multipath or not.
    pub fn list(&self) -> Vec<Map> {
        let mut request = Request::new(b"");
        request.set_flags(UUID_FLAG);
        request.reserve(1 << 20);
        self.call(LIST_DEVICES, &mut request).expect("list devices");
        let mut maps = Vec::new();
        let mut entry = request.answer();
        while let Some(dev @ 1..) = u64_at(entry, 0) {
            let name = text_at(entry, 12);
            let after_name = (12 + name.len() + 1).next_multiple_of(8);
            let uuid = match u32_at(entry, after_name + 4) {
                // Before Linux 5.12.
                Some(0) => self.uuid(name),
                _ => String::from_utf8_lossy(text_at(entry, after_name + 8)).into_owned(),
            };
            maps.push(Map { name: name.to_vec(), uuid, minor: decode_minor(dev) });
            match u32_at(entry, 8) {
                Some(next @ 1..) => entry = &entry[next as usize..],
                _ => break,
            }
        }
        maps
    }

    /// The device's UUID, or an empty string for a device without one or a device that is gone.
    fn uuid(&self, name: &[u8]) -> String {
        let mut request = Request::new(name);
        match self.call(DEV_STATUS, &mut request) {
            Ok(()) => String::from_utf8_lossy(text_at(&request.0, 176)).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Every multipath device, by its WWID.
    pub fn multipaths(&self) -> BTreeMap<String, Map> {
        self.list().into_iter().filter_map(|map| Some((map.wwid()?.to_owned(), map))).collect()
    }

    /// The status line of the map's first target. It does not wait for I/O.
    #[track_caller]
    pub fn status(&self, name: &[u8]) -> String {
        self.target_line(name, NOFLUSH_FLAG)
    }

    /// The table line of the map's first target.
    #[track_caller]
    pub fn table(&self, name: &[u8]) -> String {
        self.target_line(name, STATUS_TABLE_FLAG)
    }

    #[track_caller]
    fn target_line(&self, name: &[u8], flags: u32) -> String {
        self.try_target_line(name, flags).unwrap_or_else(|e| panic!("status {}: {e}", name.escape_ascii()))
    }

    fn try_target_line(&self, name: &[u8], flags: u32) -> Result<String, Errno> {
        let mut request = Request::new(name);
        request.set_flags(flags);
        request.reserve(16 << 10);
        self.call(TABLE_STATUS, &mut request)?;
        Ok(String::from_utf8_lossy(text_at(request.answer(), TARGET_SPEC)).trim_end().to_owned())
    }

    /// Waits until no map is left whose disks are gone. multipathd tries once to remove such a map,
    /// and fails if udevd is reading it. This function then removes it.
    #[track_caller]
    pub fn wait_until_gone(&self, wwid: &str) {
        eventually("the kernel has no such map", PATIENCE, || {
            let Some(map) = self.multipaths().remove(wwid) else { return Ok(()) };
            // The map may disappear at any moment.
            let status = self.try_target_line(&map.name, NOFLUSH_FLAG).map_err(|e| e.to_string())?;
            match parse_paths(&status) {
                Some(paths) if paths.is_empty() => {
                    self.remove(&map.name).map_err(|e| format!("without members, but {e}"))
                }
                _ => Err(status),
            }
        });
    }

    /// The kernel's state of each path of a map.
    #[track_caller]
    pub fn paths(&self, name: &[u8]) -> Paths {
        let status = self.status(name);
        // multipathd creates a map first and loads its table afterwards.
        if status.is_empty() {
            return Paths::new();
        }
        parse_paths(&status).unwrap_or_else(|| panic!("not the status of a multipath target: {status}"))
    }

    /// The kernel's state of each path of every multipath device, by WWID.
    pub fn all_paths(&self) -> BTreeMap<String, Paths> {
        self.multipaths().into_iter().map(|(wwid, map)| (wwid, self.paths(&map.name))).collect()
    }

    fn call(&self, command: u8, request: &mut Request) -> Result<(), Errno> {
        request.seal();
        self.call_raw(command, &mut request.0)
    }

    fn call_raw(&self, command: u8, buffer: &mut [u8]) -> Result<(), Errno> {
        let call = Call { opcode: ioctl::opcode::read_write::<[u8; HEADER]>(0xfd, command), buffer };
        // SAFETY: the buffer holds a `struct dm_ioctl` whose `data_size` is no more than the buffer's own length.
        unsafe { ioctl::ioctl(&self.0, call) }
    }
}

/// The ioctls of a full reading without any parsing: the list, then status and table of each map.
pub struct BareReading {
    list: Request,
    /// The headers of the requests. The kernel overwrites a request with its answer.
    heads: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl BareReading {
    /// Prepares the requests for these maps.
    pub fn of(maps: &[Map]) -> Self {
        const ROOM: usize = 4 << 10;
        let mut list = Request::new(b"");
        list.set_flags(UUID_FLAG);
        // The kernel copies the whole buffer in, so it is no larger than the list needs.
        list.reserve((maps.len() * 128).next_power_of_two());
        let head = |map: &Map, flags| {
            let mut request = Request::new(&map.name);
            request.set_flags(flags);
            request.reserve(ROOM - HEADER);
            request.seal();
            request.0[..HEADER].to_vec()
        };
        let flags = [NOFLUSH_FLAG, NOFLUSH_FLAG | STATUS_TABLE_FLAG];
        let heads = maps.iter().flat_map(|map| flags.map(|flags| head(map, flags))).collect();
        BareReading { list, heads, buffer: vec![0; ROOM] }
    }

    /// Runs the requests.
    pub fn read(&mut self, dm: &Dm) {
        let head = self.list.0[..HEADER].to_vec();
        dm.call(LIST_DEVICES, &mut self.list).expect("list devices");
        self.list.0[..HEADER].copy_from_slice(&head);
        for head in &self.heads {
            self.buffer[..HEADER].copy_from_slice(head);
            dm.call_raw(TABLE_STATUS, &mut self.buffer).expect("a map's status");
        }
    }
}

/// A `struct dm_ioctl` and its payload.
struct Request(Vec<u8>);

impl Request {
    fn new(name: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[0..4].copy_from_slice(&4_u32.to_ne_bytes());
        bytes[16..20].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        bytes[48..][..name.len()].copy_from_slice(name);
        Request(bytes)
    }

    fn set_target_count(&mut self, count: u32) {
        self.0[20..24].copy_from_slice(&count.to_ne_bytes());
    }

    fn set_flags(&mut self, flags: u32) {
        self.0[28..32].copy_from_slice(&flags.to_ne_bytes());
    }

    fn set_dev(&mut self, dev: u64) {
        self.0[40..48].copy_from_slice(&dev.to_ne_bytes());
    }

    fn set_uuid(&mut self, uuid: &str) {
        self.0[176..][..uuid.len()].copy_from_slice(uuid.as_bytes());
    }

    fn push(&mut self, payload: &[u8]) {
        self.0.extend_from_slice(payload);
    }

    /// Makes room for an answer.
    fn reserve(&mut self, room: usize) {
        self.0.resize(HEADER + room, 0);
    }

    /// Writes the buffer's length into `data_size`.
    fn seal(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let size = self.0.len() as u32;
        self.0[12..16].copy_from_slice(&size.to_ne_bytes());
    }

    /// The kernel's data after the header.
    fn answer(&self) -> &[u8] {
        let flags = u32_at(&self.0, 28).expect("the header is there");
        assert_eq!(flags & BUFFER_FULL_FLAG, 0, "the answer did not fit into {} bytes", self.0.len());
        let start = u32_at(&self.0, 16).expect("the header is there") as usize;
        &self.0[start..]
    }
}

struct Call<'a> {
    opcode: Opcode,
    buffer: &'a mut [u8],
}

// SAFETY: the kernel reads and writes `data_size` bytes at the pointer, which `Request::seal` sets to the length of the
// borrowed buffer.
unsafe impl Ioctl for Call<'_> {
    type Output = ();

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.buffer.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// The form is `features hardware-handler groups initial-group`. Each group follows as `state
/// selector-arguments paths path-arguments`, and each path as `devno A|F failures arguments`. Both
/// lists of arguments begin with their length.
fn parse_paths(status: &str) -> Option<Paths> {
    let mut words = status.split_ascii_whitespace();
    skip_counted(&mut words)?;
    skip_counted(&mut words)?;
    let groups: usize = words.next()?.parse().ok()?;
    words.next()?;
    let mut paths = Paths::new();
    for _ in 0..groups {
        words.next()?;
        skip_counted(&mut words)?;
        let count: usize = words.next()?.parse().ok()?;
        let arguments: usize = words.next()?.parse().ok()?;
        for _ in 0..count {
            let devno = words.next()?.to_owned();
            let active = match words.next()? {
                "A" => true,
                "F" => false,
                _ => return None,
            };
            paths.insert(devno, active);
            words.nth(arguments)?;
        }
    }
    words.next().is_none().then_some(paths)
}

/// Skips a list that begins with its length.
fn skip_counted(words: &mut SplitAsciiWhitespace<'_>) -> Option<()> {
    let count: usize = words.next()?.parse().ok()?;
    (words.take(count).count() == count).then_some(())
}

/// The differences between two readings of all paths. It is empty if there are none.
pub fn differences(exported: &BTreeMap<String, Paths>, kernel: &BTreeMap<String, Paths>) -> Vec<String> {
    let wwids: BTreeSet<_> = exported.keys().chain(kernel.keys()).collect();
    wwids
        .into_iter()
        .filter(|wwid| exported.get(*wwid) != kernel.get(*wwid))
        .map(|wwid| format!("{wwid}: exported {:?}, kernel {:?}", exported.get(wwid), kernel.get(wwid)))
        .collect()
}

fn encode_minor(minor: u32) -> u64 {
    u64::from(minor & 0xff | (minor & !0xff) << 12)
}

fn decode_minor(dev: u64) -> u32 {
    (dev & 0xff | dev >> 12 & 0xf_ff00) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_ne_bytes(b.try_into().expect("four bytes")))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8).map(|b| u64::from_ne_bytes(b.try_into().expect("eight bytes")))
}

fn text_at(bytes: &[u8], at: usize) -> &[u8] {
    let text = bytes.get(at..).unwrap_or_default();
    text.split(|b| *b == 0).next().unwrap_or_default()
}
