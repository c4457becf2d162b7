//! What happened to paths and devices: the recent ones for whoever asks, and the next ones for whoever waits.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

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
    /// A device is gone that nobody took away in order.
    DeviceLost,
    /// All devices of the host are well again.
    Recovered,
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
    pub wwid: Option<Arc<str>>,
    /// The device's name.
    pub name: Option<Arc<str>>,
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

/// How far a reader of the events has got: `<life>-<id>` in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// When the log began, in milliseconds since the epoch: ids begin anew with each start of the exporter.
    pub life: u64,
    /// The last event's.
    pub id: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.life, self.id)
    }
}

impl FromStr for Position {
    type Err = Infallible;

    /// What is no position is one in no log.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let position = text.split_once('-').and_then(|(life, id)| {
            let (life, id) = (life.parse().ok()?, id.parse().ok()?);
            Some(Position { life, id })
        });
        Ok(position.unwrap_or(Position { life: 0, id: 0 }))
    }
}

/// The last [`KEPT`] events, shared between the monitor, which adds, and the API, which reads and follows.
///
/// What is kept is the queue of all who follow: none has a copy of its own, and one that is slow keeps nobody waiting.
#[derive(Debug)]
pub struct EventLog {
    life: u64,
    recent: watch::Sender<Recent>,
}

impl Default for EventLog {
    fn default() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        EventLog { life: u64::try_from(since_epoch.as_millis()).unwrap_or_default(), recent: watch::Sender::default() }
    }
}

#[derive(Debug, Default)]
struct Recent {
    last_id: u64,
    events: VecDeque<Arc<Event>>,
    closed: bool,
}

impl EventLog {
    /// Adds an event; its `id` is set here.
    pub fn add(&self, mut event: Event) -> Arc<Event> {
        // Only the monitor adds, so no other id comes in between.
        event.id = self.recent.borrow().last_id + 1;
        let event = Arc::new(event);
        self.recent.send_modify(|recent| {
            recent.last_id = event.id;
            if recent.events.len() == KEPT {
                recent.events.pop_front();
            }
            recent.events.push_back(Arc::clone(&event));
        });
        event
    }

    /// The events kept, newest last.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.recent.borrow().events.iter().cloned().collect()
    }

    /// The events after this position, as far as they are kept; without one, those that are still to come. To a position
    /// that this log has not given, such as one of an exporter that ran before this one, all that is kept is news.
    pub fn follow(&self, after: Option<Position>) -> Following {
        let recent = self.recent.subscribe();
        let last_id = recent.borrow().last_id;
        let id = match after {
            None => last_id,
            Some(Position { life, id }) if life == self.life && id <= last_id => id,
            Some(_) => 0,
        };
        Following { recent, seen: Position { life: self.life, id } }
    }

    /// Tells all who follow that no more will come.
    pub fn close(&self) {
        self.recent.send_modify(|recent| recent.closed = true);
    }
}

/// A place in the [`EventLog`].
#[derive(Debug)]
pub struct Following {
    recent: watch::Receiver<Recent>,
    seen: Position,
}

impl Following {
    /// Waits until there are events after the last one given, and gives all of them that are kept, newest last. A gap in
    /// their ids is what was not kept. `None` once the log is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        let seen = self.seen.id;
        let recent = self.recent.wait_for(|recent| recent.last_id > seen || recent.closed).await.ok()?;
        let older = recent.events.partition_point(|event| event.id <= seen);
        let news: Vec<_> = recent.events.iter().skip(older).cloned().collect();
        self.seen.id = recent.last_id;
        (!news.is_empty()).then_some(news)
    }

    /// After the last event given.
    pub fn position(&self) -> Position {
        self.seen
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
            wwid: Some("3600".into()),
            name: Some("mpatha".into()),
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

    fn ids(events: Option<Vec<Arc<Event>>>) -> Vec<u64> {
        events.unwrap_or_default().iter().map(|event| event.id).collect()
    }

    #[tokio::test]
    async fn who_follows_gets_what_comes() {
        let log = EventLog::default();
        log.add(event());
        let mut following = log.follow(None);
        log.add(event());
        log.add(event());
        assert_eq!(ids(following.next().await), [2, 3]);
        let next = async { ids(following.next().await) };
        let add = async { log.add(event()) };
        assert_eq!(tokio::join!(next, add).0, [4]);
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_was_missed() {
        let log = EventLog::default();
        for _ in 0..KEPT + 5 {
            log.add(event());
        }
        let newest = KEPT as u64 + 5;
        let now = log.follow(None).position();
        assert_eq!(now.id, newest);
        let after = |id| Position { id, ..now };
        let mut following = log.follow(Some(after(newest - 2)));
        assert_eq!(ids(following.next().await), [newest - 1, newest]);
        assert_eq!(following.position(), now);
        let earlier = Position { life: now.life - 1, id: newest - 2 };
        for all in [after(0), after(3), after(newest + 1), after(u64::MAX), earlier] {
            assert_eq!(ids(log.follow(Some(all)).next().await), (6..=newest).collect::<Vec<_>>(), "{all}");
        }
    }

    #[test]
    fn a_position_in_text() {
        let position = Position { life: 1_795_168_800_123, id: 7 };
        assert_eq!(position.to_string(), "1795168800123-7");
        assert_eq!("1795168800123-7".parse(), Ok(position));
        for nonsense in ["", "7", "-", "-7", "1795168800123-", "1795168800123--7", "1-2-3", "99999999999999999999-1"] {
            assert_eq!(nonsense.parse(), Ok(Position { life: 0, id: 0 }), "{nonsense:?}");
        }
    }

    #[tokio::test]
    async fn a_closed_log_ends_those_who_follow() {
        let log = EventLog::default();
        let mut following = log.follow(None);
        log.add(event());
        log.close();
        assert_eq!(ids(following.next().await), [1]);
        assert_eq!(following.next().await, None);
        assert_eq!(log.follow(None).next().await, None);
    }
}
