//! The real Prometheus and Alertmanager over an exporter, and the notifications that people
//! receive.
//!
//! Rules, configurations and texts are the project's own. Only addresses and times differ.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regex::{Captures, Regex};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::exporter::Exporter;
use crate::guest::Lab;
use crate::http;
use crate::inbox::Inbox;
use crate::programs::{reap, run};
use crate::wait::{PATIENCE, eventually, eventually_eq, try_eventually};

/// The name of the exporter's host in alerts.
pub const HOST: &str = "127.0.0.1";

const RULES: &str = include_str!("../../alerts/multipath.rules.yml");
const SCRAPES: &str = include_str!("../../alerts/prometheus.yml");
const ROUTES: &str = include_str!("../../alerts/alertmanager.yml");
const TEXTS: &str = include_str!("../../alerts/multipath.tmpl");
const MAINTENANCE: &str = include_str!("../../docs/maintenance.md");

const PROMETHEUS: &str = "127.0.0.1:9090";
const ALERTMANAGER: &str = "127.0.0.1:9093";

/// The interval of scrapes and evaluations. A shorter one overloads an emulated processor that is
/// shared.
const INTERVAL: Duration = Duration::from_millis(2500);

/// The time that the routes wait for an alert that silences another.
const TWO_SCRAPES: &str = "30s";

/// The number of evaluations without a notification that count as quiet. Alertmanager looks at
/// every group twice in that time.
const QUIET: u64 = 3;

/// The beginning of a sentence about an alert that has ended.
const ENDED: &str = "No longer firing";

/// Beginnings of lines that do not describe an alert.
const NO_SENTENCES: &[&str] = &["https://", "An alert that ends is no recovery.", "Alertmanager: "];

/// The rules of devices in trouble. They are enough where there are many devices, because the
/// machine has one processor.
pub const TROUBLE: &[&str] = &["multipath"];

/// Every group, so that no notification is missing.
pub const ALL_GROUPS: &[&str] = &[];

/// The times of one scenario.
pub struct Times {
    /// The time that Alertmanager waits before it sends new trouble.
    pub group_wait: Duration,
    /// The length of a minute of the rules.
    pub minute: Duration,
    /// The interval at which Prometheus sends a lasting alert again. When Prometheus has been
    /// stopped for four times as long, Alertmanager considers its alerts ended.
    pub resend: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            group_wait: Duration::ZERO,
            minute: Duration::from_millis(1500),
            // One transmission is enough, because nothing gets lost. Groups with an interval of
            // seconds would take each repetition for news of an alert that is long over.
            resend: Duration::from_secs(60 * 60),
        }
    }
}

/// Both programs. Dropping the value kills them.
pub struct Alerting {
    prometheus: RefCell<Option<Child>>,
    alertmanager: Child,
    inbox: Inbox,
    /// The number of notifications that the scenario has examined.
    seen: Cell<usize>,
    dir: PathBuf,
    storage: TempDir,
    resend: Duration,
}

/// A notification, as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    pub title: String,
    /// One sentence for each host and alert that fires.
    pub firing: Vec<String>,
    /// One sentence for each host and alert that has ended.
    pub ended: Vec<String>,
    /// Details of each device or other object, without start times.
    pub details: Vec<String>,
}

impl Alerting {
    /// Starts both programs with these groups of rules, and waits for the first scrape of the
    /// exporter. Configurations and logs go into the scenario's directory.
    pub fn start(lab: &Lab, exporter: &Exporter, groups: &[&str], times: Times) -> Self {
        let dir = lab.dir();
        let storage = TempDir::new().expect("/tmp is writable in the guest");
        let inbox = Inbox::open(&dir.join("notifications.log"));
        let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("the directory is writable");
        write("multipath.rules.yml", &rules(groups, times.minute));
        write("prometheus.yml", &scrapes(exporter.address()));
        write("multipath.tmpl", TEXTS);
        write("alertmanager.yml", &routes(&dir.join("slack-url"), times.group_wait));
        write("slack-url", &format!("http://{}/", inbox.address()));
        let alertmanager = spawn(
            dir,
            "prometheus-alertmanager",
            &[
                "--config.file=alertmanager.yml",
                // The log shows received alerts, and each look at a group.
                "--log.level=debug",
                // Alertmanager does not wait for other instances.
                "--cluster.listen-address=",
                &format!("--web.listen-address={ALERTMANAGER}"),
                &format!("--storage.path={}", storage.path().join("alertmanager").display()),
            ],
        );
        let dir = dir.to_owned();
        let (prometheus, seen) = (RefCell::new(None), Cell::new(0));
        let alerting = Alerting { prometheus, alertmanager, inbox, seen, dir, storage, resend: times.resend };
        eventually("Alertmanager is ready", 3 * PATIENCE, || try_get(ALERTMANAGER, "/-/ready").map(drop));
        alerting.start_prometheus();
        alerting
    }

