//! The values of the file's keys.

use std::path::PathBuf;
use std::time::Duration;

use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::ring::{cipher_suite, kx_group};
use serde::Deserialize;

/// `tls_server_config`.
#[derive(Debug)]
pub(crate) struct Tls {
    pub(crate) certificate: Pem,
    pub(crate) key: Pem,
    pub(crate) client_auth: ClientAuth,
    pub(crate) client_ca: Option<Pem>,
    pub(crate) client_allowed_sans: Option<Vec<String>>,
    pub(crate) min_version: TlsVersion,
    pub(crate) max_version: TlsVersion,
    /// `None` for all. Empty if none of the listed suites is supported; TLS 1.3 always has its own
    /// suites.
    pub(crate) cipher_suites: Option<Vec<SupportedCipherSuite>>,
    /// The line of the list in the file.
    pub(crate) cipher_suites_line: u64,
    pub(crate) prefer_server_cipher_suites: bool,
    /// In order of preference. `None` for all.
    pub(crate) curves: Option<Vec<&'static dyn SupportedKxGroup>>,
    /// Listed values that only Go supports, each with its line and its key. The other values are
    /// used.
    pub(crate) left_out: Vec<String>,
}

/// The place of a certificate or key.
#[derive(Debug)]
pub(crate) struct Pem {
    /// The key of the configuration, and its line.
    pub(crate) name: &'static str,
    pub(crate) line: u64,
    pub(crate) source: PemSource,
}

/// In the configuration file itself, or in a separate file.
#[derive(Debug)]
pub(crate) enum PemSource {
    Inline(String),
    File(PathBuf),
}

/// `client_auth_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum ClientAuth {
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
            // The second is the format's old name.
            "RequireAnyClientCert" | "RequireClientCert" => Ok(ClientAuth::RequireAnyClientCert),
            "VerifyClientCertIfGiven" => Ok(ClientAuth::VerifyClientCertIfGiven),
            "RequireAndVerifyClientCert" => Ok(ClientAuth::RequireAndVerifyClientCert),
            _ => Err(format!(
                "unknown value {text:?}: use NoClientCert, RequestClientCert, RequireAnyClientCert, \
                 VerifyClientCertIfGiven or RequireAndVerifyClientCert"
            )),
        }
    }
}

impl ClientAuth {
    /// Returns true if clients without a certificate are refused.
    pub(crate) fn demands(self) -> bool {
        matches!(self, ClientAuth::RequireAnyClientCert | ClientAuth::RequireAndVerifyClientCert)
    }

    /// Returns true if a certificate must come from a configured CA.
    pub(crate) fn verifies(self) -> bool {
        matches!(self, ClientAuth::VerifyClientCertIfGiven | ClientAuth::RequireAndVerifyClientCert)
    }
}

/// `rate_limit`: a token bucket that gains one token per interval and holds `burst` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

/// A TLS version that rustls supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

impl TryFrom<String> for TlsVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "TLS12" => Ok(TlsVersion::Tls12),
            "TLS13" => Ok(TlsVersion::Tls13),
            "TLS10" | "TLS11" => Err(format!("{text} is insecure and not supported: use TLS12 or TLS13")),
            _ => Err(format!("unknown TLS version {text:?}: use TLS12 or TLS13")),
        }
    }
}

/// The lowest version. If rustls does not support it, the range starts at the lowest one that it
/// supports.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum MinVersion {
    Here(TlsVersion),
    OfGoOnly(String),
}

impl TryFrom<String> for MinVersion {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "TLS10" | "TLS11" => Ok(MinVersion::OfGoOnly(text)),
            _ => TlsVersion::try_from(text).map(MinVersion::Here),
        }
    }
}

/// A cipher suite that Go supports.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Cipher {
    Here(SupportedCipherSuite),
    OfGoOnly(String),
}

/// The supported suites, by Go's names. Those of TLS 1.3 come first, in Go's order. As in Go, the
/// configuration cannot select among them, so all are always enabled.
pub(crate) const CIPHERS: [(&str, SupportedCipherSuite); 9] = [
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

/// The other suites of Go (`tls.CipherSuites`, which the toolkit accepts). The last four were
/// removed from it after Go 1.21. They use CBC with the MAC inside the encryption, the source of a
/// decade of attacks, or lack forward secrecy.
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
            None => Err(format!("unknown cipher suite {text:?}: use the names of Go's crypto/tls")),
        }
    }
}

/// A curve that Go supports.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum Curve {
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
            _ => Err(format!("unknown curve {text:?}: use X25519, CurveP256 or CurveP384")),
        }
    }
}

/// The supported curves of a list, and the names of the others.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<Curve>")]
pub(crate) struct Curves {
    pub(crate) here: Vec<&'static dyn SupportedKxGroup>,
    pub(crate) of_go_only: Vec<String>,
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
        if curves.here.is_empty() && !curves.of_go_only.is_empty() {
            return Err("none of these curves is supported: add X25519, CurveP256 or CurveP384");
        }
        Ok(curves)
    }
}
