//! The exporter in a container of a real OCI runtime: the effect of each thing that the container
//! is given.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::Scenario;
use crate::guest::Lab;
use crate::http;
use crate::metrics::Metrics;
use crate::multipathd::Conf;
use crate::programs::{run, try_run};
use crate::san::San;
use crate::wait::{PATIENCE, eventually, eventually_eq};

pub const ALL: &[Scenario] = &[
    Scenario::new("a_container_sees_what_it_is_given", a_container_sees_what_it_is_given),
    Scenario::new("a_network_that_is_not_roots_has_no_events", a_network_that_is_not_roots_has_no_events),
];

/// The network namespace of a container with its own network, and the addresses of its link to the
/// machine.
const NAMESPACE: &str = "pod";
const OURS: &str = "10.99.0.1/24";
const ITS: &str = "10.99.0.2/24";

/// The directory of the containers' files. It is in memory, outside of what a scenario leaves
/// behind.
const BUNDLES: &str = "/run/bundles";

/// Additions to a container's own `/proc`, `/sys` and `/dev`.
#[derive(Clone, Copy, Default)]
struct Given {
    network: bool,
    udev: bool,
    /// Root's user id, CAP_SYS_ADMIN, device mapper's control file, and the host's `/proc`.
    kernel_status: bool,
    /// The container lacks `/sys/dev/block`, as in older versions of Podman.
    masked: bool,
}

/// A running container. Dropping it removes the container.
struct Container {
    name: &'static str,
    runtime: Child,
    address: SocketAddr,
}

impl Container {
    fn start(lab: &Lab, name: &'static str, given: Given) -> Self {
        let bundle = Path::new(BUNDLES).join(name);
        fill(&bundle.join("rootfs"), lab.exporter_program());
        let specification = given.specification().to_string();
        fs::write(bundle.join("config.json"), specification).expect("the scenario's directory is writable");
        let log =
            fs::File::create(lab.dir().join(format!("{name}.log"))).expect("the scenario's directory is writable");
        let runtime = Command::new("crun")
            .args(["--cgroup-manager=cgroupfs", "run", "--bundle"])
            .args([bundle.as_os_str(), name.as_ref()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("crun starts");
        let host = if given.network { "127.0.0.1" } else { ITS.trim_end_matches("/24") };
        let address = format!("{host}:10156").parse().expect("an address");
        let container = Container { name, runtime, address };
        eventually("the exporter in the container is ready", PATIENCE, || {
            match http::get(container.address, "/-/ready", PATIENCE) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.body),
                Err(e) => Err(e.to_string()),
            }
        });
        container
    }

    fn metrics(&self) -> Metrics {
        let answer = http::get(self.address, "/metrics", PATIENCE).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        Metrics::parse(&answer.body)
    }

    fn source_up(&self, source: &str) -> bool {
        self.metrics().value("multipath_exporter_source_up", &[("source", source)]) == 1.0
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The container may have ended by itself.
        let _ = try_run("crun", ["--cgroup-manager=cgroupfs", "delete", "--force", self.name]);
        let _ = self.runtime.wait();
    }
}

impl Given {
    /// The config.json of the OCI runtime specification.
    fn specification(self) -> Value {
        let mut arguments = vec!["/usr/bin/multipath_exporter", "--web.listen-address=:10156"];
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                   "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}),
        ];
        let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"}), json!({"type": "ipc"})];
        let bind = |from: &str, to: &str| json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", "ro"]});
        if !self.network {
            namespaces.push(json!({"type": "network", "path": format!("/run/netns/{NAMESPACE}")}));
        }
        if self.udev {
            mounts.push(bind("/run/udev", "/run/udev"));
        }
        let (mut user, mut capabilities, mut devices) = (65534, Vec::new(), Vec::new());
        let mut allowed = vec![json!({"allow": false, "access": "rwm"})];
        if self.kernel_status {
            arguments.push("--path.procfs=/host/proc");
            mounts.push(bind("/proc", "/host/proc"));
            (user, capabilities) = (0, vec!["CAP_SYS_ADMIN"]);
            let minor = control_minor();
            devices.push(json!({"path": "/dev/mapper/control", "type": "c", "major": 10, "minor": minor,
                                "fileMode": 0o600, "uid": 0, "gid": 0}));
            allowed.push(json!({"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rwm"}));
        }
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": true},
            "process": {
                "user": {"uid": user, "gid": user},
                "args": arguments,
                "cwd": "/",
                "noNewPrivileges": true,
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "mounts": mounts,
            "linux": {
                "namespaces": namespaces,
                "devices": devices,
                "resources": {"devices": allowed},
                "maskedPaths": if self.masked { vec!["/sys/dev/block"] } else { Vec::new() },
            },
        })
    }
}

