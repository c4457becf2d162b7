//! `basic_auth_users`: the users, without those whose hashes take too long to compare.

use std::collections::BTreeMap;

use bcrypt::HashParts;
use serde::Deserialize;

use super::file::name as key;

/// The users with usable hashes, and the others.
#[derive(Default, Deserialize)]
#[serde(try_from = "BTreeMap<String, UserHash>")]
pub(crate) struct ParsedUsers {
    /// bcrypt hashes by user name.
    pub(crate) hashes: BTreeMap<String, String>,
    /// The names of the other users, with the costs of their hashes.
    pub(crate) too_costly: Vec<(String, u32)>,
}

impl TryFrom<BTreeMap<String, UserHash>> for ParsedUsers {
    type Error = String;

    fn try_from(users: BTreeMap<String, UserHash>) -> Result<Self, String> {
        let mut text = ParsedUsers::default();
        for (name, UserHash { hash, cost }) in users {
            if cost > MAX_COST {
                text.too_costly.push((name, cost));
            } else {
                text.hashes.insert(name, hash);
            }
        }
        // A table without users would admit everybody.
        match text.too_costly.first() {
            Some((name, cost)) if text.hashes.is_empty() => {
                Err(format!("all users would be refused: {:?} is {}", key(name), too_costly(*cost)))
            }
            _ => Ok(text),
        }
    }
}

/// Describes the problem of a hash with this cost.
pub(crate) fn too_costly(cost: u32) -> String {
    format!(
        "hashed with a bcrypt cost of {cost}, which takes {} times as long as a cost of 10: the \
         highest accepted cost is {MAX_COST}",
        1_u32 << cost.saturating_sub(10)
    )
}

/// A bcrypt hash. It is never shown, because anyone who sees it can try passwords on it.
#[derive(Deserialize)]
#[serde(try_from = "Option<String>")]
struct UserHash {
    hash: String,
    cost: u32,
}

/// The highest accepted cost. Each step doubles the time. At this cost, a password takes more than
/// three seconds of CPU time. Two steps more take longer than the timeout of a scrape, so such a
/// user could never scrape. The toolkit accepts up to 31, which is more than a day per guess, while
/// no other password is checked.
const MAX_COST: u32 = 16;

impl TryFrom<Option<String>> for UserHash {
    type Error = &'static str;

    fn try_from(hash: Option<String>) -> Result<Self, Self::Error> {
        let hash = without_stray_bits(&hash.unwrap_or_default());
        match hash.parse::<HashParts>().map(|parts| parts.get_cost()) {
            Ok(cost @ 4..=31) => Ok(UserHash { hash, cost }),
            _ => Err("not a bcrypt hash: passwords in basic_auth_users must be hashed with bcrypt"),
        }
    }
}

/// 22 characters encode the salt's 16 bytes and four spare bits. Some tools set these bits. Go
/// ignores them, but the bcrypt library would reject the hash.
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
            // One of the four characters that the last two bits of the salt give.
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
            ParsedUsers::try_from(users)
        };
        let taken = users(&[4, 16, 17, 31]).unwrap();
        assert_eq!(taken.hashes.keys().collect::<Vec<_>>(), ["16", "4"]);
        assert_eq!(taken.too_costly, [("17".to_owned(), 17), ("31".to_owned(), 31)]);
        // A table without users would admit everybody.
        assert!(users(&[17]).err().unwrap().starts_with("all users would be refused"));
        assert!(users(&[]).unwrap().hashes.is_empty());
    }
}
