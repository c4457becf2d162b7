//! On the host: selects scenarios and prints the results in libtest's format.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use crate::scenarios::{self, Scenario};
use crate::share::{Share, Verdict};
use crate::vm::{Host, SUITE, Vm};

/// libtest's status, so that scripts can distinguish a failed test from a broken lab.
const TESTS_FAILED: u8 = 101;

/// The argument that boots a stage. The stage's name and the ports that lead into it follow.
pub const STAGE_FLAG: &str = "--stage";

/// Runs the scenarios that the arguments select.
pub fn run(args: &[String]) -> ExitCode {
    let selected = match select(args) {
        Ok(selected) => selected,
        Err(message) => {
            eprintln!("lab: {message}");
            return ExitCode::from(2);
        }
    };
    if args.iter().any(|arg| arg == "--list") {
        selected.iter().for_each(|name| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    run_all(&selected).unwrap_or_else(|message| {
        eprintln!("\nTHE LAB DID NOT RUN, AND NOTHING WAS TESTED\n{message}");
        ExitCode::FAILURE
    })
}

/// Boots a stage and sends it the lines of standard input. The stage ends at the end of the input
/// or when something in it fails.
pub fn run_stage(name: &str, forwards: &[String]) -> ExitCode {
    let failure = stage(name, forwards).err().unwrap_or_else(|| "it has ended".to_owned());
    eprintln!("lab: stage {name}: {failure}");
    ExitCode::FAILURE
}

fn stage(name: &str, forwards: &[String]) -> Result<(), String> {
    let stage = scenarios::stages().find(|stage| stage.name == name).ok_or_else(|| {
        let known: Vec<_> = scenarios::stages().map(|stage| stage.name).collect();
        format!("there is none of this name; known: {}", known.join(", "))
    })?;
    let forwards = forwards.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    let share = prepare(&format!("lab-{name}"), &[stage.name]).map_err(|e| format!("cannot prepare its files: {e}"))?;
    let host = Host::find(share.clone()).map_err(|missing| missing.join("\n"))?;
    let machine = "vm".to_owned();
    let vm = Vm::new(host, machine.clone(), forwards).map_err(|e| e.to_string())?;
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            share.command(&machine, &line).expect("the share is writable");
        }
        // The machine ends with this process.
        process::exit(0);
    });
    let (sender, verdicts) = mpsc::channel();
    vm.drain(&sender)?;
    drop(sender);
    verdicts.into_iter().find_map(|verdict| verdict.failure).map_or(Ok(()), Err)
}

/// The names that contain one of the filters, or equal it with `--exact`, or all names without a
/// filter. An empty selection is an error, and so is an exact name of a scenario for another suite.
/// The function reports other scenarios of other suites, and leaves them out.
fn select(args: &[String]) -> Result<Vec<&'static str>, String> {
    let (flags, filters): (Vec<_>, Vec<_>) = args.iter().partition(|arg| arg.starts_with('-'));
    if let Some(flag) = flags.iter().find(|flag| !["--bench", "--exact", "--list"].contains(&flag.as_str())) {
        return Err(format!("unknown flag {flag}; known: --bench, --exact, --list"));
    }
    let exact = flags.iter().any(|flag| *flag == "--exact");
    let is_wanted = |name: &str| {
        if exact {
            filters.iter().any(|filter| *filter == name)
        } else {
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        }
    };
    let names: Vec<_> = scenarios::all().map(|scenario| scenario.name).collect();
    let unique: BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len(), "scenarios have names of their own");
    let candidates: Vec<_> = if flags.iter().any(|flag| *flag == "--bench") {
        scenarios::measurements().collect()
    } else {
        scenarios::tests().collect()
    };
    let (wanted, suite) = (candidates.into_iter().filter(|scenario| is_wanted(scenario.name)), env::var(SUITE).ok());
    let (selected, others): (Vec<_>, Vec<_>) =
        wanted.partition(|scenario| scenario.suite.is_none() || scenario.suite == suite.as_deref());
    match others.first() {
        Some(other) if exact || selected.is_empty() => {
            Err(format!("{} needs {SUITE}={}", other.name, other.suite.unwrap_or_default()))
        }
        _ if selected.is_empty() => Err(format!("no test is called like {filters:?}")),
        _ => {
            tell_left_out(&others);
            Ok(selected.into_iter().map(|scenario| scenario.name).collect())
        }
    }
}

/// Reports the scenarios that need another suite and therefore do not run.
fn tell_left_out(others: &[&Scenario]) {
    if !others.is_empty() {
        let names: Vec<_> = others.iter().map(|other| other.name).collect();
        let suites: BTreeSet<_> = others.iter().filter_map(|other| other.suite).collect();
        let suites: Vec<_> = suites.into_iter().map(|suite| format!("{SUITE}={suite}")).collect();
        eprintln!("lab: {} left out, as they need {}: {}", names.len(), suites.join(" or "), names.join(", "));
    }
}

