//! A drawing of a device's paths: from the host ports on the left, through the target ports, to the
//! device on the right. Each row is a path. A bar on the left is a host port with all its paths, so
//! that a failed fabric shows as a block of broken rows. The drawing is as wide as a phone. The
//! table beside it has the same facts in words.
//!
//! A text browser shows the texts of a drawing one after the other. Text with `class="hidden"`
//! joins them to sentences, and other browsers hide it.

use std::fmt::{self, Write};

use super::escape::{Escaped, Shortened};
use super::words::{group_word, state_word};
use crate::topology::{Device, Path, PathState};

/// Lengths in user units, which are about CSS pixels on a phone.
const WIDTH: u32 = 360;
const HEADINGS: u32 = 20;
const PORT: u32 = 24;
const ROW: u32 = 40;
const HOST_END: u32 = 12;
const TARGET: u32 = 128;
const DEVICE: u32 = 344;
/// The number of characters of each name that fit at its font size.
const HOST_NAME: usize = 44;
const PATH_NAME: usize = 13;
const TARGET_NAME: usize = 28;
const DEVICE_NAME: usize = 20;

/// Draws the device. Writes nothing for a device without paths.
pub(crate) fn draw(page: &mut String, device: &Device) -> fmt::Result {
    let mut paths: Vec<&Path> = device.paths.iter().collect();
    if paths.is_empty() {
        return Ok(());
    }
    paths.sort_by_key(|path| (&path.ports.initiator_port, &path.ports.target_port, &path.name));
    let ports: Vec<&[&Path]> =
        paths.chunk_by(|one, other| one.ports.initiator_port == other.ports.initiator_port).collect();
    let height = HEADINGS + ports.iter().map(|paths| PORT + ROW * rows(paths)).sum::<u32>();
    write!(page, "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"")?;
    describe(page, device)?;
    page.push_str("\">\n");
    writeln!(page, "<text class=\"head\" x=\"4\" y=\"12\">host port</text>{}", hidden(" → "))?;
    writeln!(page, "<text class=\"head\" x=\"{TARGET}\" y=\"12\">target port</text>{}", hidden(" → "))?;
    let name = Shortened(&device.name, DEVICE_NAME);
    write!(page, "<text class=\"port end\" x=\"{}\" y=\"12\">{name}</text>", WIDTH - 4)?;
    let mut top = HEADINGS;
    for paths in ports {
        host_port(page, top, paths)?;
        for (row, path) in (0..).zip(paths) {
            if row > 0 {
                writeln!(page, "{}", hidden("; "))?;
            }
            link(page, top + PORT + ROW * row + ROW / 2, path)?;
        }
        top += PORT + ROW * rows(paths);
    }
    let bar = HEADINGS + PORT;
    writeln!(
        page,
        "<rect class=\"node\" x=\"{DEVICE}\" y=\"{bar}\" width=\"12\" height=\"{}\" rx=\"3\"/>",
        height - bar
    )?;
    page.push_str("</svg>\n");
    Ok(())
}

fn rows(paths: &[&Path]) -> u32 {
    u32::try_from(paths.len()).unwrap_or(u32::MAX)
}

/// Writes a description for readers who do not see the drawing. The table has the rest.
fn describe(page: &mut String, device: &Device) -> fmt::Result {
    write!(page, "Drawing of the paths of {}.", Escaped(&device.name))?;
    for path in device.paths.iter().filter(|path| path.state == PathState::Failed) {
        let (from, to) = (known(&path.ports.initiator_port), known(&path.ports.target_port));
        write!(page, " Failed: {}, from {} to {}.", Escaped(&path.name), Escaped(from), Escaped(to))?;
    }
    page.push_str(" The table lists all paths.");
    Ok(())
}

fn host_port(page: &mut String, top: u32, paths: &[&Path]) -> fmt::Result {
    let broken = paths.iter().all(|path| path.state == PathState::Failed);
    let class = if broken { "node failed" } else { "node" };
    let name = known(paths.first().map_or("", |path| &path.ports.initiator_port));
    let text = Shortened(name, HOST_NAME);
    writeln!(page, "{}<text class=\"port\" x=\"4\" y=\"{}\">{text}</text>{}", hidden(". "), top + 16, hidden(": "))?;
    let (y, height) = (top + PORT, ROW * rows(paths) - 4);
    writeln!(page, "<rect class=\"{class}\" x=\"4\" y=\"{y}\" width=\"8\" height=\"{height}\" rx=\"3\"/>")
}

fn link(page: &mut String, y: u32, path: &Path) -> fmt::Result {
    let class = match path.state {
        PathState::Valid => "valid",
        PathState::Standby => "standby",
        PathState::Failed => "failed",
    };
    let (above, below, end) = (y - 5, y + 14, DEVICE - 6);
    write!(page, "<g class=\"{class}\"><path d=\"M{HOST_END} {y}H{DEVICE}\"/>")?;
    write!(page, "<circle cx=\"{TARGET}\" cy=\"{y}\" r=\"5\"/>")?;
    if path.state == PathState::Failed {
        let x = (HOST_END + TARGET) / 2;
        write!(page, "<path class=\"cross\" d=\"M{} {}l14 14m0-14l-14 14\"/>", x - 7, y - 7)?;
    }
    let name = Shortened(&path.name, PATH_NAME);
    write!(page, "<text class=\"name\" x=\"20\" y=\"{above}\">{name}</text>{}", hidden(" → "))?;
    let target = Shortened(known(&path.ports.target_port), TARGET_NAME);
    write!(page, "<text x=\"{}\" y=\"{above}\">{target}</text>{}", TARGET + 10, hidden(" "))?;
    write!(page, "<text class=\"state end\" x=\"{end}\" y=\"{below}\">{}", state_word(path.state))?;
    if let Some(group) = path.group {
        write!(page, ", {} {group}", group_word(path.transport))?;
    }
    page.push_str("</text></g>");
    Ok(())
}

fn hidden(text: &str) -> impl fmt::Display {
    format!("<text class=\"hidden\">{text}</text>")
}

fn known(port: &str) -> &str {
    if port.is_empty() { "unknown" } else { port }
}
