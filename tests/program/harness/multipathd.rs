//! A fake multipathd for behaviour that a real daemon does not show on demand: it hangs, lies, cuts
//! its answer short, or dies halfway. The lab uses the real daemon.
//!
//! The fake speaks the protocol of `libmpathcmd` on a socket in a temporary directory. Both sides
//! send a length in the machine's byte order and then that many bytes. The last byte is NUL.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use tempfile::TempDir;

use super::eventually;

/// The daemon's reaction to a request.
#[derive(Clone)]
pub enum Reply {
    /// Sends this text in the protocol's framing.
    Text(String),
    /// Sends bytes that are not valid text in the protocol's framing.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Raw(Vec<u8>),
    /// Sends nothing until it receives another reply, and then sends that.
    Hold,
}

impl Reply {
    /// The answer, cut after this many bytes of the text.
    pub fn cut(text: &str, length: usize) -> Self {
        Reply::Raw(framed(text.as_bytes())[..8 + length].to_vec())
    }

    /// The daemon closes the connection without an answer.
    pub fn closed() -> Self {
        Reply::Raw(Vec::new())
    }
}

fn framed(text: &[u8]) -> Vec<u8> {
    [&(text.len() + 1).to_ne_bytes()[..], text, b"\0"].concat()
}

/// The requests and the daemon's replies.
struct Script {
    daemon: Reply,
    maps: Reply,
    paths: Reply,
    asked: u64,
    asked_for_paths: u64,
    ended: bool,
}

#[derive(Clone, Copy)]
enum Question {
    Daemon,
    Maps,
    Paths,
}

impl Script {
    fn reply(&self, question: Question) -> &Reply {
        match question {
            Question::Daemon => &self.daemon,
            Question::Maps => &self.maps,
            Question::Paths => &self.paths,
        }
    }
}

struct Shared {
    script: Mutex<Script>,
    changed: Condvar,
}

/// The daemon. Dropping it removes its socket.
pub struct FakeMultipathd {
    directory: TempDir,
    shared: Arc<Shared>,
}

impl FakeMultipathd {
    /// A healthy daemon that answers `show maps json` with this reply and knows no path.
    pub fn start(maps: Reply) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        let daemon = Reply::Text("pid 4711 idle\n".to_owned());
        let paths = Reply::Text("\n".to_owned());
        let script = Script { daemon, maps, paths, asked: 0, asked_for_paths: 0, ended: false };
        let shared = Arc::new(Shared { script: Mutex::new(script), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ours.script.lock().unwrap().ended {
                    return;
                }
                let ours = Arc::clone(&ours);
                thread::spawn(move || ours.answer(stream.unwrap()));
            }
        });
        FakeMultipathd { directory, shared }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Sets the answer to `show daemon`.
    pub fn daemon(&self, reply: Reply) {
        self.shared.script.lock().unwrap().daemon = reply;
        self.shared.changed.notify_all();
    }

    /// Sets the answer to `show maps json`.
    pub fn maps(&self, reply: Reply) {
        self.shared.script.lock().unwrap().maps = reply;
        self.shared.changed.notify_all();
    }

    /// Sets the answer to `show paths raw format %d`.
    pub fn paths(&self, reply: Reply) {
        self.shared.script.lock().unwrap().paths = reply;
        self.shared.changed.notify_all();
    }

    /// The number of requests for paths.
    pub fn asked_for_paths(&self) -> u64 {
        self.shared.script.lock().unwrap().asked_for_paths
    }

    /// Runs `something`, and waits until the daemon receives a new request.
    pub fn asked_after(&self, something: impl FnOnce()) {
        let asked = || self.shared.script.lock().unwrap().asked;
        let before = asked();
        something();
        eventually("multipathd is asked", || (asked() > before).then_some(()));
    }
}

impl Drop for FakeMultipathd {
    fn drop(&mut self) {
        self.shared.script.lock().unwrap().ended = true;
        self.shared.changed.notify_all();
        // This connection wakes the listener.
        drop(UnixStream::connect(self.socket()));
    }
}

impl Shared {
    /// Errors mean that the client has left. Tests cause them on purpose.
    fn answer(&self, mut stream: UnixStream) {
        let mut length = [0; size_of::<usize>()];
        if stream.read_exact(&mut length).is_err() {
            return;
        }
        let mut question = vec![0; usize::from_ne_bytes(length)];
        if stream.read_exact(&mut question).is_err() {
            return;
        }
        let question = match question.as_slice() {
            b"show daemon\0" => Question::Daemon,
            b"show maps json\0" => Question::Maps,
            b"show paths raw format %d\0" => Question::Paths,
            other => panic!("the exporter asked {:?}", String::from_utf8_lossy(other)),
        };
        let mut script = self.script.lock().unwrap();
        script.asked += 1;
        script.asked_for_paths += u64::from(matches!(question, Question::Paths));
        let held = |script: &mut Script| matches!(script.reply(question), Reply::Hold) && !script.ended;
        let script = self.changed.wait_while(script, held).unwrap();
        let reply = script.reply(question).clone();
        drop(script);
        let bytes = match reply {
            Reply::Text(text) => framed(text.as_bytes()),
            Reply::Bytes(bytes) => framed(&bytes),
            Reply::Raw(bytes) => bytes,
            Reply::Hold => return,
        };
        drop(stream.write_all(&bytes));
    }
}
