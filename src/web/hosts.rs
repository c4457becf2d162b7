//! The host names under which a client may request the status page and the API.
//!
//! A web page on the internet can make its own name resolve to this host's address (DNS rebinding).
//! The browser then treats our responses as that page's own, and lets the page read them. The
//! requested name reveals the attack: it is the page's name, not one of ours. An address cannot be
//! rebound.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::HOST;
use hyper::{Request, Version};

/// The names that are allowed in addition to `localhost`, addresses and the node name.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowedHosts(Vec<String>);

impl AllowedHosts {
    /// `names` are the values of `--web.allowed-host`.
    pub(crate) fn new(names: Vec<String>) -> Self {
        AllowedHosts(names)
    }

    /// Returns true if the request is for one of our names; `node` is the node name of `uname(2)`.
    /// HTTP/1.0 requests need no name. Every browser sends one.
    pub(crate) fn allow(&self, request: &Request<()>, node: &str) -> bool {
        // The request line's authority, or HTTP/2's `:authority`, takes precedence over `Host` (RFC
        // 9112, 3.2.2).
        let asked = match (request.uri().authority(), request.headers().get(HOST)) {
            (Some(authority), _) => Some(authority.as_str()),
            (None, Some(host)) => Some(host.to_str().unwrap_or_default()),
            (None, None) => None,
        };
        match asked {
            Some(asked) => host_of(asked).is_some_and(|host| self.is_ours(host, node)),
            None => request.version() <= Version::HTTP_10,
        }
    }

    fn is_ours(&self, host: RequestedHost<'_>, node: &str) -> bool {
        let RequestedHost::Name(name) = host else { return true };
        ["localhost", node].into_iter().chain(self.0.iter().map(String::as_str)).any(|ours| same(ours, name))
    }
}

enum RequestedHost<'a> {
    Address,
    Name(&'a str),
}

/// The host without its port. `None` if it is neither an address nor a name.
fn host_of(asked: &str) -> Option<RequestedHost<'_>> {
    let (host, port) = match asked.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (RequestedHost::Address, port)
        }
        None => {
            let (host, port) = asked.split_at(asked.find(':').unwrap_or(asked.len()));
            match host.parse::<Ipv4Addr>() {
                Ok(_) => (RequestedHost::Address, port),
                Err(_) => (RequestedHost::Name(host), port),
            }
        }
    };
    let is_port = port.strip_prefix(':').unwrap_or(port).bytes().all(|byte| byte.is_ascii_digit());
    (is_port && (port.is_empty() || port.starts_with(':'))).then_some(host)
}

/// Compares names, ignoring case and the final dot of a fully qualified name.
fn same(ours: &str, asked: &str) -> bool {
    let whole = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    !whole(asked).is_empty() && whole(ours) == whole(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, target: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::builder().version(version).uri(target);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn who_asks_for_another_name_is_not_let_in() {
        let hosts = AllowedHosts::new(vec!["storage.example.org".to_owned(), "absolute.example.".to_owned()]);
        for (host, wanted) in [
            ("127.0.0.1", true),
            ("192.0.2.1:10056", true),
            ("[::1]", true),
            ("[2001:db8::1]:10056", true),
            ("localhost", true),
            ("LocalHost:10056", true),
            ("localhost.", true),
            ("localhost.:10056", true),
            ("node7", true),
            ("NODE7:10056", true),
            ("node7.", true),
            ("storage.example.org", true),
            ("Storage.Example.org.:443", true),
            ("absolute.example", true),
            // A part of a name is not enough.
            ("node7.example.org", false),
            ("node", false),
            ("node77", false),
            ("evil.example", false),
            ("evil.example:10056", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("storage.example.org.evil.example", false),
            ("example.org", false),
            // Neither an address nor a name.
            ("", false),
            (".", false),
            (":10056", false),
            ("::1", false),
            ("[::1", false),
            ("[::1]evil.example", false),
            ("[localhost]", false),
            ("localhost:evil", false),
            ("localhost:80:80", false),
            ("user@localhost", false),
            ("localhost/", false),
            ("node7..", false),
        ] {
            assert_eq!(hosts.allow(&request(Version::HTTP_11, "/", Some(host)), "node7"), wanted, "{host:?}");
        }
    }

    #[test]
    fn the_target_goes_before_the_header() {
        let hosts = AllowedHosts::default();
        for (target, host, wanted) in [
            ("http://localhost:10056/", Some("evil.example"), true),
            ("http://evil.example/", Some("localhost"), false),
            ("http://evil.example/", None, false),
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(hosts.allow(&request(version, target, host), "node7"), wanted, "{target} {host:?}");
            }
        }
        assert!(hosts.allow(&request(Version::HTTP_10, "/", None), "node7"));
        assert!(!hosts.allow(&request(Version::HTTP_2, "/", None), "node7"));
        // If the node has no name, an empty requested name does not match it.
        assert!(!hosts.allow(&request(Version::HTTP_11, "/", Some("")), ""));
    }
}
