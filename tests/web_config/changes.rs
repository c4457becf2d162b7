//! Files that change while the server runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use multipath_exporter::web::server::Limits;
use rustls::ClientConfig;
use rustls::crypto::ring::default_provider;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::certificates::Ca;
use super::requests::{ALICE, users};
use super::site::{PATIENCE, Server, Site, TLS, eventually, get};

async fn status(server: &Server, headers: &str) -> String {
    let answer = server.plain("/", headers).await.unwrap_or_default();
    answer.get(9..12).unwrap_or("none").to_owned()
}

async fn await_status(server: &Server, headers: &str, wanted: &str) {
    look_until(server, wanted, async || status(server, headers).await == wanted).await;
}

/// Requests checks of the files until the condition holds.
async fn look_until(server: &Server, what: &str, mut so: impl AsyncFnMut() -> bool) {
    eventually(what, async || {
        server.config.reread();
        so().await
    })
    .await;
}

#[tokio::test]
async fn users_come_and_go() {
    let site = Site::new();
    let server = site.serve(&users()).await;
    assert_eq!(status(&server, ALICE).await, "200");
    let hash = bcrypt::hash("other", 4).unwrap();
    site.configure(&format!("basic_auth_users:\n  alice: {hash}\n"));
    // The server forgets the cached login of the old password.
    await_status(&server, ALICE, "401").await;
    let other = "Authorization: Basic YWxpY2U6b3RoZXI=\r\n";
    assert_eq!(status(&server, other).await, "200");
    site.configure(&users());
    await_status(&server, ALICE, "200").await;
    assert_eq!(status(&server, other).await, "401");
}

#[tokio::test]
async fn users_that_appear_are_asked_for() {
    let site = Site::new();
    let server = site.serve("").await;
    assert_eq!(status(&server, "").await, "200");
    site.configure(&users());
    // No signal requests this check.
    eventually("there are users", async || status(&server, "").await == "401").await;
    assert_eq!(status(&server, ALICE).await, "200");
}

/// An empty file is valid and admits everyone. A file that is being rewritten is also empty for a
/// moment.
#[tokio::test]
async fn what_turns_bad_or_loses_what_protects_closes_and_what_is_good_again_opens() {
    let site = Site::new();
    let good = format!("rate_limit: {{interval: 1ns, burst: 1000}}\n{}", users());
    let server = site.serve(&good).await;
    let without_limit = users();
    for bad in [
        "basic_auth_users: [",
        "basic_auth_usrs: {}\n",
        "",
        "basic_auth_users: {}\nrate_limit: {interval: 1ns, burst: 1000}\n",
        &without_limit,
        &format!("{good}{TLS}"),
        "basic_auth_users: {alice: secret}\n",
    ] {
        assert_eq!(status(&server, ALICE).await, "200", "before {bad:?}");
        site.configure(bad);
        await_status(&server, ALICE, "500").await;
        assert_eq!(status(&server, "").await, "500");
        site.configure(&good);
        await_status(&server, ALICE, "200").await;
    }
    std::fs::remove_file(site.path("web.yml")).unwrap();
    await_status(&server, ALICE, "500").await;
    site.configure(&good);
    await_status(&server, ALICE, "200").await;
}

#[tokio::test]
async fn with_tls_a_bad_file_ends_handshakes_and_requests() {
    let site = Site::new();
    let server = site.serve(TLS).await;
    let mut open = server.connect(site.client(None)).await.unwrap();
    assert!(get(&mut open, "/", "").await.unwrap().contains(" 200 OK"));
    for (name, bad) in [("web.yml", ""), ("web.yml", "x"), ("server.key", ""), ("server.crt", "x")] {
        let good = site.read(name);
        site.write(name, bad);
        look_until(&server, "handshakes fail", async || server.lets_in(site.client(None)).await.is_err()).await;
        assert!(get(&mut open, "/", "").await.unwrap().contains(" 500 Internal Server Error"));
        site.write(name, &good);
        look_until(&server, "handshakes succeed", async || server.lets_in(site.client(None)).await.is_ok()).await;
        assert!(get(&mut open, "/", "").await.unwrap().contains(" 200 OK"));
    }
}

/// The file's content when the client begins its handshake decides, however long the client has
/// been connected.
#[tokio::test]
async fn who_connected_before_a_change_shakes_hands_after_it() {
    let site = Site::new();
    let limits = Limits { header_timeout: 4 * PATIENCE, ..Limits::default() };
    let server = site.serve_with(TLS, limits).await;
    let [early, late] = [server.tcp().await, server.tcp().await];
    // The server accepts connections in order. This answer shows that it has accepted the others.
    server.lets_in(site.client(None)).await.unwrap();
    let next = site.ca.server("the server, renewed");
    site.install(&next);
    let shows_next = |stream: TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap() == next.chain();
    look_until(&server, "the new certificate is shown", async || {
        shows_next(server.connect(site.client(None)).await.unwrap())
    })
    .await;
    assert!(shows_next(server.handshake(early, site.client(None)).await.unwrap()));
    site.configure("tls_server_config: [");
    look_until(&server, "handshakes fail", async || server.lets_in(site.client(None)).await.is_err()).await;
    server.handshake(late, site.client(None)).await.unwrap_err();
}

