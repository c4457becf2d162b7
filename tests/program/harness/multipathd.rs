//! A fake multipathd, for what a real one will not do on demand: hang, lie, cut itself short, die halfway. The real one
//! is asked in the lab.
//!
//! It speaks the protocol of `libmpathcmd` on a socket in a temporary directory: both ways a length in the machine's
//! own byte order, then that many bytes, the last of them NUL.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use tempfile::TempDir;

use super::eventually;

/// What it does when it is asked something.
#[derive(Clone)]
pub enum Reply {
    /// Answers this text, as the protocol has it.
    Text(String),
    /// The same for text that is none.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Raw(Vec<u8>),
    /// Says nothing until it is given another reply, then says that.
    Hold,
}

impl Reply {
    /// The answer cut after this many bytes of the text.
    pub fn cut(text: &str, length: usize) -> Self {
        Reply::Raw(framed(text.as_bytes())[..8 + length].to_vec())
    }

    /// A connection closed without a word.
    pub fn closed() -> Self {
        Reply::Raw(Vec::new())
    }
}

fn framed(text: &[u8]) -> Vec<u8> {
    [&(text.len() + 1).to_ne_bytes()[..], text, b"\0"].concat()
}

/// What it is asked, and what it says to that.
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

/// The daemon; its socket is gone when it is dropped.
pub struct FakeMultipathd {
    directory: TempDir,
    shared: Arc<Shared>,
}

impl FakeMultipathd {
    /// A daemon that is well, answers this to `show maps json`, and knows no path.
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

    /// From now on this is the answer to `show daemon`.
    pub fn daemon(&self, reply: Reply) {
        self.shared.script.lock().unwrap().daemon = reply;
        self.shared.changed.notify_all();
    }

    /// From now on this is the answer to `show maps json`.
    pub fn maps(&self, reply: Reply) {
        self.shared.script.lock().unwrap().maps = reply;
        self.shared.changed.notify_all();
    }

    /// From now on this is the answer to `show paths raw format %d`.
    pub fn paths(&self, reply: Reply) {
        self.shared.script.lock().unwrap().paths = reply;
        self.shared.changed.notify_all();
    }

    /// How often it has been asked for its paths.
    pub fn asked_for_paths(&self) -> u64 {
        self.shared.script.lock().unwrap().asked_for_paths
    }

    /// Does something, and waits until the daemon has been asked something anew.
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
        // The listener waits for this one.
        drop(UnixStream::connect(self.socket()));
    }
}

impl Shared {
    /// Errors are those of a client that has left, which tests make happen.
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
