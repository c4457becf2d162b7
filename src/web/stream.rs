//! Events as they come, for `Accept: text/event-stream` ([HTML, 9.2](https://html.spec.whatwg.org/#server-sent-events)).
//!
//! A reader costs a task, and one chunk on its way to it; what it has not got yet is in the
//! [`EventLog`](crate::event::EventLog), which keeps the same events for all. So a storm or a reader that does not read
//! fills no memory: whoever is slow gets more events at a time, whoever is too slow for those that are kept sees a gap in
//! the ids. A stream ends after a while, whether it is read or not, and its place is free for the next: whoever still
//! reads comes back and says how far it has got.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::server::Body;
use crate::event::{Event, Following, Position};

/// Streams at once. Each browser tab with the status page is one.
pub const LIMIT: usize = 64;
/// How long nothing is said: shorter than any proxy's patience, and a reader that is gone is found out by it, at the
/// second writing at the latest.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long a reader may take for one chunk. That its connection's buffers take it is enough, and they take a lot.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a stream is: what a reader that is there and does not read can keep a place for.
const LENGTH: Duration = Duration::from_secs(5 * 60);
/// How long a reader whose stream ended should wait before it comes back, in milliseconds.
const RETRY: u32 = 3000;

/// What `following` gives, as the content of an answer.
pub fn body(following: Following) -> Body {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(timeout(LENGTH, feed(following, sender)));
    Body::stream(receiver)
}

async fn feed(mut following: Following, sender: mpsc::Sender<Bytes>) {
    // With its place: what happens before the first event has come, and after the stream has ended, is not lost either.
    let mut chunk = Bytes::from(format!("retry: {RETRY}\nid: {}\n\n", following.position()));
    while let Ok(Ok(())) = timeout(PATIENCE, sender.send(chunk)).await {
        chunk = select! {
            events = following.next() => match events {
                Some(events) => encode(&events, following.position()),
                None => return,
            },
            () = sleep(KEEP_ALIVE) => Bytes::from_static(b": still here\n\n"),
            () = sender.closed() => return,
        };
    }
}

/// JSON has no line breaks of its own, and escapes those in names: an event cannot end its own frame.
fn encode(events: &[Arc<Event>], last: Position) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        text.extend_from_slice(format!("id: {}\ndata: ", Position { id: event.id, ..last }).as_bytes());
        // Fails for no event: its keys are texts, and writing to memory does not fail.
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
            assert_eq!(silent.elapsed().as_secs(), (KEEP_ALIVE * times).as_secs());
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
        assert_eq!(start.elapsed().as_secs(), PATIENCE.as_secs());
        // What was on its way is all there is.
        assert!(receiver.recv().await.unwrap().starts_with(b"retry: "));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn no_stream_is_endless() {
        let log = EventLog::default();
        let (start, mut body) = (Instant::now(), body(log.follow(None)));
        while next(&mut body).await.is_some() {}
        assert_eq!(start.elapsed().as_secs(), LENGTH.as_secs());
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
