//! The reply to `show maps json`.
//!
//! The reply looks like JSON, but no version of multipathd up to 0.14.3 escapes strings
//! (`snprint_json` and the functions behind it in `libmultipath/print.c`). An alias with a quote
//! makes the document invalid. An alias with a backslash, or with `", "uuid" : "`, leaves it valid
//! and changes its meaning. This module therefore reads the reply as the output of a fixed printer:
//! one `"key" : value` on each line, at a known depth.
//!
//! ```text
//! {
//!    "major_version": 0,
//!    "maps": [{
//!       "name" : "mpatha",
//!       "path_groups": [{
//!          "pri" : 50,
//!          "group" : 1,
//!          "paths": [{
//!             "dev" : "sda"
//!          },{
//!             "dev" : "sdb"
//!          }]
//!       }]
//!    }]
//! }
//! ```
//!
//! A string of a map ends where the next line is a key of the map. Nothing in it is unescaped. The
//! layout is the same from 0.7.4 to 0.14.3. Only the keys `marginal_st` (0.8.3) and `lun_hex`
//! (0.8.9) were added. Reading by lines also yields the maps before the place where a reply was
//! cut.
//!
//! A reply in any other layout (from a later daemon, or reformatted) is read as JSON. If a later
//! daemon keeps the layout but escapes strings, aliases with a quote or a backslash will show the
//! escapes. Such a daemon would probably have a higher `minor_version`.
//!
//! Both readers feed the same [`Draft`], which alone knows the meaning of the keys.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::excerpt;
use crate::topology::{DaemonCounters, DevNo};

/// The maps that multipathd reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DaemonMaps {
    /// The maps that could be read, in multipathd's order.
    pub(crate) maps: Vec<Arc<DaemonMap>>,
    /// The parts that could not be read: whole maps, single paths, the end of the reply.
    pub(crate) unreadable: Vec<ObjectError>,
}

/// A part of the reply that could not be read and is left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {reason}")]
pub(crate) struct ObjectError {
    /// The name of the part.
    pub(crate) object: String,
    /// The reason, with the beginning of the malformed text.
    pub(crate) reason: String,
}

/// The reply is not a list of maps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reply is not a list of maps ({reason}): \"{excerpt}\"")]
pub(crate) struct NotMaps {
    reason: String,
    excerpt: String,
}

/// A multipath map, as multipathd reports it. Unknown text is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DaemonMap {
    /// The WWID, which multipathd prints as `uuid`. Never empty.
    pub(crate) wwid: Arc<str>,
    /// The alias, which multipathd prints as `name`.
    pub(crate) name: Arc<str>,
    /// The kernel name (`dm-3`), which multipathd prints as `sysfs`.
    pub(crate) sysfs_name: Arc<str>,
    pub(crate) vendor: Arc<str>,
    pub(crate) product: Arc<str>,
    pub(crate) revision: Arc<str>,
    /// True if the kernel queues I/O while no path is valid.
    ///
    /// The value comes from `features`, which multipathd takes from the kernel's table for every
    /// reply (`disassemble_map`). The field `queueing` is not used, because it is what multipathd
    /// intends. It says `-` if nothing is configured. It still says `on` after another program has
    /// made the kernel fail I/O. All recorded replies agree with the kernel's table beside them.
    pub(crate) queueing: Option<bool>,
    pub(crate) suspended: Option<bool>,
    pub(crate) read_only: Option<bool>,
    /// The counters; 0 if the reply has none.
    pub(crate) counters: DaemonCounters,
    /// The path groups in the kernel's order.
    pub(crate) groups: Vec<DaemonGroup>,
    /// The paths of all groups, in the kernel's order.
    pub(crate) paths: Vec<DaemonPath>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DaemonGroup {
    /// The position in the kernel's status, from 1.
    pub(crate) index: u32,
    /// `active`, `enabled`, `disabled`, `undef`, or a word of another version.
    pub(crate) state: Arc<str>,
    pub(crate) priority: Option<i64>,
}

/// A path of a map.
///
/// A path whose device is gone may have neither name nor number. It is still a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DaemonPath {
    /// The kernel name, `sdb`.
    pub(crate) name: Arc<str>,
    pub(crate) devno: Option<DevNo>,
    /// The index of the path's group.
    pub(crate) group: u32,
    /// True if the kernel sends I/O to the path. multipathd reads this from the kernel for every
    /// reply.
    pub(crate) valid: Option<bool>,
    /// multipathd's word for the device: `running`, `offline`, `unknown`. It differs from the
    /// kernel's SCSI state: only some of the kernel's states become `offline` here.
    pub(crate) device_state: Option<Arc<str>>,
    /// The checker's state.
    pub(crate) checker_state: Option<Arc<str>>,
    /// The priority; -1 if multipathd could not determine it.
    pub(crate) priority: Option<i64>,
    /// True if multipathd holds the path marginal. `None` before 0.8.3.
    pub(crate) marginal: Option<bool>,
}

/// Reads the reply to `show maps json`.
///
/// A map or path that cannot be read is left out, and listed in the result.
///
/// # Errors
/// If the reply is not a list of maps.
pub(crate) fn parse_maps(reply: &[u8]) -> Result<DaemonMaps, NotMaps> {
    let layout = read_layout(reply);
    if layout.understood {
        return Ok(layout.maps);
    }
    match read_json(&String::from_utf8_lossy(reply)) {
        Ok(maps) => Ok(maps),
        Err(_) if layout.has_maps => Ok(layout.maps),
        Err(reason) => Err(NotMaps { reason, excerpt: excerpt(reply) }),
    }
}

/// The levels of objects in the reply, outer before inner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Document,
    Map,
    Group,
    Path,
}

impl Level {
    /// Returns the level around this one.
    fn outer(self) -> Level {
        match self {
            Level::Document | Level::Map => Level::Document,
            Level::Group => Level::Map,
            Level::Path => Level::Group,
        }
    }

    /// Returns the level inside this one, and the key of the array that holds its objects.
    fn inner(self) -> Option<(Level, &'static str)> {
        match self {
            Level::Document => Some((Level::Map, "maps")),
            Level::Map => Some((Level::Group, "path_groups")),
            Level::Group => Some((Level::Path, "paths")),
            Level::Path => None,
        }
    }
}

