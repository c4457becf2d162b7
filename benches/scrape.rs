//! A whole scrape over HTTP, compared with a bare loop that writes the same bytes to a loopback
//! socket, and over TLS.
//!
//! The benchmark runs the release build on an artificial host of 500 devices × 4 paths: a sysfs
//! tree in a temporary directory, and a thread in multipathd's place, so that every series exists.
//! Both sides answer one client over a kept connection in turns, so that disturbances affect both.
//! Times are medians of rounds. Processor time comes from the kernel's scheduler statistics of the
//! answering process or thread.

#![expect(clippy::disallowed_methods, reason = "a benchmark starts what it measures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot run should say where")]

mod harness;

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

use harness::{Bare, Client, Exporter, Host, ROUNDS, Round, median, round};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

const DEVICES: usize = 500;
const PATHS: usize = 4;
const SCRAPES: u32 = 100;

fn main() {
    let host = Host { devices: DEVICES, paths: PATHS, sessions: false, lost: false };
    let exporter = Exporter::start(&host, &[]);
    let directory = tempfile::tempdir().unwrap();
    let certificate = make_web_config(directory.path());
    let with_tls = Exporter::start(&host, &[format!("--web.config.file={}/web.yml", directory.path().display())]);
    let mut plain = exporter.client("text/plain", "identity");
    let mut gzip = exporter.client("application/openmetrics-text", "gzip");
    let mut plain_tls = Client::over(tls(with_tls.connect(), &certificate), "text/plain", "identity");
    let mut gzip_tls = Client::over(tls(with_tls.connect(), &certificate), "application/openmetrics-text", "gzip");

    let page = plain.body("/metrics");
    let samples = String::from_utf8_lossy(&page).lines().filter(|line| !line.starts_with('#')).count();
    let (length, zipped) = (page.len(), gzip.body("/metrics").len());
    println!("{DEVICES} devices × {PATHS} paths: {samples} samples, {length} bytes, {zipped} bytes as gzip");
    println!("medians of {ROUNDS} rounds of {SCRAPES} scrapes over one connection; CPU of the answering side\n");

    let mut bare = Bare::start(page);
    let mut rounds: [Vec<Round>; 5] = Default::default();
    for _ in 0..ROUNDS {
        rounds[0].push(round(SCRAPES, &bare.tasks, || bare.client.ask(length)));
        rounds[1].push(round(SCRAPES, &exporter.tasks, || drop(plain.body("/metrics"))));
        rounds[2].push(round(SCRAPES, &exporter.tasks, || drop(gzip.body("/metrics"))));
        rounds[3].push(round(SCRAPES, &with_tls.tasks, || drop(plain_tls.body("/metrics"))));
        rounds[4].push(round(SCRAPES, &with_tls.tasks, || drop(gzip_tls.body("/metrics"))));
    }
    let [bare, plain, gzip, plain_tls, gzip_tls] = rounds.map(median);
    println!("{:44} {:>10} {:>10}", "", "time", "CPU");
    for (name, round) in [
        ("bare loop, same bytes", bare),
        ("plain", plain),
        ("gzip, nothing changed", gzip),
        ("plain, TLS", plain_tls),
        ("gzip, TLS", gzip_tls),
    ] {
        round.show(name);
    }
    plain.show_ratio("plain / bare", bare);
    plain_tls.show_ratio("plain: TLS / no TLS", plain);
    gzip_tls.show_ratio("gzip: TLS / no TLS", gzip);
}

/// TLS on this connection with the cipher suite that Go's client, and so Prometheus, prefers.
fn tls(stream: TcpStream, certificate: &CertificateDer<'static>) -> StreamOwned<ClientConnection, Buffered> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let provider = CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..default_provider() };
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    StreamOwned::new(session, Buffered(BufReader::with_capacity(1 << 20, stream)))
}

/// Writes a web configuration file with a certificate, and returns the certificate.
fn make_web_config(directory: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(directory.join("server.crt"), made.cert.pem()).unwrap();
    fs::write(directory.join("server.key"), made.signing_key.serialize_pem()).unwrap();
    let text = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";
    fs::write(directory.join("web.yml"), text).unwrap();
    made.cert.der().clone()
}

/// A stream that reads as much at a time as without TLS. rustls alone reads 4 KiB.
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
