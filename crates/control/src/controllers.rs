//! The controllers that look after objects themselves, without a node: each brings what is to what shall be, and begins anew
//! from what is whenever something changes. None of them keeps objects; what they remember is which ones want a look.
//!
//! One task follows all kinds and tells each controller of every change (`changes`); the controllers put keys into queues
//! (`queue`), and workers take them out and look at the object as it is then.

mod accounts;
mod changes;
mod expiry;
mod garbage;
mod graph;
mod namespaces;
mod pods;
mod queue;
mod quotas;

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use tokio::task::JoinSet;
use vaquita_apiserver::{Cluster, Status};

use self::changes::Observer;
use self::queue::Queue;

/// The controllers at work.
///
/// * namespaces that are deleted are emptied, and then go;
/// * every namespace has the service account `default` and the ConfigMap `kube-root-ca.crt`;
/// * objects whose owners are gone go too, before or after their owner as the deletion asked, or lose their owner;
/// * quotas tell what is used;
/// * events go an hour after they were last seen;
/// * pods of nodes that are no more go.
#[derive(Debug)]
pub struct Controllers {
    tasks: JoinSet<()>,
}

impl Controllers {
    /// Starts them; waits for nothing. `root_ca` is the certificate, in PEM, by which pods know the API server.
    ///
    /// Needs a tokio runtime around it.
    #[must_use]
    pub fn start(cluster: Cluster, root_ca: String) -> Self {
        let mut tasks = JoinSet::new();
        let observers: Vec<Box<dyn Observer>> = vec![
            Box::new(accounts::start(&cluster, root_ca, &mut tasks)),
            Box::new(namespaces::start(&cluster, &mut tasks)),
            Box::new(garbage::start(&cluster, &mut tasks)),
            Box::new(quotas::start(&cluster, &mut tasks)),
            Box::new(pods::start(&cluster, &mut tasks)),
        ];
        tasks.spawn(expiry::run(cluster.clone()));
        tasks.spawn(changes::follow(cluster, observers));
        Self { tasks }
    }

    /// Ends them. What they had begun is taken up by the next start.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

/// Works on the keys of a queue, one after the other, for ever; again later on those that failed.
async fn work<K, F>(name: &'static str, queue: Arc<Queue<K>>, mut one: impl FnMut(K) -> F)
where
    K: Clone + Debug + Eq + Hash,
    F: Future<Output = Result<(), Status>>,
{
    loop {
        let key = queue.next().await;
        let done = one(key.clone()).await;
        if let Err(error) = &done {
            tracing::debug!(controller = name, key = ?key, error = %error.message, "will be tried again");
        }
        queue.done(key, done.is_ok());
    }
}

/// An object that is not there any more wants nothing.
fn gone_is_fine<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Err(error) if error.code != 404 => Err(error),
        _ => Ok(()),
    }
}
