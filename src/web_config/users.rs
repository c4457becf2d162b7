//! `basic_auth_users`: whose passwords can be compared with a hash in a time that anybody waits.

use std::collections::BTreeMap;

use bcrypt::HashParts;
use serde::Deserialize;

use super::file::name as key;

/// The users whose passwords can be compared, and those whose cannot.
#[derive(Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, UserHash>")]
pub struct Users {
    /// bcrypt hashes by user name.
    pub hashes: BTreeMap<String, String>,
    /// The names of the others, and the costs of their hashes.
    pub too_costly: Vec<(String, u32)>,
}

impl TryFrom<BTreeMap<String, UserHash>> for Users {
    type Error = String;

    fn try_from(users: BTreeMap<String, UserHash>) -> Result<Self, String> {
        let mut text = Users::default();
        for (name, UserHash { hash, cost }) in users {
            match cost > MAX_COST {
                true => text.too_costly.push((name, cost)),
                false => drop(text.hashes.insert(name, hash)),
            }
        }
        // Without users anybody may ask.
        match text.too_costly.first() {
            Some((name, cost)) if text.hashes.is_empty() => {
                Err(format!("nobody could be let in: {:?} is {}", key(name), too_costly(*cost)))
            }
            _ => Ok(text),
        }
    }
}

/// What is wrong with a hash of this cost.
pub fn too_costly(cost: u32) -> String {
    format!(
        "hashed with a bcrypt cost of {cost}, which takes {} times as long as 10: at most {MAX_COST} is taken here",
        1_u32 << cost.saturating_sub(10)
    )
}

/// A hash of bcrypt. It is never shown: who sees it can try passwords on it.
#[derive(Deserialize)]
#[serde(try_from = "Option<String>")]
struct UserHash {
    hash: String,
    cost: u32,
}

/// Each step doubles the time. At this one a password takes more than three seconds of a processor, and two more steps
/// take longer than Prometheus waits for a scrape: whoever has such a hash never gets in. The toolkit takes up to 31, which
/// is more than a day for each guess, and nobody else's password is looked at meanwhile.
const MAX_COST: u32 = 16;

impl TryFrom<Option<String>> for UserHash {
    type Error = &'static str;

    fn try_from(hash: Option<String>) -> Result<Self, Self::Error> {
        let hash = without_stray_bits(&hash.unwrap_or_default());
        match hash.parse::<HashParts>().map(|parts| parts.get_cost()) {
            Ok(cost @ 4..=31) => Ok(UserHash { hash, cost }),
            _ => Err("not hashed with bcrypt, as a password in basic_auth_users must be"),
        }
    }
}

/// The salt's 16 bytes are written with 22 characters, which leave room for four bits more. Some tools write something
/// there; Go does not look at it, and the library would refuse it.
fn without_stray_bits(hash: &str) -> String {
    const DIGITS: &str = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    const LAST: std::ops::Range<usize> = 28..29;
    let digit = hash.get(LAST).and_then(|last| DIGITS.find(last));
    let mut hash = hash.to_owned();
    if let Some(whole) = digit.and_then(|digit| DIGITS.get(digit & 0b11_0000..=digit & 0b11_0000)) {
        hash.replace_range(LAST, whole);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_salt_has_no_room_for_is_not_looked_at() {
        let hash = bcrypt::hash("secret", 4).unwrap();
        for stray in ['.', 'O', 'e', 'u', '9'] {
            let mut written = hash.clone();
            written.replace_range(28..29, &stray.to_string());
            let taken = UserHash::try_from(Some(written)).unwrap().hash;
            // One of the four that the last two bits of the salt can be.
            let wanted = taken[28..29] == hash[28..29];
            assert_eq!(bcrypt::verify("secret", &taken).unwrap(), wanted, "{stray}: {taken}");
            assert!([".", "O", "e", "u"].contains(&&taken[28..29]), "{taken}");
        }
    }

    #[test]
    fn whoever_has_too_costly_a_hash_is_no_user() {
        let hash = |cost: u32| UserHash { hash: format!("of {cost}"), cost };
        let users = |costs: &[u32]| {
            let users: BTreeMap<_, _> = costs.iter().map(|cost| (cost.to_string(), hash(*cost))).collect();
            Users::try_from(users)
        };
        let taken = users(&[4, 16, 17, 31]).unwrap();
        assert_eq!(taken.hashes.keys().collect::<Vec<_>>(), ["16", "4"]);
        assert_eq!(taken.too_costly, [("17".to_owned(), 17), ("31".to_owned(), 31)]);
        // Without users anybody may ask.
        assert!(users(&[17]).err().unwrap().starts_with("nobody could be let in"));
        assert!(users(&[]).unwrap().hashes.is_empty());
    }
}
