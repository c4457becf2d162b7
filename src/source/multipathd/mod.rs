//! multipathd: what the daemon says over its socket, `multipathd(8)` and multipath-tools' `libmpathcmd`.
//!
//! [`Client`] asks and gets text; [`parse_maps`] makes values of it. Between the two is only bytes, so that a recorded
//! reply can stand in for a daemon.
//!
//! The socket is asked directly, because `multipathd show …` is a program and we start none. What the daemon does with
//! the two requests, read in its source from 0.7.4 to 0.14.3:
//!
//! - `show daemon` takes no lock (`cli_list_daemon`), so it answers during a reconfigure. Up to 0.8.7 one thread served
//!   all clients in turn and waited for the lock in the name of each (`uxsock_trigger`): there it may wait behind
//!   somebody else's request.
//! - `show maps json` waits for the lock, for `uxsock_timeout` (4 s or more), then reads every map from the kernel anew
//!   (`show_maps_json`). Where one of them cannot be read, the daemon forgets that map and answers `fail` for all. Up to
//!   0.9.7 it also marks each path that the kernel holds failed as `faulty`, counts a path fault if it was not
//!   (`update_multipath`), and so forgets until its next check that a path is `delayed` or ran into an `i/o timeout`.

mod json;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Once};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

pub(crate) use json::{Map, Maps, Path, parse_maps};

/// Where multipathd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketName {
    /// A socket in the file system. Can be mounted into a container.
    Path(PathBuf),
    /// An abstract socket, without the `@`. Only reachable from the daemon's own network namespace.
    Abstract(String),
}

/// The kernel's `sun_path` has 108 bytes, one of which ends a path or begins an abstract name.
const MAX_SOCKET_NAME: usize = 107;

/// A socket name that no socket can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSocketName {
    /// Nothing, or only `@`.
    #[error("the name of the socket is empty")]
    Empty,
    /// Longer than the kernel's address structure.
    #[error("the name of the socket has {0} bytes, {MAX_SOCKET_NAME} is the limit: {1:?}")]
    TooLong(usize, String),
    /// A byte that would end the name early.
    #[error("the name of the socket has a NUL byte: {0:?}")]
    Nul(String),
}

impl FromStr for SocketName {
    type Err = InvalidSocketName;

