//! Which part of what was read is a name.
//!
//! What is known to be none stays: states, numbers, models, the kernel's own names. Everything else is replaced, so that a
//! file that is read one day and forgotten here gives nothing away.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use regex::{Captures, Regex};

use super::check::is_telling;
use super::names::{Impossible, Names};
use super::{PROCFS, SYSFS, UDEV_DATA};
use crate::source::recorded::{self, Kernel};

/// Attributes of sysfs that hold no name.
const PLAIN_FILES: [&str; 19] = [
    "access_state",
    "ana_grpid",
    "ana_state",
    "dev",
    "diskseq",
    "firmware_rev",
    "inflight",
    "model",
    "partition",
    "persistent_port",
    "port_state",
    "rev",
    "ro",
    "scsi_target_id",
    "size",
    "state",
    "suspended",
    "transport",
    "vendor",
];

/// Keys of multipathd's replies whose values are none.
const PLAIN_KEYS: [&str; 21] = [
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
    "paths",
    "pri",
    "prod",
    "queueing",
    "rev",
    "selector",
    "sysfs",
    "vend",
    "write_prot",
];

/// Of the file that [`recorded`] describes.
const OWN_WORDS: &str = "format device_mapper error maps devno event_nr name uuid open_count read_only suspended sectors \
                         status table interfaces nodes true false null";

/// What is printed for a name that is not known.
const NO_NAMES: [&str; 6] = ["", "(null)", "<null>", "[undef]", "-", "none"];

/// Replaces names, and knows what it has left as it was.
#[derive(Debug)]
pub struct Scrub {
    names: Names,
    /// Whole values that were replaced.
    values: BTreeSet<String>,
    /// Words that stay, in lower case.
    pub plain: BTreeSet<String>,
    name: Regex,
    name_without_address: Regex,
    component: Regex,
    line: Regex,
    open_line: Regex,
    pair: Regex,
}

const UUID: &str = r"(?-u:\b)(?<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?-u:\b)";
const MAC: &str = r"(?-u:\b)(?<mac>[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})(?-u:\b)";
const ENX: &str = r"(?-u:\b)enx(?<enx>[0-9a-f]{12})(?-u:\b)";
/// An address of PCI; the part of a qualified name that says who gave it when; what other names begin with to say of
/// what kind they are; a character that device mapper has mangled.
const STAYS: &str = r"(?<stays>(?-u:\b)[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7](?-u:\b)|(?-u:\b)(?:iqn|nqn)\.[0-9]{4}-[0-9]{2}\.(?:org\.nvmexpress[:.](?:uuid(?-u:\b)|discovery(?-u:\b))?)?|(?-u:\b)(?:(?:naa|eui|uuid|nvme|t10)\.|mpath-|LVM-|CRYPT-[A-Z0-9]+-|part[0-9]+-|[np]n-)|\\x[0-7][0-9a-fA-F])";
/// Characters that are not ASCII, mangled.
const MANGLED: &str = r"(?<mangled>(?:\\x[89a-fA-F][0-9a-fA-F])+)";
const V6: &str = r"(?<address>(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F.]*|[0-9]{1,3}(?:\.[0-9]{1,3}){3})";
const WORD: &str = r"(?<word>[0-9A-Za-z]+|[^\x00-\x7f]+)";
/// Words that are names even among those of the kernel.
const LONG: &str = r"(?<word>(?-u:\b)(?:0x[0-9a-fA-F]{12,}|[0-9a-fA-F]{16,})(?-u:\b))";

