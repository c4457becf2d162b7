//! Finds the names in what was read.
//!
//! Only values that are known to contain no name are kept: states, numbers, models, the kernel's
//! own names. Everything else is replaced. So a file that a later version reads and that is missing
//! here discloses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use regex::{Captures, Regex};

use super::check::{Check, is_telling, words};
use super::names::{Impossible, NameTable};
use super::{PROCFS, SYSFS, UDEV_DATA};
use crate::source::block::disks::is_scsi_address;
use crate::source::block::mounts::{ROOT_MOUNT_POINTS, several_nodes, swap, unescaped};
use crate::source::block::udev_db::MARK_PROPERTY;
use crate::source::recorded::{self, RecordedKernel};
use crate::topology::DevNo;

/// Attributes of sysfs that contain no name.
const PLAIN_FILES: [&str; 30] = [
    "access_state",
    "ana_grpid",
    "ana_state",
    "carrier",
    "cntrltype",
    "command_error_count",
    "ctrl_loss_tmo",
    "delayed_removal_secs",
    "dev",
    "discovery_session",
    "diskseq",
    "fast_io_fail_tmo",
    "inflight",
    "ioerr_cnt",
    "iopolicy",
    "iotmo_cnt",
    "operstate",
    "partition",
    "persistent_port",
    "port_state",
    "reconnect_delay",
    "reset_count",
    "ro",
    "scsi_target_id",
    "size",
    "stat",
    "state",
    "suspended",
    "target_state",
    "transport",
];

/// Keys of multipathd's replies whose texts contain no name.
const PLAIN_KEYS: [&str; 16] = [
    "action",
    "checker",
    "chk_st",
    "dev",
    "dev_st",
    "dev_t",
    "dm_st",
    "failback",
    "features",
    "hwhandler",
    "lun_hex",
    "marginal_st",
    "queueing",
    "selector",
    "sysfs",
    "write_prot",
];

/// Keys of multipathd's replies whose numbers are kept.
const NUMBERS: [&str; 10] = [
    "group",
    "major_version",
    "map_loads",
    "minor_version",
    "path_faults",
    "paths",
    "pri",
    "q_timeouts",
    "switch_grp",
    "total_q_time",
];

/// Words of the kernel, multipathd and this program that occur in captures whatever the host is
/// called: in paths, keys, states and errors. Words that a vendor chose are not among them: a model
/// would hide an alias that contains it.
const PLAIN: &str = "access action active adapter address admin affinity alua an ana argument attached available bdi \
    block blocked btrfs bus checker class closed cntrltype command common configure connected connecting connection \
    count created ctl ctrl current data dead delay delayed deleting denied depth dev device devices diag directio \
    directory disabled discovery disk diskseq dm e emc enabled endpoint error errors event fabrics fail failback \
    failed false fast faults faulty fc features file files firmware format free fs ghost group grpid handler \
    hardware hba historical holders host hosts hw hwhandler id idle if immediate inaccessible inflight init \
    initiator input integrity interfaces invalid io iopolicy ipaddress is iscsi json kernel length linux live loads \
    localdomain localhost logged loss lost lun major manual map mapper maps marginal minor mismatch mode model \
    mountinfo mpath mq multipath multipathd name netdev new no node nodes none nonoptimized normal not null numa \
    nvme off offline on online open operation ops optimized or output partition partitions path paths pci pending \
    permission persistent pid platform port portal ports power preferred pri proc prod prot queue queued queueing \
    rdac read readme ready reconnect recovery reload remote removal removed reserved reset resetting retain rev ro \
    robin role root round roundrobin rport running rw scsi secs sectors selector serial service session shaky show \
    shutdown size slaves standby start startup stat state status subsysnqn subsystem suspended swaps switch sys \
    sysfs sysroot system table target targetname tcp temporarily time timeout tmo trace transitioning transport true \
    tur txt uid unavailable undef unread up uuid vend vendor version virtual weight word write wwid wwn wwnn wwpn \
    yes";

/// Prefixes of vendors for which the model is the name that the target's administrator gave to the
/// disk: LIO and SCST.
const NAMED_BY_ADMINISTRATORS: [&[u8]; 2] = [b"LIO-ORG", b"SCST_"];

/// The texts that programs print for an unknown name.
const NO_NAMES: [&str; 7] = ["", "0x0", "(null)", "<null>", "[undef]", "-", "none"];

/// Replaces names, and records what it has kept.
#[derive(Debug)]
pub struct Scrub {
    names: NameTable,
    /// Whole values and their replacements. A value that must not occur in the capture has an empty
    /// replacement.
    values: BTreeMap<String, String>,
    /// False in the first pass, which collects names; true in the second one, which replaces them.
    replacing: bool,
    /// Vendors, models and revisions that were found.
    inquired: BTreeSet<String>,
    /// Those of them that contain a name.
    telling: BTreeSet<String>,
    /// Models, as their words in lower case.
    models: BTreeSet<Vec<String>>,
    /// The last vendor in multipathd's reply. The next model belongs to it, and sysfs may not have
    /// it.
    vendor: String,
    name: Regex,
    name_without_address: Regex,
    component: Regex,
    line: Regex,
    open_line: Regex,
    token: Regex,
    pci: Regex,
    disk: Regex,
    kernel_name: Regex,
    interface: Regex,
}