    fn from_str(text: &str) -> Result<Self, InvalidSocketName> {
        let (name, is_abstract) = match text.strip_prefix('@') {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.is_empty() {
            return Err(InvalidSocketName::Empty);
        }
        if name.len() > MAX_SOCKET_NAME {
            return Err(InvalidSocketName::TooLong(name.len(), text.to_owned()));
        }
        if name.contains('\0') {
            return Err(InvalidSocketName::Nul(text.to_owned()));
        }
        Ok(match is_abstract {
            true => SocketName::Abstract(name.to_owned()),
            false => SocketName::Path(name.into()),
        })
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketName::Path(path) => path.display().fmt(f),
            SocketName::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

impl SocketName {
    async fn connect(&self) -> io::Result<UnixStream> {
        match self {
            SocketName::Path(path) => UnixStream::connect(path).await,
            // tokio takes a leading NUL for an abstract name, as the kernel does.
            SocketName::Abstract(name) => UnixStream::connect(format!("\0{name}")).await,
        }
    }
}

/// Where multipathd listens unless it was built otherwise.
///
/// The path came with 0.12 and goes first, because it alone reaches the daemon from a container. Where systemd's
/// `multipathd.socket` is enabled, which upstream stopped doing in 0.9.8, systemd holds the abstract one, and
/// connecting to it starts a daemon that was stopped.
fn default_sockets() -> Vec<SocketName> {
    vec![
        SocketName::Path("/run/multipathd.socket".into()),
        SocketName::Abstract("/org/kernel/linux/storage/multipathd".to_owned()),
    ]
}

/// Why multipathd told us nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody listens: an ordinary state of a host, not a fault of ours.
    #[error("multipathd is not running: {tried}")]
    NotRunning {
        /// Each socket and what connecting to it gave.
        tried: String,
    },
    /// Another user's program listens there, and any user may take an abstract name that is free.
    #[error("a program of user {uid} listens at {socket}, and multipathd runs as root: the exporter does not ask it")]
    Impostor {
        /// The socket that was connected.
        socket: SocketName,
        /// The user.
        uid: u32,
    },
    /// It accepted the connection, and hangs or waits for its lock.
    #[error("multipathd at {socket} did not answer `{request}` within {timeout:?}")]
    Timeout {
        /// The socket that was connected.
        socket: SocketName,
        /// What we asked.
        request: &'static str,
        /// How long we waited.
        timeout: Duration,
    },
    /// It answered that it cannot or may not do it: it is alive, and the next time may go better.
    #[error("multipathd at {socket} refused `{request}`: \"{reply}\"")]
    Refused {
        /// The socket that was connected.
        socket: SocketName,
        /// What we asked.
        request: &'static str,
        /// The first bytes of what it said, escaped.
        reply: String,
    },
    /// What came back is no answer.
    #[error("multipathd at {socket} gave no answer to `{request}`: {problem}")]
    Broken {
        /// The socket, or all of them where none could be connected.
        socket: String,
        /// What we asked.
        request: &'static str,
        /// What was wrong.
        problem: String,
    },
}

/// What `show daemon` answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonState {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its own word: `idle`, `running`, `configure`, `init`, `startup`, `shutdown`, or one we have not met.
    pub(crate) state: Arc<str>,
}

const SHOW_DAEMON: &str = "show daemon";
const SHOW_MAPS: &str = "show maps json";
const SHOW_PATH_NAMES: &str = "show paths raw format %d";

/// A reply announced as longer than this is not read. multipathd's own client refuses 32 MiB, which its authors reckon
/// to be 10,000 maps or 60,000 paths; twice that still fits in the memory of any host that has them. Without a bound a
/// wrong socket in the configuration could make us hold whatever it sends.
const MAX_REPLY: usize = 64 << 20;
/// Where it is known how many maps there are, a reply may be as long as this for each. multipathd needs about 3 KiB for a map
/// and 600 bytes for a path, so this is a map of 100 paths.
const MAX_OF_MAP: usize = 64 << 10;
/// A reply may always be as long as this: some maps may be so new that nobody has counted them.
const MAX_OF_FEW: usize = 1 << 20;

/// multipathd reads every map from the kernel for `show maps json`, after it has waited for its lock for 4 s or more. So that
/// answer may take this many times as long as another one.
const MAPS_PATIENCE: u32 = 5;

/// Asks multipathd.
///
/// Every request makes a connection of its own. A kept one would break at each restart of the daemon, and after a
/// timeout it would deliver the late reply to the next request.
#[derive(Clone, Debug)]
pub struct Client {
    sockets: Vec<SocketName>,
    timeout: Duration,
    /// The user besides root whose program may be multipathd.
    user: Option<u32>,
    /// The user that all unknown ones are shown as, if this process is in a user namespace.
    unknown_user: Option<u32>,
    /// The directory whose files answer instead, read by one thread: who waits in the kernel for a file may do so for good.
    recorded: Option<(PathBuf, Arc<Semaphore>)>,
}

/// What we ask, and the file that a reply to it is recorded in.
const REQUESTS: [(&str, &str); 3] =
    [(SHOW_DAEMON, "show-daemon.txt"), (SHOW_MAPS, "show-maps.json"), (SHOW_PATH_NAMES, "show-paths.txt")];

impl Client {
    /// A client that tries multipathd's own sockets, and gives a whole exchange this long. Only root's program is believed there.
    pub(crate) fn new(timeout: Duration) -> Self {
        Client { sockets: default_sockets(), timeout, user: None, unknown_user: unknown_user(), recorded: None }
    }

    /// The same for these sockets, in this order. A program of our own user is believed there, too.
    pub(crate) fn at(sockets: Vec<SocketName>, timeout: Duration) -> Self {
        let user = Some(rustix::process::geteuid().as_raw());
        Client { sockets, user, ..Client::new(timeout) }
    }

    /// One that gives the replies which [`Client::record`] gave, from files in this directory.
    pub(crate) fn recorded(directory: PathBuf, timeout: Duration) -> Self {
        Client {
            sockets: vec![SocketName::Path(directory.clone())],
            timeout,
            user: None,
            unknown_user: None,
            recorded: Some((directory, Arc::new(Semaphore::new(1)))),
        }
    }

