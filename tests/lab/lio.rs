//! The kernel's SCSI target, LIO, with loopback hosts: one disk over several paths. The lab sets
//! the ALUA state of each path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::programs::run;
use crate::san::San;
use crate::scsi_disk::{self, Disk};
use crate::wait::{PATIENCE, eventually};

const TARGET: &str = "/sys/kernel/config/target";

/// ALUA access states of SPC-4.
#[derive(Clone, Copy)]
pub enum Alua {
    Optimized = 0,
    NonOptimized = 1,
    Standby = 2,
    Unavailable = 3,
    Transitioning = 15,
}

/// One disk over several paths, and multipathd over it. Dropping the value removes both.
pub struct Lio {
    pub san: San,
    /// Its paths in the order of their ports.
    pub disks: Vec<Disk>,
    ports: Ports,
}

struct Ports(usize);

impl Lio {
    /// Starts the target. Every path is optimized and valid.
    pub fn start(lab: &Lab, paths: usize, conf: Conf) -> Self {
        ["target_core_mod", "tcm_loop"].into_iter().for_each(|module| drop(run("modprobe", [module])));
        let ports = Ports(paths);
        make(&disk());
        write(&disk(), "control", "rd_pages=2048");
        write(&disk(), "wwn/vpd_unit_serial", "12345678-aaaa-bbbb-cccc-1234567890ab");
        write(&disk(), "enable", "1");
        (1..=paths).for_each(make_port);
        let disks = eventually("the disk is there on each path", PATIENCE, || {
            let disks = scsi_disk::below(|device| device.starts_with("/sys/devices/tcm_loop_0"));
            if disks.len() == paths { Ok(disks) } else { Err(format!("{disks:?}")) }
        });
        let san = San::over(&disks, 1, lab, conf);
        let mut disks: Vec<_> = disks.into_iter().collect();
        // The hosts are in the order of their ports.
        disks.sort_by_key(|disk| disk.hctl.split(':').next().and_then(|host| host.parse::<u32>().ok()));
        Lio { san, disks, ports }
    }

    /// Sets the state of a port's group. Ports count from 0.
    pub fn set_alua(&self, port: usize, state: Alua) {
        assert!(port < self.ports.0);
        write(&group(port + 1), "alua_access_state", &(state as u8).to_string());
    }
}

fn disk() -> PathBuf {
    Path::new(TARGET).join("core/rd_mcp_0/disk")
}

fn group(number: usize) -> PathBuf {
    disk().join(format!("alua/group{number}"))
}

fn port(number: usize) -> PathBuf {
    Path::new(TARGET).join(format!("loopback/naa.500140500000000{number}"))
}

fn make_port(number: usize) {
    make(&group(number));
    write(&group(number), "tg_pt_gp_id", &number.to_string());
    // Only the array changes states. Linux would otherwise activate standby paths when no other
    // path is left.
    write(&group(number), "alua_access_type", "1");
    let portal = port(number).join("tpgt_1");
    make(&portal);
    write(&portal, "nexus", &format!("naa.600140500000000{number}"));
    let lun = portal.join("lun/lun_0");
    make(&lun);
    symlink(disk(), lun.join("disk")).expect("the disk can be linked");
    write(&lun, "alua_tg_pt_gp", &format!("group{number}"));
}

fn make(directory: &Path) {
    fs::create_dir_all(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
}

fn write(directory: &Path, name: &str, value: &str) {
    let file = directory.join(name);
    fs::write(&file, format!("{value}\n")).unwrap_or_else(|e| panic!("{file:?}: {value}: {e}"));
}

impl Drop for Ports {
    fn drop(&mut self) {
        // The teardown ignores parts that were never created.
        for number in 1..=self.0 {
            let portal = port(number).join("tpgt_1");
            let _ = fs::remove_file(portal.join("lun/lun_0/disk"));
            let _ = fs::remove_dir(portal.join("lun/lun_0"));
            let _ = fs::remove_dir(&portal);
            let _ = fs::remove_dir(port(number));
            let _ = fs::remove_dir(group(number));
        }
        let _ = fs::remove_dir(disk());
        let _ = fs::remove_dir(disk().parent().unwrap_or(&disk()));
    }
}
