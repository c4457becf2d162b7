//! One remembered device.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use super::history::{PathHistory, Streak};
use super::times;
use crate::topology::{Adapters, DevNo, Device, Kind, LossReason, LostDevice, is_redundant};

/// Paths arrive one after the other, so none counts as missing this soon after its device appeared.
pub(crate) const ARRIVAL_TIME: Duration = Duration::from_secs(5 * 60);

/// When multipathd loads a table, the kernel treats every path as valid until multipathd has failed
/// the bad ones. multipathd loads a table whenever a disk goes. So a device that had a valid path
/// for less time than this had no working path.
const LONGEST_BLINK: Duration = Duration::from_secs(5);

/// I/O errors count as new for this long.
const NEW_ERROR_TIME: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct DeviceRecord {
    /// The last alias.
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) vendor: Arc<str>,
    /// The SCSI product or the NVMe model.
    pub(crate) product: Arc<str>,
    /// True if the device was there when its source last answered.
    pub(crate) is_present: bool,
    /// When the device appeared.
    pub(crate) appeared: Moment,
    /// When the device was last seen.
    pub(crate) seen: Moment,
    pub(crate) paths: PathHistory,
    pub(crate) redundancy: Streak,
    /// True if the device was in use when it was last seen. `None` if that is unknown.
    pub(crate) in_use: Option<bool>,
    /// The device numbers by which mounts and swaps last named a native NVMe device or its
    /// partitions.
    pub(crate) numbers: BTreeSet<DevNo>,
    /// Since when the device has, or last had, no valid path. A path that was valid for less than
    /// [`LONGEST_BLINK`] does not interrupt that time.
    pub(crate) pathless_since: Option<Moment>,
    /// Since when the device has a valid path.
    #[serde(default)]
    pub(crate) valid_since: Option<Moment>,
    /// True if the device has no disk left.
    pub(crate) has_no_disk: bool,
    /// True if the device has been well since it appeared, or was there before the exporter first
    /// looked.
    pub(crate) was_well: bool,
    /// Since when paths are missing.
    #[serde(with = "times::optional")]
    pub(crate) missing_since: Option<SystemTime>,
    /// Set while the device is lost.
    pub(crate) loss: Option<Loss>,
    /// Since when the host is in trouble because of this device.
    #[serde(default)]
    pub(crate) ill_since: Option<Moment>,
    /// How many paths the device had when some were last missing.
    #[serde(default)]
    pub(crate) lacking: Option<u64>,
    /// The I/O errors of its paths, and when the count last grew. The count restarts with the
    /// exporter.
    #[serde(skip)]
    pub(crate) errors: Option<(u64, Option<Moment>)>,
    /// True if the device keeps a path no matter which single port or fabric fails.
    #[serde(skip)]
    pub(crate) is_redundant: bool,
    /// When the device went, until it is judged.
    #[serde(default)]
    pub(crate) went: Option<Moment>,
    /// The device as it was last seen, and the adapters below its paths' initiator ports.
    #[serde(skip)]
    last: Option<(Arc<Device>, Arc<Adapters>)>,
}

/// A configured device that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Absence {
    /// Since when, by the memory's clock.
    pub(crate) since: Moment,
    /// Since when, by the wall clock.
    #[serde(with = "times")]
    pub(crate) time: SystemTime,
}

/// How a device was lost.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Loss {
    pub(crate) reason: LossReason,
    /// When the device was lost, by the wall clock.
    #[serde(with = "times")]
    pub(crate) time: SystemTime,
    /// When the device was lost, by the memory's clock.
    pub(crate) at: Moment,
}

impl DeviceRecord {
    /// A device that appears now.
    pub(crate) fn new(device: &Device, now: Moment) -> Self {
        DeviceRecord {
            name: Arc::clone(&device.name),
            kind: device.kind,
            vendor: Arc::clone(&device.vendor),
            product: Arc::clone(&device.product),
            is_present: false,
            appeared: now,
            seen: now,
            paths: PathHistory::default(),
            redundancy: Streak::default(),
            in_use: None,
            numbers: BTreeSet::new(),
            pathless_since: None,
            valid_since: None,
            has_no_disk: false,
            was_well: false,
            missing_since: None,
            loss: None,
            ill_since: None,
            lacking: None,
            errors: None,
            is_redundant: false,
            went: None,
            last: None,
        }
    }

    /// A device that was there when the exporter first looked. The end of its trouble is a
    /// recovery.
    pub(crate) fn found(device: &Device, appeared: Moment) -> Self {
        DeviceRecord { is_present: true, was_well: true, ..DeviceRecord::new(device, appeared) }
    }

    /// Returns true if the device or its adapters differ from what was last seen.
    pub(crate) fn differs_from(&self, device: &Arc<Device>, adapters: &Arc<Adapters>) -> bool {
        let is_same = |(last, stood_on): &(Arc<Device>, Arc<Adapters>)| {
            Arc::ptr_eq(last, device) && Arc::ptr_eq(stood_on, adapters)
        };
        !self.last.as_ref().is_some_and(is_same)
    }

