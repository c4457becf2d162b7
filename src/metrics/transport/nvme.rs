//! Metric families of NVMe controllers and subsystems.

use std::fmt;

use super::failures;
use crate::metrics::{Families, labels};
use crate::topology::{NvmeController, NvmeTimeouts, Snapshot};

labels!(ControllerLabels {
    controller: &'a str,
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
});

labels!(ControllerState {
    controller: &'a str,
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
    state: &'a str,
});

labels!(ControllerInfo {
    controller: &'a str,
    target: &'a str,
    target_port: &'a str,
    initiator_port: &'a str,
    ctrl_loss_tmo: &'a str,
    fast_io_fail_tmo: &'a str,
    reconnect_delay: &'a str,
});

labels!(SubsystemInfo {
    target: &'a str,
    iopolicy: &'a str,
});

labels!(Subsystem {
    target: &'a str,
});

/// Writes the families of NVMe over Fabrics controllers and of subsystems.
pub fn encode(snapshot: &Snapshot, events: bool, families: &mut Families) -> fmt::Result {
    controllers(snapshot, families)?;
    if events {
        failures(
            families,
            "multipath_nvme_controller_failures",
            "Times an NVMe controller between these ports was lost without an orderly removal, as seen by re-reads",
            &snapshot.nvme_controller_failures,
        )?;
    }
    subsystems(snapshot, families)
}

fn controllers(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let controllers = || snapshot.transports.nvme_controllers.iter();
    families.gauge(
        "multipath_nvme_controller_up",
        "1 if the NVMe over Fabrics controller is live",
        controllers().map(|controller| (labels_of(controller), u64::from(controller.is_live()))),
    )?;
    families.gauge(
        "multipath_nvme_controller_state",
        "Current state of the NVMe over Fabrics controller",
        controllers().map(|controller| {
            let ControllerLabels { controller: name, target, target_port, initiator_port } = labels_of(controller);
            let state = &controller.state;
            (ControllerState { controller: name, target, target_port, initiator_port, state }, 1u64)
        }),
    )?;
    families.gauge(
        "multipath_nvme_controller_info",
        "Timeouts of the NVMe over Fabrics controller, in seconds or off; always 1",
        controllers().map(|controller| {
            let ControllerLabels { controller: name, target, target_port, initiator_port } = labels_of(controller);
            let NvmeTimeouts { ctrl_loss, fast_io_fail, reconnect_delay } = &controller.timeouts;
            let labels = ControllerInfo {
                controller: name,
                target,
                target_port,
                initiator_port,
                ctrl_loss_tmo: ctrl_loss,
                fast_io_fail_tmo: fast_io_fail,
                reconnect_delay,
            };
            (labels, 1u64)
        }),
    )
}

fn labels_of(controller: &NvmeController) -> ControllerLabels<'_> {
    ControllerLabels {
        controller: &controller.name,
        target: &controller.ports.target,
        target_port: &controller.ports.target_port,
        initiator_port: &controller.ports.initiator_port,
    }
}

fn subsystems(snapshot: &Snapshot, families: &mut Families) -> fmt::Result {
    let subsystems = || snapshot.transports.nvme_subsystems.iter();
    families.gauge(
        "multipath_nvme_subsystem_info",
        "I/O policy of the NVMe subsystem: how the kernel spreads I/O over its paths; always 1",
        subsystems().filter_map(|subsystem| {
            let iopolicy = subsystem.iopolicy.as_ref()?;
            Some((SubsystemInfo { target: &subsystem.target, iopolicy }, 1u64))
        }),
    )?;
    families.gauge(
        "multipath_nvme_unreachable_namespaces",
        "Paths to namespaces of the NVMe subsystem without a device, because no path was usable since the connect",
        subsystems().filter_map(|subsystem| {
            let unreachable = subsystem.unreachable_namespaces?;
            Some((Subsystem { target: &subsystem.target }, unreachable as u64))
        }),
    )
}
