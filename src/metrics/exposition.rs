//! The page that a scrape gets.
//!
//! It has two parts: what the snapshot fixes, megabytes on a large host, and the exporter's own numbers, a few
//! kilobytes that change all the time. The first is encoded when it is first asked for, and kept until the next
//! snapshot; the second is encoded for each scrape and put behind it.
//!
//! The same goes for the compressed page. Deflate blocks that end with a full flush refer to nothing before or after
//! them, so the two parts are compressed each by itself and joined into one gzip member, whose checksum is combined from
//! theirs (RFC 1951, RFC 1952).

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::devices::Devices;
use super::text::PlainText;
use crate::topology::Snapshot;

/// A format that Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text 0.0.4.
    Text,
}

impl Format {
    /// The value of `Content-Type` for a page in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How the text is handed out in memory: no large buffer has to grow, and be copied, for a large host.
const CHUNK: usize = 64 << 10;
/// A page that is compressed once per snapshot could afford more, but while devices change each scrape pays, and higher
/// levels save little: the text is repetitive.
const LEVEL: u32 = 3;
/// Member header of RFC 1952: deflate, no flags, no time, no hint, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Encodes pages.
#[derive(Debug)]
pub struct Exposition {
    paths: bool,
    own: Registry,
    present: Mutex<Arc<Fixed>>,
}

/// The part of the page that one snapshot fixes, in every form that has been asked for.
#[derive(Debug, Default)]
struct Fixed {
    snapshot: Arc<Snapshot>,
    plain: [OnceLock<Vec<Bytes>>; 2],
    deflated: [OnceLock<Deflated>; 2],
}

/// Compressed text, and what a gzip trailer needs of it.
#[derive(Debug, Default)]
struct Deflated {
    blocks: Vec<Bytes>,
    checksum: crc32fast::Hasher,
    length: u64,
}

impl Exposition {
    /// `own` holds the exporter's own numbers; `paths` says whether the series of each path are wanted.
    pub fn new(own: Registry, paths: bool) -> Self {
        Exposition { paths, own, present: Mutex::default() }
    }

    /// The page for this snapshot, in order.
    ///
    /// # Errors
    /// If a metric cannot be encoded, which no value can cause.
    pub fn page(&self, snapshot: &Arc<Snapshot>, format: Format, gzip: bool) -> Result<Vec<Bytes>, fmt::Error> {
        let fixed = self.fixed(snapshot);
        match gzip {
            true => self.gzip_page(&fixed, format),
            false => self.plain_page(&fixed, format),
        }
    }

    /// Whether the page costs no more than the exporter's own numbers.
    pub fn is_ready(&self, snapshot: &Arc<Snapshot>, format: Format, gzip: bool) -> bool {
        let fixed = self.fixed(snapshot);
        match gzip {
            true => fixed.deflated[format as usize].get().is_some(),
            false => fixed.plain[format as usize].get().is_some(),
        }
    }

    /// What is kept for this snapshot. The one before is dropped, with all its text.
    fn fixed(&self, snapshot: &Arc<Snapshot>) -> Arc<Fixed> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&present.snapshot, snapshot) {
            *present = Arc::new(Fixed { snapshot: Arc::clone(snapshot), ..Fixed::default() });
        }
        Arc::clone(&present)
    }

    fn plain_page(&self, fixed: &Fixed, format: Format) -> Result<Vec<Bytes>, fmt::Error> {
        let mut page = get_or_try(&fixed.plain[format as usize], || {
            let mut chunks = Chunks::default();
            self.encode_fixed(fixed, format, &mut chunks)?;
            Ok(chunks.finish())
        })?
        .clone();
        let mut chunks = Chunks::default();
        self.encode_own(format, &mut chunks)?;
        page.extend(chunks.finish());
        Ok(page)
    }

    fn gzip_page(&self, fixed: &Fixed, format: Format) -> Result<Vec<Bytes>, fmt::Error> {
        let first = get_or_try(&fixed.deflated[format as usize], || {
            let mut deflater = Deflater::new();
            self.encode_fixed(fixed, format, &mut deflater)?;
            deflater.end(FlushCompress::Full)
        })?;
        let mut deflater = Deflater::new();
        self.encode_own(format, &mut deflater)?;
        let second = deflater.end(FlushCompress::Finish)?;
        let mut checksum = first.checksum.clone();
        checksum.combine(&second.checksum);
        let mut trailer = checksum.finalize().to_le_bytes().to_vec();
        // The length modulo 2^32.
        trailer.extend((first.length.wrapping_add(second.length) as u32).to_le_bytes());
        let mut page = vec![Bytes::from_static(&GZIP_HEADER)];
        page.extend(first.blocks.iter().cloned().chain(second.blocks));
        page.push(trailer.into());
        Ok(page)
    }

    fn encode_fixed(&self, fixed: &Fixed, format: Format, out: &mut impl Write) -> fmt::Result {
        let mut registry = Registry::default();
        let snapshot = Arc::clone(&fixed.snapshot);
        registry.register_collector(Box::new(Devices { snapshot, paths: self.paths, events: true }));
        encode(&registry, format, out)
    }

    fn encode_own(&self, format: Format, out: &mut impl Write) -> fmt::Result {
        encode(&self.own, format, out)?;
        match format {
            Format::OpenMetrics => encode_eof(out),
            Format::Text => Ok(()),
        }
    }
}

