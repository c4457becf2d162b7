//! Events of paths and devices: the recent ones on request, and the next ones for those that wait.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::topology::DevNo;

/// How many events the log keeps.
pub const KEPT: usize = 1000;

/// The type of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// The kernel sends no more I/O to a path.
    PathFailed,
    /// A path has recovered. The kernel sends I/O to it again, or would if the path were not on
    /// standby.
    PathReinstated,
    /// A multipath device appeared.
    DeviceAdded,
    /// A multipath device was removed.
    DeviceRemoved,
    /// A device has a new member.
    PathAdded,
    /// A device lost a member.
    PathRemoved,
    /// A device disappeared without an orderly removal.
    DeviceLost,
    /// All devices of the host are healthy again.
    Recovered,
}

/// One event. A field that does not apply is `None`, or `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// The number of the event. Ids ascend from 1 since the exporter started.
    pub id: u64,
    /// The sequence number of the kernel event; `None` for a change that only a reading showed.
    pub seqnum: Option<u64>,
    /// The sequence number of the kernel event among those of its map.
    pub dm_seqnum: Option<u64>,
    /// The time at which the exporter noticed it. RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// The type of the event.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// The WWID of the device.
    pub wwid: Option<Arc<str>>,
    /// The alias of the device.
    pub name: Option<Arc<str>>,
    /// The kernel name of the path.
    pub path: Option<Arc<str>>,
    /// The device number of the path.
    #[serde(serialize_with = "displayed")]
    pub devno: Option<DevNo>,
    /// The number of valid paths left, from the kernel event, otherwise as read.
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

/// How far a reader of the events has come. Its text is `<life>-<id>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The start of the log, in milliseconds since 1970. Each start of the exporter begins a new
    /// log, and ids begin at 1 again.
    pub life: u64,
    /// The id of the last event that the reader has.
    pub id: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.life, self.id)
    }
}

impl FromStr for Position {
    type Err = Infallible;

    /// A text that is not a position becomes one that no log has.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let position = text.split_once('-').and_then(|(life, id)| {
            let (life, id) = (life.parse().ok()?, id.parse().ok()?);
            Some(Position { life, id })
        });
        Ok(position.unwrap_or(Position { life: 0, id: 0 }))
    }
}

/// The last [`KEPT`] events. The monitor adds them; the API reads and follows them.
///
/// All followers read from the same queue. No follower has a copy of its own, and a slow follower
/// does not delay the others.
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
    /// Adds an event and sets its `id`.
    pub fn add(&self, mut event: Event) -> Arc<Event> {
        // Only the monitor adds events, so no other id comes in between.
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

    /// Returns the kept events, newest last.
    pub fn recent(&self) -> Vec<Arc<Event>> {
        self.recent.borrow().events.iter().cloned().collect()
    }

    /// Follows the events after this position, as far as they are kept. Without a position it
    /// follows the events that are still to come. With a position of another log, such as that of
    /// an earlier start, it begins with all kept events.
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

    /// Ends all followers.
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
    /// Waits for events after the last returned one and returns all of them that are kept, newest
    /// last. A gap in their ids shows events that are no longer kept. Returns `None` once the log
    /// is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Vec<Arc<Event>>> {
        let seen = self.seen.id;
        let recent = self.recent.wait_for(|recent| recent.last_id > seen || recent.closed).await.ok()?;
        let older = recent.events.partition_point(|event| event.id <= seen);
        let news: Vec<_> = recent.events.iter().skip(older).cloned().collect();
        self.seen.id = recent.last_id;
        (!news.is_empty()).then_some(news)
    }

    /// Returns the position after the last returned event.
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
