//! The fate of I/O to an NVMe device without a valid path, shown by a program that reads it.
//! Exporters run as root and as `nobody`.

use std::process::Child;
use std::time::Duration;

use super::Scenario;
use super::looks_healthy::{read, wait_for_end};
use super::nvme::Host;
use crate::guest::Lab;
use crate::nvme::Namespace;
use crate::programs::reap;
use crate::wait::{PATIENCE, eventually_eq, try_eventually};

pub const ALL: &[Scenario] = &[
    Scenario::new("nvme_queueing", nvme_queueing),
    Scenario::new("nvme_delayed_removal", nvme_delayed_removal).of_sid().then_power_off(),
];

/// A read that has not ended after this time waits. A read that fails does so immediately.
const AT_ONCE: Duration = Duration::from_secs(3);

/// The time for which I/O waits for controllers (`fast_io_fail_tmo`). It is long enough to observe.
const SECONDS_OF_PATIENCE: u32 = 15;

/// The time after which the kernel removes a controller, or a device without controllers.
const SECONDS_UNTIL_GONE: u32 = 20;

impl Host {
    /// Waits until both exporters show this state of queueing. `None` means that the device has no
    /// series.
    #[track_caller]
    fn wait_for_queueing(&self, namespace: &Namespace, queueing: Option<f64>) {
        for exporter in &self.exporters {
            eventually_eq("whether I/O waits", queueing, || {
                exporter.metrics().get("multipath_device_queueing", &[("wwid", &namespace.wwid)])
            });
        }
    }

    /// Checks that a read of the device waits and that both exporters say so.
    #[track_caller]
    fn assert_read_waits(&self, namespace: &Namespace) -> Child {
        let mut reader = read(&self.device(namespace));
        let ended = try_eventually(AT_ONCE, || match reader.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(ended.is_err(), "the read has ended: {ended:?}");
        for exporter in &self.exporters {
            let device = [("wwid", namespace.wwid.as_str())];
            assert_eq!(exporter.metrics().value("multipath_device_queueing", &device), 1.0);
        }
        reader
    }

    fn cut_all(&self) {
        self.networks().iter().for_each(|network| network.cut());
    }

    fn mend_all(&self) {
        self.networks().iter().for_each(|network| network.mend());
        self.wait_for_states([(2, 0, 0); 2]);
    }
}

#[track_caller]
fn wait_for_failure(mut reader: Child) {
    let status = reap(&mut reader, PATIENCE).expect("the read ends");
    assert!(!status.success(), "the read succeeds");
}

/// Every state of the controllers in turn.
fn nvme_queueing(lab: &Lab) {
    let host = Host::start(lab);
    let [namespace, _] = host.namespaces();
    wait_for_end(vec![read(&host.device(namespace))]);
    host.wait_for_queueing(namespace, Some(1.0));

    // The array makes no path accessible, either for now or permanently.
    for (state, states) in [("inaccessible", (0, 2, 0)), ("persistent-loss", (0, 0, 2))] {
        [1, 2].into_iter().for_each(|port| host.array.set_ana(port, 1, state));
        host.wait_for_states([states, (2, 0, 0)]);
        let reader = host.assert_read_waits(namespace);
        [1, 2].into_iter().for_each(|port| host.array.set_ana(port, 1, "optimized"));
        wait_for_end(vec![reader]);
        host.wait_for_states([(2, 0, 0); 2]);
    }

    // Controllers reconnect, and I/O waits for them.
    host.cut_all();
    host.wait_for_states([(0, 0, 2); 2]);
    let reader = host.assert_read_waits(namespace);
    host.mend_all();
    wait_for_end(vec![reader]);
    host.wait_for_queueing(namespace, Some(1.0));

    // I/O waits for a limited time.
    host.array.fail_io_after(Some(SECONDS_OF_PATIENCE));
    host.cut_all();
    host.wait_for_states([(0, 0, 2); 2]);
    wait_for_failure(host.assert_read_waits(namespace));
    host.wait_for_queueing(namespace, Some(0.0));
    wait_for_failure(read(&host.device(namespace)));
    host.mend_all();
    host.wait_for_queueing(namespace, Some(1.0));
    wait_for_end(vec![read(&host.device(namespace))]);

    // The kernel removes the controllers. The device goes with the last one although a program
    // holds it open.
    host.array.fail_io_after(None);
    host.array.give_up_after(SECONDS_UNTIL_GONE);
    host.cut_all();
    host.wait_for_states([(0, 0, 2); 2]);
    wait_for_failure(host.assert_read_waits(namespace));
    eventually_eq("the device is gone", None, || host.array.head(namespace));
    host.wait_for_queueing(namespace, None);
}

/// The kernel keeps a device for some time after its last controller is gone
/// (`delayed_removal_secs`, Linux 6.16).
fn nvme_delayed_removal(lab: &Lab) {
    let host = Host::start(lab);
    let [kept, other] = host.namespaces();
    // A controller returns in time.
    host.array.delay_removal(kept, 600);
    host.array.disconnect_all();
    host.wait_for_queueing(other, None);
    let reader = host.assert_read_waits(kept);
    for exporter in &host.exporters {
        exporter.wait_for_counts(&kept.wwid, 0, 0);
        assert_eq!(exporter.metrics().host().devices, 1);
    }
    host.array.connect_all("");
    wait_for_end(vec![reader]);
    host.wait_for_states([(2, 0, 0); 2]);
    host.wait_for_queueing(kept, Some(1.0));

    // No controller returns.
    host.array.delay_removal(kept, SECONDS_UNTIL_GONE);
    host.array.disconnect_all();
    host.wait_for_queueing(other, None);
    wait_for_failure(host.assert_read_waits(kept));
    eventually_eq("the device is gone", None, || host.array.head(kept));
    host.wait_for_queueing(kept, None);

    // An administrator ends the waiting.
    host.array.connect_all("");
    host.wait_for_states([(2, 0, 0); 2]);
    host.array.delay_removal(kept, 600);
    host.cut_all();
    host.wait_for_states([(0, 0, 2); 2]);
    let reader = host.assert_read_waits(kept);
    host.array.delay_removal(kept, 0);
    host.array.disconnect_all();
    wait_for_failure(reader);
    eventually_eq("the device is gone", None, || host.array.head(kept));
    host.wait_for_queueing(kept, None);
}