const UUID: &str = r"(?-u:\b)(?<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?-u:\b)";
const MAC: &str = r"(?-u:\b)(?<mac>[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})(?-u:\b)";
const ENX: &str = r"(?-u:\b)enx(?<enx>[0-9a-f]{12})(?-u:\b)";
/// Text that is kept: the date part of a qualified name, prefixes for kinds of names, and a
/// character that device mapper has mangled.
const STAYS: &str = r"(?<stays>(?-u:\b)(?:iqn|nqn)\.[0-9]{4}-[0-9]{2}\.(?:org\.nvmexpress[:.](?:uuid(?-u:\b)|discovery(?-u:\b))?)?|(?-u:\b)(?:(?:naa|eui|uuid|nvme|t10)\.|mpath-|part[0-9]+-|[np]n-)|\\x(?:[0-2][0-9a-fA-F]|3[a-fA-F]|[46]0|[57][b-fB-F]))";
/// Mangled characters: non-ASCII ones, or letters and digits.
const MANGLED: &str = r"(?<mangled>(?:\\x[89a-fA-F][0-9a-fA-F])+|(?:\\x(?:3[0-9]|[46][1-9a-fA-F]|[57][0-9aA]))+)";
const V6: &str = r"(?<address>(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F.]*|[0-9]{1,3}(?:\.[0-9]{1,3}){3})";
const WORD: &str = r"(?<word>[0-9A-Za-z]+|[^\x00-\x7f]+)";
/// Long hexadecimal or decimal numbers. They are always names, also within the kernel's own names.
const LONG: &str = r"(?<word>(?-u:\b)(?:0x[0-9a-fA-F]{12,}|[0-9a-fA-F]{16,})(?-u:\b)|[0-9]{12,})";
const PCI: &str = r"^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$";
/// The kernel's names of block devices.
const DISK: &str = r"^(?:(?:s|v|xv|h|das)d[a-z]{1,3}[0-9]{0,3}|dm-[0-9]+|nvme[0-9]+(?:c[0-9]+)?n[0-9]+(?:p[0-9]+)?|(?:md|mmcblk|loop|zram|ram|pmem|nbd|rbd|drbd|bcache|sr|fd)[0-9]+(?:p[0-9]+)?|(?:emcpower|sddlm)[a-z]{1,3}[0-9]{0,3}|(?:VxDMP|vxdmp|VxVM)[0-9]{1,6}|root)$";
/// The kernel's numbered names of other objects.
const KERNEL_NAME: &str =
    r"^(?:host|session|connection|target|rport|nvme|subsys|dm|pci|port|expander|ata|usb|cpu)[0-9]{1,4}$";
/// The kernel's and udev's names of network interfaces, and what an iSCSI host has if it is not
/// bound to an interface.
const INTERFACE: &str = r"^(?:lo|default|host[0-9]+|(?:eth|ib|bond|team|br|vlan|em)[0-9]{1,4}|p[0-9]+p[0-9]+|(?:en|ib)(?:(?:[Pbopsfdnaciu]|np)[0-9]{1,5}){1,6})(?:\.[0-9]{1,4})?$";

