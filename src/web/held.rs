//! Bounds the memory of responses that clients have not read yet.
//!
//! Responses with the same page share its memory, however many there are. An outdated page stays in
//! memory for the clients that have not read it. A client that sends requests and never reads could
//! therefore keep every page in memory. All pages together may use a fixed amount. Above that
//! amount, the client that holds the most loses the page that it has held longest.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::server::{Body, Closed, Notice, Rest};
use crate::shares::Client;

/// The memory that pages may use, in bytes. On a very large host, [`MIN_PAGES`] pages may use more.
const BUDGET: usize = 32 << 20;
const MIN_PAGES: usize = 4;

/// The memory of one response in addition to its shared page, in bytes: the exporter's own metrics,
/// and the response stream.
const RESPONSE_OVERHEAD: usize = 16 << 10;

/// Finished responses are removed only when there are more responses than this, because each search
/// costs time.
const CLEANUP_THRESHOLD: usize = 64;

/// Hands out pages, and revokes them if they use too much memory.
#[derive(Debug)]
pub(crate) struct Held {
    budget: usize,
    responses: Mutex<HeldResponses>,
    notice: Notice,
}

#[derive(Debug, Default)]
struct HeldResponses {
    /// Oldest first. Includes responses that have ended since the last search.
    under_way: Vec<HeldResponse>,
    /// An upper bound of the memory that `under_way` uses.
    at_most: usize,
    /// The number of responses at which finished ones are removed next.
    next_look: usize,
}

#[derive(Debug)]
struct HeldResponse {
    client: Client,
    page: PageId,
    size: usize,
    rest: Rest,
}

/// The memory address of the page's largest piece. Responses that share this piece share the page.
type PageId = usize;

impl Held {
    /// `notice` counts and logs the responses that are cut off.
    pub(crate) fn new(notice: Notice) -> Self {
        Held { budget: BUDGET, responses: Mutex::default(), notice }
    }

    /// Returns `page` as the body of a response to this client. May cut off older responses.
    pub(crate) fn hand_over(&self, client: Client, page: Arc<[Bytes]>) -> Body {
        let size = page.iter().map(Bytes::len).sum();
        let id = page.iter().max_by_key(|piece| piece.len()).map_or(0, |piece| piece.as_ptr() as PageId);
        let (body, rest) = Body::revocable(page);
        let budget = self.budget.max(MIN_PAGES * (size + RESPONSE_OVERHEAD));
        let mut responses = self.responses.lock().unwrap_or_else(PoisonError::into_inner);
        let cut_off = responses.add(HeldResponse { client, page: id, size, rest }, budget);
        drop(responses);
        cut_off.into_iter().for_each(|client| self.notice.closed(Closed::Slow, client));
        body
    }
}

impl HeldResponses {
    /// Returns the clients whose responses were cut off to make room.
    fn add(&mut self, response: HeldResponse, budget: usize) -> Vec<Client> {
        self.at_most += RESPONSE_OVERHEAD;
        if self.under_way.last().is_none_or(|last| last.page != response.page) {
            self.at_most += response.size;
        }
        self.under_way.push(response);
        if self.at_most > budget || self.under_way.len() > self.next_look {
            return self.settle(budget);
        }
        Vec::new()
    }

    /// Removes finished responses, then cuts off responses until the rest fits in `budget`.
    fn settle(&mut self, budget: usize) -> Vec<Client> {
        let mut cut_off = Vec::new();
        self.under_way.retain(|response| !response.rest.is_over());
        while self.size() > budget {
            let Some((client, page)) = self.oldest_of_largest() else { break };
            let (lost, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way)
                .into_iter()
                .partition(|response| response.client == client && response.page == page);
            cut_off.extend(lost.iter().map(|response| response.client));
            lost.into_iter().for_each(|response| response.rest.revoke());
            self.under_way = kept;
        }
        self.at_most = self.size();
        self.next_look = CLEANUP_THRESHOLD.max(2 * self.under_way.len());
        cut_off
    }

