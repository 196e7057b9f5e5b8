//! Who is connected, and who has to go when there is no room for another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// The most connections at once: a node needs two for kubelet, and one for whoever looks at it or follows its events.
/// With more, file descriptors would run out, which pods need.
pub(super) const LIMIT: usize = 256;

/// So many that have had no call yet are left the time to make it, while others can go.
const NEWCOMERS: usize = 16;

/// The connections that are open.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<u64, Arc<Client>>,
    last: u64,
    /// Who waits for one to be closed.
    waiting: Option<Waker>,
}

/// One connection, as its calls see it.
#[derive(Debug)]
pub(super) struct Client {
    calls: AtomicUsize,
    /// When its last call began, counted in calls of everybody. 0: it has had none.
    used: AtomicU64,
    given_up: CancellationToken,
}

/// A connection while it is open.
#[derive(Debug)]
pub(super) struct Admitted {
    clients: Clients,
    number: u64,
    client: Arc<Client>,
}

/// A call while it is under way.
#[derive(Debug)]
pub(super) struct Call(Arc<Client>);

impl Clients {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.table().open.len()
    }

    /// Ready when another may come, or must be refused (false): all have calls under way.
    ///
    /// Of those without, the one is given up that was used least recently. Those that never were go first when they are more
    /// than a few: whoever opens thousands displaces their own. gRPC clients connect again when they need to.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut table = self.table();
        if table.open.len() < LIMIT {
            return Poll::Ready(true);
        }
        let leaving = table.open.values().any(|client| client.given_up.is_cancelled());
        if !leaving {
            let Some(client) = table.oldest() else { return Poll::Ready(false) };
            client.given_up.cancel();
        }
        table.waiting = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes another one in, and says what ends when it is given up.
    pub(super) fn admit(&self) -> (Admitted, std::pin::Pin<Box<WaitForCancellationFutureOwned>>) {
        let given_up = CancellationToken::new();
        let ends = Box::pin(given_up.clone().cancelled_owned());
        let client = Arc::new(Client { calls: AtomicUsize::new(0), used: AtomicU64::new(0), given_up });
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        table.open.insert(number, client.clone());
        drop(table);
        (Admitted { clients: self.clone(), number, client }, ends)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Who goes next of those without calls.
    fn oldest(&self) -> Option<&Client> {
        let idle = || self.open.iter().filter(|(_, client)| client.calls.load(Ordering::SeqCst) == 0);
        let used = |client: &Client| client.used.load(Ordering::SeqCst);
        let are_few = idle().filter(|(_, client)| used(client) == 0).count() <= NEWCOMERS;
        let oldest = idle().min_by_key(|(number, client)| {
            let used = used(client);
            ((used == 0) == are_few, used, **number)
        });
        oldest.map(|(_, client)| client.as_ref())
    }
}

impl Admitted {
    /// What its calls see.
    pub(super) fn client(&self) -> Arc<Client> {
        self.client.clone()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let waiting = {
            let mut table = self.clients.table();
            table.open.remove(&self.number);
            table.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }
}

impl Client {
    /// Notes a call, until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Call {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.used.store(CALLS.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        Call(self.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(clients: &Clients) -> Poll<bool> {
        clients.poll_room(&mut Context::from_waker(Waker::noop()))
    }

    /// Makes room for one more, and tells which goes.
    fn displace(clients: &Clients, all: &mut Vec<Admitted>) -> u64 {
        assert_eq!(room(clients), Poll::Pending);
        assert_eq!(room(clients), Poll::Pending, "one at a time");
        let leaving: Vec<usize> =
            (0..all.len()).filter(|at| all[*at].client.given_up.is_cancelled()).collect();
        assert_eq!(leaving.len(), 1);
        let number = all.remove(leaving[0]).number;
        assert_eq!(room(clients), Poll::Ready(true));
        number
    }

    #[test]
    fn many_that_are_unused_go_first() {
        let clients = Clients::default();
        let mut all: Vec<_> = (0..LIMIT).map(|_| clients.admit().0).collect();
        all[..LIMIT - NEWCOMERS - 2].iter().for_each(|one| drop(one.client().begin()));
        let first = (LIMIT - NEWCOMERS - 1) as u64;
        for expected in [first, first + 1, 1, 2] {
            assert_eq!(displace(&clients, &mut all), expected);
            let next = clients.admit().0;
            drop(next.client().begin());
            all.push(next);
        }
    }

    #[test]
    fn who_comes_last_is_not_the_first_to_go() {
        let clients = Clients::default();
        let mut all: Vec<_> = (0..LIMIT).map(|_| clients.admit().0).collect();
        all.iter().for_each(|one| drop(one.client().begin()));
        for expected in 1..=NEWCOMERS as u64 {
            assert_eq!(displace(&clients, &mut all), expected);
            all.push(clients.admit().0);
        }
    }

    #[test]
    fn those_with_calls_never_go() {
        let clients = Clients::default();
        let mut all: Vec<_> = (0..LIMIT).map(|_| clients.admit().0).collect();
        let mut calls: Vec<_> = all[2..].iter().map(|one| one.client().begin()).collect();
        drop(all[1].client().begin());
        for expected in [2, 1] {
            assert_eq!(displace(&clients, &mut all), expected);
            let next = clients.admit().0;
            calls.push(next.client().begin());
            all.push(next);
        }
        assert_eq!(room(&clients), Poll::Ready(false), "all have calls under way");
        drop(calls);
        assert_eq!(room(&clients), Poll::Pending);
        drop(all);
        assert_eq!((clients.count(), room(&clients)), (0, Poll::Ready(true)));
    }
}
