//! Basic authentication against bcrypt hashes.
//!
//! bcrypt is slow by design. It runs on a blocking thread, one password at a time, and its results
//! are remembered. A correct password is remembered for its user until the users change. A scraper
//! therefore never waits behind clients that guess. The last hundred wrong passwords are remembered
//! too, so that each costs one hash, not one per request. The memory contains no passwords, only
//! HMACs of them with a key of this process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::header::{AUTHORIZATION, HeaderMap};
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::OnceCell;

use crate::shares::{Client, Place, Shares, Turns};

/// The number of wrong passwords that are remembered.
const MAX_REMEMBERED: usize = 100;

/// The number of passwords that may wait for their hash. At the usual cost they take two or three
/// seconds together, less than the timeout of a scrape. One client may use a share of them.
pub(crate) const MAX_WAITING: usize = 32;

/// The result of checking a request's name and password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthResult {
    Right,
    /// Also if the request has none.
    Wrong,
    /// Too many passwords wait for their hash, so this one was not checked.
    Busy,
}

/// The users, and the results of earlier checks.
pub(crate) struct Authenticator {
    hashes: BTreeMap<String, String>,
    key: hmac::Key,
    memory: Mutex<CheckedPasswords>,
    /// One password is hashed at a time.
    hashing: Arc<Turns>,
}

type Digest = Vec<u8>;

#[derive(Default)]
struct CheckedPasswords {
    /// The correct password of each user that has been checked.
    right: HashMap<String, Digest>,
    /// Other passwords, and those that are being hashed. A request with the same password waits for
    /// the same hash.
    others: VecDeque<(Digest, Arc<OnceCell<bool>>)>,
}

impl Authenticator {
    /// # Errors
    /// If the system has no random numbers.
    pub(crate) fn new(hashes: BTreeMap<String, String>) -> Result<Self, String> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Authenticator {
            hashes,
            key: key.map_err(|_| "no random numbers available".to_owned())?,
            memory: Mutex::default(),
            hashing: Arc::default(),
        })
    }

    /// A new user table that keeps the results of unchanged users. Otherwise, adding a user would
    /// make the others wait behind clients that guess.
    pub(crate) fn followed_by(&self, hashes: BTreeMap<String, String>) -> Self {
        let is_same = |name: &String| hashes.get(name).is_some_and(|hash| self.hashes.get(name) == Some(hash));
        let right = self
            .memory()
            .right
            .iter()
            .filter(|(name, _)| is_same(name))
            .map(|(name, digest)| (name.clone(), digest.clone()))
            .collect();
        Authenticator {
            hashes,
            key: self.key.clone(),
            memory: Mutex::new(CheckedPasswords { right, others: VecDeque::new() }),
            hashing: Arc::clone(&self.hashing),
        }
    }

    pub(crate) fn hashes(&self) -> &BTreeMap<String, String> {
        &self.hashes
    }

    /// Checks a request by its headers. Every request is right if there are no users. A password
    /// that must be hashed uses one of the client's places.
    pub(crate) async fn judge(&self, headers: &HeaderMap, client: Client, waiting: &Arc<Shares>) -> AuthResult {
        if self.hashes.is_empty() {
            return AuthResult::Right;
        }
        let Some(credentials) = Credentials::of(headers) else { return AuthResult::Wrong };
        let (name, password) = credentials.parts();
        let digest = self.digest(&[name, password]);
        let known = std::str::from_utf8(name).ok().and_then(|name| self.hashes.get_key_value(name));
        let (cell, place) = {
            let mut memory = self.memory();
            if let Some((name, _)) = known
                && memory.right.get(name) == Some(&digest)
            {
                return AuthResult::Right;
            }
            let asked = memory.others.iter().find(|(other, _)| *other == digest).map(|(_, cell)| Arc::clone(cell));
            // A request that waits for another request's hash takes memory too, so it needs a
            // place.
            let place = if asked.as_deref().is_some_and(OnceCell::initialized) {
                None
            } else {
                let Some(place) = waiting.take(client) else { return AuthResult::Busy };
                Some(place)
            };
            (asked.unwrap_or_else(|| memory.remember(digest.clone())), place)
        };
        // An unknown name is compared with the hash of a user, always the same one, so that it
        // takes as long as a known name.
        let hash = known.map_or_else(|| self.stand_in(name), |(_, hash)| hash);
        let compared =
            cell.get_or_try_init(|| self.compare(credentials.password(), hash.to_owned(), client, place)).await;
        match (compared, known) {
            (Ok(true), Some((name, _))) => {
                let mut memory = self.memory();
                memory.right.insert(name.clone(), digest.clone());
                memory.others.retain(|(other, _)| *other != digest);
                AuthResult::Right
            }
            (Ok(_), _) => AuthResult::Wrong,
            (Err(Busy), _) => AuthResult::Busy,
        }
    }

    async fn compare(
        &self,
        password: Vec<u8>,
        hash: String,
        client: Client,
        place: Option<Place>,
    ) -> Result<bool, Busy> {
        let turn = self.hashing.wait(client).await.ok_or(Busy)?;
        let compare = move || {
            // Held until the end of the hash, even if the client disconnects.
            let _held = (place, turn);
            // bcrypt uses only the first 72 bytes of a password, in Go too.
            bcrypt::verify(password, &hash).unwrap_or(false)
        };
        tokio::task::spawn_blocking(compare).await.map_err(|_| Busy)
    }

    /// Puts its length before each part, so that no two pairs give the same text.
    fn digest(&self, parts: &[&[u8]]) -> Digest {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&part.len().to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    fn stand_in(&self, name: &[u8]) -> &str {
        let number =
            self.digest(&[name]).iter().fold(0_usize, |number, byte| (number << 8 | number >> 56) ^ usize::from(*byte));
        let hashes = self.hashes.values();
        hashes.clone().nth(number % hashes.len().max(1)).map_or("", String::as_str)
    }

    fn memory(&self) -> MutexGuard<'_, CheckedPasswords> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckedPasswords {
    fn remember(&mut self, digest: Digest) -> Arc<OnceCell<bool>> {
        if self.others.len() >= MAX_REMEMBERED {
            self.others.pop_front();
        }
        let cell = Arc::default();
        self.others.push_back((digest, Arc::clone(&cell)));
        cell
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.hashes.keys()).finish()
    }
}

