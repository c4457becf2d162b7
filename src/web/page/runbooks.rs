//! The runbooks at `/runbooks/`: storage networks often have no internet access. The build converts
//! `alerts/runbooks/*.md`, so a file that is added there is served.

use super::escape::Escaped;
use super::words::Severity;
use super::{HEAD_START, STYLE};

/// The runbooks in HTML, sorted by the names of their alerts. The index has an empty name and comes
/// first.
static RUNBOOKS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// The path of the index. A runbook's path is this and its name.
pub(crate) const RUNBOOKS_PATH: &str = "/runbooks/";

/// The path of this alert's runbook.
pub(crate) fn address(alert: &str) -> String {
    format!("{RUNBOOKS_PATH}{alert}")
}

/// The page of this alert's runbook. An empty name gives the index.
pub(crate) fn html(alert: &str, host: &str) -> Option<String> {
    let at = RUNBOOKS.binary_search_by_key(&alert, |(name, _)| name).ok()?;
    let (name, text) = RUNBOOKS[at];
    let (title, host) = (if name.is_empty() { "Runbooks" } else { name }, Escaped(host));
    let severity = if text.contains("<strong>Critical.") {
        Severity::Critical
    } else if text.contains("<strong>Warning.") {
        Severity::Warning
    } else {
        Severity::Note
    };
    let tone = severity.class();
    let all = if name.is_empty() { "" } else { " <a href=\"/runbooks/\">All runbooks</a>" };
    Some(format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n{HEAD_START}<title>{title} – {host}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body class=\"runbook {tone}\">\n\
         <header><p>Multipath storage of <b>{host}</b></p></header>\n\
         <nav><a href=\"/\">Status page</a>{all}</nav>\n<main>\n{text}</main>\n</body>\n</html>\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_a_page_and_links_lead_to_pages() {
        let mut files: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/alerts/runbooks"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|file| file.strip_suffix(".md").unwrap().replace("README", ""))
            .collect();
        files.sort();
        assert_eq!(RUNBOOKS.iter().map(|(name, _)| name).collect::<Vec<_>>(), files.iter().collect::<Vec<_>>());
        for (name, text) in RUNBOOKS {
            let page = html(name, "<db01>").unwrap();
            assert!(page.contains(text) && page.contains("<b>&lt;db01&gt;</b>"), "{name}");
            let links: Vec<&str> = text.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
            for link in links {
                let page = link.split('#').next().unwrap();
                let linked = page.strip_prefix(RUNBOOKS_PATH).is_some_and(|name| html(name, "db01").is_some());
                assert!(linked || link.starts_with('#'), "{name} leads to {link}");
            }
            assert!(name.is_empty() || RUNBOOKS[0].1.contains(&format!("href=\"{}\"", address(name))), "{name}");
        }
    }

    #[test]
    fn the_urgent_comes_first() {
        for (name, text) in &RUNBOOKS[1..] {
            let sections: Vec<&str> =
                text.split("<section id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
            assert_eq!(sections, ["first", "meaning", "impact", "diagnosis", "mitigation"], "{name}");
            let intro = text.strip_prefix(&format!("<h1>{name}</h1>\n<p><strong>")).unwrap_or_else(|| panic!("{name}"));
            let (severity, _) = intro.split_once(".</strong>").unwrap();
            let tone = match severity {
                "Critical" => "critical",
                "Warning" => "warning",
                "Info" => "note",
                other => panic!("{name}: {other}"),
            };
            assert!(html(name, "db01").unwrap().contains(&format!("<body class=\"runbook {tone}\">")), "{name}");
            assert_eq!(text.matches("<section").count(), text.matches("</section>").count(), "{name}");
        }
    }

    #[test]
    fn there_are_no_others() {
        for name in ["README", "multipathfaultypaths", "MultipathFaultyPaths.md", "MultipathFaultyPaths/", "..", "/"] {
            assert_eq!(html(name, "db01"), None, "{name}");
        }
    }
}
