//! Changes of the files while the server runs.
//!
//! Certificates, keys, CAs, users and all other settings may change. The next handshake and the
//! next request use the new ones. Established connections continue, as in the toolkit. An invalid
//! file makes the server refuse TLS handshakes and respond 500 to every request, until the file is
//! fixed. The log says so once.
//!
//! Files are compared by content, once a second. Their times are not used, because they may be the
//! same after a change.
//!
//! Two rules follow from the way files change. A certificate and its key are two files that are
//! written one after the other. An invalid configuration therefore counts only if it is still
//! invalid a second later. A file that is being written may be empty or incomplete, and still be
//! valid with fewer rules. The settings in [`Protection`] can therefore be added, but not removed
//! without a restart. The same applies to turning TLS on and off.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::auth::Authenticator;
use super::file::WebConfigFile;
use super::limit::Limiter;
use super::tls;
use super::values::{ClientAuth, TlsVersion};
use super::{ConfigState, Policy, WebConfig};
use crate::shares::AddressShare;
use crate::small_file;

/// The interval of checks. A check reads for about 50 µs. Also the time for which a configuration
/// must be invalid before that counts.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The time that a check may take before a warning is logged, including the wait for a thread. A
/// check normally takes less than a millisecond.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);

/// The files that the last load read, and their state.
#[derive(Debug, Default, PartialEq)]
pub(super) struct FileDigests(BTreeMap<PathBuf, Seen>);

/// A digest of the content, or the kind of the error.
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

impl FileDigests {
    /// The first result is kept. If two keys name a file and it changes between both reads, it
    /// counts as changed.
    fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let read = small_file::read(path);
        self.0.entry(path.to_owned()).or_insert_with(|| Seen::of(&read));
        read
    }

    fn changed(&self) -> bool {
        self.0.iter().any(|(path, seen)| Seen::of(&small_file::read(path)) != *seen)
    }
}

/// The settings that keep clients out, and that a truncated file could lack without an error.
///
/// Cipher suites are not among them, because all supported ones are good. `max_version` is not
/// among them, because it restricts only if it is present. The numbers of the rate limit are not
/// among them, because they keep no client out. A truncated number applies until the file is
/// completely written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Protection {
    tls: bool,
    newest_only: bool,
    demands_certificate: bool,
    verifies_certificate: bool,
    allows_some_names: bool,
    users: bool,
    rate_limit: bool,
}

impl Protection {
    fn of(file: &WebConfigFile) -> Self {
        let auth = file.tls.as_ref().map_or(ClientAuth::NoClientCert, |tls| tls.client_auth);
        let names = file.tls.as_ref().is_some_and(|tls| tls.client_allowed_sans.is_some());
        Protection {
            tls: file.tls.is_some(),
            newest_only: file.tls.as_ref().is_some_and(|tls| tls.min_version == TlsVersion::Tls13),
            demands_certificate: auth.demands() || names,
            verifies_certificate: auth.verifies(),
            allows_some_names: names,
            users: !file.users.is_empty(),
            rate_limit: file.rate_limit.is_some(),
        }
    }

    /// The reason why `new` may not replace this one, if any.
    fn forbids(self, new: Protection) -> Option<String> {
        if self.tls != new.tls {
            let what = if new.tls { "added" } else { "removed" };
            return Some(format!("tls_server_config cannot be {what} without a restart"));
        }
        let parts = [
            (self.newest_only, new.newest_only, "min_version"),
            (self.demands_certificate, new.demands_certificate, "client_auth_type"),
            (self.verifies_certificate, new.verifies_certificate, "client_auth_type"),
            (self.allows_some_names, new.allows_some_names, "client_allowed_sans"),
            (self.users, new.users, "basic_auth_users"),
            (self.rate_limit, new.rate_limit, "rate_limit"),
        ];
        let lost = parts.into_iter().find(|(before, now, _)| *before && !now);
        lost.map(|(_, _, key)| format!("{key} was stricter before, and cannot be relaxed without a restart"))
    }
}

/// Loads the file and the files that it names. Returns the list of files even if the load fails.
/// Parts that are the same as in `last` are taken from there, with their memory.
pub(super) fn load(
    file: Option<&Path>,
    share: AddressShare,
    last: Option<&Policy>,
) -> (Result<Policy, String>, FileDigests) {
    let mut files = FileDigests::default();
    let policy = try_load(file, share, last, &mut files);
    (policy, files)
}

