//! What happened to paths and devices: the log line of each, and the recent ones for whoever asks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::topology::DevNo;

/// How many events are kept.
pub const KEPT: usize = 1000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// The kernel sends no more I/O to a path.
    PathFailed,
    /// A path is no longer failed: the kernel sends I/O to it again, or, where that is on standby, would.
    PathReinstated,
    /// A multipath device appeared.
    DeviceAdded,
    /// A multipath device is gone.
    DeviceRemoved,
    /// A device has a new member.
    PathAdded,
    /// A device lost a member.
    PathRemoved,
}

/// Something that happened. What does not apply is `None`, `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Ascending from 1 since the exporter started.
    pub id: u64,
    /// The uevent's number; `None` for what only a reading showed.
    pub seqnum: Option<u64>,
    /// The uevent's number among those of its map.
    pub dm_seqnum: Option<u64>,
    /// When it was noticed, RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The device.
    pub wwid: Arc<str>,
    /// The device's name.
    pub name: Arc<str>,
    /// The path's kernel name.
    pub path: Option<Arc<str>>,
    /// The path's device number.
    #[serde(serialize_with = "displayed")]
    pub devno: Option<DevNo>,
    /// Valid paths left: the event's own number, otherwise as read.
    pub valid_paths: Option<u64>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn displayed<S: Serializer>(devno: &Option<DevNo>, serializer: S) -> Result<S::Ok, S::Error> {
    match devno {
        Some(devno) => serializer.collect_str(devno),
        None => serializer.serialize_none(),
    }
}

/// The last [`KEPT`] events, shared between the monitor, which adds, and the API, which reads.
#[derive(Debug, Default)]
pub struct EventLog {
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    last_id: u64,
    events: VecDeque<Arc<Event>>,
}

impl EventLog {
    /// Adds an event; its `id` is set here.
    pub fn add(&self, mut event: Event) -> Arc<Event> {
        // A panic elsewhere cannot leave the ring half-written, so a poisoned lock is as good as any.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.last_id += 1;
        event.id = recent.last_id;
        let event = Arc::new(event);
        if recent.events.len() == KEPT {
            recent.events.pop_front();
        }
        recent.events.push_back(Arc::clone(&event));
        event
    }

    /// The events kept, newest last.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.events.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn event() -> Event {
        Event {
            id: 0,
            seqnum: Some(1412),
            dm_seqnum: None,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_168_800_123),
            kind: EventType::PathFailed,
            wwid: "3600".into(),
            name: "mpatha".into(),
            path: Some("sdb".into()),
            devno: Some(DevNo { major: 8, minor: 16 }),
            valid_paths: Some(1),
        }
    }

    #[test]
    fn an_event_in_json() {
        let log = EventLog::default();
        assert_eq!(
            serde_json::to_string(&log.add(event())).unwrap(),
            r#"{"id":1,"seqnum":1412,"dm_seqnum":null,"time":"2026-11-20T10:00:00.123Z","type":"path_failed","#
                .to_owned()
                + r#""wwid":"3600","name":"mpatha","path":"sdb","devno":"8:16","valid_paths":1}"#
        );
    }

    #[test]
    fn the_newest_are_kept() {
        let log = EventLog::default();
        for _ in 0..KEPT + 5 {
            log.add(event());
        }
        let ids: Vec<u64> = log.recent().iter().map(|event| event.id).collect();
        assert_eq!((ids.len(), ids[0], ids[KEPT - 1]), (KEPT, 6, KEPT as u64 + 5));
    }
}
