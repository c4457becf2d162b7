//! The real Prometheus and Alertmanager over an exporter, and what they tell whom.
//!
//! Rules, configurations and texts are the project's own; only addresses and times are others.

use std::cell::Cell;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regex::{Captures, Regex};
use serde_json::Value;
use tempfile::TempDir;

use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::http;
use crate::inbox::Inbox;
use crate::wait::{PATIENCE, eventually, eventually_eq, try_eventually};

/// What the alerts call the exporter's host.
pub const HOST: &str = "127.0.0.1";

const RULES: &str = include_str!("../../alerts/multipath.rules.yml");
const SCRAPES: &str = include_str!("../../alerts/prometheus.yml");
const ROUTES: &str = include_str!("../../alerts/alertmanager.yml");
const TEXTS: &str = include_str!("../../alerts/multipath.tmpl");

const PROMETHEUS: &str = "127.0.0.1:9090";
const ALERTMANAGER: &str = "127.0.0.1:9093";

/// Of scrapes and evaluations: as short as an emulated processor bears that is shared.
const INTERVAL: Duration = Duration::from_millis(2500);

/// How long the routes wait for an alert that silences another.
const TWO_SCRAPES: &str = "30s";

/// Evaluations in which nothing is notified if nothing is to be: every group is looked at twice.
const QUIET: u64 = 3;

/// How long a minute of the rules lasts.
const MINUTE: Duration = Duration::from_millis(1500);

/// The groups of rules that tell of devices in trouble: enough where there are many devices, as the machine has one
/// processor.
pub const TROUBLE: &[&str] = &["multipath-memory", "multipath-day", "multipath"];

/// No choice, so every group: what is told then is all that there is to tell.
pub const ALL_GROUPS: &[&str] = &[];

/// Both programs; killed when dropped.
pub struct Alerting {
    prometheus: Child,
    alertmanager: Child,
    inbox: Inbox,
    /// How many of the notifications have been looked at.
    seen: Cell<usize>,
    _storage: TempDir,
}

/// What a person gets to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub title: String,
    /// What is wrong, a line for each kind of trouble.
    pub sentences: Vec<String>,
    /// More about each device, or whatever else it is about, but not since when.
    pub details: Vec<String>,
}

impl Alerting {
    /// Starts them with these groups of rules and waits until the exporter has been scraped. What begins when all was well
    /// is told after `group_wait`. Configurations and logs go into the scenario's directory.
    pub fn start(lab: &Lab, exporter: &Exporter, groups: &[&str], group_wait: Duration) -> Self {
        let dir = lab.dir();
        let storage = TempDir::new().expect("/tmp is writable in the guest");
        let inbox = Inbox::open(&dir.join("notifications.log"));
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("the directory is writable");
        write("multipath.rules.yml", &rules(groups));
        write("prometheus.yml", &scrapes(exporter.address()));
        write("multipath.tmpl", TEXTS);
        write("alertmanager.yml", &routes(&dir.join("slack-url"), group_wait));
        write("slack-url", &format!("http://{}/", inbox.address()));
        let alertmanager = spawn(
            dir,
            "prometheus-alertmanager",
            &[
                "--config.file=alertmanager.yml",
                // Which alerts it gets, and when it looks at which group.
                "--log.level=debug",
                // Not waiting for other Alertmanagers.
                "--cluster.listen-address=",
                &format!("--web.listen-address={ALERTMANAGER}"),
                &format!("--storage.path={}", storage.path().join("alertmanager").display()),
            ],
        );
        let prometheus = spawn(
            dir,
            "prometheus",
            &[
                "--config.file=prometheus.yml",
                // Otherwise the first scrape comes after five seconds.
                "--scrape.discovery-reload-interval=100ms",
                // Once is enough, as nothing gets lost. To groups that are looked at every few seconds it would be
                // news, minute by minute, that something has been over for long.
                "--rules.alert.resend-delay=1h",
                &format!("--web.listen-address={PROMETHEUS}"),
                &format!("--storage.tsdb.path={}", storage.path().join("prometheus").display()),
            ],
        );
        let alerting = Alerting { prometheus, alertmanager, inbox, seen: Cell::new(0), _storage: storage };
        for address in [ALERTMANAGER, PROMETHEUS] {
            eventually(&format!("{address} is ready"), 3 * PATIENCE, || try_get(address, "/-/ready").map(drop));
        }
        alerting.wait_for_scrapes(true);
        alerting
    }

