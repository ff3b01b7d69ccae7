//! One piece of work per key, however many ask for its result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

/// Joins callers that want the same thing at the same time.
///
/// The work runs as long as one caller waits for it; the last one to give up drops it.
pub struct SingleFlight<K, V: Clone> {
    board: Arc<Mutex<Board<K, V>>>,
}

struct Board<K, V: Clone> {
    flights: HashMap<K, Flight<V>>,
    next_number: u64,
}

struct Flight<V: Clone> {
    /// Tells this flight from a later one with the same key.
    number: u64,
    riders: usize,
    work: Shared<BoxFuture<'static, V>>,
}

impl<K, V> SingleFlight<K, V>
where
    K: Eq + Hash + Clone,
    V: Clone,
{
    /// Nothing in the air.
    pub fn new() -> Self {
        SingleFlight { board: Arc::new(Mutex::new(Board { flights: HashMap::new(), next_number: 0 })) }
    }

    /// The result of the flight for `key`; starts `work` if there is none.
    pub async fn run<F>(&self, key: K, work: impl FnOnce() -> F) -> V
    where
        F: Future<Output = V> + Send + 'static,
    {
        let (work, _seat) = self.board(key, work);
        work.await
    }

    fn board<F>(&self, key: K, work: impl FnOnce() -> F) -> (Shared<BoxFuture<'static, V>>, Seat<K, V>)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut board = self.board.lock();
        let number = board.next_number;
        let flight = board.flights.entry(key.clone()).or_insert_with(|| Flight {
            number,
            riders: 0,
            work: work().boxed().shared(),
        });
        flight.riders += 1;
        let (number, work) = (flight.number, flight.work.clone());
        board.next_number += 1;
        (work, Seat { board: self.board.clone(), key, number })
    }

    /// Keys being worked on now.
    pub fn in_flight(&self) -> usize {
        self.board.lock().flights.len()
    }
}

impl<K: Eq + Hash + Clone, V: Clone> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The last rider takes the flight off the board. One that has landed is taken off by the first
/// rider to leave, so that a later caller starts anew.
struct Seat<K: Eq + Hash, V: Clone> {
    board: Arc<Mutex<Board<K, V>>>,
    key: K,
    number: u64,
}

impl<K: Eq + Hash, V: Clone> Drop for Seat<K, V> {
    fn drop(&mut self) {
        let mut board = self.board.lock();
        if let Some(flight) = board.flights.get_mut(&self.key)
            && flight.number == self.number
        {
            flight.riders -= 1;
            if flight.riders == 0 || flight.work.peek().is_some() {
                board.flights.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_callers_share_one_piece_of_work() {
        let flights = SingleFlight::<u32, u32>::new();
        let runs = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let call = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            flights.run(7, move || async move {
                gate.acquire().await.expect("never closed").forget();
                runs.fetch_add(1, Ordering::SeqCst) + 100
            })
        };
        let (a, b, c, ()) = tokio::join!(call(), call(), call(), async { gate.add_permits(2) });
        assert_eq!((a, b, c), (100, 100, 100));
        assert_eq!(call().await, 101, "a later caller starts anew");
        assert_eq!(flights.in_flight(), 0);
    }
}
