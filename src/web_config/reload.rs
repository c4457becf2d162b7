//! What a change of the files does while the server runs.
//!
//! Certificates, keys, CAs, users and everything else may change; the next handshake and the next request find them
//! changed. Connections that are there stay, as those of the toolkit do. What is bad closes: no handshake, no answer but
//! 500, until it is good again, and the log says so once.
//!
//! Files are compared by content. Times are no help: they can be the same after a change, and there is a second to do it in.
//!
//! Two things follow from how files change. A certificate and its key are two files, and whoever renews them writes one
//! after the other: what is bad counts only if it is still bad a look later. And a file that is being written may be empty
//! or end anywhere, and what is left of it correct, with fewer rules: so what [`Protection`] holds may be added, and not
//! taken away. That takes a restart, as do turning TLS on and off.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use tokio::time::timeout;
use tracing::{error, info};

use super::auth::Users;
use super::file::{ClientAuth, File};
use super::limit::Limiter;
use super::{Policy, State, WebConfig, tls};
use crate::small_file;

/// How often to look: soon enough for who watches a renewal, and 50 µs of reading each time.
const PERIOD: Duration = Duration::from_secs(1);

/// The files that the last reading looked at, and what it saw.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Files(BTreeMap<PathBuf, Seen>);

/// A digest of the content, or why there is none.
#[derive(Debug, PartialEq)]
enum Seen {
    Content(Vec<u8>),
    Nothing(io::ErrorKind),
}

impl Seen {
    fn of(read: &io::Result<Vec<u8>>) -> Self {
        match read {
            Ok(content) => Seen::Content(digest(&SHA256, content).as_ref().to_vec()),
            Err(error) => Seen::Nothing(error.kind()),
        }
    }
}

impl Files {
    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let read = small_file::read(path);
        self.0.insert(path.to_owned(), Seen::of(&read));
        read
    }

    fn changed(&self) -> bool {
        self.0.iter().any(|(path, seen)| Seen::of(&small_file::read(path)) != *seen)
    }
}

/// What keeps somebody out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protection {
    tls: bool,
    demands_certificate: bool,
    verifies_certificate: bool,
    has_cas: bool,
    allows_some_names: bool,
    users: bool,
    rate_limit: bool,
}

impl Protection {
    fn of(file: &File) -> Self {
        let auth = file.tls.as_ref().map_or(ClientAuth::NoClientCert, |tls| tls.client_auth);
        let names = file.tls.as_ref().is_some_and(|tls| tls.client_allowed_sans.is_some());
        Protection {
            tls: file.tls.is_some(),
            demands_certificate: auth.demands() || names,
            verifies_certificate: auth.verifies(),
            has_cas: file.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()),
            allows_some_names: names,
            users: !file.users.is_empty(),
            rate_limit: file.rate_limit.is_some(),
        }
    }

    pub(super) fn verifies_nobody(self) -> bool {
        self.verifies_certificate && !self.has_cas
    }

    /// Why `new` cannot follow on this one, if so.
    fn forbids(self, new: Protection) -> Option<String> {
        if self.tls != new.tls {
            let what = if new.tls { "added" } else { "taken away" };
            return Some(format!("tls_server_config cannot be {what} without a restart"));
        }
        let parts = [
            (self.demands_certificate, new.demands_certificate, "client_auth_type"),
            (self.verifies_certificate, new.verifies_certificate, "client_auth_type"),
            (self.allows_some_names, new.allows_some_names, "client_allowed_sans"),
            (self.users, new.users, "basic_auth_users"),
            (self.rate_limit, new.rate_limit, "rate_limit"),
        ];
        let lost = parts.into_iter().find(|(before, now, _)| *before && !now);
        lost.map(|(_, _, key)| format!("{key} kept more out before, and cannot be loosened without a restart"))
    }
}

/// Reads the file and those that it names, and says which these were, however it ends. What has not changed since `last` is
/// taken over with what it remembers.
pub(super) fn load(file: Option<&Path>, last: Option<&Policy>) -> (Result<Policy, String>, Files) {
    let mut files = Files::default();
    let policy = try_load(file, last, &mut files);
    (policy, files)
}

fn try_load(file: Option<&Path>, last: Option<&Policy>, files: &mut Files) -> Result<Policy, String> {
    let (text, directory) = match file {
        Some(file) => {
            let content = files.read(file).map_err(|error| error.to_string())?;
            let text = String::from_utf8(content).map_err(|_| "not UTF-8".to_owned())?;
            (text, file.parent().unwrap_or(Path::new("")))
        }
        None => (String::new(), Path::new("")),
    };
    let file = File::parse(&text, directory)?;
    let protection = Protection::of(&file);
    if let Some(forbidden) = last.and_then(|last| last.protection.forbids(protection)) {
        return Err(forbidden);
    }
    let tls = file.tls.as_ref().map(|tls| tls::server_config(tls, file.http2, |path| files.read(path))).transpose()?;
    let users = match last.map(|last| &last.users) {
        Some(last) if *last.hashes() == file.users => Arc::clone(last),
        Some(last) => Arc::new(last.followed_by(file.users)),
        None => Arc::new(Users::new(file.users)?),
    };
    let limiter = file.rate_limit.map(|limit| {
        let same = last.and_then(|last| last.limiter.as_ref()).filter(|limiter| limiter.limit() == limit);
        same.map_or_else(|| Arc::new(Limiter::new(limit, Instant::now())), Arc::clone)
    });
    Ok(Policy { tls: tls.map(Arc::new), http2: file.http2, headers: file.headers, users, limiter, protection })
}

/// What looking has led to so far.
#[derive(Default)]
struct Watch {
    /// Whether the last look found something bad for the first time.
    suspected: bool,
    /// What is bad, once it counts and the log has been told.
    told: Option<String>,
}

impl WebConfig {
    /// Looks at the files once a second, until it is dropped. Without a file there is nothing to look at.
    pub async fn follow(self) {
        if self.shared.file.is_none() {
            return;
        }
        let mut watch = Watch::default();
        loop {
            // Whether told or not.
            let _ = timeout(PERIOD, self.shared.reread.notified()).await;
            let config = self.clone();
            // A disk that does not answer holds up this task and nobody else.
            let looked = tokio::task::spawn_blocking(move || {
                config.look(&mut watch);
                watch
            });
            match looked.await {
                Ok(same) => watch = same,
                Err(error) => {
                    error!(%error, "cannot look at the web configuration file");
                    watch = Watch::default();
                }
            }
        }
    }

    /// Has the files looked at now, not in a second.
    pub fn reread(&self) {
        self.shared.reread.notify_one();
    }

    fn look(&self, watch: &mut Watch) {
        let Some(file) = self.shared.file.as_deref() else { return };
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        if !watch.suspected && !files.changed() {
            return;
        }
        let (State::Open(last) | State::Closed { last }) = self.state();
        let (loaded, seen) = load(Some(file), Some(&last));
        *files = seen;
        match loaded {
            Ok(policy) => {
                self.set(State::Open(Arc::new(policy)));
                match watch.told.take() {
                    Some(_) => info!(file = %file.display(), "web configuration correct again"),
                    None => info!(file = %file.display(), "web configuration read again"),
                }
                watch.suspected = false;
            }
            Err(_) if !watch.suspected && watch.told.is_none() => watch.suspected = true,
            Err(error) => {
                watch.suspected = false;
                self.set(State::Closed { last });
                if watch.told.as_ref() != Some(&error) {
                    error!(file = %file.display(), error, "web configuration not correct: nobody is let in");
                    watch.told = Some(error);
                }
            }
        }
    }
}
