//! multipathd: what the daemon reports over its socket, as `multipathd(8)` and multipath-tools'
//! `libmpathcmd` define it.
//!
//! [`DaemonClient`] sends requests and returns the text of the replies. [`parse_maps`] turns this
//! text into values. A recorded reply can therefore stand in for a daemon.
//!
//! The exporter uses the socket, because `multipathd show …` is a program and the exporter starts
//! no programs. multipathd treats the two requests as follows, according to its source from 0.7.4
//! to 0.14.3:
//!
//! - `show daemon` takes no lock (`cli_list_daemon`), so multipathd answers it during a
//!   reconfigure. Up to 0.8.7, one thread served all clients in turn and waited for the lock on
//!   behalf of each (`uxsock_trigger`). The request may then wait behind another client's request.
//! - `show maps json` waits for the lock, for `uxsock_timeout` (4 s or more). Then multipathd reads
//!   every map from the kernel again (`show_maps_json`). If it cannot read one of them, it forgets
//!   that map and answers `fail` for all. Up to 0.9.7, it also marks each path that the kernel
//!   holds failed as `faulty` (`update_multipath`). It counts a path fault if the path was not
//!   faulty before. Until its next check, it thereby forgets that a path is `delayed` or ran into
//!   an `i/o timeout`.

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

pub(crate) use json::{DaemonMap, DaemonMaps, DaemonPath, parse_maps};

/// The address of multipathd's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SocketName {
    /// A socket in the file system, which can be mounted into a container.
    Path(PathBuf),
    /// An abstract socket, without the `@`. It can be reached only from the daemon's own network
    /// namespace.
    Abstract(String),
}

/// The maximum length of a name. The kernel's `sun_path` has 108 bytes, one of which ends a path or
/// begins an abstract name.
const MAX_SOCKET_NAME_BYTES: usize = 107;

/// A text that cannot be the name of a socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSocketName {
    /// An empty text, or only `@`.
    #[error("the socket name is empty: expected a path, or @ and an abstract name")]
    Empty,
    /// More bytes than the kernel's address structure holds. The first value is their number.
    #[error("the socket name has {0} bytes, the limit is {MAX_SOCKET_NAME_BYTES}: {1:?}")]
    TooLong(usize, String),
    /// A byte that would end the name early.
    #[error("the socket name contains a NUL byte: {0:?}")]
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
        if name.len() > MAX_SOCKET_NAME_BYTES {
            return Err(InvalidSocketName::TooLong(name.len(), text.to_owned()));
        }
        if name.contains('\0') {
            return Err(InvalidSocketName::Nul(text.to_owned()));
        }
        Ok(if is_abstract { SocketName::Abstract(name.to_owned()) } else { SocketName::Path(name.into()) })
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

/// Returns the addresses at which multipathd listens by default.
///
/// The path came with 0.12. It goes first, because only the path can be reached from a container.
/// If systemd's `multipathd.socket` is enabled, systemd holds the abstract socket, and connecting
/// to it starts a stopped daemon. Upstream enables that unit only up to 0.9.7.
fn default_sockets() -> Vec<SocketName> {
    vec![
        SocketName::Path("/run/multipathd.socket".into()),
        SocketName::Abstract("/org/kernel/linux/storage/multipathd".to_owned()),
    ]
}

