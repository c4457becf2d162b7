//! The lab: tests against a real kernel.
//!
//! `cargo lab [FILTER...]` boots virtual machines with this host's newest Debian kernel and a Debian of its release
//! (`tests/machine`), under plain emulation. The same program runs inside them as root: it makes real multipath devices
//! (multipathd over scsi_debug, iSCSI and LIO, NVMe over TCP, or device-mapper tables over null_blk and brd), breaks them,
//! and asserts on what the exporter then says at `/metrics` and in its API, and on what a real Prometheus and Alertmanager
//! tell people of it. Each scenario is one function that starts its own exporter and leaves the machine as it found it; a
//! machine that cannot be cleaned is booted anew.
//!
//! ```text
//! host:   main -> host::run -> vm::Vm::drain      boots, watches, prints      (one thread per machine)
//!                                 | .cache/lab, shared over 9p: queue/NAME files, vmN/report.jsonl
//! guest:  main -> guest::run -> scenarios::*      claims a name from the queue, runs it, tears down
//! ```
//!
//! `LAB_EXPORTER` names the exporter: `make test` hands in the one that is shipped. Without it, it is the one that cargo has
//! built beside the lab, as slow as `cargo lab` builds.
//!
//! `--stage NAME [HOST_PORT:MACHINE_PORT...]` boots one machine that stays up instead, with ports of this host that lead
//! into it. It says when it is ready; then each line of standard input is a command to it (`cut storage1`), which it answers
//! with a line, and at the end of standard input it goes. The status page is looked at over such a machine.
//!
//! Environment: `LAB_EXPORTER`, `LAB_VMS` (machines at once, default 3), `KERNEL` (a release of `/boot`), `SUITE` (boot this
//! Debian release instead: `bullseye`, `trixie`, `sid`), `LAB_KEEP=1` (keep the artefacts of every scenario in
//! `.cache/lab/vmN/NAME`; those of failed ones always are), `LAB_CYCLES` (how often `volumes_attached_and_detached` does so;
//! 500 shows whether memory grows).

#![expect(clippy::disallowed_methods, reason = "the lab drives real programs; only the exporter starts none")]

mod alerting;
mod boots;
mod dm;
mod exporter;
mod guest;
mod host;
mod http;
mod inbox;
mod iscsi;
mod lio;
mod memory_disks;
mod metrics;
mod mounted;
mod multipathd;
mod network;
mod nvme;
mod programs;
mod root_fs;
mod san;
mod scenarios;
mod scsi_debug;
mod scsi_disk;
mod share;
mod udevd;
mod uplink;
mod vm;
mod wait;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.as_slice() {
        [flag, machine] if flag == vm::GUEST_FLAG => guest::run(machine),
        [flag, stage, forwards @ ..] if flag == host::STAGE_FLAG => host::run_stage(stage, forwards),
        _ => host::run(&args),
    }
}