    /// Returns the device as it was last seen, if that was after the memory was read.
    pub(crate) fn device(&self) -> Option<&Device> {
        self.last.as_ref().map(|(device, _)| &**device)
    }

    /// Records the device as it is now.
    pub(crate) fn take(&mut self, device: &Arc<Device>, adapters: &Arc<Adapters>, now: Moment) {
        self.name_as(device);
        let counts = device.counts();
        self.is_redundant = counts.valid > 0 && is_redundant(&device.paths, adapters);
        self.paths.note(u32::try_from(counts.paths()).unwrap_or(u32::MAX), now);
        self.redundancy.note(self.is_redundant, now);
        self.count_errors(device.path_io_errors, now);
        self.in_use = device.in_use;
        self.note_valid(counts.valid > 0, now);
        self.last = Some((Arc::clone(device), Arc::clone(adapters)));
    }

    fn note_valid(&mut self, has_valid_path: bool, now: Moment) {
        if has_valid_path {
            self.valid_since.get_or_insert(now);
        } else if self.valid_since.take().is_some_and(|since| now.since(since) >= LONGEST_BLINK) {
            self.pathless_since = Some(now);
        } else {
            self.pathless_since.get_or_insert(now);
        }
    }

    /// Returns true if the device has had no valid path for at least `long`.
    pub(crate) fn is_pathless(&self, long: Duration, now: Moment) -> bool {
        self.pathless_since.is_some_and(|since| now.since(since) >= long)
            && self.valid_since.is_none_or(|since| now.since(since) < LONGEST_BLINK)
    }

    /// Records that the device is gone.
    pub(crate) fn leave(&mut self, now: Moment) {
        (self.is_present, self.seen, self.went, self.last) = (false, now, None, None);
        self.paths.note(0, now);
        self.redundancy.note(false, now);
    }

    /// Records how many paths are missing. Returns true if paths were missing until now, and the
    /// number of present paths has not grown.
    pub(crate) fn has_ceased_to_miss(&mut self, missing: u32, present: usize) -> bool {
        let present = present as u64;
        if missing > 0 {
            self.lacking = Some(present);
            return false;
        }
        self.lacking.take().is_some_and(|before| present <= before)
    }

    /// Records how many I/O errors the device's paths have had.
    pub(crate) fn count_errors(&mut self, errors: u64, now: Moment) {
        let last = self.errors.and_then(|(before, last)| if before < errors { Some(now) } else { last });
        self.errors = Some((errors, last));
    }

    /// Returns true if there were I/O errors within the last [`NEW_ERROR_TIME`].
    pub(crate) fn has_new_errors(&self, now: Moment) -> bool {
        self.errors.and_then(|(_, last)| last).is_some_and(|last| now.since(last) < NEW_ERROR_TIME)
    }

    fn name_as(&mut self, device: &Device) {
        for (known, now) in
            [(&mut self.name, &device.name), (&mut self.vendor, &device.vendor), (&mut self.product, &device.product)]
        {
            if known != now {
                *known = Arc::clone(now);
            }
        }
        self.kind = device.kind;
    }

    /// Returns true if the device's paths may still be arriving.
    pub(crate) fn is_arriving(&self, now: Moment) -> bool {
        now.since(self.appeared) < ARRIVAL_TIME
    }

    /// Returns true if a mount or swap still names the device. A native NVMe device that comes back
    /// has another number.
    pub(crate) fn is_still_named(&self, is_named: &dyn Fn(DevNo) -> bool) -> bool {
        self.numbers.iter().any(|number| is_named(*number))
    }

    /// Forgets the path counts and the redundancy from before the moment `before`. Forgets the loss
    /// if `is_old`. Returns true if the expected paths, the redundancy or the loss of the device
    /// change.
    pub(crate) fn forget(&mut self, before: Moment, is_old: bool, (now, window): (Moment, Duration)) -> bool {
        let expected = self.paths.expected(now, window);
        let was_redundant = self.redundancy.is_proven(now, window);
        self.paths.forget_before(before);
        self.redundancy.forget_before(before);
        let loss = self.loss.take_if(|_| is_old);
        loss.is_some()
            || self.paths.expected(now, window) != expected
            || self.redundancy.is_proven(now, window) != was_redundant
    }

    /// Returns the lost device as it is published, or `None` if it is not lost.
    pub(crate) fn lost(&self, wwid: &Arc<str>) -> Option<LostDevice> {
        let loss = self.loss.as_ref()?;
        Some(LostDevice {
            wwid: Arc::clone(wwid),
            name: Arc::clone(&self.name),
            kind: self.kind,
            vendor: Arc::clone(&self.vendor),
            product: Arc::clone(&self.product),
            reason: loss.reason,
            time: loss.time,
        })
    }
}
