//! The routes: which path gets which response.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::error;

use super::api::{DevicesDocument, EventsDocument, MultipathHealthDocument};
use super::held::Held;
use super::hosts::AllowedHosts;
use super::page::{self, PageContent, Query, runbooks};
use super::server::{Body, NoRefusal, Notice};
use super::{negotiate, stream};
use crate::metrics::exposition::Exposition;
use crate::monitor::Board;
use crate::shares::{AddressShare, Client, Shares};
use crate::source::health::Source;
use crate::topology::Snapshot;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EVENT_STREAM: &str = "text/event-stream";

/// The number of pages and documents that are made at the same time. The same number of scrapes is
/// made in addition.
const MAX_BEING_MADE: usize = 2;

/// The number of status pages, runbooks and documents that are being made, or wait for it, at the
/// same time.
const MAX_REQUESTED: usize = 64;

/// The compression level of a status page. Devices look alike, so higher levels take longer and
/// save little.
const GZIP_LEVEL: u32 = 3;

/// Responds to requests with what the monitor published.
#[derive(Debug)]
pub(crate) struct Routes {
    board: Board,
    exposition: Arc<Exposition>,
    telemetry_path: String,
    /// The names under which a client may request the status page and the API. `None` if they are
    /// not served.
    status_page: Option<AllowedHosts>,
    /// One place per scrape whose page is being made. `None` for no limit.
    scrapes: Option<Arc<Shares>>,
    /// One place per other large response that is being made: a page or a document.
    places: Arc<Shares>,
    /// One place per event stream.
    streams: Arc<Shares>,
    /// The pages that clients have not read yet.
    held: Held,
    /// One permit per metrics page that is being made.
    scrape_turns: Arc<Semaphore>,
    /// One permit per page or document that is being made.
    turns: Arc<Semaphore>,
    /// All devices: several megabytes on a large host.
    devices: CachedDocument<SnapshotIdentity>,
    /// oVirt's document.
    health: CachedDocument<SnapshotIdentity>,
    /// The recent events up to the one with this id.
    events: CachedDocument<Option<u64>>,
}

impl Routes {
    /// `max_requests` is the number of scrapes that are served at the same time, 0 for no limit.
    /// `share` is the part of this limit, and of the others, that one client may use. Without
    /// `status_page`, only metrics and health are served. `notice` counts and logs responses that
    /// are cut off.
    pub(crate) fn new(
        board: Board,
        exposition: Exposition,
        telemetry_path: String,
        status_page: Option<AllowedHosts>,
        max_requests: usize,
        share: AddressShare,
        notice: Notice,
    ) -> Self {
        Routes {
            board,
            exposition: Arc::new(exposition),
            telemetry_path,
            status_page,
            scrapes: (max_requests > 0).then(|| Shares::new(max_requests, share)),
            places: Shares::new(MAX_REQUESTED, share),
            streams: Shares::new(stream::MAX_STREAMS, share),
            held: Held::new(notice),
            scrape_turns: Arc::new(Semaphore::new(MAX_BEING_MADE)),
            turns: Arc::new(Semaphore::new(MAX_BEING_MADE)),
            devices: CachedDocument::default(),
            health: CachedDocument::default(),
            events: CachedDocument::default(),
        }
    }

    pub(crate) async fn respond(&self, client: Client, request: &Request<()>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are supported\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let path = request.uri().path();
        if path == self.telemetry_path {
            return self.metrics(client, request).await;
        }
        if is_for_people(path) {
            match &self.status_page {
                None => return nothing(),
                Some(hosts) if !hosts.allow(request, &host()) => return misdirected(),
                Some(_) => {}
            }
        }
        if let Some(alert) = path.strip_prefix(runbooks::RUNBOOKS_PATH) {
            return self.runbook(client, request, alert).await;
        }
        let snapshot = self.board.snapshot.borrow().clone();
        match (path, snapshot) {
            ("/", snapshot) => self.page(client, request, snapshot).await,
            ("/-/healthy", _) => text(StatusCode::OK, "healthy\n"),
            ("/-/ready", Some(_)) => text(StatusCode::OK, "ready\n"),
            ("/api/v1/events", _) => self.events(client, request).await,
            ("/api/v1/multipath-health", Some(snapshot)) => self.health(client, snapshot).await,
            ("/api/v1/devices", Some(snapshot)) => self.devices(client, snapshot).await,
            ("/-/ready" | "/api/v1/multipath-health" | "/api/v1/devices", None) => self.not_ready(),
            _ => nothing(),
        }
    }

