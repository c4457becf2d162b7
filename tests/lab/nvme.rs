//! NVMe over TCP. The kernel's own target is in the array's namespace, with a port in each of two networks. This host
//! has controllers on both.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::memory_disks;
use crate::network::{self, Network, Networks};
use crate::programs::{run, try_run};
use crate::wait::{PATIENCE, eventually};

/// The array's subsystem.
pub const SUBSYSTEM: &str = "nqn.2003-01.org.example:array";

/// The NQN of every discovery subsystem.
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

const CONFIGFS: &str = "/sys/kernel/config";

/// The array and the controllers that lead to it. Dropping the value removes both.
///
/// The array has one namespace and one ANA group for each of its ports, so that each can be
/// optimized on one port.
pub struct Array {
    pub networks: Rc<Networks>,
    /// The namespaces. Their numbers start at 1.
    pub namespaces: [Namespace; 2],
}

/// A namespace. On this host it is a device.
pub struct Namespace {
    pub wwid: String,
    number: usize,
}

impl Array {
    /// Starts the array with a controller for each port. Every path is optimized.
    pub fn start() -> Self {
        Array::over(Rc::new(Networks::start()))
    }

    /// Like [`Array::start`], over networks that others share.
    pub fn over(networks: Rc<Networks>) -> Self {
        let array = Array::unconnected(networks);
        array.connect_all("");
        array
    }

    /// Like [`Array::start`], with controllers that never give up on a silent array.
    pub fn of_the_trusting() -> Self {
        let array = Array::unconnected(Rc::new(Networks::start()));
        array.connect_all(",keep_alive_tmo=600");
        array
    }

    /// The array without any controller.
    pub fn unconnected(networks: Rc<Networks>) -> Self {
        ["nvmet-tcp", "nvme-tcp"].into_iter().for_each(|module| drop(run("modprobe", [module])));
        memory_disks::brd(2, 1 << 10);
        let namespaces = [1, 2].map(|number| {
            let uuid = format!("00000000-0000-4000-8000-00000000000{number}");
            Namespace { wwid: format!("uuid.{uuid}"), number }
        });
        let array = Array { networks, namespaces };
        array.make();
        array
    }

    /// Creates a controller for each port. [`Array::connect`] explains `more`.
    pub fn connect_all(&self, more: &str) {
        self.networks.0.iter().for_each(|network| drop(self.connect(network, more)));
    }

    fn make(&self) {
        make(&subsystem(), &[("attr_allow_any_host", "1"), ("attr_serial", "0001"), ("attr_model", "EXAMPLE")]);
        for Namespace { number, wwid } in &self.namespaces {
            let disk = format!("/dev/ram{}", number - 1);
            let uuid = wwid.trim_start_matches("uuid.");
            make(&namespace(*number), &[("device_path", &disk), ("device_uuid", uuid)]);
            write(&namespace(*number), "ana_grpid", &number.to_string());
        }
        for (number, network) in (1..).zip(&self.networks.0) {
            let address = network.address.to_string();
            let attributes =
                [("addr_trtype", "tcp"), ("addr_adrfam", "ipv4"), ("addr_traddr", &address), ("addr_trsvcid", "4420")];
            make(&port(number), &attributes);
            make(&port(number).join("ana_groups/2"), &[]);
            for group in [1, 2] {
                self.set_ana(number, group, "optimized");
            }
        }
        // Each namespace joins its group before a host can see either.
        for Namespace { number, .. } in &self.namespaces {
            write(&namespace(*number), "enable", "1");
        }
        for number in [1, 2] {
            self.open_port(number);
        }
    }

    /// Sets the ANA state of a group on a port.
    pub fn set_ana(&self, port_number: usize, group: usize, state: &str) {
        write(&port(port_number).join(format!("ana_groups/{group}")), "ana_state", state);
    }

    /// Opens this port to hosts.
    pub fn open_port(&self, number: usize) {
        // A port listens in the network namespace of the process that makes this link.
        let [subsystem, link] = [subsystem(), port(number).join("subsystems").join(SUBSYSTEM)];
        network::run_there("ln", [Path::new("-s"), &subsystem, &link]);
    }

