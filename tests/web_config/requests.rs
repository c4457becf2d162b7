//! Users, rate limit and headers: the processing of a request before its answer.

use std::time::{Duration, Instant};

use super::site::{Site, TLS, eventually, get};

/// `alice` with the password `secret`, and `bob` with `hunter2`, at bcrypt's lowest cost.
pub fn users() -> String {
    let hash = |password: &str| bcrypt::hash(password, 4).unwrap();
    format!("basic_auth_users:\n  alice: {}\n  bob: {}\n", hash("secret"), hash("hunter2"))
}

/// `alice:secret`, `alice:wrong`, `nobody:secret`.
pub const ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
const WRONG: &str = "Authorization: Basic YWxpY2U6d3Jvbmc=\r\n";
const NOBODY: &str = "Authorization: Basic bm9ib2R5OnNlY3JldA==\r\n";

#[tokio::test]
async fn who_is_not_known_is_asked_for_a_password_everywhere() {
    let site = Site::new();
    let server = site.serve(&users()).await;
    // The cache answers the second round.
    for _ in 0..2 {
        for headers in ["", WRONG, NOBODY, "Authorization: Bearer YWxpY2U6c2VjcmV0\r\n"] {
            for path in ["/", "/metrics", "/-/healthy"] {
                let answer = server.plain(path, headers).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
                assert!(answer.contains("www-authenticate: Basic\r\n") && !answer.contains("hello"), "{answer}");
            }
        }
        assert!(server.plain("/", ALICE).await.unwrap().ends_with("\r\n\r\nhello\n"));
    }
}

/// A client cannot wait for a hash of this cost. A file without users would admit everyone.
#[tokio::test]
async fn too_costly_a_hash_lets_nobody_in_and_keeps_nobody_out() {
    let site = Site::new();
    let costly = |user: &str| format!("  {user}: $2y$18$Ipr52z.aVaHGbHN8XC61IOvIPFu1yEIXaM11FRJGp6PNysGRf532S\n");
    let server = site.serve(&format!("{}{}", users(), costly("nobody"))).await;
    // `nobody:secret` gets the answer of an unknown name, after a comparison with another user's
    // hash.
    for _ in 0..2 {
        for (headers, status) in [(NOBODY, 401), (ALICE, 200), (WRONG, 401), ("", 401)] {
            let answer = server.plain("/", headers).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {answer}");
        }
    }
    let warnings = server.config.warnings();
    assert!(warnings.iter().any(|line| line.contains("\"nobody\"") && line.contains("cost of 18")), "{warnings:?}");
    assert!(site.load(&format!("basic_auth_users:\n{}{}", costly("a"), costly("b"))).is_err());
}

