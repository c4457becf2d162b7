//! The test cases of Prometheus's exporter-toolkit at 19a7c2d (2026-07-23), with its outcome and
//! ours.
//!
//! Its files are in `web/testdata`, and their outcomes in `web/tls_config_test.go` and
//! `web/handler_test.go`. The texts here are our own, with this directory's certificates and
//! cheaper hashes.

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{default_provider, kx_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::requests::ALICE;
use super::site::{Site, TLS, get, within};

/// The outcome of a file at the start.
enum Outcome {
    Taken,
    /// Accepted, with a warning that contains these words.
    Warned(&'static str),
    /// Refused with an error that contains these words.
    Refused(&'static str),
}

use Outcome::{Refused, Taken, Warned};

/// The toolkit's file, its text, the toolkit's outcome, ours. If both refuse the file, our words
/// may differ.
const FILES: [(&str, &str, Outcome, Outcome); 41] = [
    (
        "tls_config_noAuth.requireandverifyclientcert.good.yml",
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n",
        Taken,
        Taken,
    ),
    (
        "tls_config_noAuth.requireanyclientcert.good.yml",
        "{TLS}  client_auth_type: RequireAnyClientCert\n",
        Taken,
        Taken,
    ),
    (
        "tls_config_noAuth.requireanyclientcertkeyinline.good.yml",
        "tls_server_config:\n  cert_file: server.crt\n  key: |\n{KEY}  client_auth_type: RequireAnyClientCert\n",
        Taken,
        Taken,
    ),
    // The toolkit gives no warning at the start, and requests no certificate by default.
    (
        "web_config_auth_clientCAs_invalid.bad.yml",
        "{TLS}  client_ca_file: somefile\n",
        Refused("no such file"),
        Refused("client_ca or client_ca_file requires a client_auth_type"),
    ),
    // The toolkit refuses every handshake.
    (
        "web_config_auth_clientCAs_missing.bad.yml",
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n",
        Taken,
        Refused("requires client_ca or client_ca_file"),
    ),
    (
        "web_config_auth_client_san.bad.yaml",
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n  client_allowed_sans: [bad]\n",
        Taken,
        Taken,
    ),
    (
        "web_config_auth_client_san.good.yaml",
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client.crt\n  client_allowed_sans: [one, a, two]\n",
        Taken,
        Taken,
    ),
    (
        "web_config_auth_user_list_invalid.bad.yml",
        "{TLS}basic_auth_users:\n  john: doe\n",
        Refused("hashedSecret too short"),
        Refused("john: not a bcrypt hash"),
    ),
    ("web_config_empty.yml", "", Taken, Taken),
    (
        "web_config_headers.good.yml",
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    Strict-Transport-Security: max-age=31536000; includeSubDomains\n    X-Content-Type-Options: nosniff\n    X-XSS-Protection: 1\n    Content-Security-Policy: \"default-src 'self' *.test.example.net\"\n",
        Taken,
        Taken,
    ),
    (
        "web_config_headers_content_type_options.bad.yml",
        "http_server_config:\n  headers:\n    X-Content-Type-Options: sniff\n",
        Refused("invalid value for"),
        Refused("invalid value \"sniff\" for X-Content-Type-Options: use nosniff"),
    ),
    (
        "web_config_headers_extra_header.bad.yml",
        "http_server_config:\n  headers:\n    Content-Type: foo\n",
        Refused("can not be configured"),
        Refused("\"Content-Type\" cannot be set"),
    ),
    (
        "web_config_headers_frame_options.bad.yml",
        "http_server_config:\n  headers:\n    X-Frame-Options: foo\n",
        Refused("invalid value for"),
        Refused("invalid value \"foo\" for X-Frame-Options: use deny or sameorigin"),
    ),
    (
        "web_config_junk.yml",
        "hWkNKCp3fvIx3jKnsaBI\nTuEjdwNS8A2vYdFbiKqr\n",
        Refused("yaml: unmarshal errors"),
        Refused("expected keys with values"),
    ),
    (
        "web_config_junk_key.yml",
        "tls_server_config:\n  cert_filse: server.crt\n",
        Refused("field cert_filse not found"),
        Refused("unknown key"),
    ),
    (
        "web_config_noAuth.bad.yml",
        "{TLS}  client_ca_file: /dev/null\n",
        Refused("Client CA's have been configured without a Client Auth Policy"),
        Refused("client_ca or client_ca_file requires a client_auth_type"),
    ),
    // Every handshake fails in the toolkit.
    (
        "web_config_noAuth.good.blocking.yml",
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n",
        Taken,
        Refused("requires client_ca or client_ca_file"),
    ),
    (
        "web_config_noAuth.good.yml",
        "{TLS}  client_auth_type: VerifyClientCertIfGiven\n",
        Taken,
        Warned("VerifyClientCertIfGiven without client_ca_file"),
    ),
    (
        "web_config_noAuth_allCiphers.good.yml",
        "{TLS}  cipher_suites:\n  - TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n  - TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n  - TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256\n  - TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256\n  - TLS_AES_128_GCM_SHA256\n  - TLS_AES_256_GCM_SHA384\n  - TLS_CHACHA20_POLY1305_SHA256\n  - TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA\n  - TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA\n  - TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA\n  - TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA\n",
        Taken,
        Warned(
            "line 5: tls_server_config: cipher_suites: ignoring unsupported values: TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, ",
        ),
    ),
    (
        "web_config_noAuth_allCurves.good.yml",
        "{TLS}  curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]\n",
        Taken,
        Warned("line 4: tls_server_config: curve_preferences: ignoring unsupported values: CurveP521"),
    ),
    (
        "web_config_noAuth_certPath_empty.bad.yml",
        "tls_server_config:\n  cert_file: ''\n  key_file: server.key\n",
        Refused("missing one of cert or cert_file"),
        Refused("cert or cert_file is missing"),
    ),
    (
        "web_config_noAuth_certPath_invalid.bad.yml",
        "tls_server_config:\n  cert_file: somefile\n  key_file: server.key\n",
        Refused("no such file"),
        Refused("somefile: No such file"),
    ),
    (
        "web_config_noAuth_certPath_keyPath_empty.bad.yml",
        "tls_server_config:\n  cert_file: ''\n  key_file: ''\n  client_auth_type: x\n",
        Refused("missing one of cert or cert_file"),
        Refused("client_auth_type: unknown value \"x\""),
    ),
    (
        "web_config_noAuth_certPath_keyPath_invalid.bad.yml",
        "tls_server_config:\n  cert_file: somefile\n  key_file: somefile\n",
        Refused("no such file"),
        Refused("somefile: No such file"),
    ),
    (
        "web_config_noAuth_cert_empty.bad.yml",
        "tls_server_config:\n  cert: ''\n  key_file: server.key\n",
        Refused("missing one of cert or cert_file"),
        Refused("cert or cert_file is missing"),
    ),
    (
        "web_config_noAuth_inventedCiphers.bad.yml",
        "{TLS}  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA2048]\n",
        Refused("unknown cipher"),
        Refused("unknown cipher suite"),
    ),
    (
        "web_config_noAuth_inventedCurves.bad.yml",
        "{TLS}  curve_preferences: [CurveP257]\n",
        Refused("unknown curve"),
        Refused("unknown curve \"CurveP257\""),
    ),
    (
        "web_config_noAuth_keyPath_empty.bad.yml",
        "tls_server_config:\n  cert_file: server.crt\n  key_file: ''\n",
        Refused("missing one of key or key_file"),
        Refused("key or key_file is missing"),
    ),
    (
        "web_config_noAuth_keyPath_invalid.bad.yml",
        "tls_server_config:\n  cert_file: server.cert\n  key_file: somefile\n",
        Refused("no such file"),
        Refused("server.cert: No such file"),
    ),
    (
        "web_config_noAuth_key_empty.bad.yml",
        "tls_server_config:\n  cert_file: server.crt\n  key: ''\n",
        Refused("missing one of key or key_file"),
        Refused("key or key_file is missing"),
    ),
    (
        "web_config_noAuth_noHTTP2.good.yml",
        "{TLS}  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  max_version: TLS12\nhttp_server_config:\n  http2: false\n",
        Taken,
        Taken,
    ),
    (
        "web_config_noAuth_noHTTP2Cipher.bad.yml",
        "{TLS}  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  max_version: TLS12\n",
        Refused("is missing an HTTP/2-required"),
        Refused("but HTTP/2 requires one of them"),
    ),
    (
        "web_config_noAuth_someCiphers.good.yml",
        "{TLS}  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]\n  min_version: TLS12\n  max_version: TLS12\n",
        Taken,
        Taken,
    ),
    (
        "web_config_noAuth_someCiphers_noOrder.good.yml",
        "{TLS}  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  prefer_server_cipher_suites: false\n  min_version: TLS12\n  max_version: TLS12\n",
        Taken,
        Taken,
    ),
    // None of the listed curves exists here.
    (
        "web_config_noAuth_someCurves.good.yml",
        "{TLS}  min_version: TLS13\n  curve_preferences: [CurveP521]\n",
        Taken,
        Refused("none of these curves is supported"),
    ),
    ("web_config_noAuth_tlsInline.good.yml", "tls_server_config:\n  cert: |\n{CERT}  key: |\n{KEY}", Taken, Taken),
    (
        "web_config_noAuth_wrongTLSVersion.bad.yml",
        "{TLS}  min_version: TLS111\n",
        Refused("unknown TLS version"),
        Refused("unknown TLS version \"TLS111\""),
    ),
    ("web_config_rate_limiter_nonblocking.yaml", "rate_limit:\n  interval: 0\n  burst: 0\n", Taken, Taken),
    (
        "web_config_rate_limiter_one_second.yaml",
        "rate_limit:\n  interval: 1s\n  burst: 0\n",
        Taken,
        Warned("burst of 0"),
    ),
    // The toolkit admits bob after some 20 seconds. Our server never does, because his hash has
    // cost 18.
    ("web_config_users.good.yml", "{TLS}{USERS}", Taken, Warned("\"bob\" is refused: hashed with a bcrypt cost of 18")),
    (
        "web_config_users_noTLS.good.yml",
        "{USERS}",
        Taken,
        Warned("\"bob\" is refused: hashed with a bcrypt cost of 18"),
    ),
];

/// Hashes of the password `secret`.
const USERS: &str = "basic_auth_users:\n  alice: $2y$04$Ipr52z.aVaHGbHN8XC61IOvIPFu1yEIXaM11FRJGp6PNysGRf532S\n  \
                     bob: $2y$18$Ipr52z.aVaHGbHN8XC61IOvIPFu1yEIXaM11FRJGp6PNysGRf532S\n";

/// The text of a file, with the lines that many of them share.
fn text(site: &Site, short: &str) -> String {
    let inline = |name: &str| site.read(name).lines().map(|line| format!("    {line}\n")).collect::<String>();
    let text = short.replace("{TLS}", TLS).replace("{USERS}", USERS);
    text.replace("{CERT}", &inline("server.crt")).replace("{KEY}", &inline("server.key"))
}

#[test]
fn each_file_has_its_outcome() {
    let site = Site::new();
    let mut wrong = Vec::new();
    for (name, short, _, ours) in &FILES {
        let loaded = site.load(&text(&site, short));
        let right = match (&loaded, ours) {
            (Ok(config), Taken) => config.warnings().is_empty(),
            (Ok(config), Warned(words)) => config.warnings().iter().any(|warning| warning.contains(words)),
            (Err(error), Refused(words)) => error.contains(words),
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {:?}", loaded.map(|config| config.warnings())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Files that only the toolkit accepts. Two of them admit nobody, and one leaves no curve.
    let stricter: Vec<_> =
        FILES.iter().filter(|(_, _, its, ours)| !matches!(its, Refused(_)) && matches!(ours, Refused(_))).collect();
    assert_eq!(stricter.len(), 3);
    assert!(!FILES.iter().any(|(_, _, its, ours)| matches!(its, Refused(_)) && !matches!(ours, Refused(_))));
}

/// The cases of `TestServerBehaviour` and `TestBasicAuth` that the other tests here lack.
#[tokio::test]
async fn clients_get_what_they_get_there() {
    let site = Site::new();
    let of = |name: &str| text(&site, FILES.iter().find(|(file, ..)| *file == name).unwrap().1);

    // "valid tls config yml and default client"
    let server = site.serve(&of("web_config_noAuth.good.yml")).await;
    let mut stream = server.tcp().await;
    within(stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")).await.unwrap();
    let mut said = String::new();
    within(stream.read_to_string(&mut said)).await.unwrap();
    assert!(said.contains("Client sent an HTTP request to an HTTPS server"), "{said}");
    // "valid tls config yml and tls client", "(cert and key inline)", "with all ciphers"
    for name in
        ["web_config_noAuth.good.yml", "web_config_noAuth_tlsInline.good.yml", "web_config_noAuth_allCiphers.good.yml"]
    {
        assert_eq!(site.serve(&of(name)).await.lets_in(site.client(None)).await, Ok(()), "{name}");
    }
    // "valid tls config yml with all curves": each curve that we have
    let server = site.serve(&of("web_config_noAuth_allCurves.good.yml")).await;
    for group in [kx_group::SECP256R1, kx_group::SECP384R1, kx_group::X25519] {
        let provider = CryptoProvider { kx_groups: vec![group], ..default_provider() };
        assert_eq!(server.lets_in(site.client_of(provider, rustls::ALL_VERSIONS, None)).await, Ok(()), "{group:?}");
    }
    // Users with and without TLS. `bob:secret` is correct in the toolkit's cases.
    const BOB: &str = "Authorization: Basic Ym9iOnNlY3JldA==\r\n";
    let cases = [("", 401), (ALICE, 200), (BOB, 401), ("Authorization: Basic YWxpY2U6YmFk\r\n", 401)];
    let server = site.serve(&of("web_config_users_noTLS.good.yml")).await;
    for (headers, status) in cases {
        let answer = server.plain("/", headers).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
    }
    let server = site.serve(&of("web_config_users.good.yml")).await;
    let mut stream = server.connect(site.client(None)).await.unwrap();
    for (headers, status) in cases {
        let answer = get(&mut stream, "/", headers).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
    }
}
