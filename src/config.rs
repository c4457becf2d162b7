//! The optional configuration file (YAML). The parser refuses unknown keys, and values that could
//! never match.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use globset::{GlobBuilder, GlobMatcher};
use ipnet::IpNet;
use regex::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};

use crate::small_file;
use crate::source::Error;
use crate::source::interfaces::Addresses;
use crate::topology::Adapters;

/// The content of the configuration file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Expected numbers of paths. The first entry that matches a device counts.
    pub(crate) expected_paths: Vec<ExpectedPaths>,
    /// WWIDs (globs) of disks that other multipath software assembles.
    pub(crate) ignore_unassembled: Vec<Glob>,
    /// Devices whose past the exporter forgets.
    pub(crate) forget: Vec<Forget>,
    /// Networks over which iSCSI targets must be reachable.
    pub(crate) iscsi_bonds: Vec<ConfiguredBond>,
}

/// The expected number of paths of the devices that match all criteria of the entry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ExpectedPathsText")]
pub(crate) struct ExpectedPaths {
    /// The devices that the entry is about.
    pub(crate) devices: DeviceSelector,
    /// The expected number of paths, at least 1.
    pub(crate) paths: u32,
    /// True if the devices should be redundant.
    pub(crate) redundant: bool,
    /// True if the array gives a LUN the same number at each of its ports.
    pub(crate) same_lun: bool,
}

/// A device, and the time before which the exporter forgets everything about it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "ForgetText")]
pub(crate) struct Forget {
    /// The identity of the device.
    pub(crate) wwid: String,
    /// The exporter forgets everything that it saw before this time.
    pub(crate) before: SystemTime,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForgetText {
    wwid: Wwid,
    before: Time,
}

impl From<ForgetText> for Forget {
    fn from(text: ForgetText) -> Self {
        Forget { wwid: text.wwid.0, before: text.before.0 }
    }
}

struct Time(SystemTime);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_rfc3339(text);
        time.map(Time).map_err(|_| format!("not a time such as 2026-11-29T10:00:00Z: {text:?}"))
    }
}

/// The devices that an expectation is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DeviceSelector {
    /// The device with this WWID, present or not.
    Wwid(String),
    /// Devices with this vendor and this product.
    Model {
        /// Matches the whole vendor; `None` for any.
        vendor: Option<Pattern>,
        /// Matches the whole product; `None` for any.
        product: Option<Pattern>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedPathsText {
    wwid: Option<Wwid>,
    vendor: Option<Pattern>,
    product: Option<Pattern>,
    paths: Number,
    redundant: Option<bool>,
    same_lun: Option<bool>,
}

struct Wwid(String);

impl FromStr for Wwid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("the WWID is empty".to_owned()),
            text if text.trim() != text => Err(format!("the WWID has blanks around it: {text:?}")),
            text if text.starts_with("mpath-") => Err(format!("write the WWID without \"mpath-\": {text:?}")),
            text => Ok(Wwid(text.to_owned())),
        }
    }
}

struct Number(u32);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| *number > 0);
        number.map(Number).ok_or_else(|| format!("paths must be a whole number of 1 or more, not {text:?}"))
    }
}

impl TryFrom<ExpectedPathsText> for ExpectedPaths {
    type Error = &'static str;

    fn try_from(text: ExpectedPathsText) -> Result<Self, Self::Error> {
        let devices = match (text.wwid, text.vendor, text.product) {
            (Some(Wwid(wwid)), None, None) => DeviceSelector::Wwid(wwid),
            (Some(_), _, _) => return Err("wwid cannot be combined with vendor or product"),
            (None, None, None) => return Err("wwid, vendor or product is missing"),
            (None, vendor, product) => DeviceSelector::Model { vendor, product },
        };
        let paths = text.paths.0;
        // A device that should have one path cannot be redundant.
        let redundant = text.redundant.unwrap_or(paths > 1);
        Ok(ExpectedPaths { devices, paths, redundant, same_lun: text.same_lun.unwrap_or(true) })
    }
}

impl DeviceSelector {
    fn include(&self, wwid: &str, vendor: &str, product: &str) -> bool {
        let fits = |pattern: &Option<Pattern>, text| pattern.as_ref().is_none_or(|pattern| pattern.fits(text));
        match self {
            DeviceSelector::Wwid(named) => named == wwid,
            DeviceSelector::Model { vendor: vendors, product: products } => {
                fits(vendors, vendor) && fits(products, product)
            }
        }
    }
}

