//! Multipath maps in sysfs.
//!
//! ```text
//! block/dm-N/             dm/uuid says whether it is a multipath map; dm/name, size, ro, inflight, diskseq, …
//! block/dm-N/slaves/sdb   a link to the member's directory: see disks.rs
//! ```
//!
//! Documented in `Documentation/ABI/stable/sysfs-block` and `testing/sysfs-block-dm` of the kernel.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disks::{Context, Disk, Disks};
use super::files::{Attribute, Entry, follow, list_if_there, or_last, or_note};
use super::sysfs::{Outline, Request, Scope};
use super::{Error, device_mapper::UUID_PREFIX, dm_name};
use crate::topology::DevNo;

/// A multipath map's files. What was not read, as device mapper had told it, is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Its identity.
    pub wwid: Arc<str>,
    /// Its kernel name, `dm-3`.
    pub sysfs_name: Arc<str>,
    /// Its device number.
    pub devno: Option<DevNo>,
    /// Its name (alias).
    pub name: Arc<str>,
    /// Tells this device from an earlier one of the same number (Linux 5.15 and later).
    pub diskseq: Option<u64>,
    /// I/O is suspended.
    pub suspended: Option<bool>,
    /// Size in bytes.
    pub size_bytes: Option<u64>,
    /// Write-protected.
    pub read_only: Option<bool>,
    /// Requests sent down and not completed.
    pub inflight_requests: Option<u64>,
    /// Its members, by device number.
    pub members: Vec<Arc<Disk>>,
    /// The members that device mapper told of; those that are gone are not in `members`.
    pub asked: Arc<[DevNo]>,
}

/// Reads maps and remembers them.
#[derive(Debug)]
pub struct Maps {
    root: PathBuf,
    known: ByMinor,
    disks: Disks,
    file: Attribute,
}

/// By the number in their kernel name, which is the device's minor number.
type ByMinor = BTreeMap<u32, Known>;

#[derive(Debug)]
struct Known {
    map: Arc<Map>,
    /// Its entry in `block` when it was last read whole, here and not by device mapper's word, and since which no event
    /// has told of it.
    inode: Option<u64>,
    slaves: Vec<Slave>,
}

/// A link in `slaves`.
#[derive(Debug)]
struct Slave {
    entry: Entry,
    /// The directory it leads to, relative to the root.
    place: PathBuf,
}

/// Where the kernel keeps all device-mapper devices, and `block` links to.
const VIRTUAL: &str = "devices/virtual/block";

impl Maps {
    /// `root` is where sysfs is mounted.
    pub fn new(root: &Path) -> Self {
        Maps { root: root.to_owned(), known: ByMinor::new(), disks: Disks::new(root), file: Attribute::default() }
    }

    /// Reads what is asked for and gives all maps. A single device's trouble is noted, and it stands as last read.
    pub fn read(&mut self, request: &Request, context: &mut Context<'_>) -> Vec<Arc<Map>> {
        let turn = self.disks.begin(request);
        match (&request.scope, &request.outlines) {
            (Scope::Others, _) => {}
            (Scope::States, _) => self.look_at_states(context),
            (Scope::Everything, Some(outlines)) => {
                let mut before = std::mem::take(&mut self.known);
                for outline in outlines.iter() {
                    self.fill_in(outline, &mut before, context);
                }
            }
            (Scope::Everything, None) => {
                let mut before = std::mem::take(&mut self.known);
                for Entry { name, inode } in context.block {
                    let Some(minor) = name.strip_prefix("dm-").and_then(|minor| minor.parse().ok()) else { continue };
                    let stays = |known: &Known| {
                        let told = known.map.devno.is_none_or(|devno| request.told(devno));
                        known.inode == Some(*inode) && !told && !turn.is_of(minor)
                    };
                    match before.remove(&minor) {
                        Some(known) if stays(&known) => self.look_again(minor, known, context),
                        known => self.discover(minor, Some(*inode), known, context),
                    }
                }
            }
            (Scope::Devices(devices), Some(outlines)) => {
                let mut before = self.take(devices);
                for outline in outlines.iter().filter(|outline| devices.contains(&outline.devno)) {
                    self.fill_in(outline, &mut before, context);
                }
            }
            (Scope::Devices(devices), None) => {
                let mut before = self.take(devices);
                for devno in devices {
                    self.discover(devno.minor, None, before.remove(&devno.minor), context);
                }
            }
        }
        self.disks.end();
        self.known.values().map(|known| Arc::clone(&known.map)).collect()
    }

