//! Shares: the part of a shared limit that one client may use, so that no client can starve the
//! others.
//!
//! A client is identified by its address. An IPv6 client can choose any address of a whole /64, so
//! a /64 counts as one client. Clients behind one proxy share one address; `--web.address-share`
//! ([`AddressShare`]) is the setting for that case.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bits of an IPv6 address that identify a client.
const NETWORK_MASK: u128 = !0 << 64;

/// A client: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Client(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK_MASK).into(),
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

/// The part of each limit that one client may use, in percent from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressShare(NonZeroU8);

impl AddressShare {
    /// The share of `limit` in places: rounded up, at least 1.
    pub(crate) fn of(self, limit: usize) -> usize {
        limit.saturating_mul(self.percent()).div_ceil(100).max(1)
    }

    /// The number of clients that use a whole limit together.
    pub(crate) fn clients(self) -> f64 {
        100.0 / f64::from(self.0.get())
    }

    fn percent(self) -> usize {
        self.0.get().into()
    }
}

impl Default for AddressShare {
    /// 25 percent.
    fn default() -> Self {
        const QUARTER: NonZeroU8 = NonZeroU8::new(25).unwrap();
        AddressShare(QUARTER)
    }
}

impl fmt::Display for AddressShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AddressShare {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.parse().ok().filter(|percent: &NonZeroU8| percent.get() <= 100);
        percent.map(AddressShare).ok_or("the share must be a whole number of percent from 1 to 100")
    }
}

/// A limited number of places, in total and for each client.
#[derive(Debug)]
pub(crate) struct Shares {
    total: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// The number of places of each client that has any.
    by: HashMap<Client, usize>,
}

impl Shares {
    /// Creates `total` places. One client may take `share` of them.
    pub(crate) fn new(total: usize, share: AddressShare) -> Arc<Self> {
        Arc::new(Shares { total, each: share.of(total), taken: Mutex::default() })
    }

    /// Takes a place for a client. `None` if the client already has its share, or if all places are
    /// taken.
    pub(crate) fn take(self: &Arc<Self>, client: Client) -> Option<Place> {
        let mut taken = self.lock();
        if taken.total >= self.total || taken.by.get(&client).is_some_and(|taken| *taken >= self.each) {
            return None;
        }
        taken.total += 1;
        *taken.by.entry(client).or_default() += 1;
        Some(Place { shares: Arc::clone(self), client })
    }

    /// Ignores poisoning: no code that holds the lock can leave the counts half changed.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a client has taken. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    shares: Arc<Shares>,
    client: Client,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.total -= 1;
        if let Some(own) = taken.by.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                taken.by.remove(&self.client);
            }
        }
    }
}

/// One turn for all clients. Each client waits for it in a queue of its own. A client therefore
/// waits for at most one turn of each other client, however many requests that client sends.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// The queue of each client that waits.
    own: Mutex<HashMap<Client, Weak<Semaphore>>>,
}

/// The number of queues up to which unused ones are not removed.
const CLEANUP_THRESHOLD: usize = 64;

impl Default for Turns {
    fn default() -> Self {
        Turns { all: Arc::new(Semaphore::new(1)), own: Mutex::default() }
    }
}

impl Turns {
    /// Waits for the turn. The turn lasts until the returned value is dropped. Never returns
    /// `None`, because no code closes a queue.
    pub(crate) async fn wait(&self, client: Client) -> Option<Turn> {
        let own = self.queue(client).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own })
    }

    fn queue(&self, client: Client) -> Arc<Semaphore> {
        let mut queues = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&client).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() > CLEANUP_THRESHOLD {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(Semaphore::new(1));
        queues.insert(client, Arc::downgrade(&queue));
        queue
    }
}

/// A client's turn. Dropping it ends the turn.
#[derive(Debug)]
pub(crate) struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::from(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        // A dual-stack socket shows IPv4 addresses in this form.
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_eq!(client("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(client("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn a_share_is_at_least_one() {
        let of = |percent: &str, limit| percent.parse::<AddressShare>().unwrap().of(limit);
        assert_eq!([of("25", 40), of("25", 2), of("1", 40), of("100", 40), of("25", 0)], [10, 1, 1, 40, 1]);
        assert_eq!(of("25", usize::MAX), usize::MAX.div_ceil(100));
        for bad in ["0", "101", "-1", "", "25%", "2.5", "999"] {
            assert!(bad.parse::<AddressShare>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_gets_its_share_while_others_want_more() {
        let shares = Shares::new(8, AddressShare::default());
        let [greedy, modest] = [client("192.0.2.1"), client("192.0.2.2")];
        let mut taken: Vec<_> = (0..8).filter_map(|_| shares.take(greedy)).collect();
        assert_eq!(taken.len(), 2);
        assert!(shares.take(modest).is_some());
        taken.pop();
        assert!(shares.take(greedy).is_some());
        // Several clients have taken all places.
        taken.extend((3..9).filter_map(|last| shares.take(client(&format!("192.0.2.{last}")))));
        taken.extend(shares.take(greedy));
        assert_eq!(taken.len(), 8);
        assert!(shares.take(modest).is_none());
        drop(taken);
        assert!(shares.lock().by.is_empty() && shares.lock().total == 0);
    }

    #[tokio::test]
    async fn a_client_waits_for_one_turn_of_another() {
        let turns = Arc::new(Turns::default());
        let first = turns.wait(client("192.0.2.1")).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |address: &str| {
            let (turns, order, client, name) =
                (Arc::clone(&turns), Arc::clone(&order), client(address), address.to_owned());
            tokio::spawn(async move {
                let _turn = turns.wait(client).await;
                order.lock().unwrap().push(name);
            })
        };
        let mut waiting = Vec::new();
        for address in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"] {
            waiting.push(wait(address));
            tokio::task::yield_now().await;
        }
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        let order = order.lock().unwrap();
        assert_eq!(order.len(), 4);
        assert!(order[..2].contains(&"192.0.2.2".to_owned()), "{order:?}");
    }
}