/// The part of the reply that has been read, and the objects that are being read.
#[derive(Default)]
struct Draft {
    maps: DaemonMaps,
    map: DaemonMap,
    group: DaemonGroup,
    path: DaemonPath,
    /// True if `path` had a key that identifies it.
    path_named: bool,
    /// True if `map` had a list of groups. The list may be empty: the map has then lost all its
    /// paths.
    map_has_groups: bool,
    /// True if `group` had a list of paths.
    group_has_paths: bool,
    /// The number of paths in the groups before this one.
    paths_before: usize,
    map_problem: Option<String>,
    path_problem: Option<String>,
    words: HashSet<Arc<str>>,
}

impl Draft {
    fn open(&mut self, level: Level) {
        match level {
            Level::Document => {}
            Level::Map => {
                self.map = DaemonMap::default();
                self.map_has_groups = false;
            }
            Level::Group => {
                // The index of a group that has no number. multipathd prints the groups in order.
                self.group = DaemonGroup { index: self.map.groups.len() as u32 + 1, ..DaemonGroup::default() };
                self.paths_before = self.map.paths.len();
                self.group_has_paths = false;
            }
            Level::Path => {
                self.path = DaemonPath::default();
                self.path_named = false;
            }
        }
    }

    /// Begins a list of objects of this level.
    fn list(&mut self, level: Level) {
        match level {
            Level::Document | Level::Map => {}
            Level::Group => self.map_has_groups = true,
            Level::Path => self.group_has_paths = true,
        }
    }

    fn field(&mut self, level: Level, key: &str, value: &[u8]) {
        let counter = |old: u64| number(value).unwrap_or(old);
        let counters = &mut self.map.counters;
        match (level, key) {
            // Keep these two unchanged: a trimmed or emptied name could be another map's.
            (Level::Map, "name") => self.map.name = String::from_utf8_lossy(value).into(),
            (Level::Map, "uuid") => self.map.wwid = String::from_utf8_lossy(value).into(),
            (Level::Map, "sysfs") if value != b"undef" => self.map.sysfs_name = text(value).into(),
            (Level::Map, "vend") => self.map.vendor = self.word(value),
            (Level::Map, "prod") => self.map.product = self.word(value),
            (Level::Map, "rev") => self.map.revision = self.word(value),
            (Level::Map, "features") => self.map.queueing = queueing(value),
            (Level::Map, "dm_st") => self.map.suspended = one_of(value, "suspend", "active"),
            (Level::Map, "write_prot") => self.map.read_only = one_of(value, "ro", "rw"),
            (Level::Map, "path_faults") => counters.path_faults = counter(counters.path_faults),
            (Level::Map, "switch_grp") => counters.group_switches = counter(counters.group_switches),
            (Level::Map, "map_loads") => counters.table_loads = counter(counters.table_loads),
            (Level::Map, "total_q_time") => counters.queueing_seconds = counter(counters.queueing_seconds),
            (Level::Map, "q_timeouts") => counters.queueing_timeouts = counter(counters.queueing_timeouts),
            (Level::Group, "group") => self.group.index = number(value).unwrap_or(self.group.index),
            (Level::Group, "dm_st") => self.group.state = self.word(value),
            (Level::Group, "pri") => self.group.priority = number(value),
            (Level::Path, "dev") => {
                self.path_named = true;
                self.path.name = match text(value) {
                    name if name == "-" => Arc::default(),
                    name => name.into(),
                };
            }
            (Level::Path, "dev_t") => {
                self.path_named = true;
                self.path.devno = number(value);
            }
            (Level::Path, "dm_st") => self.path.valid = one_of(value, "active", "failed"),
            (Level::Path, "dev_st") => self.path.device_state = self.known_word(value),
            (Level::Path, "chk_st") => self.path.checker_state = self.known_word(value),
            (Level::Path, "pri") => self.path.priority = number(value),
            (Level::Path, "marginal_st") => self.path.marginal = one_of(value, "marginal", "normal"),
            _ => {}
        }
    }

    /// Notes that the object cannot be read. The first reason counts.
    ///
    /// A faulty group makes the whole map unreadable, because the map would show too few paths
    /// without it.
    fn spoil(&mut self, level: Level, reason: impl FnOnce() -> String) {
        match level {
            Level::Document if self.maps.unreadable.iter().any(|error| error.object == "reply") => {}
            Level::Document => {
                self.maps.unreadable.push(ObjectError { object: "reply".to_owned(), reason: reason() });
            }
            Level::Map | Level::Group => {
                self.map_problem.get_or_insert_with(reason);
            }
            Level::Path => {
                self.path_problem.get_or_insert_with(reason);
            }
        }
    }

    fn close(&mut self, level: Level) {
        match level {
            Level::Document => {}
            Level::Path => {
                let path = std::mem::take(&mut self.path);
                let unnamed = || (!self.path_named).then(|| "it has neither dev nor dev_t".to_owned());
                match self.path_problem.take().or_else(unnamed) {
                    None => self.map.paths.push(path),
                    Some(reason) => {
                        let object = format!("path {:?} of map {:?}", path.name, self.map.name);
                        self.maps.unreadable.push(ObjectError { object, reason });
                    }
                }
            }
            Level::Group => {
                if !self.group_has_paths {
                    self.spoil(level, || "one of its groups has no list of paths".to_owned());
                }
                for path in self.map.paths.iter_mut().skip(self.paths_before) {
                    path.group = self.group.index;
                }
                self.map.groups.push(std::mem::take(&mut self.group));
            }
            Level::Map => {
                let map = std::mem::take(&mut self.map);
                let unnamed = || map.wwid.is_empty().then(|| "it has no uuid".to_owned());
                let no_list = || (!self.map_has_groups).then(|| "it has no list of path groups".to_owned());
                match self.map_problem.take().or_else(unnamed).or_else(no_list) {
                    None => self.maps.maps.push(Arc::new(map)),
                    Some(reason) => {
                        let object = format!("map {:?} ({:?})", map.name, map.wwid);
                        self.maps.unreadable.push(ObjectError { object, reason });
                    }
                }
            }
        }
    }

    /// Returns a text that many maps and paths share, so that it is stored once.
    fn word(&mut self, value: &[u8]) -> Arc<str> {
        let text = text(value);
        if let Some(word) = self.words.get(&*text) {
            return word.clone();
        }
        let word: Arc<str> = text.into();
        self.words.insert(word.clone());
        word
    }

    fn known_word(&mut self, value: &[u8]) -> Option<Arc<str>> {
        Some(self.word(value)).filter(|word| !word.is_empty())
    }
}

