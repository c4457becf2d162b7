//! Client authentication and TLS parameters.

use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, ProtocolVersion, SupportedCipherSuite, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::certificates::{
    Ca, Identity, client, expired, for_servers_only, not_for_signing, not_of_a_ca, not_valid_yet, of_a_ca, self_signed,
    with_uri_and_mail,
};
use super::site::{Site, TLS, within};

/// Checks that the server admits the first client, and refuses each other one with the words beside
/// it.
async fn assert_judged(text: &str, site: &Site, identities: &[(&str, Option<&Identity>, Result<(), &str>)]) {
    let server = site.serve(text).await;
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        for (name, identity, wanted) in identities {
            let judged = server.lets_in(site.client_of(default_provider(), versions, *identity)).await;
            match (&judged, wanted) {
                (Ok(()), Ok(())) => {}
                (Err(said), Err(words)) if said.contains(words) => {}
                _ => panic!("{name}, {versions:?}, {text}: {judged:?}, and not {wanted:?}"),
            }
        }
    }
}

#[tokio::test]
async fn each_client_auth_type_has_its_meaning() {
    let site = Site::new();
    let good = site.ca.client(&["prometheus"]);
    let stranger = Ca::new("another CA").client(&["prometheus"]);
    let own = self_signed(&client(&["prometheus"]));
    let late = site.ca.sign(&expired(client(&["prometheus"])));
    let early = site.ca.sign(&not_valid_yet(client(&["prometheus"])));
    let server = site.ca.sign(&for_servers_only(client(&["prometheus"])));
    let all = |results: [Result<(), &'static str>; 7]| {
        let [none, good_one, stranger_one, own_one, late_one, early_one, server_one] = results;
        [
            ("no certificate", None, none),
            ("a good one", Some(&good), good_one),
            ("of another CA", Some(&stranger), stranger_one),
            ("self-signed", Some(&own), own_one),
            ("expired", Some(&late), late_one),
            ("not valid yet", Some(&early), early_one),
            ("for servers", Some(&server), server_one),
        ]
    };
    let (ok, required, unknown) = (Ok(()), Err("CertificateRequired"), Err("UnknownCA"));
    let ca = "  client_ca_file: ca.crt\n";
    let (late_one, server_one) = (Err("CertificateExpired"), Err("UnsupportedCertificate"));
    // rustls sends the same alert for both.
    let early_one = late_one;

    let policy = |name: &str, ca: &str| format!("{TLS}  client_auth_type: {name}\n{ca}");
    assert_judged(&policy("NoClientCert", ""), &site, &all([ok; 7])).await;
    assert_judged(&policy("RequestClientCert", ""), &site, &all([ok; 7])).await;
    assert_judged(&policy("RequestClientCert", ca), &site, &all([ok; 7])).await;
    assert_judged(&policy("RequireAnyClientCert", ""), &site, &all([required, ok, ok, ok, ok, ok, ok])).await;
    let given = all([ok, ok, unknown, unknown, late_one, early_one, server_one]);
    assert_judged(&policy("VerifyClientCertIfGiven", ca), &site, &given).await;
    let given_without_ca = all([ok, unknown, unknown, unknown, unknown, unknown, unknown]);
    assert_judged(&policy("VerifyClientCertIfGiven", ""), &site, &given_without_ca).await;
    let verified = all([required, ok, unknown, unknown, late_one, early_one, server_one]);
    assert_judged(&policy("RequireAndVerifyClientCert", ca), &site, &verified).await;
}