/// The reason why multipathd gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// No program listens. This is an ordinary state of a host and not a fault.
    #[error("multipathd is not running: {tried}")]
    NotRunning {
        /// Each socket with the error of connecting to it.
        tried: String,
    },
    /// A program of another user listens at the socket. Any user may take a free abstract name.
    #[error("a program of user {uid} listens at {socket}: expected multipathd, which runs as root")]
    Impostor {
        /// The connected socket.
        socket: SocketName,
        /// The user ID of the program.
        uid: u32,
    },
    /// multipathd accepted the connection, and then hung or waited for its lock.
    #[error("multipathd at {socket} did not answer `{request}` within {timeout:?}")]
    Timeout {
        /// The connected socket.
        socket: SocketName,
        /// The request.
        request: &'static str,
        /// The time that the exporter waited.
        timeout: Duration,
    },
    /// multipathd answered that it cannot or may not do this. It is alive, and the next request may
    /// succeed.
    #[error("multipathd at {socket} refused `{request}`: \"{reply}\"")]
    Refused {
        /// The connected socket.
        socket: SocketName,
        /// The request.
        request: &'static str,
        /// The first bytes of the reply, escaped.
        reply: String,
    },
    /// The reply has another form than expected.
    #[error("multipathd at {socket} gave no valid reply to `{request}`: {problem}")]
    Broken {
        /// The socket, or all sockets if none could be connected.
        socket: String,
        /// The request.
        request: &'static str,
        /// The problem.
        problem: String,
    },
}

/// The reply to `show daemon`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DaemonState {
    /// The process ID.
    pub(crate) pid: u32,
    /// multipathd's own word: `idle`, `running`, `configure`, `init`, `startup`, `shutdown`, or a
    /// word of another version.
    pub(crate) state: Arc<str>,
}

const SHOW_DAEMON: &str = "show daemon";
const SHOW_MAPS: &str = "show maps json";
const SHOW_PATH_NAMES: &str = "show paths raw format %d";

/// The maximum length of a reply in bytes. multipathd's own client refuses 32 MiB, which its
/// authors estimate as 10,000 maps or 60,000 paths. Twice that still fits in the memory of any host
/// that has so many. Without a limit, a wrong socket in the configuration could fill the exporter's
/// memory.
const MAX_REPLY_BYTES: usize = 64 << 20;
/// The maximum length of a reply for each map, if the number of maps is known. multipathd needs
/// about 3 KiB for a map and 600 bytes for a path, so this is enough for a map of 100 paths.
const MAX_REPLY_BYTES_PER_MAP: usize = 64 << 10;
/// The length that a reply may always have. Some maps may be too new to be in the known number.
const MIN_REPLY_LIMIT: usize = 1 << 20;

/// The factor by which the reply to `show maps json` may take longer than another one. multipathd
/// waits for its lock for 4 s or more, and then reads every map from the kernel.
const MAPS_TIMEOUT_FACTOR: u32 = 5;

/// Sends requests to multipathd.
///
/// Every request uses a connection of its own. A lasting connection would break at each restart of
/// the daemon, and after a timeout it would deliver the late reply to the next request.
#[derive(Clone, Debug)]
pub(crate) struct DaemonClient {
    sockets: Vec<SocketName>,
    timeout: Duration,
    /// The user besides root whose program is accepted as multipathd.
    user: Option<u32>,
    /// The user that the kernel shows for all unknown users, if this process is in a user
    /// namespace.
    unknown_user: Option<u32>,
    /// The directory whose files answer instead of a socket. At most one thread reads them, because
    /// a thread that waits in the kernel for a file may wait for good.
    recorded: Option<(PathBuf, Arc<Semaphore>)>,
}

/// The requests, each with the name of the file that holds its recorded reply.
const REQUESTS: [(&str, &str); 3] =
    [(SHOW_DAEMON, "show-daemon.txt"), (SHOW_MAPS, "show-maps.json"), (SHOW_PATH_NAMES, "show-paths.txt")];

impl DaemonClient {
    /// Makes a client that tries multipathd's default sockets. A whole exchange may take this long.
    /// The client accepts only a program of root as multipathd.
    pub(crate) fn new(timeout: Duration) -> Self {
        DaemonClient { sockets: default_sockets(), timeout, user: None, unknown_user: unknown_user(), recorded: None }
    }

    /// Makes a client that tries these sockets in this order. The client also accepts a program of
    /// the exporter's own user.
    pub(crate) fn at(sockets: Vec<SocketName>, timeout: Duration) -> Self {
        let user = Some(rustix::process::geteuid().as_raw());
        DaemonClient { sockets, user, ..DaemonClient::new(timeout) }
    }