    /// Not every source of devices has been read yet: names those that have not, with the reasons.
    fn not_ready(&self) -> Response<Body> {
        let sources = self.board.sources.all();
        let awaited = sources.iter().filter(|(source, health)| *source != Source::Uevent && health.is_awaited());
        let reasons = awaited.map(|(source, health)| {
            let reason = health.error.as_deref().unwrap_or("still being read");
            format!("{}: {reason}\n", source.name())
        });
        let response = match reasons.collect::<String>() {
            none if none.is_empty() => "the first full read is in progress\n".to_owned(),
            reasons => format!("waiting for the first reading of:\n{reasons}"),
        };
        let mut response = content(StatusCode::SERVICE_UNAVAILABLE, TEXT, response.into());
        response.extensions_mut().insert(NoRefusal);
        response
    }

    /// A document that all clients share while `key` stays the same, including clients that read it
    /// slowly.
    async fn document<K: PartialEq>(
        &self,
        client: Client,
        kept: &CachedDocument<K>,
        key: K,
        write: impl FnOnce() -> Option<Bytes> + Send + 'static,
    ) -> Response<Body> {
        let Some(_place) = self.places.take(client) else { return too_many_requests() };
        let write = off_thread(&self.turns, move || write().map(|document| pieces(&document)));
        let Some(document) = kept.get(key, async { write.await.flatten() }).await else { return not_encoded() };
        content(StatusCode::OK, JSON, self.held.hand_over(client, document))
    }

    async fn devices(&self, client: Client, snapshot: Arc<Snapshot>) -> Response<Body> {
        let key = SnapshotIdentity(Arc::clone(&snapshot));
        self.document(client, &self.devices, key, move || encoded(&DevicesDocument::from(&*snapshot))).await
    }

    async fn health(&self, client: Client, snapshot: Arc<Snapshot>) -> Response<Body> {
        let key = SnapshotIdentity(Arc::clone(&snapshot));
        self.document(client, &self.health, key, move || encoded(&MultipathHealthDocument::from(&*snapshot))).await
    }

    async fn page(&self, client: Client, request: &Request<()>, snapshot: Option<Arc<Snapshot>>) -> Response<Body> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let (events, sources) = (self.board.events.recent(), self.board.sources.all());
        let telemetry_path = self.telemetry_path.clone();
        let write = move || {
            page::html(&PageContent {
                snapshot: snapshot.as_deref(),
                events: &events,
                sources: &sources,
                telemetry_path: &telemetry_path,
                host: &host(),
                query,
                now: SystemTime::now(),
            })
        };
        self.html(client, request, write).await
    }

    async fn runbook(&self, client: Client, request: &Request<()>, alert: &str) -> Response<Body> {
        match runbooks::html(alert, &host()) {
            Some(page) => self.html(client, request, move || page).await,
            None => nothing(),
        }
    }

    /// A page for a browser. It takes milliseconds on a large host, so a blocking thread writes it.
    async fn html(
        &self,
        client: Client,
        request: &Request<()>,
        write: impl FnOnce() -> String + Send + 'static,
    ) -> Response<Body> {
        let gzip = negotiate::gzip(request.headers());
        let write = move || {
            let page = write();
            if gzip { compress(page.as_bytes()) } else { Ok(page.into()) }
        };
        let Some(_place) = self.places.take(client) else { return too_many_requests() };
        let Some(Ok(page)) = off_thread(&self.turns, write).await else { return not_encoded() };
        let mut response = content(StatusCode::OK, HTML, self.held.hand_over(client, pieces(&page)));
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, page::POLICY.clone());
        // Some links lead to other sites, which must not learn the names of this host and its
        // devices.
        response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }

    /// The recent events, or the live stream.
    async fn events(&self, client: Client, request: &Request<()>) -> Response<Body> {
        let mut response = if negotiate::event_stream(request.headers()) {
            self.event_stream(client, request)
        } else {
            let events = self.board.events.recent();
            let last = events.last().map(|event| event.id);
            self.document(client, &self.events, last, move || encoded(&EventsDocument { events })).await
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        response
    }

    fn event_stream(&self, client: Client, request: &Request<()>) -> Response<Body> {
        let Some(place) = self.streams.take(client) else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many event streams are open: close one, or try again later\n",
            );
        };
        let last = request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.trim().parse().ok());
        let body = stream::body(self.board.events.follow(last)).with_guard(place);
        content(StatusCode::OK, EVENT_STREAM, body)
    }

    async fn metrics(&self, client: Client, request: &Request<()>) -> Response<Body> {
        // The place is held while the page is made. Its delivery holds no place.
        let place = self.scrapes.as_ref().map(|scrapes| scrapes.take(client));
        if let Some(None) = place {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many scrapes at the same time: try again later, or raise --web.max-requests\n",
            );
        }
        let Some(snapshot) = self.board.snapshot.borrow().clone() else { return self.not_ready() };
        self.board.own.scrapes.inc();
        let (format, escaping) = negotiate::format(request.headers());
        let gzip = negotiate::gzip(request.headers());
        let page = if self.exposition.is_ready(&snapshot, format, gzip) {
            self.exposition.page(&snapshot, format, gzip)
        } else {
            // The first page of a large host takes tens of milliseconds, so a blocking thread makes
            // it.
            let exposition = Arc::clone(&self.exposition);
            let encode = move || exposition.page(&snapshot, format, gzip);
            off_thread(&self.scrape_turns, encode).await.unwrap_or(Err(std::fmt::Error))
        };
        let Ok(page) = page else { return not_encoded() };
        let body = self.held.hand_over(client, page.into());
        let mut response = content(StatusCode::OK, format.content_type(escaping), body);
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