    /// Asks all that we ask: the name of a file for each reply, refusals among them, and what came of the rest.
    pub(crate) async fn record(&self) -> (Vec<(&'static str, Vec<u8>)>, Vec<Error>) {
        let (mut replies, mut errors) = (Vec::new(), Vec::new());
        for (request, file) in REQUESTS {
            let patience = self.patience(request);
            let mut reply = self.reply(request, patience, MAX_REPLY).await;
            // As `show_maps` does it.
            if request == SHOW_MAPS && reply.as_ref().is_ok_and(|(_, reply)| reply.trim_ascii_end() == b"fail") {
                reply = self.reply(request, patience, MAX_REPLY).await;
            }
            match reply {
                Ok((_, reply)) => replies.push((file, reply)),
                Err(error) => {
                    errors.push(error);
                    // Who does not answer this is asked nothing else.
                    if request == SHOW_DAEMON {
                        break;
                    }
                }
            }
        }
        (replies, errors)
    }

    /// How long all exchanges together may take: one of each.
    pub(crate) fn longest(&self) -> Duration {
        REQUESTS.iter().map(|(request, _)| self.patience(request).timeout).sum()
    }

    /// How long an answer may take.
    fn patience(&self, request: &str) -> Patience {
        Patience::of(if request == SHOW_MAPS { self.timeout * MAPS_PATIENCE } else { self.timeout })
    }

    /// The daemon's state, `show daemon`.
    pub(crate) async fn show_daemon(&self) -> Result<DaemonState, Error> {
        let (socket, reply) = self.request(SHOW_DAEMON, self.patience(SHOW_DAEMON), MAX_OF_FEW).await?;
        parse_daemon_state(&reply).ok_or_else(|| Error::Broken {
            socket: socket.to_string(),
            request: SHOW_DAEMON,
            problem: format!("not the state of a daemon: \"{}\"", excerpt(&reply)),
        })
    }

    /// The text of `show maps json`, for [`parse_maps`].
    ///
    /// A map that vanishes while the daemon reads them makes it answer a bare `fail`, but it forgets the map too, so a
    /// second request gives the others. There is no third: by then something else is wrong.
    ///
    /// `known` is how many maps there are, if that is known: a reply that is far too long for them is not read.
    pub(crate) async fn show_maps(&self, known: Option<usize>) -> Result<Vec<u8>, Error> {
        let most = known.map_or(MAX_REPLY, |maps| maps.saturating_mul(MAX_OF_MAP).saturating_add(MAX_OF_FEW));
        let (patience, most) = (self.patience(SHOW_MAPS), most.min(MAX_REPLY));
        let reply = match self.request(SHOW_MAPS, patience, most).await {
            Err(Error::Refused { reply, .. }) if reply == "fail" => self.request(SHOW_MAPS, patience, most).await,
            other => other,
        };
        reply.map(|(_, reply)| reply)
    }

    /// The kernel names of all paths that it knows, `show paths`: what its configuration blacklists is not among them.
    pub(crate) async fn show_path_names(&self) -> Result<HashSet<String>, Error> {
        let (_, reply) = self.request(SHOW_PATH_NAMES, self.patience(SHOW_PATH_NAMES), MAX_REPLY).await?;
        Ok(String::from_utf8_lossy(&reply).split_ascii_whitespace().map(str::to_owned).collect())
    }

    async fn request(
        &self,
        request: &'static str,
        patience: Patience,
        most: usize,
    ) -> Result<(&SocketName, Vec<u8>), Error> {
        let (socket, reply) = self.reply(request, patience, most).await?;
        match is_refusal(&reply) {
            true => Err(Error::Refused { socket: socket.clone(), request, reply: excerpt(reply.trim_ascii_end()) }),
            false => Ok((socket, reply)),
        }
    }

    /// Its words, be they a refusal.
    async fn reply(
        &self,
        request: &'static str,
        Patience { timeout, deadline }: Patience,
        most: usize,
    ) -> Result<(&SocketName, Vec<u8>), Error> {
        if let (Some((directory, one)), [socket]) = (&self.recorded, self.sockets.as_slice()) {
            let names = REQUESTS.iter().filter(|(recorded, _)| *recorded == request);
            let file = names.map(|(_, file)| directory.join(file)).collect::<PathBuf>();
            let tried = |error| Error::NotRunning { tried: format!("{}: {error}", file.display()) };
            let reading = async {
                let permit = Arc::clone(one).acquire_owned().await.map_err(io::Error::other)?;
                let file = file.clone();
                let read = move || (std::fs::read(file), permit).0;
                tokio::task::spawn_blocking(read).await?
            };
            return match timeout_at(deadline, reading).await {
                Err(_) => Err(Error::Timeout { socket: socket.clone(), request, timeout }),
                Ok(read) => Ok((socket, read.map_err(tried)?)),
            };
        }
        let (socket, stream) = self.connect(request).await?;
        let broken = |problem| Error::Broken { socket: socket.to_string(), request, problem };
        match timeout_at(deadline, exchange(stream, request, most)).await {
            Err(_) => Err(Error::Timeout { socket: socket.clone(), request, timeout }),
            Ok(reply) => Ok((socket, reply.map_err(broken)?)),
        }
    }

    /// Whether a program of this user may be multipathd, which is root's. The kernel tells the user that began to listen,
    /// `SO_PEERCRED` in `unix(7)`.
    fn may_be_multipathd(&self, uid: u32) -> bool {
        static TOLD: Once = Once::new();
        let is_unknown = self.unknown_user == Some(uid);
        if is_unknown {
            TOLD.call_once(|| {
                warn!("the exporter cannot check whose program multipathd is: it runs in a user namespace");
            });
        }
        is_unknown || uid == 0 || Some(uid) == self.user
    }

    /// Needs no timeout: connecting a Unix socket never waits, a full backlog is an error at once.
    async fn connect(&self, request: &'static str) -> Result<(&SocketName, UnixStream), Error> {
        let mut errors = Vec::new();
        let mut impostor = None;
        for socket in &self.sockets {
            let connected = socket.connect().await;
            match connected.and_then(|stream| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) if self.may_be_multipathd(uid) => return Ok((socket, stream)),
                Ok((uid, _)) => impostor = Some(Error::Impostor { socket: socket.clone(), uid }),
                Err(error) => errors.push((socket, error)),
            }
        }
        if let Some(impostor) = impostor {
            return Err(impostor);
        }
        let absent =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        let tried: Vec<_> = errors.iter().map(|(socket, error)| format!("{socket}: {error}")).collect();
        let tried = tried.join("; ");
        if errors.iter().all(|(_, error)| absent(error)) {
            return Err(Error::NotRunning { tried });
        }
        let sockets: Vec<_> = errors.iter().map(|(socket, _)| socket.to_string()).collect();
        Err(Error::Broken { socket: sockets.join(", "), request, problem: format!("cannot connect: {tried}") })
    }
}

/// How long an answer may take, and until when that is.
#[derive(Clone, Copy)]
struct Patience {
    timeout: Duration,
    deadline: Instant,
}

impl Patience {
    fn of(timeout: Duration) -> Self {
        Patience { timeout, deadline: Instant::now() + timeout }
    }
}

/// The user that the kernel shows in place of all that this user namespace does not know, root of the host among them. `None`
/// outside of user namespaces, see `user_namespaces(7)`.
fn unknown_user() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
        return None;
    }
    let user = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    Some(user.and_then(|user| user.trim_end().parse().ok()).unwrap_or(65534))
}

