//! The metrics page.
//!
//! The page has two parts. The first depends only on the snapshot and has megabytes on a large
//! host. It is encoded at the first request for it and kept until the next snapshot. The second has
//! the exporter's own numbers: a few kilobytes that change all the time. It is encoded for each
//! scrape and appended.
//!
//! The compressed page works the same way. Deflate blocks that end with a full flush do not refer
//! to bytes before or after them. So each part is compressed alone, and both are joined into one
//! gzip member, whose checksum is combined from theirs (RFC 1951, RFC 1952).

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::devices::{DeviceMetrics, PathSeries};
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

/// How a client wants names escaped that contain more than ASCII letters, digits, `_` and `:`
/// (<https://prometheus.io/docs/instrumenting/escaping_schemes/>). No name of this exporter does,
/// so all four schemes give the same page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the document say it")]
pub enum Escaping {
    /// The default for clients that name no scheme.
    #[default]
    Underscores,
    AllowUtf8,
    Dots,
    Values,
}

impl Format {
    /// Returns the value of `Content-Type` for a page in this format. OpenMetrics must name the
    /// escaping scheme (<https://prometheus.io/docs/instrumenting/content_negotiation/>). Text
    /// 0.0.4 has none.
    pub(crate) fn content_type(self, escaping: Escaping) -> &'static str {
        match (self, escaping) {
            (Format::OpenMetrics, Escaping::Underscores) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
            }
            (Format::OpenMetrics, Escaping::AllowUtf8) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"
            }
            (Format::OpenMetrics, Escaping::Dots) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=dots"
            }
            (Format::OpenMetrics, Escaping::Values) => {
                "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=values"
            }
            (Format::Text, _) => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Size in bytes of the buffers that hold the text. With chunks, no large buffer has to grow and be
/// copied for a large host.
const CHUNK: usize = 64 << 10;
/// Compression level. While devices change, each scrape compresses the page, so the level is low.
/// Higher levels save little, because the text is repetitive.
const LEVEL: u32 = 3;
/// The member header of RFC 1952: deflate, no flags, no time, no hint, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Encodes the metrics page and keeps the part that depends only on the snapshot.
#[derive(Debug)]
pub struct Exposition {
    paths: PathSeries,
    own: Registry,
    present: Mutex<Arc<Fixed>>,
}

/// The part of the page that depends only on one snapshot, in each form that has been requested.
#[derive(Debug, Default)]
struct Fixed {
    snapshot: Arc<Snapshot>,
    plain: [OnceLock<Result<Vec<Bytes>, fmt::Error>>; 2],
    deflated: [OnceLock<Result<Deflated, fmt::Error>>; 2],
}

/// Compressed text with its checksum and its uncompressed length, for the gzip trailer.
#[derive(Debug, Default)]
struct Deflated {
    blocks: Vec<Bytes>,
    checksum: crc32fast::Hasher,
    length: u64,
}

impl Exposition {
    /// `own` holds the exporter's own metrics. `paths` selects the devices that get per-path
    /// series.
    pub(crate) fn new(own: Registry, paths: PathSeries) -> Self {
        Exposition { paths, own, present: Mutex::default() }
    }

    /// Returns the page for this snapshot, in chunks.
    ///
    /// # Errors
    /// If a metric cannot be encoded. No value can cause this.
    pub(crate) fn page(&self, snapshot: &Arc<Snapshot>, format: Format, gzip: bool) -> Result<Vec<Bytes>, fmt::Error> {
        let fixed = self.fixed(snapshot);
        if gzip { self.gzip_page(&fixed, format) } else { self.plain_page(&fixed, format) }
    }

    /// Returns true if only the exporter's own numbers are still to be encoded for this page.
    pub(crate) fn is_ready(&self, snapshot: &Arc<Snapshot>, format: Format, gzip: bool) -> bool {
        let fixed = self.fixed(snapshot);
        if gzip {
            fixed.deflated[format as usize].get().is_some()
        } else {
            fixed.plain[format as usize].get().is_some()
        }
    }

