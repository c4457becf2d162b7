//! Content negotiation: chooses format and compression by the request's headers.
//!
//! These functions are pure and always succeed. A header that makes no sense is ignored, and no
//! client gets a 406. A scraper that gets the plainest format still sees the storage; one that gets
//! an error does not.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

use crate::metrics::exposition::{Escaping, Format};

/// The format of the response, by every `Accept` line of the request.
///
/// RFC 9110's rules apply: the most specific matching range gives a format its weight, and 0
/// excludes it. There is one addition: a wildcard selects OpenMetrics only if the text format is
/// not acceptable. Browsers and curl send wildcards, and every tool understands the text format.
///
/// The second value is the escaping that is requested by the range which gives OpenMetrics its
/// weight.
pub(crate) fn format(headers: &HeaderMap) -> (Format, Escaping) {
    let mut open_metrics = Preference::default();
    let mut text = Preference::default();
    for_each_item(headers, ACCEPT, |item| {
        let Some(range) = Range::parse(item) else { return };
        // 0.0.1 is the only version that Prometheus requested until prometheus/prometheus#9431,
        // although it reads 1.0.0 as well.
        open_metrics.consider(&range, "application", "openmetrics-text", &["1.0.0", "0.0.1"]);
        text.consider(&range, "text", "plain", &["0.0.4"]);
    });
    let wanted = if text.rank() > 0.0 {
        open_metrics.specificity >= Specificity::Type && open_metrics.rank() >= text.rank()
    } else {
        open_metrics.rank() > text.rank()
    };
    (if wanted { Format::OpenMetrics } else { Format::Text }, open_metrics.escaping)
}

/// Returns true if the client requests the event stream rather than the recent events, by every
/// `Accept` line. Only a range that names `text/event-stream` does so. A client that accepts
/// anything may not be prepared for a response without an end.
pub(crate) fn event_stream(headers: &HeaderMap) -> bool {
    let mut stream = Preference::default();
    let mut json = Preference::default();
    for_each_item(headers, ACCEPT, |item| {
        let Some(range) = Range::parse(item) else { return };
        stream.consider(&range, "text", "event-stream", &[]);
        json.consider(&range, "application", "json", &[]);
    });
    stream.specificity >= Specificity::Type && stream.rank() > 0.0 && stream.rank() >= json.rank()
}

/// Returns true if the response is to be compressed with gzip, by every `Accept-Encoding` line.
///
/// If a coding is named twice, the lower weight counts, because every client can read an
/// uncompressed response. For the same reason, a preference for `identity` wins. A request without
/// the header gets no compression, although RFC 9110 would allow any.
pub(crate) fn gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut any, mut identity) = (None, None, None);
    for_each_item(headers, ACCEPT_ENCODING, |item| {
        let mut parts = split(item, b';');
        let coding = parts.next().unwrap_or_default();
        let Some(weight) = weight(parts) else { return };
        let named = match coding {
            "*" => &mut any,
            _ if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") => &mut gzip,
            _ if coding.eq_ignore_ascii_case("identity") => &mut identity,
            _ => return,
        };
        *named = Some(named.map_or(weight, |other: f64| other.min(weight)));
    });
    let gzip = gzip.or(any).unwrap_or(0.0);
    gzip > 0.0 && gzip >= identity.unwrap_or(0.0)
}

/// How closely a media range of `Accept` matches a format. The closest range gives the format's
/// weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Specificity {
    /// No range matches.
    #[default]
    None,
    /// `*/*`
    Anything,
    /// `text/*`
    AnySubtype,
    /// `text/plain`
    Type,
    /// `application/openmetrics-text;version=0.0.1`: not the version that we write, but one whose
    /// readers accept ours.
    CompatibleVersion,
    /// `text/plain;version=0.0.4`
    Version,
}

/// How much the client prefers one format.
#[derive(Default)]
struct Preference {
    specificity: Specificity,
    /// 0 to 1. Meaningless if no range matches.
    weight: f64,
    /// The escaping that this range requests.
    escaping: Escaping,
}

