//! Chooses a replacement for each name.
//!
//! A name is replaced word by word: `pg-data-01` and `pg-data-02` share a word, and so may a WWID
//! and a serial number. A word has the same replacement everywhere. The new word has the form of
//! the old one (length, digits, capitals) and differs from all old ones.
//!
//! Words of one form stay in order, so that lists sorted by name mostly keep their order. For that,
//! two new words share as many leading characters as the old ones. If all characters of a kind
//! occur in one place behind the same beginning, they stay. Examples are the last digits of a long
//! series, and the initials of 26 names. Everything else is random and kept nowhere.
//!
//! IPv4 addresses become private ones, IPv6 addresses those for documentation. Two new addresses
//! share as long a prefix as the old ones, so that a network stays a network.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ring::hmac;
use ring::rand::SystemRandom;

/// A random word may equal an old one. After this many tries there are too few other words to avoid
/// that, such as for a single digit.
const MOST_TRIES: usize = 100;

/// Reasons why names could not be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// The system provides no random numbers.
    #[error("the system provides no random numbers")]
    NoRandomNumbers,
    /// More names differ in one character than there are replacements for it. No real host has that
    /// many.
    #[error("too many names differ in one character")]
    TooMany,
}

/// The old and the new names. At first, [`NameTable::word`] and [`NameTable::address`] only record
/// their argument and return it. After [`NameTable::assign`] they return its replacement.
#[derive(Debug)]
pub struct NameTable {
    words: BTreeMap<Form, BTreeMap<String, String>>,
    addresses: BTreeMap<IpAddr, IpAddr>,
    random: Random,
}

/// Which characters of a word stay, and what the others may become. Words of different forms need
/// not keep their order: the replacement of `eeee0001` may sort before that of `data01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Hexadecimal digits. The first one says what kind of name it is (`6` in a WWN) and stays.
    Wwn,
    /// Hexadecimal digits of a UUID (`6ba2c62e-71c1-41c8-b9f6-d2e788c59000`), or of a MAC address
    /// without its colons.
    Digits,
    /// A digit becomes a digit, a capital a capital, and another letter another letter.
    Text,
}

impl NameTable {
    /// Starts without any names.
    ///
    /// # Errors
    /// If the system provides no random numbers.
    pub fn new() -> Result<Self, Impossible> {
        Ok(NameTable { words: BTreeMap::new(), addresses: BTreeMap::new(), random: Random::new()? })
    }