/// The minor number of `/dev/mapper/control`. All `misc` devices share their major number.
fn control_minor() -> u32 {
    let number = fs::read_to_string("/sys/class/misc/device-mapper/dev").expect("device mapper is loaded");
    number.trim().rsplit(':').next().and_then(|minor| minor.parse().ok()).expect("a device number")
}

/// The image's files: the program and its libraries.
fn fill(root: &Path, program: &Path) {
    let copy = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().expect("a file lies in a directory")).expect("/run is writable");
        fs::copy(from, to).unwrap_or_else(|e| panic!("{from:?}: {e}"));
    };
    copy(program, root.join("usr/bin/multipath_exporter"));
    let libraries = run("ldd", [program]);
    for library in libraries.split_whitespace().filter_map(|word| word.strip_prefix('/')) {
        copy(&Path::new("/").join(library), root.join(library));
    }
}

/// The container's own network, as in a pod.
struct Network(());

impl Network {
    fn start() -> Self {
        run("ip", ["netns", "add", NAMESPACE]);
        run("ip", ["link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", NAMESPACE]);
        run("ip", ["addr", "add", OURS, "dev", "pod0"]);
        run("ip", ["link", "set", "pod0", "up"]);
        run("ip", ["-n", NAMESPACE, "addr", "add", ITS, "dev", "eth0"]);
        run("ip", ["-n", NAMESPACE, "link", "set", "eth0", "up"]);
        Network(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // This removes both ends of the link.
        let _ = try_run("ip", ["netns", "delete", NAMESPACE]);
    }
}

fn a_container_sees_what_it_is_given(lab: &Lab) {
    let _network = Network::start();
    let san = San::start(lab, 4, 2, Conf::BLIND);
    let (lun, disk) = (&san.luns[0], &san.luns[0].paths[0]);
    let host = lab.exporter().start();
    let containers = [
        ("alone", Given::default()),
        ("udev", Given { udev: true, ..Given::default() }),
        ("network", Given { network: true, udev: true, ..Given::default() }),
        ("kernel", Given { kernel_status: true, udev: true, ..Given::default() }),
        ("podman", Given { kernel_status: true, udev: true, masked: true, ..Given::default() }),
    ];
    for (name, given) in containers {
        let container = Container::start(lab, name, given);
        let kernel_status = container.metrics().value("multipath_exporter_kernel_status", &[]) == 1.0;
        assert_eq!(kernel_status, given.kernel_status, "{name}");
        assert_eq!(container.metrics().value("multipath_daemon_up", &[]) == 1.0, given.network, "{name}");
        assert!(container.source_up("sysfs") && container.source_up("uevent"), "{name}");
        let metrics = container.metrics();
        let disks: Vec<_> = metrics.series("multipath_path_info").map(|(labels, _)| labels).collect();
        assert!(
            disks.len() == 8 && disks.iter().all(|disk| disk["hctl"].is_empty() == given.masked),
            "{name}: {disks:?}"
        );

        let same_as_on_the_host = |what: &str| {
            eventually_eq(&format!("{name}: {what}"), host.metrics().devices(), || container.metrics().devices());
            assert_eq!(container.metrics().host().failed_paths, host.metrics().host().failed_paths, "{name}: {what}");
        };
        same_as_on_the_host("all is well");
        san.dm.fail_path(lun.name(), &disk.devno);
        host.wait_for_counts(&lun.wwid, 3, 1);
        same_as_on_the_host("a path has failed");
        eventually_eq(&format!("{name}: the event is counted"), (1, 0), || container.metrics().path_events(&lun.wwid));
        san.dm.reinstate_path(lun.name(), &disk.devno);
        host.wait_for_counts(&lun.wwid, 4, 0);
        same_as_on_the_host("it is reinstated");
    }
}

/// A program in a user namespace. Dropping it kills the process.
struct Rootless(Child);

impl Rootless {
    const ADDRESS: &str = "127.0.0.1:10157";

