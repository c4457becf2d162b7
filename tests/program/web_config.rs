//! The program's `--web.config.file` and `--web.systemd-socket`. `tests/web_config` tests the
//! meaning of the file.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::harness::{Connection, Exporter, Host, PROGRAM, Tree, eventually, run};
use super::http::PATHS;

/// `alice` with the password `secret`.
const USERS: &str = "basic_auth_users:\n  alice: $2y$04$Ipr52z.aVaHGbHN8XC61IOvIPFu1yEIXaM11FRJGp6PNysGRf532S\n";
const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6c2VjcmV0");

/// A file, and the option that names it.
fn file(content: &str) -> (Tree, String) {
    let directory = Tree::empty();
    directory.write("web.yml", content);
    let option = format!("--web.config.file={}", directory.path("web.yml").display());
    (directory, option)
}

fn status(exporter: &Exporter, path: &str, headers: &[(&str, &str)]) -> u16 {
    exporter.connect().request("GET", path, headers).status
}

#[test]
fn a_bad_file_is_refused_before_anything_is_served() {
    for (content, words) in [
        ("tls_server_config:\n  cert_filse: a\n", &["line 2", "cert_filse"][..]),
        ("tls_server_config:\n  cert_file: a\n  key_file: b\n", &["line 2", "cert_file", "/a: No such file"]),
        ("tls_server_config:\n  cert_file: a\n", &["line 2", "key_file"]),
        ("basic_auth_users:\n  alice: secret\n", &["line 2", "alice", "bcrypt"]),
        ("http_server_config:\n  http2: maybe\n", &["line 2", "http2"]),
    ] {
        let (directory, option) = file(content);
        for mode in [&[][..], &["--config.check"], &["--oneshot"]] {
            let options = [&[option.as_str(), "--web.listen-address=127.0.0.1:0"], mode].concat();
            let finished = run(&options);
            assert_eq!((finished.status, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
            assert_eq!(finished.stderr.lines().count(), 1, "{}", finished.stderr);
            let file = directory.path("web.yml").display().to_string();
            for word in [&[file.as_str()], words].concat() {
                assert!(finished.stderr.contains(word), "no {word:?} in {}", finished.stderr);
            }
        }
    }
    let finished = run(&["--web.config.file=/nonexistent/web.yml"]);
    assert_eq!(finished.status, Some(2));
    assert_eq!(
        finished.stderr,
        "multipath_exporter: --web.config.file: /nonexistent/web.yml: No such file or directory (os error 2)\n"
    );
}

#[test]
fn both_files_are_checked() {
    let (directory, web) = file(USERS);
    directory.write("config.yml", "");
    directory.write("bad.yml", "x: 1\n");
    let of = |name: &str| directory.path(name).display().to_string();
    let [config, bad] = ["config.yml", "bad.yml"].map(|name| format!("--config.file={}", of(name)));
    let correct = |names: &[&str]| names.iter().map(|name| format!("{}: correct\n", of(name))).collect::<String>();
    let finished = run(&["--config.check", &web]);
    assert_eq!((finished.status, finished.stdout), (Some(0), correct(&["web.yml"])), "{}", finished.stderr);
    let finished = run(&["--config.check", &web, &config]);
    assert_eq!((finished.status, finished.stdout), (Some(0), correct(&["config.yml", "web.yml"])));
    let finished = run(&["--config.check", &web, &bad]);
    assert_eq!((finished.status, finished.stdout.as_str()), (Some(2), ""));
    assert!(finished.stderr.contains(&of("bad.yml")), "{}", finished.stderr);
}

#[test]
fn what_is_correct_and_odd_is_told() {
    let (directory, web) = file("rate_limit: {interval: 1s}\n");
    let finished = run(&["--config.check", &web]);
    let file = directory.path("web.yml").display().to_string();
    assert_eq!((finished.status, finished.stdout), (Some(0), format!("{file}: correct\n")));
    let warning = "warning: rate_limit has a burst of 0: every request is refused";
    assert_eq!(finished.stderr, format!("multipath_exporter: {file}: {warning}\n"));
    let host = Host::bare();
    host.unready_exporter(&[&web]).await_log(&["level=warn", "burst of 0"]);
}

#[test]
fn the_log_tells_what_is_on() {
    let host = Host::bare();
    let exporter = host.exporter(&[]);
    exporter.await_log(&["level=info", "TLS is disabled", "http2=false"]);
    let (_directory, option) = file("rate_limit: {interval: 1ns, burst: 1000}\n");
    let exporter = host.exporter(&[&option]);
    exporter.await_log(&["TLS is disabled"]);
    exporter.await_log(&["rate limit is enabled", "burst=1000", "interval=1ns"]);
}

#[test]
fn every_path_asks_for_the_password() {
    let host = Host::recorded("01-healthy");
    let (_directory, option) = file(USERS);
    let exporter = host.unready_exporter(&[&option]);
    let ready = || (status(&exporter, "/-/ready", &[ALICE]) == 200).then_some(());
    eventually("it is ready", ready);
    for path in PATHS.iter().chain(&["/x"]) {
        for method in ["GET", "HEAD", "POST"] {
            let refused = exporter.connect().request(method, path, &[("Content-Length", "0")]);
            assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic")), "{method} {path}");
        }
        let expected = if *path == "/x" { 404 } else { 200 };
        assert_eq!(status(&exporter, path, &[ALICE]), expected, "{path}");
    }
}

#[test]
fn a_change_counts_within_seconds_and_with_hangup_at_once() {
    let host = Host::bare();
    let (directory, option) = file(USERS);
    let exporter = host.unready_exporter(&[&option]);
    eventually("it is ready", || (status(&exporter, "/-/ready", &[ALICE]) == 200).then_some(()));
    directory.write("web.yml", "basic_auth_users: [\n");
    eventually("it is closed", || (status(&exporter, "/metrics", &[ALICE]) == 500).then_some(()));
    let line = exporter.await_log(&["level=error", "invalid web configuration", "line 1"]);
    assert!(line.contains(&directory.path("web.yml").display().to_string()), "{line}");

    let start = Instant::now();
    directory.write("web.yml", USERS);
    exporter.signal(Signal::HUP);
    eventually("it is open", || (status(&exporter, "/metrics", &[ALICE]) == 200).then_some(()));
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}, as if no signal had come", start.elapsed());
    exporter.await_log(&["level=info", "web configuration is valid again"]);
    let told = exporter.log().iter().filter(|line| line.contains("invalid web configuration")).count();
    assert_eq!(told, 1);
    assert_eq!(status(&exporter, "/metrics", &[]), 401);
}

/// An event stream is subject to the same authentication as other requests.
#[test]
fn a_stream_ends_with_what_let_it_in() {
    let host = Host::bare();
    let (directory, option) = file(USERS);
    let exporter = host.unready_exporter(&[&option]);
    let follow = || {
        let mut stream = exporter.connect();
        stream.ask("GET", "/api/v1/events", &[ALICE, ("Accept", "text/event-stream")]);
        assert_eq!(stream.head().status, 200);
        stream
    };
    for changed in [USERS.replace("alice", "bob"), "basic_auth_users: [\n".to_owned()] {
        let mut stream = follow();
        let start = Instant::now();
        directory.write("web.yml", &changed);
        // The stream ends like an answer, long before its own end.
        while stream.chunk().is_some() {}
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert_ne!(status(&exporter, "/api/v1/events", &[ALICE]), 200);
        directory.write("web.yml", USERS);
        eventually("it is as before", || (status(&exporter, "/api/v1/events", &[ALICE]) == 200).then_some(()));
    }
}

/// A program that starts like under systemd, with these sockets from descriptor 3 on.
struct Activated(Child);

impl Activated {
    fn start(host: &Host, sockets: [Option<OwnedFd>; 2]) -> Self {
        let count = sockets.iter().flatten().count();
        let [first, second] = sockets.map(|socket| socket.map_or_else(Stdio::null, Stdio::from));
        // systemd puts the process ID of the program into `LISTEN_PID`. Only the process that
        // becomes the program knows it.
        let script = format!("LISTEN_FDS={count} LISTEN_PID=$$ exec \"$@\" 3<&0 4<&1 </dev/null >&2");
        let child = Command::new("/bin/sh")
            .args(["-c", &script, "sh", PROGRAM, "--web.systemd-socket"])
            .args(host.options())
            .stdin(first)
            .stdout(second)
            .stderr(Stdio::piped())
            .spawn();
        Activated(child.unwrap())
    }

    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = self.0.stderr.take().unwrap();
        let status = eventually("it ends", || self.0.try_wait().unwrap()).code();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        (status, text)
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn bound(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn it_serves_on_the_sockets_that_systemd_passes() {
    let host = Host::recorded("01-healthy");
    let ((one, first), (other, second)) = (bound("127.0.0.1:0"), bound("127.0.0.1:0"));
    // A client that connects before the program starts waits in the socket's queue.
    let mut early = Connection::open(first);
    early.ask("GET", "/-/healthy", &[]);
    let _exporter = Activated::start(&host, [Some(one.into()), Some(other.into())]);
    assert_eq!(early.head().status, 200);
    for address in [first, second] {
        eventually("it is ready", || {
            (Connection::open(address).request("GET", "/-/ready", &[]).status == 200).then_some(())
        });
        assert_eq!(Connection::open(address).request("GET", "/metrics", &[]).status, 200);
    }
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused() {
    let host = Host::bare();
    let (listener, address) = bound("127.0.0.1:0");
    let connected = std::net::TcpStream::connect(address).unwrap();
    let unix = std::os::unix::net::UnixListener::bind(host.sysfs.path("socket")).unwrap();
    let file = std::fs::File::open("/dev/zero").unwrap();
    drop(listener);
    for (socket, words) in [
        (Some(OwnedFd::from(connected)), "Accept=yes"),
        (Some(unix.into()), "systemd passed a Unix socket, but only TCP is supported: ListenStream= must name a port"),
        (Some(file.into()), "not a socket"),
        (None, "systemd passed no socket"),
    ] {
        let (status, said) = Activated::start(&host, [socket, None]).end();
        assert_eq!((status, said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.starts_with("multipath_exporter: --web.systemd-socket: ") && said.contains(words), "{said}");
    }
}

#[test]
fn sockets_for_another_are_left_alone() {
    let finished = run(&["--web.systemd-socket"]);
    assert_eq!(finished.status, Some(2));
    assert_eq!(finished.stderr, "multipath_exporter: --web.systemd-socket: systemd passed no socket\n");
}
