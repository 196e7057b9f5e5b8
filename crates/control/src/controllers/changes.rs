//! Every change of every kind, told to all controllers by one task.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use serde_json::Value;
use vaquita_apiserver::{Cluster, Kind, Object};

use crate::follow::{Follow, Told};

/// Who wants to know of changes. Neither function may wait: all others wait for it.
pub(super) trait Observer: Send {
    /// An object is new, changed or gone.
    fn observe(&mut self, change: &Change);

    /// The objects of a kind are told anew, because changes were missed, or for the first time.
    fn reset(&mut self, kind: &'static Kind) {
        let _ = kind;
    }

    /// All changes that there are so far were told.
    fn caught_up(&mut self);
}

/// A change of an object.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) object: Object,
    /// It is gone; the object is what it was.
    pub(super) gone: bool,
    value: OnceCell<Value>,
}

impl Change {
    fn new(object: Object, gone: bool) -> Self {
        Self { object, gone, value: OnceCell::new() }
    }

    pub(super) fn kind(&self) -> &'static Kind {
        self.object.kind
    }

    /// The object; read once for all who ask.
    pub(super) fn value(&self) -> &Value {
        self.value.get_or_init(|| self.object.value())
    }
}

/// The kinds that are stored, each once, without events: nothing depends on these, and they are many.
pub(super) fn kinds(cluster: &Cluster) -> impl Iterator<Item = &'static Kind> + use<> {
    cluster.kinds().filter(|kind| kind.stored.is_none() && kind.name != "Event")
}

/// Follows all kinds, for ever.
pub(super) async fn follow(cluster: Cluster, mut observers: Vec<Box<dyn Observer>>) {
    let mut all = All(kinds(&cluster).map(|kind| Waiting::on(Follow::new(cluster.clone(), kind))).collect());
    loop {
        let mut told = Some(all.next().await);
        while let Some((kind, news)) = told {
            tell(&mut observers, kind, news);
            told = all.ready();
        }
        for observer in &mut observers {
            observer.caught_up();
        }
    }
}

fn tell(observers: &mut [Box<dyn Observer>], kind: &'static Kind, news: Told) {
    let changes = match news {
        Told::All(objects) => {
            for observer in &mut *observers {
                observer.reset(kind);
            }
            objects.into_iter().map(|object| Change::new(object, false)).collect()
        }
        Told::Set(object) => vec![Change::new(object, false)],
        Told::Gone(object) => vec![Change::new(object, true)],
    };
    for change in changes {
        for observer in &mut *observers {
            observer.observe(&change);
        }
    }
}

/// A kind that is waited for; it comes back with the news.
struct Waiting(Pin<Box<dyn Future<Output = (Follow, Told)> + Send>>);

impl Waiting {
    fn on(mut follow: Follow) -> Self {
        Self(Box::pin(async move {
            let told = follow.next().await;
            (follow, told)
        }))
    }
}

/// The kinds that are followed.
struct All(Vec<Waiting>);

impl All {
    async fn next(&mut self) -> (&'static Kind, Told) {
        poll_fn(|context| self.poll(context)).await
    }

    /// What is there already.
    fn ready(&mut self) -> Option<(&'static Kind, Told)> {
        match self.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(news) => Some(news),
            Poll::Pending => None,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(&'static Kind, Told)> {
        for waiting in &mut self.0 {
            if let Poll::Ready((follow, told)) = waiting.0.as_mut().poll(context) {
                let kind = follow.kind();
                *waiting = Waiting::on(follow);
                return Poll::Ready((kind, told));
            }
        }
        Poll::Pending
    }
}
