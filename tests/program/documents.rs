//! The Markdown pages of the project: their lines, their links, and what they say about the source.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

use super::sentences::pages;

const WIDTH: usize = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The numbers of the lines that are too long. Code, tables, HTML and the addresses of links may be
/// longer.
fn long_lines(page: &str) -> Vec<usize> {
    let mut free = BTreeSet::new();
    for (event, range) in Parser::new_ext(page, Options::ENABLE_TABLES).into_offset_iter() {
        if matches!(event, Event::Start(Tag::CodeBlock(_) | Tag::Table(_) | Tag::HtmlBlock | Tag::Image { .. })) {
            let first = page[..range.start].matches('\n').count() + 1;
            free.extend(first..=first + page[range].trim_end().matches('\n').count());
        }
    }
    let address = Regex::new(r"\]\([^)]*\)|`[^`]*`").unwrap();
    let is_long = |line: &str| address.replace_all(line, "").chars().count() > WIDTH;
    let lines = page.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(number, line)| !free.contains(number) && is_long(line)).map(|(number, _)| number).collect()
}

#[test]
fn the_readme_is_short() {
    let lines = include_str!("../../README.md").lines().count();
    assert!(lines <= 250, "README.md has {lines} lines");
}

#[test]
fn prose_wraps() {
    let long = pages().into_iter().flat_map(|(name, page)| {
        long_lines(&page).into_iter().map(move |line| format!("{name}:{line}")).collect::<Vec<_>>()
    });
    let long: Vec<String> = long.collect();
    assert!(long.is_empty(), "{} lines have more than {WIDTH} columns:\n{}", long.len(), long.join("\n"));
}

#[test]
fn a_long_line_is_found() {
    let (fits, long) = ("a".repeat(WIDTH), "a".repeat(WIDTH + 1));
    assert_eq!(long_lines(&format!("{fits}\n\n{long}\n\n- {fits}\n\n> {long}\n")), [3, 5, 7]);
    let page =
        format!("```\n{long}\n```\n\n| a |\n|---|\n| {long} |\n\n[a]({long}) `{long}`\n\n<!-- {long} -->\n\nb\n");
    assert_eq!(long_lines(&page), Vec::<usize>::new());
}

/// The fragment by which GitHub links to a heading.
fn anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    lower
        .chars()
        .filter(|letter| letter.is_alphanumeric() || ['-', '_', ' '].contains(letter))
        .collect::<String>()
        .replace(' ', "-")
}

#[derive(Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<String>,
}

fn parse(page: &str) -> Page {
    let mut parsed = Page::default();
    let mut heading: Option<String> = None;
    for event in Parser::new_ext(page, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::End(TagEnd::Heading(_)) => parsed.anchors.extend(heading.take().map(|text| anchor(&text))),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&text);
                }
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                parsed.links.push(dest_url.to_string())
            }
            _ => {}
        }
    }
    parsed
}

/// `a/b/../c` as `a/c`.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => assert!(clean.pop(), "{} leads out of the project", path.display()),
            part => clean.push(part),
        }
    }
    clean
}

#[test]
fn links_lead_somewhere() {
    let pages: BTreeMap<PathBuf, Page> =
        pages().into_iter().map(|(name, text)| (PathBuf::from(name), parse(&text))).collect();
    let mut broken = Vec::new();
    let mut checked = 0;
    for (name, page) in &pages {
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            checked += 1;
            let (file, fragment) =
                link.split_once('#').map_or((link.as_str(), None), |(file, part)| (file, Some(part)));
            let target = if file.is_empty() { name.clone() } else { clean(&name.parent().unwrap().join(file)) };
            let is_there = root().join(&target).exists();
            let has_anchor =
                fragment.is_none_or(|part| pages.get(&target).is_some_and(|page| page.anchors.contains(part)));
            if !is_there || !has_anchor {
                broken.push(format!("{}: {link}", name.display()));
            }
        }
    }
    assert!(checked > 200, "{checked} links");
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn an_anchor_is_githubs() {
    assert_eq!(anchor("TLS and authentication"), "tls-and-authentication");
    assert_eq!(anchor("`--capture`, and what it keeps"), "--capture-and-what-it-keeps");
}

/// The files and directories of the project that a page names. `NAME` and `FILE` stand for any.
fn named_paths(page: &str) -> BTreeSet<&str> {
    let path = Regex::new(r"\b(?:alerts|benches|dashboards|deploy|docs|src|tests)/[\w./-]*\w").unwrap();
    path.find_iter(page)
        .map(|path| path.as_str())
        .filter(|path| !path.contains("NAME") && !path.contains("FILE"))
        .collect()
}

#[test]
fn pages_for_contributors_name_what_is_there() {
    let mut gone = Vec::new();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docs/testing.md"] {
        let page = std::fs::read_to_string(root().join(name)).unwrap();
        let directory = root().join(name).parent().unwrap().to_owned();
        let paths = named_paths(&page);
        assert!(paths.len() > 2, "{name}: {paths:?}");
        let is_there = |path: &&str| root().join(path).exists() || directory.join(path).exists();
        gone.extend(paths.into_iter().filter(|path| !is_there(path)).map(|path| format!("{name}: {path}")));
    }
    assert!(gone.is_empty(), "not there:\n{}", gone.join("\n"));
}

#[test]
fn the_architecture_names_each_module() {
    let page = include_str!("../../ARCHITECTURE.md");
    let module = Regex::new(r"(?m)^(?:pub )?mod ([a-z_]+);").unwrap();
    let modules: Vec<&str> =
        module.captures_iter(include_str!("../../src/lib.rs")).map(|name| name.extract::<1>().1[0]).collect();
    assert!(modules.len() > 15, "{modules:?}");
    let paths = named_paths(page);
    let is_named = |name: &str| {
        let directory = format!("src/{name}");
        paths.iter().any(|path| {
            path.strip_prefix(&directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
        })
    };
    let unnamed: Vec<_> = modules.into_iter().filter(|name| !is_named(name)).collect();
    assert!(unnamed.is_empty(), "ARCHITECTURE.md does not name the modules {unnamed:?}");
}

#[test]
fn named_paths_are_found() {
    let page = "See `src/web/mod.rs`, tests/lab (and [a](docs/a.md)), A[\"b<br>src/watch\"], alerts/runbooks/NAME.md.";
    assert_eq!(Vec::from_iter(named_paths(page)), ["docs/a.md", "src/watch", "src/web/mod.rs", "tests/lab"]);
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let mut dependencies = BTreeSet::new();
    let mut is_dependency = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            is_dependency = section.trim_end_matches(']').ends_with("dependencies");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| is_dependency) {
            dependencies.insert(name);
        }
    }
    assert!(dependencies.len() > 40, "{dependencies:?}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    let is_explained = |name: &str| rows.iter().any(|row| row.contains(&format!("`{name}`")));
    let missing: Vec<&str> = dependencies.into_iter().filter(|name| !is_explained(name)).collect();
    assert!(missing.is_empty(), "CONTRIBUTING.md gives no reason for {missing:?}");
}
