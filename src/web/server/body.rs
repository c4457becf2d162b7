//! The bodies of responses.

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of a response.
///
/// Its length is known, so that hyper sends `Content-Length`, unless it is a
/// [`stream`](Body::stream). Its chunks are passed to the socket as they are. A page that scrapes
/// share is therefore never copied.
pub struct Body {
    content: BodyContent,
    guard: Option<Box<dyn Send>>,
}

enum BodyContent {
    /// `left` is the number of bytes in `chunks[next..]`.
    Chunks { chunks: Arc<Mutex<Arc<[Bytes]>>>, next: usize, left: u64 },
    /// One chunk, empty after it was taken.
    Whole(Bytes),
    /// The second field resolves when the stream is to end.
    Stream(mpsc::Receiver<Bytes>, Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl Body {
    /// An empty body.
    pub fn empty() -> Self {
        Bytes::new().into()
    }

    /// These chunks, one after the other. The chunk size does not affect the write speed (measured
    /// from 4 KiB to 3 MiB).
    pub fn chunks(chunks: Arc<[Bytes]>) -> Self {
        Body::revocable(chunks).0
    }

    /// These chunks, and a handle that revokes those that are not handed over yet.
    pub(crate) fn revocable(chunks: Arc<[Bytes]>) -> (Self, Rest) {
        let left = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let chunks = Arc::new(Mutex::new(chunks));
        let rest = Rest(Arc::downgrade(&chunks));
        (BodyContent::Chunks { chunks, next: 0, left }.into(), rest)
    }

    /// All chunks that are sent, until the sender is dropped. Drop the sender on shutdown, or the
    /// stream uses up the grace period. Only a write detects a client that has disconnected, so
    /// send something regularly.
    pub fn stream(chunks: mpsc::Receiver<Bytes>) -> Self {
        BodyContent::Stream(chunks, Box::pin(pending())).into()
    }

    /// Ends a stream as soon as `end` resolves. Does not change other bodies, which end by
    /// themselves.
    #[must_use]
    pub fn until(mut self, end: impl Future<Output = ()> + Send + 'static) -> Self {
        if let BodyContent::Stream(_, until) = &mut self.content {
            *until = Box::pin(end);
        }
        self
    }

    /// Holds `guard` until the last chunk is in the connection's write queue, or until the
    /// connection ends. The client need not have read everything by then: the rest is shared
    /// memory.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Send + 'static) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }
}

/// The part of a response that its client has not read yet.
#[derive(Debug)]
pub(crate) struct Rest(Weak<Mutex<Arc<[Bytes]>>>);

impl Rest {
    /// Returns true if the client has read everything or has disconnected.
    pub(crate) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Frees the rest of the response. The connection ends before the response is complete.
    pub(crate) fn revoke(self) {
        if let Some(chunks) = self.0.upgrade() {
            *chunks.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new([]);
        }
    }
}

impl From<BodyContent> for Body {
    fn from(content: BodyContent) -> Self {
        Body { content, guard: None }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        BodyContent::Whole(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let chunk = match &mut self.content {
            BodyContent::Chunks { chunks, next, left } => {
                let chunk = chunks.lock().unwrap_or_else(PoisonError::into_inner).get(*next).cloned();
                *next += 1;
                *left -= chunk.as_ref().map_or(0, Bytes::len) as u64;
                chunk
            }
            BodyContent::Whole(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            BodyContent::Stream(chunks, end) => match end.as_mut().poll(cx) {
                Poll::Pending => ready!(chunks.poll_recv(cx)),
                Poll::Ready(()) => {
                    self.content = BodyContent::Whole(Bytes::new());
                    None
                }
            },
        };
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            BodyContent::Chunks { left, .. } => SizeHint::with_exact(*left),
            BodyContent::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodyContent::Stream(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_knows_its_length() {
        let page: Arc<[Bytes]> = ["", "one ", "two"].map(Bytes::from).into();
        for (body, content) in [
            (Body::empty(), ""),
            (Body::from("text"), "text"),
            (Body::from("text".to_owned()), "text"),
            (Body::chunks(page), "one two"),
            (Body::chunks(Arc::new([])), ""),
        ] {
            assert_eq!(body.size_hint().exact(), Some(content.len() as u64));
            assert_eq!(body.is_end_stream(), content.is_empty());
            assert_eq!(body.collect().await.unwrap().to_bytes(), content);
        }
        let (sender, receiver) = mpsc::channel(1);
        let body = Body::stream(receiver);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (None, false));
        sender.send("now".into()).await.unwrap();
        drop(sender);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "now");
    }

    #[tokio::test]
    async fn what_is_revoked_is_not_kept() {
        let page: Arc<[Bytes]> = ["one ", "two"].map(Bytes::from).into();
        let (mut body, rest) = Body::revocable(page.clone());
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
        assert!(!rest.is_over());
        rest.revoke();
        assert_eq!((Arc::strong_count(&page), body.size_hint().exact()), (1, Some(3)));
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_stream_ends_when_it_is_told_to() {
        let (sender, receiver) = mpsc::channel(1);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut body = Body::stream(receiver).until(async { drop(ended.await) });
        sender.send("now".into()).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "now");
        sender.send("never".into()).await.unwrap();
        drop(end);
        assert!(body.frame().await.is_none() && body.frame().await.is_none());
        assert!(sender.is_closed());
        // A body that ends by itself is not cut off.
        assert_eq!(Body::from("text").until(async {}).collect().await.unwrap().to_bytes(), "text");
    }

    #[tokio::test]
    async fn chunks_are_shared_not_copied() {
        let page: Arc<[Bytes]> = [Bytes::from(vec![b'x'; 100])].into();
        let frame = Body::chunks(page.clone()).frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap().as_ptr(), page[0].as_ptr());
    }
}
