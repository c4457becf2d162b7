//! Checks that none of the names is left in the capture.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// A name with at least this many letters and digits does not occur by chance. Such names are also
/// searched for inside words.
const LONG: usize = 12;

/// The names that must not occur, in lower case.
#[derive(Debug)]
pub struct Check {
    /// Long names, by their first [`LONG`] bytes.
    long: HashMap<Vec<u8>, Vec<String>>,
    /// Short names, by their lengths.
    short: BTreeMap<usize, BTreeSet<String>>,
}

impl Check {
    /// Prepares a search for these names. It leaves out names that disclose nothing, because the
    /// capture of any host may contain them. Examples are a map called `disk` and a host called
    /// `sda`.
    pub fn new(names: Vec<String>, is_plain: impl Fn(&str) -> bool) -> Self {
        let mut check = Check { long: HashMap::new(), short: BTreeMap::new() };
        for mut name in names {
            name.make_ascii_lowercase();
            let digits = name.bytes().filter(u8::is_ascii_digit).count();
            // Numbers with few digits occur everywhere, such as `01-02` or `8:16`.
            let is_number = digits < 6 && !name.contains(char::is_alphabetic) && name.parse::<IpAddr>().is_err();
            if name.len() < 3 || is_number || is_plain(&name) || words(&name).all(&is_plain) {
                continue;
            }
            match name.as_bytes().get(..LONG) {
                Some(beginning) => check.long.entry(beginning.to_owned()).or_default().push(name),
                None => drop(check.short.entry(name.len()).or_default().insert(name)),
            }
        }
        check
    }

    /// Returns the first name that occurs in this text.
    pub fn find(&self, text: &[u8]) -> Option<String> {
        let text = text.to_ascii_lowercase();
        let is_part = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        (0..text.len()).find_map(|start| {
            let rest = text.get(start..)?;
            let long = rest.get(..LONG).and_then(|beginning| self.long.get(beginning));
            let long = long.and_then(|names| names.iter().find(|name| rest.starts_with(name.as_bytes())));
            let short = || {
                let alone = self.short.iter().filter(|(length, _)| !is_part(Some(start + **length)));
                let mut words =
                    alone.filter_map(|(length, names)| Some((names, str::from_utf8(rest.get(..*length)?).ok()?)));
                words.find_map(|(names, word)| names.get(word))
            };
            let begins = !is_part(start.checked_sub(1));
            long.or_else(|| if begins { short() } else { None }).cloned()
        })
    }
}

/// Returns true if the word identifies one thing, because it is unlikely that two things have it by
/// chance.
pub fn is_telling(name: &str) -> bool {
    let digits = name.bytes().filter(u8::is_ascii_digit).count();
    let has_letters = name.bytes().any(|byte| byte.is_ascii_alphabetic());
    name.len() >= 6 && digits > 0 && has_letters || name.len() >= 8 && digits >= 2 || name.len() >= LONG
}

/// Splits a text into words of letters and digits.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_where_they_are_names() {
        let names =
            ["3600a098000aad1e3", "db1", "data", "10.1.1.2", "Münze", "ab", "123", "nvme0n1", "QM0001", "01-02"];
        let check = Check::new(names.map(str::to_owned).into(), |word| ["data", "nvme0n1"].contains(&word));
        for (text, found) in [
            ("wwid=\"3600A098000aad1e3\"", Some("3600a098000aad1e3")),
            ("x3600a098000aad1e3y", Some("3600a098000aad1e3")),
            ("pg-db1.x", Some("db1")),
            ("DB1", Some("db1")),
            ("db12 sdb1", None),
            ("data ab 123 nvme0n1", None),
            ("DISK QM0001", Some("qm0001")),
            ("DISK QM00015", None),
            ("at 10.1.1.2:3260", Some("10.1.1.2")),
            ("at 10.1.1.20, 210.1.1.2", None),
            ("eine Münze", Some("münze")),
            ("1-01-02", None),
            ("", None),
        ] {
            assert_eq!(check.find(text.as_bytes()).as_deref(), found, "{text}");
        }
    }
}
