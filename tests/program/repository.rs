//! The address of the repository is that of `Cargo.toml` wherever users find it.

use std::fs;
use std::path::Path;

/// The files that cannot read it from `Cargo.toml`, and the generated files that users take.
const FILES: [&str; 10] = [
    "Cargo.toml",
    "alerts/config.libsonnet",
    "alerts/multipath.rules.yml",
    "alerts/prometheus-rule.yaml",
    "dashboards/multipath.json",
    "deploy/README.md",
    "deploy/kubernetes/chart/values.yaml",
    "deploy/packages/debian/copyright",
    "deploy/packages/licenses.hbs",
    "deploy/packages/rpm/multipath-exporter.spec",
];

#[test]
fn every_file_names_the_same_repository() {
    let (owner, name) = env!("CARGO_PKG_REPOSITORY").rsplit_once('/').unwrap();
    let owner = owner.strip_prefix("https://github.com/").unwrap();
    assert_eq!(env!("CARGO_PKG_HOMEPAGE"), env!("CARGO_PKG_REPOSITORY"));
    for file in FILES {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let end = format!("/{name}");
        let owners: Vec<&str> = text
            .match_indices("github.com/")
            .filter_map(|(at, host)| text[at + host.len()..].split_once(&end))
            .map(|(owner, _)| owner)
            .filter(|owner| !owner.contains(|character: char| character == '/' || character.is_whitespace()))
            .collect();
        assert!(!owners.is_empty(), "{file} does not name the repository");
        assert!(owners.iter().all(|other| *other == owner), "{file}: {owners:?}");
    }
}
