//! A directory with certificates, a server that uses a file in it, and clients.

use std::fs;
use std::future::pending;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Request, Response};
use multipath_exporter::shares::AddressShare;
use multipath_exporter::web::server::{Body, Limits, Notice, serve};
use multipath_exporter::web_config::WebConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::{Ca, Identity, client, self_signed};

/// The deadline of a wait. It is longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const TLS: &str = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n";

/// Larger than any HTTP/2 window here.
pub const LARGE: usize = 8 << 20;

pub struct Site {
    directory: TempDir,
    pub ca: Ca,
}

impl Site {
    /// Creates `ca.crt`, `server.crt` and `.key`, `other.key`, a self-signed `client.crt`, and
    /// `empty.crt`. It also copies `tests/fixtures/web_config/certificates`, made by `openssl`,
    /// because `rcgen` cannot make those.
    pub fn new() -> Self {
        let site = Site { directory: tempfile::tempdir().unwrap(), ca: Ca::new("a test's CA") };
        site.write("ca.crt", &site.ca.certificate);
        site.install(&site.ca.server("the server"));
        site.write("other.key", &site.ca.server("another").key);
        site.write("client.crt", &self_signed(&client(&["a"])).certificate);
        site.write("empty.crt", "");
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/web_config/certificates");
        for fixture in fs::read_dir(fixtures).unwrap() {
            let fixture = fixture.unwrap();
            fs::copy(fixture.path(), site.path(fixture.file_name().to_str().unwrap())).unwrap();
        }
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Installs this as the server's certificate and key.
    pub fn install(&self, identity: &Identity) {
        self.write("server.crt", &identity.certificate);
        self.write("server.key", &identity.key);
    }

    /// Writes this text to the file.
    pub fn configure(&self, text: &str) {
        self.write("web.yml", text);
    }

    pub fn load(&self, text: &str) -> Result<WebConfig, String> {
        self.configure(text);
        WebConfig::read(&self.path("web.yml"), AddressShare::default()).map_err(|error| error.to_string())
    }

    /// Starts a server with this configuration.
    pub async fn serve(&self, text: &str) -> Server {
        self.serve_with(text, Limits::default()).await
    }

    pub async fn serve_with(&self, text: &str, limits: Limits) -> Server {
        let config = self.load(text).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (admission, tls_mode) = (config.clone(), config.clone());
        let handler = move |client, request| {
            let admission = admission.clone();
            async move { admission.respond(client, request, stub).await }
        };
        let follower = tokio::spawn(config.clone().follow());
        let task = tokio::spawn(serve(
            vec![listener],
            move || tls_mode.tls_mode(),
            handler,
            limits,
            Notice::default(),
            pending(),
        ));
        Server { address, config, tasks: [follower.abort_handle(), task.abort_handle()] }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.certificate.as_bytes()).unwrap()).unwrap();
        roots
    }

    /// A client that trusts this site's CA, and presents this certificate on request.
    pub fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        self.client_of(default_provider(), rustls::ALL_VERSIONS, identity)
    }

    pub fn client_of(
        &self,
        provider: CryptoProvider,
        versions: &[&'static rustls::SupportedProtocolVersion],
        identity: Option<&Identity>,
    ) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions).unwrap();
        let builder = builder.with_root_certificates(self.roots());
        match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(identity.chain(), identity.private_key()).unwrap(),
        }
    }
}

async fn stub(request: Request<()>) -> Response<Body> {
    match request.uri().path() {
        "/large" => Response::new(Body::chunks(Arc::new([vec![b'x'; LARGE].into()]))),
        "/held" => pending().await,
        "/framed" => {
            let mut response = Response::new("framed\n".into());
            response.headers_mut().insert("x-frame-options", "sameorigin".parse().unwrap());
            response
        }
        _ => Response::new("hello\n".into()),
    }
}

pub struct Server {
    pub address: SocketAddr,
    pub config: WebConfig,
    tasks: [AbortHandle; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    pub async fn tcp(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Completes a handshake from the client's point of view.
    pub async fn connect(&self, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake(self.tcp().await, client).await
    }

    /// Like [`Server::connect`], over an existing connection.
    pub async fn handshake(&self, stream: TcpStream, client: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::from(self.address.ip());
        within(TlsConnector::from(Arc::new(client)).connect(name, stream)).await
    }

    /// Returns an error if the server refuses the client. In TLS 1.3, the client's handshake ends
    /// before the server has judged it.
    pub async fn lets_in(&self, client: ClientConfig) -> Result<(), String> {
        let mut stream = self.connect(client).await.map_err(|error| error.to_string())?;
        let answer = get(&mut stream, "/", "").await.map_err(|error| error.to_string())?;
        if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello\n") { Ok(()) } else { Err(answer) }
    }

    /// The answer to one request without TLS, or `None` if the server closed the connection
    /// instead.
    pub async fn plain(&self, path: &str, headers: &str) -> Option<String> {
        get(&mut self.tcp().await, path, headers).await.ok()
    }
}

/// Sends one HTTP/1.1 request, and returns the whole answer.
pub async fn get(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    path: &str,
    headers: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
    within(stream.write_all(request.as_bytes())).await?;
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let (_, rest) = head.split_once("content-length: ").unwrap();
            if body.len() >= rest.lines().next().unwrap().parse().unwrap() {
                return Ok(text.into_owned());
            }
        }
        if within(stream.read_buf(&mut answer)).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move { timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("nothing came to {caller}")) }
}

/// Calls `look` until it returns true.
pub async fn eventually(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !look().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