/// Trims a text. Returns an empty text for the placeholders that multipathd prints for unknown
/// text.
fn text(value: &[u8]) -> Cow<'_, str> {
    match value.trim_ascii() {
        b"[undef]" | b"##" => Cow::Borrowed(""),
        text => String::from_utf8_lossy(text),
    }
}

fn number<T: FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// Returns true for one word and false for the other.
fn one_of(value: &[u8], yes: &str, no: &str) -> Option<bool> {
    match value.trim_ascii() {
        word if word == yes.as_bytes() => Some(true),
        word if word == no.as_bytes() => Some(false),
        _ => None,
    }
}

/// Returns true if the features contain `queue_if_no_path`. `None` for empty text only, because the
/// kernel prints at least the number 0.
fn queueing(features: &[u8]) -> Option<bool> {
    let mut words = features.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
    words.peek()?;
    Some(words.any(|word| word == b"queue_if_no_path"))
}

/// The result of reading a reply by its layout.
struct ByLayout {
    maps: DaemonMaps,
    /// True if the printer could have printed every line, up to the end.
    understood: bool,
    /// True if a list of maps began.
    has_maps: bool,
}

/// Reads a reply line by line.
///
/// Each kind of object begins and ends at its own depth, three spaces for each level. After a line
/// that the reader does not understand, this depth shows where it is.
fn read_layout(reply: &[u8]) -> ByLayout {
    let mut reader =
        LayoutReader { lines: Lines::new(reply), draft: Draft::default(), level: Level::Document, has_maps: false };
    let mut understood = true;
    let mut complete = false;
    while let Some(line) = reader.lines.next() {
        let as_printed = match line {
            _ if complete => false,
            b"{" => reader.level == Level::Document && !reader.has_maps,
            b"}" if reader.has_maps => {
                let nothing_open = reader.end_inner(Level::Document, line);
                complete = true;
                nothing_open
            }
            _ => reader.line(line),
        };
        if as_printed {
            continue;
        }
        understood = false;
        // If the last line has no newline, the cut of the reply explains it.
        if complete || reader.lines.has_newline() {
            reader.draft.spoil(reader.level, || format!("unexpected line {}", quoted(line)));
        }
    }
    if !complete {
        understood = false;
        match reader.level {
            Level::Document => {
                reader.draft.spoil(Level::Document, || format!("it is cut short after {} bytes", reply.len()));
            }
            _ => {
                reader.draft.spoil(Level::Map, || format!("the reply is cut short after {} bytes", reply.len()));
                reader.draft.close(Level::Map);
            }
        }
    }
    ByLayout { maps: reader.draft.maps, understood, has_maps: reader.has_maps }
}

struct LayoutReader<'a> {
    lines: Lines<'a>,
    draft: Draft,
    /// The level of the innermost open object.
    level: Level,
    has_maps: bool,
}

impl LayoutReader<'_> {
    /// Reads one line, and further lines that belong to its string. Returns false if the printer
    /// does not print such a line.
    fn line(&mut self, line: &[u8]) -> bool {
        let (depth, body) = depth(line);
        let Some(depth) = depth else { return false };
        if let Some(after) = body.strip_prefix(b"}") {
            return self.brace(depth, after, line);
        }
        let Some((key, value)) = key_and_value(body) else { return false };
        if depth != self.level as usize + 1 {
            return false;
        }
        match value {
            b"[{" | b"[]" => match self.level.inner() {
                Some((inner, array)) if key == array => {
                    self.has_maps |= self.level == Level::Document;
                    self.draft.list(inner);
                    if value == b"[{" {
                        self.draft.open(inner);
                        self.level = inner;
                    }
                    true
                }
                _ => false,
            },
            [b'[' | b'{', ..] => false,
            [b'"', string @ ..] => {
                let string = match self.level {
                    Level::Map => self.lines.string_of_map(string.len()),
                    // These are kernel names, numbers and multipathd's own words, which have no
                    // newline.
                    _ => string.strip_suffix(b",").unwrap_or(string).strip_suffix(b"\""),
                };
                string.map(|string| self.draft.field(self.level, key, string)).is_some()
            }
            _ => {
                self.draft.field(self.level, key, value.strip_suffix(b",").unwrap_or(value));
                true
            }
        }
    }

    /// Ends the object at this depth.
    fn brace(&mut self, depth: usize, after: &[u8], line: &[u8]) -> bool {
        let Some(ends) = [Level::Map, Level::Group, Level::Path].into_iter().find(|level| *level as usize == depth)
        else {
            return false;
        };
        if ends > self.level {
            return false;
        }
        let nothing_open = self.end_inner(ends, line);
        match after {
            b",{" => {
                self.draft.close(ends);
                self.draft.open(ends);
            }
            // If the reply is cut, anything may be missing behind the brace.
            _ => self.end(),
        }
        nothing_open && matches!(after, b",{" | b"]")
    }

    /// Ends the open objects inside the object that ends. Returns true if there were none.
    fn end_inner(&mut self, ends: Level, line: &[u8]) -> bool {
        let nothing_open = self.level == ends;
        while self.level > ends {
            self.draft.spoil(Level::Map, || format!("it ends early, at {}", quoted(line)));
            self.end();
        }
        nothing_open
    }

    fn end(&mut self) {
        self.draft.close(self.level);
        self.level = self.level.outer();
    }
}

/// Returns the number of levels by which the line is indented, and the rest of the line. The number
/// is `None` if the indentation is not a whole number of levels.
fn depth(line: &[u8]) -> (Option<usize>, &[u8]) {
    let spaces = line.iter().take_while(|&&byte| byte == b' ').count();
    (spaces.is_multiple_of(3).then_some(spaces / 3), &line[spaces..])
}

/// Splits `"key" : value`. The keys of the outermost object and of arrays have no space before the
/// colon.
fn key_and_value(body: &[u8]) -> Option<(&str, &[u8])> {
    let rest = body.strip_prefix(b"\"")?;
    let length = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
    let (key, rest) = rest.split_at(length);
    let value = rest.strip_prefix(b"\" : ").or_else(|| rest.strip_prefix(b"\": "))?;
    Some((std::str::from_utf8(key).ok()?, value)).filter(|(key, _)| !key.is_empty())
}

struct Lines<'a> {
    text: &'a [u8],
    /// The position where the last line ends: at its newline, or at the end of the text.
    end: usize,
    /// The position where the next line begins. After the last line, it is beyond the end of the
    /// text.
    next: usize,
}

/// The length of a string after which no further line is searched for its end. An alias has at most
/// 127 bytes, as has every other name in the reply. Without a limit, the search for each unfinished
/// string would run to the end of the reply.
const MAX_STRING_BYTES: usize = 1024;