fn try_load(
    file: Option<&Path>,
    share: AddressShare,
    last: Option<&Policy>,
    files: &mut FileDigests,
) -> Result<Policy, String> {
    let (text, directory) = match file {
        Some(file) => {
            let content = files.read(file).map_err(|error| error.to_string())?;
            let text = String::from_utf8(content).map_err(|_| "not UTF-8".to_owned())?;
            (text, file.parent().unwrap_or(Path::new("")))
        }
        None => (String::new(), Path::new("")),
    };
    let file = WebConfigFile::parse(&text, directory)?;
    let protection = Protection::of(&file);
    if let Some(forbidden) = last.and_then(|last| last.protection.forbids(protection)) {
        return Err(forbidden);
    }
    let mut warnings = file.warnings();
    let server = |tls| tls::server_config(tls, file.http2, |path| files.read(path), &mut warnings);
    let (tls, clients) = file.tls.as_ref().map(server).transpose()?.unzip();
    let users = match last.map(|last| &last.users) {
        Some(last) if *last.hashes() == file.users => Arc::clone(last),
        Some(last) => Arc::new(last.followed_by(file.users)),
        None => Arc::new(Authenticator::new(file.users)?),
    };
    let limiter = file.rate_limit.map(|limit| {
        let same = last.and_then(|last| last.limiter.as_ref()).filter(|limiter| limiter.limit() == limit);
        same.map_or_else(|| Arc::new(Limiter::new(limit, share, Instant::now())), Arc::clone)
    });
    Ok(Policy { tls, clients, http2: file.http2, headers: file.headers, users, limiter, protection, warnings })
}

/// The state of the checks.
#[derive(Default)]
struct Watch {
    /// The time at which the configuration was found invalid, while that does not count yet.
    suspected: Option<Instant>,
    /// The error, once it counts and is logged.
    told: Option<String>,
}

impl WebConfig {
    /// Checks the files once a second, until the future is dropped. Without a file, it waits
    /// forever.
    pub async fn follow(self) -> Infallible {
        let Some(file) = self.shared.file.as_deref() else { return pending().await };
        let mut watch = Watch::default();
        loop {
            // Both results are the same here: the time has passed, or a check was requested.
            let _ = timeout(CHECK_INTERVAL, self.shared.reread.notified()).await;
            let config = self.clone();
            // A disk that does not respond blocks only this task.
            let mut look = tokio::task::spawn_blocking(move || {
                config.look(&mut watch, Instant::now());
                watch
            });
            let looked = match timeout(CHECK_DEADLINE, &mut look).await {
                Ok(looked) => looked,
                Err(_) => {
                    // The cause is unknown: the check may still be waiting for its thread.
                    warn!(
                        file = %file.display(),
                        "cannot check the web configuration file: no result after {CHECK_DEADLINE:?}"
                    );
                    let looked = look.await;
                    if looked.is_ok() {
                        info!(file = %file.display(), "web configuration file can be checked again");
                    }
                    looked
                }
            };
            match looked {
                Ok(same) => watch = same,
                Err(error) => {
                    error!(%error, "checking the web configuration file failed");
                    watch = Watch::default();
                }
            }
        }
    }

    /// Requests a check of the files now.
    pub fn reread(&self) {
        self.shared.reread.notify_one();
    }

