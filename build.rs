//! Tells the program which revision and compiler it was built from, for `multipath_exporter_build_info`.

#![expect(clippy::disallowed_methods, reason = "the build starts programs, the exporter does not")]

use std::env;
use std::process::Command;

fn main() {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    // `rustc 1.95.0 (…)`
    let rust_version = first_line(&rustc, &["--version"]).and_then(|line| Some(line.split(' ').nth(1)?.to_owned()));
    // A package is built outside a checkout: its builder says the revision.
    let revision = env::var("REVISION").ok().or_else(|| first_line("git", &["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=BUILD_RUST_VERSION={}", rust_version.unwrap_or_default());
    println!("cargo::rustc-env=BUILD_REVISION={}", revision.unwrap_or_default());
    println!("cargo::rerun-if-env-changed=REVISION");
    // Every commit and checkout adds a line to it; a checkout's HEAD stays as it is when its branch moves.
    if let Some(log) = first_line("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