/// Sends the request and reads the reply, both a length followed by text that ends with a NUL.
///
/// The length is a C `size_t`, hence `usize`: 8 bytes, but 4 on a 32-bit host.
async fn exchange(mut stream: UnixStream, request: &str, most: usize) -> Result<Vec<u8>, String> {
    // In one piece: the daemon takes for granted that the first read gives the whole length.
    let mut message = (request.len() + 1).to_ne_bytes().to_vec();
    message.extend_from_slice(request.as_bytes());
    message.push(0);
    stream.write_all(&message).await.map_err(|error| format!("cannot send: {error}"))?;

    let length = read_up_to(&mut stream, size_of::<usize>()).await?;
    let Ok(length) = <[u8; size_of::<usize>()]>::try_from(length.as_slice()) else {
        return Err(match length.len() {
            0 => "it closed the connection".to_owned(),
            n => format!("the length of the reply is cut short: {n} of {} bytes", size_of::<usize>()),
        });
    };
    let length = usize::from_ne_bytes(length);
    if length == 0 {
        return Err("a reply of no length".to_owned());
    }
    if length > most {
        return Err(format!("a reply of {length} bytes, more than {most}"));
    }
    let mut reply = read_up_to(&mut stream, length).await?;
    if reply.len() < length {
        let n = reply.len();
        return Err(format!("the reply is cut short: {n} of {length} bytes, \"{}\"", excerpt(&reply)));
    }
    reply.truncate(reply.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
    Ok(reply)
}

/// Reads this many bytes, or fewer where the stream ends.
///
/// The buffer grows with what arrives and not to the length that was announced: a stream that announces much and sends
/// nothing costs nothing.
async fn read_up_to(stream: &mut UnixStream, length: usize) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    match stream.take(length as u64).read_to_end(&mut buffer).await {
        Ok(_) => Ok(buffer),
        Err(error) => Err(format!("cannot receive: {error}, after \"{}\"", excerpt(&buffer))),
    }
}

