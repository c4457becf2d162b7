//! Decides which client certificates are accepted, by the rules of Go's `crypto/tls` and the
//! toolkit.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use super::values::ClientAuth;

/// Verifies the certificates of clients.
///
/// rustls's verifier of chains does most of the work. This type adds Go's two policies that accept
/// any certificate, and the list of allowed names. It also accepts a certificate that is itself in
/// the CA file: many sites list a single self-signed client certificate there. `openssl req -x509`
/// marks such a certificate as a CA. Go accepts it from a client; webpki refuses it, which is right
/// by the standard.
#[derive(Debug)]
pub(crate) struct ClientCertificates {
    policy: ClientAuth,
    /// All CAs of the file: for the hints to clients, and to recognise their own certificates.
    cas: Vec<CertificateDer<'static>>,
    hints: Vec<DistinguishedName>,
    /// The CAs that may sign other certificates.
    authorities: Vec<Authority>,
    /// Verifies chains to any authority. `None` if there are none.
    chains: Option<Arc<dyn ClientCertVerifier>>,
    allowed_sans: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

/// All other fields are made of the compared ones.
impl PartialEq for ClientCertificates {
    fn eq(&self, other: &Self) -> bool {
        self.policy == other.policy && self.cas == other.cas && self.allowed_sans == other.allowed_sans
    }
}

impl ClientCertificates {
    /// # Errors
    /// If a CA's certificate cannot be used.
    pub(crate) fn new(
        policy: ClientAuth,
        cas: Vec<CertificateDer<'static>>,
        allowed_sans: Option<Vec<String>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        if policy.verifies() {
            // Go supports more kinds of keys. An administrator who migrates should learn of this at
            // startup, not from refused clients.
            cas.iter().try_for_each(must_be_of_a_known_kind)?;
        }
        let authorities: Vec<_> = cas.iter().filter_map(Authority::of).collect();
        let chains = judge(&authorities, &provider)?;
        let hints = store(&cas)?.subjects();
        Ok(ClientCertificates { policy, cas, hints, authorities, chains, allowed_sans, provider })
    }

    fn is_from_ca(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.cas.iter().any(|ca| ca == end_entity) {
            return is_valid_by_itself(&parse(end_entity)?, now);
        }
        let valid: Vec<_> = self.authorities.iter().filter(|authority| authority.is_valid(now)).cloned().collect();
        // Normally all authorities are valid.
        let chains = if valid.len() == self.authorities.len() {
            self.chains.clone()
        } else {
            judge(&valid, &self.provider).map_err(Error::General)?
        };
        let chains = chains.ok_or(CertificateError::UnknownIssuer)?;
        chains.verify_client_cert(end_entity, intermediates, now).map(drop).map_err(|error| {
            // webpki first checks if the certificate is a CA's, as those of `openssl req -x509`
            // are. The unknown issuer is the more useful reason.
            let parsed = parse(end_entity);
            if parsed.is_ok_and(|certificate| certificate.issuer() == certificate.subject()) {
                CertificateError::UnknownIssuer.into()
            } else {
                error
            }
        })
    }
}

/// A CA that may sign certificates, with its validity. webpki trusts all of its anchors, without a
/// time limit.
#[derive(Clone, Debug)]
struct Authority {
    certificate: CertificateDer<'static>,
    not_before: i64,
    not_after: i64,
}

impl Authority {
    /// `None` if it may not sign by Go's rules: a certificate of version 3 must be marked as a
    /// CA's.
    fn of(certificate: &CertificateDer<'static>) -> Option<Self> {
        let parsed = parse(certificate).ok()?;
        let is_ca = match parsed.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.ca,
            Ok(None) => parsed.version() != X509Version::V3,
            Err(_) => false,
        };
        let may_sign = match parsed.key_usage() {
            Ok(Some(usage)) => usage.value.key_cert_sign(),
            Ok(None) => true,
            Err(_) => false,
        };
        let validity = parsed.validity();
        (is_ca && may_sign).then(|| Authority {
            certificate: certificate.clone(),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    }

    fn is_valid(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| (self.not_before..=self.not_after).contains(&now))
    }
}

fn store<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// The verifier of chains to these authorities. `None` if there are none.
fn judge(
    authorities: &[Authority],
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    if authorities.is_empty() {
        return Ok(None);
    }
    let roots = store(authorities.iter().map(|authority| &authority.certificate))?;
    let judge = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    judge.map(Some).map_err(|error| error.to_string())
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// Fails if `ring` supports no signature of this CA's key, which makes all its certificates
/// unusable.
fn must_be_of_a_known_kind(ca: &CertificateDer<'_>) -> Result<(), String> {
    let ca = parse(ca).map_err(|error| error.to_string())?;
    let key = ca.public_key();
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let is_known = match key.parsed() {
        Ok(PublicKey::RSA(key)) => (2048..=8192).contains(&key.key_size()),
        Ok(PublicKey::EC(_)) => curve.is_some_and(|curve| [OID_EC_P256, OID_NIST_EC_P384].contains(&curve)),
        _ => key.algorithm.algorithm == OID_SIG_ED25519,
    };
    if is_known {
        return Ok(());
    }
    Err(format!(
        "unsupported kind of key of the CA {:?}: use RSA of 2048 to 8192 bits, ECDSA on P-256 or P-384, or Ed25519",
        ca.subject().to_string()
    ))
}

/// Returns true if the certificate has X.509 version 3. rustls accepts other versions only as
/// trusted CAs, neither from clients nor for servers.
pub(crate) fn is_of_version_3(certificate: &CertificateDer<'_>) -> bool {
    parse(certificate).is_ok_and(|certificate| certificate.version() == X509Version::V3)
}

/// Checks a certificate that is trusted by itself: its validity, and that it is for clients.
fn is_valid_by_itself(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateError::Expired)?;
    if now < certificate.validity().not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after {
        return Err(CertificateError::Expired.into());
    }
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(usage)) if usage.value.client_auth || usage.value.any => Ok(()),
        _ => Err(CertificateError::InvalidPurpose.into()),
    }
}

/// The names in a certificate, in the form that the toolkit compares byte by byte. Addresses are in
/// their usual notation.
fn sans(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()?;
            Some(address.to_canonical().to_string())
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}

impl ClientCertVerifier for ClientCertificates {
    fn offer_client_auth(&self) -> bool {
        self.policy != ClientAuth::NoClientCert
    }

    /// A list of allowed names requires a certificate.
    fn client_auth_mandatory(&self) -> bool {
        self.policy.demands() || self.allowed_sans.is_some()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.policy.verifies() {
            self.is_from_ca(end_entity, intermediates, now)?;
        }
        if let Some(allowed) = &self.allowed_sans
            && !sans(&parse(end_entity)?).iter().any(|name| allowed.contains(name))
        {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    /// Every client must prove that it has the certificate's key, under any policy.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