#[tokio::test]
async fn a_certificate_that_is_named_as_ca_is_good_while_it_is_valid() {
    let site = Site::new();
    let text = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n");
    // A certificate like one of `openssl req -x509`.
    let client = |names: &[&str]| of_a_ca(client(names));
    let own = self_signed(&client(&["prometheus"]));
    let late = self_signed(&expired(client(&["prometheus"])));
    let early = self_signed(&not_valid_yet(client(&["prometheus"])));
    let server = self_signed(&for_servers_only(client(&["prometheus"])));
    let all: String = [&own, &late, &early, &server].map(|identity| identity.certificate.as_str()).concat();
    site.write("client.crt", &all);
    let other = self_signed(&client(&["prometheus"]));
    let judged = [
        ("it itself", Some(&own), Ok(())),
        ("expired", Some(&late), Err("CertificateExpired")),
        ("not valid yet", Some(&early), Err("CertificateExpired")),
        ("for servers", Some(&server), Err("UnsupportedCertificate")),
        ("of the same name", Some(&other), Err("")),
        ("none", None, Err("CertificateRequired")),
    ];
    assert_judged(&text, &site, &judged).await;
}

/// Only a valid CA certificate can vouch for others. A client certificate that is trusted itself
/// cannot.
#[tokio::test]
async fn not_every_certificate_that_is_named_as_ca_may_sign() {
    let site = Site::new();
    let text = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: all.crt\n");
    let named = |name: &str| client(&[name]);
    let signers = [
        Ca::of(of_a_ca(named("ca"))),
        Ca::of(named("leaf")),
        Ca::of(not_of_a_ca(named("no-ca"))),
        Ca::of(not_for_signing(of_a_ca(named("no-signing")))),
        Ca::of(expired(of_a_ca(named("late")))),
        Ca::of(not_valid_yet(of_a_ca(named("early")))),
    ];
    site.write("all.crt", &signers.iter().map(|signer| signer.certificate.as_str()).collect::<String>());
    let [good, others @ ..] = signers.map(|signer| signer.client(&["prometheus"]));
    let mut judged = vec![("signed by a CA", Some(&good), Ok(()))];
    judged.extend(others.iter().map(|other| ("signed by none", Some(other), Err(""))));
    assert_judged(&text, &site, &judged).await;
}

/// webpki accepts X.509 version 1 only for trust anchors. `tests/web/run` lets an openssl client
/// present such a certificate.
#[tokio::test]
async fn a_ca_may_be_of_version_1() {
    let site = Site::new();
    let [certificate, key] = ["crt", "key"].map(|kind| site.read(&format!("signed_by_version1.{kind}")));
    let text = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: version1.crt\n");
    assert_judged(&text, &site, &[("signed by it", Some(&Identity { certificate, key }), Ok(()))]).await;
    let warnings = site.load(&text).unwrap().warnings();
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.contains("version1.crt") && warning.contains("version 1 "), "{warning}");
}

#[test]
fn what_keeps_nobody_out_is_warned_of() {
    let site = Site::new();
    let auth = |policy: &str, more: &str| {
        let warnings = site.load(&format!("{TLS}  client_auth_type: {policy}\n{more}")).unwrap().warnings();
        warnings.join("\n")
    };
    let (ca, sans) = ("  client_ca_file: ca.crt\n", "  client_allowed_sans: [prometheus]\n");
    let both = format!("{ca}{sans}");
    let (nobody_asked, demanded) = ("anybody can make a certificate", "refuses clients without a certificate");
    for (policy, more, wanted) in [
        ("RequestClientCert", ca, &[][..]),
        ("RequestClientCert", both.as_str(), &[nobody_asked, demanded]),
        ("RequireAnyClientCert", sans, &[nobody_asked]),
        ("VerifyClientCertIfGiven", both.as_str(), &[demanded]),
        ("VerifyClientCertIfGiven", "", &["clients that send a certificate are refused"]),
        ("RequireAndVerifyClientCert", both.as_str(), &[]),
    ] {
        let warnings = auth(policy, more);
        assert_eq!(warnings.lines().count(), wanted.len(), "{policy}: {warnings}");
        assert!(wanted.iter().all(|words| warnings.contains(words)), "{policy}: {warnings}");
    }
    assert!(site.load("rate_limit: {interval: 1s}\n").unwrap().warnings()[0].contains("burst of 0"));
}