/// Whether the reply says that the request was not done.
///
/// Up to 0.9.7 the reason stands alone, since then on the line after `fail` (`default_reply`).
fn is_refusal(reply: &[u8]) -> bool {
    let line = reply.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    line == b"fail" || line == b"timeout" || line.starts_with(b"permission deny")
}

/// Reads `pid 1234 idle`. Since 0.10 ` (pending reconfigure)` may follow, which is not part of the state.
fn parse_daemon_state(reply: &[u8]) -> Option<DaemonState> {
    let reply = String::from_utf8_lossy(reply);
    let mut words = reply.split_ascii_whitespace();
    match (words.next()?, words.next()?.parse(), words.next()?) {
        ("pid", Ok(pid), state) => Some(DaemonState { pid, state: state.into() }),
        _ => None,
    }
}

/// The beginning of a text that was not understood: enough to know it again, short enough for a log line.
fn excerpt(bytes: &[u8]) -> String {
    const LENGTH: usize = 60;
    match bytes.get(..LENGTH) {
        Some(start) if bytes.len() > LENGTH => format!("{}…", start.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    //! The daemon here is a fake: a listener that speaks the protocol as badly as a test wants. The real one will not,
    //! when asked, hang, lie about a length or cut a reply, and it is not there in an ordinary `cargo test`.

    use std::sync::atomic::{AtomicU32, Ordering};

    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// Long enough that no test which expects an answer ever waits for it.
    const LONG: Duration = Duration::from_secs(60);

    struct Fake {
        directory: TempDir,
        listener: UnixListener,
    }

    impl Fake {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
            Fake { directory, listener }
        }

        fn socket(&self) -> SocketName {
            SocketName::Path(self.directory.path().join("socket"))
        }

        fn client(&self) -> Client {
            Client::at(vec![self.socket()], LONG)
        }

        /// Takes a connection and reads its request.
        async fn accept(&self) -> (UnixStream, Vec<u8>) {
            accept(&self.listener).await
        }

        /// Answers each connection with the next of these, as they are, and closes it.
        fn answer(self, answers: Vec<Vec<u8>>) -> JoinHandle<Vec<Vec<u8>>> {
            tokio::spawn(async move {
                let mut requests = Vec::new();
                for answer in answers {
                    let (mut stream, request) = self.accept().await;
                    stream.write_all(&answer).await.unwrap();
                    requests.push(request);
                }
                requests
            })
        }
    }

    async fn accept(listener: &UnixListener) -> (UnixStream, Vec<u8>) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut length = [0; size_of::<usize>()];
        stream.read_exact(&mut length).await.unwrap();
        let mut request = vec![0; usize::from_ne_bytes(length)];
        stream.read_exact(&mut request).await.unwrap();
        (stream, request)
    }

    fn reply(text: &str) -> Vec<u8> {
        announced(text.len() + 1, &format!("{text}\0"))
    }

    fn announced(length: usize, text: &str) -> Vec<u8> {
        [&length.to_ne_bytes(), text.as_bytes()].concat()
    }

    /// What `show daemon` makes of an answer, the socket's name replaced.
    async fn daemon(answer: Vec<u8>) -> Result<DaemonState, String> {
        let fake = Fake::start();
        let (client, socket) = (fake.client(), fake.socket().to_string());
        let answered = fake.answer(vec![answer]);
        let state = client.show_daemon().await.map_err(|error| error.to_string().replace(&socket, "SOCKET"));
        assert_eq!(answered.await.unwrap(), [b"show daemon\0"]);
        state
    }

    #[test]
    fn socket_names() {
        let path: SocketName = "/run/multipathd.socket".parse().unwrap();
        assert_eq!(path, SocketName::Path("/run/multipathd.socket".into()));
        let name: SocketName = "@/org/kernel/linux/storage/multipathd".parse().unwrap();
        assert_eq!(name, SocketName::Abstract("/org/kernel/linux/storage/multipathd".to_owned()));
        assert_eq!(default_sockets(), [path, name]);
        for name in ["/run/a", "@a", "relative"] {
            assert_eq!(name.parse::<SocketName>().unwrap().to_string(), name);
        }
        let longest = "x".repeat(107);
        assert!(longest.parse::<SocketName>().is_ok() && format!("@{longest}").parse::<SocketName>().is_ok());
        let error = |name: &str| name.parse::<SocketName>().unwrap_err().to_string();
        assert_eq!(error(""), "the name of the socket is empty");
        assert_eq!(error("@"), "the name of the socket is empty");
        assert_eq!(error("/a\0b"), r#"the name of the socket has a NUL byte: "/a\0b""#);
        let long = "x".repeat(108);
        assert_eq!(error(&long), format!("the name of the socket has 108 bytes, 107 is the limit: {long:?}"));
        assert_eq!(
            error(&format!("@{long}")),
            format!("the name of the socket has 108 bytes, 107 is the limit: \"@{long}\"")
        );
    }

    #[tokio::test]
    async fn a_recorded_reply_is_not_awaited_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("show-daemon.txt");
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let client = Client::recorded(directory.path().to_owned(), Duration::from_millis(50));
        assert!(matches!(client.show_daemon().await, Err(Error::Timeout { .. })));
        // Lets the reader go.
        std::fs::OpenOptions::new().write(true).open(fifo).unwrap();
    }

    /// The longest names must really fit into the address.
    #[tokio::test]
    async fn the_longest_names_can_be_connected() {
        let directory = tempfile::tempdir().unwrap();
        let mut path = directory.path().to_str().unwrap().to_owned() + "/";
        path.push_str(&"x".repeat(MAX_SOCKET_NAME - path.len()));
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(path.parse::<SocketName>().unwrap().connect().await.is_ok());

        let name = format!("{:x>MAX_SOCKET_NAME$}", unique_name());
        let _listener = UnixListener::bind(format!("\0{name}")).unwrap();
        assert!(format!("@{name}").parse::<SocketName>().unwrap().connect().await.is_ok());
    }

    /// Abstract names belong to the whole network namespace, other test runs included.
    fn unique_name() -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        format!("multipath_exporter/test/{}/{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
    }

    #[tokio::test]
    async fn states_of_the_daemon() {
        for (text, pid, state) in [
            ("pid 1234 idle\n", 1234, "idle"),
            ("pid 1 running", 1, "running"),
            ("pid 7 configure (pending reconfigure)\n", 7, "configure"),
            ("pid 7 pondering\n", 7, "pondering"),
        ] {
            assert_eq!(daemon(reply(text)).await, Ok(DaemonState { pid, state: state.into() }), "{text:?}");
        }
    }

    /// 0.7 and 0.8 count the NUL of some replies and not of others.
    #[tokio::test]
    async fn a_reply_needs_no_nul() {
        let text = "pid 1234 idle";
        assert_eq!(daemon(announced(text.len(), text)).await.unwrap().pid, 1234);
    }

    #[tokio::test]
    async fn what_the_daemon_will_not_do() {
        for (text, shown) in [
            ("fail\n", "fail"),
            ("fail\npermission deny: need to be root\n", r"fail\npermission deny: need to be root"),
            ("permission deny: need to be root", "permission deny: need to be root"),
            ("timeout\n", "timeout"),
            ("fail\ntimeout\n", r"fail\ntimeout"),
        ] {
            let error = daemon(reply(text)).await.unwrap_err();
            assert_eq!(error, format!(r#"multipathd at SOCKET refused `show daemon`: "{shown}""#));
        }
    }

    #[tokio::test]
    async fn answers_that_are_none() {
        let nothing = |problem: &str| format!("multipathd at SOCKET gave no answer to `show daemon`: {problem}");
        for (answer, problem) in [
            (vec![], "it closed the connection"),
            (vec![1, 2, 3], "the length of the reply is cut short: 3 of 8 bytes"),
            (announced(0, ""), "a reply of no length"),
            (announced(usize::MAX, "x"), "a reply of 18446744073709551615 bytes, more than 1048576"),
            (announced(MAX_OF_FEW + 1, "x"), "a reply of 1048577 bytes, more than 1048576"),
            (announced(20, "pid 1 id"), r#"the reply is cut short: 8 of 20 bytes, "pid 1 id""#),
            (announced(MAX_OF_FEW, "pid"), r#"the reply is cut short: 3 of 1048576 bytes, "pid""#),
            (reply("pid many idle"), r#"not the state of a daemon: "pid many idle""#),
            (reply("pid 1"), r#"not the state of a daemon: "pid 1""#),
            (reply(""), r#"not the state of a daemon: """#),
            (b"HTTP/1.1 400 Bad Request".to_vec(), "a reply of 3543824036068086856 bytes, more than 1048576"),
        ] {
            assert_eq!(daemon(answer).await, Err(nothing(problem)));
        }
    }

    #[tokio::test]
    async fn maps_come_back_as_they_were_sent() {
        let fake = Fake::start();
        let client = fake.client();
        let text = "{}\n".repeat(1 << 20);
        let answered = fake.answer(vec![reply(&text)]);
        assert!(client.show_maps(None).await.unwrap() == text.as_bytes());
        assert_eq!(answered.await.unwrap(), [b"show maps json\0"]);
    }

    #[tokio::test]
    async fn maps_are_asked_for_once_more_when_one_vanished() {
        let fake = Fake::start();
        let client = fake.client();
        let answered =
            fake.answer(vec![reply("fail\n"), reply("{}"), reply("fail\n"), reply("fail\n"), reply("timeout\n")]);
        assert_eq!(client.show_maps(None).await.unwrap(), b"{}");
        assert!(matches!(client.show_maps(None).await, Err(Error::Refused { .. })));
        assert!(matches!(client.show_maps(None).await, Err(Error::Refused { .. })));
        assert_eq!(answered.await.unwrap().len(), 5);
    }

    /// The clock of a paused runtime goes to the next timer as soon as nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_not_waited_for() {
        let fake = Fake::start();
        let timeout = Duration::from_secs(2);
        let client = Client::at(vec![fake.socket()], timeout);
        let start = Instant::now();
        let error = client.show_daemon().await.unwrap_err();
        assert!((timeout..timeout * 2).contains(&start.elapsed()));
        let socket = fake.socket();
        assert_eq!(error.to_string(), format!("multipathd at {socket} did not answer `show daemon` within 2s"));
    }

    #[tokio::test(start_paused = true)]
    async fn asking_once_more_has_no_time_of_its_own() {
        let fake = Fake::start();
        let client = Client::at(vec![fake.socket()], Duration::from_secs(2) / MAPS_PATIENCE);
        let start = Instant::now();
        let fail_late_then_hang = async {
            let (mut stream, _) = fake.accept().await;
            tokio::time::advance(Duration::from_millis(1500)).await;
            stream.write_all(&reply("fail\n")).await.unwrap();
            fake.accept().await
        };
        let (maps, _) = tokio::join!(client.show_maps(None), fail_late_then_hang);
        assert!(matches!(maps, Err(Error::Timeout { .. })));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn all_maps_may_take_longer_than_the_state() {
        let fake = Fake::start();
        let client = Client::at(vec![fake.socket()], Duration::from_secs(2));
        let answer_late = async {
            let (mut stream, _) = fake.accept().await;
            tokio::time::advance(Duration::from_secs(9)).await;
            stream.write_all(&reply("{}")).await.unwrap();
        };
        let (maps, ()) = tokio::join!(client.show_maps(None), answer_late);
        assert_eq!(maps.unwrap(), b"{}");
        assert_eq!(client.longest(), Duration::from_secs(14));
    }

    #[tokio::test]
    async fn a_reply_far_too_long_for_the_maps_that_there_are_is_not_read() {
        for (known, most) in [(Some(0), MAX_OF_FEW), (Some(3), MAX_OF_FEW + 3 * MAX_OF_MAP), (None, MAX_REPLY)] {
            let fake = Fake::start();
            let client = fake.client();
            let daemon = fake.answer(vec![announced(most + 1, "{")]);
            let error = client.show_maps(known).await.unwrap_err().to_string();
            assert!(error.ends_with(&format!("a reply of {} bytes, more than {most}", most + 1)), "{error}");
            daemon.await.unwrap();
        }
    }

    #[test]
    fn only_root_and_ourselves_may_be_multipathd() {
        let client = Client::at(Vec::new(), LONG);
        let ours = rustix::process::geteuid().as_raw();
        for (uid, may_be) in [(0, true), (ours, true), (ours + 1, false)] {
            assert_eq!(client.may_be_multipathd(uid), may_be, "{uid}");
        }
        // Others of our user may listen where nobody has been named.
        let anywhere = Client { user: None, ..client.clone() };
        assert_eq!(anywhere.may_be_multipathd(ours), ours == 0);
        // In a user namespace root of the host is shown as this one, as is everybody else.
        let inside = Client { unknown_user: Some(ours + 1), ..client };
        assert!(inside.may_be_multipathd(ours + 1));
    }

    /// A byte every tenth of a second, on the paused clock.
    async fn one_byte_at_a_time(timeout: Duration) -> Result<DaemonState, Error> {
        let fake = Fake::start();
        let client = Client::at(vec![fake.socket()], timeout);
        tokio::spawn(async move {
            let (mut stream, _) = fake.accept().await;
            let mut clock = tokio::time::interval(Duration::from_millis(100));
            for byte in reply("pid 1234 idle\n") {
                clock.tick().await;
                // The client may have left.
                let _ = stream.write_all(&[byte]).await;
            }
        });
        client.show_daemon().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reply_may_take_the_whole_timeout_and_no_more() {
        // 8 bytes of length, 15 of text, the first at once: 2.2 s.
        assert_eq!(one_byte_at_a_time(Duration::from_secs(10)).await.unwrap().pid, 1234);
        assert!(matches!(one_byte_at_a_time(Duration::from_secs(1)).await, Err(Error::Timeout { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_never_answers_a_later_request() {
        let fake = Fake::start();
        let client = fake.client();
        let (first, late) = tokio::join!(client.show_daemon(), fake.accept());
        assert!(matches!(first, Err(Error::Timeout { .. })));
        let (mut late, _) = late;
        let answers = tokio::spawn(async move {
            let (mut stream, _) = fake.accept().await;
            assert!(late.write_all(&reply("pid 1 late\n")).await.is_err());
            stream.write_all(&reply("pid 2 prompt\n")).await.unwrap();
        });
        assert_eq!(&*client.show_daemon().await.unwrap().state, "prompt");
        answers.await.unwrap();
    }

    #[tokio::test]
    async fn the_first_socket_that_connects_is_used() {
        let fake = Fake::start();
        let name = unique_name();
        let listener = UnixListener::bind(format!("\0{name}")).unwrap();
        let gone = fake.directory.path().join("gone");
        let sockets = vec![SocketName::Path(gone), SocketName::Abstract(name), fake.socket()];
        let client = Client::at(sockets, LONG);
        let answered = tokio::spawn(async move {
            let (mut stream, _) = accept(&listener).await;
            stream.write_all(&reply("pid 3 idle")).await.unwrap();
        });
        assert_eq!(client.show_daemon().await.unwrap().pid, 3);
        answered.await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_not_a_broken_one() {
        let Fake { directory, listener } = Fake::start();
        drop(listener);
        let (left, gone, name) = (directory.path().join("socket"), directory.path().join("gone"), unique_name());
        let sockets =
            vec![SocketName::Path(left.clone()), SocketName::Path(gone.clone()), SocketName::Abstract(name.clone())];
        let error = Client::at(sockets, LONG).show_daemon().await.unwrap_err();
        assert!(matches!(error, Error::NotRunning { .. }));
        assert_eq!(
            error.to_string(),
            format!(
                "multipathd is not running: {}: Connection refused (os error 111); \
                 {}: No such file or directory (os error 2); @{name}: Connection refused (os error 111)",
                left.display(),
                gone.display(),
            ),
        );

        let inside = left.join("x");
        let error = Client::at(vec![SocketName::Path(inside.clone())], LONG).show_maps(None).await.unwrap_err();
        assert!(matches!(error, Error::Broken { .. }));
        let inside = inside.display();
        assert_eq!(
            error.to_string(),
            format!(
                "multipathd at {inside} gave no answer to `show maps json`: \
                 cannot connect: {inside}: Not a directory (os error 20)"
            ),
        );
    }

    #[test]
    fn recorded_replies_that_never_come_hold_one_thread() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("show-daemon.txt");
        // Who opens it waits.
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let client = Client::recorded(directory.path().to_owned(), Duration::from_millis(50));
            for _ in 0..3 {
                assert!(matches!(client.show_daemon().await, Err(Error::Timeout { .. })));
            }
            let other = tokio::task::spawn_blocking(|| ());
            let other = tokio::time::timeout(Duration::from_secs(5), other).await;
            // They come after all.
            std::fs::write(&file, "pid 4711 idle\n").unwrap();
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "pid 4711 idle\n").unwrap();
            other.expect("there is another thread").unwrap();
            let client = Client { timeout: LONG, ..client };
            assert_eq!(client.show_daemon().await.unwrap().pid, 4711);
        });
    }
}
