//! Which path gets which answer.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::error;

use super::api::{Devices, Events, MultipathHealth};
use super::server::Body;
use super::{negotiate, page};
use crate::metrics::exposition::Exposition;
use crate::monitor::Board;
use crate::topology::Snapshot;

const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers requests from what the monitor published.
#[derive(Debug)]
pub struct Routes {
    board: Board,
    exposition: Arc<Exposition>,
    telemetry_path: String,
    /// One permit per scrape being answered; `None` for no limit.
    scrapes: Option<Arc<Semaphore>>,
}

impl Routes {
    /// `max_requests` is the number of scrapes answered at once, 0 for no limit.
    pub fn new(board: Board, exposition: Exposition, telemetry_path: String, max_requests: usize) -> Self {
        let scrapes = match max_requests {
            0 => None,
            permits => Some(Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)))),
        };
        Routes { board, exposition: Arc::new(exposition), telemetry_path, scrapes }
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
            ("/", snapshot) => {
                let page = page::html(snapshot.as_deref(), &self.telemetry_path);
                let mut answer = content(StatusCode::OK, HTML, page.into());
                let policy = HeaderValue::from_static("default-src 'none'; base-uri 'none'; frame-ancestors 'none'");
                answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
                answer
            }
            ("/-/healthy", _) => text(StatusCode::OK, "healthy\n"),
            ("/-/ready", Some(_)) => text(StatusCode::OK, "ready\n"),
            ("/api/v1/events", _) => json(&Events { events: self.board.events.recent() }),
            ("/api/v1/multipath-health", Some(snapshot)) => json(&MultipathHealth::from(&*snapshot)),
            ("/api/v1/devices", Some(snapshot)) => devices(snapshot).await,
            ("/-/ready" | "/api/v1/multipath-health" | "/api/v1/devices", None) => not_ready(),
            _ => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
        }
    }

    async fn metrics(&self, request: &Request<()>) -> Response<Body> {
        let permit = match &self.scrapes {
            None => None,
            Some(scrapes) => match Arc::clone(scrapes).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return text(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once\n"),
            },
        };
        let Some(snapshot) = self.board.snapshot.borrow().clone() else { return not_ready() };
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
        let Ok(page) = page else {
            error!("cannot encode the metrics");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics\n");
        };
        let mut body = Body::chunks(page.into());
        if let Some(permit) = permit {
            body = body.with_guard(permit);
        }
        let mut answer = content(StatusCode::OK, format.content_type(), body);
        answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        if gzip {
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        answer
    }
}

async fn devices(snapshot: Arc<Snapshot>) -> Response<Body> {
    // Megabytes on a large host.
    let answer = tokio::task::spawn_blocking(move || json(&Devices::from(&*snapshot))).await;
    answer.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the devices\n"))
}

fn not_ready() -> Response<Body> {
    text(StatusCode::SERVICE_UNAVAILABLE, "the first full read is under way\n")
}

fn json(document: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(document) {
        Ok(mut document) => {
            document.push(b'\n');
            content(StatusCode::OK, JSON, Bytes::from(document).into())
        }
        Err(error) => {
            error!(%error, "cannot encode a document");
            text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the document\n")
        }
    }
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