    /// Returns the replacement of a word of letters and digits.
    pub fn word(&mut self, word: &str) -> String {
        // All letters in one case, as programs print them.
        let is_hex = |text: &str| {
            let all = |is: fn(&u8) -> bool| text.as_bytes().iter().all(|byte| byte.is_ascii_digit() || is(byte));
            all(|byte| matches!(byte, b'a'..=b'f')) || all(|byte| matches!(byte, b'A'..=b'F'))
        };
        let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
        if let Some(digits) = word.strip_prefix("0x").filter(|digits| digits.len() >= 8 && is_hex(digits)) {
            return format!("0x{}", self.hex(digits));
        }
        match (word.len(), word.as_bytes().first()) {
            // multipath's form of a WWID: the type of the name, then the name.
            (17 | 25 | 33, Some(b'1' | b'2' | b'3' | b'8')) if is_hex(word) => {
                format!("{}{}", &word[..1], self.hex(&word[1..]))
            }
            (16.., _) if is_hex(word) => self.hex(word),
            (8.., _) if is_hex(word) && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) => self.hex(word),
            // A type before a text, as in `1ATA`.
            (2.., Some(b'0'..=b'9')) if word.as_bytes().get(1).is_some_and(u8::is_ascii_uppercase) => {
                format!("{}{}", &word[..1], self.word(&word[1..]))
            }
            _ => self.named(Form::Text, word),
        }
    }

    /// Returns the replacement of a UUID.
    pub fn uuid(&mut self, uuid: &str) -> String {
        in_case_of(uuid, self.named(Form::Digits, &uuid.to_ascii_lowercase()))
    }

    /// Returns the replacement of a MAC address of twelve digits without colons.
    pub fn mac(&mut self, digits: &str) -> String {
        in_case_of(digits, self.named(Form::Digits, &digits.to_ascii_lowercase()))
    }

    fn hex(&mut self, digits: &str) -> String {
        // The kernel prints this for a name that it has cleared or never had, so it is not a name.
        if digits.bytes().all(|digit| digit == b'0') || digits.bytes().all(|digit| digit == b'f') {
            return digits.to_owned();
        }
        let lower = digits.to_ascii_lowercase();
        in_case_of(digits, self.named(Form::Wwn, &lower))
    }

    fn named(&mut self, form: Form, word: &str) -> String {
        let words = self.words.entry(form).or_default();
        match words.get(word) {
            Some(new) => new.clone(),
            None => {
                words.insert(word.to_owned(), word.to_owned());
                word.to_owned()
            }
        }
    }

    /// Returns the replacement of an address. Addresses that are the same on every host stay.
    pub fn address(&mut self, address: IpAddr) -> IpAddr {
        let canonical = address.to_canonical();
        let new = match canonical {
            IpAddr::V4(v4) if v4.is_loopback() || v4.is_unspecified() || v4.is_broadcast() => canonical,
            IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => canonical,
            _ => *self.addresses.entry(canonical).or_insert(canonical),
        };
        match new {
            // The replacement of `::ffff:192.0.2.1` has the same form.
            IpAddr::V4(v4) if address.is_ipv6() => v4.to_ipv6_mapped().into(),
            new => new,
        }
    }

    /// Chooses a replacement for every recorded name.
    ///
    /// # Errors
    /// If there are not enough replacements.
    pub fn assign(&mut self) -> Result<(), Impossible> {
        let taken: HashSet<_> = self.words.values().flat_map(BTreeMap::keys).map(|word| word.to_lowercase()).collect();
        for (form, words) in &mut self.words {
            let new = form.others(words.keys(), &taken, &mut self.random)?;
            words.values_mut().zip(new).for_each(|(word, new)| *word = new);
        }
        for round in 1..=MOST_TRIES {
            let (mut flips, mut taken) = (HashMap::new(), BTreeSet::new());
            let new: Vec<_> = self.addresses.keys().map(|old| moved(*old, &mut flips, &mut self.random)).collect();
            // Addresses of different networks may collide in the private network, and a new address
            // may equal an old one.
            let is_free =
                |new: &IpAddr| taken.insert(*new) && (!self.addresses.contains_key(new) || round == MOST_TRIES);
            if new.iter().all(is_free) {
                self.addresses.values_mut().zip(new).for_each(|(address, new)| *address = new);
                return Ok(());
            }
        }
        Err(Impossible::TooMany)
    }

    /// Returns the recorded words and addresses.
    pub fn old(&self) -> Vec<String> {
        let words = self.words.values().flat_map(BTreeMap::keys).cloned();
        words.chain(self.addresses.keys().map(IpAddr::to_string)).collect()
    }
}

/// Moves an address so that it shares the same prefixes with others as before. The bits before it
/// decide if a bit is flipped.
fn moved(address: IpAddr, flips: &mut HashMap<(bool, u128, u32), bool>, random: &mut Random) -> IpAddr {
    let mut flipped = |bits: u128, width: u32, from: u32| {
        (from..width).fold(bits, |moved, bit| {
            let place = width - 1 - bit;
            let before = bits >> place >> 1;
            let flip = *flips.entry((address.is_ipv4(), before, bit)).or_insert_with(|| random.below(2) == 1);
            moved ^ u128::from(flip) << place
        })
    };
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => Ipv4Addr::from_bits(flipped(v4.to_bits().into(), 32, 16) as u32).into(),
        IpAddr::V4(v4) => {
            let bits = flipped(v4.to_bits().into(), 32, 8) as u32;
            Ipv4Addr::from_bits(10 << 24 | bits & 0x00ff_ffff).into()
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Ipv6Addr::from_bits(flipped(v6.to_bits(), 128, 64)).into(),
        IpAddr::V6(v6) => {
            let bits = flipped(v6.to_bits(), 128, 32);
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | bits & (u128::MAX >> 32)).into()
        }
    }
}

fn in_case_of(old: &str, new: String) -> String {
    if old.bytes().any(|byte| byte.is_ascii_uppercase()) { new.to_ascii_uppercase() } else { new }
}

const HEX: &str = "0123456789abcdef";

