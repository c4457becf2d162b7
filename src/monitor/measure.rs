//! Devices of an imaginary host for `benches/assemble.rs` and `benches/memory.rs`. The benches
//! measure the cost of assembling them, and the savings if nothing has changed.

use std::sync::Arc;
use std::time::Instant;

use super::readings::{KernelFacts, Readings};
use super::{Ledgers, assemble};
use crate::config::Config;
use crate::source::block::{self, HostFacts, Scope, disks};
use crate::source::device_mapper;
use crate::source::transports::{self, Way};
use crate::topology::{DevNo, Device, Transport};

/// The readings of an imaginary host, and the devices assembled from them.
#[derive(Debug)]
pub struct Assembly {
    readings: Readings,
    ledgers: Ledgers,
    config: Arc<Config>,
    devices: assemble::DmDevices,
}

impl Assembly {
    /// Creates `devices` devices of `paths` paths each, with one session for each path.
    pub fn new(devices: u32, paths: u32) -> Self {
        let now = Instant::now();
        let (mut reading, mut maps) = (block::BlockReading::default(), Vec::new());
        for device in 0..devices {
            let numbers = (0..paths).map(|path| DevNo { major: 8, minor: device * paths + path });
            for (path, devno) in numbers.clone().enumerate() {
                reading.disks.insert(devno, Some(Arc::new(disk(devno, device, path))));
            }
            let members = numbers.map(|devno| device_mapper::StatusPath { devno, valid: true }).collect();
            maps.push(Arc::new(map(device, members)));
        }
        reading.host = Some(HostFacts {
            has_maps: false,
            candidates: Arc::default(),
            member_ways: Arc::default(),
            root: Arc::default(),
        });
        let mut readings = Readings { kernel: Some(KernelFacts::default()), ..Readings::default() };
        readings.block.take(
            &reading,
            &block::BlockRequest { scope: Scope::Everything, ..block::BlockRequest::default() },
            now,
        );
        if let Some(kernel) = &mut readings.kernel {
            kernel.take(&device_mapper::MapReading { maps, unreadable: Vec::new() }, now, now);
        }
        let way = |path: u32| (Way::Iscsi(format!("session{path}").into()), (Transport::Iscsi, Default::default()));
        readings.transports =
            Some(transports::TransportReading { ways: Arc::new((0..paths).map(way).collect()), ..Default::default() });
        let mut assembly =
            Assembly { readings, ledgers: Ledgers::new(), config: Arc::default(), devices: assemble::DmDevices::new() };
        assembly.all();
        assembly
    }

    /// Assembles all devices. Returns their number.
    pub fn all(&mut self) -> usize {
        self.devices.clear();
        self.again()
    }

    /// Returns the devices, sorted by WWID.
    pub fn devices(&self) -> Vec<Arc<Device>> {
        self.devices.values().map(|built| Arc::clone(&built.device)).collect()
    }

    /// Assembles the devices whose inputs have changed: none have. Returns the number of devices.
    pub fn again(&mut self) -> usize {
        let last = std::mem::take(&mut self.devices);
        self.devices = assemble::devices(&self.readings, &self.ledgers, &self.config, last, |_| false);
        self.devices.len()
    }
}

fn disk(devno: DevNo, lun: u32, path: usize) -> disks::Disk {
    disks::Disk {
        devno,
        name: format!("sd{}", devno.minor).into(),
        hctl: format!("{path}:0:0:{lun}").into(),
        transport: Transport::Iscsi,
        way: Some(Way::Iscsi(format!("session{path}").into())),
        ports: Default::default(),
        model: disks::Model { vendor: "LABARRAY".into(), product: "VDISK".into(), revision: "0001".into() },
        identity: disks::DiskIdentity { udev: Some("3600a".into()), kernel: Some("naa.600a".into()) },
        size_bytes: Some(1 << 30),
        read_only: Some(false),
        io: disks::IoCounts::default(),
        stalled: None,
        states: disks::States { device: Some("running".into()), ..disks::States::default() },
    }
}

fn map(device: u32, paths: Vec<device_mapper::StatusPath>) -> device_mapper::Map {
    device_mapper::Map {
        devno: DevNo { major: 254, minor: device },
        event_nr: Some(0),
        name: format!("mpath{device}").into(),
        wwid: format!("3600a{device:027x}").into(),
        uuid: format!("mpath-3600a{device:027x}").into(),
        open_count: 1,
        closed_partitions: 0,
        read_only: false,
        suspended: false,
        queueing: true,
        size_bytes: 1 << 30,
        groups: vec![device_mapper::StatusGroup { letter: 'A', paths }],
    }
}