    /// Returns the cached part for this snapshot. A new snapshot drops the cached part of the
    /// previous one.
    fn fixed(&self, snapshot: &Arc<Snapshot>) -> Arc<Fixed> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&present.snapshot, snapshot) {
            *present = Arc::new(Fixed { snapshot: Arc::clone(snapshot), ..Fixed::default() });
        }
        Arc::clone(&present)
    }

    fn plain_page(&self, fixed: &Fixed, format: Format) -> Result<Vec<Bytes>, fmt::Error> {
        // The first request encodes it. Requests that arrive meanwhile wait for the result instead
        // of encoding it again.
        let mut page = fixed.plain[format as usize]
            .get_or_init(|| {
                let mut chunks = Chunks::default();
                self.encode_fixed(fixed, format, &mut chunks)?;
                Ok(chunks.finish())
            })
            .clone()?;
        let mut chunks = Chunks::default();
        self.encode_own(format, &mut chunks)?;
        page.extend(chunks.finish());
        Ok(page)
    }

    fn gzip_page(&self, fixed: &Fixed, format: Format) -> Result<Vec<Bytes>, fmt::Error> {
        let first = fixed.deflated[format as usize].get_or_init(|| {
            let mut deflater = Deflater::new();
            self.encode_fixed(fixed, format, &mut deflater)?;
            deflater.end(FlushCompress::Full)
        });
        let first = first.as_ref().map_err(|error| *error)?;
        let mut deflater = Deflater::new();
        self.encode_own(format, &mut deflater)?;
        Ok(join(first, deflater.end(FlushCompress::Finish)?))
    }

    fn encode_fixed(&self, fixed: &Fixed, format: Format, out: &mut impl Write) -> fmt::Result {
        let mut registry = Registry::default();
        let snapshot = Arc::clone(&fixed.snapshot);
        registry.register_collector(Box::new(DeviceMetrics { snapshot, paths: self.paths, events: true }));
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

/// Joins two parts into one gzip member. The first part ends with a full flush, the second is
/// finished.
fn join(first: &Deflated, second: Deflated) -> Vec<Bytes> {
    let mut checksum = first.checksum.clone();
    checksum.combine(&second.checksum);
    let mut trailer = checksum.finalize().to_le_bytes().to_vec();
    // RFC 1952 wants the length modulo 2^32.
    trailer.extend((first.length.wrapping_add(second.length) as u32).to_le_bytes());
    let mut page = vec![Bytes::from_static(&GZIP_HEADER)];
    page.extend(first.blocks.iter().cloned().chain(second.blocks));
    page.push(trailer.into());
    page
}

/// Writes the metrics of the registry.
///
/// # Errors
/// The errors of `out`.
pub fn encode(registry: &Registry, format: Format, out: &mut impl Write) -> fmt::Result {
    match format {
        Format::OpenMetrics => encode_registry(out, registry),
        Format::Text => encode_registry(&mut PlainText::new(out), registry),
    }
}

/// Collects text in chunks of [`CHUNK`] bytes.
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

/// Compresses the text that is written to it.
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

    /// Compresses the pending text.
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
            // A flush is complete if it leaves room in the output.
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::own::OwnMetrics;
    use crate::topology::{Daemon, Device, sample};

    fn device(number: usize) -> Arc<Device> {
        Arc::new(Device {
            wwid: format!("3600{number:028}").into(),
            name: format!("a \"name\" \\ with\na newline {number}").into(),
            vendor: "V".into(),
            product: "P".into(),
            revision: "1".into(),
            queueing: Some(true),
            suspended: Some(false),
            read_only: Some(false),
            size_bytes: Some(1 << 40),
            open_count: Some(1),
            in_use: Some(true),
            inflight_requests: Some(0),
            ..sample::device()
        })
    }

    fn snapshot(devices: usize) -> Arc<Snapshot> {
        Arc::new(Snapshot { devices: (0..devices).map(device).collect(), daemon: Daemon::Down, ..Snapshot::default() })
    }

    fn exposition() -> Exposition {
        let mut own = Registry::default();
        own.register_collector(Box::new(Arc::new(OwnMetrics::default())));
        Exposition::new(own, PathSeries::All)
    }

    fn gunzip(page: &[u8]) -> String {
        let mut text = String::new();
        // There must be one member only: some decoders ignore further ones.
        let mut decoder = flate2::bufread::GzDecoder::new(page);
        decoder.read_to_string(&mut text).unwrap();
        assert!(decoder.into_inner().is_empty());
        text
    }

    #[test]
    fn the_compressed_page_is_the_plain_one() {
        let exposition = exposition();
        for devices in [0, 1, 3, 700] {
            let snapshot = snapshot(devices);
            for format in [Format::OpenMetrics, Format::Text] {
                let plain = exposition.page(&snapshot, format, false).unwrap().concat();
                let gzip = exposition.page(&snapshot, format, true).unwrap().concat();
                assert_eq!(gunzip(&gzip).as_bytes(), plain);
                assert_eq!(plain.ends_with(b"# EOF\n"), format == Format::OpenMetrics);
            }
        }
    }

    #[test]
    fn the_same_state_gives_the_same_bytes_and_is_encoded_once() {
        let exposition = exposition();
        let snapshot = snapshot(3);
        assert!(!exposition.is_ready(&snapshot, Format::Text, true));
        let first = exposition.page(&snapshot, Format::Text, true).unwrap();
        assert!(exposition.is_ready(&snapshot, Format::Text, true));
        assert_eq!(exposition.page(&snapshot, Format::Text, true).unwrap(), first);
        let other = super::tests::snapshot(4);
        assert!(!exposition.is_ready(&other, Format::Text, true), "another snapshot is another page");
    }

    proptest! {
        #[test]
        fn parts_of_any_size_join(length in 0usize..200_000, second in "[ -~]{0,300}") {
            let first: String = (0..length).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
            let deflated = |text: &str, flush| {
                let mut deflater = Deflater::new();
                for piece in text.as_bytes().chunks(1000) {
                    deflater.write_str(&String::from_utf8_lossy(piece)).unwrap();
                }
                deflater.end(flush).unwrap()
            };
            let page = join(&deflated(&first, FlushCompress::Full), deflated(&second, FlushCompress::Finish));
            prop_assert_eq!(gunzip(&page.concat()), first + &second);
        }
    }
}