impl Preference {
    /// Takes one range into account. `versions` lists the version that we write, then the
    /// compatible ones.
    fn consider(&mut self, range: &Range<'_>, kind: &str, subtype: &str, versions: &[&str]) {
        let specificity = if range.kind == "*" && range.subtype == "*" {
            Specificity::Anything
        } else if !range.kind.eq_ignore_ascii_case(kind) {
            return;
        } else if range.subtype == "*" {
            Specificity::AnySubtype
        } else if !range.subtype.eq_ignore_ascii_case(subtype) {
            return;
        } else {
            match range.version.map(|version| versions.iter().position(|ours| *ours == version)) {
                None => Specificity::Type,
                Some(Some(0)) => Specificity::Version,
                Some(Some(_)) => Specificity::CompatibleVersion,
                Some(None) => return,
            }
        };
        // Equally close ranges differ in other parameters, such as `escaping`. The greater weight
        // counts.
        if specificity > self.specificity || (specificity == self.specificity && range.weight > self.weight) {
            *self = Preference { specificity, weight: range.weight, escaping: range.escaping };
        }
    }

    /// Orders formats: acceptable ones by weight, then those that are not mentioned, then excluded
    /// ones.
    fn rank(&self) -> f64 {
        match self.specificity {
            Specificity::None => 0.0,
            _ if self.weight > 0.0 => self.weight,
            _ => -1.0,
        }
    }
}

/// One media range of `Accept`. Only the version parameter selects among the formats that we write.
/// There is one character set. None of our names needs escaping, so the escaping is only repeated
/// in the response.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    version: Option<&'a str>,
    escaping: Escaping,
    weight: f64,
}

impl<'a> Range<'a> {
    fn parse(item: &'a str) -> Option<Self> {
        let mut parts = split(item, b';');
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let version = parts.clone().find_map(|parameter| named(parameter, "version"));
        let escaping = match parts.clone().find_map(|parameter| named(parameter, "escaping")) {
            Some("allow-utf-8") => Escaping::AllowUtf8,
            Some("dots") => Escaping::Dots,
            Some("values") => Escaping::Values,
            _ => Escaping::Underscores,
        };
        Some(Range { kind, subtype, version, escaping, weight: weight(parts)? })
    }
}

/// The weight among the parameters, at any position (RFC 9110, 12.5.1); 1 if there is none. `None`
/// if it is not a number from 0 to 1: the range is then ignored. More than three decimals are
/// accepted.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<f64> {
    let Some(text) = parameters.find_map(|parameter| named(parameter, "q")) else { return Some(1.0) };
    // Rust parses `inf`, `+1` and `1e-3` as numbers; HTTP does not.
    let number = text.bytes().all(|b| b.is_ascii_digit() || b == b'.').then(|| text.parse().ok())??;
    (number <= 1.0).then_some(number)
}

