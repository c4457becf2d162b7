//! Shows the memory the present devices, and reports the news that result.

use std::collections::BTreeSet;

use super::{Now, State};
use crate::memory::{HostView, News, Sighting};
use crate::source::block::usage::User;
use crate::source::health::SourcePart;
use crate::topology::{DevNo, Device, Kind, Snapshot};

impl State {
    /// Lets the memory look at the devices, and reports its news.
    pub(super) fn look_back(&mut self, snapshot: &mut Snapshot, now: Now) {
        let (readings, departures) = (&self.readings, &self.departures);
        let sightings = snapshot.devices.iter().map(|device| Sighting {
            device,
            has_no_disk: device.counts().valid == 0 && self.has_no_disk(device),
            numbers: self.numbers_of(device),
        });
        let listed: Vec<Kind> =
            [(Kind::DeviceMapper, self.dm_is_known), (Kind::Nvme, self.nvme_is_known && self.reads_nvme)]
                .into_iter()
                .filter_map(|(kind, is_listed)| is_listed.then_some(kind))
                .collect();
        let view = HostView {
            devices: sightings.collect(),
            transports: &snapshot.transports,
            listed: &listed,
            is_complete: self.have_answered(),
            // A recovery is reported after the change that caused it.
            all_answer: self.all_answer() && !self.corrections.wait(),
            usage_is_known: self.unread_usage.is_none(),
            config: &self.config,
            has_disks: &|wwid| readings.block.may_have_disk(wwid),
            order: &|map| departures.order(map),
            is_named: &|number| readings.block.usage.numbers.contains(&number),
        };
        let news = self.memory.look(&view, now);
        snapshot.remembered = self.memory.remembered();
        for news in news {
            match news {
                News::Lost(device) => self.report_loss(&device, now),
                News::Recovered => self.report_recovery(now),
            }
        }
    }

    /// Returns the numbers by which mounts and swaps name a native NVMe device. `None` if they have
    /// not been read.
    fn numbers_of(&self, device: &Device) -> Option<BTreeSet<DevNo>> {
        let users = self.readings.block.usage.users.get(&*device.sysfs_name).filter(|_| device.kind == Kind::Nvme)?;
        let number = |user: &User| match user {
            User::Mount(number) | User::Swap(number) => Some(*number),
            User::Holder(_) => None,
        };
        Some(users.iter().filter_map(number).collect())
    }

    /// Returns true if no disk of the device is known to exist. A map without members may still
    /// have disks.
    fn has_no_disk(&self, device: &Device) -> bool {
        device.kind == Kind::DeviceMapper
            && !(device.paths.is_empty() && self.readings.block.may_have_disk(&device.wwid))
            && device.paths.iter().all(|path| path.devno.is_some_and(|devno| self.readings.block.is_gone(devno)))
    }

    /// Returns true if the present state of every device is known.
    fn all_answer(&self) -> bool {
        let kernel = self.readings.kernel.as_ref();
        let kernel_answers = kernel.is_none_or(|kernel| kernel.current || kernel.not_permitted);
        // If the kernel may not be asked, path states come from multipathd, as long as it has any.
        let daemon = self.readings.multipathd.as_ref().filter(|_| !self.readings.kernel_is_current());
        let daemon_answers = daemon.is_none_or(|daemon| daemon.is_up() || daemon.maps.is_empty());
        let sysfs_answers =
            [SourcePart::Block, SourcePart::Transports].into_iter().all(|part| self.health.answers(part));
        self.have_answered() && kernel_answers && daemon_answers && sysfs_answers
    }
}
