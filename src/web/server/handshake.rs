//! TLS handshakes: reads the client's first bytes, and refuses clients that cannot be served.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::StartHandshake;
use tokio_rustls::rustls::server::{Accepted, Acceptor};
use tokio_rustls::server::TlsStream;

use crate::web_config::{TlsMode, why_refused};

/// The number of bytes of a response that are encrypted before the kernel takes them. It limits
/// what one client that does not read can hold in memory. The 64 KiB of rustls wake the task more
/// often.
const TLS_BUFFER: usize = 128 * 1024;

/// The first bytes of requests without TLS, as long as the head of a TLS record. Go's server checks
/// for the same ones (`tlsRecordHeaderLooksLikeHTTP` in `net/http/server.go`).
const PLAIN_HTTP_STARTS: [&[u8; RECORD_HEAD]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];

/// The response of Go's server, and therefore of other Prometheus exporters, to such requests.
const HTTPS_REQUIRED: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// The logged reason if rustls cannot parse what the client sends.
const NOT_TLS: &str = "the client does not speak TLS";

/// The length of a record's head, in bytes (RFC 8446, 5.1).
const RECORD_HEAD: usize = 5;

/// The number of the client's first bytes that are kept for inspection. Clients with old versions
/// send few.
const KEPT_HELLO_BYTES: usize = 2 * 1024;

/// The reasons for which a client is refused before rustls is involved.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the client speaks HTTP without TLS")]
    Http,
    #[error("no common TLS version: the client offers at most {0}, the server requires at least TLS 1.2")]
    Old(&'static str),
}

/// Performs the handshake. Calls `tls_mode` after the client has sent its hello. `Ok(None)` if TLS
/// is not to be served any more. An error includes the stream: the client has been sent an alert by
/// then.
pub(crate) async fn handshake<S>(
    mut stream: S,
    tls_mode: &(impl Fn() -> TlsMode + ?Sized),
) -> Result<Option<TlsStream<S>>, (io::Error, S)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let hello = match hello(&mut stream).await {
        Ok(hello) => hello,
        Err(error) => return Err((error, stream)),
    };
    let TlsMode::Tls(config) = tls_mode() else { return Ok(None) };
    let hello = StartHandshake::from_parts(hello, stream);
    let handshake = hello.into_stream_with(config, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    handshake.into_fallible().await.map(Some)
}

/// The reason why this handshake failed. `None` if the client disconnected before it sent anything
/// to respond to.
pub(crate) fn reason(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?;
    match cause.downcast_ref::<Refusal>() {
        Some(refusal) => Some(refusal.to_string()),
        None => Some(cause.downcast_ref().and_then(why_refused).unwrap_or_else(|| NOT_TLS.to_owned())),
    }
}

/// Reads the client's hello.
async fn hello<S>(stream: &mut S) -> io::Result<Accepted>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut said = Vec::with_capacity(KEPT_HELLO_BYTES);
    while said.len() < RECORD_HEAD {
        hear(stream, &mut said).await?;
    }
    if PLAIN_HTTP_STARTS.iter().any(|request| said.starts_with(*request)) {
        return refuse(stream, HTTPS_REQUIRED, Refusal::Http).await;
    }
    let mut taken = 0;
    loop {
        let mut rest = said.get(taken..).unwrap_or_default();
        acceptor.read_tls(&mut rest)?;
        if !rest.is_empty() {
            // rustls has room for twice the bytes that arrive at once.
            return Err(io::Error::other("the client sent too much data at once"));
        }
        let accepted = acceptor.accept();
        if let Some((version, alert)) = old_version(&said) {
            return refuse(stream, &alert, Refusal::Old(version)).await;
        }
        match accepted {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut told = Vec::new();
                alert.write_all(&mut told)?;
                return refuse(stream, &told, error).await;
            }
        }
        said.truncate(KEPT_HELLO_BYTES);
        taken = said.len();
        hear(stream, &mut said).await?;
    }
}