/// Networks that together lead to some targets; oVirt calls this an iSCSI bond.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ConfiguredBondText")]
pub(crate) struct ConfiguredBond {
    /// The name of the bond.
    pub(crate) name: String,
    /// The networks; empty for a bond that is empty in oVirt.
    pub(crate) networks: Vec<Network>,
    /// The targets, as globs for their IQNs.
    pub(crate) targets: Vec<Glob>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfiguredBondText {
    name: String,
    networks: Vec<Network>,
    targets: Vec<Glob>,
}

impl TryFrom<ConfiguredBondText> for ConfiguredBond {
    type Error = String;

    fn try_from(text: ConfiguredBondText) -> Result<Self, String> {
        let ConfiguredBondText { name, networks, targets } = text;
        if name.trim().is_empty() {
            return Err("the name of the bond is empty".to_owned());
        }
        if targets.is_empty() {
            return Err(format!("bond {name:?} has no targets"));
        }
        // Each network is a series on the metrics page, and a series must not occur twice.
        let mut seen = HashSet::new();
        match networks.iter().find(|network| !seen.insert(network.identity())) {
            Some(twice) => Err(format!("bond {name:?} has the network {:?} more than once", twice.name)),
            None => Ok(ConfiguredBond { name, networks, targets }),
        }
    }
}

/// A network of a bond: an interface, or a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The text of the file. The exporter shows the network by this name.
    pub(crate) name: String,
    addresses: Option<IpNet>,
}

impl Network {
    /// Returns true if a session from address `source` that leaves through `interface` goes over
    /// this network. `interface` is empty if it is unknown. Returns `None` if the answer is
    /// unknown.
    pub(crate) fn carries(&self, interface: &str, source: Option<IpAddr>) -> Option<bool> {
        match self.addresses {
            Some(addresses) => source.map(|source| addresses.contains(&source)),
            None => (!interface.is_empty()).then_some(self.name == interface),
        }
    }

    /// The name of the interface; `None` for a range of addresses.
    pub(crate) fn interface(&self) -> Option<Arc<str>> {
        self.addresses.is_none().then(|| self.name.as_str().into())
    }

    /// Returns true if this host has the network: an interface of that name, or an address in that
    /// range. Returns `None` as long as the host's addresses are unknown.
    pub(crate) fn is_here(&self, interfaces: &Adapters, addresses: &Addresses) -> Option<bool> {
        match &self.addresses {
            Some(range) => addresses.have_any_of(range),
            None => Some(interfaces.contains_key(&*self.name)),
        }
    }

    /// Equal for two spellings of one network.
    fn identity(&self) -> (&str, Option<IpNet>) {
        match self.addresses {
            Some(addresses) => ("", Some(addresses.trunc())),
            None => (&self.name, None),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The rules of `dev_valid_name` in the kernel's net/core/dev.c. A name of dots and digits
        // is more likely a mistyped address.
        let is_interface = matches!(text.len(), 1..=15)
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
            && !text.chars().all(|c| c == '.' || c.is_ascii_digit());
        let addresses = if is_interface {
            None
        } else {
            let range = text.parse::<IpNet>();
            Some(range.map_err(|_| format!("not an interface name or a network such as 192.0.2.0/24: {text:?}"))?)
        };
        Ok(Network { name: text.to_owned(), addresses })
    }
}

/// A regular expression that must match a whole text.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    written: String,
    regex: Regex,
}

impl Pattern {
    /// Returns true if it matches the whole text.
    pub(crate) fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The expression is compiled alone first: with the anchors around it, `a)(b` would be
        // correct.
        Regex::new(text)
            .and_then(|_| Regex::new(&format!("^(?:{text})$")))
            .map(|regex| Pattern { written: text.to_owned(), regex })
            .map_err(|error| {
                let error = error.to_string();
                let cause = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("not a regular expression: {text:?}: {cause}")
            })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// A glob that must match a whole text: `*`, `?`, `[...]`.
#[derive(Clone, Debug)]
pub(crate) struct Glob(GlobMatcher);

impl Glob {
    /// Returns true if it matches the whole text.
    pub(crate) fn fits(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl FromStr for Glob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(text).literal_separator(false).build();
        glob.map(|glob| Glob(glob.compile_matcher())).map_err(|error| format!("not a glob: {text:?}: {}", error.kind()))
    }
}

impl PartialEq for Glob {
    fn eq(&self, other: &Self) -> bool {
        self.0.glob() == other.0.glob()
    }
}

fn from_text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

macro_rules! deserialize_from_text {
    ($($name:ty),*) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_text(deserializer)
            }
        })*
    };
}

