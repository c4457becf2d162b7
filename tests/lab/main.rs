//! The lab: tests against a real kernel.
//!
//! `cargo lab [FILTER...]` boots virtual machines with this host's newest Debian kernel and a
//! Debian of its release (`tests/machine`), under plain emulation. The same program runs inside them
//! as root. It creates real multipath devices (multipathd over scsi_debug, iSCSI and LIO, NVMe over
//! TCP, or device-mapper tables over null_blk and brd) and breaks them. It then checks `/metrics`,
//! the API, and the messages of a real Prometheus and Alertmanager. Each scenario is one function
//! that starts its own exporter and leaves the machine as it found it. A machine that cannot be
//! cleaned boots again.
//!
//! ```text
//! host:   main -> host::run -> vm::Vm::drain      boots, watches, prints      (one thread per machine)
//!                                 | .cache/lab, shared over 9p: queue/NAME files, vmN/report.jsonl
//! guest:  main -> guest::run -> scenarios::*      claims a name from the queue, runs it, tears down
//! ```
//!
//! `LAB_EXPORTER` names the exporter. `make test` passes the release binary. By default the lab uses
//! the slow debug build that cargo puts beside it.
//!
//! `--stage NAME [HOST_PORT:MACHINE_PORT...]` boots one machine that stays up instead, with ports of
//! this host that lead into it. The machine reports when it is ready. Then each line of standard input
//! is a command (`cut storage1`), and the machine answers each with a line. The machine ends at the end
//! of standard input. The tests of the status page use such a machine.
//!
//! Environment variables:
//!
//! - `LAB_EXPORTER`
//! - `LAB_VMS`: the number of machines at a time (3)
//! - `KERNEL`: a release of `/boot`
//! - `SUITE`: boot this Debian release instead (`bullseye`, `trixie`, `sid`)
//! - `LAB_KEEP=1`: keep the artefacts of every scenario in `.cache/lab/vmN/NAME`, not only those of
//!   failed ones
//! - `LAB_CYCLES`: the number of cycles of `volumes_attached_and_detached`; 500 cycles show if memory
//!   grows

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