    fn take(&mut self, devices: &HashSet<DevNo>) -> ByMinor {
        devices.iter().filter_map(|devno| self.known.remove_entry(&devno.minor)).collect()
    }

    fn directory(&self, minor: u32) -> PathBuf {
        self.root.join("block").join(kernel_name(minor))
    }

    /// Reads what device mapper does not tell of a map. In-flight requests of a known map are left to [`Scope::States`]:
    /// they change all the time, and a file for each map is a third of what a full reading costs.
    fn fill_in(&mut self, outline: &Outline, before: &mut ByMinor, context: &mut Context<'_>) {
        let minor = outline.devno.minor;
        let known = before.remove(&minor).map(|known| known.map).filter(|map| map.wwid == outline.wwid);
        let inflight_requests = match &known {
            Some(known) => known.inflight_requests,
            None => {
                let directory = self.directory(minor);
                or_note(self.file.inflight(&directory), context.unreadable)
            }
        };
        let members: Vec<_> = outline.members.iter().filter_map(|devno| self.disks.numbered(*devno, context)).collect();
        let same = known.filter(|known| known.asked == outline.members && known.members == members);
        let map = same.unwrap_or_else(|| {
            Arc::new(Map {
                wwid: Arc::clone(&outline.wwid),
                sysfs_name: kernel_name(minor).into(),
                devno: Some(outline.devno),
                inflight_requests,
                members,
                asked: Arc::clone(&outline.members),
                ..Map::default()
            })
        });
        self.known.insert(minor, Known { map, inode: None, slaves: Vec::new() });
    }

    /// Reads all of a device-mapper device, if it is a multipath map. After an error what was known stands, and is read
    /// again next time.
    fn discover(&mut self, minor: u32, inode: Option<u64>, known: Option<Known>, context: &mut Context<'_>) {
        let errors = context.unreadable.len();
        let mut now = match self.read_map(minor, known.as_ref(), context) {
            Ok(None) => return,
            Ok(Some(now)) => Some(now),
            Err(error) => {
                context.unreadable.push(error);
                known
            }
        };
        if let Some(now) = &mut now {
            now.inode = inode.filter(|_| context.unreadable.len() == errors);
        }
        self.known.extend(now.map(|now| (minor, now)));
    }

    /// Looks which members a known map has, and leaves the rest of it to events and to [`Scope::States`].
    fn look_again(&mut self, minor: u32, mut known: Known, context: &mut Context<'_>) {
        match self.read_slaves(minor, &known.slaves, context.unreadable) {
            Ok(None) => return,
            Ok(Some(slaves)) => known.slaves = slaves,
            Err(error) => context.unreadable.push(error),
        }
        let members = self.members(&known.slaves, context);
        if known.map.members != members {
            known.map = Arc::new(Map { members, ..(*known.map).clone() });
        }
        self.known.insert(minor, known);
    }