#[tokio::test]
async fn cas_change_and_what_they_demand_is_not_loosened() {
    let site = Site::new();
    let required = format!("{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca2.crt\n");
    let [old, new] = ["the old", "the new"].map(Ca::new);
    site.write("ca2.crt", &old.certificate);
    let server = site.serve(&required).await;
    let [old_client, new_client] = [&old, &new].map(|ca| site.client(Some(&ca.client(&["prometheus"]))));
    server.lets_in(old_client.clone()).await.unwrap();
    site.write("ca2.crt", &new.certificate);
    look_until(&server, "the new CA counts", async || server.lets_in(new_client.clone()).await.is_ok()).await;
    server.lets_in(old_client.clone()).await.unwrap_err();
    for loosened in [
        TLS.to_owned(),
        format!("{TLS}  client_auth_type: RequestClientCert\n"),
        format!("{TLS}  client_auth_type: RequireAnyClientCert\n"),
        format!("{TLS}  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca2.crt\n"),
    ] {
        site.configure(&loosened);
        look_until(&server, "nobody is let in", async || server.lets_in(new_client.clone()).await.is_err()).await;
        server.lets_in(site.client(None)).await.unwrap_err();
        site.configure(&required);
        look_until(&server, "it is as before", async || server.lets_in(new_client.clone()).await.is_ok()).await;
    }
}

/// A file that ends too early loses the lines after `min_version` and that line itself.
#[tokio::test]
async fn old_versions_are_not_let_in_by_a_part_of_the_file() {
    let site = Site::new();
    let newest = format!("{TLS}  min_version: TLS13\n");
    let server = site.serve(&newest).await;
    let old = || site.client_of(default_provider(), &[&rustls::version::TLS12], None);
    site.configure(TLS);
    look_until(&server, "nobody is let in", async || server.lets_in(site.client(None)).await.is_err()).await;
    server.lets_in(old()).await.unwrap_err();
    site.configure(&newest);
    look_until(&server, "it is as before", async || server.lets_in(site.client(None)).await.is_ok()).await;
    server.lets_in(old()).await.unwrap_err();
}

/// One client keeps its connection, like Prometheus. The other makes a new one for each scrape.
async fn scrape(
    server: &Server,
    client: &ClientConfig,
    kept: &mut Option<TlsStream<TcpStream>>,
) -> std::io::Result<()> {
    for keep in [true, false] {
        let mut stream = match kept.take().filter(|_| keep) {
            Some(stream) => stream,
            None => server.connect(client.clone()).await?,
        };
        let answer = get(&mut stream, "/", "").await?;
        assert!(answer.contains(" 200 OK"), "{answer}");
        if keep {
            *kept = Some(stream);
        }
    }
    Ok(())
}

/// Replaces the certificate first and then the key, or the opposite, with time for scrapes and
/// checks in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_renewed_under_load_without_a_failed_scrape() {
    let site = Arc::new(Site::new());
    let server = Arc::new(site.serve(TLS).await);
    let (scrapes, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (site, server) = (Arc::clone(&site), Arc::clone(&server));
            let (scrapes, ended) = (Arc::clone(&scrapes), Arc::clone(&ended));
            tokio::spawn(async move {
                let (client, mut kept) = (site.client(None), None);
                while !ended.load(Ordering::Relaxed) {
                    scrape(&server, &client, &mut kept).await.unwrap();
                    scrapes.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for round in 0..4 {
        let next = site.ca.server(&format!("the server, renewed {round}"));
        let mut halves = [("server.crt", &next.certificate), ("server.key", &next.key)];
        if round % 2 == 1 {
            halves.reverse();
        }
        site.write(halves[0].0, halves[0].1);
        if round >= 2 {
            // At least one check sees only one of the two files replaced.
            server.config.reread();
        }
        site.write(halves[1].0, halves[1].1);
        eventually("the new certificate is shown", async || {
            let stream = server.connect(site.client(None)).await.unwrap();
            stream.get_ref().1.peer_certificates().unwrap() == next.chain()
        })
        .await;
    }
    ended.store(true, Ordering::Relaxed);
    for task in load {
        task.await.unwrap();
    }
    assert!(scrapes.load(Ordering::Relaxed) > 20, "{scrapes:?}");
}
