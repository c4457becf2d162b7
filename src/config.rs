//! The configuration file (YAML, optional). Unknown keys are refused.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use ipnet::IpNet;
use regex::Regex;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::source::Error;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many paths devices should have; the first that matches counts.
    pub expected_paths: Vec<ExpectedPaths>,
    /// The networks over which iSCSI targets must be reached.
    pub iscsi_bonds: Vec<IscsiBond>,
}

/// How many paths some devices should have: those for which all that is named here fits.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ExpectedPathsText")]
pub struct ExpectedPaths {
    /// Which devices.
    pub devices: Devices,
    /// How many.
    pub paths: u32,
}

/// What an expectation is about.
#[derive(Clone, Debug, PartialEq)]
pub enum Devices {
    /// This device, whether or not it is there.
    Wwid(String),
    /// Devices of this vendor and this product.
    Model {
        /// The whole of the vendor; `None` for any.
        vendor: Option<Pattern>,
        /// The whole of the product; `None` for any.
        product: Option<Pattern>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedPathsText {
    wwid: Option<String>,
    vendor: Option<Pattern>,
    product: Option<Pattern>,
    paths: u32,
}

impl TryFrom<ExpectedPathsText> for ExpectedPaths {
    type Error = &'static str;

    fn try_from(text: ExpectedPathsText) -> Result<Self, Self::Error> {
        let devices = match (text.wwid, text.vendor, text.product) {
            (Some(wwid), None, None) => Devices::Wwid(wwid),
            (Some(_), _, _) => return Err("wwid says which device it is: vendor and product say nothing beside it"),
            (None, None, None) => return Err("wwid, or vendor and product, must say for which devices"),
            (None, vendor, product) => Devices::Model { vendor, product },
        };
        Ok(ExpectedPaths { devices, paths: text.paths })
    }
}

impl Devices {
    fn include(&self, wwid: &str, vendor: &str, product: &str) -> bool {
        let fits = |pattern: &Option<Pattern>, text| pattern.as_ref().is_none_or(|pattern| pattern.fits(text));
        match self {
            Devices::Wwid(named) => named == wwid,
            Devices::Model { vendor: vendors, product: products } => fits(vendors, vendor) && fits(products, product),
        }
    }
}

/// Networks that together are the way to some targets: oVirt's iSCSI bond.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IscsiBond {
    /// Its name.
    pub name: String,
    /// The networks.
    pub networks: Vec<Network>,
    /// Which targets, by IQN.
    pub targets: Vec<Glob>,
}

/// A network, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// As it is written, which is how it is shown.
    pub name: String,
    addresses: Option<IpNet>,
}

impl Network {
    /// Whether a session that leaves through `interface`, from `source` if that is known, goes over this network.
    pub fn carries(&self, interface: &str, source: Option<IpAddr>) -> bool {
        match self.addresses {
            Some(addresses) => source.is_some_and(|source| addresses.contains(&source)),
            None => self.name == interface,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // No interface has a slash in its name, and what is an address is hardly meant to be one.
        let looks_like_addresses = text.contains('/') || text.parse::<IpAddr>().is_ok();
        let addresses = match looks_like_addresses {
            true => {
                let addresses = text.parse::<IpNet>();
                Some(addresses.map_err(|_| format!("neither an interface nor a network like 192.0.2.0/24: {text:?}"))?)
            }
            false if text.is_empty() => return Err("a network without a name".to_owned()),
            false => None,
        };
        Ok(Network { name: text.to_owned(), addresses })
    }
}

/// A regular expression for the whole of a text.
#[derive(Clone, Debug)]
pub struct Pattern {
    written: String,
    regex: Regex,
}

impl Pattern {
    /// Whether it fits the whole text.
    pub fn fits(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // On its own first: anchored, `a)(b` would be correct.
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

/// A glob for the whole of a text: `*`, `?`, `[...]`.
#[derive(Clone, Debug)]
pub struct Glob(GlobMatcher);

impl Glob {
    /// Whether it fits the whole text.
    pub fn fits(&self, text: &str) -> bool {
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

deserialize_from_text!(Network, Pattern, Glob);

impl Config {
    /// How many paths this device should have, if the file says so.
    pub fn expected_paths_of(&self, wwid: &str, vendor: &str, product: &str) -> Option<u32> {
        let rule = self.expected_paths.iter().find(|rule| rule.devices.include(wwid, vendor, product));
        rule.map(|rule| rule.paths)
    }

    /// The devices that the file names.
    pub fn expected_wwids(&self) -> impl Iterator<Item = &str> {
        self.expected_paths.iter().filter_map(|rule| match &rule.devices {
            Devices::Wwid(wwid) => Some(wwid.as_str()),
            Devices::Model { .. } => None,
        })
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, or something in it is wrong: the text names file, line and word.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|cause| Error::new(file.display(), cause))?;
        Self::parse(&text).map_err(|cause| Error::new(file.display(), cause))
    }

    /// Reads the text; an empty one is a configuration of nothing.
    ///
    /// # Errors
    /// One line that names line and word.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Option<Config> = serde_saphyr::from_str(text).map_err(|error| {
            // The library adds the offending lines below its message.
            error.to_string().lines().next().unwrap_or_default().to_owned()
        })?;
        let config = config.unwrap_or_default();
        config.check_bonds()?;
        Ok(config)
    }