/// The client has no free place in the queue.
struct Busy;

/// A name and a password, and the position of the colon between them.
struct Credentials(Vec<u8>, usize);

impl Credentials {
    /// The format is that of RFC 7617.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = BASE64_STANDARD.decode(encoded).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        Some(Credentials(decoded, colon))
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let (name, rest) = self.0.split_at(self.1);
        (name, rest.get(1..).unwrap_or_default())
    }

    fn password(&self) -> Vec<u8> {
        self.parts().1.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::shares::AddressShare;

    fn users(passwords: &[(&str, &str)]) -> Authenticator {
        let hash = |password| bcrypt::hash(password, 4).unwrap();
        let hashes = passwords.iter().map(|(name, password)| ((*name).to_owned(), hash(password)));
        Authenticator::new(hashes.collect()).unwrap()
    }

    fn client() -> Client {
        IpAddr::from([192, 0, 2, 1]).into()
    }

    fn places() -> Arc<Shares> {
        Shares::new(MAX_WAITING, "100".parse().unwrap())
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    async fn judge(users: &Authenticator, name: &str, password: &str) -> AuthResult {
        judge_of(users, client(), &places(), name, password).await
    }

    async fn judge_of(
        users: &Authenticator,
        client: Client,
        places: &Arc<Shares>,
        name: &str,
        password: &str,
    ) -> AuthResult {
        let encoded = BASE64_STANDARD.encode(format!("{name}:{password}"));
        users.judge(&headers(&format!("Basic {encoded}")), client, places).await
    }

    fn remembered(users: &Authenticator) -> (usize, usize) {
        let memory = users.memory();
        (memory.right.len(), memory.others.len())
    }

    #[tokio::test]
    async fn name_and_password_must_be_right() {
        let users = users(&[("alice", "secret"), ("bob", "a:b"), ("", "empty"), ("carol", "")]);
        for (name, password, verdict) in [
            ("alice", "secret", AuthResult::Right),
            ("alice", "Secret", AuthResult::Wrong),
            ("alice", "", AuthResult::Wrong),
            ("Alice", "secret", AuthResult::Wrong),
            ("bob", "a:b", AuthResult::Right),
            ("bob", "secret", AuthResult::Wrong),
            ("", "empty", AuthResult::Right),
            ("carol", "", AuthResult::Right),
            ("nobody", "secret", AuthResult::Wrong),
            // A second check gives the same results.
            ("alice", "secret", AuthResult::Right),
            ("alice", "Secret", AuthResult::Wrong),
            ("nobody", "secret", AuthResult::Wrong),
        ] {
            assert_eq!(judge(&users, name, password).await, verdict, "{name}:{password}");
        }
    }

    #[tokio::test]
    async fn users_that_stay_stay_known() {
        let before = users(&[("alice", "secret"), ("bob", "secret"), ("carol", "secret")]);
        for name in ["alice", "bob", "carol"] {
            assert_eq!(judge(&before, name, "secret").await, AuthResult::Right);
        }
        let mut hashes = before.hashes().clone();
        hashes.insert("bob".to_owned(), bcrypt::hash("other", 4).unwrap());
        hashes.remove("carol");
        let after = before.followed_by(hashes);
        assert_eq!(remembered(&after), (1, 0));
        for (name, password, verdict) in [
            ("alice", "secret", AuthResult::Right),
            ("bob", "secret", AuthResult::Wrong),
            ("bob", "other", AuthResult::Right),
            ("carol", "secret", AuthResult::Wrong),
        ] {
            assert_eq!(judge(&after, name, password).await, verdict, "{name}:{password}");
        }
    }

    #[tokio::test]
    async fn what_is_no_basic_authentication_is_wrong() {
        let users = users(&[("alice", "secret")]);
        assert_eq!(users.judge(&HeaderMap::new(), client(), &places()).await, AuthResult::Wrong);
        let right = BASE64_STANDARD.encode("alice:secret");
        for value in
            ["", "Basic", "Basic ", "Basic !", "Bearer x", "Basic YWxpY2U=", &format!("Bearer {right}"), &right]
        {
            assert_eq!(users.judge(&headers(value), client(), &places()).await, AuthResult::Wrong, "{value:?}");
        }
        assert_eq!(users.judge(&headers(&format!("bAsIc {right}")), client(), &places()).await, AuthResult::Right);
    }

    #[tokio::test]
    async fn without_users_anybody_may_ask() {
        assert_eq!(users(&[]).judge(&HeaderMap::new(), client(), &places()).await, AuthResult::Right);
    }

    /// CVE-2022-46146: name, hash and password were joined to one text, so a wrong guess could make
    /// another one right.
    #[tokio::test]
    async fn no_two_pairs_are_remembered_as_one() {
        let users = users(&[("alice", "secret"), ("a", "x")]);
        assert_eq!(judge(&users, "a", "x").await, AuthResult::Right);
        assert_eq!(judge(&users, "alice", "secret").await, AuthResult::Right);
        assert_ne!(users.digest(&[b"a", b"licesecret"]), users.digest(&[b"alice", b"secret"]));
        assert_eq!(judge(&users, "a", "licesecret").await, AuthResult::Wrong);
    }

    #[tokio::test]
    async fn an_unknown_name_stands_for_one_user_whatever_the_password() {
        let users = users(&[("alice", "same"), ("bob", "same"), ("carol", "same")]);
        let first = users.stand_in(b"nobody").to_owned();
        assert!(users.hashes.values().any(|hash| *hash == first));
        assert_eq!(users.stand_in(b"nobody"), first);
        // The password of the stand-in user does not admit it, neither now nor from memory.
        for _ in 0..2 {
            assert_eq!(judge(&users, "nobody", "same").await, AuthResult::Wrong);
        }
    }

    #[tokio::test]
    async fn guesses_do_not_push_out_who_was_right() {
        let users = users(&[("alice", "secret")]);
        assert_eq!(judge(&users, "alice", "secret").await, AuthResult::Right);
        for guess in 0..MAX_REMEMBERED + 20 {
            assert_eq!(judge(&users, "alice", &guess.to_string()).await, AuthResult::Wrong);
        }
        assert_eq!(remembered(&users), (1, MAX_REMEMBERED));
        // This holds even while no password can be hashed.
        let _turn = users.hashing.wait(client()).await;
        assert_eq!(judge(&users, "alice", "secret").await, AuthResult::Right);
    }

    #[tokio::test]
    async fn a_client_that_guesses_keeps_places_for_others() {
        let users = Arc::new(users(&[("alice", "secret")]));
        let places = Shares::new(MAX_WAITING, AddressShare::default());
        let turn = users.hashing.wait(client()).await;
        let ask = |client: u8, password: &str| {
            let (users, places, password) = (Arc::clone(&users), Arc::clone(&places), password.to_owned());
            let client = IpAddr::from([192, 0, 2, client]).into();
            tokio::spawn(async move { judge_of(&users, client, &places, "alice", &password).await })
        };
        let mut guesses = Vec::new();
        for guess in 0..MAX_WAITING {
            guesses.push(ask(1, &guess.to_string()));
            tokio::task::yield_now().await;
        }
        let (same, scrape) = (ask(3, "0"), ask(2, "secret"));
        while remembered(&users).1 <= MAX_WAITING / 4 {
            tokio::task::yield_now().await;
        }
        drop(turn);
        assert_eq!(scrape.await.unwrap(), AuthResult::Right);
        // A second request with this password waits for the first one's hash.
        assert_eq!(same.await.unwrap(), AuthResult::Wrong);
        let mut busy = 0;
        for guess in guesses {
            busy += usize::from(guess.await.unwrap() == AuthResult::Busy);
        }
        assert_eq!(busy, MAX_WAITING - MAX_WAITING / 4);
    }
}