    /// The exporter as an unprivileged engine starts it: with its own network, or with the
    /// machine's.
    fn exporter(lab: &Lab, own_network: bool) -> Self {
        let start = format!("exec {} --web.listen-address={}", lab.exporter_program().display(), Self::ADDRESS);
        let mut unshare = Command::new("setpriv");
        unshare.args(["--reuid=nobody", "--clear-groups", "unshare", "--user", "--map-root-user"]);
        if own_network {
            unshare.args(["unshare", "--net", "sh", "-c", &format!("ip link set lo up; {start}")])
        } else {
            unshare.args(["sh", "-c", &start])
        };
        Rootless(unshare.stdin(Stdio::null()).spawn().expect("setpriv starts"))
    }

    /// The arguments that enter its namespaces.
    fn entrance(&self) -> [String; 5] {
        let target = format!("--target={}", self.0.id());
        ["--user", "--net", "--preserve-credentials", &target, "--"].map(str::to_owned)
    }

    fn metrics(&self) -> Result<Metrics, String> {
        let ask = ["curl", "--silent", "--fail", &format!("http://{}/metrics", Self::ADDRESS)].map(str::to_owned);
        try_run("nsenter", self.entrance().into_iter().chain(ask)).map(|page| Metrics::parse(&page))
    }

    /// A second, foreign listener that writes everything it receives to a file.
    fn listener(&self, heard: &Path) -> Self {
        let monitor = ["stdbuf", "--output=L", "udevadm", "monitor", "--kernel", "--subsystem-match=block"];
        let file = fs::File::create(heard).expect("the scenario's directory is writable");
        let mut nsenter = Command::new("nsenter");
        nsenter.args(self.entrance()).args(monitor).stdin(Stdio::null()).stdout(file);
        let listener = Rootless(nsenter.spawn().expect("nsenter starts"));
        eventually("it listens", PATIENCE, || {
            if read(heard).contains("KERNEL") { Ok(()) } else { Err("not yet".to_owned()) }
        });
        listener
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).expect("a file of ours")
}

fn a_network_that_is_not_roots_has_no_events(lab: &Lab) {
    let _san = San::start(lab, 4, 2, Conf::BLIND);
    let host = lab.exporter().start();
    let changes = |metrics: &Metrics| metrics.value("multipath_exporter_uevents_total", &[("action", "change")]);
    for own_network in [true, false] {
        let exporter = Rootless::exporter(lab, own_network);
        let mut metrics = None;
        eventually("it has read", PATIENCE, || exporter.metrics().map(|read| metrics = Some(read)));
        let up = metrics.expect("just read").value("multipath_exporter_source_up", &[("source", "uevent")]);
        let heard = lab.dir().join("heard.txt");
        let _listener = exporter.listener(&heard);

        let counted = changes(&host.metrics());
        fs::write("/sys/block/dm-0/uevent", "change").expect("root may raise a uevent");
        eventually("the uevent has come", PATIENCE, || {
            if changes(&host.metrics()) == counted { Err("not yet".to_owned()) } else { Ok(()) }
        });
        std::thread::sleep(Duration::from_secs(1));
        let comes = changes(&exporter.metrics().expect("it still answers")) > 0.0;
        let found = (read(&heard).contains("change"), comes, up == 1.0);
        assert_eq!(found, (!own_network, !own_network, !own_network), "own network: {own_network}");
    }
}