    /// Starts Prometheus with its stored data, and waits for the first scrape of the exporter.
    pub fn start_prometheus(&self) {
        let prometheus = spawn(
            &self.dir,
            "prometheus",
            &[
                "--config.file=prometheus.yml",
                // By default the first scrape takes five seconds.
                "--scrape.discovery-reload-interval=100ms",
                &format!("--rules.alert.resend-delay={}", go_duration(self.resend)),
                &format!("--web.listen-address={PROMETHEUS}"),
                &format!("--storage.tsdb.path={}", self.storage.path().join("prometheus").display()),
            ],
        );
        self.prometheus.replace(Some(prometheus));
        eventually("Prometheus is ready", 3 * PATIENCE, || try_get(PROMETHEUS, "/-/ready").map(drop));
        self.wait_for_scrapes(true);
    }

    /// Ends Prometheus.
    pub fn stop_prometheus(&self) {
        let mut prometheus = self.prometheus.take().expect("it runs");
        kill_process(Pid::from_child(&prometheus), Signal::TERM).expect("our own child can be signalled");
        reap(&mut prometheus, 2 * PATIENCE).expect("SIGTERM ends it");
    }

    /// Silences the alerts of a planned maintenance with the documented command.
    pub fn silence_for_maintenance(&self) {
        let command = MAINTENANCE.lines().find(|line| line.starts_with("amtool silence add")).expect("it has one");
        // Alerts have no such label here.
        let command = command.replace(" cluster=prod ", " ");
        run("sh", ["-c", &format!("{command} --author=lab --alertmanager.url=http://{ALERTMANAGER}")]);
    }

    /// Waits until Prometheus sees the exporter answer, or fail.
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

    /// Waits for a notification in which exactly these sentences fire. Returns all notifications up
    /// to it.
    #[track_caller]
    pub fn until_firing(&self, sentences: &[&str]) -> Vec<Notification> {
        let mut told = vec![self.next()];
        while told.last().is_some_and(|last| last.firing != sentences) {
            told.push(self.next());
        }
        told
    }

    /// Waits until each of these sentences has fired or ended. Only these and those in `may` are
    /// allowed.
    #[track_caller]
    pub fn until_told(&self, sentences: &[&str], may: &[&str]) -> Vec<Notification> {
        let mut told: Vec<Notification> = Vec::new();
        let is_told =
            |told: &[Notification], sentence: &str| told.iter().any(|one| one.sentences().any(|s| s == sentence));
        while !sentences.iter().all(|sentence| is_told(&told, sentence)) {
            let next = self.next();
            let unexpected: Vec<_> = next.sentences().filter(|s| !sentences.contains(s) && !may.contains(s)).collect();
            assert!(unexpected.is_empty(), "{unexpected:#?}\n{told:#?}\n{}", self.problems());
            told.push(next);
        }
        told
    }

    /// Waits until no alert fires or is pending. Checks that no further notification arrives.
    #[track_caller]
    pub fn assert_over(&self) {
        self.assert_over_but(&[]);
    }

    /// Like [`Alerting::assert_over`]. A last notification may have these sentences.
    #[track_caller]
    pub fn assert_over_but(&self, may: &[&str]) {
        eventually_eq("there is no alert", String::new(), || self.problems());
        self.assert_quiet_but(may);
    }

    /// Waits for several group intervals, and checks that no notification arrives.
    #[track_caller]
    pub fn assert_quiet(&self) {
        self.assert_quiet_but(&[]);
    }