/// A client that presents another's certificate cannot sign with its key.
#[tokio::test]
async fn a_certificate_without_its_key_is_worth_nothing() {
    let site = Site::new();
    for policy in ["RequireAnyClientCert", "RequireAndVerifyClientCert\n  client_ca_file: ca.crt"] {
        let good = site.ca.client(&["prometheus"]);
        let stolen = Identity { certificate: good.certificate.clone(), key: site.read("other.key") };
        let resolver = rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(
            stolen.chain(),
            default_provider().key_provider.load_private_key(stolen.private_key()).unwrap(),
        ));
        let mut config = site.client(None);
        config.client_auth_cert_resolver = std::sync::Arc::new(resolver);
        let server = site.serve(&format!("{TLS}  client_auth_type: {policy}\n")).await;
        let said = server.lets_in(config).await.unwrap_err();
        assert!(said.contains("DecryptError"), "{policy}: {said}");
        server.lets_in(site.client(Some(&good))).await.unwrap();
    }
}

#[tokio::test]
async fn one_of_the_allowed_names_must_be_in_the_certificate() {
    let site = Site::new();
    let of = |names: &[&str]| site.ca.client(names);
    let rich = site.ca.sign(&with_uri_and_mail(client(&[]), "spiffe://example.org/prometheus", "ops@example.org"));
    let names =
        [of(&["prometheus"]), of(&["x", "192.0.2.7"]), of(&["2001:db8::7"]), of(&["grafana", "Prometheus"]), of(&[])];
    let stranger = Ca::new("another CA").client(&["prometheus"]);
    let [dns, v4, v6, wrong, nameless] = &names;
    let text = |sans: &str| {
        format!(
            "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  client_allowed_sans: {sans}\n"
        )
    };
    let refused = Err("AccessDenied");
    assert_judged(
        &text("[other, prometheus, 192.0.2.7, '2001:db8::7']"),
        &site,
        &[
            ("DNS", Some(dns), Ok(())),
            ("IPv4", Some(v4), Ok(())),
            ("IPv6", Some(v6), Ok(())),
            ("other names", Some(wrong), refused),
            ("no names", Some(nameless), refused),
            ("URI and mail", Some(&rich), refused),
            ("another CA", Some(&stranger), Err("UnknownCA")),
            ("none", None, Err("CertificateRequired")),
        ],
    )
    .await;
    for name in ["spiffe://example.org/prometheus", "ops@example.org"] {
        let judged = [("it", Some(&rich), Ok(())), ("another", Some(dns), refused)];
        assert_judged(&text(&format!("['{name}']")), &site, &judged).await;
    }
    // A wildcard is an ordinary name, and an empty list matches no name.
    assert_judged(&text("['*']"), &site, &[("it", Some(dns), refused)]).await;
    assert_judged(&text("[]"), &site, &[("it", Some(dns), refused)]).await;
    // The server checks names even if it only requests certificates, so a name must exist.
    let any = format!("{TLS}  client_auth_type: RequestClientCert\n  client_allowed_sans: [prometheus]\n");
    let judged =
        [("it", Some(dns), Ok(())), ("none", None, Err("CertificateRequired")), ("other", Some(wrong), refused)];
    assert_judged(&any, &site, &judged).await;
}

