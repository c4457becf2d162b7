//! The web configuration file of Prometheus exporters: TLS, basic authentication, rate limit, and
//! response headers.
//!
//! The format is that of `prometheus/exporter-toolkit` (`docs/web-configuration.md`), with the same
//! keys, defaults and meaning. One file can therefore serve every exporter of a host. This module
//! does not depend on what is exported. A server calls [`WebConfig::tls_mode`] for each new
//! connection, and passes each request through [`WebConfig::respond`]. It also runs
//! [`WebConfig::follow`], which reads the file again when it changes.
//!
//! ```text
//! file.rs    the keys, and which belong together   tls.rs      the configuration of rustls
//! users.rs   the users and their hashes            client.rs   the check of client certificates
//! auth.rs    the check of passwords                reasons.rs  why a handshake failed
//! limit.rs   the rate limit                        reload.rs   changes of the files
//! values.rs  the values of the keys
//! ```
//!
//! Intended differences from the toolkit:
//!
//! - rustls supports neither TLS 1.0 and 1.1, nor the CBC cipher suites, nor the curve P-521. If
//!   the file lists them, they are left out with a warning, because other exporters may use the
//!   same file. The file is rejected if nothing is left: all curves, all cipher suites of the only
//!   version, or a `max_version` below 1.2.
//! - Also unsupported: P-521 keys, certificates of X.509 version 1 (except CAs), and the curve
//!   X25519MLKEM768. A server certificate or a CA of an unsupported kind is rejected at startup.
//! - Path-length constraints of trusted CAs are ignored, because webpki uses only a trust anchor's
//!   name and key. Go enforces them. Constraints of intermediate CAs are enforced.
//! - `VerifyClientCertIfGiven` without CAs refuses every client that sends a certificate. Go would
//!   use the system's CAs.
//! - Settings without effect in the toolkit are rejected: `client_allowed_sans` if no certificate
//!   is requested, and a CA file without a certificate. If certificates are requested but not
//!   verified, the names are checked as in the toolkit. A warning says that this check keeps no
//!   client out.
//! - Users whose hash has a bcrypt cost above 16 are refused, with a warning. They take as long as
//!   unknown names. The file is rejected if all users are of this kind: see `users.rs`.
//! - The toolkit reads its files for every request. This module compares them once a second, and
//!   never during a request: on a host that loses its disks, a read may never end.
//! - Protection cannot be removed without a restart. See `reload.rs`.

mod auth;
mod client;
mod file;
mod limit;
mod reasons;
pub(crate) mod reload;
mod tls;
mod users;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Request, Response, StatusCode};
use rustls::ServerConfig;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use auth::{AuthResult, Authenticator, MAX_WAITING};
use client::ClientCertificates;
use limit::Limiter;
use reload::{FileDigests, Protection};

use crate::shares::{AddressShare, Client, Shares};

pub(crate) use reasons::why_refused;
pub(crate) use tls::HTTP_2;

/// An error in the file, in one line that names the file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", file.display())]
pub struct WebConfigError {
    file: PathBuf,
    cause: String,
}

/// Use of TLS for a new connection.
#[derive(Clone, Debug)]
pub enum TlsMode {
    /// HTTP without TLS.
    Plain,
    /// TLS with this configuration.
    Tls(Arc<ServerConfig>),
    /// No connections are served, because the file has become invalid.
    Refused,
}