deserialize_from_text!(Glob, Network, Number, Pattern, Time, Wwid);

impl Config {
    /// Returns the first expectation that matches this device.
    pub(crate) fn expectation_of(&self, wwid: &str, vendor: &str, product: &str) -> Option<&ExpectedPaths> {
        self.expected_paths.iter().find(|rule| rule.devices.include(wwid, vendor, product))
    }

    /// Returns true if other multipath software assembles this disk.
    pub(crate) fn ignores(&self, wwid: &str) -> bool {
        self.ignore_unassembled.iter().any(|glob| glob.fits(wwid))
    }

    /// The WWIDs that the expectations name.
    pub(crate) fn expected_wwids(&self) -> impl Iterator<Item = &str> {
        self.expected_paths.iter().filter_map(|rule| match &rule.devices {
            DeviceSelector::Wwid(wwid) => Some(wwid.as_str()),
            DeviceSelector::Model { .. } => None,
        })
    }

    /// Reads and parses the file.
    ///
    /// # Errors
    /// If the file cannot be read or is wrong. The text names file, line and word.
    pub(crate) fn read(file: &Path) -> Result<Self, Error> {
        read_text(file).and_then(|text| Self::parse(&text)).map_err(|cause| Error::new(file.display(), cause))
    }

    /// Parses the text. An empty text gives the default configuration.
    ///
    /// # Errors
    /// One line of text that names the line and the word.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let file: Option<ConfigFile> = serde_saphyr::from_str(text).map_err(|error| explain(&error, text))?;
        let ConfigFile { expected_paths, ignore_unassembled, forget, iscsi_bonds } = file.unwrap_or_default();
        let mut names = HashSet::new();
        for Spanned { value: bond, referenced, .. } in &iscsi_bonds {
            if !names.insert(&bond.name) {
                return Err(at(*referenced, &format!("more than one bond is called {:?}", bond.name)));
            }
        }
        let iscsi_bonds = iscsi_bonds.into_iter().map(|bond| bond.value).collect();
        Ok(Config { expected_paths, ignore_unassembled, forget, iscsi_bonds })
    }
}

/// The top-level keys of the file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    expected_paths: Vec<ExpectedPaths>,
    ignore_unassembled: Vec<Glob>,
    forget: Vec<Forget>,
    iscsi_bonds: Vec<Spanned<ConfiguredBond>>,
}

fn read_text(file: &Path) -> Result<String, String> {
    let bytes = small_file::read(file).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| {
        let correct = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!("line {}: not UTF-8", correct.iter().filter(|byte| **byte == b'\n').count() + 1)
    })
}

/// Turns the library's error into one line. It adds the word that the error is about, unless the
/// message quotes one already.
fn explain(error: &serde_saphyr::Error, text: &str) -> String {
    let error = error.without_snippet();
    let message = UserMessageFormatter.format_message(error);
    let message = message.replace("sequence start", "a list").replace("mapping start", "keys with values");
    // A key may contain any character, and the message must stay one line of a log.
    let message = message.replace(char::is_control, "\u{fffd}");
    let Some(place) = error.location() else { return message };
    let word = word_at(text, place).trim_start_matches(|c: char| c.is_ascii_punctuation());
    if !word.is_empty() && !message.contains(['"', '`', '\'']) {
        at(place, &format!("{message}: {word:?}"))
    } else {
        at(place, &message)
    }
}

fn at(place: Location, message: &str) -> String {
    format!("line {}, column {}: {message}", place.line(), place.column())
}