/// A document, and the key that it was made for. Requests that arrive while it is made wait for it.
#[derive(Debug)]
struct CachedDocument<K>(tokio::sync::Mutex<Option<(K, Pieces)>>);

impl<K> Default for CachedDocument<K> {
    fn default() -> Self {
        CachedDocument(tokio::sync::Mutex::default())
    }
}

impl<K: PartialEq> CachedDocument<K> {
    /// Returns this key's document. Makes it if the kept one is for another key. `None` if that
    /// fails.
    async fn get(&self, key: K, make: impl Future<Output = Option<Pieces>>) -> Option<Pieces> {
        let mut kept = self.0.lock().await;
        let document = match kept.take() {
            Some((of, document)) if of == key => document,
            _ => make.await?,
        };
        *kept = Some((key, Arc::clone(&document)));
        Some(document)
    }
}

/// A snapshot, equal only to itself.
#[derive(Debug)]
struct SnapshotIdentity(Arc<Snapshot>);

impl PartialEq for SnapshotIdentity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A response in pieces, shared by all clients that request it.
type Pieces = Arc<[Bytes]>;

/// The size of one piece of a response, in bytes.
const PIECE_SIZE: usize = 16 << 10;

/// Splits a response into pieces, so that a client that does not read keeps only some of them in
/// its connection's write queue. Each piece has its own memory: with shared memory, one piece would
/// keep all of them alive.
fn pieces(content: &[u8]) -> Pieces {
    content.chunks(PIECE_SIZE).map(Bytes::copy_from_slice).collect()
}

/// Runs `work` on a blocking thread, in its turn. The turn ends with the work, not with the caller.
/// Otherwise a client that repeatedly sends a request and disconnects would occupy all threads.
async fn off_thread<T: Send + 'static>(turns: &Arc<Semaphore>, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turn = Arc::clone(turns).acquire_owned().await.ok()?;
    let work = move || {
        let result = work();
        drop(turn);
        result
    };
    tokio::task::spawn_blocking(work).await.ok()
}

fn compress(text: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
    encoder.write_all(text)?;
    Ok(encoder.finish()?.into())
}

fn encoded(content_of: &impl Serialize) -> Option<Bytes> {
    let mut document = serde_json::to_vec(content_of).ok()?;
    document.push(b'\n');
    Some(document.into())
}

/// The host's node name.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn too_many_requests() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "too many pages and documents requested at the same time: try again later\n")
}

/// Returns true for the status page and everything that belongs to it. A foreign web page that can
/// read it would learn the host's devices and their names.
fn is_for_people(path: &str) -> bool {
    let place = path.split('/').nth(1).unwrap_or_default();
    matches!(place, "" | "api" | "runbooks")
}

fn misdirected() -> Response<Body> {
    let sentence = "the host name in the request is not allowed: use an address of this host or its node name, or start the \
                    exporter with --web.allowed-host=NAME\n";
    text(StatusCode::MISDIRECTED_REQUEST, sentence)
}

fn nothing() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "this path does not exist\n")
}

fn not_encoded() -> Response<Body> {
    error!("cannot encode a response");
    text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the response\n")
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    content(status, TEXT, text.into())
}

fn content(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_nobody_waits_for_keeps_its_turn() {
        let turns = Arc::new(Semaphore::new(1));
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let (began, beginning) = tokio::sync::oneshot::channel();
        let work = off_thread(&turns, move || {
            began.send(()).unwrap();
            wait.recv().unwrap();
        });
        tokio::select! {
            biased;
            _ = work => panic!("it cannot have ended"),
            begun = beginning => begun.unwrap(),
        }
        assert_eq!(turns.available_permits(), 0);
        go_on.send(()).unwrap();
        assert_eq!(off_thread(&turns, || 7).await, Some(7));
    }
}