    /// Each is a series, and no series can be there twice.
    fn check_bonds(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        for bond in &self.iscsi_bonds {
            if !names.insert(&bond.name) {
                return Err(format!("iscsi_bonds: more than one is called {:?}", bond.name));
            }
            let mut networks = HashSet::new();
            if let Some(network) = bond.networks.iter().find(|network| !networks.insert(&network.name)) {
                return Err(format!("iscsi_bonds: {:?} has the network {:?} more than once", bond.name, network.name));
            }
        }
        Ok(())
    }
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
             iscsi_bonds:\n\
             - {name: storage, networks: [eth1, 192.0.2.0/24], targets: ['iqn.2003-01.org.example:*']}\n",
        )
        .unwrap();
        assert_eq!(config.expected_paths[0].devices, Devices::Wwid("3600a098000aad1e3000064e45f2c2355".to_owned()));
        assert_eq!(config.expected_paths[1].paths, 4);
        let [eth1, net] = config.iscsi_bonds[0].networks.as_slice() else { panic!("{config:?}") };
        assert!(eth1.carries("eth1", None) && !eth1.carries("eth10", None));
        assert!(net.carries("", "192.0.2.7".parse().ok()) && !net.carries("", "192.0.3.7".parse().ok()));
        assert!(!net.carries("eth1", None));
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
            assert_eq!(config.expected_paths_of(wwid, vendor, product), paths, "{wwid} {vendor} {product}");
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
        for (text, words) in [
            ("expected_path: []\n", &["line 1", "expected_path"][..]),
            ("expected_paths:\n- {wwid: a, pats: 8}\n", &["line 2", "pats"]),
            ("expected_paths:\n- {wwid: a}\n", &["line 2", "paths"]),
            ("expected_paths:\n- {wwid: a, paths: many}\n", &["line 2"]),
            ("iscsi_bonds: yes\n", &["line 1"]),
            ("a: [\n", &["line"]),
            ("expected_paths:\n- {wwid: a, vendor: b, paths: 1}\n", &["line 2", "vendor"]),
            ("expected_paths:\n- {paths: 1}\n", &["line 2", "wwid"]),
            ("expected_paths:\n- {vendor: 'a(', paths: 1}\n", &["line 2", "a(", "unclosed"]),
            ("expected_paths:\n- {vendor: 'a)(b', paths: 1}\n", &["line 2", "a)(b", "unopened"]),
            ("iscsi_bonds:\n- name: a\n  networks: [192.0.2.0/33]\n  targets: []\n", &["line 3", "192.0.2.0/33"]),
            ("iscsi_bonds:\n- name: a\n  networks: [192.0.2.1]\n  targets: []\n", &["line 3", "192.0.2.1"]),
            ("iscsi_bonds:\n- name: a\n  networks: ['']\n  targets: []\n", &["line 3", "network"]),
            ("iscsi_bonds:\n- name: a\n  networks: [a]\n  targets: ['[a']\n", &["line 4", "[a"]),
            (
                "iscsi_bonds:\n- {name: a, networks: [], targets: []}\n- {name: a, networks: [], targets: []}\n",
                &["iscsi_bonds", "\"a\"", "more than one"],
            ),
            ("iscsi_bonds:\n- {name: a, networks: [b, b], targets: []}\n", &["\"a\"", "\"b\"", "more than once"]),
        ] {
            let error = Config::parse(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
