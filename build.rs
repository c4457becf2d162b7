//! Passes the revision and the compiler to the program, for `multipath_exporter_build_info`.
//! Renders the runbooks to HTML, so that the program contains no Markdown parser and nobody
//! maintains a list of runbooks.

#![expect(clippy::disallowed_methods, reason = "the build starts programs, the exporter does not")]

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

const RUNBOOKS: &str = "alerts/runbooks";

fn main() -> Result<(), Box<dyn Error>> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    // The line is `rustc 1.95.0 (…)`.
    let rust_version = first_line(&rustc, &["--version"]).and_then(|line| Some(line.split(' ').nth(1)?.to_owned()));
    // A package is built outside a checkout. Its builder sets the revision.
    let revision = env::var("REVISION").ok().or_else(|| first_line("git", &["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=BUILD_RUST_VERSION={}", rust_version.unwrap_or_default());
    println!("cargo::rustc-env=BUILD_REVISION={}", revision.unwrap_or_default());
    println!("cargo::rerun-if-env-changed=REVISION");
    // Every commit and checkout adds a line to this file. HEAD does not change when its branch
    // moves.
    if let Some(log) = first_line("git", &["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={RUNBOOKS}");
    let list = format!("{:?}\n", runbooks()?);
    fs::write(Path::new(&env::var("OUT_DIR")?).join("runbooks.rs"), list.replacen('[', "&[", 1))?;
    Ok(())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

/// Returns the runbooks in HTML, by the name of their alert. The index has an empty name.
fn runbooks() -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(RUNBOOKS)? {
        let path = entry?.path();
        let (Some(name), Some("md")) = (path.file_stem(), path.extension().and_then(|kind| kind.to_str())) else {
            continue;
        };
        let name = name.to_str().ok_or("the name of a runbook is not UTF-8")?;
        texts.insert(if name == "README" { "" } else { name }.to_owned(), fs::read_to_string(&path)?);
    }
    let pages = texts.iter().map(|(name, text)| {
        let page = page(text, |name| texts.contains_key(name));
        Ok((name.clone(), page.map_err(|error| format!("{RUNBOOKS}, runbook {name:?}: {error}"))?))
    });
    pages.collect()
}

/// Renders a runbook to HTML, with a section for each heading of the second level. Code and tables
/// may be wider than a phone's screen, so they scroll, also by keyboard. Links to other runbooks
/// lead to where the exporter serves them.
fn page(text: &str, is_runbook: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut events = Vec::new();
    let mut parser = Parser::new_ext(text, Options::ENABLE_TABLES).peekable();
    let mut in_section = false;
    while let Some(event) = parser.next() {
        let markup = |html: &'static str| Event::Html(html.into());
        match event {
            Event::Start(Tag::Heading { level: HeadingLevel::H2, .. }) => {
                let id = match parser.peek() {
                    Some(Event::Text(title)) => title.to_lowercase().replace(' ', "-"),
                    other => return Err(format!("a heading begins with {other:?}")),
                };
                let end = if in_section { "</section>\n" } else { "" };
                in_section = true;
                events.extend([Event::Html(format!("{end}<section id=\"{id}\">\n").into()), event]);
            }
            Event::Start(Tag::CodeBlock(_)) => events.push(markup("<pre tabindex=\"0\"><code>")),
            Event::End(TagEnd::CodeBlock) => events.push(markup("</code></pre>\n")),
            Event::Start(Tag::Table(_)) => events.extend([markup("<div class=\"scroll\" tabindex=\"0\">\n"), event]),
            Event::End(TagEnd::Table) => events.extend([event, markup("</div>\n")]),
            Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
                let dest_url = served(&dest_url, &is_runbook)?;
                events.push(Event::Start(Tag::Link { link_type, dest_url, title, id }));
            }
            event => events.push(event),
        }
    }
    if in_section {
        events.push(Event::Html("</section>\n".into()));
    }
    let mut page = String::new();
    html::push_html(&mut page, events.into_iter());
    Ok(page)
}

/// Returns the address at which the exporter serves the target of a link. Refuses links to other
/// places, because a reader may have no internet access.
fn served(link: &str, is_runbook: impl Fn(&str) -> bool) -> Result<CowStr<'static>, String> {
    let (file, fragment) = link.find('#').map_or((link, ""), |at| link.split_at(at));
    let name = if file == "README.md" { Some("") } else { file.strip_suffix(".md") };
    match name {
        _ if file.is_empty() => Ok(link.to_owned().into()),
        Some(name) if is_runbook(name) => Ok(format!("/runbooks/{name}{fragment}").into()),
        _ => Err(format!("a link to {link}, which is no runbook")),
    }
}