impl Form {
    /// Returns the characters that this one may become, including itself. All have the same length
    /// in UTF-8.
    fn kind(self, at: usize, character: char) -> Vec<char> {
        match (self, character) {
            (Form::Wwn, _) if at == 0 => vec![character],
            (Form::Wwn | Form::Digits, '0'..='9' | 'a'..='f') => HEX.chars().collect(),
            (_, 'a'..='z') => ('a'..='z').collect(),
            (_, 'A'..='Z') => ('A'..='Z').collect(),
            (_, '0'..='9') => ('0'..='9').collect(),
            _ => match character.len_utf8() {
                1 => vec![character],
                2 => ('Ā'..='ǿ').collect(),
                3 => ('一'..='仿').collect(),
                _ => ('😀'..='😿').collect(),
            },
        }
    }

    /// Returns new words for these sorted ones. Two new words share the same number of leading
    /// characters as the old ones, and where they part, the characters keep their order.
    fn others<'a>(
        self,
        old: impl Iterator<Item = &'a String>,
        taken: &HashSet<String>,
        random: &mut Random,
    ) -> Result<Vec<String>, Impossible> {
        let old: Vec<Vec<char>> = old.map(|word| word.chars().collect()).collect();
        let mut new = vec![String::new(); old.len()];
        // Ranges of words that are equal up to this position.
        let mut open = vec![(0..old.len(), 0)];
        while let Some((words, at)) = open.pop() {
            let mut kinds = BTreeMap::<_, BTreeMap<char, Range<usize>>>::new();
            for (word, character) in words.filter_map(|word| Some((word, *old[word].get(at)?))) {
                let kind = kinds.entry(self.kind(at, character)).or_default();
                kind.entry(character).or_insert(word..word).end = word + 1;
            }
            for (kind, characters) in kinds {
                if characters.len() > kind.len() {
                    return Err(Impossible::TooMany);
                }
                let mut tries = 0;
                let chosen = loop {
                    tries += 1;
                    let chosen = random.some_of(&kind, characters.len());
                    // In sorted order the shortest word comes first.
                    let mut whole =
                        characters.values().zip(&chosen).filter(|(words, _)| old[words.start].len() == at + 1);
                    let is_taken = |(words, character): (&Range<usize>, &char)| {
                        taken.contains(&format!("{}{character}", new[words.start]).to_lowercase())
                    };
                    if tries == MOST_TRIES || !whole.any(is_taken) {
                        break chosen;
                    }
                };
                for (words, character) in characters.into_values().zip(chosen) {
                    new[words.clone()].iter_mut().for_each(|word| word.push(character));
                    open.push((words, at + 1));
                }
            }
        }
        Ok(new)
    }
}

/// A generator of random numbers, with a seed from the system.
#[derive(Debug)]
struct Random {
    key: hmac::Key,
    blocks: u64,
    bytes: Vec<u8>,
}