    /// Closes this port and disconnects all hosts.
    pub fn close_port(&self, number: usize) {
        let link = port(number).join("subsystems").join(SUBSYSTEM);
        fs::remove_file(&link).unwrap_or_else(|e| panic!("{link:?}: {e}"));
    }

    /// Creates a controller over this network, and returns its kernel name. `more` holds further
    /// options, each after a comma.
    pub fn connect(&self, network: &Network, more: &str) -> String {
        connect(SUBSYSTEM, network, more)
    }

    /// Creates a persistent discovery controller like `nvme connect-all --persistent`, and returns
    /// its kernel name.
    pub fn connect_to_discovery(&self, network: &Network) -> String {
        connect(DISCOVERY, network, "")
    }

    /// Sets `ctrl_loss_tmo`: the kernel removes a controller that has been away for this time.
    pub fn give_up_after(&self, seconds: u32) {
        set_of_all("ctrl_loss_tmo", &seconds.to_string());
    }

    /// Sets `fast_io_fail_tmo`: I/O fails after this time without a live controller. With `None` it
    /// waits.
    pub fn fail_io_after(&self, seconds: Option<u32>) {
        set_of_all("fast_io_fail_tmo", &seconds.map_or("-1".to_owned(), |seconds| seconds.to_string()));
    }

    /// Removes all controllers.
    pub fn disconnect_all(&self) {
        controllers().iter().for_each(|controller| self.disconnect(controller));
    }

    /// Removes a controller.
    pub fn disconnect(&self, controller: &str) {
        set(controller, "delete_controller", "1");
    }

    /// Resets a controller like `nvme reset`.
    pub fn reset(&self, controller: &str) {
        set(controller, "reset_controller", "1");
    }

    /// Returns false before Linux 5.11: I/O never fails while a controller reconnects.
    pub fn can_fail_io(&self, controller: &str) -> bool {
        Path::new("/sys/class/nvme").join(controller).join("fast_io_fail_tmo").exists()
    }

    /// Returns true if the kernel counts the resets of a controller.
    pub fn counts_resets(&self, controller: &str) -> bool {
        Path::new("/sys/class/nvme").join(controller).join("diag/reset_count").exists()
    }

    /// The kernel's state of a controller.
    pub fn state(&self, controller: &str) -> String {
        let state = fs::read_to_string(format!("/sys/class/nvme/{controller}/state"));
        state.map(|state| state.trim().to_owned()).unwrap_or_else(|e| panic!("{controller}: {e}"))
    }

    /// Sets the time that the kernel keeps a namespace's device after its last controller is gone.
    pub fn delay_removal(&self, namespace: &Namespace, seconds: u32) {
        let head = self.head(namespace).expect("the kernel has the namespace");
        write(&Path::new("/sys/block").join(head), "delayed_removal_secs", &seconds.to_string());
    }

    /// The controller of a path of a namespace.
    pub fn controller(&self, namespace: &Namespace, path: &str) -> String {
        let head = self.head(namespace).expect("the kernel has the namespace");
        let (subsystem, number) = head.split_at(head.rfind('n').expect("a head's name has a number"));
        let controller = path.strip_prefix(&format!("{subsystem}c")).and_then(|rest| rest.strip_suffix(number));
        format!("nvme{}", controller.unwrap_or_else(|| panic!("{path} is no path of {head}")))
    }

    /// The kernel names of a namespace's hidden paths, with or without a head.
    pub fn paths(&self, namespace: &Namespace) -> Vec<String> {
        blocks_of(namespace).filter(|block| is_path(block)).map(|block| name_of(&block)).collect()
    }

    /// The kernel name of a namespace's head.
    pub fn head(&self, namespace: &Namespace) -> Option<String> {
        blocks_of(namespace).find(|block| !is_path(block)).map(|block| name_of(&block))
    }
}

