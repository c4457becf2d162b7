//! The values that the file's keys may have, as the parser gives them to whoever acts on them.

use std::path::PathBuf;
use std::time::Duration;

use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite, kx_group};
use serde::Deserialize;

/// `tls_server_config`.
#[derive(Debug)]
pub struct Tls {
    pub certificate: Pem,
    pub key: Pem,
    pub client_auth: ClientAuth,
    pub client_ca: Option<Pem>,
    pub client_allowed_sans: Option<Vec<String>>,
    pub min_version: Version,
    pub max_version: Version,
    /// `None` for all. Empty if none of those that are listed is here: TLS 1.3 has its own.
    pub cipher_suites: Option<Vec<SupportedCipherSuite>>,
    /// Where they are listed.
    pub cipher_suites_line: u64,
    pub prefer_server_cipher_suites: bool,
    /// In order of preference; `None` for all.
    pub curves: Option<Vec<&'static dyn SupportedKxGroup>>,
    /// What the file asks for and Go alone has, each with its line and its key. The rest of the list is there.
    pub left_out: Vec<String>,
}

/// Where a certificate or key is.
#[derive(Debug)]
pub struct Pem {
    /// The key of the configuration that says so, and the line where it stands.
    pub name: &'static str,
    pub line: u64,
    pub source: PemSource,
}

/// In the configuration file itself, or in a file of its own.
#[derive(Debug)]
pub enum PemSource {
    Inline(String),
    File(PathBuf),
}

/// `client_auth_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum ClientAuth {
    #[default]
    NoClientCert,
    RequestClientCert,
    RequireAnyClientCert,
    VerifyClientCertIfGiven,
    RequireAndVerifyClientCert,
}

impl TryFrom<String> for ClientAuth {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "" | "NoClientCert" => Ok(ClientAuth::NoClientCert),
            "RequestClientCert" => Ok(ClientAuth::RequestClientCert),
            // The second is what the format called it once.
            "RequireAnyClientCert" | "RequireClientCert" => Ok(ClientAuth::RequireAnyClientCert),
            "VerifyClientCertIfGiven" => Ok(ClientAuth::VerifyClientCertIfGiven),
            "RequireAndVerifyClientCert" => Ok(ClientAuth::RequireAndVerifyClientCert),
            _ => Err(format!("there is no {text:?}")),
        }
    }
}

impl ClientAuth {
    /// Whether a client without a certificate is refused.
    pub fn demands(self) -> bool {
        matches!(self, ClientAuth::RequireAnyClientCert | ClientAuth::RequireAndVerifyClientCert)
    }

    /// Whether a certificate must come from a CA that the configuration names.
    pub fn verifies(self) -> bool {
        matches!(self, ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert)
    }
}

/// `rate_limit`: a token bucket that gains one token per interval and holds `burst` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    pub interval: Duration,
    pub burst: u32,
}

/// A version of TLS that rustls speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Version {
    Tls12,
    Tls13,
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "TLS12" => Ok(Version::Tls12),
            "TLS13" => Ok(Version::Tls13),
            "TLS10" | "TLS11" => Err(format!("{text} is not spoken here, as it is broken: use TLS12 or TLS13")),
            _ => Err(format!("there is no TLS version {text:?}")),
        }
    }
}

/// The lower end of a range of versions. Below those that rustls speaks it is the range from there on that is left.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum MinVersion {
    Here(Version),
    OfGoOnly(String),
}

impl TryFrom<String> for MinVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "TLS10" | "TLS11" => Ok(MinVersion::OfGoOnly(text)),
            _ => Version::try_from(text).map(MinVersion::Here),
        }
    }
}

/// A cipher suite that Go has.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Cipher {
    Here(SupportedCipherSuite),
    OfGoOnly(String),
}

/// By the names that Go gives them. Those of TLS 1.3 come first and in Go's order: they cannot be chosen between, as in
/// Go, and so are all there whatever is listed.
pub const CIPHERS: [(&str, SupportedCipherSuite); 9] = [
    ("TLS_AES_128_GCM_SHA256", cipher_suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", cipher_suite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Go has these beside them, the last four up to 1.21: `tls.CipherSuites` is what the toolkit takes. They are block ciphers
/// whose checksum is inside, the source of a decade of attacks, or give away old traffic with the key.
const CIPHERS_OF_GO_ONLY: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

impl TryFrom<String> for Cipher {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match CIPHERS.iter().find(|(name, _)| *name == text) {
            Some((_, suite)) => Ok(Cipher::Here(*suite)),
            None if CIPHERS_OF_GO_ONLY.contains(&text.as_str()) => Ok(Cipher::OfGoOnly(text)),
            None => Err(format!("there is no cipher suite {text:?}")),
        }
    }
}

/// A curve that Go has.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Curve {
    Here(&'static dyn SupportedKxGroup),
    OfGoOnly(String),
}

impl TryFrom<String> for Curve {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "X25519" => Ok(Curve::Here(kx_group::X25519)),
            "CurveP256" => Ok(Curve::Here(kx_group::SECP256R1)),
            "CurveP384" => Ok(Curve::Here(kx_group::SECP384R1)),
            "CurveP521" => Ok(Curve::OfGoOnly(text)),
            _ => Err(format!("there is no curve {text:?}")),
        }
    }
}

/// The curves of a list that are here; what is not is told of.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<Curve>")]
pub struct Curves {
    pub here: Vec<&'static dyn SupportedKxGroup>,
    pub of_go_only: Vec<String>,
}

impl TryFrom<Vec<Curve>> for Curves {
    type Error = &'static str;

    fn try_from(listed: Vec<Curve>) -> Result<Self, Self::Error> {
        let mut curves = Curves { here: Vec::new(), of_go_only: Vec::new() };
        for curve in listed {
            match curve {
                Curve::Here(group) => curves.here.push(group),
                Curve::OfGoOnly(name) => curves.of_go_only.push(name),
            }
        }
        match curves.here.is_empty() && !curves.of_go_only.is_empty() {
            true => Err("none of these curves is supported here: add X25519, CurveP256 or CurveP384"),
            false => Ok(curves),
        }
    }
}