#[tokio::test]
async fn over_tls_as_well() {
    let site = Site::new();
    let server = site.serve(&format!("{TLS}{}", users())).await;
    let mut stream = server.connect(site.client(None)).await.unwrap();
    for (headers, status) in [("", "401"), (ALICE, "200"), (WRONG, "401"), (ALICE, "200")] {
        let answer = get(&mut stream, "/", headers).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

/// At this cost and without optimisation, a guess takes a tenth of a second or more. The server
/// hashes one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_does_not_hold_up_who_is_known() {
    let site = Site::new();
    let hash = bcrypt::hash("secret", 9).unwrap();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {hash}\n")).await;
    assert!(server.plain("/", ALICE).await.unwrap().contains(" 200 OK"));
    let address = server.address;
    // The number of guesses that may wait from one address.
    let guesses: Vec<_> = (0..8)
        .map(|guess| {
            tokio::spawn(async move {
                let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
                let digit = char::from(b'A' + guess);
                // alice:wro0, alice:wro1, and so on
                get(&mut stream, "/", &format!("Authorization: Basic YWxpY2U6d3Jv{digit}w==\r\n")).await.unwrap()
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    let mut scrapes = 0;
    while !guesses.iter().all(tokio::task::JoinHandle::is_finished) {
        let start = Instant::now();
        assert!(server.plain("/", ALICE).await.unwrap().contains(" 200 OK"));
        slowest = slowest.max(start.elapsed());
        scrapes += 1;
    }
    for guess in guesses {
        let answer = guess.await.unwrap();
        assert!(answer.contains(" 401 Unauthorized"), "{answer}");
    }
    assert!(scrapes > 20 && slowest < Duration::from_secs(1), "{scrapes} scrapes, the slowest {slowest:?}");
}

/// Timing must not reveal which users exist. The test compares the shortest of many times on a busy
/// machine, so its bound is wide. Without the stand-in, an unknown name takes a hundredth.
#[tokio::test]
async fn an_unknown_name_takes_as_long_as_a_known_one() {
    let site = Site::new();
    let hash = bcrypt::hash("secret", 8).unwrap();
    let server = site.serve(&format!("basic_auth_users:\n  alice: {hash}\n")).await;
    let mut times = [Vec::new(), Vec::new()];
    for guess in 0..15 {
        for (who, times) in ["alice", "nobody"].iter().zip(&mut times) {
            use base64::Engine;
            let encoded = base64::prelude::BASE64_STANDARD.encode(format!("{who}:{guess}"));
            let start = Instant::now();
            let answer = server.plain("/", &format!("Authorization: Basic {encoded}\r\n")).await.unwrap();
            times.push(start.elapsed());
            assert!(answer.contains(" 401 "), "{answer}");
        }
    }
    let [known, unknown] = times.map(|times| times.into_iter().min().unwrap());
    assert!(unknown > known / 2 && unknown < known * 2, "known {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn too_many_requests_are_refused_before_passwords_are_looked_at() {
    let site = Site::new();
    let server = site.serve(&format!("rate_limit:\n  interval: 1h\n  burst: 3\n{}", users())).await;
    for (headers, status) in [(ALICE, "200"), ("", "401"), (WRONG, "401"), (ALICE, "429"), ("", "429")] {
        let answer = server.plain("/", headers).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

#[tokio::test]
async fn the_bucket_fills_again() {
    let site = Site::new();
    let server = site.serve("rate_limit:\n  interval: 200ms\n  burst: 1\n").await;
    assert!(server.plain("/", "").await.unwrap().contains(" 200 OK"));
    assert!(server.plain("/", "").await.unwrap().contains(" 429 Too Many Requests"));
    eventually("there is a token again", async || server.plain("/", "").await.unwrap().contains(" 200 OK")).await;
}

#[tokio::test]
async fn no_rate_limit_and_one_that_lets_nobody_in() {
    let site = Site::new();
    let server = site.serve("rate_limit:\n  interval: 0\n  burst: 0\n").await;
    for _ in 0..100 {
        assert!(server.plain("/", "").await.unwrap().contains(" 200 OK"));
    }
    let server = site.serve("rate_limit:\n  interval: 1s\n  burst: 0\n").await;
    assert!(server.plain("/", "").await.unwrap().contains(" 429 Too Many Requests"));
}

#[tokio::test]
async fn answers_carry_the_headers_that_were_asked_for() {
    let site = Site::new();
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    X-XSS-Protection: 1\n    \
                   Content-Security-Policy: ''\n    Strict-Transport-Security: max-age=31536000\n";
    let server = site.serve(&format!("{headers}{}", users())).await;
    for headers in ["", ALICE] {
        let answer = server.plain("/", headers).await.unwrap();
        for header in ["x-frame-options: deny", "x-xss-protection: 1", "strict-transport-security: max-age=31536000"] {
            assert_eq!(answer.matches(header).count(), 1, "{answer}");
        }
        assert!(!answer.contains("content-security-policy"), "{answer}");
    }
    // The configured headers do not replace the answer's own framing headers.
    let framed = server.plain("/framed", ALICE).await.unwrap();
    assert!(framed.contains("x-frame-options: sameorigin") && !framed.contains("deny"), "{framed}");
}