/// The word at this place, up to the end of a YAML word.
fn word_at(text: &str, place: Location) -> &str {
    let line = usize::try_from(place.line()).unwrap_or_default();
    let column = usize::try_from(place.column()).unwrap_or_default();
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let start = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(start, _)| start);
    let word = &line[start..];
    word.split(|c: char| c.is_whitespace() || matches!(c, ',' | '}' | ']')).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file() {
        let config = Config::parse(
            "expected_paths:\n\
             - {wwid: 3600a098000aad1e3000064e45f2c2355, paths: 8}\n\
             - {vendor: NETAPP, product: 'INF-01-.*', paths: 4}\n\
             - {product: 'BACKUP.*', paths: 1}\n\
             - {vendor: HITACHI, paths: 4, redundant: false, same_lun: false}\n\
             ignore_unassembled: ['36006016*']\n\
             forget:\n\
             - {wwid: 3600a098000aad1e3000064e45f2c2399, before: 2026-11-29T10:00:00Z}\n\
             iscsi_bonds:\n\
             - {name: storage, networks: [eth1, 192.0.2.0/24], targets: ['iqn.2003-01.org.example:*']}\n",
        )
        .unwrap();
        assert_eq!(
            config.expected_paths[0].devices,
            DeviceSelector::Wwid("3600a098000aad1e3000064e45f2c2355".to_owned())
        );
        assert_eq!(config.expected_paths[1].paths, 4);
        let redundant: Vec<bool> = config.expected_paths.iter().map(|rule| rule.redundant).collect();
        assert_eq!(redundant, [true, true, false, false]);
        let expects_redundancy = |vendor| config.expectation_of("1", vendor, "DISK").is_none_or(|rule| rule.redundant);
        assert!(expects_redundancy("OTHER") && !expects_redundancy("HITACHI"));
        let [forget] = &config.forget[..] else { panic!("{config:?}") };
        assert_eq!(humantime::format_rfc3339(forget.before).to_string(), "2026-11-29T10:00:00Z");
        assert!(config.ignores("360060160a") && !config.ignores("3600a098"));
        let [eth1, net] = config.iscsi_bonds[0].networks.as_slice() else { panic!("{config:?}") };
        assert_eq!(["eth1", "eth10", ""].map(|name| eth1.carries(name, None)), [Some(true), Some(false), None]);
        let sources = [Some("192.0.2.7"), Some("192.0.3.7"), None];
        let over_net = sources.map(|source| net.carries("eth1", source.and_then(|source| source.parse().ok())));
        assert_eq!(over_net, [Some(true), Some(false), None]);
        let [targets] = config.iscsi_bonds[0].targets.as_slice() else { panic!("{config:?}") };
        assert!(targets.fits("iqn.2003-01.org.example:a/b") && !targets.fits("iqn.2003-01.org.example"));
    }

    #[test]
    fn the_first_expectation_that_fits_counts() {
        let config = Config::parse(
            "expected_paths:\n\
             - {wwid: '1', paths: 8}\n\
             - {vendor: NETAPP, product: 'INF-01-.*', paths: 4}\n\
             - {vendor: NETAPP, paths: 2}\n\
             - {wwid: '2', paths: 1}\n",
        )
        .unwrap();
        for (wwid, vendor, product, paths) in [
            ("1", "NETAPP", "INF-01-00", Some(8)),
            ("2", "NETAPP", "INF-01-00", Some(4)),
            ("2", "NETAPP", "LUN", Some(2)),
            ("2", "LIO-ORG", "disk", Some(1)),
            ("3", "LIO-ORG", "disk", None),
        ] {
            let expected = config.expectation_of(wwid, vendor, product).map(|rule| rule.paths);
            assert_eq!(expected, paths, "{wwid} {vendor} {product}");
        }
        assert_eq!(config.expected_wwids().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn patterns_are_for_the_whole() {
        let pattern: Pattern = "INF|IN.*".parse().unwrap();
        for (text, fits) in [("INF", true), ("INFX", true), ("XINF", false), ("", false)] {
            assert_eq!(pattern.fits(text), fits, "{text}");
        }
    }

    #[test]
    fn an_empty_file_says_nothing() {
        for text in ["", "\n", "# nothing\n", "expected_paths: []\n"] {
            assert_eq!(Config::parse(text), Ok(Config::default()), "{text:?}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let bond = |rest: &str| format!("iscsi_bonds:\n- name: a\n  {rest}\n");
        for (text, words) in [
            ("expected_path: []\n", &["line 1", "expected_path"][..]),
            ("expected_paths:\n- {wwid: a, pats: 8}\n", &["line 2", "pats"]),
            ("expected_paths:\n- {wwid: a}\n", &["line 2", "paths"]),
            ("expected_paths:\n- {wwid: a, paths: many}\n", &["line 2", "paths must be a whole number", "many"]),
            ("expected_paths:\n- {wwid: a, paths: -1}\n", &["line 2", "paths must be a whole number", "-1"]),
            ("expected_paths:\n- {wwid: a, paths: 0}\n", &["line 2", "paths must be a whole number", "0"]),
            (
                "expected_paths:\n- {wwid: a, paths: 4294967296}\n",
                &["line 2", "paths must be a whole number", "4294967296"],
            ),
            ("expected_paths:\n- {wwid: '', paths: 1}\n", &["line 2", "WWID is empty"]),
            ("expected_paths:\n- {wwid: ' 3600a', paths: 1}\n", &["line 2", "blanks around it", " 3600a"]),
            ("expected_paths:\n- {wwid: mpath-3600a, paths: 1}\n", &["line 2", "mpath-3600a"]),
            ("expected_paths:\n- {wwid: a, wwid: b, paths: 1}\n", &["line 2", "wwid"]),
            ("expected_paths: many\n", &["line 1", "many"]),
            ("expected_paths:\n- {wwid: a, paths: 1, redundant: maybe}\n", &["line 2", "maybe"]),
            ("forget:\n- {wwid: a, before: yesterday}\n", &["line 2", "not a time", "yesterday"]),
            ("forget:\n- {wwid: a}\n", &["line 2", "before"]),
            ("ignore_unassembled: ['[a']\n", &["line 1", "[a"]),
            ("expected_paths:\n- {wwid: a, paths: }\n", &["line 2"]),
            ("\"a\\nb\": many\n", &["line 1", "a\u{fffd}b"]),
            ("iscsi_bonds: &a []\nexpected_paths: *b\n", &["b"]),
            ("iscsi_bonds: &a {}\nexpected_paths: *a\n", &["line 1"]),
            ("iscsi_bonds: yes\n", &["line 1", "yes"]),
            ("a: [\n", &["line"]),
            ("expected_paths:\n- {wwid: a, vendor: b, paths: 1}\n", &["line 2", "vendor"]),
            ("expected_paths:\n- {paths: 1}\n", &["line 2", "wwid"]),
            ("expected_paths:\n- {vendor: 'a(', paths: 1}\n", &["line 2", "a(", "unclosed"]),
            ("expected_paths:\n- {vendor: 'a)(b', paths: 1}\n", &["line 2", "a)(b", "unopened"]),
            (&bond("networks: [192.0.2.0/33]\n  targets: ['*']"), &["line 3", "192.0.2.0/33"]),
            (&bond("networks: [192.0.2.1]\n  targets: ['*']"), &["line 3", "192.0.2.1"]),
            (&bond("networks: [192.0.2.300]\n  targets: ['*']"), &["line 3", "192.0.2.300"]),
            (&bond("networks: ['eth 0']\n  targets: ['*']"), &["line 3", "eth 0"]),
            (&bond("networks: [more-than-fifteen]\n  targets: ['*']"), &["line 3", "more-than-fifteen"]),
            (&bond("networks: ['']\n  targets: ['*']"), &["line 3", "network"]),
            (&bond("networks: [a]\n  targets: ['[a']"), &["line 4", "[a"]),
            (&bond("networks: [b]\n  targets: []"), &["line 2", "\"a\"", "no targets"]),
            (&bond("networks: [b, b]\n  targets: ['*']"), &["line 2", "\"a\"", "\"b\"", "more than once"]),
            (&bond("networks: [192.0.2.0/24, 192.0.2.7/24]\n  targets: ['*']"), &["192.0.2.7/24", "more than once"]),
            ("iscsi_bonds:\n- {name: '', networks: [b], targets: ['*']}\n", &["line 2", "name of the bond is empty"]),
            (
                "iscsi_bonds:\n- {name: a, networks: [b], targets: ['*']}\n- {name: a, networks: [b], targets: ['*']}\n",
                &["line 3", "\"a\"", "more than one"],
            ),
        ] {
            let error = Config::parse(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
