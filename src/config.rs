//! The configuration file (YAML, optional). Unknown keys are refused.

use std::path::Path;

use serde::Deserialize;

use crate::source::Error;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How many paths devices should have; the first that matches counts.
    pub expected_paths: Vec<ExpectedPaths>,
    /// The networks over which iSCSI targets must be reached.
    pub iscsi_bonds: Vec<IscsiBond>,
}

/// How many paths some devices should have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedPaths {
    /// This device.
    pub wwid: Option<String>,
    /// Devices of this vendor: a regular expression for the whole of it.
    pub vendor: Option<String>,
    /// Devices of this product: a regular expression for the whole of it.
    pub product: Option<String>,
    /// How many.
    pub paths: u32,
}

/// Networks that together are the way to some targets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IscsiBond {
    /// Its name.
    pub name: String,
    /// Interface names or CIDR networks.
    pub networks: Vec<String>,
    /// Globs of target IQNs.
    pub targets: Vec<String>,
}

impl Config {
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
        Ok(config.unwrap_or_default())
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
        assert_eq!(config.expected_paths[0].wwid.as_deref(), Some("3600a098000aad1e3000064e45f2c2355"));
        assert_eq!(config.expected_paths[1].paths, 4);
        assert_eq!(config.iscsi_bonds[0].networks, ["eth1", "192.0.2.0/24"]);
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
        ] {
            let error = Config::parse(text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