impl Scrub {
    /// Starts the first pass, which collects names in `names`.
    ///
    /// # Errors
    /// Never. The expressions are constants.
    pub fn new(names: NameTable) -> Result<Self, regex::Error> {
        Ok(Scrub {
            names,
            values: BTreeMap::new(),
            replacing: false,
            inquired: BTreeSet::new(),
            telling: BTreeSet::new(),
            models: BTreeSet::new(),
            vendor: String::new(),
            name: Regex::new(&[UUID, MAC, STAYS, MANGLED, V6, ENX, WORD].join("|"))?,
            name_without_address: Regex::new(&[STAYS, MANGLED, WORD].join("|"))?,
            component: Regex::new(&[UUID, MAC, ENX, LONG].join("|"))?,
            open_line: Regex::new(r#"^\s*"[^"]+"\s*:\s*""#)?,
            line: Regex::new(r#"(?s)^(\s*"([^"]+)"\s*:\s*")(.*)("\s*,?\s*)$"#)?,
            token: Regex::new(r#""((?:[^"\\]|\\.)*)"(\s*:)?|[^\s"\[\]{},:]+"#)?,
            pci: Regex::new(PCI)?,
            disk: Regex::new(DISK)?,
            kernel_name: Regex::new(KERNEL_NAME)?,
            interface: Regex::new(INTERFACE)?,
        })
    }

    /// Starts the second pass, which replaces the names. A vendor, model or revision that contains
    /// a name is replaced as well: for LIO, the administrator gives both.
    ///
    /// # Errors
    /// See [`NameTable::assign`].
    pub fn begin_to_replace(&mut self) -> Result<(), Impossible> {
        loop {
            let check = self.check();
            let telling = |text: &String| check.find(text.as_bytes()).is_some();
            let found: Vec<_> = self.inquired.difference(&self.telling).filter(|text| telling(text)).cloned().collect();
            if found.is_empty() {
                self.replacing = true;
                return self.names.assign();
            }
            for text in found {
                self.name(&text);
                self.telling.insert(text);
            }
        }
    }

    /// Adds the host's name, its first part and its domain to the names.
    pub fn names_also(&mut self, host_name: &str) {
        let (first, domain) = host_name.split_once('.').unwrap_or((host_name, ""));
        [host_name, first, domain].into_iter().for_each(|name| self.must_go(name));
    }

    /// Records the model of a device of this vendor.
    pub fn model(&mut self, model: &[u8], vendor: &[u8]) {
        let model = String::from_utf8_lossy(model);
        if NAMED_BY_ADMINISTRATORS.iter().any(|named| vendor.starts_with(named)) {
            self.telling.insert(model.trim().to_owned());
            return;
        }
        let words: Vec<_> = words(&model).map(str::to_lowercase).collect();
        if !words.is_empty() {
            self.models.insert(words);
        }
    }

    /// Returns a search for everything that was replaced. It looks for whole values. It also looks
    /// for those of their words and addresses that identify one thing, unless a vendor or model
    /// contains them.
    pub fn check(&self) -> Check {
        let kept: BTreeSet<_> = self.inquired.difference(&self.telling).flat_map(|text| words(text)).collect();
        let kept: BTreeSet<_> = kept.into_iter().map(str::to_lowercase).collect();
        let mut names = self.names.old();
        names.retain(|word| is_telling(word) && !kept.contains(&word.to_lowercase()));
        names.extend(self.values.iter().filter(|(old, new)| !self.replacing || old != new).map(|(old, _)| old.clone()));
        Check::new(names, |word| self.is_plain(word))
    }

    /// Returns true if the capture of any host may contain this word, which is in lower case.
    fn is_plain(&self, word: &str) -> bool {
        let names = [&self.disk, &self.kernel_name, &self.interface];
        PLAIN.split(' ').any(|plain| plain == word) || names.into_iter().any(|names| names.is_match(word))
    }

    /// Replaces the names in a place of the tree.
    pub fn path(&mut self, path: &Path) -> PathBuf {
        self.target(Path::new(""), path)
    }

    /// Replaces the names in the target of a link in this directory. The directory counts:
    /// `../eth1` is an interface among others.
    pub fn target(&mut self, directory: &Path, target: &Path) -> PathBuf {
        let (mut here, mut scrubbed) = (directory.to_owned(), PathBuf::new());
        for part in target {
            if part == ".." {
                here.pop();
                scrubbed.push(part);
            } else {
                scrubbed.push(self.part(here.file_name().unwrap_or_default(), part));
                here.push(part);
            }
        }
        scrubbed
    }

    /// Replaces the names in a part of a place. Most parts are the kernel's own names. But an
    /// administrator may have named an array of disks or an interface, and some parts contain a
    /// name. A vendor may choose any name for its block devices.
    fn part(&mut self, above: &OsStr, part: &OsStr) -> String {
        let part = part.to_string_lossy();
        let is_kernels = || self.disk.is_match(&part) || part.parse::<DevNo>().is_ok();
        if above == "net" {
            self.interface(&part)
        } else if let Some(interface) = part.strip_prefix("lower_") {
            format!("lower_{}", self.interface(interface))
        } else if let Some(name) = part.strip_prefix("md_") {
            format!("md_{}", self.name(name))
        } else if ["block", "slaves", "holders"].iter().any(|name| above == *name) && !is_kernels() {
            self.name(&part)
        } else if is_scsi_address(&part) {
            // A LUN number may have as many digits as a long name.
            part.into_owned()
        } else {
            self.replace(&self.component.clone(), &part)
        }
    }

    /// Replaces the names in the content of a file.
    pub fn file(&mut self, place: &Path, content: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(content);
        let name = place.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let lines = |scrub: &mut Self, line: fn(&mut Self, &str) -> String| {
            text.split_inclusive('\n').map(|text| line(scrub, text)).collect::<String>()
        };
        let text = match name {
            "swaps" if place.starts_with(PROCFS) => lines(self, Self::swap),
            _ if place.starts_with(PROCFS) => lines(self, Self::mount),
            _ if place.starts_with(UDEV_DATA) => lines(self, Self::property),
            _ if !place.starts_with(SYSFS) => self.name(&text),
            "vendor" | "model" | "rev" | "firmware_rev" => self.inquired(&text),
            // Kept whatever bytes it has.
            name if PLAIN_FILES.contains(&name) => return content.to_owned(),
            "netdev" => self.interface(&text),
            "address" => self.fields(&text),
            "wwid" | "subsysnqn" => self.identity(&text),
            _ => self.name(&text),
        };
        text.into_bytes()
    }

    /// Replaces the names in what the kernel said outside of files.
    pub fn kernel(&mut self, kernel: &RecordedKernel) -> RecordedKernel {
        let map = |scrub: &mut Self, map: &recorded::RecordedMap| recorded::RecordedMap {
            name: scrub.name(&map.name),
            uuid: scrub.name(&map.uuid),
            ..map.clone()
        };
        let maps = |scrub: &mut Self, maps: &recorded::RecordedMaps| recorded::RecordedMaps {
            error: maps.error.clone(),
            maps: maps.maps.iter().map(|one| map(scrub, one)).collect(),
        };
        let device_mapper = kernel.device_mapper.as_ref().map(|said| maps(self, said));
        let interfaces = kernel.interfaces.iter();
        let interfaces = interfaces.map(|(address, name)| (self.name(address), self.interface(name))).collect();
        let nodes = kernel.nodes.iter().map(|(node, devno)| (self.mounted(node), devno.clone())).collect();
        RecordedKernel { format: kernel.format, device_mapper, interfaces, nodes }
    }

    /// Replaces the names in a reply of multipathd.
    pub fn reply(&mut self, file: &str, reply: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(reply);
        let first = text.lines().next().unwrap_or_default();
        // The rest of a refusal may contain a name.
        if let Some(refusal) = ["fail", "timeout", "permission deny"].into_iter().find(|word| first.starts_with(word)) {
            return refusal.into();
        }
        let scrubbed = if !file.ends_with(".json") {
            text.lines().map(|line| self.raw(line) + "\n").collect()
        } else if text.starts_with('{') {
            self.json(&text)
        } else {
            self.name(first)
        };
        scrubbed.into_bytes()
    }

    /// `pid 1234 idle`, or the name of a path.
    fn raw(&mut self, line: &str) -> String {
        match *line.split_ascii_whitespace().collect::<Vec<_>>() {
            ["pid", pid, state, ..] if pid.parse::<u32>().is_ok() => {
                let is_known = words(state).all(|word| self.is_plain(word));
                format!("pid {pid} {}", if is_known { state.to_owned() } else { self.name(state) })
            }
            [path] if self.disk.is_match(path) => path.to_owned(),
            _ => self.name(line),
        }
    }

    fn json(&mut self, text: &str) -> String {
        let (line, token) = (self.line.clone(), self.token.clone());
        let (mut scrubbed, mut key, mut lines) = (String::new(), String::new(), text.split_inclusive('\n'));
        while let Some(text) = lines.next() {
            let mut text = text.to_owned();
            // A name may have any character, including a line break.
            while self.open_line.is_match(&text) && !line.is_match(&text) {
                let Some(next) = lines.next() else { break };
                text.push_str(next);
            }
            // First as multipathd prints JSON, which escapes nothing; otherwise as others write it.
            match line.captures(&text).map(|captures| captures.extract().1) {
                Some([before, name, value, after]) if !(value.contains('"') && PLAIN_KEYS.contains(&name)) => {
                    scrubbed.extend([before, &self.value(name, value), after]);
                }
                // The reply was cut off.
                None if self.open_line.is_match(&text) => scrubbed.push_str(&self.name(&text)),
                _ => scrubbed.push_str(&token.replace_all(&text, |captures: &Captures| {
                    match (captures.get(1), captures.get(2)) {
                        (Some(name), Some(_)) => {
                            key = name.as_str().to_owned();
                            captures[0].to_owned()
                        }
                        (Some(value), None) => format!("\"{}\"", self.value(&key, value.as_str())),
                        _ => self.bare(&key, &captures[0]),
                    }
                })),
            }
        }
        scrubbed
    }

    /// Replaces the names in a text value of multipathd's reply.
    fn value(&mut self, key: &str, text: &str) -> String {
        match key {
            "vend" => {
                text.clone_into(&mut self.vendor);
                self.inquired(text)
            }
            "prod" => {
                self.model(text.as_bytes(), &self.vendor.clone().into_bytes());
                self.inquired(text)
            }
            "rev" => self.inquired(text),
            "host_adapter" if self.pci.is_match(text) => text.to_owned(),
            key if PLAIN_KEYS.contains(&key) => text.to_owned(),
            _ => self.name(text),
        }
    }

    /// Replaces a number or another value without quotes, if it may be a name.
    fn bare(&mut self, key: &str, word: &str) -> String {
        match word.parse::<f64>() {
            Ok(_) if NUMBERS.contains(&key) => word.to_owned(),
            Ok(_) => "0".to_owned(),
            Err(_) if ["true", "false", "null"].contains(&word) => word.to_owned(),
            Err(_) => self.name(word),
        }
    }

    /// `E:ID_SERIAL=3600…`
    fn property(&mut self, line: &str) -> String {
        match line.split_once('=') {
            Some((key, value)) if key.ends_with(MARK_PROPERTY) && ["0", "1"].contains(&value.trim_end()) => {
                line.to_owned()
            }
            Some((key, value)) => format!("{key}={}", self.identity(value)),
            None => self.name(line),
        }
    }

    /// Replaces the names in the identity of a device. The model in it is not a name. All other
    /// words are names, even if they equal the model.
    fn identity(&mut self, text: &str) -> String {
        let parts: Vec<_> = words(text).map(str::to_lowercase).collect();
        // SCSI has only the beginning of ATA's model.
        let begins = |part: &[String], model: &[String]| {
            part.iter().zip(model).enumerate().all(|(index, (part, word))| {
                part == word || index + 1 == model.len() && part.starts_with(word.as_str())
            })
        };
        let found = self.models.iter().filter_map(|model| {
            let at = parts.windows(model.len()).position(|part| begins(part, model))?;
            // The serial number follows the model, except in an NQN, which may end with the model.
            (at + model.len() < parts.len() || text.starts_with("nqn.")).then_some((at, model))
        });
        let model = found.max_by_key(|(_, model)| model.iter().map(String::len).sum::<usize>());
        let (at, length) = model.map_or((0, 0), |(at, model)| (at, model.len()));
        let others = parts.iter().enumerate().filter(|(index, _)| !(at..at + length).contains(index));
        others.filter(|(_, word)| is_telling(word)).for_each(|(_, word)| self.must_go(word));
        self.name(text)
    }

    fn must_go(&mut self, name: &str) {
        self.values.entry(name.to_owned()).or_default();
    }

    /// Records a vendor, model or revision, and replaces it if it contains a name.
    fn inquired(&mut self, text: &str) -> String {
        let trimmed = text.trim();
        self.inquired.insert(trimmed.to_owned());
        if self.telling.contains(trimmed) { self.name(text) } else { text.to_owned() }
    }

    /// `traddr=192.0.2.1,trsvcid=4420,host_iface=eth0`, or a PCI address.
    fn fields(&mut self, text: &str) -> String {
        if self.pci.is_match(text.trim()) {
            return text.to_owned();
        }
        let fields = text.split(',').map(|field| match field.split_once('=') {
            Some((key @ "trsvcid", value)) => format!("{key}={value}"),
            Some((key @ "host_iface", value)) => format!("{key}={}", self.interface(value)),
            Some((key, value)) => format!("{key}={}", self.name(value)),
            None => self.name(field),
        });
        fields.collect::<Vec<_>>().join(",")
    }

    /// A line of mountinfo, without the fields that the exporter does not read. A mount that is not
    /// on the root also loses its mount point and its type. It loses its source as well, if it has
    /// the device number of the single block device that the source names.
    fn mount(&mut self, line: &str) -> String {
        let halves = line.trim_end().split_once(" - ");
        let Some((mount, file_system)) = halves else { return String::new() };
        let [mount, file_system] = [mount, file_system].map(|half| half.split(' ').collect::<Vec<_>>());
        let ([_, _, devno, _, mount_point, ..], [kind, source, ..]) = (&*mount, &*file_system) else {
            return String::new();
        };
        let is_root = ROOT_MOUNT_POINTS.contains(mount_point);
        let [mount_point, shown_kind] = [mount_point, kind].map(|field| if is_root { field } else { "none" });
        let source = match *source {
            source if several_nodes(source).is_some() => {
                let nodes = several_nodes(source).into_iter().flatten();
                nodes.map(|node| self.escaped_node(&unescaped(node))).collect::<Vec<_>>().join(":")
            }
            _ if !is_root && !devno.starts_with("0:") => "none".to_owned(),
            source if source == *kind => source.to_owned(),
            source => self.escaped_node(&unescaped(source)),
        };
        format!("1 0 {devno} / {mount_point} rw - {shown_kind} {source} rw\n")
    }

    /// A line of `/proc/swaps`.
    fn swap(&mut self, line: &str) -> String {
        swap(line).map(|node| format!("{} partition 0 0 0\n", self.escaped_node(&node))).unwrap_or_default()
    }

    /// The source of a mount or swap. Blanks and backslashes are escaped as the kernel does it.
    fn escaped_node(&mut self, node: &str) -> String {
        let escape = |character| match character {
            ' ' | '\t' | '\n' | '\\' => format!("\\{:03o}", u32::from(character)),
            other => other.to_string(),
        };
        self.mounted(node).chars().map(escape).collect()
    }

    /// The source of a mount: a device node under the kernel's name or another one.
    fn mounted(&mut self, source: &str) -> String {
        match source.strip_prefix("/dev/") {
            Some(name) if self.disk.is_match(name) => source.to_owned(),
            Some(name) => match name.strip_prefix("mapper/") {
                Some(name) => format!("/dev/mapper/{}", self.name(name)),
                None => format!("/dev/{}", self.name(name)),
            },
            None => self.name(source),
        }
    }

    /// The name of a network interface. An administrator may have chosen it, and some interfaces
    /// are named after their MAC address.
    fn interface(&mut self, name: &str) -> String {
        if self.interface.is_match(name.trim()) { name.to_owned() } else { self.name(name) }
    }

    /// A name, or a text that contains names.
    fn name(&mut self, text: &str) -> String {
        let trimmed = text.trim();
        if NO_NAMES.contains(&trimmed) {
            return text.to_owned();
        }
        let new = self.replace(&self.name.clone(), text);
        self.values.insert(trimmed.to_owned(), new.trim().to_owned());
        new
    }

    fn replace(&mut self, names: &Regex, text: &str) -> String {
        let (mut scrubbed, mut at) = (String::new(), 0);
        while let Some(captures) = names.captures_at(text, at) {
            let whole = captures.get_match();
            let new = self.found(&captures).map(|new| (new, whole.end()));
            let (new, end) = new.unwrap_or_else(|| {
                // The text only looks like an address.
                let captures = self.name_without_address.clone().captures_at(text, whole.start());
                let first = captures.filter(|captures| captures.get_match().start() == whole.start());
                match first.as_ref().and_then(|captures| Some((self.found(captures)?, captures.get_match().end()))) {
                    Some(first) => first,
                    None => {
                        let rest = text[whole.start()..].chars().next();
                        (rest.iter().collect(), whole.start() + rest.map_or(1, char::len_utf8))
                    }
                }
            });
            scrubbed.push_str(&text[at..whole.start()]);
            scrubbed.push_str(&new);
            at = end;
        }
        scrubbed.push_str(text.get(at..).unwrap_or_default());
        scrubbed
    }

    /// Returns the replacement for a match; `None` if it is not an address after all.
    fn found(&mut self, captures: &Captures) -> Option<String> {
        let group = |name| captures.name(name).map(|found| found.as_str());
        if let Some(uuid) = group("uuid") {
            Some(self.names.uuid(uuid))
        } else if let Some(mac) = group("mac") {
            let new = self.names.mac(&mac.replace(':', ""));
            Some(new.as_bytes().chunks(2).map(String::from_utf8_lossy).collect::<Vec<_>>().join(":"))
        } else if let Some(digits) = group("enx") {
            Some(format!("enx{}", self.names.mac(digits)))
        } else if let Some(address) = group("address") {
            let address: IpAddr = address.parse().ok()?;
            Some(self.names.address(address).to_string())
        } else if let Some(mangled) = group("mangled") {
            Some(self.mangled(mangled))
        } else if let Some(word) = group("word") {
            Some(self.names.word(word))
        } else {
            group("stays").map(str::to_owned)
        }
    }

    /// `\xc3\xa9`
    fn mangled(&mut self, text: &str) -> String {
        /// Stands for byte 0 in words of bytes that are not UTF-8. Such a word becomes one of
        /// four-byte characters. There are 64 of these, as many as bytes that cannot begin a
        /// character.
        const NO_TEXT: u32 = 0x10_0000;
        let bytes: Vec<u8> = text.split("\\x").filter_map(|hex| u8::from_str_radix(hex, 16).ok()).collect();
        let new = match str::from_utf8(&bytes) {
            Ok(word) => self.names.word(word).into_bytes(),
            // Not UTF-8: each byte counts as a character.
            Err(_) => {
                let characters = bytes.iter().filter_map(|byte| char::from_u32(NO_TEXT + u32::from(*byte)));
                let new = self.names.word(&characters.collect::<String>());
                new.chars().map(|new| 0x80 | (u32::from(new) & 0x3f) as u8).collect()
            }
        };
        new.iter().map(|byte| format!("\\x{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrubbed(scrub: impl Fn(&mut Scrub) -> String) -> String {
        let mut names = Scrub::new(NameTable::new().unwrap()).unwrap();
        scrub(&mut names);
        names.begin_to_replace().unwrap();
        scrub(&mut names)
    }

    /// Asserts that a text becomes another one of this form.
    #[track_caller]
    fn assert_becomes(form: &str, text: &str, scrub: impl Fn(&mut Scrub, &str) -> String) {
        let new = scrubbed(|names| scrub(names, text));
        assert!(Regex::new(&format!("^{form}$")).unwrap().is_match(&new), "{text} became {new}");
        assert_eq!(new == text, form.ends_with("[ ]?"), "{text} became {new}");
    }

    #[test]
    fn names_keep_their_form() {
        let hex = "[0-9a-f]";
        for (text, form) in [
            ("mpath-3600a098000aad1e3000064e45f2c2355", format!("mpath-36{hex}{{31}}")),
            ("naa.600a098000aad1e3000064e45f2c2355", format!("naa[.]6{hex}{{31}}")),
            ("eui.0025388b710116a1", format!("eui[.]0{hex}{{15}}")),
            ("0x10000090fa000005", format!("0x1{hex}{{15}}")),
            ("uuid.6ba2c62e-71c1-41c8-b9f6-d2e788c59000", format!("uuid[.]{hex}{{8}}(-{hex}{{4}}){{3}}-{hex}{{12}}")),
            (
                "t10.ATA     QEMU HARDDISK   QM00001",
                "t10[.][A-Z]{3}     [A-Z]{4} [A-Z]{8}   [A-Z]{2}[0-9]{5}".to_owned(),
            ),
            ("iqn.1992-08.com.netapp:sn.4711", "iqn[.]1992-08[.][a-z]{3}[.][a-z]{6}:[a-z]{2}[.][0-9]{4}".to_owned()),
            (
                "nqn.2014-08.org.nvmexpress:uuid:6ba2c62e-71c1-41c8-b9f6-d2e788c59000",
                format!("nqn[.]2014-08[.]org[.]nvmexpress:uuid:{hex}{{8}}(-{hex}{{4}}){{3}}-{hex}{{12}}"),
            ),
            ("CRYPT-LEDGER-", "[A-Z]{5}-[A-Z]{6}-".to_owned()),
            ("nqn.2003-01.org.example:a", "nqn[.]2003-01[.][a-z]{3}[.][a-z]{7}:[a-z]".to_owned()),
            ("pg-Data_01", "[a-z]{2}-[A-Z][a-z]{3}_[0-9]{2}".to_owned()),
            (r"two\x20words", r"[a-z]{3}\\x20[a-z]{5}".to_owned()),
            (r"\xc3\xa9t", r"(\\x[0-9a-f]{2}){2}[a-z]".to_owned()),
            ("192.0.2.1", "10[.][0-9.]+".to_owned()),
            ("2001:db8:1::1", "2001:db8:[0-9a-f:]+".to_owned()),
            ("fe80::1234%eth1", "fe80::[0-9a-f:]+%[a-z]{3}[0-9]".to_owned()),
            ("00:11:22:aa:bb:cc", "[0-9a-f]{2}(:[0-9a-f]{2}){5}".to_owned()),
            ("san.example.com", "[a-z]{3}[.][a-z]{7}[.][a-z]{3}".to_owned()),
            (r"\x6c\x65\x64\x67\x65\x72", r"(\\x[67][0-9a-f]){6}".to_owned()),
            (r"\xe9t\xe9", r"(\\x[89ab][0-9a-f])[a-z](\\x[89ab][0-9a-f])".to_owned()),
            ("::ffff:192.0.2.7", "::ffff:10[.][0-9.]+".to_owned()),
            ("2001:db:88.1", "[0-9]{4}:[a-z]{2}:[0-9]{2}[.][0-9]".to_owned()),
            ("acme-1234:56:78.1", "[a-z]{4}-[0-9]{4}:[0-9]{2}:[0-9]{2}[.][0-9]".to_owned()),
            ("(null)", "[(]null[)][ ]?".to_owned()),
            ("0xffffffffffffffff", "0xf{16}[ ]?".to_owned()),
        ] {
            assert_becomes(&form, text, |names, text| names.name(text));
        }
    }

    #[test]
    fn where_names_stand() {
        assert_becomes(
            "traddr=10[.][0-9.]+,trsvcid=4420,host_iface=enx[0-9a-f]{12},src_addr=10[.][0-9.]+",
            "traddr=192.0.2.2,trsvcid=4420,host_iface=enx001122334455,src_addr=192.0.2.1",
            Scrub::fields,
        );
        assert_becomes(
            "traddr=nn-0x2[0-9a-f]{15}:pn-0x2[0-9a-f]{15},host_traddr=nn-0x2[0-9a-f]{15}:pn-0x1[0-9a-f]{15}",
            "traddr=nn-0x200900a098aad2dc:pn-0x200a00a098aad2dc,host_traddr=nn-0x20000090fadcc545:pn-0x10000090fadcc545",
            Scrub::fields,
        );
        for (line, form) in [
            ("22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n", "1 0 8:2 / / rw - ext4 /dev/sda2 rw\n"),
            (
                "22 1 254:2 / / rw - xfs /dev/mapper/vg-db rw\n",
                "1 0 254:2 / / rw - xfs /dev/mapper/[a-z]{2}-[a-z]{2} rw\n",
            ),
            ("22 1 254:2 / / rw - xfs /dev/acmeledger rw\n", "1 0 254:2 / / rw - xfs /dev/[a-z]{10} rw\n"),
            ("22 1 254:2 / / rw - xfs /dev/nvme0n1p2 rw\n", "1 0 254:2 / / rw - xfs /dev/nvme0n1p2 rw\n"),
            ("22 1 0:9 / / rw - nfs4 filer:/vol/db rw\n", "1 0 0:9 / / rw - nfs4 [a-z]{5}:/[a-z]{3}/[a-z]{2} rw\n"),
            ("22 1 0:9 / / rw - overlay overlay rw,lowerdir=/srv/secret\n", "1 0 0:9 / / rw - overlay overlay rw\n"),
            ("22 1 254:2 /secret /srv/ledger rw - xfs /dev/mapper/vg-db rw\n", "1 0 254:2 / none rw - none none rw\n"),
            (
                "22 1 0:40 /secret /srv/ledger rw - btrfs /dev/mapper/vg-db rw\n",
                "1 0 0:40 / none rw - none /dev/mapper/[a-z]{2}-[a-z]{2} rw\n",
            ),
            (
                "22 1 0:40 / /sysroot rw - btrfs /dev/mapper/a\\134x20b rw\n",
                r"1 0 0:40 / /sysroot rw - btrfs /dev/mapper/[a-z]\\134x20[a-z] rw\n",
            ),
        ] {
            assert_becomes(form, line, Scrub::mount);
        }
        for (line, form) in [
            ("/dev/dm-3\\040(deleted) partition 8388604 0 -2\n", "/dev/dm-3 partition 0 0 0\n"),
            ("/dev/mapper/vg-swap partition\t8\t0\t-2\n", "/dev/mapper/[a-z]{2}-[a-z]{4} partition 0 0 0\n"),
        ] {
            assert_becomes(form, line, Scrub::swap);
        }
        for (path, form) in [
            ("dev/block/252:1", "dev/block/252:1[ ]?"),
            ("../../devices/virtual/block/zram0", "../../devices/virtual/block/zram0[ ]?"),
            ("devices/virtual/block/acme!ledger", "devices/virtual/block/[a-z]{4}![a-z]{6}"),
            ("class/block/nvme0n1p2", "class/block/nvme0n1p2[ ]?"),
        ] {
            assert_becomes(form, path, |names, path| names.path(Path::new(path)).display().to_string());
        }
        let part = |names: &mut Scrub, text: &str| names.part(OsStr::new("virtual"), OsStr::new(text));
        assert_becomes("md_[a-z]{6}", "md_ledger", part);
        assert_becomes("6:0:0:1[ ]?", "6:0:0:1", part);
        assert_becomes("0x5[0-9a-f]{15}", "0x500507630300c562", part);
        assert_becomes("pxd!pxd8[0-9a-f]{17}", "pxd!pxd857203948573920485", part);
        assert_becomes("0000:01:00[.]0[ ]?", "0000:01:00.0", Scrub::fields);
        assert_becomes("[a-z]{8}-[a-z]{3}", "acmebank-san", Scrub::interface);
        assert_becomes("[a-z][0-9]", "e1", Scrub::interface);
        for kernels in ["lo", "eth1", "bond0.12", "eno1", "enp65s0f1np1", "ens3f0.100", "ib0", "host7", "default"] {
            assert_becomes(&format!("{kernels}[ ]?"), kernels, Scrub::interface);
        }
    }

    /// Returns the replacement of a model on a host with these names, and the final search for
    /// names.
    fn model_beside(vendor: &str, model: &str, names: impl Fn(&mut Scrub)) -> (String, Check) {
        let mut scrub = Scrub::new(NameTable::new().unwrap()).unwrap();
        scrub.model(model.as_bytes(), vendor.as_bytes());
        names(&mut scrub);
        scrub.inquired(model);
        scrub.begin_to_replace().unwrap();
        names(&mut scrub);
        (scrub.inquired(model), scrub.check())
    }

    #[test]
    fn a_model_is_no_name_but_a_serial_number_is() {
        for (model, identity, serial, stays) in [
            ("KCM61VUL3T20", "KCM61VUL3T20_Y1A0A0EEFM18", "y1a0a0eefm18", true),
            ("KCM61VUL3T20", "nqn.2014.08.org.nvmexpress:1e0f1e0fY1A0A0EE KCM61VUL3T20", "1e0f1e0fy1a0a0ee", true),
            ("ST16000NM001G-2K", "ST16000NM001G-2KK103_ZL2ABC99", "zl2abc99", true),
            ("DISK QM00001", "QEMU_DISK_QM00001", "qm00001", false),
            ("DISK QM00001", "DISK_QM00001_QM00001", "qm00001", false),
        ] {
            let (new, check) = model_beside("ATA", model, |scrub| drop(scrub.identity(identity)));
            assert_eq!(new == model, stays, "{model} became {new}");
            assert_eq!(check.find(new.as_bytes()), None, "{model} became {new}");
            assert_eq!(check.find(format!("a {serial}").as_bytes()).as_deref(), Some(serial), "{identity}");
        }
    }

    #[test]
    fn a_model_stays_unless_it_is_a_name() {
        for (vendor, model, name, stays) in [
            ("HP", "HSV300", "hsv300_vol1", true),
            ("DELL", "MD36xxi", "md36xxi-db", true),
            ("EXAMPLE", "LEDGER", "ledger", false),
            ("QNAP", "iSCSI Storage", "storage", false),
            ("DGC", "RAID 5", "disk", true),
            ("LIO-ORG", "acme-ledger", "mpatha", false),
            ("SCST_BIO", "acme", "mpatha", false),
        ] {
            let (new, check) = model_beside(vendor, model, |scrub| drop(scrub.name(name)));
            assert_eq!(new == model, stays, "{model} became {new}");
            assert_eq!(check.find(new.as_bytes()), None, "{model} became {new}");
        }
    }

    #[test]
    fn host_names_and_their_domains() {
        let mut scrub = Scrub::new(NameTable::new().unwrap()).unwrap();
        scrub.names_also("ledger.acme.example");
        scrub.names_also("localhost.localdomain");
        scrub.begin_to_replace().unwrap();
        for (text, found) in [
            ("at ledger", Some("ledger")),
            ("at x.acme.example", Some("acme.example")),
            ("at localhost.localdomain", None),
        ] {
            assert_eq!(scrub.check().find(text.as_bytes()).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn replies_of_any_layout() {
        let compact =
            br#"{"maps":[{"name":"db \"x\" 01","uuid":"3600a098000aad1e3","vend":"ACME","pri":1,"new_key":"who"}]}"#;
        let reply = |names: &mut Scrub, text: &[u8]| String::from_utf8(names.reply("show-maps.json", text)).unwrap();
        let new = scrubbed(|names| reply(names, compact));
        let form = r#"^\{"maps":\[\{"name":"[a-z]{2} \\"[a-z]\\" [0-9]{2}","uuid":"36[0-9a-f]{15}","vend":"ACME","pri":1,"new_key":"[a-z]{3}"\}\]\}$"#;
        assert!(Regex::new(form).unwrap().is_match(&new), "{new}");
        // multipathd escapes nothing.
        let line = b"{\n      \"name\" : \"a\", \"uuid\" : \"b\",\n";
        let new = scrubbed(|names| reply(names, line));
        assert!(
            Regex::new(r#"^\{\n      "name" : "[a-z]", "[a-z]{4}" : "[a-z]",\n$"#).unwrap().is_match(&new),
            "{new}"
        );
        let new =
            scrubbed(|names| reply(names, b"{\n  \"name\" : \"ab\ncd\",\n  \"sysfs\" : \"dm-0\",\n  \"name\" : \"ef"));
        let form = "^\\{\n  \"name\" : \"[a-z]{2}\n[a-z]{2}\",\n  \"sysfs\" : \"dm-0\",\n  \"[a-z]{4}\" : \"[a-z]{2}$";
        assert!(Regex::new(form).unwrap().is_match(&new), "{new}");
        assert_eq!(scrubbed(|names| reply(names, b"fail\nno map called ledger\n")), "fail");
        // The model is a name whether its disk is in sysfs or not.
        for (text, form) in [
            (
                "{\n  \"vend\" : \"LIO-ORG\",\n  \"prod\" : \"acme\"\n",
                "\\{\n  \"vend\" : \"LIO-ORG\",\n  \"prod\" : \"[a-z]{4}\"\n",
            ),
            (
                r#"{"vend":"SCST_BIO","prod":"acme","vend":"DGC","prod":"VRAID"}"#,
                r#"\{"vend":"SCST_BIO","prod":"[a-z]{4}","vend":"DGC","prod":"VRAID"\}"#,
            ),
        ] {
            assert_becomes(form, text, |names, text| reply(names, text.as_bytes()));
        }
        for (text, form) in [
            (
                r#"{"serial_number": 4711123, "wwids": ["ABC1234", "DEF"], "pri": 50, "new": true, "paths": [{"#,
                r#"\{"serial_number": 0, "wwids": \["[A-Z]{3}[0-9]{4}", "[A-Z]{3}"\], "pri": 50, "new": true, "paths": \[\{"#,
            ),
            (
                "{\n  \"dev\" : \"sda\", \"serial\" : \"SN12X7\"\n",
                "\\{\n  \"dev\" : \"sda\", \"serial\" : \"[A-Z]{2}[0-9]{2}[A-Z][0-9]\"\n",
            ),
            (
                "{\n  \"host_adapter\" : \"0000:3b:00.0\",\n  \"alias\" : \"1234:56:78.1\"\n",
                "\\{\n  \"host_adapter\" : \"0000:3b:00.0\",\n  \"alias\" : \"[0-9]{4}:[0-9]{2}:[0-9]{2}[.][0-9]\"\n",
            ),
            ("{\"name\":\"ledg", "\\{\"name\":\"[a-z]{4}"),
        ] {
            let new = scrubbed(|names| reply(names, text.as_bytes()));
            assert!(Regex::new(&format!("^{form}$")).unwrap().is_match(&new) && new != text, "{new}");
        }
        let raw = |names: &mut Scrub, text: &str| String::from_utf8(names.reply("show.txt", text.as_bytes())).unwrap();
        for (form, text) in [
            ("pid 373 idle\n[ ]?", "pid 373 idle\n"),
            ("pid 373 idle\n", "pid 373 idle (pending reconfigure)\n"),
            ("pid 373 [a-z]{6}\n", "pid 373 ledger\n"),
            ("sda\nnvme0n1\n[ ]?", "sda\nnvme0n1\n"),
            ("sda\n[a-z]{2} [a-z]{3} [a-z]{6} [a-z]{8}\n", "sda\nno map called ledgerdb\n"),
            ("fail", "fail\nno map called ledgerdb\n"),
            ("timeout", "timeout\n"),
        ] {
            assert_becomes(form, text, raw);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_its_words_are_gone(text in "\\PC{0,60}") {
            let new = scrubbed(|names| names.name(&text));
            let words = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect::<BTreeSet<_>>();
            let both: Vec<_> = words(&text).intersection(&words(&new)).filter(|word| word.len() > 6).cloned().collect();
            prop_assert!(both.is_empty(), "{both:?} of {text:?} in {new:?}");
        }
    }
}
