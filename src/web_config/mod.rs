//! The web configuration file of Prometheus's exporters: TLS, who may ask, how often, and which headers answers carry.
//!
//! The format is that of `prometheus/exporter-toolkit` (`docs/web-configuration.md`): the same keys, defaults and
//! meaning, so that one file serves every exporter of a host. Nothing here knows what is exported. A server asks
//! [`WebConfig::transport`] for each new connection, sends each request through [`WebConfig::answer`], and runs
//! [`WebConfig::follow`] beside, which reads the file again when it changes.
//!
//! ```text
//! file.rs    the keys, and what belongs together      tls.rs      what rustls is told
//! users.rs   who may be let in                        client.rs   which client certificates are good enough
//! auth.rs    users and passwords                      reasons.rs  why a handshake failed
//! limit.rs   how often                                reload.rs   what a change of the files does
//! values.rs  what the keys may say, for all of these
//! ```
//!
//! Where it differs from the toolkit, on purpose:
//!
//! - rustls has neither TLS 1.0 and 1.1, nor the CBC cipher suites, nor the curve P-521. What the file lists of them is left
//!   out with a warning, as the same file may serve exporters that have them. It is refused if nothing is left: all curves,
//!   all cipher suites of the only version, or a `max_version` below 1.2.
//!   Nor has it certificates with keys on P-521, which are refused at the start where they can be seen then, nor those of
//!   X.509 version 1 but for CAs, nor of curves Go's newest, X25519MLKEM768.
//! - How many CAs may stand between a client's certificate and a CA of `client_ca_file` is as that CA's certificate has
//!   it in Go. Here it is not looked at: webpki takes of what it trusts the name and the key. What the certificates
//!   between say of it is kept to.
//! - `VerifyClientCertIfGiven` without CAs lets nobody in who shows a certificate; Go would ask the system's CAs.
//! - What does nothing in the toolkit and looks as if it did is refused: `client_allowed_sans` where no certificate is
//!   asked for, a CA file without a certificate. Where certificates are asked for and not verified, the names are looked
//!   for as there, and a warning says what that is worth.
//! - Users whose hash has a bcrypt cost above 16 are not let in, with a warning, and take as long as names that are not
//!   there. The file is refused if all users are such: see `users.rs`.
//! - The toolkit reads its files at every request. Here they are compared once a second, and never on a request's way: on
//!   a host that loses its disks, reading may take for ever.
//! - What protects cannot be taken away without a restart. See [`reload`].

mod auth;
mod client;
mod file;
mod limit;
mod reasons;
pub mod reload;
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

use auth::{Users, Verdict, WAITING};
use client::ClientCertificates;
use limit::Limiter;
use reload::{Files, Protection};

use crate::shares::{AddressShare, Client, Shares};

pub use reasons::why_refused;
pub use tls::HTTP_2;

/// What is wrong with the file, in one line that names it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", file.display())]
pub struct Error {
    file: PathBuf,
    cause: String,
}

/// How a new connection is to be spoken to.
#[derive(Clone, Debug)]
pub enum Transport {
    /// Without TLS.
    Plain,
    /// With TLS, as this says.
    Tls(Arc<ServerConfig>),
    /// Not at all: the file has turned bad.
    Refused,
}

