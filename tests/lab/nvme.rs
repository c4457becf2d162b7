//! NVMe over TCP. The kernel's own target is in the array's namespace, with a port in each of two networks. This host
//! has controllers on both.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::memory_disks;
use crate::network::{self, Network, Networks};
use crate::programs::{run, try_run};
use crate::wait::{PATIENCE, eventually};

/// The array's subsystem.
pub const SUBSYSTEM: &str = "nqn.2003-01.org.example:array";

/// The subsystem of discovery controllers, whatever array they are of.
pub const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";

const CONFIGFS: &str = "/sys/kernel/config";

/// The array and the controllers that lead to it; gone when dropped.
///
/// It has a namespace and an ANA group for each of its ports, so that each can be optimized on one of them.
pub struct Array {
    pub networks: Rc<Networks>,
    /// The namespaces, by number from 1.
    pub namespaces: [Namespace; 2],
}

/// A namespace, which is a device of this host.
pub struct Namespace {
    pub wwid: String,
    number: usize,
}

impl Array {
    /// Everything is optimized, and there is a controller for each port.
    pub fn start() -> Self {
        Array::over(Rc::new(Networks::start()))
    }

    /// The same over networks that others use, too.
    pub fn over(networks: Rc<Networks>) -> Self {
        let array = Array::unconnected(networks);
        array.connect_all("");
        array
    }

    /// The same with controllers that hold a silent array to be there.
    pub fn of_the_trusting() -> Self {
        let array = Array::unconnected(Rc::new(Networks::start()));
        array.connect_all(",keep_alive_tmo=600");
        array
    }

    /// The array alone: no controller leads to it.
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

