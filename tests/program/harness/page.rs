//! A parser for the metrics page that does only what tests need.

use std::collections::BTreeSet;

/// Series that differ between two runs on the same fixtures, by the beginning of their line. The
/// first match counts.
const VOLATILE: &[(&str, Instead)] = &[
    ("multipath_exporter_build_info{", Instead::EmptyLabels),
    // A sandbox may forbid the socket, and the machine's own devices send uevents.
    ("multipath_exporter_source_up{source=\"uevent\"}", Instead::Zero),
    ("multipath_exporter_source_last_success_timestamp_seconds{source=\"uevent\"}", Instead::Nothing),
    ("multipath_exporter_source_duration_seconds{source=\"uevent\"}", Instead::Nothing),
    ("multipath_exporter_uevents_total{", Instead::Zero),
    ("multipath_exporter_uevent_overflows_total ", Instead::Zero),
    ("multipath_exporter_event_to_metric_seconds_", Instead::Zero),
    ("multipath_exporter_source_last_success_timestamp_seconds{", Instead::Zero),
    ("multipath_exporter_source_duration_seconds{", Instead::Zero),
    ("multipath_exporter_config_last_reload_success_timestamp_seconds ", Instead::Zero),
    ("multipath_exporter_scrapes_total ", Instead::Zero),
    ("multipath_exporter_http_responses_total{", Instead::Zero),
    ("process_", Instead::Zero),
];

/// The replacement of a volatile line in a settled page.
#[derive(Clone, Copy)]
enum Instead {
    /// The series with the value 0.
    Zero,
    /// The series with empty labels.
    EmptyLabels,
    /// No line.
    Nothing,
}

/// The page without the [`VOLATILE`] parts.
pub fn settle(page: &str) -> String {
    page.lines().filter_map(settle_line).map(|line| line + "\n").collect()
}

fn settle_line(line: &str) -> Option<String> {
    let Some((_, instead)) = VOLATILE.iter().find(|(start, _)| line.starts_with(start)) else {
        return Some(line.to_owned());
    };
    let (series, value) = line.rsplit_once(' ').unwrap();
    match instead {
        Instead::Zero => Some(format!("{series} 0")),
        Instead::EmptyLabels => {
            let parts: Vec<&str> = series.split('"').step_by(2).collect();
            Some(format!("{} {value}", parts.join("\"\"")))
        }
        Instead::Nothing => None,
    }
}

/// A page in either format. The formats differ only in comments.
pub struct Page {
    text: String,
}

impl Page {
    pub fn new(text: &str) -> Self {
        Page { text: text.to_owned() }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every series and its value, as written.
    pub fn samples(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}")))
    }

    /// The value of a series. The argument is the series as the page writes it.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.samples().find(|(other, _)| *other == series).map(|(_, value)| value.parse().unwrap())
    }

    /// The value of a metric whose only label is `wwid`.
    pub fn device(&self, metric: &str, wwid: &str) -> Option<f64> {
        self.value(&format!("multipath_device_{metric}{{wwid=\"{wwid}\"}}"))
    }

    /// The value of a metric that exists only while it is above 0, and whose only label is `wwid`.
    pub fn fault(&self, metric: &str, wwid: &str) -> f64 {
        let value = self.device(metric, wwid);
        assert_ne!(value, Some(0.0), "{metric} of {wwid} is 0 and there");
        value.unwrap_or(0.0)
    }

    /// The value of a label in the only series of this metric with these other labels, as the page
    /// writes them.
    pub fn label(&self, metric: &str, others: &str, label: &str) -> Option<&str> {
        let mut found = self.samples().filter_map(|(series, _)| {
            let labels = series.strip_prefix(metric)?.strip_prefix('{')?;
            labels.contains(others).then_some(labels)
        });
        let labels = found.next()?;
        assert_eq!(found.next(), None, "{metric} with {others} is there more than once");
        let (_, rest) = labels.split_once(&format!("{label}=\""))?;
        rest.split_once('"').map(|(value, _)| value)
    }

    /// The ports of a path according to its `multipath_path_info`: transport, initiator port,
    /// target, target port.
    pub fn ports(&self, path: &str) -> [&str; 4] {
        let path = format!("path=\"{path}\"");
        ["transport", "initiator_port", "target", "target_port"]
            .map(|label| self.label("multipath_path_info", &path, &format!(",{label}")).unwrap_or("no such path"))
    }

    /// The series of a metric and their values, as written.
    pub fn of_metric(&self, metric: &str) -> BTreeSet<(&str, &str)> {
        self.samples().filter(|(series, _)| series.split('{').next() == Some(metric)).collect()
    }

    /// The samples of this device, as written.
    pub fn of_device(&self, wwid: &str) -> BTreeSet<(&str, &str)> {
        let label = format!("wwid=\"{wwid}\"");
        self.samples().filter(|(series, _)| series.contains(&label)).collect()
    }

    /// Every metric name that has a sample.
    pub fn names(&self) -> BTreeSet<&str> {
        self.samples().map(|(series, _)| series.split('{').next().unwrap()).collect()
    }
}
