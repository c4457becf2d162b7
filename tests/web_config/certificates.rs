//! Certificates of many kinds.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate and its key, as PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(Result::unwrap).collect()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A certificate authority.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        Ca::of(of_a_ca(named(name, &[])))
    }

    /// The holder of this certificate. The certificate may not be allowed to sign.
    pub fn of(mut params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        if params.is_ca != IsCa::NoCa && params.key_usages.is_empty() {
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        }
        let certificate = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for a server at 127.0.0.1, or for this name.
    pub fn server(&self, name: &str) -> Identity {
        let mut params = named(name, &["localhost", "127.0.0.1"]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params)
    }

    pub fn client(&self, names: &[&str]) -> Identity {
        self.sign(&client(names))
    }

    pub fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

pub fn self_signed(params: &CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    Identity { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

/// Parameters of a client certificate with DNS names or addresses.
pub fn client(names: &[&str]) -> CertificateParams {
    let mut params = named("a client", names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

pub fn with_uri_and_mail(mut params: CertificateParams, uri: &str, mail: &str) -> CertificateParams {
    params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name(mail.try_into().unwrap()));
    params
}

pub fn of_a_ca(mut params: CertificateParams) -> CertificateParams {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub fn not_of_a_ca(mut params: CertificateParams) -> CertificateParams {
    params.is_ca = IsCa::ExplicitNoCa;
    params
}

pub fn not_for_signing(mut params: CertificateParams) -> CertificateParams {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

pub fn expired(mut params: CertificateParams) -> CertificateParams {
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    params
}

pub fn not_valid_yet(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(3000, 1, 1);
    params
}

pub fn for_servers_only(mut params: CertificateParams) -> CertificateParams {
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn named(name: &str, sans: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::new(sans.iter().map(|san| (*san).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
