//! Accepted and refused files.
//!
//! The server accepts the files in `tests/fixtures/web_config/good`. Each file in `bad` begins with
//! a comment that holds the exact error text. A new file adds a test.

use std::fs;
use std::path::Path;

use super::certificates::{client, self_signed};
use super::site::Site;

/// The names and texts of the files.
fn fixtures(kind: &str) -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/web_config").join(kind);
    let files = fs::read_dir(directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

#[test]
fn good_files_are_taken() {
    let site = Site::new();
    let files = fixtures("good");
    assert!(files.len() > 20);
    for (name, text) in files {
        site.load(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn bad_files_are_refused_in_so_many_words() {
    let site = Site::new();
    let directory = format!("{}/", site.path("").display().to_string().trim_end_matches('/'));
    let files = fixtures("bad");
    assert!(files.len() > 40);
    let mut wrong = Vec::new();
    for (name, text) in files {
        let expected = text.lines().next().unwrap().strip_prefix("# ").unwrap_or_default();
        let said = match site.load(&text) {
            Ok(_) => "taken".to_owned(),
            Err(said) => said.replace(&directory, ""),
        };
        if said != format!("web.yml: {expected}") {
            wrong.push(format!("{name}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let site = Site::new();
    let said = |name: &str| {
        let path = site.path(name);
        multipath_exporter::web_config::WebConfig::read(&path, Default::default()).unwrap_err().to_string()
    };
    assert!(said("missing.yml").contains("missing.yml: No such file"));
    assert!(said("").contains("directory"), "{}", said(""));
    fs::write(site.path("latin1.yml"), b"# \xff\n").unwrap();
    assert!(said("latin1.yml").ends_with("latin1.yml: not UTF-8"));
}

#[test]
fn certificates_and_keys_can_stand_in_the_file_itself() {
    let site = Site::new();
    let indented = |name: &str| site.read(name).replace('\n', "\n    ");
    let (cert, key, ca) = (indented("server.crt"), indented("server.key"), indented("ca.crt"));
    site.load(&format!("tls_server_config:\n  cert: |\n    {cert}\n  key: |\n    {key}\n")).unwrap();
    site.load(&format!("tls_server_config:\n  cert_file: server.crt\n  key: |\n    {key}\n")).unwrap();
    let policy = "client_auth_type: RequireAndVerifyClientCert";
    site.load(&format!(
        "tls_server_config:\n  cert: |\n    {cert}\n  key_file: server.key\n  client_ca: |\n    {ca}\n  {policy}\n"
    ))
    .unwrap();
    // If both forms are given, the file counts, as in the toolkit.
    let both = "tls_server_config:\n  cert: nothing\n  cert_file: server.crt\n  key: nothing\n  key_file: server.key\n";
    site.load(both).unwrap();
    // An error about a key must not show the key.
    let other = self_signed(&client(&[])).key.replace('\n', "\n    ");
    let error =
        site.load(&format!("tls_server_config:\n  cert_file: server.crt\n  key: |\n    {other}\n")).unwrap_err();
    let expected = format!(
        "tls_server_config: key: not the key of the certificate in {cert}",
        cert = site.path("server.crt").display()
    );
    assert!(error.ends_with(&expected), "{error}");
}

#[test]
fn paths_are_taken_from_where_the_file_is() {
    let site = Site::new();
    let [cert, key] = ["server.crt", "server.key"].map(|name| site.path(name).display().to_string());
    site.load(&format!("tls_server_config: {{cert_file: {cert}, key_file: {key}}}\n")).unwrap();
    fs::create_dir(site.path("below")).unwrap();
    fs::rename(site.path("server.key"), site.path("below/server.key")).unwrap();
    site.load("tls_server_config: {cert_file: ./server.crt, key_file: below/server.key}\n").unwrap();
}