/// The file as it was last read, shared between all that ask. A clone is the same one.
#[derive(Clone, Debug)]
pub struct WebConfig {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` if there is no file.
    file: Option<PathBuf>,
    /// The part of the limits that one client may have.
    share: AddressShare,
    /// One place per password whose hash is to be made.
    waiting: Arc<Shares>,
    state: watch::Sender<State>,
    /// The files as they were when the state was made.
    files: std::sync::Mutex<Files>,
    reread: Notify,
}

#[derive(Clone, Debug)]
enum State {
    Open(Arc<Policy>),
    /// The file has turned bad. It may have been meant to keep somebody out.
    Closed {
        /// What held before.
        last: Arc<Policy>,
    },
}

impl State {
    /// Whether these let in the same clients and users.
    fn lets_in_as(&self, other: &State) -> bool {
        match (self, other) {
            (State::Open(one), State::Open(other)) => {
                one.clients == other.clients && one.users.hashes() == other.users.hashes()
            }
            (State::Closed { .. }, State::Closed { .. }) => true,
            _ => false,
        }
    }
}

/// What holds for connections and requests.
#[derive(Debug)]
struct Policy {
    tls: Option<Arc<ServerConfig>>,
    /// Whose certificates `tls` takes.
    clients: Option<Arc<ClientCertificates>>,
    http2: bool,
    headers: HeaderMap,
    users: Arc<Users>,
    limiter: Option<Arc<Limiter>>,
    protection: Protection,
    warnings: Vec<String>,
}

impl WebConfig {
    /// No file: plain HTTP for everybody.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn none(share: AddressShare) -> Result<Self, Error> {
        let (policy, files) = reload::load(None, share, None);
        let policy = policy.map_err(|cause| Error { file: PathBuf::new(), cause })?;
        Ok(WebConfig::new(None, share, policy, files))
    }

    /// Reads the file, and those that it names.
    ///
    /// # Errors
    /// If one of them cannot be read, or something in it is wrong: the text names file, line and key.
    pub fn read(file: &Path, share: AddressShare) -> Result<Self, Error> {
        let (policy, files) = reload::load(Some(file), share, None);
        let policy = policy.map_err(|cause| Error { file: file.to_owned(), cause })?;
        Ok(WebConfig::new(Some(file.to_owned()), share, policy, files))
    }

    fn new(file: Option<PathBuf>, share: AddressShare, policy: Policy, files: Files) -> Self {
        let (state, _) = watch::channel(State::Open(Arc::new(policy)));
        WebConfig {
            shared: Arc::new(Shared {
                file,
                share,
                waiting: Shares::new(WAITING, share),
                state,
                files: files.into(),
                reread: Notify::new(),
            }),
        }
    }

    /// Tells the log what is on.
    pub fn log(&self) {
        let State::Open(policy) = self.state() else { return };
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

    /// What is correct in the file, and may not do what it seems to; [`WebConfig::log`] tells the log.
    pub fn warnings(&self) -> Vec<String> {
        let (State::Open(policy) | State::Closed { last: policy }) = self.state();
        policy.warnings.clone()
    }

    /// How to speak to who connects now.
    pub fn transport(&self) -> Transport {
        match self.state() {
            State::Open(policy) => policy.tls.clone().map_or(Transport::Plain, Transport::Tls),
            // Each request will be told.
            State::Closed { last } if last.tls.is_none() => Transport::Plain,
            State::Closed { .. } => Transport::Refused,
        }
    }

    /// Answers a request: by refusing it, or by asking `handler`.
    pub async fn answer<B, F>(
        &self,
        client: Client,
        request: Request<()>,
        handler: impl FnOnce(Request<()>) -> F,
    ) -> Response<B>
    where
        B: From<&'static str>,
        F: Future<Output = Response<B>>,
    {
        let State::Open(policy) = self.state() else {
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "the web configuration file is not correct\n");
        };
        if policy.limiter.as_ref().is_some_and(|limiter| !limiter.allow(client, Instant::now())) {
            return refusal(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
        }
        let mut response = match policy.users.judge(request.headers(), client, &self.shared.waiting).await {
            Verdict::Right => handler(request).await,
            Verdict::Wrong => {
                let mut response = refusal(StatusCode::UNAUTHORIZED, "unauthorized\n");
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
                response
            }
            Verdict::Busy => refusal(StatusCode::SERVICE_UNAVAILABLE, "too many passwords to check\n"),
        };
        // What the handler says of its own answer goes before.
        for (name, value) in &policy.headers {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        response
    }

    /// Resolves when others may be let in than at the time of this call. What lasts, such as a stream, should end then, and
    /// whoever wants to go on asks again.
    pub fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut state = self.shared.state.subscribe();
        let then = self.state();
        // Without a sender there is nobody left to ask.
        async move { drop(state.wait_for(|now| !now.lets_in_as(&then)).await) }
    }

    fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    fn set(&self, state: State) {
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
