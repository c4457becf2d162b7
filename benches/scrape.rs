//! A whole scrape over HTTP, beside a bare loop that writes the same bytes to a loopback socket, and over TLS.
//!
//! The real program, as built for release, on a made-up host of 500 devices × 4 paths: a sysfs tree in a temporary
//! directory and a thread that answers as multipathd does, so that every series is there. Both sides answer one client
//! over a kept connection, turn by turn, so that what disturbs the one disturbs the other. Times are medians of rounds;
//! CPU is the answering process's or thread's own, from the kernel's scheduler statistics.

#![expect(clippy::disallowed_methods, reason = "a benchmark starts what it measures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const DEVICES: usize = 500;
const PATHS: usize = 4;
const ROUNDS: usize = 9;
const SCRAPES: u32 = 100;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let (sysfs, socket) = (directory.path().join("sys"), directory.path().join("multipathd.socket"));
    make_sysfs(&sysfs);
    answer_as_multipathd(&socket);
    let certificate = make_web_config(directory.path());
    let exporter = Exporter::start(&sysfs, &socket, &[]);
    let with_tls =
        Exporter::start(&sysfs, &socket, &[format!("--web.config.file={}/web.yml", directory.path().display())]);
    let mut plain = exporter.client("text/plain", "identity");
    let mut gzip = exporter.client("application/openmetrics-text", "gzip");
    let mut plain_tls = with_tls.tls_client("text/plain", "identity", &certificate);
    let mut gzip_tls = with_tls.tls_client("application/openmetrics-text", "gzip", &certificate);
    await_ready(&mut plain);
    await_ready(&mut plain_tls);

    let page = plain.scrape();
    let samples = String::from_utf8_lossy(&page).lines().filter(|line| !line.starts_with('#')).count();
    let (length, zipped) = (page.len(), gzip.scrape().len());
    println!("{DEVICES} devices × {PATHS} paths: {samples} samples, {length} bytes, {zipped} bytes as gzip");
    println!("medians of {ROUNDS} rounds of {SCRAPES} scrapes over one connection; CPU of the answering side\n");

    let mut bare = Bare::start(page);
    let mut rounds: [Vec<Round>; 5] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(round(&bare.tasks, || bare.client.ask(length)));
        rounds[1].push(round(&exporter.tasks, || drop(plain.scrape())));
        rounds[2].push(round(&exporter.tasks, || drop(gzip.scrape())));
        rounds[3].push(round(&with_tls.tasks, || drop(plain_tls.scrape())));
        rounds[4].push(round(&with_tls.tasks, || drop(gzip_tls.scrape())));
    }
    let [bare, plain, gzip, plain_tls, gzip_tls] = rounds.map(median);
    println!("{:26} {:>10} {:>10}", "", "time", "CPU");
    for (name, round) in [
        ("bare loop, same bytes", bare),
        ("plain", plain),
        ("gzip, nothing changed", gzip),
        ("plain, TLS", plain_tls),
        ("gzip, TLS", gzip_tls),
    ] {
        println!("{name:26} {:>7.3} ms {:>7.3} ms", millis(round.time), millis(round.cpu));
    }
    let ratio = |one: Duration, other: Duration| one.as_secs_f64() / other.as_secs_f64();
    for (name, one, other) in [
        ("plain / bare", plain, bare),
        ("plain: TLS / no TLS", plain_tls, plain),
        ("gzip: TLS / no TLS", gzip_tls, gzip),
    ] {
        println!("{name:26} {:>10.2} {:>10.2}", ratio(one.time, other.time), ratio(one.cpu, other.cpu));
    }
}

/// One scrape's share of a round.
#[derive(Clone, Copy)]
struct Round {
    time: Duration,
    cpu: Duration,
}

fn round(tasks: &Tasks, mut scrape: impl FnMut()) -> Round {
    let (start, cpu) = (Instant::now(), cpu_time(tasks));
    (0..SCRAPES).for_each(|_| scrape());
    Round { time: start.elapsed() / SCRAPES, cpu: (cpu_time(tasks) - cpu) / SCRAPES }
}