impl<'a> Lines<'a> {
    fn new(text: &'a [u8]) -> Self {
        Lines { text, end: 0, next: 0 }
    }

    fn next(&mut self) -> Option<&'a [u8]> {
        // If bytes follow the last newline, they are a line.
        let line = self.text.get(self.next..).filter(|rest| !rest.is_empty()).map(first_line)?;
        self.end = self.next + line.len();
        self.next = self.end + 1;
        Some(line)
    }

    /// Returns true if the last line ends with a newline.
    fn has_newline(&self) -> bool {
        self.end < self.text.len()
    }

    /// Returns a string of a map without its quotes. The last `length` bytes of the last line are
    /// its beginning.
    ///
    /// The string ends where the next line is a key of the map, because a key follows every string
    /// of a map. It may contain anything except such a line.
    fn string_of_map(&mut self, length: usize) -> Option<&'a [u8]> {
        let start = self.end - length;
        let mut end = self.end;
        loop {
            let text = &self.text[start..end];
            let following = self.text.get(end + 1..).filter(|following| !following.is_empty());
            if let Some(string) = text.strip_suffix(b"\",")
                && following.is_none_or(|following| is_key_of_map(first_line(following)))
            {
                (self.end, self.next) = (end, end + 1);
                return Some(string);
            }
            if text.len() > MAX_STRING_BYTES {
                return None;
            }
            end += 1 + first_line(following?).len();
        }
    }
}

/// Returns the text before the first newline.
fn first_line(text: &[u8]) -> &[u8] {
    &text[..text.iter().position(|&byte| byte == b'\n').unwrap_or(text.len())]
}

fn is_key_of_map(line: &[u8]) -> bool {
    let (depth, body) = depth(line);
    depth == Some(Level::Map as usize + 1) && key_and_value(body).is_some()
}

fn quoted(line: &[u8]) -> String {
    format!("\"{}\"", excerpt(line))
}

/// The keys of a JSON object with unparsed values. A malformed value then leaves the others
/// readable.
type JsonObject<'a> = BTreeMap<String, &'a RawValue>;

/// Reads any JSON with the structure of the reply.
fn read_json(reply: &str) -> Result<DaemonMaps, String> {
    let document: JsonObject = serde_json::from_str(reply).map_err(|error| error.to_string())?;
    let maps = document.get("maps").ok_or("it has no \"maps\"")?;
    let maps: Vec<&RawValue> = serde_json::from_str(maps.get()).map_err(|error| format!("maps: {error}"))?;
    let mut draft = Draft::default();
    for map in maps {
        read_object(&mut draft, Level::Map, map);
    }
    Ok(draft.maps)
}

fn read_object(draft: &mut Draft, level: Level, object: &RawValue) {
    draft.open(level);
    match serde_json::from_str::<JsonObject>(object.get()) {
        Ok(fields) => {
            let inner = level.inner().and_then(|(inner, array)| Some((inner, array, fields.get(array)?)));
            for (key, value) in &fields {
                if let Some(value) = scalar(value) {
                    draft.field(level, key, value.as_bytes());
                }
            }
            if let Some((inner, array, objects)) = inner {
                draft.list(inner);
                match serde_json::from_str::<Vec<&RawValue>>(objects.get()) {
                    Ok(objects) => objects.into_iter().for_each(|object| read_object(draft, inner, object)),
                    Err(_) => draft.spoil(level, || {
                        format!("its {array} are {}, expected a list", quoted(objects.get().as_bytes()))
                    }),
                }
            }
        }
        Err(_) => draft.spoil(level, || format!("it is {}, expected an object", quoted(object.get().as_bytes()))),
    }
    draft.close(level);
}

