//! The problems, worst first: one line per kind, with the affected devices and a link to the
//! runbook.

mod transport;

use std::fmt::{self, Write};
use std::time::Duration;

use super::escape::{Escaped, NameList};
use super::query::Query;
use super::words::Severity::{self, Critical, Note, Warning};
use super::words::{Count, While, are, have, it};
use super::{PageContent, Ranked, clock};
use crate::source::health::{Source, SourcePart, unknown_sources};
use crate::topology::{Daemon, Device, DirectUse, Health, LossReason, LostDevice, Snapshot};

/// The number of devices that one line names. It counts the others.
const MAX_NAMED: usize = 5;

/// One kind of problem.
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// The problem in words, up to the colon.
    pub(crate) what: String,
    /// The affected devices or parts, in HTML.
    which: Vec<String>,
    /// The alert whose runbook applies.
    runbook: &'static str,
}

#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    /// Adds a finding, unless `which` is empty.
    fn add(
        &mut self,
        severity: Severity,
        runbook: &'static str,
        which: Vec<String>,
        what: impl FnOnce(usize) -> String,
    ) {
        if !which.is_empty() {
            self.0.push(Finding { severity, what: what(which.len()), which, runbook });
        }
    }
}

/// All findings, worst first.
pub(crate) fn findings(snapshot: &Snapshot, ranked: &[Ranked<'_>], view: &PageContent<'_>) -> Vec<Finding> {
    let mut found = Found::default();
    let with = |has: &dyn Fn(&Ranked<'_>) -> bool| -> Vec<String> {
        ranked.iter().filter(|ranked| has(ranked)).map(|ranked| link(ranked.device)).collect()
    };
    let dead = |ranked: &Ranked<'_>| ranked.counts.health() == Health::WithoutValidPaths;
    let queueing = |ranked: &Ranked<'_>| ranked.device.queueing == Some(true);
    let failing = |ranked: &Ranked<'_>| ranked.device.queueing == Some(false);
    let devices = |number| Count(number, "device");

    let used = |one: &Ranked<'_>| dead(one) && !one.is_unused();
    found.add(Critical, "MultipathQueueingWithoutPaths", with(&|one| used(one) && queueing(one)), |number| {
        format!("I/O to {} waits for a valid path: programs hang", devices(number))
    });
    found.add(Critical, "MultipathNoValidPaths", with(&|one| used(one) && failing(one)), |number| {
        format!("{} {} no valid path: I/O fails", devices(number), have(number))
    });
    found.add(Critical, "MultipathNoValidPaths", with(&|one| used(one) && !queueing(one) && !failing(one)), |number| {
        format!("{} {} no valid path", devices(number), have(number))
    });
    found.add(Warning, "MultipathNoValidPathsUnused", with(&|one| dead(one) && one.is_unused()), |number| {
        format!("{} {} no valid path, and nothing uses {}", devices(number), have(number), it(number))
    });
    found.add(Critical, "MultipathWwidMismatch", with(&|one| one.leads_elsewhere()), |number| {
        format!("Another LUN is behind a path of {}: stop using it", devices(number))
    });
    found.add(Critical, "MultipathLunConflict", with(&|one| one.holds_two_luns()), |number| {
        format!("One pair of ports has two LUNs in {}: stop using {}, data is at risk", devices(number), it(number))
    });
    found.add(Critical, "MultipathAllPathsBlocked", with(&|one| one.device.is_blocked()), |number| {
        format!("All valid paths of {} are blocked: no I/O completes", devices(number))
    });
    let stalled = ranked.iter().filter(|one| one.device.is_stalled());
    let stalled = stalled.map(|one| format!("{}{}", link(one.device), still(one.device.stalled)));
    found.add(Critical, "MultipathIoStalled", stalled.collect(), |number| {
        format!("I/O of {} is stalled: programs hang", devices(number))
    });
    found.add(Critical, "MultipathDeviceInUseLost", lost(snapshot, LossReason::InUse), |number| {
        format!("{} {} lost while in use", devices(number), if number == 1 { "was" } else { "were" })
    });
    found.add(Warning, "MultipathDeviceLost", lost(snapshot, LossReason::NotBackAfterBoot), |number| {
        format!("{} did not come back after the boot", devices(number))
    });
    found.add(Warning, "MultipathDeviceLost", lost(snapshot, LossReason::NoValidPath), |number| {
        format!("{} had no valid path and {} gone", devices(number), are(number))
    });
    found.add(Warning, "MultipathSinglePath", with(&|one| one.has_one_left()), |number| {
        format!("{} {} one valid path left", devices(number), have(number))
    });
    found.add(Warning, "MultipathDiskUsedDirectly", used_directly(snapshot, ranked), |number| {
        format!("{} {} used without the multipath device", Count(number, "disk"), are(number))
    });
    let degraded = |one: &Ranked<'_>| one.counts.health() == Health::Degraded && !one.has_one_left();
    found.add(Warning, "MultipathFaultyPaths", with(&degraded), |number| {
        format!("{} {} failed paths", devices(number), have(number))
    });
    let in_part = |one: &Ranked<'_>| one.device.blocked_paths > 0 && !one.device.is_blocked();
    found.add(Warning, "MultipathAllPathsBlocked", with(&in_part), |number| {
        format!("{} {} blocked paths: I/O on them waits", devices(number), have(number))
    });
    let swallowing = ranked.iter().flat_map(|one| one.device.swallowing_paths().map(move |path| (one, path)));
    let swallowing =
        swallowing.map(|(one, path)| format!("{} of {}{}", Escaped(&path.name), link(one.device), still(path.stalled)));
    found.add(Warning, "MultipathIoStalled", swallowing.collect(), |number| {
        format!("I/O is stalled on {}, but flows on other paths of the device", Count(number, "path"))
    });
    found.add(Warning, "MultipathDeviceSuspended", with(&|one| one.device.suspended == Some(true)), |number| {
        format!("{} {} suspended: I/O waits", devices(number), are(number))
    });
    found.add(Warning, "MultipathPathsMissing", missing(snapshot, ranked), |number| {
        format!("{} {} fewer paths than expected", devices(number), have(number))
    });
    transport::find(snapshot, &mut found);
    if snapshot.daemon == Daemon::Down {
        found.add(Warning, "MultipathDaemonDown", vec!["failed paths stay failed".to_owned()], |_| {
            "multipathd does not answer".to_owned()
        });
    }
    let strays = ranked.iter().filter(|one| one.has_strays());
    let strays = strays.map(|one| format!("{} ({})", link(one.device), NameList(&one.device.stray_paths)));
    found.add(Warning, "MultipathStrayPath", strays.collect(), |number| {
        format!("A disk has the WWID and size of {} and is not a path of {}", devices(number), it(number))
    });
    let unassembled = |is_held: bool| snapshot.unassembled.iter().filter(move |disk| disk.held_by.is_some() == is_held);
    let disks = unassembled(false).map(|disk| format!("{} ({})", Escaped(&disk.wwid), NameList(&disk.paths)));
    found.add(Warning, "MultipathNotAssembled", disks.collect(), |number| {
        format!("{} {} not in a multipath device, but should be", Count(number, "disk"), are(number))
    });
    let disks = unassembled(true).filter_map(|disk| {
        let (wwid, holder) = (Escaped(&disk.wwid), Escaped(disk.held_by.as_ref()?));
        Some(format!("{wwid} ({}, {holder})", NameList(&disk.paths)))
    });
    found.add(Note, "MultipathNotAssembled", disks.collect(), |number| {
        format!("A driver other than multipath holds {}", Count(number, "disk"))
    });
    found.add(Warning, "MultipathSizeMismatch", with(&|one| one.device.mismatches.size > 0), |number| {
        format!("Paths of {} report different sizes", devices(number))
    });
    found.add(Warning, "MultipathReadOnlyMismatch", with(&|one| one.device.mismatches.read_only > 0), |number| {
        format!("Paths of {} differ in write protection", devices(number))
    });
    found.add(Warning, "MultipathLunMismatch", with(&|one| one.device.mismatches.lun > 0), |number| {
        format!("Paths of {} to one target have different LUN numbers", devices(number))
    });
    found.add(Warning, "MultipathPathMarginal", with(&|one| one.is_marginal()), |number| {
        format!("{} {} a marginal path", devices(number), have(number))
    });
    let in_part = view.sources.iter().filter(|(_, state)| state.up == Some(true) && state.error.is_some());
    let in_part = in_part.map(|(source, _)| source.as_str().to_owned()).collect();
    found.add(Warning, "MultipathExporterErrors", in_part, |_| {
        "Some objects could not be read and are shown as last read".to_owned()
    });
    for (source, state) in unknown_sources(view.sources) {
        for part in &state.unanswered {
            let unknown = match part {
                SourcePart::DeviceMapper => "Path states do not come from the kernel",
                SourcePart::Block => "States, sizes and identities of disks are unknown",
                SourcePart::Transports => "Native NVMe devices, sessions and ports are unknown",
                SourcePart::Multipathd | SourcePart::Uevent => continue,
            };
            let why = vec![format!("{} could not be read since the start", source.name())];
            found.add(Warning, "MultipathExporterStale", why, |_| unknown.to_owned());
        }
    }
    let is_told = |source| unknown_sources(view.sources).any(|(told, _)| *told == source);
    let unread = view.sources.iter().filter(|(_, state)| state.is_down()).map(|(source, _)| *source);
    let unread = unread.filter(|source| !is_told(*source));
    let unread: Vec<_> =
        unread.filter(|source| *source != Source::Multipathd || snapshot.daemon != Daemon::Down).collect();
    // Re-reads replace kernel events. If another source cannot be read, the page may be out of
    // date.
    let severity = if unread.iter().all(|source| *source == Source::Uevent) { Note } else { Warning };
    found.add(
        severity,
        "MultipathExporterStale",
        unread.iter().map(|source| source.as_str().to_owned()).collect(),
        |_| "Some sources cannot be read".to_owned(),
    );
    if view.sources.iter().any(|(_, state)| state.not_permitted) {
        // multipathd mostly agrees with the kernel. The SCSI layer often reports a failed path as
        // running.
        let severity = if matches!(snapshot.daemon, Daemon::Up(_)) { Note } else { Warning };
        let instead = vec![format!("path states come from {}", stand_in(Some(&snapshot.daemon)))];
        found.add(severity, "MultipathExporterStale", instead, |_| {
            "Access to device mapper is not permitted".to_owned()
        });
    }
    let mut findings = found.0;
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// Names the source of the path states that are shown if device mapper is not permitted.
pub(crate) fn stand_in(daemon: Option<&Daemon>) -> &'static str {
    match daemon {
        Some(Daemon::Up(_)) => "multipathd, corrected by events",
        _ => "multipathd’s last reading or the SCSI layer, corrected by events",
    }
}

/// The duration without completed I/O, as words after a name.
fn still(stalled: Option<Duration>) -> String {
    stalled.map(|stalled| format!(" (for {})", While(stalled))).unwrap_or_default()
}

/// The devices that were lost for this reason, with the time.
fn lost(snapshot: &Snapshot, reason: LossReason) -> Vec<String> {
    let lost = snapshot.remembered.lost.iter().filter(|device| device.reason == reason);
    let words = |device: &LostDevice| {
        format!("{} ({}), lost since {} UTC", Escaped(&device.name), Escaped(&device.wwid), clock(device.time))
    };
    lost.map(words).collect()
}

fn missing(snapshot: &Snapshot, ranked: &[Ranked<'_>]) -> Vec<String> {
    let of = |wwid: &str| ranked.iter().find(|ranked| *ranked.device.wwid == *wwid);
    let short = snapshot.remembered.devices.iter().filter(|(_, history)| history.missing_paths > 0);
    let short = short.map(|(wwid, history)| match of(wwid) {
        None => format!("{} (is not there)", Escaped(wwid)),
        Some(one) => format!("{} ({} of {})", link(one.device), one.counts.paths(), history.expected_paths),
    });
    short.collect()
}

/// The disks that are used without their device: the disk, its device, and its users.
fn used_directly(snapshot: &Snapshot, ranked: &[Ranked<'_>]) -> Vec<String> {
    let of = |wwid: &str| ranked.iter().find(|ranked| *ranked.device.wwid == *wwid);
    let disks = snapshot.used_directly.chunk_by(|one, other| (&one.wwid, &one.disk) == (&other.wwid, &other.disk));
    let disks = disks.filter_map(|uses| {
        let DirectUse { wwid, disk, .. } = uses.first()?;
        let users: Vec<&str> = uses.iter().map(|one| &*one.by).collect();
        let device = of(wwid).map_or_else(|| Escaped(wwid).to_string(), |one| link(one.device));
        Some(format!("{} of {device} (by {})", Escaped(disk), Escaped(&users.join(", "))))
    });
    disks.collect()
}

/// The device's name as a link to the device.
fn link(device: &Device) -> String {
    let query = Query { filter: device.wwid.to_string(), page: 1 };
    format!("<a href=\"/{query}\">{}</a>", Escaped(&device.name))
}

/// Writes the section, without content if there is no problem.
pub(crate) fn write(page: &mut String, findings: &[Finding]) -> fmt::Result {
    page.push_str("<section id=\"wrong\" data-live>\n");
    if !findings.is_empty() {
        page.push_str("<h2>Problems</h2>\n<ul class=\"findings\">\n");
        findings.iter().try_for_each(|finding| line(page, finding))?;
        page.push_str("</ul>\n");
    }
    page.push_str("</section>\n");
    Ok(())
}

fn line(page: &mut String, finding: &Finding) -> fmt::Result {
    let Finding { severity, what, which, runbook } = finding;
    let (class, mark) = (severity.class(), severity.mark());
    write!(page, "<li class=\"{class}\"><span class=\"mark\">{mark}</span> <span>{what}: ")?;
    let named = &which[..which.len().min(MAX_NAMED)];
    page.push_str(&named.join(", "));
    if which.len() > named.len() {
        write!(page, " and {} more", which.len() - named.len())?;
    }
    writeln!(
        page,
        ". <a class=\"help\" href=\"{}\" aria-label=\"Runbook: {runbook}\">Runbook</a></span></li>",
        super::runbooks::address(runbook)
    )
}