    /// Makes a client that answers from a directory with the files that [`DaemonClient::record`]
    /// gave.
    pub(crate) fn recorded(directory: PathBuf, timeout: Duration) -> Self {
        DaemonClient {
            sockets: vec![SocketName::Path(directory.clone())],
            timeout,
            user: None,
            unknown_user: None,
            recorded: Some((directory, Arc::new(Semaphore::new(1)))),
        }
    }

    /// Sends all requests. Returns each reply with the name of its file, also if the reply is a
    /// refusal, and the errors of the other requests.
    pub(crate) async fn record(&self) -> (Vec<(&'static str, Vec<u8>)>, Vec<DaemonError>) {
        let (mut replies, mut errors) = (Vec::new(), Vec::new());
        for (request, file) in REQUESTS {
            let deadline = self.deadline_for(request);
            let mut reply = self.reply(request, deadline, MAX_REPLY_BYTES).await;
            // As `show_maps` does.
            if request == SHOW_MAPS && reply.as_ref().is_ok_and(|(_, reply)| reply.trim_ascii_end() == b"fail") {
                reply = self.reply(request, deadline, MAX_REPLY_BYTES).await;
            }
            match reply {
                Ok((_, reply)) => replies.push((file, reply)),
                Err(error) => {
                    errors.push(error);
                    // A daemon that does not answer this request gets no others.
                    if request == SHOW_DAEMON {
                        break;
                    }
                }
            }
        }
        (replies, errors)
    }

    /// Returns the longest duration of one exchange of each kind, added up.
    pub(crate) fn longest(&self) -> Duration {
        REQUESTS.iter().map(|(request, _)| self.deadline_for(request).timeout).sum()
    }

    /// Returns the deadline of a request that is sent now.
    fn deadline_for(&self, request: &str) -> Deadline {
        Deadline::after(if request == SHOW_MAPS { self.timeout * MAPS_TIMEOUT_FACTOR } else { self.timeout })
    }

    /// Returns the daemon's state, from `show daemon`.
    pub(crate) async fn show_daemon(&self) -> Result<DaemonState, DaemonError> {
        let (socket, reply) = self.request(SHOW_DAEMON, self.deadline_for(SHOW_DAEMON), MIN_REPLY_LIMIT).await?;
        parse_daemon_state(&reply).ok_or_else(|| DaemonError::Broken {
            socket: socket.to_string(),
            request: SHOW_DAEMON,
            problem: format!("found \"{}\", expected \"pid NUMBER STATE\"", excerpt(&reply)),
        })
    }

    /// Returns the text of `show maps json`, for [`parse_maps`].
    ///
    /// If a map vanishes while the daemon reads the maps, it answers a bare `fail` and forgets the
    /// map. A second request then returns the other maps. There is no third request: a second
    /// `fail` has another cause.
    ///
    /// `known` is the number of maps, if it is known. A reply that is far too long for them is not
    /// read.
    pub(crate) async fn show_maps(&self, known: Option<usize>) -> Result<Vec<u8>, DaemonError> {
        let most = known.map_or(MAX_REPLY_BYTES, |maps| {
            maps.saturating_mul(MAX_REPLY_BYTES_PER_MAP).saturating_add(MIN_REPLY_LIMIT)
        });
        let (deadline, most) = (self.deadline_for(SHOW_MAPS), most.min(MAX_REPLY_BYTES));
        let reply = match self.request(SHOW_MAPS, deadline, most).await {
            Err(DaemonError::Refused { reply, .. }) if reply == "fail" => self.request(SHOW_MAPS, deadline, most).await,
            other => other,
        };
        reply.map(|(_, reply)| reply)
    }

    /// Returns the kernel names of all paths that multipathd knows, from `show paths`. Blacklisted
    /// paths are not among them.
    pub(crate) async fn show_path_names(&self) -> Result<HashSet<String>, DaemonError> {
        let (_, reply) = self.request(SHOW_PATH_NAMES, self.deadline_for(SHOW_PATH_NAMES), MAX_REPLY_BYTES).await?;
        Ok(String::from_utf8_lossy(&reply).split_ascii_whitespace().map(str::to_owned).collect())
    }

    async fn request(
        &self,
        request: &'static str,
        deadline: Deadline,
        most: usize,
    ) -> Result<(&SocketName, Vec<u8>), DaemonError> {
        let (socket, reply) = self.reply(request, deadline, most).await?;
        if is_refusal(&reply) {
            Err(DaemonError::Refused { socket: socket.clone(), request, reply: excerpt(reply.trim_ascii_end()) })
        } else {
            Ok((socket, reply))
        }
    }

    /// Returns the reply, also if it is a refusal.
    async fn reply(
        &self,
        request: &'static str,
        Deadline { timeout, end }: Deadline,
        most: usize,
    ) -> Result<(&SocketName, Vec<u8>), DaemonError> {
        if let (Some((directory, one)), [socket]) = (&self.recorded, self.sockets.as_slice()) {
            let names = REQUESTS.iter().filter(|(recorded, _)| *recorded == request);
            let file = names.map(|(_, file)| directory.join(file)).collect::<PathBuf>();
            let tried = |error| DaemonError::NotRunning { tried: format!("{}: {error}", file.display()) };
            let reading = async {
                let permit = Arc::clone(one).acquire_owned().await.map_err(io::Error::other)?;
                let file = file.clone();
                let read = move || (std::fs::read(file), permit).0;
                tokio::task::spawn_blocking(read).await?
            };
            return match timeout_at(end, reading).await {
                Err(_) => Err(DaemonError::Timeout { socket: socket.clone(), request, timeout }),
                Ok(read) => Ok((socket, read.map_err(tried)?)),
            };
        }
        let (socket, stream) = self.connect(request).await?;
        let broken = |problem| DaemonError::Broken { socket: socket.to_string(), request, problem };
        match timeout_at(end, exchange(stream, request, most)).await {
            Err(_) => Err(DaemonError::Timeout { socket: socket.clone(), request, timeout }),
            Ok(reply) => Ok((socket, reply.map_err(broken)?)),
        }
    }

    /// Returns true if a program of this user may be multipathd, which runs as root. The kernel
    /// reports the user that began to listen, `SO_PEERCRED` in `unix(7)`.
    fn may_be_multipathd(&self, uid: u32) -> bool {
        static TOLD: Once = Once::new();
        let is_unknown = self.unknown_user == Some(uid);
        if is_unknown {
            TOLD.call_once(|| {
                warn!("cannot check which user runs multipathd, because the exporter runs in a user namespace");
            });
        }
        is_unknown || uid == 0 || Some(uid) == self.user
    }

    /// Needs no timeout: connecting a Unix socket never waits, because a full backlog is an
    /// immediate error.
    async fn connect(&self, request: &'static str) -> Result<(&SocketName, UnixStream), DaemonError> {
        let mut errors = Vec::new();
        let mut impostor = None;
        for socket in &self.sockets {
            let connected = socket.connect().await;
            match connected.and_then(|stream| Ok((stream.peer_cred()?.uid(), stream))) {
                Ok((uid, stream)) if self.may_be_multipathd(uid) => return Ok((socket, stream)),
                Ok((uid, _)) => impostor = Some(DaemonError::Impostor { socket: socket.clone(), uid }),
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
            return Err(DaemonError::NotRunning { tried });
        }
        let sockets: Vec<_> = errors.iter().map(|(socket, _)| socket.to_string()).collect();
        Err(DaemonError::Broken { socket: sockets.join(", "), request, problem: format!("cannot connect: {tried}") })
    }
}

/// The time limit of a request, as a duration and as a point in time.
#[derive(Clone, Copy)]
struct Deadline {
    timeout: Duration,
    end: Instant,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Deadline { timeout, end: Instant::now() + timeout }
    }
}

/// Returns the user that the kernel shows for all users outside this user namespace, the host's
/// root among them. `None` outside of user namespaces, see `user_namespaces(7)`.
fn unknown_user() -> Option<u32> {
    let map = std::fs::read_to_string("/proc/self/uid_map").ok()?;
    if map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) {
        return None;
    }
    let user = std::fs::read_to_string("/proc/sys/kernel/overflowuid").ok();
    Some(user.and_then(|user| user.trim_end().parse().ok()).unwrap_or(65534))
}

