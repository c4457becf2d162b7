//! The memory of answers that clients have yet to take.
//!
//! Answers of one page share its memory, however many there are. A page that is outdated lives on for those that have not
//! taken it, so a client that asks again and again and reads nothing could keep every page that there ever was. All of them
//! together may take a fixed amount. Beyond that the client that keeps most loses what it has kept longest.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::server::{Body, Closed, Notice, Rest};
use crate::shares::Client;

/// The memory that pages may take, in bytes. On a very large host [`PAGES`] pages may take more.
const BUDGET: usize = 32 << 20;
const PAGES: usize = 4;

/// The memory of an answer beside the page that it shares: the exporter's own numbers, and its stream.
const OWN: usize = 16 << 10;

/// Answers looked at in vain cost time, so they are left alone until this many have come.
const FEW: usize = 64;

/// Hands out pages, and takes them back.
#[derive(Debug)]
pub struct Held {
    budget: usize,
    answers: Mutex<Answers>,
    notice: Notice,
}

#[derive(Debug, Default)]
struct Answers {
    /// Oldest first. Some may be over.
    under_way: Vec<Answer>,
    /// At most what the pages of `under_way` take.
    at_most: usize,
    /// How many may be under way before those that are over are left out.
    next_look: usize,
}

#[derive(Debug)]
struct Answer {
    client: Client,
    page: PageId,
    size: usize,
    rest: Rest,
}

/// Where the largest piece of a page is in memory: answers that share it share the page.
type PageId = usize;

impl Held {
    /// `notice` learns of answers that are taken back.
    pub fn new(notice: Notice) -> Self {
        Held { budget: BUDGET, answers: Mutex::default(), notice }
    }

    /// A page, as the content of an answer to this client.
    pub fn hand_over(&self, client: Client, page: Arc<[Bytes]>) -> Body {
        let size = page.iter().map(Bytes::len).sum();
        let id = page.iter().max_by_key(|piece| piece.len()).map_or(0, |piece| piece.as_ptr() as PageId);
        let (body, rest) = Body::revocable(page);
        let budget = self.budget.max(PAGES * (size + OWN));
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let cut_off = answers.add(Answer { client, page: id, size, rest }, budget);
        drop(answers);
        cut_off.into_iter().for_each(|client| self.notice.closed(Closed::Slow, client));
        body
    }
}

impl Answers {
    /// Gives the clients whose answers were cut off for it.
    fn add(&mut self, answer: Answer, budget: usize) -> Vec<Client> {
        self.at_most += OWN;
        if self.under_way.last().is_none_or(|last| last.page != answer.page) {
            self.at_most += answer.size;
        }
        self.under_way.push(answer);
        if self.at_most > budget || self.under_way.len() > self.next_look {
            return self.settle(budget);
        }
        Vec::new()
    }

    /// Leaves out answers that are over, and takes back as much as is too much.
    fn settle(&mut self, budget: usize) -> Vec<Client> {
        let mut cut_off = Vec::new();
        self.under_way.retain(|answer| !answer.rest.is_over());
        while self.size() > budget {
            let Some((client, page)) = self.oldest_of_largest() else { break };
            let (lost, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.under_way)
                .into_iter()
                .partition(|answer| answer.client == client && answer.page == page);
            cut_off.extend(lost.iter().map(|answer| answer.client));
            lost.into_iter().for_each(|answer| answer.rest.revoke());
            self.under_way = kept;
        }
        self.at_most = self.size();
        self.next_look = FEW.max(2 * self.under_way.len());
        cut_off
    }

    /// The memory that all of them take.
    fn size(&self) -> usize {
        let mut pages = HashSet::new();
        let first = |answer: &Answer| if pages.insert(answer.page) { answer.size } else { 0 };
        self.under_way.iter().map(first).sum::<usize>() + self.under_way.len() * OWN
    }

    /// The client whose answers take most, and the page that it has kept longest.
    fn oldest_of_largest(&self) -> Option<(Client, PageId)> {
        let (mut pages, mut sizes) = (HashSet::new(), HashMap::<Client, usize>::new());
        for answer in &self.under_way {
            let page = if pages.insert((answer.client, answer.page)) { answer.size } else { 0 };
            *sizes.entry(answer.client).or_default() += page + OWN;
        }
        let (client, _) = sizes.into_iter().max_by_key(|(_, size)| *size)?;
        self.under_way.iter().find(|answer| answer.client == client).map(|answer| (client, answer.page))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// Far less than the real one, and more than what answers take beside their pages.
    const BUDGET: usize = 64 * OWN;

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
        let size = BUDGET / 8 - OWN;
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
    async fn answers_of_one_page_count_once() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        let shared = Bytes::from(vec![b'x'; BUDGET / 2]);
        let answers: Vec<_> = (0..30)
            .map(|number: u8| {
                let own = Bytes::from(vec![number]);
                held.hand_over(client(number), [shared.clone(), own].into())
            })
            .collect();
        assert!(answers.iter().all(|body| http_body::Body::size_hint(body).exact() == Some(BUDGET as u64 / 2 + 1)));
        assert_eq!(held.answers.lock().unwrap().size(), BUDGET / 2 + 1 + 30 * OWN);
        assert_eq!(held.answers.lock().unwrap().under_way.len(), 30);
    }

    #[tokio::test]
    async fn what_is_taken_is_forgotten() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        (0..10 * FEW).for_each(|_| drop(held.hand_over(client(1), page(1))));
        assert!(held.answers.lock().unwrap().under_way.len() <= FEW);
    }

    #[tokio::test]
    async fn a_page_larger_than_all_is_handed_over() {
        let held = Held { budget: BUDGET, ..Held::new(Notice::default()) };
        let pages: Vec<_> = (0..PAGES + 1).map(|_| page(BUDGET)).collect();
        let bodies: Vec<_> = pages.iter().map(|page| held.hand_over(client(1), Arc::clone(page))).collect();
        assert_eq!(pages.iter().map(is_kept).collect::<Vec<_>>(), [false, true, true, true, true]);
        drop(bodies);
    }
}