/// Returns the text of a string, number or word. `None` for anything else, and for a string that is
/// not valid Unicode.
fn scalar(value: &RawValue) -> Option<Cow<'_, str>> {
    match value.get() {
        string if string.starts_with('"') => serde_json::from_str(string).ok().map(Cow::Owned),
        other if other.starts_with(['[', '{']) => None,
        "null" => Some(Cow::Borrowed("")),
        other => Some(Cow::Borrowed(other)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::fs;
    use std::path::{Path as FilePath, PathBuf};

    use proptest::prelude::*;

    use super::*;

    /// Returns the paths of the recorded replies (`tests/fixtures/README.md`).
    fn fixtures() -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/multipathd")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "json") {
                    files.push(path);
                }
            }
        }
        files.sort();
        assert!(!files.is_empty());
        files
    }

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/multipathd").join(name)).unwrap()
    }

    /// Returns the lines of `dmsetup table` or `dmsetup status`, by name.
    fn dmsetup(path: &FilePath) -> Option<BTreeMap<String, String>> {
        let line = |line: &str| line.split_once(": ").map(|(name, rest)| (name.to_owned(), rest.to_owned()));
        Some(fs::read_to_string(path).ok()?.lines().filter_map(line).collect())
    }

    #[test]
    fn every_recorded_reply_agrees_with_the_kernel() {
        for file in fixtures() {
            let reply = fs::read(&file).unwrap();
            let maps = parse_maps(&reply).unwrap();
            assert_eq!(maps.unreadable, [], "{file:?}");

            if let Some(table) = dmsetup(&file.with_extension("table.txt")) {
                assert_eq!(table.len(), maps.maps.len(), "{file:?}");
                for map in &maps.maps {
                    assert_eq!(map.queueing, Some(table[&*map.name].contains(" queue_if_no_path ")), "{file:?}");
                }
            }
            if let Some(status) = dmsetup(&file.with_extension("status.txt")) {
                assert_eq!(status.len(), maps.maps.len(), "{file:?}");
                for map in &maps.maps {
                    let words: Vec<_> = status[&*map.name].split(' ').collect();
                    let kernel: Vec<_> = words
                        .windows(2)
                        .filter_map(|pair| Some((pair[0].parse::<DevNo>().ok()?, Some(pair[1] == "A"))))
                        .collect();
                    let ours: Vec<_> = map.paths.iter().map(|path| (path.devno.unwrap(), path.valid)).collect();
                    assert_eq!(ours, kernel, "{file:?}");
                }
            }
        }
    }

    /// The readers check each other: both must read every recorded reply in the same way.
    #[test]
    fn recorded_replies_read_the_same_by_layout_and_as_json() {
        for file in fixtures() {
            let reply = fs::read_to_string(&file).unwrap();
            let layout = read_layout(reply.as_bytes());
            assert!(layout.understood, "{file:?}");
            assert_eq!(Ok(layout.maps), read_json(&reply), "{file:?}");
        }
    }

    #[test]
    fn a_recorded_map_has_all_its_values() {
        let maps = parse_maps(&fixture("0.9.4-tcm_loop-states/11-timeout.json")).unwrap().maps;
        let path = |name: &str, minor, group, valid, checker_state: &str, priority| DaemonPath {
            name: name.into(),
            devno: Some(DevNo { major: 8, minor }),
            group,
            valid: Some(valid),
            device_state: Some("running".into()),
            checker_state: Some(checker_state.into()),
            priority: Some(priority),
            marginal: Some(false),
        };
        let group = |index, state: &str, priority| DaemonGroup { index, state: state.into(), priority: Some(priority) };
        let lio = DaemonMap {
            wwid: "3600140512345678aaaabbbbcccc12345".into(),
            name: "3600140512345678aaaabbbbcccc12345".into(),
            sysfs_name: "dm-0".into(),
            vendor: "LIO-ORG".into(),
            product: "RAMDISK-MCP".into(),
            revision: "4.0".into(),
            queueing: Some(true),
            suspended: Some(false),
            read_only: Some(false),
            counters: DaemonCounters { table_loads: 1, ..DaemonCounters::default() },
            groups: vec![group(1, "active", 50)],
            paths: vec![
                path("sda", 0, 1, true, "ready", 50),
                path("sdb", 16, 1, true, "ready", 50),
                path("sdc", 32, 1, true, "ready", 50),
            ],
        };
        let debug = DaemonMap {
            wwid: "1Linux_scsi_debug_2000".into(),
            name: "1Linux_scsi_debug_2000".into(),
            sysfs_name: "dm-1".into(),
            vendor: "Linux".into(),
            product: "scsi_debug".into(),
            revision: "0191".into(),
            queueing: Some(false),
            counters: DaemonCounters { path_faults: 8, table_loads: 1, ..DaemonCounters::default() },
            groups: vec![group(1, "active", 0), group(2, "enabled", 0)],
            paths: vec![path("sdd", 48, 1, false, "faulty", 50), path("sde", 64, 2, false, "faulty", 10)],
            ..lio.clone()
        };
        assert_eq!(maps, [Arc::new(debug), Arc::new(lio)]);
    }

    /// Returns three maps as multipathd prints them. Their names and WWIDs are `a`, `b` and `c`,
    /// and each has two paths.
    fn three_maps() -> String {
        let maps = ["a", "b", "c"].map(|name| {
            let path = |dev: &str, minor, group| DaemonPath {
                name: format!("{name}{dev}").into(),
                devno: Some(DevNo { major: 8, minor }),
                group,
                ..DaemonPath::default()
            };
            let group = |index| DaemonGroup { index, state: "active".into(), priority: None };
            DaemonMap {
                wwid: name.into(),
                name: name.into(),
                groups: vec![group(1), group(2)],
                paths: vec![path("0", 0, 1), path("1", 16, 2)],
                ..DaemonMap::default()
            }
        });
        print(&maps, true)
    }

    fn wwids(maps: &DaemonMaps) -> Vec<&str> {
        maps.maps.iter().map(|map| &*map.wwid).collect()
    }

    fn read(reply: impl AsRef<[u8]>) -> DaemonMaps {
        parse_maps(reply.as_ref()).unwrap()
    }

    fn reasons(maps: &DaemonMaps) -> Vec<String> {
        maps.unreadable.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn no_maps_are_no_error() {
        let printed = print(&[], true);
        assert_eq!(printed, "{\n   \"major_version\": 0,\n   \"minor_version\": 1,\n   \"maps\": []\n}\n");
        assert_eq!(read(&printed), DaemonMaps::default());
        assert_eq!(read(r#"{"maps":[]}"#), DaemonMaps::default());
    }

    #[test]
    fn a_reply_without_a_list_of_maps_is_an_error_that_quotes_it() {
        let long = "multipathd: a text that is longer than what anybody wants to read in a log line\n";
        let shown = "multipathd: a text that is longer than what anybody wants to…";
        for (reply, reason, shown) in [
            ("", "EOF while parsing a value at line 1 column 0", ""),
            ("{}", "it has no \"maps\"", "{}"),
            (r#"{"map": {}}"#, "it has no \"maps\"", r#"{\"map\": {}}"#),
            (
                r#"{"maps":"x"}"#,
                r#"maps: invalid type: string "x", expected a sequence at line 1 column 3"#,
                r#"{\"maps\":\"x\"}"#,
            ),
            ("{\n   \"x\": 0,\n}\n", "trailing comma at line 3 column 1", r#"{\n   \"x\": 0,\n}\n"#),
            (long, "expected value at line 1 column 1", shown),
        ] {
            let error = parse_maps(reply.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("the reply is not a list of maps ({reason}): \"{shown}\""));
        }
    }

    #[test]
    fn a_reply_cut_anywhere_gives_the_maps_before_the_cut() {
        let reply = three_maps();
        let ends: Vec<_> = reply.match_indices("\n   }").map(|(at, brace)| at + brace.len()).collect();
        assert_eq!(ends.len(), 3);
        // A reply without the final newline is complete.
        for cut in 0..reply.len() - 1 {
            let complete = ends.iter().filter(|end| **end <= cut).count();
            match parse_maps(&reply.as_bytes()[..cut]) {
                Ok(maps) => {
                    assert_eq!(wwids(&maps), ["a", "b", "c"][..complete], "cut at {cut}");
                    assert_eq!(maps.unreadable.len(), 1, "cut at {cut}");
                }
                Err(_) => assert_eq!(complete, 0, "cut at {cut}"),
            }
        }
        assert_eq!(read(&reply[..reply.len() - 1]), read(&reply));
        let error = &reasons(&read(&reply[..ends[0] + 40]))[0];
        assert!(error.starts_with(r#"map "b" (""): the reply is cut short after "#), "{error}");
        let error = &reasons(&read(&reply[..ends[2]]))[0];
        assert!(error.starts_with("reply: it is cut short after "), "{error}");
    }

    #[test]
    fn a_recorded_reply_may_be_cut_anywhere() {
        let reply = fixture("0.9.4-tcm_loop-states/12-slow-pending.json");
        let all = read(&reply).maps;
        assert_eq!(all.len(), 2);
        for cut in 0..reply.len() {
            if let Ok(maps) = parse_maps(&reply[..cut]) {
                assert_eq!(maps.maps[..], all[..maps.maps.len()], "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_alias_may_hold_anything() {
        for alias in [
            r#"quo"te"#,
            r#"""#,
            r#"",""#,
            r#"a", "uuid" : "b"#,
            r"back\slash",
            r"new\nline",
            r"\u0041",
            r"ends with \",
            "new\nline",
            "\n",
            "a\",\nb",
            "a\"\n   }]\n}",
            "a\",\n   },{",
            "a\",\n         \"uuid\" : \"b",
            "},{",
            "}]}",
            " spaces  around ",
            "größe-é-日本-🦀",
            "[undef]",
            "##",
            "",
        ] {
            let mut reply = three_maps();
            reply = reply.replacen("\"name\" : \"b\"", &format!("\"name\" : \"{alias}\""), 1);
            let maps = read(&reply);
            assert_eq!(maps.unreadable, [], "{alias:?}");
            assert_eq!(wwids(&maps), ["a", "b", "c"], "{alias:?}");
            assert_eq!(&*maps.maps[1].name, alias);
            assert_eq!(maps.maps[1].paths.len(), 2, "{alias:?}");
        }
    }

    #[test]
    fn text_that_is_no_utf_8_is_replaced() {
        let reply = three_maps().replacen("\"name\" : \"b\"", "\"name\" : \"@\"", 1).into_bytes();
        let reply: Vec<u8> = reply.into_iter().map(|byte| if byte == b'@' { 0xff } else { byte }).collect();
        let maps = read(&reply);
        assert_eq!(maps.unreadable, []);
        assert_eq!(&*maps.maps[1].name, "\u{fffd}");
    }

    #[test]
    fn unknown_words_are_passed_through_and_unknown_fields_ignored() {
        let reply = r###"{
   "major_version": 7,
   "flavour": "x",
   "maps": [{
      "uuid" : "w",
      "colour" : "red",
      "dm_st" : "dozing",
      "write_prot" : "undef",
      "sysfs" : "undef",
      "features" : "",
      "vend" : "##",
      "prod" : "DISK   ",
      "path_groups": [{
         "pri" : -1,
         "dm_st" : "resting",
         "group" : 4,
         "paths": [{
            "dev" : "-",
            "dev_t" : "#:#",
            "pri" : -1,
            "dm_st" : "ghostly",
            "dev_st" : "[undef]",
            "chk_st" : "puzzled"
         }]
      }]
   }]
}
"###;
        assert!(read_layout(reply.as_bytes()).understood);
        let path =
            DaemonPath { group: 4, priority: Some(-1), checker_state: Some("puzzled".into()), ..DaemonPath::default() };
        let map = DaemonMap {
            wwid: "w".into(),
            product: "DISK".into(),
            groups: vec![DaemonGroup { index: 4, state: "resting".into(), priority: Some(-1) }],
            paths: vec![path],
            ..DaemonMap::default()
        };
        assert_eq!(read(reply), DaemonMaps { maps: vec![Arc::new(map)], unreadable: vec![] });
    }

    #[test]
    fn states_of_a_map() {
        let reply = |dm_st, write_prot, features| {
            let fields = format!(r#""dm_st":"{dm_st}","write_prot":"{write_prot}","features":"{features}""#);
            let map = read(format!(r#"{{"maps":[{{"uuid":"w",{fields},"path_groups":[]}}]}}"#)).maps.remove(0);
            (map.suspended, map.read_only, map.queueing)
        };
        assert_eq!(reply("suspend", "ro", "2 x queue_if_no_path"), (Some(true), Some(true), Some(true)));
        assert_eq!(reply("active", "rw", "0"), (Some(false), Some(false), Some(false)));
        assert_eq!(reply("active", "rw", "1 retain_attached_hw_handler"), (Some(false), Some(false), Some(false)));
        assert_eq!(reply("undef", "undef", ""), (None, None, None));
    }

    #[test]
    fn json_in_another_layout_is_read_as_json() {
        let reply = concat!(
            r#"{"maps":[{"path_groups":[{"paths":[{"dev":"sd\"a","dev_t":"8:0","pri":"7","dm_st":"active","#,
            r#""new":{"deep":[1,2]}}],"pri":"50"}],"uuid":"w","path_faults":"3","map_loads":1e2,"#,
            r#""switch_grp":99999999999999999999999999,"name":"\u00e9\n\"","q_timeouts":null,"total_q_time":4,"#,
            r#""rev":7}]}"#,
        );
        let path = DaemonPath {
            name: "sd\"a".into(),
            devno: Some(DevNo { major: 8, minor: 0 }),
            group: 1,
            valid: Some(true),
            priority: Some(7),
            ..DaemonPath::default()
        };
        let map = DaemonMap {
            wwid: "w".into(),
            name: "é\n\"".into(),
            revision: "7".into(),
            counters: DaemonCounters { path_faults: 3, queueing_seconds: 4, ..DaemonCounters::default() },
            groups: vec![DaemonGroup { index: 1, state: Arc::default(), priority: Some(50) }],
            paths: vec![path],
            ..DaemonMap::default()
        };
        assert_eq!(read(reply), DaemonMaps { maps: vec![Arc::new(map)], unreadable: vec![] });
    }

    #[test]
    fn a_nested_field_of_a_later_version_does_not_hide_the_maps() {
        let reply =
            three_maps().replace("      \"uuid\"", "      \"tags\": [\n         \"x\"\n      ],\n      \"uuid\"");
        let maps = read(reply);
        assert_eq!((wwids(&maps), maps.unreadable.len()), (vec!["a", "b", "c"], 0));
    }

    #[test]
    fn only_malformed_objects_are_left_out() {
        let good = r#"{"uuid":"good","path_groups":[]}"#;
        for (bad, error) in [
            ("null", r#"map "" (""): it is "null", expected an object"#),
            ("[[]]", r#"map "" (""): it is "[[]]", expected an object"#),
            ("{}", r#"map "" (""): it has no uuid"#),
            (r#"{"name":"x","uuid":7}"#, r#"map "x" ("7"): it has no list of path groups"#),
            (r#"{"uuid":"y","path_groups":3}"#, r#"map "" ("y"): its path_groups are "3", expected a list"#),
            (r#"{"uuid":"y","path_groups":[1]}"#, r#"map "" ("y"): it is "1", expected an object"#),
            (r#"{"uuid":"y","path_groups":[{}]}"#, r#"map "" ("y"): one of its groups has no list of paths"#),
        ] {
            let maps = read(format!(r#"{{"maps":[{good},{bad},{good}]}}"#));
            assert_eq!((wwids(&maps), reasons(&maps)), (vec!["good", "good"], vec![error.to_owned()]), "{bad}");
        }
        let maps = read(r#"{"maps":[{"uuid":"w","path_groups":[{"paths":[1,{"dev":"sda"},{}]}]}]}"#);
        assert_eq!(maps.maps[0].paths.iter().map(|path| &*path.name).collect::<Vec<_>>(), ["sda"]);
        assert_eq!(
            reasons(&maps),
            [
                r#"path "" of map "": it is "1", expected an object"#,
                r#"path "" of map "": it has neither dev nor dev_t"#
            ],
        );
    }

    #[test]
    fn a_malformed_line_affects_only_its_own_object() {
        let in_path = "            \"dev\" : \"b1\"";
        let in_group = "         \"pri\" : null";
        let in_map = "      \"vend\"";
        for (before, line, left, error) in [
            (in_path, "%%%", "a2b1c2", r#"path "b1" of map "b": unexpected line "%%%""#),
            (in_path, "   \"dev\" : \"x\"", "a2b1c2", r#"path "b1" of map "b": unexpected line "   \"dev\" : \"x\"""#),
            (in_path, "         }]\n      }]\n   },{", "a2b1c2", r#"path "" of map "b": it has neither dev nor dev_t"#),
            (in_group, "%%%", "a2c2", r#"map "b" ("b"): unexpected line "%%%""#),
            (in_map, "%%%", "a2c2", r#"map "b" ("b"): unexpected line "%%%""#),
            (in_map, "\"", "a2c2", r#"map "b" ("b"): unexpected line "\"""#),
            (in_group, "   },{", "a2c2", r#"map "b" ("b"): it ends early, at "   },{""#),
        ] {
            let reply = three_maps();
            let from = reply.find("\"uuid\" : \"b\"").unwrap();
            let at = from + reply[from..].find(before).unwrap();
            let maps = read(format!("{}{line}\n{}", &reply[..at], &reply[at..]));
            let read: Vec<_> = maps.maps.iter().map(|map| format!("{}{}", map.wwid, map.paths.len())).collect();
            let reasons = reasons(&maps);
            assert_eq!(
                (&*read.concat(), reasons.first().map(|error| &**error)),
                (left, Some(error)),
                "{before} {line}"
            );
        }
    }

    /// The time must not depend on where the strings end. Otherwise this test would not finish.
    #[test]
    fn unterminated_strings_are_searched_only_up_to_a_limit() {
        let reply = format!("{{\n   \"maps\": [{{\n{}", "      \"name\" : \"\n".repeat(200_000));
        let maps = read(reply);
        assert_eq!((maps.maps.len(), maps.unreadable.len()), (0, 1));
    }

    /// Prints maps as multipathd does, with `marginal_st` and `lun_hex` only if `recent`.
    fn print(maps: &[DaemonMap], recent: bool) -> String {
        let mut out = "{\n   \"major_version\": 0,\n   \"minor_version\": 1,\n   \"maps\": [".to_owned();
        for (i, map) in maps.iter().enumerate() {
            print_map(&mut out, map, recent).unwrap();
            out.push_str(if i + 1 == maps.len() { "   }" } else { "   }," });
        }
        out.push_str("]\n}\n");
        out
    }

    fn word(value: Option<bool>, yes: &'static str, no: &'static str) -> &'static str {
        match value {
            Some(true) => yes,
            Some(false) => no,
            None => "undef",
        }
    }

    fn print_map(out: &mut String, map: &DaemonMap, recent: bool) -> std::fmt::Result {
        let counters = map.counters;
        out.push_str("{\n");
        writeln!(out, "      \"name\" : \"{}\",", map.name)?;
        writeln!(out, "      \"uuid\" : \"{}\",", map.wwid)?;
        writeln!(out, "      \"sysfs\" : \"{}\",", map.sysfs_name)?;
        writeln!(out, "      \"failback\" : \"immediate\",")?;
        writeln!(out, "      \"queueing\" : \"-\",")?;
        writeln!(out, "      \"paths\" : {},", map.paths.len())?;
        writeln!(out, "      \"write_prot\" : \"{}\",", word(map.read_only, "ro", "rw"))?;
        writeln!(out, "      \"dm_st\" : \"{}\",", word(map.suspended, "suspend", "active"))?;
        let features = map.queueing.map_or("", |queueing| if queueing { "1 queue_if_no_path" } else { "0" });
        writeln!(out, "      \"features\" : \"{features}\",")?;
        writeln!(out, "      \"hwhandler\" : \"1 alua\",")?;
        writeln!(out, "      \"action\" : \"\",")?;
        writeln!(out, "      \"path_faults\" : {},", counters.path_faults)?;
        writeln!(out, "      \"vend\" : \"{}\",", map.vendor)?;
        writeln!(out, "      \"prod\" : \"{}\",", map.product)?;
        writeln!(out, "      \"rev\" : \"{}\",", map.revision)?;
        writeln!(out, "      \"switch_grp\" : {},", counters.group_switches)?;
        writeln!(out, "      \"map_loads\" : {},", counters.table_loads)?;
        writeln!(out, "      \"total_q_time\" : {},", counters.queueing_seconds)?;
        writeln!(out, "      \"q_timeouts\" : {},", counters.queueing_timeouts)?;
        out.push_str("      \"path_groups\": [");
        for (i, group) in map.groups.iter().enumerate() {
            out.push_str("{\n");
            writeln!(out, "         \"selector\" : \"service-time 0\",")?;
            writeln!(out, "         \"pri\" : {},", group.priority.map_or("null".to_owned(), |pri| pri.to_string()))?;
            writeln!(out, "         \"dm_st\" : \"{}\",", group.state)?;
            if recent {
                writeln!(out, "         \"marginal_st\" : \"normal\",")?;
            }
            writeln!(out, "         \"group\" : {},", group.index)?;
            out.push_str("         \"paths\": [");
            let paths: Vec<_> = map.paths.iter().filter(|path| path.group == group.index).collect();
            for (i, path) in paths.iter().enumerate() {
                let text = |text: &Option<Arc<str>>| text.clone().unwrap_or_default();
                out.push_str("{\n");
                writeln!(out, "            \"dev\" : \"{}\",", path.name)?;
                writeln!(
                    out,
                    "            \"dev_t\" : \"{}\",",
                    path.devno.map_or("#:#".to_owned(), |d| d.to_string())
                )?;
                writeln!(out, "            \"dm_st\" : \"{}\",", word(path.valid, "active", "failed"))?;
                writeln!(out, "            \"dev_st\" : \"{}\",", text(&path.device_state))?;
                writeln!(out, "            \"chk_st\" : \"{}\",", text(&path.checker_state))?;
                writeln!(out, "            \"checker\" : \"tur\",")?;
                writeln!(
                    out,
                    "            \"pri\" : {},",
                    path.priority.map_or("null".to_owned(), |pri| pri.to_string())
                )?;
                for key in ["host_wwnn", "target_wwnn", "host_wwpn", "target_wwpn"] {
                    writeln!(out, "            \"{key}\" : \"[undef]\",")?;
                }
                write!(out, "            \"host_adapter\" : \"[undef]\"")?;
                if recent {
                    write!(out, ",\n            \"lun_hex\" : \"0x0001000000000000\"")?;
                    write!(out, ",\n            \"marginal_st\" : \"{}\"", word(path.marginal, "marginal", "normal"))?;
                }
                out.push_str(if i + 1 == paths.len() { "\n         }" } else { "\n         }," });
            }
            out.push_str("]\n");
            out.push_str(if i + 1 == map.groups.len() { "      }" } else { "      }," });
        }
        out.push_str("]\n");
        Ok(())
    }

    /// Generates confusing text: ends of strings, objects and lines, and pieces of the layout.
    fn nasty() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("\""),
            Just("\\"),
            Just("\n"),
            Just("\\n"),
            Just(" "),
            Just("   "),
            Just(","),
            Just("\","),
            Just("\",\n"),
            Just("},{"),
            Just("   },{\n"),
            Just("}]"),
            Just("{"),
            Just("\"uuid\" : \""),
            Just("name"),
            Just("[undef]"),
            Just("a"),
            Just("é"),
            Just("\u{1f980}"),
            Just("\r"),
            Just("\t"),
            Just("%s"),
        ];
        // No reader can distinguish a line of a string that looks exactly like a line of the
        // layout.
        let ambiguous = |text: &str| text.lines().skip(1).any(|line| line.trim_start().starts_with("\"uuid\" : "));
        prop::collection::vec(piece, 0..12)
            .prop_map(|pieces| pieces.concat())
            .prop_filter("no line of the layout", move |text| !ambiguous(text))
    }

    fn a_path() -> impl Strategy<Value = DaemonPath> {
        let bool = any::<Option<bool>>;
        let state = || prop::option::of("[a-z/ ]{1,8}[a-z]");
        (("[a-z]{1,6}", any::<Option<(u32, u32)>>(), bool(), bool()), (state(), state(), any::<Option<i64>>()))
            .prop_map(|((name, devno, valid, marginal), (device_state, checker_state, priority))| DaemonPath {
                name: name.into(),
                devno: devno.map(|(major, minor)| DevNo { major, minor }),
                group: 0,
                valid,
                device_state: device_state.map(|state| state.trim().into()),
                checker_state: checker_state.map(|state| state.trim().into()),
                priority,
                marginal,
            })
    }

    fn a_group() -> impl Strategy<Value = (DaemonGroup, Vec<DaemonPath>)> {
        ("[a-z]{1,8}", any::<Option<i64>>(), prop::collection::vec(a_path(), 0..4))
            .prop_map(|(state, priority, paths)| (DaemonGroup { index: 0, state: state.into(), priority }, paths))
    }

    fn a_map() -> impl Strategy<Value = DaemonMap> {
        let bool = any::<Option<bool>>;
        let names = (nasty(), "[ -~é]{1,30}", "dm-[0-9]{1,4}", nasty(), nasty());
        let counters = any::<(u64, u64, u64, u64, u64)>();
        (names, (bool(), bool(), bool()), counters, prop::collection::vec(a_group(), 0..4)).prop_map(
            |((name, wwid, sysfs_name, vendor, product), (queueing, suspended, read_only), counters, groups)| {
                let mut map = DaemonMap {
                    wwid: wwid.into(),
                    name: name.into(),
                    sysfs_name: sysfs_name.into(),
                    vendor: text(vendor.as_bytes()).into(),
                    product: text(product.as_bytes()).into(),
                    queueing,
                    suspended,
                    read_only,
                    ..DaemonMap::default()
                };
                map.counters = DaemonCounters {
                    path_faults: counters.0,
                    group_switches: counters.1,
                    table_loads: counters.2,
                    queueing_seconds: counters.3,
                    queueing_timeouts: counters.4,
                };
                for (index, (group, paths)) in (1..).zip(groups) {
                    map.groups.push(DaemonGroup { index, ..group });
                    map.paths.extend(paths.into_iter().map(|path| DaemonPath { group: index, ..path }));
                }
                map
            },
        )
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(reply: Vec<u8>) {
            let _ = parse_maps(&reply);
        }

        /// Random bytes fail early. These replies therefore begin like a real one and consist of
        /// its pieces.
        #[test]
        fn any_pieces_are_read_without_panic(
            header: bool,
            pieces in prop::collection::vec((0_usize..5, nasty()), 0..20),
        ) {
            let mut reply = String::new();
            if header {
                reply.push_str("{\n   \"maps\": [{\n");
            }
            for (depth, piece) in pieces {
                let line = ["\"path_groups\": [{\n", "\"paths\": [{\n", "\"dev\" : \"", "}]\n", "},{\n"][depth];
                reply.push_str(&"   ".repeat(depth));
                reply.push_str(line);
                reply.push_str(&piece);
            }
            let _ = parse_maps(reply.as_bytes());
        }

        #[test]
        fn multipathds_output_is_read_back(maps in prop::collection::vec(a_map(), 0..4), recent: bool) {
            let read = read(print(&maps, recent));
            prop_assert_eq!(&read.unreadable, &[]);
            let mut expected = maps;
            if !recent {
                expected.iter_mut().flat_map(|map| &mut map.paths).for_each(|path| path.marginal = None);
            }
            let read: Vec<DaemonMap> = read.maps.iter().map(|map| (**map).clone()).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn words_are_stored_once() {
        let maps = read(fixture("0.9.4-tcm_loop-states/01-healthy.json")).maps;
        let words: BTreeSet<_> =
            maps[0].paths.iter().filter_map(|path| path.checker_state.as_ref().map(Arc::as_ptr)).collect();
        assert_eq!(words.len(), 1);
    }
}