fn run_all(selected: &[&'static str]) -> Result<ExitCode, String> {
    // Several suites may run at the same time.
    let name = env::var(SUITE).map_or_else(|_| "lab".to_owned(), |suite| format!("lab-{suite}"));
    let share = prepare(&name, selected).map_err(|e| format!("cannot prepare .cache/{name}: {e}"))?;
    let host = Host::find(share).map_err(|missing| missing.join("\n"))?;
    let machines = machines(selected.len())?;
    let (exporter, on) = (exporter(), host.describe());
    println!("\nrunning {} tests of {} on {machines} machines: {on}", selected.len(), exporter.display());

    let start = Instant::now();
    let (sender, verdicts) = mpsc::channel();
    let (failures, broken) = thread::scope(|scope| {
        let machines: Vec<_> = (1..=machines)
            .map(|number| {
                let (host, sender) = (host.clone(), sender.clone());
                scope.spawn(move || {
                    Vm::new(host, format!("vm{number}"), Vec::new()).map_err(|e| e.to_string())?.drain(&sender)
                })
            })
            .collect();
        drop(sender);
        let failures = print_verdicts(&verdicts, selected);
        let ends = machines.into_iter().map(|machine| machine.join().expect("a machine's thread does not panic"));
        (failures, ends.filter_map(Result::err).collect::<Vec<_>>())
    });

    for verdict in &failures {
        println!("\n---- {} ----\n{}", verdict.scenario, verdict.failure.as_deref().unwrap_or_default());
    }
    for reason in &broken {
        println!("\n---- the lab itself ----\n{reason}");
    }
    let word = if failures.is_empty() && broken.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {} passed; {} failed; {} filtered out; finished in {:.1} s\n",
        selected.len() - failures.len(),
        failures.len(),
        scenarios::all().count() - selected.len(),
        start.elapsed().as_secs_f64(),
    );
    Ok(if word == "ok" { ExitCode::SUCCESS } else { ExitCode::from(TESTS_FAILED) })
}

/// An empty share that holds the programs and the queue.
fn prepare(name: &str, selected: &[&str]) -> io::Result<Share> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache").join(name);
    match fs::remove_dir_all(&directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => fs::create_dir_all(&directory)?,
    }
    let share = Share::at(directory);
    let lab = env::current_exe()?;
    fs::copy(&lab, share.lab_program())?;
    fs::create_dir(share.libraries())?;
    for library in libraries(&lab)? {
        fs::copy(&library, share.libraries().join(library.file_name().unwrap_or_default()))?;
    }
    let exporter = exporter();
    fs::copy(&exporter, share.exporter_program())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", exporter.display())))?;
    selected.iter().try_for_each(|scenario| share.enqueue(scenario))?;
    Ok(share)
}

/// The files of a program's libraries and of their loader, as `ldd` lists them.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).stdin(Stdio::null()).output()?;
    let list = String::from_utf8_lossy(&output.stdout);
    Ok(list.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The program under test.
fn exporter() -> PathBuf {
    env::var_os("LAB_EXPORTER").map_or_else(|| env!("CARGO_BIN_EXE_multipath_exporter").into(), PathBuf::from)
}

/// At most one machine per scenario. Three machines keep two processors busy, because they mostly
/// wait.
fn machines(selected: usize) -> Result<usize, String> {
    let wanted = match env::var("LAB_VMS") {
        Ok(number) => number.parse().map_err(|e| format!("LAB_VMS={number}: {e}"))?,
        Err(_) => 3,
    };
    Ok(wanted.clamp(1, selected))
}

/// Prints verdicts as they arrive, and returns the failed ones. A scenario without a verdict counts
/// as failed.
fn print_verdicts(verdicts: &Receiver<Verdict>, selected: &[&str]) -> Vec<Verdict> {
    let mut waiting: BTreeSet<_> = selected.iter().copied().collect();
    let mut failures = Vec::new();
    for verdict in verdicts {
        waiting.remove(verdict.scenario.as_str());
        let word = if verdict.failure.is_none() { "ok" } else { "FAILED" };
        println!("test {} ... {word} ({:.1} s)", verdict.scenario, verdict.seconds);
        verdict.notes.iter().for_each(|note| println!("    {note}"));
        failures.extend(verdict.failure.is_some().then_some(verdict));
    }
    let not_run = waiting.into_iter().map(|name| {
        println!("test {name} ... FAILED (not run)");
        let failure = Some("No machine came to a verdict on it.".to_owned());
        Verdict { scenario: name.to_owned(), seconds: 0.0, notes: Vec::new(), failure }
    });
    failures.extend(not_run);
    failures
}
