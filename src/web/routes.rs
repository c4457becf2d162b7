//! Which path gets which answer.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tracing::error;

use super::api::{Devices, Events, MultipathHealth};
use super::page::{self, Query, View};
use super::server::Body;
use super::{negotiate, stream};
use crate::metrics::exposition::Exposition;
use crate::monitor::Board;
use crate::topology::Snapshot;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EVENT_STREAM: &str = "text/event-stream";

/// Status pages that are written at once.
const PAGES: usize = 2;

/// Status pages in memory at once, from when they are written until their clients have them.
const KEPT_PAGES: usize = 64;

/// A status page, and its place among those that are kept.
struct KeptPage {
    content: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for KeptPage {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

/// How hard a status page is compressed: higher levels take longer and save little, as devices look alike.
const LEVEL: u32 = 3;

/// How long a scrape counts among those at once. Its client may take longer, and then takes no place from others: the page is
/// the same for all. A good one has it in milliseconds.
const TAKING: Duration = Duration::from_secs(2);

/// Answers requests from what the monitor published.
#[derive(Debug)]
pub struct Routes {
    board: Board,
    exposition: Arc<Exposition>,
    telemetry_path: String,
    /// One permit per scrape being answered; `None` for no limit.
    scrapes: Option<Arc<Semaphore>>,
    /// One permit per event stream.
    streams: Arc<Semaphore>,
    /// One permit per status page that is being written.
    pages: Semaphore,
    /// One permit per status page in memory: each is one client's own, and clients may be slow.
    kept_pages: Arc<Semaphore>,
    /// The document of all devices, megabytes on a large host, and the snapshot it was made of: however many ask for
    /// it, there is one.
    devices: tokio::sync::Mutex<Option<(Arc<Snapshot>, Bytes)>>,
}

impl Routes {
    /// `max_requests` is the number of scrapes answered at once, 0 for no limit.
    pub fn new(board: Board, exposition: Exposition, telemetry_path: String, max_requests: usize) -> Self {
        let scrapes = match max_requests {
            0 => None,
            permits => Some(Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))),
        };
        let streams = Arc::new(Semaphore::new(stream::LIMIT));
        Routes {
            board,
            exposition: Arc::new(exposition),
            telemetry_path,
            scrapes,
            streams,
            pages: Semaphore::new(PAGES),
            kept_pages: Arc::new(Semaphore::new(KEPT_PAGES)),
            devices: Default::default(),
        }
    }

    /// Answers one request.
    pub async fn answer(&self, request: &Request<()>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        let path = request.uri().path();
        if path == self.telemetry_path {
            return self.metrics(request).await;
        }
        let snapshot = self.board.snapshot.borrow().clone();
        match (path, snapshot) {
            ("/", snapshot) => self.page(request, snapshot).await,
            ("/-/healthy", _) => text(StatusCode::OK, "healthy\n"),
            ("/-/ready", Some(_)) => text(StatusCode::OK, "ready\n"),
            ("/api/v1/events", _) => self.events(request),
            ("/api/v1/multipath-health", Some(snapshot)) => json(&MultipathHealth::from(&*snapshot)),
            ("/api/v1/devices", Some(snapshot)) => self.devices(snapshot).await,
            ("/-/ready" | "/api/v1/multipath-health" | "/api/v1/devices", None) => self.not_ready(),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    /// Nothing has been read yet; if that is because nothing can be read, the reasons.
    fn not_ready(&self) -> Response<Body> {
        let sources = self.board.sources.all();
        let reasons = sources.iter().filter_map(|(source, health)| Some((source.as_str(), health.error.as_ref()?)));
        let reasons: String = reasons.map(|(source, error)| format!("{source}: {error}\n")).collect();
        let answer = format!("no source has said yet which devices there are\n{reasons}");
        content(StatusCode::SERVICE_UNAVAILABLE, TEXT, answer.into())
    }

    async fn devices(&self, snapshot: Arc<Snapshot>) -> Response<Body> {
        let mut last = self.devices.lock().await;
        let known = last.take().filter(|(of, _)| Arc::ptr_eq(of, &snapshot));
        let document = match known {
            Some((_, document)) => document,
            None => {
                let source = Arc::clone(&snapshot);
                let encoded = tokio::task::spawn_blocking(move || document(&Devices::from(&*source))).await;
                let Some(document) = encoded.ok().flatten() else { return not_encoded() };
                document
            }
        };
        *last = Some((snapshot, document.clone()));
        content(StatusCode::OK, JSON, document.into())
    }

    /// What a person sees. Written off the threads that answer others: on a large host it takes milliseconds.
    async fn page(&self, request: &Request<()>, snapshot: Option<Arc<Snapshot>>) -> Response<Body> {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let (events, sources) = (self.board.events.recent(), self.board.sources.all());
        let telemetry_path = self.telemetry_path.clone();
        let gzip = negotiate::gzip(request.headers());
        let write = move || {
            let page = page::html(&View {
                snapshot: snapshot.as_deref(),
                events: &events,
                sources: &sources,
                telemetry_path: &telemetry_path,
                host: &rustix::system::uname().nodename().to_string_lossy(),
                query,
                now: SystemTime::now(),
            });
            if gzip { compress(page.as_bytes()) } else { Ok(page.into()) }
        };
        let Ok(place) = Arc::clone(&self.kept_pages).try_acquire_owned() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many status pages at once\n");
        };
        // However many ask for it, they do not get between a scrape and its page.
        let Ok(_turn) = self.pages.acquire().await else { return not_encoded() };
        let Ok(Ok(written)) = tokio::task::spawn_blocking(write).await else { return not_encoded() };
        let page = Bytes::from_owner(KeptPage { content: written, _place: place });
        let mut answer = content(StatusCode::OK, HTML, page.into());
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, page::POLICY.clone());
        // Runbooks are elsewhere: which host, and which device, is nobody's business there.
        answer.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    }

