//! Which client certificates are good enough, as Go's `crypto/tls` and the toolkit see it.

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
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::file::ClientAuth;

/// Judges the certificates of clients.
///
/// rustls's own judge of chains does most of it. Beside it stand the two policies that ask for any certificate, as Go has
/// them, the list of allowed names, and that a certificate which is itself among the CAs is good: many have a single
/// self-signed client certificate and name it there. `openssl req -x509` makes it a CA's, which Go takes from a client, and
/// webpki, rightly by the letter, does not.
#[derive(Debug)]
pub struct ClientCertificates {
    policy: ClientAuth,
    /// Judges chains; `None` without CAs: no certificate is from one of them.
    chains: Option<Arc<dyn ClientCertVerifier>>,
    cas: Vec<CertificateDer<'static>>,
    allowed_sans: Option<Vec<String>>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertificates {
    /// # Errors
    /// If a CA's certificate cannot be used.
    pub fn new(
        policy: ClientAuth,
        cas: Vec<CertificateDer<'static>>,
        allowed_sans: Option<Vec<String>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for ca in &cas {
            roots.add(ca.clone()).map_err(|error| error.to_string())?;
        }
        let chains = match cas.is_empty() {
            true => None,
            false => {
                let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
                Some(chains.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(ClientCertificates { policy, chains, cas, allowed_sans, provider })
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
        let chains = self.chains.as_ref().ok_or(CertificateError::UnknownIssuer)?;
        chains.verify_client_cert(end_entity, intermediates, now).map(drop)
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::BadEncoding.into()),
    }
}

/// What is left to ask of a certificate that is trusted as it is: its time, and that it is one for clients.
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

/// The names in a certificate, as the toolkit compares them: letter by letter, addresses in their usual form.
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

    /// Who must show one of some names must show a certificate.
    fn client_auth_mandatory(&self) -> bool {
        self.policy.demands() || self.allowed_sans.is_some()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.as_ref().map_or(&[], |chains| chains.root_hint_subjects())
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

    /// That the client has the certificate's key is asked of every client, whatever the policy.
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
