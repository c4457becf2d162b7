//! The memory as text: JSON with a version.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::MOST_RECORDS;
use super::clock::{Boot, Moment, Written};
use super::ports::FcPorts;
use super::record::{Absence, DeviceRecord};
use super::times;

/// The version of the text. It grows with each change that an older program would misread.
const VERSION: u32 = 1;

/// The whole memory at one moment.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Image {
    version: u32,
    /// The machine that wrote it.
    pub(crate) machine: Machine,
    /// When it was made, by the wall clock.
    #[serde(with = "times")]
    pub(crate) time: SystemTime,
    /// When it was made, by the memory's clock.
    pub(crate) clock: Moment,
    /// The kernel's `boot_id` at that time.
    pub(crate) boot_id: String,
    /// The host's uptime at that time, in milliseconds.
    pub(crate) uptime: u64,
    /// The host's uptime when all sources of devices had first answered in that boot, in
    /// milliseconds.
    pub(crate) complete: Option<u64>,
    /// True if the host was in trouble.
    pub(crate) in_trouble: bool,
    /// The host's last recovery.
    #[serde(with = "times::optional")]
    pub(crate) last_recovery: Option<SystemTime>,
    /// The devices whose trouble is to end in a recovery.
    pub(crate) troubled: BTreeSet<Arc<str>>,
    /// The devices that were there in an earlier boot and have not been seen in that one.
    pub(crate) awaited: BTreeSet<Arc<str>>,
    /// Configured devices that were not there.
    pub(crate) absent: BTreeMap<Arc<str>, Absence>,
    /// The Fibre Channel ports.
    #[serde(default)]
    pub(crate) fc_ports: FcPorts,
    /// The devices by WWID.
    pub(crate) devices: BTreeMap<Arc<str>, DeviceRecord>,
}

/// The properties by which machines are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Machine {
    /// The host name.
    pub(crate) host: String,
    /// An ID derived from the `machine-id`, which is confidential (`machine-id(5)`). Empty if the
    /// machine has none.
    pub(crate) id: String,
}

impl Machine {
    /// Returns true if both are the same machine. A host may be renamed, and a new installation
    /// gets a new ID.
    fn is(&self, other: &Machine) -> bool {
        if self.id.is_empty() || other.id.is_empty() { self.host == other.host } else { self.id == other.id }
    }
}

#[derive(Deserialize)]
struct VersionField {
    version: u32,
}

impl Image {
    /// Creates an empty image.
    pub(crate) fn new(machine: Machine, time: SystemTime, clock: Moment, boot: Boot) -> Self {
        Image {
            version: VERSION,
            machine,
            time,
            clock,
            boot_id: boot.id,
            uptime: u64::try_from(boot.uptime.as_millis()).unwrap_or(u64::MAX),
            complete: None,
            in_trouble: false,
            last_recovery: None,
            troubled: BTreeSet::new(),
            awaited: BTreeSet::new(),
            absent: BTreeMap::new(),
            fc_ports: FcPorts::default(),
            devices: BTreeMap::new(),
        }
    }

    /// Parses the text that this machine wrote.
    ///
    /// # Errors
    /// If the text is damaged, has another version, or is from another machine.
    pub fn read(text: &[u8], machine: &Machine) -> Result<Self, String> {
        let damaged = |error| format!("the file is damaged: {error}");
        let VersionField { version } = serde_json::from_slice(text).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("the file's version is {version}, and this program accepts only version {VERSION}"));
        }
        let image: Image = serde_json::from_slice(text).map_err(damaged)?;
        if image.devices.len() > MOST_RECORDS {
            return Err(format!("the file has {} devices, and the limit is {MOST_RECORDS}", image.devices.len()));
        }
        if image.fc_ports.are_too_many() {
            return Err(format!("the file has more than {MOST_RECORDS} Fibre Channel ports, which is the limit"));
        }
        if image.machine.is(machine) {
            Ok(image)
        } else {
            Err(format!("the file is from another machine, {:?}", image.machine.host))
        }
    }

    /// Formats the image.
    ///
    /// # Errors
    /// If a time lies outside the years that the text can represent.
    pub fn write(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Returns when the image was made.
    pub(crate) fn written(&self) -> Written {
        let boot = Boot { id: self.boot_id.clone(), uptime: Duration::from_millis(self.uptime) };
        Written { clock: self.clock, time: self.time, boot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(host: &str, id: &str) -> Machine {
        Machine { host: host.to_owned(), id: id.to_owned() }
    }

    fn text(of: Machine) -> String {
        let image = Image::new(of, SystemTime::UNIX_EPOCH, Moment::default(), Boot::default());
        String::from_utf8(image.write().unwrap()).unwrap()
    }

    #[test]
    fn a_memory_of_another_machine_is_none_of_ours() {
        for (written, read, is_ours) in [
            (machine("a", "1"), machine("a", "1"), true),
            (machine("a", "1"), machine("b", "1"), true),
            (machine("a", "1"), machine("a", "2"), false),
            (machine("a", "1"), machine("b", "2"), false),
            (machine("a", ""), machine("a", "2"), true),
            (machine("a", ""), machine("b", "2"), false),
        ] {
            assert_eq!(Image::read(text(written.clone()).as_bytes(), &read).is_ok(), is_ours, "{written:?} {read:?}");
        }
    }

    #[test]
    fn a_year_of_five_digits_cannot_be_written() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(300_000_000_000);
        assert!(Image::new(machine("a", "1"), time, Moment::default(), Boot::default()).write().is_err());
    }

    #[test]
    fn a_text_that_cannot_be_read_says_why() {
        let good = text(machine("a", "1"));
        let ports = (0..=MOST_RECORDS).map(|port| format!("[\"{port}\",0]")).collect::<Vec<_>>().join(",");
        for (text, why) in [
            (String::new(), "damaged"),
            (good[..good.len() / 2].to_owned(), "damaged"),
            (good.replace("\"clock\":0", "\"clock\":-1"), "damaged"),
            (good.replace("1970-", "197-"), "damaged"),
            (good.replace("\"version\":1", "\"version\":2"), "version is 2"),
            ("{\"version\":7,\"devices\":[]}".to_owned(), "version is 7"),
            (good.replace("\"1\"", "\"2\""), "another machine"),
            (good.replace("\"hosts\":[]", &format!("\"hosts\":[{ports}]")), "2000 Fibre Channel ports"),
        ] {
            let error = Image::read(text.as_bytes(), &machine("a", "1")).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