    /// Waits until the exporter is seen to answer, or not to.
    #[track_caller]
    pub fn wait_for_scrapes(&self, answered: bool) {
        let want = if answered { "1" } else { "0" };
        eventually(&format!("`up` is {want}"), PATIENCE, || match self.query("up").as_slice() {
            [up] if up["value"][1] == want => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    /// Waits for the next notification.
    #[track_caller]
    pub fn next(&self) -> Notification {
        let at = self.seen.get();
        let post = try_eventually(2 * PATIENCE, || self.inbox.posts().get(at).cloned().ok_or_else(String::new));
        self.seen.set(at + 1);
        Notification::of(&post.unwrap_or_else(|_| panic!("no notification after {at}\n{}", self.problems())))
    }

    /// Waits for the notification that says just this, and gives all until then, itself included.
    #[track_caller]
    pub fn until(&self, sentence: &str) -> Vec<Notification> {
        let mut told = Vec::new();
        while told.last().is_none_or(|last: &Notification| last.sentences != [sentence]) {
            told.push(self.next());
        }
        told
    }

    /// Waits until each of these texts has been told, in whatever order, and gives their notifications. The others may be
    /// told meanwhile, and nothing else; one that is among both may be told again, and the last is given.
    #[track_caller]
    pub fn each<const N: usize>(&self, texts: [&str; N], others: &[&str]) -> [Notification; N] {
        let mut told = texts.map(|_| None);
        while told.iter().any(Option::is_none) {
            let next = self.next();
            let text = next.sentences.join("\n");
            let at = texts.iter().position(|expected| *expected == text);
            let is_expected = at.is_some_and(|at| told[at].is_none()) || others.contains(&text.as_str());
            assert!(is_expected, "{next:#?}\n{}", self.problems());
            if let Some(at) = at {
                told[at] = Some(next);
            }
        }
        told.map(|told| told.expect("each has been told"))
    }

    /// Waits until nothing fires any more, or is about to, and sees that nobody has been notified of more.
    #[track_caller]
    pub fn assert_over(&self) {
        eventually_eq("there is no alert", String::new(), || self.problems());
        self.assert_quiet();
    }

    /// Sees several groups' intervals go by, and nobody notified.
    #[track_caller]
    pub fn assert_quiet(&self) {
        let before = self.evaluations();
        eventually("the rules are evaluated", 2 * PATIENCE, || match self.evaluations() {
            now if now >= before + QUIET => Ok(()),
            now => Err(format!("{before} evaluations before, {now} now")),
        });
        let unexpected: Vec<_> = self.inbox.posts()[self.seen.get()..].iter().map(Notification::of).collect();
        assert_eq!(unexpected, [], "\n{}", self.problems());
    }

    /// The result of an instant query.
    #[track_caller]
    pub fn query(&self, promql: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", percent_encode(promql));
        let answer = try_get(PROMETHEUS, &path).unwrap_or_else(|e| panic!("{promql}: {e}"));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{promql}: {e}: {answer}"));
        let result = answer["data"]["result"].as_array();
        result.unwrap_or_else(|| panic!("{promql}: {answer}")).clone()
    }

    /// The firing alerts of one name.
    #[track_caller]
    pub fn firing(&self, alert: &str) -> Vec<Value> {
        self.query(&format!(r#"ALERTS{{alertname="{alert}",alertstate="firing"}}"#))
    }

    /// All that Prometheus holds of troubled devices and alerts, for a failure's report.
    fn problems(&self) -> String {
        let series = ["ALERTS", r#"{__name__=~"wwid:multipath_trouble:.+"}"#].map(|promql| self.query(promql));
        series.iter().flatten().map(|sample| format!("{} {}\n", sample["metric"], sample["value"][1])).collect()
    }

    /// How often the rules of devices in trouble have been evaluated, by what they record each time.
    fn evaluations(&self) -> u64 {
        let recorded = self.query("max(count_over_time(wwid:multipath_paths:max1d[1h]))");
        let count = recorded.first().and_then(|sample| sample["value"][1].as_str()?.parse().ok());
        count.unwrap_or_default()
    }
}

impl Drop for Alerting {
    fn drop(&mut self) {
        for child in [&mut self.prometheus, &mut self.alertmanager] {
            // Either may fail if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Notification {
    /// From what a Slack channel's incoming webhook gets.
    fn of(post: &Value) -> Self {
        let field = |name: &str| {
            let value = post["attachments"][0][name].as_str();
            value.unwrap_or_else(|| panic!("no {name}: {post}")).to_owned()
        };
        let sentences = field("fallback").lines().map(str::to_owned).collect();
        let text = field("text");
        let details = text.lines().filter_map(|line| line.strip_prefix("- "));
        let details = details.map(|line| line.split(" Since ").next().unwrap_or_default().to_owned()).collect();
        Notification { title: field("title"), sentences, details }
    }
}

/// The rules of these groups in a time lapse: every duration is as much shorter as a minute is, and no group is evaluated
/// more often than those without an interval of their own. What expressions compare with a number of seconds stays.
fn rules(groups: &[&str]) -> String {
    const HEAD: &str = "\n  - name: ";
    let (preamble, all) = RULES.split_once(HEAD).expect("there are groups");
    let all: Vec<_> = all.split(HEAD).map(|group| group.split_once('\n').expect("a group has rules")).collect();
    groups.iter().for_each(|group| assert!(all.iter().any(|(name, _)| name == group), "there is no group {group}"));
    let wanted = all.iter().filter(|(name, _)| groups.is_empty() || groups.contains(name));
    let rules: String = wanted.map(|(name, rules)| format!("{HEAD}{name}\n{rules}")).collect();
    let time = Regex::new(r"(for: |interval: |offset |\[)(\d+)([mhd])\b").expect("it is one");
    let shorter = |time: &Captures| {
        let unit = match &time[3] {
            "m" => 1,
            "h" => 60,
            _ => 24 * 60,
        };
        let duration = MINUTE * unit * time[2].parse::<u32>().expect("digits are a number");
        let duration = if &time[1] == "interval: " { duration.max(INTERVAL) } else { duration };
        format!("{}{}", &time[1], go_duration(duration))
    };
    format!("{preamble}{}", time.replace_all(&rules, shorter))
}

/// The example with our addresses and times.
fn scrapes(exporter: SocketAddr) -> String {
    let interval = go_duration(INTERVAL);
    with_values(SCRAPES, |key, _| match key {
        "scrape_interval" => Some(format!("{interval}\n  scrape_timeout: {interval}")),
        "evaluation_interval" => Some(interval.clone()),
        "- targets" => Some(format!("['{ALERTMANAGER}']")),
        _ => None,
    })
    .replace("- localhost:10056\n", &format!("- {exporter}\n"))
}

/// The example with a Slack channel of ours as the receiver, and with our times. Groups are looked at between two
/// evaluations: in the midst of one a device may have ended one alert and not yet begun the other. That takes a
/// `group_wait` longer than alerts are on their way, as Alertmanager otherwise looks at a group when its first alert comes.
fn routes(slack_url_file: &Path, group_wait: Duration) -> String {
    with_values(ROUTES, |key, value| match key {
        "receiver" if value.starts_with("multipath-email") => Some("multipath-slack".to_owned()),
        "- api_url_file" => Some(slack_url_file.display().to_string()),
        "group_wait" if value == TWO_SCRAPES => Some(go_duration(2 * INTERVAL)),
        "group_wait" => Some(go_duration(group_wait + INTERVAL * 2 / 5)),
        "group_interval" => Some(go_duration(INTERVAL)),
        _ => None,
    })
}

/// A configuration with other values; one that is to be replaced stands on the line of its key.
fn with_values(text: &str, value: impl Fn(&str, &str) -> Option<String>) -> String {
    let line = |line: &str| match line.split_once(':') {
        Some((key, old)) if !old.is_empty() => match value(key.trim_start(), old.trim_start()) {
            Some(new) => format!("{key}: {new}\n"),
            None => format!("{line}\n"),
        },
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

fn spawn(dir: &Path, program: &str, args: &[&str]) -> Child {
    let log = File::create(dir.join(format!("{program}.log"))).expect("the scenario's directory is writable");
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file can be duplicated"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"))
}

fn try_get(address: &str, path: &str) -> Result<String, String> {
    let address = address.parse().expect("the addresses are numbers");
    match http::get(address, path, PATIENCE) {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(format!("{path}: {} {}", answer.status, answer.body)),
        Err(e) => Err(format!("{path}: {e}")),
    }
}

/// As these programs write it.
fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
