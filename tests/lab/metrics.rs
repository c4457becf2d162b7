//! A strict reader of `/metrics`.

use std::collections::BTreeMap;

use crate::dm::Paths;

/// Labels of one series, by name.
pub type Labels = BTreeMap<String, String>;

/// One page in text format 0.0.4.
pub struct Metrics(BTreeMap<String, BTreeMap<Labels, f64>>);

/// The host's own counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub devices: u64,
    pub degraded: u64,
    pub without_valid_paths: u64,
    pub paths: u64,
    pub failed_paths: u64,
}

/// The host's past, in the exporter's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub lost_devices: u64,
    pub missing_paths: u64,
    pub in_trouble: bool,
}

/// One device's own counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    pub valid: u64,
    pub failed: u64,
}

impl Metrics {
    /// Reads a page. No series may occur twice, and all counts must agree.
    pub fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, BTreeMap<Labels, f64>> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, labels, value) = parse_sample(line).unwrap_or_else(|| panic!("not a sample: {line}"));
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.insert(labels, value).is_none(), "a series comes twice: {line}");
        }
        let metrics = Metrics(families);
        metrics.assert_counts_agree();
        metrics
    }

    /// Every series of a metric.
    pub fn series(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.0.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }

    /// The value of the series with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.0.get(name)?.get(&labels).copied()
    }

    /// Like [`Metrics::get`], for a series that must exist.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name}{labels:?} in {:?}", self.0.get(name)))
    }

    /// The value of a series that exists only while it is above 0.
    #[track_caller]
    pub fn fault(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let value = self.get(name, labels);
        assert_ne!(value, Some(0.0), "{name}{labels:?} is 0 and there");
        value.unwrap_or(0.0)
    }

    /// The labels of the only series with these labels.
    #[track_caller]
    pub fn labels(&self, name: &str, matching: &[(&str, &str)]) -> Labels {
        let matches =
            |labels: &Labels| matching.iter().all(|(key, value)| labels.get(*key).is_some_and(|v| v == value));
        let mut found = self.series(name).filter(|(labels, _)| matches(labels));
        match (found.next(), found.next()) {
            (Some((labels, _)), None) => labels.clone(),
            (None, _) => panic!("no {name}{matching:?} in {:?}", self.0.get(name)),
            (Some(one), Some(other)) => panic!("{name}{matching:?} is ambiguous: {one:?}, {other:?}"),
        }
    }

    /// The current value of a state set: the `state` label of the only series with these other
    /// labels.
    #[track_caller]
    pub fn state(&self, name: &str, labels: &[(&str, &str)]) -> String {
        self.labels(name, labels)["state"].clone()
    }

    /// Returns true if any series has this WWID.
    pub fn mentions(&self, wwid: &str) -> bool {
        self.0.values().flat_map(BTreeMap::keys).any(|labels| labels.get("wwid").is_some_and(|value| value == wwid))
    }

    /// The host's counts. They always exist.
    #[track_caller]
    pub fn host(&self) -> Host {
        Host {
            devices: count(self.value("multipath_devices", &[])),
            degraded: count(self.value("multipath_degraded_devices", &[])),
            without_valid_paths: count(self.value("multipath_devices_without_valid_paths", &[])),
            paths: count(self.value("multipath_paths", &[])),
            failed_paths: count(self.value("multipath_failed_paths", &[])),
        }
    }

    /// The metrics of the host's past. They are always there.
    #[track_caller]
    pub fn past(&self) -> Past {
        Past {
            lost_devices: count(self.value("multipath_lost_devices", &[])),
            missing_paths: count(self.value("multipath_missing_paths", &[])),
            in_trouble: self.value("multipath_in_trouble", &[]) == 1.0,
        }
    }

    /// The WWID of each lost device, and the reason why it counts as lost.
    pub fn lost(&self) -> Vec<(String, String)> {
        let lost = self.series("multipath_lost_device_info");
        lost.map(|(labels, _)| (labels["wwid"].clone(), labels["reason"].clone())).collect()
    }

    /// The counts of each device.
    pub fn devices(&self) -> BTreeMap<String, Counts> {
        let valid = self.series("multipath_device_valid_paths");
        valid.map(|(labels, _)| (labels["wwid"].clone(), self.counts(&labels["wwid"]).expect("its own"))).collect()
    }

    /// The counts of one device, if it is exported.
    pub fn counts(&self, wwid: &str) -> Option<Counts> {
        let valid = count(self.get("multipath_device_valid_paths", &[("wwid", wwid)])?);
        let failed = count(self.get("multipath_device_failed_paths", &[("wwid", wwid)])?);
        Some(Counts { valid, failed })
    }

    /// How many paths of a device are neither valid nor failed.
    #[track_caller]
    pub fn standby(&self, wwid: &str) -> u64 {
        count(self.value("multipath_device_standby_paths", &[("wwid", wwid)]))
    }

    /// How often paths of a device have failed and been reinstated.
    pub fn path_events(&self, wwid: &str) -> (u64, u64) {
        let total =
            |action| count(self.value("multipath_device_path_events_total", &[("wwid", wwid), ("action", action)]));
        (total("path_failed"), total("path_reinstated"))
    }

    /// Whether each path is valid, by WWID and device number: to be compared with the kernel.
    pub fn all_paths(&self) -> BTreeMap<String, Paths> {
        let mut devices: BTreeMap<String, Paths> = BTreeMap::new();
        for (labels, _) in self.series("multipath_path_info") {
            let valid = self.value("multipath_path_valid", &[("wwid", &labels["wwid"]), ("path", &labels["path"])]);
            devices.entry(labels["wwid"].clone()).or_default().insert(labels["devno"].clone(), valid == 1.0);
        }
        devices
    }

    /// Invariants of every page.
    fn assert_counts_agree(&self) {
        let mut host = Host::default();
        let mut path_states: BTreeMap<&str, Counts> = BTreeMap::new();
        for (labels, valid) in self.series("multipath_path_valid") {
            let counts = path_states.entry(&labels["wwid"]).or_insert(Counts { valid: 0, failed: 0 });
            match valid {
                1.0 => counts.valid += 1,
                0.0 => counts.failed += 1,
                _ => panic!("multipath_path_valid{labels:?} is {valid}"),
            }
        }
        for (wwid, counts) in self.devices() {
            let paths = count(self.value("multipath_device_paths", &[("wwid", &wwid)]));
            let standby = self.standby(&wwid);
            let Counts { valid, failed } = counts;
            assert_eq!(
                paths,
                valid + standby + failed,
                "members of {wwid}, which are {counts:?}, on standby {standby}"
            );
            let states = path_states.remove(wwid.as_str()).unwrap_or(Counts { valid: 0, failed: 0 });
            let not_valid = Counts { valid, failed: failed + standby };
            assert_eq!(states, not_valid, "paths of {wwid} (left) against the device's counts (right)");
            host.devices += 1;
            host.degraded += u64::from(counts.valid > 0 && counts.failed > 0);
            host.without_valid_paths += u64::from(counts.valid == 0);
            host.paths += paths;
            host.failed_paths += counts.failed;
        }
        assert!(path_states.is_empty(), "paths of devices that are not exported: {path_states:?}");
        assert_eq!(self.host(), host, "the host's counts (left) against its devices (right)");
    }
}

/// A sample that counts something.
#[track_caller]
pub fn count(value: f64) -> u64 {
    assert!(value >= 0.0 && value.fract() == 0.0, "{value} counts nothing");
    value as u64
}

fn parse_sample(line: &str) -> Option<(&str, Labels, f64)> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.split_once("=\"")?;
            let (value, after) = parse_quoted(after)?;
            if labels.insert(key.to_owned(), value).is_some() {
                return None;
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    Some((name, labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// A label's value up to its closing quotation mark, and the text after it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                escaped @ ('"' | '\\') => escaped,
                _ => return None,
            }),
            (_, c) => value.push(c),
        }
    }
}
