//! The live event stream, for `Accept: text/event-stream` ([HTML,
//! 9.2](https://html.spec.whatwg.org/#server-sent-events)).
//!
//! A reader costs one task and one chunk on its way to the client. Events that it has not received
//! yet are in the [`EventLog`](crate::event::EventLog), which all readers share. Neither a storm of
//! events nor a stalled reader therefore fills memory. A slow reader receives more events at a
//! time. A reader that falls behind the log sees a gap in the ids.
//!
//! A stream ends after a fixed time, even if it is read, and frees its place. A client that still
//! reads reconnects and sends the last id that it received.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::server::Body;
use crate::event::{Event, Following, Position};

/// The number of streams at the same time. Each browser tab with the status page uses one.
pub(crate) const MAX_STREAMS: usize = 64;
/// The time without events after which a comment is sent. It is shorter than the idle timeouts of
/// proxies. The second write at the latest detects a reader that has disconnected.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The time within which a reader must accept one chunk. The connection's buffers count as the
/// reader, and they hold a lot.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);
/// The duration of a stream, which limits how long a connected client that does not read holds a
/// place.
const STREAM_DURATION: Duration = Duration::from_secs(5 * 60);
/// The time that a client waits before it reconnects after the end of a stream, in milliseconds.
const RECONNECT_DELAY_MS: u32 = 3000;

/// The events of `following`, as the body of a response.
pub(crate) fn body(following: Following) -> Body {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(timeout(STREAM_DURATION, feed(following, sender)));
    Body::stream(receiver)
}

async fn feed(mut following: Following, sender: mpsc::Sender<Bytes>) {
    // The first chunk has the current id, so that a client that reconnects misses no event, even if
    // it received none.
    let mut chunk = Bytes::from(format!("retry: {RECONNECT_DELAY_MS}\nid: {}\n\n", following.position()));
    while let Ok(Ok(())) = timeout(CHUNK_DEADLINE, sender.send(chunk)).await {
        chunk = select! {
            events = following.next() => match events {
                Some(events) => encode(&events, following.position()),
                None => return,
            },
            () = sleep(KEEP_ALIVE_INTERVAL) => Bytes::from_static(b": still here\n\n"),
            () = sender.closed() => return,
        };
    }
}

/// An event cannot end its own frame: JSON needs no line breaks and escapes those in names.
fn encode(events: &[Arc<Event>], last: Position) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        text.extend_from_slice(format!("id: {}\ndata: ", Position { id: event.id, ..last }).as_bytes());
        // Cannot fail: the keys are strings, and the output is memory.
        let _ = serde_json::to_writer(&mut text, &**event);
        text.extend_from_slice(b"\n\n");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http_body_util::BodyExt;
    use tokio::time::Instant;

    use super::*;
    use crate::event::{EventLog, EventType};

    fn event(name: &str) -> Event {
        Event {
            id: 0,
            seqnum: None,
            dm_seqnum: None,
            time: SystemTime::UNIX_EPOCH,
            kind: EventType::PathFailed,
            wwid: Some(name.into()),
            name: Some(name.into()),
            path: Some(name.into()),
            devno: None,
            valid_paths: Some(1),
        }
    }

    async fn next(body: &mut Body) -> Option<String> {
        let frame = body.frame().await?.unwrap().into_data().unwrap();
        Some(String::from_utf8(frame.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_event_is_a_frame_and_silence_a_comment() {
        let log = EventLog::default();
        log.add(event("before"));
        let life = log.follow(None).position().life;
        let mut body = body(log.follow(None));
        assert_eq!(next(&mut body).await.unwrap(), format!("retry: 3000\nid: {life}-1\n\n"));
        log.add(event("mpatha"));
        let frame = next(&mut body).await.unwrap();
        assert!(frame.starts_with(&format!("id: {life}-2\ndata: {{\"id\":2,")) && frame.ends_with("}\n\n"), "{frame}");
        let silent = Instant::now();
        for times in 1..=3 {
            assert_eq!(next(&mut body).await.unwrap(), ": still here\n\n");
            assert_eq!(silent.elapsed().as_secs(), (KEEP_ALIVE_INTERVAL * times).as_secs());
        }
        log.close();
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test]
    async fn no_name_ends_its_frame() {
        let log = EventLog::default();
        for name in ["a\nid: 99", "a\r\n\r\ndata: b", "\r", "\u{2028}", "\0", "a\n\nevent: b\n"] {
            log.add(event(name));
            let mut body = body(log.follow(None));
            next(&mut body).await.unwrap();
            log.add(event(name));
            let frame = next(&mut body).await.unwrap();
            let lines: Vec<_> = frame.split(['\n', '\r']).collect();
            let [first, data, "", ""] = lines.as_slice() else { panic!("{frame:?}") };
            assert_eq!(*first, format!("id: {}", log.follow(None).position()));
            let data: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(data["name"], name);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_dropped() {
        let log = EventLog::default();
        let (sender, mut receiver) = mpsc::channel(1);
        let (start, reader) = (Instant::now(), tokio::spawn(feed(log.follow(None), sender)));
        log.add(event("mpatha"));
        reader.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), CHUNK_DEADLINE.as_secs());
        // Only the chunk that was already queued arrives.
        assert!(receiver.recv().await.unwrap().starts_with(b"retry: "));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_stream_is_endless() {
        let log = EventLog::default();
        let (start, mut body) = (Instant::now(), body(log.follow(None)));
        while next(&mut body).await.is_some() {}
        assert_eq!(start.elapsed().as_secs(), STREAM_DURATION.as_secs());
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_leaves_no_task() {
        let log = EventLog::default();
        let (sender, receiver) = mpsc::channel(1);
        let reader = tokio::spawn(feed(log.follow(None), sender));
        drop(receiver);
        reader.await.unwrap();
    }
}
