//! `/api/v1/events` as an event stream.

use std::fmt::Display;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::harness::{Answer, Connection, Exporter, Host, eventually};
use super::robustness::HOSTILE;

/// The number of streams that one address may have open.
const LIMIT: usize = 16;

/// A client of the stream.
pub struct Reader {
    connection: Connection,
    text: String,
    last: String,
}

impl Reader {
    fn try_open(exporter: &Exporter, headers: &[(&str, &str)]) -> Result<Self, Answer> {
        let mut connection = exporter.connect();
        connection.ask("GET", "/api/v1/events", &[&[("Accept", "text/event-stream")], headers].concat());
        let answer = connection.head();
        if answer.status != 200 {
            return Err(connection.body(answer));
        }
        assert_eq!(answer.header("content-type"), Some("text/event-stream"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("vary"), Some("Accept"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let mut reader = Reader { connection, text: String::new(), last: String::new() };
        let first = reader.frame().expect("the stream begins");
        first.strip_prefix("retry: 3000\nid: ").unwrap_or_else(|| panic!("{first:?}")).clone_into(&mut reader.last);
        Ok(reader)
    }

    pub fn open(exporter: &Exporter, headers: &[(&str, &str)]) -> Self {
        Reader::try_open(exporter, headers).unwrap_or_else(|answer| panic!("{}: {}", answer.status, answer.text()))
    }

    /// The lines up to the next empty line, or `None` at the end of the stream.
    fn frame(&mut self) -> Option<String> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let frame = frame.to_owned();
                self.text = rest.to_owned();
                return Some(frame);
            }
            self.text += &self.connection.chunk()?;
        }
    }

    /// The next event. Its frame holds exactly its id and its document.
    pub fn event(&mut self) -> Value {
        let frame = self.frame().expect("the stream goes on");
        let (id, data) = frame.split_once('\n').unwrap_or_else(|| panic!("{frame:?}"));
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        self.last = self.last_id(&event["id"]);
        assert_eq!(id, format!("id: {}", self.last));
        event
    }
}

impl Reader {
    /// The stream's name for the event with this id.
    fn last_id(&self, id: impl Display) -> String {
        let (start, _) = self.last.split_once('-').unwrap_or_else(|| panic!("{}", self.last));
        format!("{start}-{id}")
    }
}

/// A host that loses a network while an exporter runs: two events.
fn after_two_failures() -> (Host, Exporter) {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    turn_into("02-net1-lost", &host, &exporter);
    (host, exporter)
}

/// Changes the host's state, and waits until the reader has received both path changes and a
/// recovery.
pub fn turn_into(state: &str, host: &Host, exporter: &Exporter) {
    let before = kept(exporter).len();
    host.turn_into(state);
    exporter.signal(Signal::HUP);
    let told = if state == "01-healthy" { 3 } else { 2 };
    eventually("all events are told", || (kept(exporter).len() == before + told).then_some(()));
}

fn kept(exporter: &Exporter) -> Vec<Value> {
    exporter.get("/api/v1/events").json()["events"].as_array().unwrap().clone()
}

#[test]
fn a_failure_comes_by_itself() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut readers = [Reader::open(&exporter, &[]), Reader::open(&exporter, &[])];
    host.turn_into("02-net1-lost");
    exporter.signal(Signal::HUP);
    for reader in &mut readers {
        let events = [reader.event(), reader.event()];
        assert_eq!(events.to_vec(), kept(&exporter));
        assert_eq!((&events[0]["type"], &events[0]["id"]), (&json!("path_failed"), &json!(1)));
    }
}

#[test]
fn what_was_missed_is_given_to_who_says_so() {
    let (host, exporter) = after_two_failures();
    let kept = kept(&exporter);
    // A client without `Last-Event-ID` receives new events only.
    let mut reader = Reader::open(&exporter, &[]);
    let [none, one, two, three] = [0, 1, 2, 77].map(|id| reader.last_id(id));
    assert_eq!(reader.last, two);
    for (last, missed) in [(&one, 1..2), (&none, 0..2), (&three, 0..2), (&format!(" {one} "), 1..2)] {
        let mut reader = Reader::open(&exporter, &[("Last-Event-ID", last)]);
        let given: Vec<_> = missed.clone().map(|_| reader.event()).collect();
        assert_eq!(given, kept[missed], "{last:?}");
    }
    // An id from an earlier exporter or a malformed id: the client receives all events.
    for last in ["1", "-1", "1795168800123-1", "0-2", "1; drop", "99999999999999999999"] {
        let mut reader = Reader::open(&exporter, &[("Last-Event-ID", last)]);
        assert_eq!([reader.event(), reader.event()], kept[..], "{last:?}");
    }
    host.turn_into("01-healthy");
    exporter.signal(Signal::HUP);
    assert_eq!(reader.event()["id"], 3);
}