    /// The memory that all responses use together. A shared page counts once.
    fn size(&self) -> usize {
        let mut pages = HashSet::new();
        let first = |response: &HeldResponse| if pages.insert(response.page) { response.size } else { 0 };
        self.under_way.iter().map(first).sum::<usize>() + self.under_way.len() * RESPONSE_OVERHEAD
    }

    /// Finds the client whose responses use the most memory, and the page that it has held longest.
    fn oldest_of_largest(&self) -> Option<(Client, PageId)> {
        let (mut pages, mut sizes) = (HashSet::new(), HashMap::<Client, usize>::new());
        for response in &self.under_way {
            let page = if pages.insert((response.client, response.page)) { response.size } else { 0 };
            *sizes.entry(response.client).or_default() += page + RESPONSE_OVERHEAD;
        }
        let (client, _) = sizes.into_iter().max_by_key(|(_, size)| *size)?;
        self.under_way.iter().find(|response| response.client == client).map(|response| (client, response.page))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Far smaller than the real budget, but larger than what responses use in addition to their
    /// pages.
    const BUDGET: usize = 64 * RESPONSE_OVERHEAD;

    fn client(last: u8) -> Client {
        Client::from(IpAddr::from([192, 0, 2, last]))
    }

    fn page(size: usize) -> Arc<[Bytes]> {
        [Bytes::from(vec![b'x'; size])].into()
    }

    fn is_kept(page: &Arc<[Bytes]>) -> bool {
        Arc::strong_count(page) > 1
    }

    #[tokio::test]
    async fn the_client_that_keeps_most_loses_its_oldest() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        let size = BUDGET / 8 - RESPONSE_OVERHEAD;
        let slow = page(size);
        let of_slow = held.hand_over(client(1), Arc::clone(&slow));
        let pages: Vec<_> = (0..20).map(|_| page(size)).collect();
        let bodies: Vec<_> = pages.iter().map(|page| held.hand_over(client(2), Arc::clone(page))).collect();
        let kept: Vec<_> = pages.iter().map(is_kept).collect();
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 7);
        assert!(kept[13..].iter().all(|kept| *kept) && is_kept(&slow));
        drop((bodies, of_slow));
        assert!(!pages.iter().any(is_kept));
    }

    #[tokio::test]
    async fn responses_of_one_page_count_once() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        let shared = Bytes::from(vec![b'x'; BUDGET / 2]);
        let responses: Vec<_> = (0..30)
            .map(|number: u8| {
                let own = Bytes::from(vec![number]);
                held.hand_over(client(number), [shared.clone(), own].into())
            })
            .collect();
        assert!(responses.iter().all(|body| http_body::Body::size_hint(body).exact() == Some(BUDGET as u64 / 2 + 1)));
        assert_eq!(held.responses.lock().unwrap().size(), BUDGET / 2 + 1 + 30 * RESPONSE_OVERHEAD);
        assert_eq!(held.responses.lock().unwrap().under_way.len(), 30);
    }

    #[tokio::test]
    async fn what_is_taken_is_forgotten() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        (0..10 * CLEANUP_THRESHOLD).for_each(|_| drop(held.hand_over(client(1), page(1))));
        assert!(held.responses.lock().unwrap().under_way.len() <= CLEANUP_THRESHOLD);
    }

    #[tokio::test]
    async fn a_page_larger_than_all_is_handed_over() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        let pages: Vec<_> = (0..MIN_PAGES + 1).map(|_| page(BUDGET)).collect();
        let bodies: Vec<_> = pages.iter().map(|page| held.hand_over(client(1), Arc::clone(page))).collect();
        assert_eq!(pages.iter().map(is_kept).collect::<Vec<_>>(), [false, true, true, true, true]);
        drop(bodies);
    }
}