/// Sends the request and reads the reply. Each is a length, followed by text that ends with a NUL.
///
/// The length is a C `size_t`, hence `usize`: 8 bytes, or 4 on a 32-bit host.
async fn exchange(mut stream: UnixStream, request: &str, most: usize) -> Result<Vec<u8>, String> {
    // Send the message in one piece: the daemon expects the whole length in its first read.
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
        return Err("the reply is empty".to_owned());
    }
    if length > most {
        return Err(format!("the reply has {length} bytes, the limit is {most}"));
    }
    let mut reply = read_up_to(&mut stream, length).await?;
    if reply.len() < length {
        let n = reply.len();
        return Err(format!("the reply is cut short: {n} of {length} bytes, \"{}\"", excerpt(&reply)));
    }
    reply.truncate(reply.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
    Ok(reply)
}

/// Reads this many bytes, or fewer if the stream ends.
///
/// The buffer grows with the bytes that arrive. A peer that announces a long reply and sends
/// nothing therefore costs no memory.
async fn read_up_to(stream: &mut UnixStream, length: usize) -> Result<Vec<u8>, String> {
    let mut buffer = Vec::new();
    match stream.take(length as u64).read_to_end(&mut buffer).await {
        Ok(_) => Ok(buffer),
        Err(error) => Err(format!("cannot receive: {error}, after \"{}\"", excerpt(&buffer))),
    }
}

