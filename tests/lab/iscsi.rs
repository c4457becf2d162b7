//! iSCSI: tgtd in the array's namespace, and open-iscsi with a session over each of two networks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use rustix::process::{Pid, Signal, kill_process};

use crate::guest::Lab;
use crate::multipathd::Conf;
use crate::network::{self, Network, Networks};
use crate::programs::{run, try_run};
use crate::san::San;
use crate::scsi_disk::{self, Disk};
use crate::wait::{PATIENCE, eventually};

/// The array's target.
pub const TARGET: &str = "iqn.2003-01.org.example:array";

/// The array's ports in each network.
const PORTS: [u16; 2] = [3260, 3261];

/// The directory where open-iscsi keeps its database.
const DATABASE: &str = "/etc/iscsi";

/// The reaction of sessions to an array that does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// They fail within seconds, and so does the I/O of their disks. The timeouts are as short as
    /// the programs allow.
    Impatient,
    /// They fail within seconds, and the I/O of their disks waits.
    Patient,
    /// They do not notice.
    Trusting,
}

impl Sessions {
    fn conf(self) -> String {
        let (replacement, noop) = match self {
            Sessions::Impatient => (2, 1),
            Sessions::Patient => (600, 1),
            Sessions::Trusting => (600, 0),
        };
        format!(
            "node.session.timeo.replacement_timeout = {replacement}\n\
             node.conn[0].timeo.login_timeout = 5\n\
             node.conn[0].timeo.noop_out_interval = {noop}\n\
             node.conn[0].timeo.noop_out_timeout = {noop}\n"
        )
    }
}

/// The array, and multipathd over its disks. Dropping the value removes both.
pub struct IscsiSan {
    pub san: San,
    initiator: Initiator,
    array: Array,
    pub networks: Rc<Networks>,
    /// The number of the array's ports in use in each network.
    ports: usize,
}

struct Initiator(Child);

struct Array(Child);

impl IscsiSan {
    /// Starts an array. Each LUN is one device with a valid path over each network to each of these
    /// ports.
    pub fn start(lab: &Lab, luns: usize, ports: usize, conf: Conf) -> Self {
        IscsiSan::over(Rc::new(Networks::start()), lab, luns, ports, conf)
    }

    /// Like [`IscsiSan::start`], over networks that others share.
    pub fn over(networks: Rc<Networks>, lab: &Lab, luns: usize, ports: usize, conf: Conf) -> Self {
        IscsiSan::with(Sessions::Impatient, networks, lab, luns, ports, conf)
    }

    /// Like [`IscsiSan::over`], with sessions of this kind.
    pub fn with(sessions: Sessions, networks: Rc<Networks>, lab: &Lab, luns: usize, ports: usize, conf: Conf) -> Self {
        let array = Array::start(lab.dir(), luns);
        let initiator = Initiator::start(lab.dir(), sessions);
        networks.0.iter().for_each(|network| initiator.log_in(network, ports));
        let disks = eventually("the disks are there", PATIENCE, || {
            let disks = disks();
            if disks.len() == 2 * ports * luns { Ok(disks) } else { Err(format!("{disks:?}")) }
        });
        IscsiSan { san: San::over(&disks, luns, lab, conf), initiator, array, networks, ports }
    }

    /// Stops the array: it keeps its connections and answers nothing.
    pub fn freeze(&self) {
        self.array.signal(Signal::STOP);
    }

    /// Undoes [`IscsiSan::freeze`].
    pub fn thaw(&self) {
        self.array.signal(Signal::CONT);
    }

    /// Logs in over this network.
    pub fn log_in(&self, network: &Network) {
        self.initiator.log_in(network, self.ports);
    }

    /// Creates a session that differs from this one only in its name.
    pub fn log_in_again(&self, session: &str) {
        run("iscsiadm", ["-m", "session", "-r", number(session), "--op", "new"]);
    }

    /// Logs out of this session.
    pub fn end_session(&self, session: &str) {
        run("iscsiadm", ["-m", "session", "-r", number(session), "--logout"]);
    }

    /// Closes the connection of this session. iscsid does not restore it before
    /// [`IscsiSan::reconnect`].
    pub fn disconnect(&self, session: &str) {
        self.initiator.signal(Signal::STOP);
        let port = format!("/sys/class/iscsi_connection/connection{}:0/local_port", number(session));
        let port = fs::read_to_string(port).expect("the session has a connection");
        run("ss", ["--kill", "sport", "=", &format!(":{}", port.trim())]);
    }

    /// Undoes [`IscsiSan::disconnect`].
    pub fn reconnect(&self) {
        self.initiator.signal(Signal::CONT);
    }

    /// Logs out of the sessions over this network.
    pub fn log_out(&self, network: &Network) {
        run("iscsiadm", ["-m", "node", "-T", TARGET, "-I", network.interface, "--logout"]);
    }
}