/// The configuration as last read. Clones share it.
#[derive(Clone, Debug)]
pub struct WebConfig {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` if there is no file.
    file: Option<PathBuf>,
    /// The part of the limits that one client may use.
    share: AddressShare,
    /// One place per password that waits for its hash.
    waiting: Arc<Shares>,
    state: watch::Sender<ConfigState>,
    /// The files as they were when `state` was made.
    files: std::sync::Mutex<FileDigests>,
    reread: Notify,
}

#[derive(Clone, Debug)]
enum ConfigState {
    Open(Arc<Policy>),
    /// The file has become invalid. It may have been meant to keep somebody out.
    Closed {
        /// The last valid policy.
        last: Arc<Policy>,
    },
}

impl ConfigState {
    /// Returns true if both states admit the same clients and users.
    fn lets_in_as(&self, other: &ConfigState) -> bool {
        match (self, other) {
            (ConfigState::Open(one), ConfigState::Open(other)) => {
                one.clients == other.clients && one.users.hashes() == other.users.hashes()
            }
            (ConfigState::Closed { .. }, ConfigState::Closed { .. }) => true,
            _ => false,
        }
    }
}

/// The rules for connections and requests.
#[derive(Debug)]
struct Policy {
    tls: Option<Arc<ServerConfig>>,
    /// The client certificates that `tls` accepts.
    clients: Option<Arc<ClientCertificates>>,
    http2: bool,
    headers: HeaderMap,
    users: Arc<Authenticator>,
    limiter: Option<Arc<Limiter>>,
    protection: Protection,
    warnings: Vec<String>,
}

impl WebConfig {
    /// The configuration without a file: plain HTTP for everybody.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn none(share: AddressShare) -> Result<Self, WebConfigError> {
        let (policy, files) = reload::load(None, share, None);
        let policy = policy.map_err(|cause| WebConfigError { file: PathBuf::new(), cause })?;
        Ok(WebConfig::new(None, share, policy, files))
    }

    /// Reads the file, and the files that it names.
    ///
    /// # Errors
    /// If a file cannot be read or is invalid. The text names the file, the line and the key.
    pub fn read(file: &Path, share: AddressShare) -> Result<Self, WebConfigError> {
        let (policy, files) = reload::load(Some(file), share, None);
        let policy = policy.map_err(|cause| WebConfigError { file: file.to_owned(), cause })?;
        Ok(WebConfig::new(Some(file.to_owned()), share, policy, files))
    }

    fn new(file: Option<PathBuf>, share: AddressShare, policy: Policy, files: FileDigests) -> Self {
        let (state, _) = watch::channel(ConfigState::Open(Arc::new(policy)));
        WebConfig {
            shared: Arc::new(Shared {
                file,
                share,
                waiting: Shares::new(MAX_WAITING, share),
                state,
                files: files.into(),
                reread: Notify::new(),
            }),
        }
    }

    /// Logs the enabled features and the warnings.
    pub(crate) fn log(&self) {
        let ConfigState::Open(policy) = self.state() else { return };
        match policy.tls {
            Some(_) => info!(http2 = policy.http2, "TLS is enabled"),
            None => info!(http2 = false, "TLS is disabled"),
        }
        if let Some(limiter) = &policy.limiter {
            let limit = limiter.limit();
            info!(burst = limit.burst, interval = ?limit.interval, "rate limit is enabled");
        }
        for warning in &policy.warnings {
            warn!("{warning}");
        }
    }

    /// Settings that are valid, but may not do what they seem to do. [`WebConfig::log`] logs them.
    pub fn warnings(&self) -> Vec<String> {
        let (ConfigState::Open(policy) | ConfigState::Closed { last: policy }) = self.state();
        policy.warnings.clone()
    }

    /// The mode for a client that connects now.
    pub fn tls_mode(&self) -> TlsMode {
        match self.state() {
            ConfigState::Open(policy) => policy.tls.clone().map_or(TlsMode::Plain, TlsMode::Tls),
            // Each request gets an error response instead.
            ConfigState::Closed { last } if last.tls.is_none() => TlsMode::Plain,
            ConfigState::Closed { .. } => TlsMode::Refused,
        }
    }

    /// Responds to a request: refuses it, or calls `handler`.
    pub async fn respond<B, F>(
        &self,
        client: Client,
        request: Request<()>,
        handler: impl FnOnce(Request<()>) -> F,
    ) -> Response<B>
    where
        B: From<&'static str>,
        F: Future<Output = Response<B>>,
    {
        let ConfigState::Open(policy) = self.state() else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the web configuration file is invalid\n");
        };
        if policy.limiter.as_ref().is_some_and(|limiter| !limiter.allow(client, Instant::now())) {
            return refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
        }
        let mut response = match policy.users.judge(request.headers(), client, &self.shared.waiting).await {
            AuthResult::Right => handler(request).await,
            AuthResult::Wrong => {
                let mut response = refusal(StatusCode::UNAUTHORIZED, "unauthorized\n");
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
                response
            }
            AuthResult::Busy => refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many passwords are waiting to be checked: try again later\n",
            ),
        };
        // Headers that the handler has set take precedence.
        for (name, value) in &policy.headers {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        response
    }

    /// Resolves when the configuration admits other clients or users than at the time of this call.
    /// Long responses, such as streams, should end then, and their clients send a new request.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.shared.state.subscribe();
        let then = self.state();
        // The sender is dropped only with the configuration itself.
        async move { drop(state.wait_for(|now| !now.lets_in_as(&then)).await) }
    }

    fn state(&self) -> ConfigState {
        self.shared.state.borrow().clone()
    }

    fn set(&self, state: ConfigState) {
        self.shared.state.send_replace(state);
    }
}

fn refusal<B: From<&'static str>>(status: StatusCode, text: &'static str) -> Response<B> {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content_type);
    response
}