/// Returns true if the reply is a refusal.
///
/// Up to 0.9.7, the reply has only the reason. Later versions put the reason on the line after
/// `fail` (`default_reply`).
fn is_refusal(reply: &[u8]) -> bool {
    let line = reply.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    line == b"fail" || line == b"timeout" || line.starts_with(b"permission deny")
}

/// Parses `pid 1234 idle`. Since 0.10, ` (pending reconfigure)` may follow, which is not part of
/// the state.
fn parse_daemon_state(reply: &[u8]) -> Option<DaemonState> {
    let reply = String::from_utf8_lossy(reply);
    let mut words = reply.split_ascii_whitespace();
    match (words.next()?, words.next()?.parse(), words.next()?) {
        ("pid", Ok(pid), state) => Some(DaemonState { pid, state: state.into() }),
        _ => None,
    }
}

/// Returns the beginning of a text that was not understood. It is long enough to recognise the text
/// and short enough for a log line.
fn excerpt(bytes: &[u8]) -> String {
    const EXCERPT_BYTES: usize = 60;
    match bytes.get(..EXCERPT_BYTES) {
        Some(start) if bytes.len() > EXCERPT_BYTES => format!("{}…", start.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    //! The daemon here is a fake: a listener that breaks the protocol as a test needs it. A real
    //! daemon does not hang, send a wrong length or truncate a reply on demand, and `cargo test`
    //! must not need one.

    use std::sync::atomic::{AtomicU32, Ordering};

    use tempfile::TempDir;
    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A timeout that never ends in a test that expects an answer.
    const TEST_TIMEOUT: Duration = Duration::from_secs(60);

    struct FakeDaemon {
        directory: TempDir,
        listener: UnixListener,
    }

    impl FakeDaemon {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
            FakeDaemon { directory, listener }
        }

        fn socket(&self) -> SocketName {
            SocketName::Path(self.directory.path().join("socket"))
        }

        fn client(&self) -> DaemonClient {
            DaemonClient::at(vec![self.socket()], TEST_TIMEOUT)
        }

        /// Takes a connection and reads its request.
        async fn accept(&self) -> (UnixStream, Vec<u8>) {
            accept(&self.listener).await
        }

        /// Answers each connection with the next of these byte strings, and closes it.
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

    /// Returns the result of `show daemon` for this answer. `SOCKET` replaces the socket's name.
    async fn daemon(answer: Vec<u8>) -> Result<DaemonState, String> {
        let fake = FakeDaemon::start();
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
        assert_eq!(error(""), "the socket name is empty: expected a path, or @ and an abstract name");
        assert_eq!(error("@"), error(""));
        assert_eq!(error("/a\0b"), r#"the socket name contains a NUL byte: "/a\0b""#);
        let long = "x".repeat(108);
        assert_eq!(error(&long), format!("the socket name has 108 bytes, the limit is 107: {long:?}"));
        assert_eq!(error(&format!("@{long}")), format!("the socket name has 108 bytes, the limit is 107: \"@{long}\""));
    }

    #[tokio::test]
    async fn the_wait_for_a_recorded_reply_ends_at_the_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("show-daemon.txt");
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let client = DaemonClient::recorded(directory.path().to_owned(), Duration::from_millis(50));
        assert!(matches!(client.show_daemon().await, Err(DaemonError::Timeout { .. })));
        // Ends the wait of the reading thread.
        std::fs::OpenOptions::new().write(true).open(fifo).unwrap();
    }

    /// The longest names must really fit into the address.
    #[tokio::test]
    async fn the_longest_names_can_be_connected() {
        let directory = tempfile::tempdir().unwrap();
        let mut path = directory.path().to_str().unwrap().to_owned() + "/";
        path.push_str(&"x".repeat(MAX_SOCKET_NAME_BYTES - path.len()));
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(path.parse::<SocketName>().unwrap().connect().await.is_ok());

        let name = format!("{:x>MAX_SOCKET_NAME_BYTES$}", unique_name());
        let _listener = UnixListener::bind(format!("\0{name}")).unwrap();
        assert!(format!("@{name}").parse::<SocketName>().unwrap().connect().await.is_ok());
    }

    /// Returns an unused abstract name. These names belong to the whole network namespace, which
    /// test runs share.
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

    /// 0.7 and 0.8 count the final NUL in the length of some replies only.
    #[tokio::test]
    async fn a_reply_without_nul_is_accepted() {
        let text = "pid 1234 idle";
        assert_eq!(daemon(announced(text.len(), text)).await.unwrap().pid, 1234);
    }

    #[tokio::test]
    async fn refusals_of_the_daemon() {
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
    async fn malformed_replies() {
        let nothing = |problem: &str| format!("multipathd at SOCKET gave no valid reply to `show daemon`: {problem}");
        // The client takes the first eight bytes of another protocol for a length.
        let of_http = format!("the reply has {} bytes, the limit is 1048576", usize::from_ne_bytes(*b"HTTP/1.1"));
        for (answer, problem) in [
            (vec![], "it closed the connection"),
            (vec![1, 2, 3], "the length of the reply is cut short: 3 of 8 bytes"),
            (announced(0, ""), "the reply is empty"),
            (announced(usize::MAX, "x"), "the reply has 18446744073709551615 bytes, the limit is 1048576"),
            (announced(MIN_REPLY_LIMIT + 1, "x"), "the reply has 1048577 bytes, the limit is 1048576"),
            (announced(20, "pid 1 id"), r#"the reply is cut short: 8 of 20 bytes, "pid 1 id""#),
            (announced(MIN_REPLY_LIMIT, "pid"), r#"the reply is cut short: 3 of 1048576 bytes, "pid""#),
            (reply("pid many idle"), r#"found "pid many idle", expected "pid NUMBER STATE""#),
            (reply("pid 1"), r#"found "pid 1", expected "pid NUMBER STATE""#),
            (reply(""), r#"found "", expected "pid NUMBER STATE""#),
            (b"HTTP/1.1 400 Bad Request".to_vec(), of_http.as_str()),
        ] {
            assert_eq!(daemon(answer).await, Err(nothing(problem)));
        }
    }

    #[tokio::test]
    async fn maps_come_back_as_they_were_sent() {
        let fake = FakeDaemon::start();
        let client = fake.client();
        let text = "{}\n".repeat(1 << 20);
        let answered = fake.answer(vec![reply(&text)]);
        assert!(client.show_maps(None).await.unwrap() == text.as_bytes());
        assert_eq!(answered.await.unwrap(), [b"show maps json\0"]);
    }

    #[tokio::test]
    async fn show_maps_is_repeated_once_after_a_map_vanished() {
        let fake = FakeDaemon::start();
        let client = fake.client();
        let answered =
            fake.answer(vec![reply("fail\n"), reply("{}"), reply("fail\n"), reply("fail\n"), reply("timeout\n")]);
        assert_eq!(client.show_maps(None).await.unwrap(), b"{}");
        assert!(matches!(client.show_maps(None).await, Err(DaemonError::Refused { .. })));
        assert!(matches!(client.show_maps(None).await, Err(DaemonError::Refused { .. })));
        assert_eq!(answered.await.unwrap().len(), 5);
    }

    /// The clock of a paused runtime jumps to the next timer when all tasks wait.
    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_hung_daemon_ends_at_the_timeout() {
        let fake = FakeDaemon::start();
        let timeout = Duration::from_secs(2);
        let client = DaemonClient::at(vec![fake.socket()], timeout);
        let start = Instant::now();
        let error = client.show_daemon().await.unwrap_err();
        assert!((timeout..timeout * 2).contains(&start.elapsed()));
        let socket = fake.socket();
        assert_eq!(error.to_string(), format!("multipathd at {socket} did not answer `show daemon` within 2s"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_repeated_request_shares_the_deadline() {
        let fake = FakeDaemon::start();
        let client = DaemonClient::at(vec![fake.socket()], Duration::from_secs(2) / MAPS_TIMEOUT_FACTOR);
        let start = Instant::now();
        let fail_late_then_hang = async {
            let (mut stream, _) = fake.accept().await;
            tokio::time::advance(Duration::from_millis(1500)).await;
            stream.write_all(&reply("fail\n")).await.unwrap();
            fake.accept().await
        };
        let (maps, _) = tokio::join!(client.show_maps(None), fail_late_then_hang);
        assert!(matches!(maps, Err(DaemonError::Timeout { .. })));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn show_maps_may_take_longer_than_show_daemon() {
        let fake = FakeDaemon::start();
        let client = DaemonClient::at(vec![fake.socket()], Duration::from_secs(2));
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
    async fn a_reply_that_is_too_long_for_the_known_maps_is_not_read() {
        for (known, most) in [
            (Some(0), MIN_REPLY_LIMIT),
            (Some(3), MIN_REPLY_LIMIT + 3 * MAX_REPLY_BYTES_PER_MAP),
            (None, MAX_REPLY_BYTES),
        ] {
            let fake = FakeDaemon::start();
            let client = fake.client();
            let daemon = fake.answer(vec![announced(most + 1, "{")]);
            let error = client.show_maps(known).await.unwrap_err().to_string();
            assert!(error.ends_with(&format!("the reply has {} bytes, the limit is {most}", most + 1)), "{error}");
            daemon.await.unwrap();
        }
    }

    #[test]
    fn only_root_and_the_exporters_own_user_may_be_multipathd() {
        let client = DaemonClient::at(Vec::new(), TEST_TIMEOUT);
        let ours = rustix::process::geteuid().as_raw();
        for (uid, may_be) in [(0, true), (ours, true), (ours + 1, false)] {
            assert_eq!(client.may_be_multipathd(uid), may_be, "{uid}");
        }
        // A client of the default sockets does not accept programs of the exporter's user.
        let anywhere = DaemonClient { user: None, ..client.clone() };
        assert_eq!(anywhere.may_be_multipathd(ours), ours == 0);
        // In a user namespace, the host's root is shown as this user, as are all other users.
        let inside = DaemonClient { unknown_user: Some(ours + 1), ..client };
        assert!(inside.may_be_multipathd(ours + 1));
    }

    /// Sends one byte every tenth of a second, on the paused clock.
    async fn one_byte_at_a_time(timeout: Duration) -> Result<DaemonState, DaemonError> {
        let fake = FakeDaemon::start();
        let client = DaemonClient::at(vec![fake.socket()], timeout);
        tokio::spawn(async move {
            let (mut stream, _) = fake.accept().await;
            let mut clock = tokio::time::interval(Duration::from_millis(100));
            for byte in reply("pid 1234 idle\n") {
                clock.tick().await;
                // The client may have closed the connection.
                let _ = stream.write_all(&[byte]).await;
            }
        });
        client.show_daemon().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reply_may_take_the_whole_timeout_and_no_more() {
        // 8 bytes of length, 15 of text, the first at once: 2.2 s.
        assert_eq!(one_byte_at_a_time(Duration::from_secs(10)).await.unwrap().pid, 1234);
        assert!(matches!(one_byte_at_a_time(Duration::from_secs(1)).await, Err(DaemonError::Timeout { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_reply_never_answers_a_later_request() {
        let fake = FakeDaemon::start();
        let client = fake.client();
        let (first, late) = tokio::join!(client.show_daemon(), fake.accept());
        assert!(matches!(first, Err(DaemonError::Timeout { .. })));
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
        let fake = FakeDaemon::start();
        let name = unique_name();
        let listener = UnixListener::bind(format!("\0{name}")).unwrap();
        let gone = fake.directory.path().join("gone");
        let sockets = vec![SocketName::Path(gone), SocketName::Abstract(name), fake.socket()];
        let client = DaemonClient::at(sockets, TEST_TIMEOUT);
        let answered = tokio::spawn(async move {
            let (mut stream, _) = accept(&listener).await;
            stream.write_all(&reply("pid 3 idle")).await.unwrap();
        });
        assert_eq!(client.show_daemon().await.unwrap().pid, 3);
        answered.await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_run_is_distinct_from_a_broken_one() {
        let FakeDaemon { directory, listener } = FakeDaemon::start();
        drop(listener);
        let (left, gone, name) = (directory.path().join("socket"), directory.path().join("gone"), unique_name());
        let sockets =
            vec![SocketName::Path(left.clone()), SocketName::Path(gone.clone()), SocketName::Abstract(name.clone())];
        let error = DaemonClient::at(sockets, TEST_TIMEOUT).show_daemon().await.unwrap_err();
        assert!(matches!(error, DaemonError::NotRunning { .. }));
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
        let error =
            DaemonClient::at(vec![SocketName::Path(inside.clone())], TEST_TIMEOUT).show_maps(None).await.unwrap_err();
        assert!(matches!(error, DaemonError::Broken { .. }));
        let inside = inside.display();
        assert_eq!(
            error.to_string(),
            format!(
                "multipathd at {inside} gave no valid reply to `show maps json`: \
                 cannot connect: {inside}: Not a directory (os error 20)"
            ),
        );
    }

    #[test]
    fn recorded_replies_that_never_come_block_one_thread_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("show-daemon.txt");
        // A process that opens the FIFO waits.
        rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.max_blocking_threads(2).enable_time().build().unwrap();
        runtime.block_on(async {
            let client = DaemonClient::recorded(directory.path().to_owned(), Duration::from_millis(50));
            for _ in 0..3 {
                assert!(matches!(client.show_daemon().await, Err(DaemonError::Timeout { .. })));
            }
            let other = tokio::task::spawn_blocking(|| ());
            let other = tokio::time::timeout(Duration::from_secs(5), other).await;
            // The replies come after all.
            std::fs::write(&file, "pid 4711 idle\n").unwrap();
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, "pid 4711 idle\n").unwrap();
            other.expect("there is another thread").unwrap();
            let client = DaemonClient { timeout: TEST_TIMEOUT, ..client };
            assert_eq!(client.show_daemon().await.unwrap().pid, 4711);
        });
    }
}