fn median(rounds: Vec<Round>) -> Round {
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

/// Time on a processor of these threads, directories of procfs.
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

enum Tasks {
    One(PathBuf),
    AllOf(PathBuf),
}

/// Writes the same bytes whenever a byte comes.
struct Bare {
    client: BareClient,
    tasks: Tasks,
}

struct BareClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Bare {
    fn start(page: Vec<u8>) -> Self {
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
    fn ask(&mut self, length: usize) {
        self.stream.write_all(&[0]).unwrap();
        let mut left = length;
        while left > 0 {
            let wanted = left.min(self.buffer.len());
            left -= self.stream.read(&mut self.buffer[..wanted]).unwrap();
        }
    }
}

/// The program under measurement.
struct Exporter {
    process: Child,
    address: String,
    tasks: Tasks,
}

impl Exporter {
    fn start(sysfs: &Path, socket: &Path, options: &[String]) -> Self {
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
        Exporter { process, address, tasks }
    }

    fn client(&self, accept: &str, encoding: &str) -> Client {
        Client::new(TcpStream::connect(&self.address).unwrap(), accept, encoding)
    }

    fn tls_client(&self, accept: &str, encoding: &str, certificate: &CertificateDer<'static>) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        // The cipher suite that Prometheus's client, Go's, offers first.
        let provider = CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..default_provider() };
        let config =
            ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
        let stream = BufReader::with_capacity(1 << 20, TcpStream::connect(&self.address).unwrap());
        Client::new(StreamOwned::new(session, Buffered(stream)), accept, encoding)
    }
}

fn await_ready(client: &mut Client) {
    while !client.get("/-/ready").0.starts_with("HTTP/1.1 200") {
        thread::yield_now();
    }
}

/// A web configuration file with a certificate, which is returned.
fn make_web_config(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(directory.join("server.crt"), made.cert.pem()).unwrap();
    fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    let text = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
    fs::write(directory.join("web.yml"), text).unwrap();
    made.cert.der().clone()
}

impl Drop for Exporter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What comes, read as much at a time as without TLS: rustls by itself asks for 4 KiB.
struct Buffered(BufReader<TcpStream>);

impl Read for Buffered {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.get_mut().flush()
    }
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

struct Client {
    stream: BufReader<Box<dyn Stream>>,
    headers: String,
}

impl Client {
    fn new(stream: impl Stream + 'static, accept: &str, encoding: &str) -> Self {
        let headers = format!("Host: bench\r\nAccept: {accept}\r\nAccept-Encoding: {encoding}\r\n");
        Client { stream: BufReader::with_capacity(1 << 20, Box::new(stream)), headers }
    }

    fn scrape(&mut self) -> Vec<u8> {
        let (head, body) = self.get("/metrics");
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

/// The host's files: maps `dm-N` over disks `sdN`, each path through a host of its own.
fn make_sysfs(root: &Path) {
    let write = |directory: &Path, files: &[(&str, String)]| {
        fs::create_dir_all(directory).unwrap();
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
        }
    };
    fs::create_dir_all(root.join("block")).unwrap();
    for device in 0..DEVICES {
        let map = root.join(format!("devices/virtual/block/dm-{device}"));
        let dm = [("name", name(device)), ("uuid", format!("mpath-{}", wwid(device))), ("suspended", "0".into())];
        write(&map.join("dm"), &dm);
        let files = [("dev", format!("254:{device}")), ("size", "2097152".into()), ("ro", "0".into())];
        write(&map, &files);
        write(&map, &[("inflight", "       0        0".into()), ("diskseq", (device + 10_000).to_string())]);
        fs::create_dir_all(map.join("slaves")).unwrap();
        symlink(format!("../devices/virtual/block/dm-{device}"), root.join(format!("block/dm-{device}"))).unwrap();
        for path in 0..PATHS {
            let (disk, hctl) = (disk(device, path), hctl(device, path));
            let place = format!("platform/host{path}/session{path}/target{path}:0:0/{hctl}/block/sd{disk}");
            let directory = root.join("devices").join(&place);
            write(&directory, &[("dev", devno(disk))]);
            let scsi = [("state", "running"), ("access_state", "active/optimized"), ("vendor", "LABARRAY")];
            let scsi = scsi.into_iter().chain([("model", "VDISK           "), ("rev", "0001")]);
            write(&directory.join("device"), &scsi.map(|(name, text)| (name, text.to_owned())).collect::<Vec<_>>());
            symlink(format!("../../../../{place}"), map.join(format!("slaves/sd{disk}"))).unwrap();
        }
    }
}

fn wwid(device: usize) -> String {
    format!("3600a0980{device:024x}")
}

fn name(device: usize) -> String {
    format!("mpath{device}")
}

fn disk(device: usize, path: usize) -> usize {
    device * PATHS + path
}

fn devno(disk: usize) -> String {
    format!("{}:{}", 8 + disk / 16, disk % 16 * 16)
}

fn hctl(device: usize, path: usize) -> String {
    format!("{path}:0:0:{device}")
}

/// Stands in for the daemon, which cannot be had for 500 devices without a machine that holds them.
fn answer_as_multipathd(socket: &Path) {
    let listener = UnixListener::bind(socket).unwrap();
    let maps = maps_json();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = answer(stream.unwrap(), &maps);
        }
    });
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

fn maps_json() -> String {
    let path = |device, path| {
        let disk = disk(device, path);
        serde_json::json!({
            "dev": format!("sd{disk}"), "dev_t": devno(disk), "dm_st": "active", "dev_st": "running",
            "chk_st": "ready", "checker": "tur", "pri": 50, "marginal_st": "normal",
        })
    };
    let map = |device| {
        let paths: Vec<_> = (0..PATHS).map(|index| path(device, index)).collect();
        serde_json::json!({
            "name": name(device), "uuid": wwid(device), "sysfs": format!("dm-{device}"), "queueing": "on",
            "paths": PATHS, "write_prot": "rw", "dm_st": "active", "features": "1 queue_if_no_path",
            "path_faults": 0, "vend": "LABARRAY", "prod": "VDISK", "rev": "0001", "switch_grp": 0, "map_loads": 1,
            "total_q_time": 0, "q_timeouts": 0,
            "path_groups": [{"pri": 50, "dm_st": "active", "marginal_st": "normal", "group": 1, "paths": paths}],
        })
    };
    let maps: Vec<_> = (0..DEVICES).map(map).collect();
    serde_json::json!({"major_version": 0, "minor_version": 1, "maps": maps}).to_string()
}
