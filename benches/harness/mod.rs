//! Common parts of the web benchmarks: an artificial host, the program on it, its clients, and a
//! bare loop for comparison.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The number of rounds. The benchmarks report the median.
pub const ROUNDS: usize = 9;
/// The `stat` of an idle device.
const STAT: &str = "    1234        0    56789      100     4321        0    98765      200        0      300      300";

/// The cost of one request in a round.
#[derive(Clone, Copy)]
pub struct Round {
    pub time: Duration,
    pub cpu: Duration,
}

/// Calls `ask` this many times.
pub fn round(times: u32, tasks: &Tasks, mut ask: impl FnMut()) -> Round {
    let (start, cpu) = (Instant::now(), cpu_time(tasks));
    (0..times).for_each(|_| ask());
    Round { time: start.elapsed() / times, cpu: (cpu_time(tasks) - cpu) / times }
}

impl Round {
    /// Prints a line of the table.
    pub fn show(self, name: &str) {
        println!("{name:44} {:>7.3} ms {:>7.3} ms", millis(self.time), millis(self.cpu));
    }

    /// Prints a line of the table with the ratio to another round.
    pub fn show_ratio(self, name: &str, other: Round) {
        let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
        println!("{name:44} {:>10.2} {:>10.2}", ratio(self.time, other.time), ratio(self.cpu, other.cpu));
    }
}

/// The median round.
pub fn median(rounds: Vec<Round>) -> Round {
    let middle = |mut values: Vec<Duration>| {
        values.sort();
        values[values.len() / 2]
    };
    Round {
        time: middle(rounds.iter().map(|round| round.time).collect()),
        cpu: middle(rounds.iter().map(|round| round.cpu).collect()),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Processor time of these threads. They are directories of procfs.
fn cpu_time(tasks: &Tasks) -> Duration {
    let directories: Vec<PathBuf> = match tasks {
        Tasks::One(thread) => vec![thread.clone()],
        Tasks::AllOf(process) => fs::read_dir(process).unwrap().map(|task| task.unwrap().path()).collect(),
    };
    let nanos = |directory: PathBuf| -> u64 {
        let text = fs::read_to_string(directory.join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0)
    };
    Duration::from_nanos(directories.into_iter().map(nanos).sum())
}

/// The threads whose processor time counts.
pub enum Tasks {
    One(PathBuf),
    AllOf(PathBuf),
}

/// A loop that writes the same bytes for each byte that it receives.
pub struct Bare {
    pub client: BareClient,
    pub tasks: Tasks,
}

/// The client of the bare loop.
pub struct BareClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Bare {
    pub fn start(page: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (sender, thread_id) = mpsc::channel();
        thread::spawn(move || {
            sender.send(rustix::thread::gettid()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            while stream.read_exact(&mut [0]).is_ok() {
                stream.write_all(&page).unwrap();
            }
        });
        let thread_id = thread_id.recv().unwrap().as_raw_nonzero();
        let tasks = Tasks::One(format!("/proc/self/task/{thread_id}").into());
        Bare { client: BareClient { stream, buffer: vec![0; 1 << 20] }, tasks }
    }
}

impl BareClient {
    pub fn ask(&mut self, length: usize) {
        self.stream.write_all(&[0]).unwrap();
        let mut left = length;
        while left > 0 {
            let wanted = left.min(self.buffer.len());
            left -= self.stream.read(&mut self.buffer[..wanted]).unwrap();
        }
    }
}

/// The program under measurement.
pub struct Exporter {
    process: Child,
    address: String,
    pub tasks: Tasks,
    _host: TempDir,
}

impl Exporter {
    /// Starts the program on this host with these options.
    pub fn start(host: &Host, options: &[String]) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (sysfs, socket) = (directory.path().join("sys"), directory.path().join("multipathd.socket"));
        host.make_sysfs(&sysfs);
        host.answer_as_multipathd(&socket);
        let mut process = Command::new(env!("CARGO_BIN_EXE_multipath_exporter"))
            .args(["--web.listen-address=127.0.0.1:0", "--no-collector.dm"])
            .arg(format!("--path.sysfs={}", sysfs.display()))
            .arg(format!("--multipathd.socket={}", socket.display()))
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("message=listening") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "the exporter has ended");
        }
        let address = line.trim().rsplit_once("address=").unwrap().1.to_owned();
        thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let tasks = Tasks::AllOf(format!("/proc/{}/task", process.id()).into());
        Exporter { process, address, tasks, _host: directory }
    }

    /// A client that asks for this content on one connection. It exists as soon as the program is
    /// ready.
    pub fn client(&self, accept: &str, encoding: &str) -> Client {
        Client::over(self.connect(), accept, encoding)
    }

    /// Opens a connection.
    pub fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A byte stream of a client.
pub trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// One connection.
pub struct Client {
    stream: BufReader<Box<dyn Stream>>,
    headers: String,
}

impl Client {
    /// A client on this stream. It exists as soon as the program is ready.
    pub fn over(stream: impl Stream + 'static, accept: &str, encoding: &str) -> Self {
        let headers = format!("Host: bench\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n");
        let mut client = Client { stream: BufReader::with_capacity(1 << 20, Box::new(stream)), headers };
        while !client.get("/-/ready").0.starts_with("HTTP/1.1 200") {
            thread::yield_now();
        }
        client
    }

    /// Requests a path and returns the body of the answer.
    pub fn body(&mut self, path: &str) -> Vec<u8> {
        let (head, body) = self.get(path);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body
    }

    fn get(&mut self, path: &str) -> (String, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.headers);
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.stream.read_line(&mut head).unwrap() > 0, "the connection was closed");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        (head, body)
    }
}

