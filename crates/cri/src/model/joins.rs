//! Operations that a second caller joins instead of starting them twice.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::{Error, Kind, Result};

/// The operations that are under way, by key.
///
/// An operation runs in a task of its own: a client that goes away does not end it, and whoever asks for the same key
/// meanwhile gets the same answer.
pub(crate) struct Joins<K, V> {
    running: Arc<Mutex<HashMap<K, Answer<V>>>>,
}

/// Where the answer of an operation will be.
struct Answer<V>(watch::Receiver<Option<Result<V>>>);

impl<V> Clone for Answer<V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K, V> fmt::Debug for Joins<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joins").finish_non_exhaustive()
    }
}

impl<K, V> Default for Joins<K, V> {
    fn default() -> Self {
        Self { running: Arc::default() }
    }
}

impl<K, V> Joins<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Runs `operation`, or joins the one that runs under `key`.
    pub(crate) async fn join<F>(&self, key: K, operation: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let (mut answer, start) = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            match running.get(&key) {
                Some(answer) => (answer.clone(), None),
                None => {
                    let (sender, answer) = watch::channel(None);
                    let answer = Answer(answer);
                    running.insert(key.clone(), answer.clone());
                    (answer, Some((sender, Forget { running: self.running.clone(), key })))
                }
            }
        };
        // Not under the lock: a runtime that shuts down drops the task at once, which takes the key out of the table.
        if let Some((sender, forget)) = start {
            let operation = operation();
            tokio::spawn(async move {
                let result = operation.await;
                // Forgotten first: who comes after the answer finds its effect, not the operation.
                drop(forget);
                sender.send_replace(Some(result));
            });
        }
        let result = answer.0.wait_for(Option::is_some).await.map(|result| result.clone());
        match result {
            Ok(Some(result)) => result,
            _ => Err(Error::new(Kind::Internal, "the operation ended without an answer; ask again")),
        }
    }
}

/// Takes the key out of the table, also when the operation panics.
struct Forget<K: Eq + Hash, V> {
    running: Arc<Mutex<HashMap<K, Answer<V>>>>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Forget<K, V> {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[test]
    fn a_runtime_that_is_shut_down_gives_an_error_and_no_deadlock() {
        let joins = Joins::<&str, u32>::default();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.handle().clone();
        drop(runtime);
        let _inside = inside.enter();
        let mut asked = pin!(joins.join("a", || async { Ok(7) }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(matches!(asked.as_mut().poll(&mut context), std::task::Poll::Ready(Err(_))));
        assert!(joins.running.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_same_key_runs_once_and_survives_its_client() {
        let joins = Joins::<&str, u32>::default();
        let runs = Arc::new(AtomicU32::new(0));
        let go = Arc::new(Notify::new());
        let ask = || {
            let (runs, go) = (runs.clone(), go.clone());
            joins.join("a", || async move {
                runs.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                Ok(7)
            })
        };
        {
            let mut first = pin!(ask());
            poll_once(first.as_mut()).await;
        }
        let mut second = pin!(ask());
        poll_once(second.as_mut()).await;
        go.notify_one();
        assert_eq!(second.await.unwrap(), 7);
        assert_eq!(runs.load(Ordering::SeqCst), 1);
        assert!(joins.running.lock().unwrap().is_empty());
    }

    async fn poll_once<T>(future: impl Future<Output = T>) {
        tokio::select! {
            biased;
            _ = future => panic!("it should wait"),
            () = std::future::ready(()) => {}
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_key_is_free_again() {
        let joins = Joins::<u8, ()>::default();
        let error = joins.join(1, || async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        joins.join(1, || async { Ok(()) }).await.unwrap();
    }
}