/// The parameter's value without quotes, if the parameter has this name.
fn named<'a>(parameter: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = parameter.split_once('=')?;
    let value = value.trim();
    found
        .trim()
        .eq_ignore_ascii_case(name)
        .then(|| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// Calls `each` with every item of every line of a comma-separated header.
fn for_each_item(headers: &HeaderMap, name: HeaderName, mut each: impl FnMut(&str)) {
    for value in headers.get_all(name) {
        // A quoted string may contain bytes beyond ASCII. They must not hide the line's other
        // items.
        split(&String::from_utf8_lossy(value.as_bytes()), b',').for_each(&mut each);
    }
}

/// The trimmed parts between separators. A separator within a quoted string is part of the string.
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = text.bytes().position(|byte| {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if byte == separator => return !quoted,
                _ => {}
            }
            false
        });
        let (part, after) = match end {
            Some(end) => (&text[..end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = after;
        Some(part.trim())
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(name: HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    #[test]
    fn events_are_followed_by_those_who_name_the_stream() {
        for (lines, wanted) in [
            (&["text/event-stream"][..], true),
            (&["TEXT/Event-Stream; q=0.5"], true),
            (&["text/event-stream, */*;q=0.1"], true),
            (&["application/json;q=0.5, text/event-stream"], true),
            (&["application/json", "text/event-stream"], true),
            (&[], false),
            (&["*/*"], false),
            (&["text/*"], false),
            (&["text/event-stream;q=0"], false),
            (&["text/event-stream;q=0, */*"], false),
            (&["text/event-stream;q=0.1, application/json"], false),
            (&["text/html, application/xhtml+xml, */*;q=0.8"], false),
            (&["text/event-streams", "event-stream", ""], false),
        ] {
            assert_eq!(event_stream(&headers(ACCEPT, lines)), wanted, "{lines:?}");
        }
    }

    #[test]
    fn the_format_asked_for() {
        use Format::{OpenMetrics, Text};
        let table: &[(&[&str], Format)] = &[
            // Prometheus 3, Prometheus 3 with native histograms, 2.x, early 2.x, and with one
            // protocol configured.
            (
                &["application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                  application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                  text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                OpenMetrics,
            ),
            (
                &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
                  application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                  text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
                OpenMetrics,
            ),
            (
                &["application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                  text/plain;version=0.0.4;q=0.5,*/*;q=0.1"],
                OpenMetrics,
            ),
            (&["application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], OpenMetrics),
            (&["text/plain;version=0.0.4;q=0.5,*/*;q=0.1"], Text),
            // Clients that are not scrapers.
            (&[], Text),
            (&[""], Text),
            (&["*/*"], Text),
            (
                &["text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,\
                  application/signed-exchange;v=b3;q=0.7"],
                Text,
            ),
            (&["application/json"], Text),
            // One format by name.
            (&["application/openmetrics-text"], OpenMetrics),
            (&["APPLICATION/OpenMetrics-Text; Version=1.0.0; charset=utf-8"], OpenMetrics),
            (&["application/openmetrics-text; version=\"1.0.0\""], OpenMetrics),
            (&["application/openmetrics-text ; version = 1.0.0 ; q = 0.5"], OpenMetrics),
            (&["application/openmetrics-text;version=2.0.0"], Text),
            (&["application/openmetrics-text;version=2.0.0,application/openmetrics-text;q=0.1"], OpenMetrics),
            (&["text/plain"], Text),
            (&["text/plain;version=0.0.4"], Text),
            // Weights.
            (&["application/openmetrics-text;q=0.5,text/plain;q=0.4"], OpenMetrics),
            (&["application/openmetrics-text;q=0.4,text/plain;q=0.5"], Text),
            (&["application/openmetrics-text;q=0.001,text/plain;q=0.0001"], OpenMetrics),
            (&["application/openmetrics-text;q=1.0,text/plain"], OpenMetrics),
            (&["text/plain,application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text;q=0.3,*/*;q=0.8"], Text),
            (&["application/openmetrics-text;q=0.3,text/*;q=0.8"], Text),
            (&["application/openmetrics-text;q=0.8,text/*;q=0.3"], OpenMetrics),
            (&["q=0.5;application/openmetrics-text"], Text),
            (&["application/openmetrics-text;q=0.5;ext=1,text/plain;q=0.6"], Text),
            (&["text/plain;q=0.3;version=0.0.4,application/openmetrics-text;q=0.5"], OpenMetrics),
            // The closest range decides, in any order.
            (&["text/plain;version=0.0.4;q=0.2,text/plain;q=0.9,application/openmetrics-text;q=0.5"], OpenMetrics),
            (&["application/openmetrics-text;version=1.0.0;q=0.2,application/openmetrics-text,text/plain;q=0.5"], Text),
            (&["application/openmetrics-text,application/openmetrics-text;version=1.0.0;q=0"], Text),
            (&["application/openmetrics-text;version=1.0.0;q=0,application/openmetrics-text;version=0.0.1"], Text),
            (
                &["application/openmetrics-text;version=1.0.0;escaping=values;q=0.1,\
                  application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.9,text/plain;q=0.5"],
                OpenMetrics,
            ),
            // A wildcard selects OpenMetrics only if text is not acceptable.
            (&["text/plain;q=0.5,*/*;q=0.8"], Text),
            (&["text/*"], Text),
            (&["application/*"], OpenMetrics),
            (&["application/*,text/plain;q=0.1"], Text),
            (&["*/*,text/plain;q=0"], OpenMetrics),
            // If one format is excluded, the other one is used, even if it was not requested. If
            // both are, text is used.
            (&["text/plain;q=0"], OpenMetrics),
            (&["text/*;q=0.000"], OpenMetrics),
            (&["application/openmetrics-text;q=0"], Text),
            (&["application/openmetrics-text;q=0,*/*"], Text),
            (&["application/openmetrics-text;q=0,text/plain;q=0"], Text),
            (&["*/*;q=0"], Text),
            (&["*/*;q=0,application/openmetrics-text;q=0.1"], OpenMetrics),
            (&["*/*;q=0,text/plain;q=0.1"], Text),
            // Several lines are one list.
            (&["text/plain;q=0.5", "application/openmetrics-text"], OpenMetrics),
            (&["application/openmetrics-text;q=0.5", "text/plain"], Text),
            // A malformed item is ignored and does not affect the others.
            (&["application/openmetrics-text;q=high"], Text),
            (&["application/openmetrics-text;q=2"], Text),
            (&["application/openmetrics-text;q=-1"], Text),
            (&["application/openmetrics-text;q=inf", "*/*;q=nan"], Text),
            (&["application/openmetrics-text;q="], Text),
            (&[",;=,/,,application/openmetrics-text,;;"], OpenMetrics),
            (&["application"], Text),
            (&["*"], Text),
            (&["*/plain;q=0"], Text),
            (&["text/plain;title=\"a,b;q=0\\\",\";q=0.4,application/openmetrics-text;q=0.3"], Text),
            (&["text/html;title=\"application/openmetrics-text,", "application/openmetrics-text"], OpenMetrics),
            (&["text/html;title=\"é\",application/openmetrics-text"], OpenMetrics),
        ];
        for (lines, expected) in table {
            assert_eq!(format(&headers(ACCEPT, lines)).0, *expected, "{lines:?}");
        }
    }

    #[test]
    fn the_escaping_asked_for() {
        for (line, expected) in [
            // Prometheus 3, Prometheus 3 with legacy names, then older versions, which do not name
            // an escaping.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Escaping::AllowUtf8,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Escaping::Underscores,
            ),
            ("application/openmetrics-text;version=1.0.0", Escaping::Underscores),
            ("application/openmetrics-text", Escaping::Underscores),
            ("application/openmetrics-text;escaping=dots", Escaping::Dots),
            ("application/openmetrics-text;version=1.0.0;escaping=\"values\"", Escaping::Values),
            ("application/openmetrics-text;escaping=allow-utf8", Escaping::Underscores),
            // The escaping comes from the range that gives the weight.
            (
                "application/openmetrics-text;escaping=dots;q=0.4,application/openmetrics-text;escaping=values",
                Escaping::Values,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=dots;q=0.4,application/openmetrics-text;escaping=values",
                Escaping::Dots,
            ),
        ] {
            assert_eq!(format(&headers(ACCEPT, &[line])), (Format::OpenMetrics, expected), "{line}");
        }
    }

    #[test]
    fn gzip_asked_for() {
        let table: &[(&[&str], bool)] = &[
            (&[], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZip"], true),
            (&["x-gzip"], true),
            (&["gzip, deflate, br, zstd"], true),
            (&["deflate, br"], false),
            (&["br;q=1.0, gzip;q=0.001"], true),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.0"], false),
            (&["gzip ; Q=0"], false),
            (&["x-gzip;q=0"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["*;q=0,gzip;q=0.1"], true),
            (&["*,gzip;q=0"], false),
            (&["gzip,x-gzip;q=0"], false),
            (&["identity"], false),
            (&["identity,gzip"], true),
            (&["identity,gzip;q=0.5"], false),
            (&["identity;q=0.5,gzip"], true),
            (&["identity;q=0.5,*;q=0.1"], false),
            (&["identity;q=0,gzip;q=0.2"], true),
            (&["deflate", "gzip"], true),
            (&["gzip", "gzip;q=0"], false),
            (&["gzip;q=yes"], false),
            (&["gzip;q=1.5"], false),
            (&["gzipped"], false),
            (&[";;,=,gzip"], true),
        ];
        for (lines, expected) in table {
            assert_eq!(gzip(&headers(ACCEPT_ENCODING, lines)), *expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..64),
                    "([a-z*]{0,3}/?[a-z*]{0,3}|text/plain|application/openmetrics-text|gzip|[ ;,=\"\\\\.q0-9]){0,16}"
                        .prop_map(String::into_bytes),
                ],
                0..4,
            ),
        ) {
            let mut headers = HeaderMap::new();
            for value in lines.iter().filter_map(|line| HeaderValue::from_bytes(line).ok()) {
                headers.append(ACCEPT, value.clone());
                headers.append(ACCEPT_ENCODING, value);
            }
            format(&headers);
            gzip(&headers);
        }
    }
}
