//! The devices, worst first. Those in trouble are unfolded, with a drawing and a table of their
//! paths. The others take one line each.

use std::fmt::{self, Write};

use super::escape::{Escaped, NameList};
use super::query::Query;
use super::words::{Count, Severity, Size, While, state_word};
use super::{Ranked, broken_port, diagram};
use crate::topology::{Device, DirectUse, History, NvmeController, Path, PathState, fabric_of, luns};

/// The number of devices on one page: suitable for scrolling on a phone, and quick to write.
const DEVICES_PER_PAGE: usize = 50;
/// The number of devices that are unfolded on one page. If a fabric fails, all of them look the
/// same.
const MAX_UNFOLDED: usize = 10;

/// Writes the filter and the devices that match it.
pub(crate) fn write(page: &mut String, ranked: &[Ranked<'_>], query: &Query) -> fmt::Result {
    page.push_str("<section>\n<h2>Devices</h2>\n<form action=\"/\" method=\"get\" role=\"search\">\n");
    writeln!(
        page,
        "<label for=\"q\">Name or WWID</label>\n\
         <input type=\"search\" id=\"q\" name=\"q\" value=\"{}\" autocomplete=\"off\" spellcheck=\"false\">\n\
         <button>Filter</button>",
        Escaped(&query.filter)
    )?;
    page.push_str("</form>\n<div id=\"devices\" data-live>\n");
    let selected: Vec<&Ranked<'_>> = ranked.iter().filter(|ranked| query.selects(ranked.device)).collect();
    if !query.filter.is_empty() {
        let (found, all, filter) = (selected.len(), Count(ranked.len(), "device"), Escaped(&query.filter));
        writeln!(page, "<p>{found} of {all} with “{filter}” in the name or WWID. <a href=\"/\">Show all</a></p>")?;
    }
    let pages = selected.len().div_ceil(DEVICES_PER_PAGE).max(1);
    let number = query.page.min(pages);
    let mut unfolded = 0;
    for one in selected.iter().skip((number - 1) * DEVICES_PER_PAGE).take(DEVICES_PER_PAGE) {
        let open = unfolded < MAX_UNFOLDED && (one.severity() > Severity::Well || selected.len() == 1);
        unfolded += usize::from(open);
        device(page, one, open)?;
    }
    if pages > 1 {
        turn_pages(page, query, number, pages)?;
    }
    page.push_str("</div>\n</section>\n");
    Ok(())
}

fn turn_pages(page: &mut String, query: &Query, number: usize, pages: usize) -> fmt::Result {
    let to = |number| Query { filter: query.filter.clone(), page: number }.to_string().replace('&', "&amp;");
    page.push_str("<nav aria-label=\"Pages of devices\">");
    if number > 1 {
        write!(page, "<a rel=\"prev\" href=\"/{}\">Previous page</a> ", to(number - 1))?;
    }
    write!(page, "<span>Page {number} of {pages}</span>")?;
    if number < pages {
        write!(page, " <a rel=\"next\" href=\"/{}\">Next page</a>", to(number + 1))?;
    }
    page.push_str("</nav>\n");
    Ok(())
}

fn device(page: &mut String, one: &Ranked<'_>, open: bool) -> fmt::Result {
    let Ranked { device, counts, .. } = one;
    let (name, wwid) = (Escaped(&device.name), Escaped(&device.wwid));
    let (class, mark) = (one.severity().class(), one.severity().mark());
    let open = if open { " open data-open" } else { "" };
    write!(page, "<details class=\"{class}\" data-device=\"{wwid}\"{open}><summary><h3>")?;
    write!(page, "<span class=\"badge\">{mark} {}</span> <bdi>{name}</bdi></h3> ", one.word())?;
    write!(page, "<span class=\"count\">{} of {} valid</span> ", counts.valid, Count(counts.paths(), "path"))?;
    writeln!(page, "<span class=\"wwid\">{wwid}</span></summary>")?;
    facts(page, one)?;
    if let Some(port) = broken_port(device.paths.iter()) {
        writeln!(page, "<p>{port}</p>")?;
    }
    if !device.paths.is_empty() {
        page.push_str("<div class=\"paths\">\n<figure>\n");
        diagram::draw(page, device)?;
        page.push_str("</figure>\n");
        table(page, one)?;
        page.push_str("</div>\n");
    }
    page.push_str("</details>\n");
    Ok(())
}

/// Writes further facts about the device, in one line.
fn facts(page: &mut String, one: &Ranked<'_>) -> fmt::Result {
    let device = one.device;
    page.push_str("<p class=\"facts\">");
    let mut first = true;
    let mut fact = |words: &dyn fmt::Display| {
        let between = if std::mem::take(&mut first) { "" } else { "; " };
        write!(page, "{between}{words}")
    };
    let product: Vec<&str> = [&*device.vendor, &*device.product].into_iter().filter(|word| !word.is_empty()).collect();
    if !product.is_empty() {
        fact(&Escaped(&product.join(" ")))?;
    }
    if let Some(size) = device.size_bytes {
        fact(&Size(size))?;
    }
    if !device.sysfs_name.is_empty() && device.sysfs_name != device.name {
        fact(&Escaped(&device.sysfs_name))?;
    }
    if device.root {
        fact(&"holds the root file system")?;
    }
    match device.open_count {
        Some(0) => fact(&"nothing holds it open")?,
        Some(_) => fact(&"in use")?,
        None => {}
    }
    match device.queueing {
        Some(true) => fact(&"I/O waits if no path is valid")?,
        Some(false) => fact(&"I/O fails if no path is valid")?,
        None => {}
    }
    if device.suspended == Some(true) {
        fact(&"suspended")?;
    }
    if device.blocked_paths > 0 {
        fact(&format_args!("{} blocked", Count(device.blocked_paths, "path")))?;
    }
    if let Some(stalled) = device.stalled.filter(|_| device.is_stalled()) {
        fact(&format_args!("no I/O has completed for {}", While(stalled)))?;
    }
    if device.read_only == Some(true) {
        fact(&"read-only")?;
    }
    if let Some(since) = one.history.missing_since {
        let History { expected_paths, missing_paths, .. } = one.history;
        let (there, since) = (one.counts.paths(), super::clock(since));
        fact(&format_args!("{there} of {expected_paths} paths, {missing_paths} missing since {since} UTC"))?;
    }
    if one.history.has_lost_redundancy == Some(true) {
        fact(&"no longer redundant")?;
    }
    let live = device.paths.iter().filter(|path| path.device_state.as_deref() == Some(NvmeController::LIVE)).count();
    if live < one.live_controllers {
        let all = Count(one.live_controllers, "live controller");
        fact(&format_args!("paths through {live} of the subsystem’s {all}"))?;
    }
    let mismatches = device.mismatches;
    for (number, what) in [
        (mismatches.wwid, "to another LUN"),
        (mismatches.size, "with another size"),
        (mismatches.read_only, "with different write protection"),
        (mismatches.lun, "with another LUN number"),
    ] {
        if number > 0 {
            fact(&format_args!("{} {what}", Count(number, "path")))?;
        }
    }
    if device.lun_conflicts > 0 {
        fact(&format_args!("{} with two LUNs", Count(device.lun_conflicts, "port pair")))?;
    }
    for DirectUse { disk, by, .. } in one.direct_users {
        fact(&format_args!("{} is used directly ({})", Escaped(disk), Escaped(by)))?;
    }
    if !device.stray_paths.is_empty() {
        let strays = &device.stray_paths;
        fact(&format_args!("{}: {}", if strays.len() == 1 { "stray path" } else { "stray paths" }, NameList(strays)))?;
    }
    page.push_str("</p>\n");
    Ok(())
}

/// Writes the table of the paths, by path group.
fn table(page: &mut String, one: &Ranked<'_>) -> fmt::Result {
    let device = one.device;
    write!(
        page,
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"Paths of {}\">\n<table>\n\
         <thead><tr><th scope=\"col\">Path</th><th scope=\"col\">State</th><th scope=\"col\">Host port</th>\
         <th scope=\"col\">Target port</th></tr></thead>\n",
        Escaped(&device.name)
    )?;
    // LUN numbers are usually equal, and then say nothing.
    let with_lun = luns::differ(&device.paths);
    for paths in device.paths.chunk_by(|one, other| one.group == other.group) {
        page.push_str("<tbody>\n");
        if let Some(index) = paths.first().and_then(|path| path.group) {
            page.push_str("<tr><th colspan=\"4\" scope=\"rowgroup\">");
            group(page, device, index, paths)?;
            page.push_str("</th></tr>\n");
        }
        paths.iter().try_for_each(|path| row(page, path, fabric_of(path, one.adapters), with_lun))?;
        page.push_str("</tbody>\n");
    }
    page.push_str("</table>\n</div>\n");
    Ok(())
}

fn group(page: &mut String, device: &Device, index: u32, paths: &[Path]) -> fmt::Result {
    let word = paths.first().map_or("group", |path| super::words::group_word(path.transport));
    write!(page, "{} {index}", if word == "group" { "Path group" } else { word })?;
    if let Some(group) = device.groups.iter().find(|group| group.index == index) {
        write!(page, ", {}", Escaped(&group.state))?;
    }
    match paths.iter().find_map(|path| path.priority) {
        Some(priority) => write!(page, ", priority {priority}"),
        None => Ok(()),
    }
}

fn row(page: &mut String, path: &Path, fabric: Option<&str>, with_lun: bool) -> fmt::Result {
    let (class, state) = match path.state {
        PathState::Valid => ("", "✓"),
        PathState::Standby => (" class=\"standby\"", "–"),
        PathState::Failed => (" class=\"failed\"", "✕"),
    };
    write!(page, "<tr{class}><th scope=\"row\">{}</th>", Escaped(&path.name))?;
    write!(page, "<td><span class=\"state\">{state}&nbsp;{}</span>", state_word(path.state))?;
    let mut last = "";
    let words = [
        ("multipathd", &path.checker_state),
        (if path.ana_state.is_some() { "controller" } else { "SCSI" }, &path.device_state),
        ("ALUA", &path.access_state),
        ("ANA", &path.ana_state),
    ];
    let words = words.into_iter().filter_map(|(who, word)| Some((who, word.as_deref()?)));
    for (number, (who, word)) in words.enumerate() {
        let between = if number == 0 { " <span class=\"words\">" } else { ", " };
        write!(page, "{between}{who} {}", Escaped(word))?;
        last = "</span>";
    }
    page.push_str(last);
    if let Some(stalled) = path.stalled.filter(|_| path.is_stalled()) {
        write!(page, " <span class=\"words\">no I/O has completed here for {}</span>", While(stalled))?;
    }
    let (from, to) = (Escaped(&path.ports.initiator_port), Escaped(&path.ports.target_port));
    write!(page, "</td><td>{from}")?;
    if let Some(fabric) = fabric {
        write!(page, " <span class=\"words\">fabric {}</span>", Escaped(fabric))?;
    }
    write!(page, "</td><td>{to}")?;
    if let Some(lun) = path.lun().filter(|_| with_lun) {
        write!(page, " <span class=\"words\">LUN {lun}</span>")?;
    }
    writeln!(page, "</td></tr>")
}