/// Writes what is registered.
///
/// # Errors
/// Those of `out`.
pub fn encode(registry: &Registry, format: Format, out: &mut impl Write) -> fmt::Result {
    match format {
        Format::OpenMetrics => encode_registry(out, registry),
        Format::Text => encode_registry(&mut PlainText::new(out), registry),
    }
}

/// The cell's value, made by whoever comes first; the others wait for it instead of making it again.
fn get_or_try<T: Default>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, fmt::Error>) -> Result<&T, fmt::Error> {
    let mut failed = Ok(());
    let value = cell.get_or_init(|| {
        make().unwrap_or_else(|error| {
            failed = Err(error);
            T::default()
        })
    });
    failed.map(|()| value)
}

/// Text in pieces of [`CHUNK`].
#[derive(Default)]
struct Chunks {
    full: Vec<Bytes>,
    open: String,
}

impl Chunks {
    fn finish(mut self) -> Vec<Bytes> {
        self.open.shrink_to_fit();
        self.full.push(self.open.into());
        self.full
    }
}

impl Write for Chunks {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.open.len() + text.len() > self.open.capacity() {
            let next = String::with_capacity(CHUNK.max(text.len()));
            let full = std::mem::replace(&mut self.open, next);
            if !full.is_empty() {
                self.full.push(full.into());
            }
        }
        self.open.push_str(text);
        Ok(())
    }
}

/// Compresses as it is written to.
struct Deflater {
    compress: Compress,
    pending: Vec<u8>,
    blocks: Vec<Bytes>,
    open: Vec<u8>,
    checksum: crc32fast::Hasher,
    length: u64,
}

impl Deflater {
    fn new() -> Self {
        Deflater {
            compress: Compress::new(Compression::new(LEVEL), false),
            pending: Vec::with_capacity(CHUNK),
            blocks: Vec::new(),
            open: Vec::with_capacity(CHUNK),
            checksum: crc32fast::Hasher::new(),
            length: 0,
        }
    }

    /// Compresses what is pending.
    fn push(&mut self, flush: FlushCompress) -> fmt::Result {
        self.checksum.update(&self.pending);
        self.length += self.pending.len() as u64;
        let mut rest = &self.pending[..];
        loop {
            let (read, room) = (self.compress.total_in(), self.open.capacity() - self.open.len());
            self.compress.compress_vec(rest, &mut self.open, flush).map_err(|_| fmt::Error)?;
            rest = &rest[(self.compress.total_in() - read) as usize..];
            let filled = self.open.len() == self.open.capacity();
            if filled {
                let full = std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK));
                self.blocks.push(full.into());
            }
            // A flush is complete when it leaves room in the output.
            if rest.is_empty() && !filled && room > 0 {
                break;
            }
        }
        self.pending.clear();
        Ok(())
    }

    fn end(mut self, flush: FlushCompress) -> Result<Deflated, fmt::Error> {
        self.push(flush)?;
        self.open.shrink_to_fit();
        self.blocks.push(self.open.into());
        Ok(Deflated { blocks: self.blocks, checksum: self.checksum, length: self.length })
    }
}

impl Write for Deflater {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.pending.len() + text.len() > CHUNK && !self.pending.is_empty() {
            self.push(FlushCompress::None)?;
        }
        self.pending.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
