//! The configuration of rustls: versions, cipher suites, curves, and the certificates of both
//! sides.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, Error, InconsistentKeys, ServerConfig, SupportedProtocolVersion, version};

use super::client::{ClientCertificates, is_of_version_3};
use super::values::{CIPHERS, Pem, PemSource, Tls, TlsVersion};

/// The ALPN name of HTTP/2 (RFC 7301).
pub(crate) const HTTP_2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// Makes the TLS configuration, and the verifier of client certificates. `read` reads other files.
/// Adds settings that may not do what they seem to do to `warnings`.
///
/// # Errors
/// One line that names the key, its line, and the file.
pub(crate) fn server_config(
    tls: &Tls,
    http2: bool,
    mut read: impl FnMut(&Path) -> std::io::Result<Vec<u8>>,
    warnings: &mut Vec<String>,
) -> Result<(Arc<ServerConfig>, Arc<ClientCertificates>), String> {
    let provider = Arc::new(provider(tls));
    if http2 && tls.min_version == TlsVersion::Tls12 && tls.cipher_suites.is_some() {
        // RFC 9113, 9.2.2: clients of HTTP/2 over TLS 1.2 may rely on one of these suites. Go does
        // not start without one either.
        let required =
            [CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
        if !provider.cipher_suites.iter().any(|suite| required.contains(&suite.suite())) {
            return Err(format!(
                "line {}: tls_server_config: cipher_suites contains neither TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 nor \
                 TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, but HTTP/2 requires one of them: add one, or set http2 to false",
                tls.cipher_suites_line
            ));
        }
    }
    let versions: &[&SupportedProtocolVersion] = match (tls.min_version, tls.max_version) {
        (TlsVersion::Tls12, TlsVersion::Tls12) => &[&version::TLS12],
        (TlsVersion::Tls12, TlsVersion::Tls13) => &[&version::TLS12, &version::TLS13],
        (TlsVersion::Tls13, _) => &[&version::TLS13],
    };
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions).map_err(|_| {
            let line = tls.cipher_suites_line;
            format!("line {line}: tls_server_config: no suite in cipher_suites can be used with max_version")
        })?;

    let chain = certificates(&tls.certificate, &mut read)?;
    if !chain.first().is_some_and(is_of_version_3) {
        return Err(tls.certificate.wrong("the certificate must have X.509 version 3"));
    }
    let text = tls.key.read(&mut read)?;
    let key = match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => key,
        Err(_) if text.windows(ENCRYPTED.len()).any(|word| word == ENCRYPTED) => {
            return Err(tls.key.wrong("the private key is encrypted: store it without a password"));
        }
        // The error of the parser would show parts of the key.
        Err(_) => return Err(tls.key.wrong("no private key in PEM format")),
    };
    let cas = tls.client_ca.as_ref().map(|pem| Ok::<_, String>((pem, certificates(pem, &mut read)?))).transpose()?;
    let (client_ca, cas) = cas.map_or((None, Vec::new()), |(pem, cas)| (Some(pem), cas));
    if let Some(pem) = client_ca.filter(|_| tls.client_auth.verifies() && !cas.iter().all(is_of_version_3)) {
        warnings.push(pem.wrong("a certificate of X.509 version 1 is accepted only as a CA, not from clients"));
    }
    let clients = ClientCertificates::new(tls.client_auth, cas, tls.client_allowed_sans.clone(), provider)
        .map_err(|cause| client_ca.unwrap_or(&tls.certificate).wrong(&cause))?;

    let clients = Arc::new(clients);
    let verifier = Arc::clone(&clients);
    let mut config =
        builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(|error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                tls.key.wrong(&format!("not the key of the certificate in {}", tls.certificate))
            }
            // Only the key can cause this error.
            Error::General(_) => tls.key.wrong(
                "unsupported kind of private key: use RSA of 2048 to 4096 bits, ECDSA on P-256 \
                 or P-384, or Ed25519",
            ),
            error => tls.certificate.wrong(&error.to_string()),
        })?;
    config.ignore_client_order = tls.prefer_server_cipher_suites && tls.cipher_suites.is_some();
    config.alpn_protocols = if http2 { vec![HTTP_2.to_vec(), HTTP_1_1.to_vec()] } else { vec![HTTP_1_1.to_vec()] };
    // Every handshake is a full one, so that no session outlives the certificates it was made with.
    // Prometheus keeps its connection, so this costs little.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok((Arc::new(config), clients))
}

/// Part of every PEM form of an encrypted key.
const ENCRYPTED: &[u8] = b"ENCRYPTED";

fn provider(tls: &Tls) -> CryptoProvider {
    let all = CIPHERS.iter().map(|(_, suite)| *suite);
    let mut provider = default_provider();
    if let Some(listed) = &tls.cipher_suites {
        let listed = listed.iter().copied().filter(|suite| suite.tls13().is_none());
        provider.cipher_suites = all.filter(|suite| suite.tls13().is_some()).chain(listed).collect();
    }
    if let Some(curves) = &tls.curves {
        provider.kx_groups.clone_from(curves);
    }
    provider
}

fn certificates(
    pem: &Pem,
    read: impl FnMut(&Path) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = pem.read(read)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(pem.wrong("no certificate in PEM format")),
    }
}

impl Pem {
    fn read(&self, mut read: impl FnMut(&Path) -> std::io::Result<Vec<u8>>) -> Result<Vec<u8>, String> {
        match &self.source {
            PemSource::Inline(text) => Ok(text.clone().into_bytes()),
            PemSource::File(path) => read(path).map_err(|error| self.wrong(&error.to_string())),
        }
    }

    /// Describes an error of this certificate or key, with its place.
    fn wrong(&self, cause: &str) -> String {
        match &self.source {
            PemSource::Inline(_) => format!("line {}: tls_server_config: {}: {cause}", self.line, self.name),
            PemSource::File(path) => {
                format!("line {}: tls_server_config: {}: {}: {cause}", self.line, self.name, path.display())
            }
        }
    }
}

impl std::fmt::Display for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            PemSource::Inline(_) => f.write_str(self.name),
            PemSource::File(path) => write!(f, "{}", path.display()),
        }
    }
}