/// Creates a controller to this subsystem over this network, and returns its kernel name. `more`
/// holds further options, each after a comma.
pub fn connect(subsystem: &str, network: &Network, more: &str) -> String {
    let Network { interface, own_address, address, .. } = network;
    let options = |own_end: &str| {
        format!(
            "transport=tcp,traddr={address},trsvcid=4420,{own_end},nqn={subsystem},\
             hostnqn=nqn.2003-01.org.example:host,hostid=00000000-0000-4000-8000-0000000000ff,\
             keep_alive_tmo=2,reconnect_delay=1,ctrl_loss_tmo=600{more}"
        )
    };
    let mut fabrics = eventually("the kernel can connect", PATIENCE, || {
        OpenOptions::new().read(true).write(true).open("/dev/nvme-fabrics").map_err(|e| e.to_string())
    });
    let mut connect_from = |own_end: &str| fabrics.write_all(options(own_end).as_bytes());
    let connected = match connect_from(&format!("host_iface={interface}")) {
        // Linux 5.10 does not know this option.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => connect_from(&format!("host_traddr={own_address}")),
        connected => connected,
    };
    connected.unwrap_or_else(|e| panic!("{}: {e}", options(interface)));
    let mut answer = String::new();
    fabrics.read_to_string(&mut answer).expect("it tells the controller");
    let instance = answer.trim().split(',').find_map(|field| field.strip_prefix("instance="));
    format!("nvme{}", instance.unwrap_or_else(|| panic!("no instance in {answer:?}")))
}

impl Namespace {
    /// Moves the namespace to another disk. The host's device then changes, too.
    pub fn move_to(&self, disk: &str) {
        self.enable(false);
        write(&namespace(self.number), "device_path", disk);
        self.enable(true);
    }

    /// Enables or disables the namespace in the array.
    pub fn enable(&self, enabled: bool) {
        write(&namespace(self.number), "enable", if enabled { "1" } else { "0" });
    }
}

/// The names of all controllers.
fn controllers() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/nvme").into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn set_of_all(attribute: &str, value: &str) {
    controllers().iter().for_each(|controller| set(controller, attribute, value));
}

fn set(controller: &str, attribute: &str, value: &str) {
    write(&Path::new("/sys/class/nvme").join(controller), attribute, value);
}

/// The directories of a namespace's head and of its paths.
fn blocks_of(namespace: &Namespace) -> impl Iterator<Item = PathBuf> {
    let blocks = fs::read_dir("/sys/block").expect("/sys/block is there").filter_map(Result::ok);
    let is_it =
        |block: &PathBuf| fs::read_to_string(block.join("wwid")).is_ok_and(|wwid| wwid.trim() == namespace.wwid);
    blocks.map(|entry| entry.path()).filter(is_it)
}

fn name_of(block: &Path) -> String {
    block.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns true for a hidden path such as `nvme0c1n1`.
fn is_path(block: &Path) -> bool {
    name_of(block).contains('c')
}

fn subsystem() -> PathBuf {
    Path::new(CONFIGFS).join("nvmet/subsystems").join(SUBSYSTEM)
}

fn namespace(number: usize) -> PathBuf {
    subsystem().join(format!("namespaces/{number}"))
}

fn port(number: usize) -> PathBuf {
    Path::new(CONFIGFS).join(format!("nvmet/ports/{number}"))
}

fn make(directory: &Path, attributes: &[(&str, &str)]) {
    fs::create_dir(directory).unwrap_or_else(|e| panic!("{directory:?}: {e}"));
    attributes.iter().for_each(|(name, value)| write(directory, name, value));
}

fn write(directory: &Path, name: &str, value: &str) {
    let file = directory.join(name);
    fs::write(&file, value).unwrap_or_else(|e| panic!("{file:?}: {value}: {e}"));
}

impl Drop for Array {
    fn drop(&mut self) {
        // A scenario may have created no controller or have removed it already.
        for controller in controllers() {
            let _ = fs::write(format!("/sys/class/nvme/{controller}/delete_controller"), "1");
        }
        for number in [1, 2] {
            let port = port(number);
            let _ = fs::remove_file(port.join("subsystems").join(SUBSYSTEM));
            let _ = fs::remove_dir(port.join("ana_groups/2"));
            let _ = fs::remove_dir(port);
            let _ = fs::write(namespace(number).join("enable"), "0");
            let _ = fs::remove_dir(namespace(number));
        }
        let _ = fs::remove_dir(subsystem());
        let _ = try_run("udevadm", ["settle", "--timeout=20"]);
    }
}