    #[track_caller]
    fn assert_quiet_but(&self, may: &[&str]) {
        let before = self.evaluations();
        eventually("the rules are evaluated", 2 * PATIENCE, || match self.evaluations() {
            now if now >= before + QUIET => Ok(()),
            now => Err(format!("{before} evaluations before, {now} now")),
        });
        let arrived = self.inbox.posts()[self.seen.get()..].iter().map(Notification::of).collect::<Vec<_>>();
        let is_expected = |told: &&Notification| {
            let mut sentences = told.sentences().peekable();
            sentences.peek().is_some() && sentences.all(|sentence| may.contains(&sentence))
        };
        let unexpected: Vec<_> = arrived.iter().filter(|told| !is_expected(told)).collect();
        assert!(unexpected.is_empty(), "{unexpected:#?}\n{}", self.problems());
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

    /// All alerts and troubled hosts in Prometheus, for a failure's report.
    fn problems(&self) -> String {
        let series = ["ALERTS", "multipath_in_trouble == 1"].map(|promql| self.query(promql));
        series.iter().flatten().map(|sample| format!("{} {}\n", sample["metric"], sample["value"][1])).collect()
    }

    /// The number of times that Prometheus has evaluated the rules.
    fn evaluations(&self) -> u64 {
        let page = try_get(PROMETHEUS, "/metrics").unwrap_or_default();
        // All groups are evaluated at the same interval.
        let line = page.lines().find(|line| line.starts_with("prometheus_rule_group_iterations_total{"));
        let count = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        count.map_or(0, |count| count as u64)
    }
}

impl Drop for Alerting {
    fn drop(&mut self) {
        for child in self.prometheus.get_mut().iter_mut().chain([&mut self.alertmanager]) {
            // The process may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Notification {
    /// Parses the message of a Slack incoming webhook.
    fn of(post: &Value) -> Self {
        let field = |name: &str| {
            let value = post["attachments"][0][name].as_str();
            value.unwrap_or_else(|| panic!("no {name}: {post}")).to_owned()
        };
        let (mut firing, mut ended, mut details) = (Vec::new(), Vec::new(), Vec::new());
        for line in field("text").lines().map(str::to_owned) {
            if let Some(detail) = line.strip_prefix("- ") {
                details.push(detail.split(" Since ").next().unwrap_or_default().to_owned());
            } else if line.starts_with(ENDED) {
                ended.push(line);
            } else if !line.is_empty() && !NO_SENTENCES.iter().any(|start| line.starts_with(start)) {
                firing.push(line);
            }
        }
        Notification { title: field("title"), firing, ended, details }
    }

    /// All sentences.
    pub fn sentences(&self) -> impl Iterator<Item = &str> {
        self.firing.iter().chain(&self.ended).map(String::as_str)
    }
}

/// The rules of these groups in time lapse. Every minute becomes as short as `minute`, and no
/// group's interval is below the default. The time for which a recovery is shown shrinks, too.
/// Other numbers of seconds in expressions stay.
fn rules(groups: &[&str], minute: Duration) -> String {
    const HEAD: &str = "\n  - name: ";
    let (preamble, all) = RULES.split_once(HEAD).expect("there are groups");
    let all: Vec<_> = all.split(HEAD).map(|group| group.split_once('\n').expect("a group has rules")).collect();
    groups.iter().for_each(|group| assert!(all.iter().any(|(name, _)| name == group), "there is no group {group}"));
    let wanted = all.iter().filter(|(name, _)| groups.is_empty() || groups.contains(name));
    let rules: String = wanted.map(|(name, rules)| format!("{HEAD}{name}\n{rules}")).collect();
    let time = Regex::new(r"(for: |interval: |offset |\[|:)(\d+)([mhd])\b").expect("it is one");
    let shorter = |time: &Captures| {
        let unit = match &time[3] {
            "m" => 1,
            "h" => 60,
            _ => 24 * 60,
        };
        let duration = minute * unit * time[2].parse::<u32>().expect("digits are a number");
        let duration = if &time[1] == "interval: " { duration.max(INTERVAL) } else { duration };
        format!("{}{}", &time[1], go_duration(duration))
    };
    let recovery = format!("< {}", (10 * minute).as_secs());
    format!("{preamble}{}", time.replace_all(&rules, shorter).replace("< 600", &recovery))
}

/// The example with the lab's addresses and times.
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

/// The example with the lab's Slack channel as receiver, and with the lab's times.
fn routes(slack_url_file: &Path, group_wait: Duration) -> String {
    let slack = "  - name: multipath-slack\n";
    let (before, after) = ROUTES.split_once(slack).expect("there is a receiver for Slack");
    let (settings, _) = after.split_once("\n  - name: ").expect("it is not the last");
    let recovered = settings.replace("send_resolved: true", "send_resolved: false");
    let text = format!("{before}  - name: recovered-to-slack\n{recovered}\n{slack}{after}");
    with_values(&text, |key, value| match key {
        "receiver" if value.starts_with("multipath-email") => Some("multipath-slack".to_owned()),
        "receiver" if value.starts_with("multipath-recovered") => Some("recovered-to-slack".to_owned()),
        "- api_url_file" => Some(slack_url_file.display().to_string()),
        "group_wait" if value == TWO_SCRAPES => Some(go_duration(2 * INTERVAL)),
        "group_wait" => Some(go_duration(group_wait + INTERVAL * 2 / 5)),
        "group_interval" => Some(go_duration(INTERVAL)),
        _ => None,
    })
}

/// A configuration with other values. A value can be replaced if it stands on the line of its key.
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

/// A duration in Go's notation.
fn go_duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