/// Appends the next bytes.
async fn hear(stream: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) -> io::Result<()> {
    match stream.take(KEPT_HELLO_BYTES as u64).read_buf(said).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Sends a refusal to the client, and returns `cause` as the error. A failure to send does not
/// matter.
async fn refuse<S, T>(
    stream: &mut S,
    told: &[u8],
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> io::Result<T>
where
    S: AsyncWrite + Unpin,
{
    let _ = stream.write_all(told).await;
    Err(io::Error::new(io::ErrorKind::InvalidData, cause))
}

/// The newest version that the client offers, if it is older than TLS 1.2, and an alert that
/// reports this. `None` for other clients, and if the hello is incomplete. rustls would name the
/// first missing extension instead, in the alert too.
///
/// RFC 8446, 4.1.2 and 4.2.1: after the record's head come the hello's type, length and version,
/// then 32 random bytes. The session, cipher suites, compressions and extensions follow, each with
/// its length before it. One extension may be a list of versions.
fn old_version(said: &[u8]) -> Option<(&'static str, [u8; 7])> {
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    const SUPPORTED_VERSIONS: usize = 43;
    let mut record = Bytes(said);
    let [HANDSHAKE, 3, _] = *record.take(3)? else { return None };
    let mut message = record.part(2)?;
    let [CLIENT_HELLO] = *message.take(1)? else { return None };
    let mut hello = message.part(3)?;
    let version = hello.number(2)?;
    hello.take(32)?;
    for length in [1, 2, 1] {
        hello.part(length)?;
    }
    let mut newest = version;
    let mut extensions = hello.part(2).unwrap_or(Bytes(&[]));
    while !extensions.0.is_empty() {
        let (kind, mut content) = (extensions.number(2)?, extensions.part(2)?);
        if kind == SUPPORTED_VERSIONS {
            let mut versions = content.part(1)?;
            newest = std::iter::from_fn(|| versions.number(2)).filter(|version| version >> 8 == 3).max()?;
        }
    }
    let name = match newest {
        0x300 => "SSL 3.0",
        0x301 => "TLS 1.0",
        0x302 => "TLS 1.1",
        _ => return None,
    };
    // A fatal protocol_version alert (RFC 8446, 6), in a record of the client's version.
    Some((name, [21, 3, u8::try_from(version & 0xff).unwrap_or(1), 0, 2, 2, 70]))
}

/// Bytes that are consumed from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of this many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A part that is preceded by its length, which takes this many bytes.
    fn part(&mut self, bytes: usize) -> Option<Bytes<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's hello with this version, and with these versions as an extension.
    fn hello(version: u8, versions: Option<&[u8]>) -> Vec<u8> {
        let mut hello = vec![3, version];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x14, 1, 0]);
        if let Some(versions) = versions {
            let list: Vec<u8> = versions.iter().flat_map(|minor| [3, *minor]).collect();
            let length = u8::try_from(list.len()).unwrap();
            // Another extension precedes the list of versions.
            hello.extend([0, length + 5 + 4, 0, 23, 0, 0, 0, 43, 0, length + 1, length]);
            hello.extend(list);
        }
        let length = u8::try_from(hello.len()).unwrap();
        [vec![22, 3, 1, 0, length + 4, 1, 0, 0, length], hello].concat()
    }

    #[test]
    fn old_clients_are_known_by_the_newest_version_they_offer() {
        for (version, versions, name) in [
            (0, None, Some("SSL 3.0")),
            (1, None, Some("TLS 1.0")),
            (2, None, Some("TLS 1.1")),
            (3, None, None),
            (2, Some(&[2, 1][..]), Some("TLS 1.1")),
            (3, Some(&[1]), Some("TLS 1.0")),
            (3, Some(&[3, 2]), None),
            (3, Some(&[4]), None),
            (1, Some(&[4, 3]), None),
        ] {
            let found = old_version(&hello(version, versions));
            assert_eq!(found.map(|(name, _)| name), name, "{version} {versions:?}");
            if let Some((_, alert)) = found {
                assert_eq!(alert, [21, 3, version, 0, 2, 2, 70]);
            }
        }
    }

    #[test]
    fn what_is_not_whole_is_not_judged() {
        let whole = hello(2, Some(&[2, 1]));
        assert!(old_version(&whole).is_some());
        for end in 0..whole.len() {
            assert_eq!(old_version(&whole[..end]), None, "{end}");
        }
        assert_eq!(old_version(b"GET / HTTP/1.1\r\n\r\n"), None);
    }
}