fn provider(suites: &[SupportedCipherSuite], groups: &[&'static dyn SupportedKxGroup]) -> CryptoProvider {
    let mut provider = default_provider();
    if !suites.is_empty() {
        provider.cipher_suites = suites.to_vec();
    }
    if !groups.is_empty() {
        provider.kx_groups = groups.to_vec();
    }
    provider
}

#[tokio::test]
async fn versions_are_kept_to() {
    let site = Site::new();
    let of =
        |versions: &[&'static rustls::SupportedProtocolVersion]| site.client_of(default_provider(), versions, None);
    for (text, twelve, thirteen) in [
        ("", true, true),
        ("  min_version: TLS13\n", false, true),
        ("  max_version: TLS12\n", true, false),
        ("  min_version: TLS13\n  max_version: TLS13\n", false, true),
    ] {
        let server = site.serve(&format!("{TLS}{text}")).await;
        assert_eq!(server.lets_in(of(&[&version::TLS12])).await.is_ok(), twelve, "{text}");
        assert_eq!(server.lets_in(of(&[&version::TLS13])).await.is_ok(), thirteen, "{text}");
        let stream = server.connect(of(rustls::ALL_VERSIONS)).await.unwrap();
        let best = if thirteen { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
        assert_eq!(stream.get_ref().1.protocol_version(), Some(best), "{text}");
    }
}

/// rustls cannot offer TLS 1.1, so the test writes a ClientHello by hand.
#[tokio::test]
async fn tls_1_1_is_refused_with_an_alert() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, two suites, no compression.
    hello.extend([0, 0, 4, 0xc0, 0x13, 0x00, 0x2f, 1, 0]);
    let mut bytes = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    bytes.append(&mut hello);
    let mut stream = server.tcp().await;
    within(tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes)).await.unwrap();
    let mut said = Vec::new();
    within(stream.read_to_end(&mut said)).await.unwrap();
    // A fatal alert: protocol_version, or a complaint about a part that the old hello lacks.
    assert!(said.len() == 7 && said[0] == 21 && said[5] == 2, "{said:?}");
}

#[tokio::test]
async fn the_suites_that_are_listed_are_used() {
    let site = Site::new();
    let (aes_128, aes_256, chacha) = (
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    );
    let listed =
        "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n";
    let of = |suites: &[SupportedCipherSuite]| site.client_of(provider(suites, &[]), &[&version::TLS12], None);
    for (prefer, chosen) in [
        ("", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ("  prefer_server_cipher_suites: true\n", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        ("  prefer_server_cipher_suites: false\n", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        let server = site.serve(&format!("{TLS}{listed}{prefer}")).await;
        let stream = server.connect(of(&[chacha, aes_128, aes_256])).await.unwrap();
        assert_eq!(stream.get_ref().1.negotiated_cipher_suite().unwrap().suite(), chosen, "{prefer}");
        let said = server.lets_in(of(&[chacha])).await.unwrap_err();
        assert!(said.contains("HandshakeFailure"), "{said}");
        // The list applies to TLS 1.2. All suites of TLS 1.3 are always enabled, as in Go.
        let newest = provider(&[cipher_suite::TLS13_CHACHA20_POLY1305_SHA256], &[]);
        server.lets_in(site.client_of(newest, &[&version::TLS13], None)).await.unwrap();
    }
}

#[tokio::test]
async fn the_curves_that_are_listed_are_used() {
    let site = Site::new();
    let server = site.serve(&format!("{TLS}  curve_preferences: [CurveP384]\n")).await;
    let of =
        |groups: &[&'static dyn SupportedKxGroup], version| site.client_of(provider(&[], groups), &[version], None);
    for version in [&version::TLS12, &version::TLS13] {
        server.lets_in(of(&[kx_group::X25519, kx_group::SECP384R1], version)).await.unwrap();
        let said = server.lets_in(of(&[kx_group::X25519, kx_group::SECP256R1], version)).await.unwrap_err();
        assert!(said.contains("HandshakeFailure"), "{said}");
    }
}

#[tokio::test]
async fn http_2_is_offered_unless_it_is_switched_off() {
    let site = Site::new();
    for (text, offered, chosen) in [
        ("", &["h2", "http/1.1"][..], Some(&b"h2"[..])),
        ("", &["http/1.1"], Some(b"http/1.1")),
        ("", &[], None),
        ("http_server_config:\n  http2: true\n", &["h2"], Some(b"h2")),
        ("http_server_config:\n  http2: false\n", &["h2", "http/1.1"], Some(b"http/1.1")),
    ] {
        let server = site.serve(&format!("{TLS}{text}")).await;
        let mut client = site.client(None);
        client.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = server.connect(client).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{text} {offered:?}");
    }
    let server = site.serve(&format!("{TLS}http_server_config:\n  http2: false\n")).await;
    let mut client = site.client(None);
    client.alpn_protocols = vec![b"h2".to_vec()];
    let error = server.connect(client).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn no_session_outlives_its_connection() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    for version in [&version::TLS12, &version::TLS13] {
        let client = site.client_of(default_provider(), &[version], None);
        for _ in 0..2 {
            let mut stream = server.connect(client.clone()).await.unwrap();
            super::site::get(&mut stream, "/", "").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        }
    }
}

#[tokio::test]
async fn who_speaks_tls_to_http_is_told_and_closed() {
    let site = Site::new();
    let server = site.serve("").await;
    let error = server.connect(site.client(None)).await.unwrap_err();
    assert!(error.to_string().contains("InvalidContentType"), "{error}");
}

/// Go's server, and so every Prometheus exporter, gives this answer to a forgotten `scheme: https`.
#[tokio::test]
async fn http_without_tls_is_told_so() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let wanted = "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
        for piecewise in [false, true] {
            let mut stream = server.tcp().await;
            let request = format!("{method} /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
            if piecewise {
                // The server recognises the mistake by these bytes.
                for byte in &request.as_bytes()[..5] {
                    within(stream.write_all(&[*byte])).await.unwrap();
                    tokio::task::yield_now().await;
                }
            } else {
                within(stream.write_all(request.as_bytes())).await.unwrap();
            }
            let mut said = String::new();
            within(stream.read_to_string(&mut said)).await.unwrap();
            assert_eq!(said, wanted, "{method}");
        }
    }
}

/// The alert `protocol_version` puts the reason into the client's log.
#[tokio::test]
async fn old_versions_are_told_that_they_are() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    // The form of openssl's and Go's hello: a random number, suites with RSA, no compression, no
    // signature algorithms.
    let hello = |version: u8| {
        let hello = [&[3, version][..], &[7; 32], &[0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]].concat();
        let length = u8::try_from(hello.len()).unwrap();
        [&[22, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat()
    };
    for version in [1, 2] {
        let mut stream = server.tcp().await;
        within(stream.write_all(&hello(version))).await.unwrap();
        let mut said = Vec::new();
        within(stream.read_to_end(&mut said)).await.unwrap();
        assert_eq!(said, [21, 3, version, 0, 2, 2, 70], "{version}");
    }
    // A hello of TLS 1.2 lacks another part.
    let mut stream = server.tcp().await;
    within(stream.write_all(&hello(3))).await.unwrap();
    let mut said = Vec::new();
    within(stream.read_to_end(&mut said)).await.unwrap();
    assert_eq!((said[0], said[6]), (21, 40));
}

/// `openssl req -x509` makes a CA certificate.
#[tokio::test]
async fn a_stranger_that_signs_itself_is_of_no_known_ca() {
    let site = Site::new();
    let stranger = self_signed(&of_a_ca(client(&["prometheus"])));
    let text = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n");
    assert_judged(&text, &site, &[("a CA's own", Some(&stranger), Err("UnknownCA"))]).await;
}

#[tokio::test]
async fn what_go_alone_has_is_left_out_of_a_list() {
    let site = Site::new();
    let text = format!("{TLS}  min_version: TLS10\n  curve_preferences: [CurveP521, CurveP384]\n");
    let server = site.serve(&text).await;
    let client = |group: &'static dyn SupportedKxGroup, versions: &[&'static rustls::SupportedProtocolVersion]| {
        site.client_of(CryptoProvider { kx_groups: vec![group], ..default_provider() }, versions, None)
    };
    for versions in [&[&version::TLS12][..], &[&version::TLS13]] {
        assert_eq!(server.lets_in(client(kx_group::SECP384R1, versions)).await, Ok(()));
        // An empty list would enable all curves.
        assert!(server.lets_in(client(kx_group::X25519, versions)).await.is_err());
    }
    let suites = "  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\nhttp_server_config: {http2: false}\n";
    let server = site.serve(&format!("{TLS}{suites}")).await;
    assert_eq!(server.lets_in(site.client_of(default_provider(), &[&version::TLS13], None)).await, Ok(()));
    assert!(server.lets_in(site.client_of(default_provider(), &[&version::TLS12], None)).await.is_err());
}
