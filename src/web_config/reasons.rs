//! The reasons of failed handshakes, in words for an administrator. rustls shows the names of its
//! variants.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

/// The reason of a failed handshake, if it concerns an administrator. Either one side refused the
/// other's certificate, or both have no version, cipher suite or protocol in common. `None` for
/// data that is not TLS, and for clients that disconnect.
pub(crate) fn why_refused(error: &Error) -> Option<String> {
    let reason = match error {
        Error::NoCertificatesPresented => "the client sent no certificate".to_owned(),
        Error::InvalidCertificate(cause) => format!("the client's certificate: {}", of_certificate(cause)),
        Error::AlertReceived(alert) => format!("the client aborted it: {}", of_alert(*alert)),
        Error::PeerIncompatible(cause) => of_incompatible(cause).to_owned(),
        Error::PeerMisbehaved(_) => "the client violates the TLS protocol".to_owned(),
        Error::NoApplicationProtocol => "the client speaks neither HTTP/1.1 nor HTTP/2".to_owned(),
        _ => return None,
    };
    Some(reason)
}

/// Constant words, so that the log reports a client once. rustls's own texts contain the time of
/// day.
fn of_certificate(error: &CertificateError) -> &'static str {
    use CertificateError as E;
    match error {
        E::ApplicationVerificationFailure => "none of its names is in client_allowed_sans",
        E::UnknownIssuer => "not signed by a CA in client_ca_file",
        E::Expired | E::ExpiredContext { .. } => "expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "not valid yet",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "not for client authentication",
        E::BadSignature => "invalid signature",
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "unsupported signature algorithm or kind of key"
        }
        E::BadEncoding => "it cannot be parsed",
        E::UnhandledCriticalExtension => "it has an unknown critical extension",
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            "the name constraints of its CA do not permit its names"
        }
        E::Revoked => "revoked",
        E::Other(cause) => of_webpki(&cause.to_string()),
        // A later version of rustls may have more.
        _ => UNUSABLE,
    }
}

const UNUSABLE: &str = "it, or a CA certificate in its chain, cannot be used for clients";

/// `webpki` has more kinds of errors than rustls. rustls passes them on by the names of the
/// variants of `webpki::Error`.
fn of_webpki(name: &str) -> &'static str {
    match name {
        "CaUsedAsEndEntity" => "it is a CA's certificate, not a client's",
        "EndEntityUsedAsCa" => "signed with a certificate that is not a CA's",
        "UnsupportedCertVersion" => "unsupported X.509 version: only version 3 is accepted",
        "NameConstraintViolation" => "the name constraints of its CA do not permit its names",
        "PathLenConstraintViolated" | "MaximumPathDepthExceeded" => {
            "too many intermediate CAs between it and client_ca_file"
        }
        _ => UNUSABLE,
    }
}

/// A requirement that one side does not meet. The names follow rustls's list.
fn of_incompatible(error: &PeerIncompatible) -> &'static str {
    use PeerIncompatible as E;
    match error {
        E::NoCipherSuitesInCommon => {
            "no common cipher suite that fits the certificate: the client offers none that is supported and in \
             cipher_suites"
        }
        E::NoKxGroupsInCommon => "no common curve: the client offers none that is supported and in curve_preferences",
        E::NamedGroupsExtensionRequired
        | E::EcPointsExtensionRequired
        | E::NoEcPointFormatsInCommon
        | E::UncompressedEcPointsRequired => "the client offers no curves, or only in an unsupported format",
        E::NoSignatureSchemesInCommon
        | E::NoCertificateRequestSignatureSchemesInCommon
        | E::SignatureAlgorithmsExtensionRequired => {
            "no common signature algorithm: the client accepts none that the server's key supports"
        }
        E::Tls12NotOffered | E::Tls12NotOfferedOrEnabled | E::ServerDoesNotSupportTls12Or13 => {
            "no common TLS version: the client offers neither TLS 1.2 nor a version that max_version allows"
        }
        E::SupportedVersionsExtensionRequired | E::ServerTlsVersionIsDisabledByOurConfig => {
            "no common TLS version: the client offers at most TLS 1.2, but min_version is TLS13"
        }
        E::KeyShareExtensionRequired => "the client offers TLS 1.3 without a key share",
        E::ExtendedMasterSecretExtensionRequired => "the client offers TLS 1.2 without an extended master secret",
        E::NullCompressionRequired => "the client requires compression",
        E::IncorrectCertificateTypeExtension | E::UnsolicitedCertificateTypeExtension => {
            "the client requires certificates that are not X.509"
        }
        E::Tls13RequiredForQuic
        | E::ServerSentHelloRetryRequestWithUnknownExtension
        | E::ServerRejectedEncryptedClientHello(_) => NOTHING_IN_COMMON,
        // A later version of rustls may have more.
        _ => NOTHING_IN_COMMON,
    }
}

