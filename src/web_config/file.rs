//! The file: its keys, their values, and which of them belong together.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter, with_deserializer_from_str};

use super::users::{ParsedUsers, too_costly};
use super::values::{Cipher, ClientAuth, Curves, MinVersion, Pem, PemSource, RateLimit, Tls, TlsVersion};

/// The content of a consistent file. Files that it names have not been read yet.
#[derive(Debug)]
pub(crate) struct WebConfigFile {
    /// `None` for plain HTTP.
    pub(crate) tls: Option<Tls>,
    pub(crate) http2: bool,
    pub(crate) headers: HeaderMap,
    /// bcrypt hashes by user name. Empty if everybody is admitted.
    pub(crate) users: BTreeMap<String, String>,
    /// The names of users whose hashes take too long, with their costs. They are not among `users`,
    /// so a guess takes as long as for an unknown name.
    pub(crate) too_costly: Vec<(String, u32)>,
    pub(crate) rate_limit: Option<RateLimit>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileText {
    tls_server_config: Option<TlsText>,
    http_server_config: Option<HttpText>,
    basic_auth_users: Option<ParsedUsers>,
    rate_limit: Option<RateLimitText>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TlsKeys {
    cert: Option<Spanned<String>>,
    cert_file: Option<Spanned<String>>,
    key: Option<Spanned<String>>,
    key_file: Option<Spanned<String>>,
    client_ca: Option<Spanned<String>>,
    client_ca_file: Option<Spanned<String>>,
    client_auth_type: Option<ClientAuth>,
    client_allowed_sans: Option<Vec<String>>,
    min_version: Option<Spanned<MinVersion>>,
    max_version: Option<TlsVersion>,
    cipher_suites: Option<Spanned<Vec<Cipher>>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Spanned<Curves>>,
}

/// Keys that are consistent with each other.
#[derive(Deserialize)]
#[serde(try_from = "TlsKeys")]
struct TlsText(Option<Tls>);

/// If both forms are given, the file wins, as in the toolkit. An empty value counts as absent.
fn pem(names: [&'static str; 2], inline: Option<Spanned<String>>, file: Option<Spanned<String>>) -> Option<Pem> {
    let given = |text: Option<Spanned<String>>| text.filter(|text| !text.value.is_empty());
    let of = |name, text: Spanned<String>, source: fn(String) -> PemSource| {
        let line = text.referenced.line();
        Pem { name, line, source: source(text.value) }
    };
    let file = given(file).map(|file| of(names[1], file, |path| PemSource::File(path.into())));
    file.or_else(|| given(inline).map(|inline| of(names[0], inline, PemSource::Inline)))
}

impl TryFrom<TlsKeys> for TlsText {
    type Error = &'static str;

    fn try_from(keys: TlsKeys) -> Result<Self, Self::Error> {
        let certificate = pem(["cert", "cert_file"], keys.cert, keys.cert_file);
        let key = pem(["key", "key_file"], keys.key, keys.key_file);
        let client_ca = pem(["client_ca", "client_ca_file"], keys.client_ca, keys.client_ca_file);
        let client_auth = keys.client_auth_type.unwrap_or_default();
        let client_allowed_sans = keys.client_allowed_sans;
        let (certificate, key) = match (certificate, key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if client_ca.is_none() && client_auth == ClientAuth::NoClientCert => {
                return match client_allowed_sans {
                    None => Ok(TlsText(None)),
                    Some(_) => Err("client_allowed_sans requires cert_file and key_file"),
                };
            }
            (None, _) => return Err("cert or cert_file is missing"),
            (_, None) => return Err("key or key_file is missing"),
        };
        match (client_auth, &client_ca, &client_allowed_sans) {
            (ClientAuth::NoClientCert, Some(_), _) => {
                return Err("client_ca or client_ca_file requires a client_auth_type that requests certificates");
            }
            (ClientAuth::NoClientCert, _, Some(_)) => {
                return Err("client_allowed_sans requires a client_auth_type that requests \
                            certificates");
            }
            (ClientAuth::RequireAndVerifyClientCert, None, _) => {
                return Err("client_auth_type RequireAndVerifyClientCert requires client_ca or \
                            client_ca_file");
            }
            _ => {}
        }
        let mut left_out = Vec::new();
        let mut leave_out = |line: u64, key: &str, names: &[String]| {
            if !names.is_empty() {
                let names = names.join(", ");
                left_out.push(format!("line {line}: tls_server_config: {key}: ignoring unsupported values: {names}"));
            }
        };
        let min_version = match keys.min_version.map(|version| (version.referenced.line(), version.value)) {
            None => TlsVersion::Tls12,
            Some((_, MinVersion::Here(version))) => version,
            Some((line, MinVersion::OfGoOnly(name))) => {
                leave_out(line, "min_version", &[name]);
                TlsVersion::Tls12
            }
        };
        let cipher_suites_line = keys.cipher_suites.as_ref().map_or(0, |suites| suites.referenced.line());
        let cipher_suites = keys.cipher_suites.map(|suites| suites.value).filter(|suites| !suites.is_empty());
        let cipher_suites = cipher_suites.map(|listed| {
            let (mut here, mut of_go_only) = (Vec::new(), Vec::new());
            for suite in listed {
                match suite {
                    Cipher::Here(suite) => here.push(suite),
                    Cipher::OfGoOnly(name) => of_go_only.push(name),
                }
            }
            leave_out(cipher_suites_line, "cipher_suites", &of_go_only);
            here
        });
        let curves = keys.curve_preferences.map(|curves| {
            leave_out(curves.referenced.line(), "curve_preferences", &curves.value.of_go_only);
            curves.value.here
        });
        let max_version = keys.max_version.unwrap_or(TlsVersion::Tls13);
        if min_version > max_version {
            return Err("min_version is higher than max_version");
        }
        Ok(TlsText(Some(Tls {
            certificate,
            key,
            client_auth,
            client_ca,
            client_allowed_sans,
            min_version,
            max_version,
            cipher_suites,
            cipher_suites_line,
            prefer_server_cipher_suites: keys.prefer_server_cipher_suites.unwrap_or(true),
            curves: curves.filter(|curves| !curves.is_empty()),
            left_out,
        })))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpText {
    http2: Option<bool>,
    headers: Option<Headers>,
}

#[derive(Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, Option<String>>")]
struct Headers(HeaderMap);

/// The headers that may be set, with their accepted values. No values means any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

impl TryFrom<BTreeMap<String, Option<String>>> for Headers {
    type Error = String;

    fn try_from(texts: BTreeMap<String, Option<String>>) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in texts {
            let Some((_, allowed)) = HEADERS.iter().find(|(known, _)| *known == name) else {
                let accepted = HEADERS.map(|(known, _)| known).join(", ");
                return Err(format!("{:?} cannot be set, only {accepted}", self::name(&name)));
            };
            let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
            if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
                return Err(format!("invalid value {value:?} for {name}: use {}", allowed.join(" or ")));
            }
            let name = HeaderName::try_from(&name).map_err(|error| format!("{name:?}: {error}"))?;
            let value = HeaderValue::try_from(&value).map_err(|_| format!("{name}: invalid header value"))?;
            headers.insert(name, value);
        }
        Ok(Headers(headers))
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RateLimitText {
    interval: Option<Interval>,
    burst: Option<u32>,
}

/// A duration in Go's format.
#[derive(Default, Deserialize)]
#[serde(try_from = "String")]
struct Interval(Duration);

const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60.0 * 1e9),
    ("h", 3600.0 * 1e9),
];

impl TryFrom<String> for Interval {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("invalid duration {text:?}: use for example 1s, 500ms or 1m30s");
        // A number without a unit is in nanoseconds, as Go's durations are.
        if let Ok(nanos) = text.parse::<u64>() {
            return Ok(Interval(Duration::from_nanos(nanos)));
        }
        let (mut rest, mut nanos) = (text.as_str(), 0.0);
        while !rest.is_empty() {
            let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (value, after) = rest.split_at(number);
            let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit);
            let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            nanos += value.parse::<f64>().map_err(|_| wrong())? * unit;
            rest = after;
        }
        if text.is_empty() {
            return Err(wrong());
        }
        Duration::try_from_secs_f64(nanos / 1e9).map(Interval).map_err(|_| wrong())
    }
}

/// Describes the error, its position, and the keys that lead to it. Never shows the line itself,
/// which may contain secrets. Shows a value only for keys with a few accepted words, and for times.
fn wrong(error: &serde_saphyr::Error, text: &str) -> String {
    let error = error.without_snippet();
    let mut message = String::new();
    if let Some(place) = error.location() {
        message = format!("line {} column {}: ", place.line(), place.column());
        for key in KeyPath::to(place, error, text) {
            message = message + name(&key) + ": ";
        }
    }
    message += &fault(error);
    // A key may contain any character, and the message is one line of a log.
    message.replace(char::is_control, "\u{fffd}")
}

/// Finds the keys that lead to an error, by parsing the text again. `serde_path_to_error` would
/// record them during the first parse. It doubles the code of each structure here: 160 KB for a
/// rare error.
struct KeyPath {
    to: (u64, u64),
    /// True if the key at this position is wrong, not its value.
    to_key: bool,
    /// The keys of the last entry that begins before the error.
    keys: Vec<String>,
    /// The number of keys above a map whose next key cannot be parsed.
    above: usize,
}

impl KeyPath {
    fn to(place: Location, error: &serde_saphyr::Error, text: &str) -> Vec<String> {
        use serde_saphyr::Error::{MultipleDocuments, SerdeUnknownField};
        if matches!(error, MultipleDocuments { .. }) {
            return Vec::new();
        }
        let to_key = matches!(error, SerdeUnknownField { .. });
        let mut way = KeyPath { to: position(place), to_key, keys: Vec::new(), above: usize::MAX };
        let gone = with_deserializer_from_str(text, |yaml| way.deserialize(yaml));
        if let Err(end) = gone
            && end.location().map(position) == Some(way.to)
        {
            way.keys.truncate(way.above);
        }
        way.keys
    }
}

fn position(place: Location) -> (u64, u64) {
    (place.line(), place.column())
}

impl<'de> DeserializeSeed<'de> for &mut KeyPath {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut KeyPath {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let above = self.keys.len();
        loop {
            let key: Spanned<String> = match map.next_key() {
                Ok(Some(key)) => key,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.above = above;
                    return Err(error);
                }
            };
            let position = position(key.referenced);
            if position <= self.to {
                self.keys.truncate(above);
            }
            if position < self.to || (position == self.to && self.to_key) {
                self.keys.push(key.value);
            }
            if position >= self.to {
                return Err(M::Error::custom("the way ends"));
            }
            map.next_value_seed(&mut *self)?;
        }
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while seq.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The part of a key before a colon. Without a space after the colon, the key contains its value,
/// which may be a password.
pub(crate) fn name(key: &str) -> &str {
    key.split(':').next().unwrap_or_default()
}

fn fault(error: &serde_saphyr::Error) -> String {
    use serde_saphyr::Error;
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => fault(error),
        Error::SerdeUnknownField { expected, .. } => format!("unknown key, expected one of {}", expected.join(", ")),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("duplicate key {:?}", name(key)),
        Error::DuplicateMappingKey { key: None, .. } => "duplicate key".to_owned(),
        Error::MultipleDocuments { .. } => "a second YAML document begins, but only one is accepted".to_owned(),
        Error::Unexpected { expected: "mapping start", .. } => "expected keys with values".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => "expected a list".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => "expected a string".to_owned(),
        Error::InvalidScalar { ty: "boolean", .. } => "expected true or false".to_owned(),
        Error::InvalidScalar { ty: "u32", .. } => format!("expected a whole number from 0 to {}", u32::MAX),
        // The message names the expected type, not the found value.
        Error::SerdeInvalidType { expected, .. } => format!("expected {expected}"),
        Error::NullIntoString { .. } => "the value is missing".to_owned(),
        Error::UnknownAnchor { .. } => "alias of an unknown anchor".to_owned(),
        error => UserMessageFormatter.format_message(error).into_owned(),
    }
}

impl WebConfigFile {
    /// Settings that are valid, but may not do what they seem to do.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.rate_limit.is_some_and(|limit| limit.burst == 0) {
            warnings.push("rate_limit has a burst of 0: every request is refused".to_owned());
        }
        for (name, cost) in &self.too_costly {
            warnings.push(format!("basic_auth_users: {:?} is refused: {}", self::name(name), too_costly(*cost)));
        }
        let Some(tls) = &self.tls else { return warnings };
        warnings.extend(tls.left_out.iter().cloned());
        let auth = tls.client_auth;
        if auth.verifies() && tls.client_ca.is_none() {
            let warning = "client_auth_type is VerifyClientCertIfGiven without client_ca_file: clients that \
                           send a certificate are refused";
            warnings.push(warning.to_owned());
        }
        if tls.client_allowed_sans.is_some() {
            if !auth.verifies() {
                warnings.push(format!(
                    "client_allowed_sans with client_auth_type {auth:?} keeps nobody out, because anybody can make a \
                     certificate with an allowed name: use RequireAndVerifyClientCert"
                ));
            }
            if !auth.demands() {
                warnings.push(format!(
                    "client_allowed_sans with client_auth_type {auth:?} refuses clients without a certificate"
                ));
            }
        }
        warnings
    }

    /// Parses the text. Relative paths in it are relative to `directory`.
    ///
    /// # Errors
    /// One line that names the line and the key.
    pub(crate) fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let file: Option<FileText> = serde_saphyr::from_str(text).map_err(|error| wrong(&error, text))?;
        let file = file.unwrap_or_default();
        let mut tls = file.tls_server_config.and_then(|TlsText(tls)| tls);
        let pems = tls.as_mut().map(|tls| [Some(&mut tls.certificate), Some(&mut tls.key), tls.client_ca.as_mut()]);
        for pem in pems.into_iter().flatten().flatten() {
            if let PemSource::File(path) = &mut pem.source {
                *path = directory.join(&path);
            }
        }
        let http = file.http_server_config.unwrap_or_default();
        let users = file.basic_auth_users.unwrap_or_default();
        let rate_limit = file.rate_limit.and_then(|limit| {
            let interval = limit.interval.unwrap_or_default().0;
            (!interval.is_zero()).then(|| RateLimit { interval, burst: limit.burst.unwrap_or(0) })
        });
        Ok(WebConfigFile {
            tls,
            http2: http.http2.unwrap_or(true),
            headers: http.headers.unwrap_or_default().0,
            users: users.hashes,
            too_costly: users.too_costly,
            rate_limit,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WebConfigFile, String> {
        WebConfigFile::parse(text, Path::new("/etc/exporter"))
    }

    #[test]
    fn a_file_that_says_nothing_changes_nothing() {
        for text in ["", "\n", "# nothing\n", "tls_server_config:\n", "tls_server_config: {}\nbasic_auth_users:\n"] {
            let file = parse(text).unwrap();
            assert!(file.tls.is_none() && file.http2 && file.users.is_empty() && file.rate_limit.is_none(), "{text:?}");
        }
        // Neither value enables TLS.
        assert!(parse("tls_server_config: {min_version: TLS13, cert_file: ''}\n").unwrap().tls.is_none());
    }

    #[test]
    fn defaults_are_the_toolkits() {
        let tls = parse("tls_server_config: {cert_file: a.crt, key_file: /b.key}\n").unwrap().tls.unwrap();
        assert!(matches!(&tls.certificate.source, PemSource::File(path) if path == Path::new("/etc/exporter/a.crt")));
        assert!(matches!(&tls.key.source, PemSource::File(path) if path == Path::new("/b.key")));
        assert_eq!((tls.min_version, tls.max_version), (TlsVersion::Tls12, TlsVersion::Tls13));
        assert_eq!(tls.client_auth, ClientAuth::NoClientCert);
        assert!(tls.prefer_server_cipher_suites && tls.client_allowed_sans.is_none() && tls.client_ca.is_none());
    }

    #[test]
    fn a_fault_shows_no_line_of_the_file() {
        for text in [
            "basic_auth_users:\n  alice: hunter2\n",
            "basic_auth_users: {alice: hunter2\n",
            "tls_server_config:\n  key: [hunter2]\n",
            "tls_server_config: hunter2\n",
            "tls_server_config: {key: \"hunter2\n",
            "basic_auth_users: {alice:hunter2}\n",
            "{basic_auth_users:hunter2, basic_auth_users:hunter2}\n",
            "basic_auth_users:\n  alice:\n    password: hunter2\n",
            "http_server_config: {headers: {Authorization:hunter2}}\n",
            "http_server_config:\n  headers:\n    Authorization: hunter2\n",
        ] {
            let said = parse(text).unwrap_err();
            assert!(!said.contains("hunter2") && said.starts_with("line ") && said.lines().count() == 1, "{said}");
        }
    }

    #[test]
    fn intervals_are_gos_durations() {
        for (text, wanted) in [
            ("0", Some(Duration::ZERO)),
            ("1s", Some(Duration::from_secs(1))),
            ("1m30s", Some(Duration::from_secs(90))),
            ("1.5h", Some(Duration::from_secs(5400))),
            (".5s", Some(Duration::from_millis(500))),
            ("300µs", Some(Duration::from_micros(300))),
            ("1000", Some(Duration::from_micros(1))),
            ("", None),
            ("s", None),
            ("1", Some(Duration::from_nanos(1))),
            ("1.5", None),
            ("1 s", None),
            ("-1s", None),
            ("1d", None),
            ("1..5s", None),
            ("99999999999999999999999h", None),
        ] {
            assert_eq!(Interval::try_from(text.to_owned()).ok().map(|interval| interval.0), wanted, "{text:?}");
        }
    }
}