#[test]
fn after_a_restart_nothing_is_missed() {
    let (host, mut exporter) = after_two_failures();
    let Reader { last, .. } = Reader::open(&exporter, &[]);
    exporter.signal(Signal::TERM);
    assert_eq!(exporter.wait().code(), Some(0));

    let exporter = host.exporter(&[]);
    turn_into("01-healthy", &host, &exporter);
    let mut reader = Reader::open(&exporter, &[("Last-Event-ID", &last)]);
    assert_eq!([reader.event(), reader.event(), reader.event()], kept(&exporter)[..], "{last}");
}

#[test]
fn a_stream_is_named_after_the_start() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let before = now();
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let Reader { last, .. } = Reader::open(&exporter, &[]);
    let (start, "0") = last.split_once('-').unwrap() else { panic!("{last}") };
    assert!((before..=now()).contains(&start.parse().unwrap()), "{last}");
}

#[test]
fn a_place_is_soon_free_when_its_reader_is_gone() {
    let (_host, exporter) = after_two_failures();
    let mut readers: Vec<_> = (0..LIMIT).map(|_| Reader::open(&exporter, &[])).collect();
    let gone = Instant::now();
    readers.pop();
    // The slot becomes free although no event occurs.
    eventually("there is room again", || Reader::try_open(&exporter, &[]).ok());
    let took = gone.elapsed();
    assert!(took < Duration::from_secs(14), "it took {took:?}");
}

#[test]
fn a_name_is_not_part_of_the_frame() {
    let host = Host::recorded("01-healthy");
    let exporter = host.exporter(&[]);
    let mut reader = Reader::open(&exporter, &[]);
    for (minor, name) in (10..).zip(HOSTILE) {
        host.sysfs.add_map(minor, name, [b"mpath-", name].concat(), &[]);
    }
    exporter.signal(Signal::HUP);
    let mut names: Vec<_> = HOSTILE.iter().map(|_| reader.event()["name"].as_str().unwrap().to_owned()).collect();
    names.sort_unstable();
    let mut wanted: Vec<_> = HOSTILE.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}

#[test]
fn streams_have_a_bound_of_their_own() {
    let (host, exporter) = after_two_failures();
    let mut readers: Vec<_> = (0..LIMIT).map(|_| Reader::open(&exporter, &[])).collect();
    let refused = Reader::try_open(&exporter, &[]).err().expect("one more is refused");
    assert_eq!(
        (refused.status, refused.text()),
        (503, "too many event streams are open: close one, or try again later\n")
    );
    for path in ["/", "/metrics", "/api/v1/events"] {
        assert_eq!(exporter.get(path).status, 200, "{path}");
    }
    // The server notices that a reader is gone only when it writes. The first write causes a reset,
    // and the second one fails.
    readers.pop();
    turn_into("01-healthy", &host, &exporter);
    turn_into("02-net1-lost", &host, &exporter);
    eventually("there is room again", || Reader::try_open(&exporter, &[]).ok());
}

#[test]
fn who_asks_for_the_head_takes_no_place() {
    let (_host, exporter) = after_two_failures();
    for _ in 0..LIMIT + 1 {
        let answer = exporter.connect().request("HEAD", "/api/v1/events", &[("Accept", "text/event-stream")]);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
    }
    Reader::open(&exporter, &[]);
}

#[test]
fn a_stream_ends_with_the_exporter_and_does_not_delay_it() {
    let (_host, mut exporter) = after_two_failures();
    let mut readers = [Reader::open(&exporter, &[]), Reader::open(&exporter, &[])];
    let told = Instant::now();
    exporter.signal(Signal::TERM);
    for reader in &mut readers {
        assert_eq!(reader.frame(), None);
    }
    assert_eq!(exporter.wait().code(), Some(0));
    let took = told.elapsed();
    assert!(took < Duration::from_millis(900), "it took {took:?}, as if the streams had been waited for");
}