    /// The recent events, or those to come.
    fn events(&self, request: &Request<()>) -> Response<Body> {
        let mut answer = match negotiate::event_stream(request.headers()) {
            false => json(&Events { events: self.board.events.recent() }),
            true => match Arc::clone(&self.streams).try_acquire_owned() {
                Ok(permit) => {
                    let last =
                        request.headers().get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.trim().parse().ok());
                    let body = stream::body(self.board.events.follow(last)).with_guard(permit);
                    content(StatusCode::OK, EVENT_STREAM, body)
                }
                Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "too many event streams at once\n"),
            },
        };
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        answer
    }

    async fn metrics(&self, request: &Request<()>) -> Response<Body> {
        let place = self.scrapes.as_ref().map(|scrapes| Arc::clone(scrapes).try_acquire_owned());
        let Ok(place) = place.transpose() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once\n");
        };
        let Some(snapshot) = self.board.snapshot.borrow().clone() else { return self.not_ready() };
        self.board.own.scrapes.inc();
        let format = negotiate::format(request.headers());
        let gzip = negotiate::gzip(request.headers());
        let page = match self.exposition.is_ready(&snapshot, format, gzip) {
            true => self.exposition.page(&snapshot, format, gzip),
            // A large host's page takes tens of milliseconds the first time: not on a thread that answers others.
            false => {
                let exposition = Arc::clone(&self.exposition);
                let encode = move || exposition.page(&snapshot, format, gzip);
                tokio::task::spawn_blocking(encode).await.unwrap_or(Err(std::fmt::Error))
            }
        };
        let Ok(page) = page else { return not_encoded() };
        let mut body = Body::chunks(page.into());
        if let Some(place) = place {
            let (taking, taken) = oneshot::channel::<()>();
            tokio::spawn(async move {
                // Dropped with the answer, whether it was taken or not.
                let _ = timeout(TAKING, taken).await;
                drop(place);
            });
            body = body.with_guard(taking);
        }
        let mut answer = content(StatusCode::OK, format.content_type(), body);
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

fn compress(text: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
    encoder.write_all(text)?;
    Ok(encoder.finish()?.into())
}

fn json(content_of: &impl Serialize) -> Response<Body> {
    document(content_of).map_or_else(not_encoded, |document| content(StatusCode::OK, JSON, document.into()))
}

fn document(content_of: &impl Serialize) -> Option<Bytes> {
    let mut document = serde_json::to_vec(content_of).ok()?;
    document.push(b'\n');
    Some(document.into())
}

fn not_encoded() -> Response<Body> {
    error!("cannot encode an answer");
    text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the answer\n")
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    content(status, TEXT, text.into())
}

fn content(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_page_has_its_place_while_it_is_in_memory() {
        let places = Arc::new(Semaphore::new(1));
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        let mut page = Bytes::from_owner(KeptPage { content: "a status page".into(), _place: place });
        // As it is handed to HTTP/2, a piece at a time.
        let piece = page.split_to(5);
        drop(page);
        assert_eq!((&*piece, places.available_permits()), (&b"a sta"[..], 0));
        drop(piece);
        assert_eq!(places.available_permits(), 1);
    }
}