    /// Reads a device-mapper device; `None` if it is no multipath map. An error if it cannot be told which one it is:
    /// what else cannot be read leaves only itself out.
    fn read_map(
        &mut self,
        minor: u32,
        known: Option<&Known>,
        context: &mut Context<'_>,
    ) -> Result<Option<Known>, Error> {
        let directory = self.directory(minor);
        let Some(uuid) = self.file.text(&directory, "dm/uuid")? else { return Ok(None) };
        let Some(wwid) = uuid.strip_prefix(UUID_PREFIX).map(Arc::from) else { return Ok(None) };
        let Some(devno) = self.file.parsed(&directory, "dev")? else { return Ok(None) };
        let known = known.filter(|known| known.map.wwid == wwid);
        let links = known.map(|known| &*known.slaves).unwrap_or_default();
        let Some(slaves) = self.read_slaves(minor, links, context.unreadable)? else { return Ok(None) };
        let members = self.members(&slaves, context);
        let last = known.map(|known| &known.map);
        let unreadable = &mut *context.unreadable;
        let map = Map {
            wwid,
            sysfs_name: kernel_name(minor).into(),
            devno: Some(devno),
            name: dm_name(self.file.bytes(&directory, "dm/name")?.unwrap_or_default()).into(),
            diskseq: or_last(self.file.parsed(&directory, "diskseq"), last.map(|map| &map.diskseq), unreadable),
            suspended: or_last(self.file.flag(&directory, "dm/suspended"), last.map(|map| &map.suspended), unreadable),
            size_bytes: or_last(self.file.size_bytes(&directory), last.map(|map| &map.size_bytes), unreadable),
            read_only: or_last(self.file.flag(&directory, "ro"), last.map(|map| &map.read_only), unreadable),
            inflight_requests: or_last(
                self.file.inflight(&directory),
                last.map(|map| &map.inflight_requests),
                unreadable,
            ),
            members,
            asked: Arc::default(),
        };
        let map = match last {
            Some(last) if **last == map => Arc::clone(last),
            _ => Arc::new(map),
        };
        Ok(Some(Known { map, inode: None, slaves }))
    }

    /// Reads the links in `slaves`, of which only new ones have to be followed; `None` if the map is gone.
    fn read_slaves(
        &mut self,
        minor: u32,
        last: &[Slave],
        unreadable: &mut Vec<Error>,
    ) -> Result<Option<Vec<Slave>>, Error> {
        let here = Path::new(VIRTUAL).join(kernel_name(minor)).join("slaves");
        let directory = self.root.join(&here);
        let Some(entries) = list_if_there(&directory)? else { return Ok(None) };
        let mut slaves = Vec::new();
        for entry in entries {
            let place = match last.iter().find(|slave| slave.entry == entry) {
                Some(slave) => Some(slave.place.clone()),
                None => {
                    let place = or_note(follow(&directory.join(&entry.name), &here), unreadable);
                    place.inspect(|place| self.disks.forget_number_at(place))
                }
            };
            slaves.extend(place.map(|place| Slave { entry, place }));
        }
        Ok(Some(slaves))
    }

    fn members(&mut self, slaves: &[Slave], context: &mut Context<'_>) -> Vec<Arc<Disk>> {
        let mut members: Vec<_> = slaves.iter().filter_map(|slave| self.disks.at(&slave.place, context)).collect();
        members.sort_by_key(|disk| disk.devno);
        members
    }

    fn look_at_states(&mut self, context: &mut Context<'_>) {
        self.disks.read_known(context);
        let mut maps = std::mem::take(&mut self.known);
        for (minor, known) in &mut maps {
            if let Some(now) = self.read_map_states(*minor, &known.map, context.unreadable) {
                known.map = Arc::new(now);
            }
        }
        self.known = maps;
    }

    /// The map with its states as they are now; `None` if nothing changed.
    fn read_map_states(&mut self, minor: u32, map: &Map, unreadable: &mut Vec<Error>) -> Option<Map> {
        let directory = self.root.join(VIRTUAL).join(kernel_name(minor));
        let suspended = map
            .suspended
            .and_then(|last| or_note(self.file.flag(&directory, "dm/suspended"), unreadable).or(Some(last)));
        let inflight_requests = or_note(self.file.inflight(&directory), unreadable).or(map.inflight_requests);
        let now = |disk: &Arc<Disk>| self.disks.now(disk);
        let same = |disk: &Arc<Disk>| Arc::ptr_eq(disk, &now(disk));
        if (suspended, inflight_requests) == (map.suspended, map.inflight_requests) && map.members.iter().all(same) {
            return None;
        }
        let members = map.members.iter().map(now).collect();
        Some(Map { suspended, inflight_requests, members, ..map.clone() })
    }
}