    /// Makes a controller for each port. See [`Array::connect`] for further options.
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
        // Groups and namespaces belong together before anybody sees either.
        for Namespace { number, .. } in &self.namespaces {
            write(&namespace(*number), "enable", "1");
        }
        for number in [1, 2] {
            self.open_port(number);
        }
    }

    /// Sets the state of a group on a port.
    pub fn set_ana(&self, port_number: usize, group: usize, state: &str) {
        write(&port(port_number).join(format!("ana_groups/{group}")), "ana_state", state);
    }

    /// Lets hosts in through this port.
    pub fn open_port(&self, number: usize) {
        // A port listens in the namespace of whoever does this.
        let [subsystem, link] = [subsystem(), port(number).join("subsystems").join(SUBSYSTEM)];
        network::run_there("ln", [Path::new("-s"), &subsystem, &link]);
    }

    /// Throws all hosts out of this port.
    pub fn close_port(&self, number: usize) {
        let link = port(number).join("subsystems").join(SUBSYSTEM);
        fs::remove_file(&link).unwrap_or_else(|e| panic!("{link:?}: {e}"));
    }

    /// Makes a controller over this network and gives its kernel name; further options, each preceded by a comma.
    pub fn connect(&self, network: &Network, more: &str) -> String {
        self.connect_to(SUBSYSTEM, network, more)
    }

    /// Makes a discovery controller that stays, as `nvme connect-all --persistent` does, and gives its kernel name.
    pub fn connect_to_discovery(&self, network: &Network) -> String {
        self.connect_to(DISCOVERY, network, "")
    }

    fn connect_to(&self, subsystem: &str, network: &Network, more: &str) -> String {
        let Network { interface, address, .. } = network;
        let options = format!(
            "transport=tcp,traddr={address},trsvcid=4420,host_iface={interface},nqn={subsystem},\
             hostnqn=nqn.2003-01.org.example:host,hostid=00000000-0000-4000-8000-0000000000ff,\
             keep_alive_tmo=2,reconnect_delay=1,ctrl_loss_tmo=600{more}"
        );
        let mut fabrics = eventually("the kernel can connect", PATIENCE, || {
            OpenOptions::new().read(true).write(true).open("/dev/nvme-fabrics").map_err(|e| e.to_string())
        });
        fabrics.write_all(options.as_bytes()).unwrap_or_else(|e| panic!("{options}: {e}"));
        let mut answer = String::new();
        fabrics.read_to_string(&mut answer).expect("it tells the controller");
        let instance = answer.trim().split(',').find_map(|field| field.strip_prefix("instance="));
        format!("nvme{}", instance.unwrap_or_else(|| panic!("no instance in {answer:?}")))
    }

    /// From now on the kernel gives up a controller that is away for so many seconds.
    pub fn give_up_after(&self, seconds: u32) {
        set_of_all("ctrl_loss_tmo", &seconds.to_string());
    }

    /// From now on I/O fails where no controller has been live for so many seconds; `None`: it waits.
    pub fn fail_io_after(&self, seconds: Option<u32>) {
        set_of_all("fast_io_fail_tmo", &seconds.map_or("-1".to_owned(), |seconds| seconds.to_string()));
    }

    /// Takes all controllers away.
    pub fn disconnect_all(&self) {
        controllers().iter().for_each(|controller| self.disconnect(controller));
    }

    /// Takes a controller away.
    pub fn disconnect(&self, controller: &str) {
        set(controller, "delete_controller", "1");
    }

    /// Resets a controller, as `nvme reset` does.
    pub fn reset(&self, controller: &str) {
        set(controller, "reset_controller", "1");
    }

    /// Whether the kernel counts how often a controller was reset.
    pub fn counts_resets(&self, controller: &str) -> bool {
        Path::new("/sys/class/nvme").join(controller).join("diag/reset_count").exists()
    }

    /// The state of a controller, in the kernel's word.
    pub fn state(&self, controller: &str) -> String {
        let state = fs::read_to_string(format!("/sys/class/nvme/{controller}/state"));
        state.map(|state| state.trim().to_owned()).unwrap_or_else(|e| panic!("{controller}: {e}"))
    }

    /// From now on the kernel keeps a namespace's device for so many seconds after its last controller has gone.
    pub fn delay_removal(&self, namespace: &Namespace, seconds: u32) {
        let head = self.head(namespace).expect("the kernel has the namespace");
        write(&Path::new("/sys/block").join(head), "delayed_removal_secs", &seconds.to_string());
    }

    /// The controller that a path of a namespace goes through.
    pub fn controller(&self, namespace: &Namespace, path: &str) -> String {
        let head = self.head(namespace).expect("the kernel has the namespace");
        let (subsystem, number) = head.split_at(head.rfind('n').expect("a head's name has a number"));
        let controller = path.strip_prefix(&format!("{subsystem}c")).and_then(|rest| rest.strip_suffix(number));
        format!("nvme{}", controller.unwrap_or_else(|| panic!("{path} is no path of {head}")))
    }

    /// The kernel's names of the hidden paths of a namespace, whether or not there is a device above them.
    pub fn paths(&self, namespace: &Namespace) -> Vec<String> {
        blocks_of(namespace).filter(|block| is_path(block)).map(|block| name_of(&block)).collect()
    }

    /// The kernel's name of a namespace's device.
    pub fn head(&self, namespace: &Namespace) -> Option<String> {
        blocks_of(namespace).find(|block| !is_path(block)).map(|block| name_of(&block))
    }
}

impl Namespace {
    /// It is on another disk from now on, and the device of this host is another, too.
    pub fn move_to(&self, disk: &str) {
        self.enable(false);
        write(&namespace(self.number), "device_path", disk);
        self.enable(true);
    }

    /// Makes it there, or not.
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

/// The directories of a namespace's device and of its paths.
fn blocks_of(namespace: &Namespace) -> impl Iterator<Item = PathBuf> {
    let blocks = fs::read_dir("/sys/block").expect("/sys/block is there").filter_map(Result::ok);
    let is_it =
        |block: &PathBuf| fs::read_to_string(block.join("wwid")).is_ok_and(|wwid| wwid.trim() == namespace.wwid);
    blocks.map(|entry| entry.path()).filter(is_it)
}

fn name_of(block: &Path) -> String {
    block.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether it is hidden: `nvme0c1n1`.
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
        // A scenario may not have made one, or may have taken it away already.
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