const NOTHING_IN_COMMON: &str = "client and server have no common TLS parameters";

/// RFC 8446, 6.2. The older ones are in RFC 5246, 7.2.2.
fn of_alert(alert: AlertDescription) -> &'static str {
    use AlertDescription as A;
    match alert {
        A::UnknownCA => "it does not know the CA of the server's certificate",
        A::BadCertificate | A::CertificateUnknown | A::UnsupportedCertificate => {
            "it does not accept the server's certificate"
        }
        A::CertificateExpired => "the server's certificate has expired, or is not valid yet",
        A::CertificateRevoked => "the server's certificate is revoked",
        A::UnrecognisedName => "the server's certificate has another name",
        A::ProtocolVersion | A::InappropriateFallback => "it does not support this TLS version",
        A::HandshakeFailure | A::InsufficientSecurity | A::ExportRestriction => {
            "it does not accept the parameters that the server has chosen"
        }
        A::AccessDenied => "it accepts the server's certificate, but is not allowed to connect",
        A::NoCertificate | A::CertificateRequired | A::CertificateUnobtainable => {
            "it has no certificate of the requested kind"
        }
        A::NoApplicationProtocol => "it supports neither HTTP/1.1 nor HTTP/2",
        A::CloseNotify | A::UserCanceled => "it cancelled the handshake",
        A::InternalError => "it has an internal error",
        A::BadRecordMac | A::DecryptionFailed | A::DecryptError => {
            "it could not decrypt or verify the data of the server"
        }
        _ => "it does not understand the server's messages",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{OtherError, PeerMisbehaved};

    use super::*;

    /// An error of `webpki`, which displays the name of its variant.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Cause(&'static str);

    fn other(cause: &'static str) -> Error {
        CertificateError::Other(OtherError(Arc::new(Cause(cause)))).into()
    }

    #[test]
    fn no_reason_is_the_name_of_a_variant() {
        use PeerIncompatible as E;
        let incompatible = [
            E::EcPointsExtensionRequired,
            E::ExtendedMasterSecretExtensionRequired,
            E::IncorrectCertificateTypeExtension,
            E::KeyShareExtensionRequired,
            E::NamedGroupsExtensionRequired,
            E::NoCertificateRequestSignatureSchemesInCommon,
            E::NoCipherSuitesInCommon,
            E::NoEcPointFormatsInCommon,
            E::NoKxGroupsInCommon,
            E::NoSignatureSchemesInCommon,
            E::NullCompressionRequired,
            E::ServerDoesNotSupportTls12Or13,
            E::ServerSentHelloRetryRequestWithUnknownExtension,
            E::ServerTlsVersionIsDisabledByOurConfig,
            E::SignatureAlgorithmsExtensionRequired,
            E::SupportedVersionsExtensionRequired,
            E::Tls12NotOffered,
            E::Tls12NotOfferedOrEnabled,
            E::Tls13RequiredForQuic,
            E::UncompressedEcPointsRequired,
            E::UnsolicitedCertificateTypeExtension,
            E::ServerRejectedEncryptedClientHello(None),
        ];
        let certificates = [
            CertificateError::BadEncoding,
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::UnknownIssuer,
            CertificateError::UnknownRevocationStatus,
            CertificateError::ExpiredRevocationList,
            CertificateError::BadSignature,
            CertificateError::NotValidForName,
            CertificateError::InvalidPurpose,
            CertificateError::InvalidOcspResponse,
            CertificateError::ApplicationVerificationFailure,
        ];
        let misbehaved = [PeerMisbehaved::MissingKeyShare, PeerMisbehaved::DuplicateClientHelloExtensions];
        let alerts = (0..=u8::MAX).map(|alert| Error::AlertReceived(alert.into()));
        let errors = incompatible.into_iter().map(Error::from).chain(certificates.map(Error::from)).chain(alerts);
        let errors = errors.chain(misbehaved.map(Error::from)).chain([
            Error::NoCertificatesPresented,
            Error::NoApplicationProtocol,
            other("CaUsedAsEndEntity"),
            other("MaximumPathDepthExceeded"),
        ]);
        for error in errors {
            let reason = why_refused(&error).unwrap();
            let of_a_variant = |word: &str| {
                let capitals = word.chars().filter(char::is_ascii_uppercase).count();
                capitals > 1 && word.chars().any(|c| c.is_ascii_lowercase()) && word != "CAs"
            };
            assert!(
                !reason.split(|c: char| !c.is_ascii_alphanumeric()).any(of_a_variant)
                    && !reason.contains(['(', '{', '"']),
                "{error:?}: {reason}"
            );
        }
    }

    #[test]
    fn what_is_no_tls_is_not_told() {
        for error in [Error::DecryptError, Error::General("x".to_owned()), Error::PeerSentOversizedRecord] {
            assert_eq!(why_refused(&error), None);
        }
    }
}