/// A host with maps `dm-N` over disks `sdN`. Each path has an iSCSI host of its own.
pub struct Host {
    pub devices: usize,
    pub paths: usize,
    /// The host has iSCSI sessions. Each of two interfaces has half of them.
    pub sessions: bool,
    /// The paths through the first interface have failed.
    pub lost: bool,
}

impl Host {
    fn make_sysfs(&self, root: &Path) {
        let write = |directory: &Path, files: &[(&str, String)]| {
            fs::create_dir_all(directory).unwrap();
            for (name, content) in files {
                fs::write(directory.join(name), content).unwrap();
            }
        };
        for name in ["block", "class", "devices"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for device in 0..self.devices {
            let map = root.join(format!("devices/virtual/block/dm-{device}"));
            let dm = [("name", name(device)), ("uuid", format!("mpath-{}", wwid(device))), ("suspended", "0".into())];
            write(&map.join("dm"), &dm);
            let files = [("dev", format!("254:{device}")), ("size", "2097152".into()), ("ro", "0".into())];
            write(&map, &files);
            write(&map, &[("stat", STAT.into()), ("diskseq", (device + 10_000).to_string())]);
            fs::create_dir_all(map.join("slaves")).unwrap();
            symlink(format!("../devices/virtual/block/dm-{device}"), root.join(format!("block/dm-{device}"))).unwrap();
            for path in 0..self.paths {
                let (disk, hctl) = (self.disk(device, path), hctl(device, path));
                let place = format!("platform/host{path}/session{path}/target{path}:0:0/{hctl}/block/sd{disk}");
                let directory = root.join("devices").join(&place);
                write(&directory, &[("dev", devno(disk))]);
                let scsi = [("state", "running"), ("access_state", "active/optimized"), ("vendor", "LABARRAY")];
                let scsi = scsi.into_iter().chain([("model", "VDISK           "), ("rev", "0001")]);
                symlink("../..", directory.join("device")).unwrap();
                write(&directory.join("../.."), &scsi.map(|(name, text)| (name, text.to_owned())).collect::<Vec<_>>());
                symlink(format!("../../../../{place}"), map.join(format!("slaves/sd{disk}"))).unwrap();
            }
        }
        for session in (0..self.paths).filter(|_| self.sessions) {
            let host = root.join(format!("devices/platform/host{session}"));
            let place = host.join(format!("session{session}/iscsi_session/session{session}"));
            write(&place, &[("targetname", "iqn.2003-01.org.example:array".into()), ("state", "LOGGED_IN".into())]);
            fs::create_dir_all(root.join("class/iscsi_session")).unwrap();
            symlink(&place, root.join(format!("class/iscsi_session/session{session}"))).unwrap();
            let portal =
                [("persistent_address", format!("192.0.2.{}", session + 1)), ("persistent_port", "3260".into())];
            write(&root.join(format!("class/iscsi_connection/connection{session}:0")), &portal);
            let bound = [("netdev", format!("eth{}", session % 2)), ("ipaddress", "198.51.100.1".into())];
            write(&root.join(format!("class/iscsi_host/host{session}")), &bound);
        }
    }

    fn disk(&self, device: usize, path: usize) -> usize {
        device * self.paths + path
    }

    /// Takes the daemon's place. A real one needs a machine with 500 devices.
    fn answer_as_multipathd(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let maps = self.maps_json();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = answer(stream.unwrap(), &maps);
            }
        });
    }

    fn maps_json(&self) -> String {
        let path = |device, path| {
            let disk = self.disk(device, path);
            let failed = self.lost && path % 2 == 0;
            let (state, checker) = if failed { ("failed", "faulty") } else { ("active", "ready") };
            serde_json::json!({
                "dev": format!("sd{disk}"), "dev_t": devno(disk), "dm_st": state, "dev_st": "running",
                "chk_st": checker, "checker": "tur", "pri": 50, "marginal_st": "normal",
            })
        };
        let map = |device| {
            let paths: Vec<_> = (0..self.paths).map(|index| path(device, index)).collect();
            serde_json::json!({
                "name": name(device), "uuid": wwid(device), "sysfs": format!("dm-{device}"), "queueing": "on",
                "paths": self.paths, "write_prot": "rw", "dm_st": "active", "features": "1 queue_if_no_path",
                "path_faults": 0, "vend": "LABARRAY", "prod": "VDISK", "rev": "0001", "switch_grp": 0, "map_loads": 1,
                "total_q_time": 0, "q_timeouts": 0,
                "path_groups": [{"pri": 50, "dm_st": "active", "marginal_st": "normal", "group": 1, "paths": paths}],
            })
        };
        let maps: Vec<_> = (0..self.devices).map(map).collect();
        serde_json::json!({"major_version": 0, "minor_version": 1, "maps": maps}).to_string()
    }
}

fn wwid(device: usize) -> String {
    format!("3600a0980{device:024x}")
}

fn name(device: usize) -> String {
    format!("mpath{device}")
}

fn devno(disk: usize) -> String {
    format!("{}:{}", 8 + disk / 16, disk % 16 * 16)
}

fn hctl(device: usize, path: usize) -> String {
    format!("{path}:0:0:{device}")
}

fn answer(mut stream: UnixStream, maps: &str) -> std::io::Result<()> {
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut command = vec![0; u64::from_ne_bytes(length) as usize];
    stream.read_exact(&mut command)?;
    let reply = if command.starts_with(b"show daemon") { "pid 1 idle\n" } else { maps };
    stream.write_all(&(reply.len() as u64 + 1).to_ne_bytes())?;
    stream.write_all(reply.as_bytes())?;
    stream.write_all(&[0])
}