/// The portals of the array's ports in this network.
pub fn portals(network: &Network) -> [String; PORTS.len()] {
    PORTS.map(|port| format!("{}:{port}", network.address))
}

/// The sessions over this network.
pub fn sessions(network: &Network) -> BTreeSet<String> {
    let portal = |session: &str| {
        let address = format!("/sys/class/iscsi_connection/connection{}:0/persistent_address", number(session));
        fs::read_to_string(address).unwrap_or_default()
    };
    let all = fs::read_dir("/sys/class/iscsi_session").expect("sysfs has the class");
    let all = all.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned());
    all.filter(|session| portal(session).trim() == network.address.to_string()).collect()
}

fn number(session: &str) -> &str {
    session.trim_start_matches("session")
}

/// The disks of the present sessions.
pub fn disks() -> BTreeSet<Disk> {
    scsi_disk::below(|device| device.to_string_lossy().contains("/session"))
}

impl Array {
    fn start(dir: &Path, luns: usize) -> Self {
        fs::create_dir_all("/run/tgtd").expect("/run is writable");
        let log = File::create(dir.join("tgtd.log")).expect("the scenario's directory is writable");
        let child = network::command("tgtd")
            .arg("-f")
            .args(["--iscsi", &PORTS.map(|port| format!("portal=0.0.0.0:{port}")).join(",")])
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("tgtd starts");
        let array = Array(child);
        eventually("tgtd is ready", PATIENCE, || try_run("tgtadm", ["--op", "show", "--mode", "sys"]).map(drop));
        tgtadm("--op new --mode target --tid 1 --targetname", TARGET);
        for lun in 1..=luns {
            let image = dir.join(format!("lun{lun}.img"));
            let file = File::create(&image).expect("the scenario's directory is writable");
            file.set_len(8 << 20).expect("there is room for nothing");
            tgtadm(
                &format!("--op new --mode logicalunit --tid 1 --lun {lun} --backing-store"),
                &image.to_string_lossy(),
            );
            tgtadm(
                &format!("--op update --mode logicalunit --tid 1 --lun {lun} --params"),
                &format!("vendor_id=EXAMPLE,product_id=ARRAY,product_rev=0001,scsi_sn=LUN{lun}"),
            );
        }
        tgtadm("--op bind --mode target --tid 1 --initiator-address", "ALL");
        array
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("our own child can be signalled");
    }
}

fn tgtadm(words: &str, last: &str) {
    run("tgtadm", ["--lld", "iscsi"].into_iter().chain(words.split(' ')).chain([last]));
}

impl Drop for Array {
    fn drop(&mut self) {
        network::end(&mut self.0);
    }
}

impl Initiator {
    fn start(dir: &Path, sessions: Sessions) -> Self {
        run("modprobe", ["iscsi_tcp"]);
        run("mount", ["-t", "tmpfs", "none", DATABASE]);
        let write = |name: &str, text: &str| fs::write(Path::new(DATABASE).join(name), text).expect("it is a tmpfs");
        write("initiatorname.iscsi", "InitiatorName=iqn.2003-01.org.example:host\n");
        write("iscsid.conf", &sessions.conf());
        fs::create_dir_all("/run/lock/iscsi").expect("/run is writable");
        let log = File::create(dir.join("iscsid.log")).expect("the scenario's directory is writable");
        let child = Command::new("iscsid")
            .arg("-f")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be duplicated"))
            .stderr(log)
            .spawn()
            .expect("iscsid starts");
        Initiator(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("our own child can be signalled");
    }

    fn log_in(&self, network: &Network, ports: usize) {
        let interface = network.interface;
        let iface = |args: &[&str]| try_run("iscsiadm", ["-m", "iface", "-I", interface].iter().chain(args));
        eventually("iscsid is ready", PATIENCE, || match iface(&["--op", "show"]) {
            Ok(_) => Ok(()),
            Err(_) => iface(&["--op", "new"]).map(drop),
        });
        run(
            "iscsiadm",
            ["-m", "iface", "-I", interface, "--op", "update", "-n", "iface.net_ifacename", "-v", interface],
        );
        for portal in &portals(network)[..ports] {
            let node = ["-m", "node", "-T", TARGET, "-p", portal, "-I", interface];
            run("iscsiadm", node.iter().chain(&["--op", "new"]));
            let log_in = || try_run("iscsiadm", node.iter().chain(&["--login"])).map(drop);
            eventually("the session is made", PATIENCE, log_in);
        }
    }
}

impl Drop for Initiator {
    fn drop(&mut self) {
        // A failed scenario may have left it stopped.
        self.signal(Signal::CONT);
        // There may be no session.
        let _ = try_run("iscsiadm", ["-m", "session", "--logout"]);
        network::end(&mut self.0);
        let _ = try_run("umount", ["-l", DATABASE]);
    }
}
