//! SCSI disks over any transport.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::dm;
use crate::wait::{PATIENCE, eventually};

/// One SCSI disk: one path to a LUN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Disk {
    pub name: String,
    pub devno: String,
    /// Host, channel, target and LUN.
    pub hctl: String,
}

impl Disk {
    /// The path of a file of the SCSI device.
    pub fn attribute(&self, name: &str) -> PathBuf {
        Path::new("/sys/block").join(&self.name).join("device").join(name)
    }

    /// The SCSI layer's state of the device.
    pub fn scsi_state(&self) -> String {
        self.read("state")
    }

    /// The SCSI layer's ALUA access state of the device.
    pub fn access_state(&self) -> String {
        self.read("access_state")
    }

    /// Sets the disk offline: every command fails, and multipathd's checker sees that.
    pub fn set_offline(&self) {
        self.write("state", "offline");
    }

    /// Undoes [`Disk::set_offline`].
    pub fn set_running(&self) {
        self.write("state", "running");
    }

    /// Deletes the disk.
    pub fn delete(&self) {
        self.write("delete", "1");
        let name = Path::new("/sys/block").join(&self.name);
        eventually("the disk goes", PATIENCE, || {
            if name.exists() { Err(format!("{name:?} is still there")) } else { Ok(()) }
        });
    }

    /// Rescans the disk's address in its SCSI host. The new disk has the same identity.
    pub fn rescan(&self) {
        let (host, address) = self.hctl.split_once(':').expect("an address begins with its host");
        let path = format!("/sys/class/scsi_host/host{host}/scan");
        fs::write(&path, address.replace(':', " ")).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Rescans every address of the disk's SCSI host, like an administrator.
    pub fn rescan_host(&self) {
        let (host, _) = self.hctl.split_once(':').expect("an address begins with its host");
        let path = format!("/sys/class/scsi_host/host{host}/scan");
        fs::write(&path, "- - -").unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    fn read(&self, attribute: &str) -> String {
        let path = self.attribute(attribute);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}")).trim().to_owned()
    }

    /// Writes a line into a file of the SCSI device.
    pub fn write(&self, attribute: &str, value: &str) {
        let path = self.attribute(attribute);
        fs::write(&path, format!("{value}\n")).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    }
}

/// The disks whose SCSI device lies in a wanted directory of sysfs.
pub fn below(is_wanted: impl Fn(&Path) -> bool) -> BTreeSet<Disk> {
    let entries = fs::read_dir("/sys/block").expect("/sys/block is there");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let disk = |name: String| {
        let device = fs::canonicalize(format!("/sys/block/{name}/device")).ok()?;
        is_wanted(&device).then(|| Disk {
            devno: dm::devno(&name),
            hctl: device.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            name,
        })
    };
    names.filter_map(disk).collect()
}
