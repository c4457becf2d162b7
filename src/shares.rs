//! The share that one client may take of what all clients share, so that none can take it away from the others.
//!
//! A client here is its address. An IPv6 client has a whole /64 to choose addresses from, so that counts as one. Clients
//! behind a proxy have one address, too: [`AddressShare`] is for them to change.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU8;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bits of an IPv6 address that tell one client from another.
const NETWORK: u128 = !0 << 64;

/// A client, as far as shares go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        Client(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
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

/// The part of each limit that one client may take, in percent from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressShare(NonZeroU8);

impl AddressShare {
    /// Its part of a limit: at least 1.
    pub fn of(self, limit: usize) -> usize {
        limit.saturating_mul(self.percent()).div_ceil(100).max(1)
    }

    /// How many clients together take the whole.
    pub fn clients(self) -> f64 {
        100.0 / f64::from(self.0.get())
    }

    fn percent(self) -> usize {
        self.0.get().into()
    }
}

impl Default for AddressShare {
    /// A quarter.
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
        percent.map(AddressShare).ok_or("a share is a whole number of percent from 1 to 100")
    }
}

/// Places of one kind, in all and for each client.
#[derive(Debug)]
pub struct Shares {
    total: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    /// Those of each client that has any.
    by: HashMap<Client, usize>,
}

impl Shares {
    /// So many places, of which one client may take its share.
    pub fn new(total: usize, share: AddressShare) -> Arc<Self> {
        Arc::new(Shares { total, each: share.of(total), taken: Mutex::default() })
    }

    /// Takes a place for a client; `None` if the client has its share already, or all are taken.
    pub fn take(self: &Arc<Self>, client: Client) -> Option<Place> {
        let mut taken = self.lock();
        if taken.total >= self.total || taken.by.get(&client).is_some_and(|taken| *taken >= self.each) {
            return None;
        }
        taken.total += 1;
        *taken.by.entry(client).or_default() += 1;
        Some(Place { shares: Arc::clone(self), client })
    }

    /// Usable after a panic elsewhere: no code that holds it can leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that a client has taken. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
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

/// One turn for all, which each client waits for in a queue of its own: however much one of them asks, another waits for at
/// most one turn of it.
#[derive(Debug)]
pub struct Turns {
    all: Arc<Semaphore>,
    /// The queue of each client that waits.
    own: Mutex<HashMap<Client, Weak<Semaphore>>>,
}

/// Queues that are over are left alone until there are this many.
const FEW: usize = 64;

impl Default for Turns {
    fn default() -> Self {
        Turns { all: Arc::new(Semaphore::new(1)), own: Mutex::default() }
    }
}

impl Turns {
    /// Waits for the turn. It lasts until the answer is dropped. `None` never: nobody closes a queue.
    pub async fn wait(&self, client: Client) -> Option<Turn> {
        let own = self.queue(client).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own })
    }

    fn queue(&self, client: Client) -> Arc<Semaphore> {
        let mut queues = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&client).and_then(Weak::upgrade) {
            return queue;
        }
        if queues.len() > FEW {
            queues.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(Semaphore::new(1));
        queues.insert(client, Arc::downgrade(&queue));
        queue
    }
}

/// A client's turn. Dropping it ends it.
#[derive(Debug)]
pub struct Turn {
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
        // A socket that takes both kinds shows IPv4 so.
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
        // All places are taken, by several.
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