impl Scrub {
    /// With these names.
    ///
    /// # Errors
    /// Never: the expressions are as they stand here.
    pub fn new(names: Names) -> Result<Self, regex::Error> {
        Ok(Scrub {
            names,
            values: BTreeSet::new(),
            plain: BTreeSet::new(),
            name: Regex::new(&[UUID, MAC, STAYS, MANGLED, V6, ENX, WORD].join("|"))?,
            name_without_address: Regex::new(&[STAYS, MANGLED, WORD].join("|"))?,
            component: Regex::new(&[UUID, MAC, ENX, LONG].join("|"))?,
            open_line: Regex::new(r#"^\s*"[^"]+"\s*:\s*""#)?,
            line: Regex::new(r#"(?s)^(\s*"([^"]+)"\s*:\s*")(.*)("\s*,?\s*)$"#)?,
            pair: Regex::new(r#"("([^"\\]+)"\s*:\s*")((?:[^"\\]|\\.)*)(")"#)?,
        })
    }

    /// All names have been seen: from now on they are replaced.
    ///
    /// # Errors
    /// See [`Names::assign`].
    pub fn begin_to_replace(&mut self) -> Result<(), Impossible> {
        self.plain.clear();
        self.stays(OWN_WORDS);
        self.names.assign()
    }

    /// This is one, too.
    pub fn names_also(&mut self, host_name: &str) {
        let names = [host_name, host_name.split('.').next().unwrap_or_default()];
        self.values.extend(names.into_iter().filter(|name| *name != "localhost").map(str::to_owned));
    }

    /// What was replaced: whole values, and of their words and addresses those that are telling.
    pub fn old_names(&self) -> Vec<String> {
        let mut names = self.names.old();
        names.retain(|word| is_telling(word));
        names.extend(self.values.iter().cloned());
        names
    }

    /// A place in the tree, or where a link points.
    pub fn path(&mut self, path: &Path) -> PathBuf {
        path.iter().map(|part| self.part(part)).collect()
    }

    /// A part of it: the kernel's own names, but an array of disks may be given one, and some have a name in them.
    fn part(&mut self, part: &OsStr) -> String {
        let part = part.to_string_lossy();
        match part.strip_prefix("md_") {
            Some(name) => format!("md_{}", self.name(name)),
            None => {
                let new = self.replace(&self.component.clone(), &part);
                if new == part {
                    self.plain.insert(new.to_lowercase());
                    self.stays(&new);
                }
                new
            }
        }
    }

    /// The content of a file.
    pub fn file(&mut self, place: &Path, content: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(content);
        let name = place.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let lines = |scrub: &mut Self, line: fn(&mut Self, &str) -> String| {
            text.split_inclusive('\n').map(|text| line(scrub, text)).collect::<String>()
        };
        let text = match name {
            _ if place.starts_with(PROCFS) => lines(self, Self::mount),
            _ if place.starts_with(UDEV_DATA) => lines(self, Self::property),
            _ if !place.starts_with(SYSFS) => self.name(&text),
            name if PLAIN_FILES.contains(&name) => {
                self.stays(&text);
                // Whatever bytes it has.
                return content.to_owned();
            }
            "netdev" => self.interface(&text),
            "address" => self.fields(&text),
            _ => self.name(&text),
        };
        text.into_bytes()
    }

    /// What the kernel said otherwise.
    pub fn kernel(&mut self, kernel: &Kernel) -> Kernel {
        let map = |scrub: &mut Self, map: &recorded::Map| {
            [&map.devno, &map.status, &map.table].into_iter().for_each(|text| scrub.stays(text));
            recorded::Map { name: scrub.name(&map.name), uuid: scrub.name(&map.uuid), ..map.clone() }
        };
        let maps = |scrub: &mut Self, maps: &recorded::Maps| recorded::Maps {
            error: maps.error.as_ref().map(|error| scrub.keep(error)),
            maps: maps.maps.iter().map(|one| map(scrub, one)).collect(),
        };
        let device_mapper = kernel.device_mapper.as_ref().map(|said| maps(self, said));
        let interfaces = kernel.interfaces.iter();
        let interfaces = interfaces.map(|(address, name)| (self.name(address), self.interface(name))).collect();
        let nodes = kernel.nodes.iter().map(|(node, devno)| (self.mounted(node), devno.clone())).collect();
        Kernel { format: kernel.format, device_mapper, interfaces, nodes }
    }

    /// A reply of multipathd.
    pub fn reply(&mut self, file: &str, reply: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(reply);
        if !file.ends_with(".json") {
            return self.keep(&text).into_bytes();
        }
        // A refusal: its second line may say of what.
        if !text.starts_with('{') {
            return text.lines().next().map(|line| self.keep(line).into_bytes()).unwrap_or_default();
        }
        let (line, pair) = (self.line.clone(), self.pair.clone());
        let (mut scrubbed, mut lines) = (String::new(), text.split_inclusive('\n'));
        while let Some(text) = lines.next() {
            let mut text = text.to_owned();
            // A name may have any character, a line's end among them.
            while self.open_line.is_match(&text) && !line.is_match(&text) {
                let Some(next) = lines.next() else { break };
                text.push_str(next);
            }
            let value = |scrub: &mut Self, captures: &Captures| {
                let [before, key, value, after] = [1, 2, 3, 4].map(|index| &captures[index]);
                [before, after].into_iter().for_each(|text| scrub.stays(text));
                let value = if PLAIN_KEYS.contains(&key) { scrub.keep(value) } else { scrub.name(value) };
                format!("{before}{value}{after}")
            };
            // As multipathd prints, which escapes nothing; otherwise as others write JSON.
            let by = if text.trim_start().starts_with('"') { &line } else { &pair };
            match by.is_match(&text) {
                true => scrubbed.push_str(&by.replace_all(&text, |captures: &Captures| value(self, captures))),
                // It was cut short.
                false if self.open_line.is_match(&text) => scrubbed.push_str(&self.name(&text)),
                false => scrubbed.push_str(&self.keep(&text)),
            }
        }
        scrubbed.into_bytes()
    }

    /// A text that holds nothing but what stays.
    pub fn keep(&mut self, text: &str) -> String {
        self.stays(text);
        text.to_owned()
    }

    fn stays(&mut self, text: &str) {
        let words = text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty());
        self.plain.extend(words.map(str::to_lowercase));
    }

    /// `E:ID_SERIAL=3600…`
    fn property(&mut self, line: &str) -> String {
        match line.split_once('=') {
            Some((key, value)) => format!("{}={}", self.keep(key), self.name(value)),
            None => self.name(line),
        }
    }

    /// `traddr=192.0.2.1,trsvcid=4420,host_iface=eth0`, or an address of PCI.
    fn fields(&mut self, text: &str) -> String {
        let fields = text.split(',').map(|field| match field.split_once('=') {
            Some((key @ "trsvcid", value)) => format!("{key}={}", self.keep(value)),
            Some((key @ "host_iface", value)) => format!("{key}={}", self.interface(value)),
            Some((key, value)) => format!("{}={}", self.keep(key), self.name(value)),
            None => self.name(field),
        });
        fields.collect::<Vec<_>>().join(",")
    }

    /// A line of mountinfo. Of its fields those are left out that nobody reads.
    fn mount(&mut self, line: &str) -> String {
        let halves = line.trim_end().split_once(" - ");
        let Some((mount, file_system)) = halves else { return String::new() };
        let [mount, file_system] = [mount, file_system].map(|half| half.split(' ').collect::<Vec<_>>());
        let ([_, _, devno, _, mount_point, ..], [kind, source, ..]) = (&*mount, &*file_system) else {
            return String::new();
        };
        let source = if kind == source { self.keep(source) } else { self.mounted(source) };
        let [devno, mount_point, kind] = [devno, mount_point, kind].map(|text| self.keep(text));
        format!("1 0 {devno} / {mount_point} rw - {kind} {source} rw\n")
    }

    /// What is mounted: a device node by the kernel's name of it, or by another.
    fn mounted(&mut self, source: &str) -> String {
        let is_kernel_name =
            |name: &&str| name.strip_prefix("dm-").unwrap_or(name).bytes().all(|byte| byte.is_ascii_alphanumeric());
        match source.strip_prefix("/dev/") {
            Some(name) if is_kernel_name(&name) => self.keep(source),
            Some(name) => match name.strip_prefix("mapper/") {
                Some(name) => format!("/dev/mapper/{}", self.name(name)),
                None => format!("/dev/{}", self.name(name)),
            },
            None => self.name(source),
        }
    }

    /// A network interface. Some have a MAC address for a name.
    fn interface(&mut self, name: &str) -> String {
        self.part(OsStr::new(name))
    }

    /// A name, or a text with names.
    fn name(&mut self, text: &str) -> String {
        let trimmed = text.trim();
        if NO_NAMES.contains(&trimmed) {
            return self.keep(text);
        }
        let new = self.replace(&self.name.clone(), text);
        if new != text {
            self.values.insert(trimmed.to_owned());
        }
        new
    }

    fn replace(&mut self, names: &Regex, text: &str) -> String {
        let (mut scrubbed, mut at) = (String::new(), 0);
        while let Some(captures) = names.captures_at(text, at) {
            let whole = captures.get_match();
            let new = self.found(&captures).map(|new| (new, whole.end()));
            let (new, end) = new.unwrap_or_else(|| {
                // It only looks like an address.
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

    /// What takes the place of what was found; `None` if it is no address after all.
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
            group("stays").map(|text| self.keep(text))
        }
    }

    /// `\xc3\xa9`
    fn mangled(&mut self, text: &str) -> String {
        let bytes = text.split("\\x").filter_map(|hex| u8::from_str_radix(hex, 16).ok()).collect();
        let Ok(word) = String::from_utf8(bytes) else { return text.to_owned() };
        self.names.word(&word).bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scrubbed(scrub: impl Fn(&mut Scrub) -> String) -> String {
        let mut names = Scrub::new(Names::new().unwrap()).unwrap();
        scrub(&mut names);
        names.begin_to_replace().unwrap();
        scrub(&mut names)
    }

    /// Says that a text becomes another one of this form.
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
            ("nqn.2003-01.org.example:a", "nqn[.]2003-01[.][a-z]{3}[.][a-z]{7}:[a-z]".to_owned()),
            ("pg-Data_01", "[a-z]{2}-[A-Z][a-z]{3}_[0-9]{2}".to_owned()),
            (r"two\x20words", r"[a-z]{3}\\x20[a-z]{5}".to_owned()),
            (r"\xc3\xa9t", r"(\\x[0-9a-f]{2}){2}[a-z]".to_owned()),
            ("192.0.2.1", "10[.][0-9.]+".to_owned()),
            ("2001:db8:1::1", "2001:db8:[0-9a-f:]+".to_owned()),
            ("fe80::1234%eth1", "fe80::[0-9a-f:]+%[a-z]{3}[0-9]".to_owned()),
            ("00:11:22:aa:bb:cc", "02(:[0-9a-f]{2}){5}".to_owned()),
            ("san.example.com", "[a-z]{3}[.][a-z]{7}[.][a-z]{3}".to_owned()),
            ("0000:01:00.0", "0000:01:00[.]0[ ]?".to_owned()),
            ("(null)", "[(]null[)][ ]?".to_owned()),
            ("0xffffffffffffffff", "0xf{16}[ ]?".to_owned()),
        ] {
            assert_becomes(&form, text, |names, text| names.name(text));
        }
    }

    #[test]
    fn where_names_stand() {
        assert_becomes(
            "traddr=10[.][0-9.]+,trsvcid=4420,host_iface=enx02[0-9a-f]{10},src_addr=10[.][0-9.]+",
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
            ("22 1 0:9 / / rw - nfs4 filer:/vol/db rw\n", "1 0 0:9 / / rw - nfs4 [a-z]{5}:/[a-z]{3}/[a-z]{2} rw\n"),
            ("22 1 0:9 / / rw - overlay overlay rw,lowerdir=/srv/secret\n", "1 0 0:9 / / rw - overlay overlay rw\n"),
        ] {
            assert_becomes(form, line, Scrub::mount);
        }
        let part = |names: &mut Scrub, text: &str| names.part(OsStr::new(text));
        assert_becomes("md_[a-z]{6}", "md_ledger", part);
        assert_becomes("6:0:0:1[ ]?", "6:0:0:1", part);
        assert_becomes("0x5[0-9a-f]{15}", "0x500507630300c562", part);
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