impl Random {
    fn new() -> Result<Self, Impossible> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Random { key: key.map_err(|_| Impossible::NoRandomNumbers)?, blocks: 0, bytes: Vec::new() })
    }

    /// Returns a number below `limit`, which is at most 256.
    fn below(&mut self, limit: usize) -> usize {
        // Bytes from here on are discarded, so that each result is equally likely.
        let fair = 256 - 256 % limit;
        loop {
            let byte = usize::from(self.byte());
            if byte < fair {
                return byte % limit;
            }
        }
    }

    /// Chooses `count` of these in their order.
    fn some_of(&mut self, all: &[char], mut count: usize) -> Vec<char> {
        let mut left = (1..=all.len()).rev();
        let mut is_chosen = |_: &&char| {
            let chosen = left.next().is_some_and(|left| self.below(left) < count);
            count -= usize::from(chosen);
            chosen
        };
        all.iter().filter(|character| is_chosen(character)).copied().collect()
    }

    fn byte(&mut self) -> u8 {
        if self.bytes.is_empty() {
            self.bytes = hmac::sign(&self.key, &self.blocks.to_ne_bytes()).as_ref().to_owned();
            self.blocks += 1;
        }
        self.bytes.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the replacements of these words.
    fn replaced(words: &[&str]) -> Vec<String> {
        let mut names = NameTable::new().unwrap();
        words.iter().for_each(|word| assert_eq!(names.word(word), *word));
        names.assign().unwrap();
        words.iter().map(|word| names.word(word)).collect()
    }

    #[test]
    fn a_name_is_the_same_however_it_is_written() {
        let new = replaced(&[
            "3600a098000aad1e3000064e45f2c2355",
            "600a098000aad1e3000064e45f2c2355",
            "0x600a098000aad1e3000064e45f2c2355",
            "600A098000AAD1E3000064E45F2C2355",
        ]);
        assert!(new[1].starts_with('6') && new[1].len() == 32 && new[1] != "600a098000aad1e3000064e45f2c2355");
        let same = |prefix: &str| format!("{prefix}{}", new[1]);
        assert_eq!(new, [same("3"), new[1].clone(), same("0x"), new[1].to_ascii_uppercase()]);
        let [t10] = &replaced(&["1ATA"])[..] else { panic!("one is one") };
        assert!(t10.starts_with('1') && t10 != "1ATA" && t10.len() == 4, "{t10}");
        let cleared = ["0xffffffffffffffff", "0x0000000000000000"];
        assert_eq!(replaced(&cleared), cleared);
    }

    #[test]
    fn networks_stay_networks() {
        let old = ["192.0.2.1", "192.0.2.2", "192.0.3.1", "198.51.100.2", "2001:db8:1::1", "2001:db8:1::2", "fe80::1"];
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut names = NameTable::new().unwrap();
        for text in old {
            names.address(address(text));
        }
        names.assign().unwrap();
        let new = old.map(|text| names.address(address(text)));
        let shared = |one: IpAddr, other: IpAddr| match (one, other) {
            (IpAddr::V4(one), IpAddr::V4(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            (IpAddr::V6(one), IpAddr::V6(other)) => (one.to_bits() ^ other.to_bits()).leading_zeros(),
            _ => 0,
        };
        for [one, other] in [[0, 1], [0, 2], [4, 5]] {
            assert_eq!(shared(new[one], new[other]), shared(address(old[one]), address(old[other])));
        }
        assert!(new[..4].iter().all(|new| new.to_string().starts_with("10.")), "{new:?}");
        assert!(new[4..6].iter().all(|new| new.to_string().starts_with("2001:db8:")), "{new:?}");
        assert!(new[6].to_string().starts_with("fe80::"), "{new:?}");
        for fixed in ["127.0.0.1", "0.0.0.0", "::1"] {
            assert_eq!(names.address(address(fixed)), address(fixed));
        }
    }

    proptest! {
        /// New words are distinct, of the same form, in the same order, and differ from all old
        /// ones where possible.
        #[test]
        fn words_keep_their_form_and_order(old in proptest::collection::btree_set("[a-z]{3}[0-9]{2}", 1..50)) {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new = replaced(&old);
            prop_assert!(new.is_sorted() && new.windows(2).all(|pair| pair[0] != pair[1]), "{new:?}");
            for new in &new {
                let (letters, digits) = new.split_at(3);
                prop_assert!(letters.bytes().all(|byte| byte.is_ascii_lowercase()));
                prop_assert!(digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit()));
                prop_assert!(!old.contains(&new.as_str()));
            }
        }

        #[test]
        fn the_order_of_one_form_stays_whatever_its_characters(old in proptest::collection::btree_set("[a-zA-Z][0-9a-zA-Z]{0,6}|[0-9][0-9a-z]{0,6}", 1..50)) {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new = replaced(&old);
            prop_assert!(new.is_sorted(), "{old:?} became {new:?}");
        }

        #[test]
        fn any_words_stay_apart(old in proptest::collection::btree_set("[0-9a-fA-FxZé漢]{1,20}", 1..50)) {
            let old: Vec<&str> = old.iter().map(String::as_str).collect();
            let new = replaced(&old);
            // The case of hexadecimal digits does not count.
            let distinct = |words: &[String]| words.iter().cloned().collect::<BTreeSet<_>>().len();
            prop_assert_eq!(distinct(&new), old.len());
            for (old, new) in old.iter().zip(&new) {
                prop_assert_eq!(old.len(), new.len());
            }
        }

        #[test]
        fn addresses_stay_apart(old in proptest::collection::btree_set(any::<u32>(), 1..50)) {
            let mut names = NameTable::new().unwrap();
            let old: Vec<IpAddr> = old.into_iter().map(|bits| Ipv4Addr::from_bits(bits).into()).collect();
            for address in &old {
                names.address(*address);
            }
            names.assign().unwrap();
            let new: BTreeSet<_> = old.iter().map(|address| names.address(*address)).collect();
            prop_assert_eq!(new.len(), old.len());
        }
    }
}