fn kernel_name(minor: u32) -> String {
    format!("dm-{minor}")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::sysfs::{Parts, Places, Sysfs};
    use super::*;

    const DM: &str = "devices/virtual/block/dm-0";

    /// A host with one map of one disk, and a reader that has read it by files alone.
    fn host() -> (tempfile::TempDir, Sysfs) {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        for directory in ["block", &format!("{DM}/dm"), &format!("{DM}/slaves")] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for (file, content) in [("dev", "254:0"), ("dm/uuid", "mpath-3600a"), ("dm/name", "mpatha"), ("size", "8")] {
            fs::write(root.join(DM).join(file), content).unwrap();
        }
        symlink(format!("../{DM}"), root.join("block/dm-0")).unwrap();
        add_disk(root, "sdb", "8:16");
        let (sysfs, udev_data) = (root.to_owned(), root.join("udev"));
        let places = Places { sysfs, procfs: "/proc".into(), udev_data, capture: None };
        let mut reader = Sysfs::new(places, Parts { nvme: true, iscsi: true, fibre_channel: true });
        resync(&mut reader, &[]);
        (tree, reader)
    }

    fn add_disk(root: &Path, name: &str, devno: &str) {
        let disk = root.join("devices/virtual/block").join(name);
        fs::create_dir_all(&disk).unwrap();
        fs::write(disk.join("dev"), devno).unwrap();
        symlink(format!("../../{name}"), root.join(DM).join("slaves").join(name)).unwrap();
    }

    /// Reads everything, after events about these devices.
    fn resync(reader: &mut Sysfs, told: &[&str]) -> Arc<Map> {
        let forget = told.iter().map(|devno| devno.parse().unwrap()).collect();
        let reading = reader.read(&Request { forget, ..Request::default() }).unwrap();
        assert_eq!(reading.unreadable, []);
        Arc::clone(&reading.maps[0])
    }

    #[test]
    fn a_member_that_came_or_went_is_seen_without_an_event() {
        let (tree, mut reader) = host();
        add_disk(tree.path(), "sdc", "8:32");
        let names = |map: Arc<Map>| map.members.iter().map(|disk| disk.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(resync(&mut reader, &[])), ["sdb", "sdc"]);
        fs::remove_file(tree.path().join(DM).join("slaves/sdb")).unwrap();
        assert_eq!(names(resync(&mut reader, &[])), ["sdc"]);
    }

    #[test]
    fn a_map_is_read_anew_after_an_event_or_in_its_turn() {
        let (tree, mut reader) = host();
        let name = |map: Arc<Map>| map.name.to_string();
        let rename = |name| fs::write(tree.path().join(DM).join("dm/name"), name).unwrap();
        rename("mpathb");
        assert_eq!(name(resync(&mut reader, &[])), "mpatha");
        assert_eq!(name(resync(&mut reader, &["254:0"])), "mpathb");
        rename("mpathc");
        assert!((0..10).any(|_| name(resync(&mut reader, &[])) == "mpathc"));
    }

    #[test]
    fn a_map_of_the_number_of_another_is_another() {
        let (tree, mut reader) = host();
        let link = tree.path().join("block/dm-0");
        fs::write(tree.path().join(DM).join("dm/uuid"), "mpath-3600b").unwrap();
        symlink(format!("../{DM}"), tree.path().join("block/new")).unwrap();
        fs::rename(tree.path().join("block/new"), link).unwrap();
        assert_eq!(*resync(&mut reader, &[]).wwid, *"3600b");
    }
}