    fn look(&self, watch: &mut Watch, now: Instant) {
        let Some(file) = self.shared.file.as_deref() else { return };
        let mut files = self.shared.files.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.suspected.is_none() && !files.changed() {
            return;
        }
        let (ConfigState::Open(last) | ConfigState::Closed { last }) = self.state();
        let (loaded, seen) = load(Some(file), self.shared.share, Some(&last));
        *files = seen;
        match loaded {
            Ok(policy) => {
                for warning in policy.warnings.iter().filter(|warning| !last.warnings.contains(warning)) {
                    warn!(file = %file.display(), "{warning}");
                }
                self.set(ConfigState::Open(Arc::new(policy)));
                match watch.told.take() {
                    Some(_) => info!(file = %file.display(), "web configuration is valid again"),
                    None => info!(file = %file.display(), "web configuration reloaded"),
                }
                watch.suspected = None;
            }
            // More frequent checks do not shorten the delay, because they do not make the writer of
            // the files faster.
            Err(_) if watch.told.is_none() && now < *watch.suspected.get_or_insert(now) + CHECK_INTERVAL => {}
            Err(error) => {
                watch.suspected = None;
                self.set(ConfigState::Closed { last });
                if watch.told.as_ref() != Some(&error) {
                    error!(file = %file.display(), error, "invalid web configuration: refusing all requests");
                    watch.told = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::{Context, Waker};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn without_a_file_it_waits_and_does_not_end() {
        let follow = std::pin::pin!(WebConfig::none(AddressShare::default()).unwrap().follow());
        assert!(follow.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_twice_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.pem");
        let mut files = FileDigests::default();
        std::fs::write(&path, "old").unwrap();
        files.read(&path).unwrap();
        assert!(!files.changed());
        std::fs::write(&path, "new").unwrap();
        files.read(&path).unwrap();
        assert!(files.changed());
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Log {
        type Writer = Log;

        fn make_writer(&'a self) -> Log {
            self.clone()
        }
    }

    impl Log {
        fn lines(&self) -> Vec<String> {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect()
        }
    }

    /// A writer of two files has one second for the second file, however often the files are
    /// checked.
    #[test]
    fn what_is_bad_counts_after_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        let good = "rate_limit: {interval: 1s, burst: 1}\n";
        std::fs::write(&path, good).unwrap();
        let config = WebConfig::read(&path, AddressShare::default()).unwrap();
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut is_open = |millis| {
            config.look(&mut watch, start + Duration::from_millis(millis));
            (matches!(config.state(), ConfigState::Open(_)), watch.suspected.is_some())
        };
        assert_eq!(is_open(0), (true, false));
        // The files are invalid for a moment, and a check sees that.
        std::fs::write(&path, "").unwrap();
        assert_eq!([1000, 1001, 1500, 1999].map(&mut is_open), [(true, true); 4]);
        std::fs::write(&path, good).unwrap();
        assert_eq!(is_open(1999), (true, false));
        // The first moment does not count towards the second one.
        std::fs::write(&path, "").unwrap();
        assert_eq!([2000, 2999].map(&mut is_open), [(true, true); 2]);
        assert_eq!(is_open(3000), (false, false));
        std::fs::write(&path, good).unwrap();
        assert_eq!(is_open(3001), (true, false));
    }

    /// Returns true in each call after the future has resolved.
    fn poller(future: impl Future<Output = ()>) -> impl FnMut() -> bool {
        let mut future = Box::pin(future);
        move || future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn changed_tells_of_who_is_let_in_and_of_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        let write = |name: &str| {
            let hash = bcrypt::hash(name, 4).unwrap();
            std::fs::write(&path, format!("basic_auth_users: {{{name}: {hash}}}\n")).unwrap();
        };
        write("alice");
        let alone = std::fs::read_to_string(&path).unwrap();
        let config = WebConfig::read(&path, AddressShare::default()).unwrap();
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |seconds| config.look(&mut watch, start + Duration::from_secs(seconds));
        let mut changed = poller(config.changed());
        // Another header, and an invalid file for a moment.
        let header = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
        for (seconds, text) in [(1, format!("{alone}{header}")), (2, "[".to_owned()), (2, alone.clone())] {
            std::fs::write(&path, text).unwrap();
            look(seconds);
            assert!(!changed(), "{seconds}");
        }
        write("bob");
        look(3);
        assert!(changed());
        let mut changed = poller(config.changed());
        std::fs::write(&path, "[").unwrap();
        look(4);
        assert!(!changed());
        look(5);
        assert!(changed(), "nobody is let in");
    }

    /// The lock stands for a disk that blocks a check.
    #[expect(clippy::await_holding_lock, reason = "who waits for it is on a thread of its own")]
    #[tokio::test(start_paused = true)]
    async fn a_look_that_does_not_end_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yml");
        std::fs::write(&path, "").unwrap();
        let config = WebConfig::read(&path, AddressShare::default()).unwrap();
        let log = Log::default();
        let _log = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(log.clone()).finish());
        let stuck = config.shared.files.lock().unwrap();
        let follower = tokio::spawn(config.clone().follow());
        config.reread();
        for _ in 0..3 {
            tokio::time::advance(CHECK_DEADLINE).await;
            tokio::task::yield_now().await;
        }
        let lines = log.lines();
        assert!(matches!(lines.as_slice(), [line] if line.contains("WARN") && line.contains("web.yml")), "{lines:?}");
        drop(stuck);
        while log.lines().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(log.lines()[1].contains("can be checked again"), "{:?}", log.lines());
        follower.abort();
    }
}
