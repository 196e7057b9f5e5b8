//! Brings the pods of this node to the agent, and what becomes of them back to the store.
//!
//! Each pod has a keeper, a task of its own: no pod waits for another. Keepers know one another only by what the node
//! can take in all, which is counted here.

mod admit;
mod keeper;
mod mirror;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use vaquita_apiserver::kinds::{NODE, POD};
use vaquita_kube::agent::{Agent, Known, Objects};
use vaquita_kube::api::Pod;

use self::admit::Taken;
pub(crate) use self::keeper::MIRROR;
use self::keeper::{Keeper, Order, Target};
use crate::control::Shared;
use crate::events::{KUBELET, Reference};
use crate::follow::{Follow, Told};
use crate::manifests;
use crate::objects::Referred;
use crate::scheduler::machines::Facts;
use crate::scheduler::wants::Wants;

/// Between looks for what nobody wants.
const SWEEP: Duration = Duration::from_mins(5);
/// Between looks at mirrors that could not be made.
const MIRRORS: Duration = Duration::from_secs(10);

/// Feeds pods to the agent. Begins when the node has been ready once.
pub(crate) async fn run(shared: Arc<Shared>, mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    let agent = Agent::new(shared.config.cri.clone(), shared.config.agent.clone());
    let known = loop {
        match agent.known().await {
            Ok(known) => break known,
            Err(error) => tracing::warn!(%error, "the CRI server's pods cannot be listed"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    let mut tasks = JoinSet::new();
    let (objects, noticing) = Referred::new(Arc::clone(&shared));
    tasks.spawn(noticing);
    let (tell, mut folder) = mpsc::channel(1);
    match shared.config.static_pods.clone() {
        Some(dir) => {
            tasks.spawn(manifests::watch(dir, shared.name.clone(), tell));
        }
        None => drop(tell),
    }
    let mut pods = Follow::new(shared.cluster.clone(), &POD);
    let (ended, mut endings) = mpsc::unbounded_channel();
    let mut feed = Feed {
        shared,
        agent,
        objects: Arc::new(objects),
        known,
        keepers: BTreeMap::new(),
        taken: Taken::default(),
        done: BTreeSet::new(),
        manifests: BTreeMap::new(),
        mirrors_at: None,
        ended,
        tasks,
    };
    // Pods of manifests come first: nobody else knows that they are wanted.
    if let Some(pods) = folder.recv().await {
        feed.folder(pods);
    }
    feed.told(pods.next().await);
    feed.clean();
    let mut sweeps = tokio::time::interval_at(tokio::time::Instant::now() + SWEEP, SWEEP);
    let (swept, mut known) = mpsc::channel(1);
    loop {
        tokio::select! {
            _ = sweeps.tick() => {
                let (agent, swept) = (feed.agent.clone(), swept.clone());
                feed.tasks.spawn(async move {
                    if let Ok(known) = agent.known().await {
                        let _ = swept.send(known).await;
                    }
                });
            }
            Some(known) = known.recv() => {
                feed.known = known;
                feed.known.retain(|uid, _| !feed.keepers.contains_key(uid) && !feed.done.contains(uid));
                feed.clean();
            }
            told = pods.next() => feed.told(told),
            Some(pods) = folder.recv() => feed.folder(pods),
            Some(uid) = endings.recv() => feed.ended(&uid),
            () = keeper_until(feed.mirrors_at) => feed.mirrors().await,
            Some(_) = feed.tasks.join_next(), if !feed.tasks.is_empty() => {}
        }
    }
}

async fn keeper_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Feed {
    shared: Arc<Shared>,
    agent: Agent,
    objects: Arc<dyn Objects>,
    /// What the CRI server had of pods when this began, and nobody has asked for yet.
    known: BTreeMap<String, Known>,
    keepers: BTreeMap<String, Kept>,
    taken: Taken,
    /// Uids of pods that need no keeper (again): refused, or ended and waiting for others' finalizers.
    done: BTreeSet<String>,
    /// Pods of manifests.
    manifests: BTreeMap<String, Value>,
    /// When mirrors are to be looked at.
    mirrors_at: Option<tokio::time::Instant>,
    ended: mpsc::UnboundedSender<String>,
    tasks: JoinSet<()>,
}

/// A pod that has a keeper.
struct Kept {
    orders: mpsc::UnboundedSender<Order>,
    /// Its object is gone.
    gone: bool,
    /// Namespace and name.
    name: (String, String),
}

impl Kept {
    fn order(&self, order: Order) {
        // One that has just ended needs none.
        let _ = self.orders.send(order);
    }
}

impl Feed {
    fn told(&mut self, told: Told) {
        match told {
            Told::All(objects) => {
                let values: Vec<Value> = objects.iter().map(vaquita_apiserver::Object::value).collect();
                let there: BTreeSet<&str> =
                    values.iter().filter_map(|pod| pod["metadata"]["uid"].as_str()).collect();
                for (uid, kept) in &mut self.keepers {
                    if !there.contains(uid.as_str()) && !self.manifests.contains_key(uid) {
                        kept.gone = true;
                        kept.order(Order::Gone);
                    }
                }
                self.done.retain(|uid| there.contains(uid.as_str()));
                values.into_iter().for_each(|pod| self.pod(pod));
                self.look_at_mirrors();
            }
            Told::Set(object) => self.pod(object.value()),
            Told::Gone(object) => {
                let pod = object.value();
                if !pod["metadata"]["annotations"][MIRROR].is_null() {
                    return self.look_at_mirrors();
                }
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
                if let Some(kept) = self.keepers.get_mut(uid) {
                    kept.gone = true;
                    kept.order(Order::Gone);
                } else if self.done.remove(uid) {
                    self.remove(uid.to_owned(), Known::default());
                }
            }
        }
    }

    /// A pod is new or changed.
    fn pod(&mut self, pod: Value) {
        if pod["spec"]["nodeName"] != self.shared.name {
            return;
        }
        let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if let Some(mirrored) = pod["metadata"]["annotations"][MIRROR].as_str() {
            if let Some(kept) = self.keepers.get(mirrored) {
                kept.order(Order::Mirrored);
            }
            return self.look_at_mirrors();
        }
        if ended(&pod) {
            self.taken.remove(&uid);
        }
        if let Some(kept) = self.keepers.get(&uid) {
            return kept.order(Order::Set(Box::new(pod)));
        }
        let deleting = !pod["metadata"]["deletionTimestamp"].is_null();
        if self.done.contains(&uid) && !deleting {
            return;
        }
        let known = self.known.remove(&uid);
        if deleting && known.is_none() {
            // Nothing of it runs.
            if self.done.insert(uid.clone()) {
                self.forget(pod, uid);
            }
            return;
        }
        if known.is_none() && ended(&pod) {
            self.done.insert(uid);
            return;
        }
        self.begin(uid, pod, known.unwrap_or_default(), false);
    }

    /// Takes a pod, or refuses it.
    fn begin(&mut self, uid: String, pod: Value, known: Known, is_static: bool) {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let Ok(wants) = Wants::of(&pod) else {
            tracing::warn!(name, "a pod cannot be read");
            return;
        };
        // One that was taken before stays, whatever the node has by now.
        let taken_before = !known.is_empty() || !pod["status"]["startTime"].is_null();
        if !taken_before && let Some((reason, message)) = self.refusal(&wants, &pod, is_static) {
            return self.refuse(uid, &namespace, &name, (&reason, &message), is_static);
        }
        if !ended(&pod) {
            self.taken.insert(Arc::new(wants));
        }
        let (orders, received) = mpsc::unbounded_channel();
        let kept = Kept { orders, gone: false, name: (namespace.clone(), name.clone()) };
        let keeper = Keeper {
            shared: Arc::clone(&self.shared),
            agent: self.agent.clone(),
            objects: Arc::clone(&self.objects),
            uid: uid.clone(),
            namespace,
            name,
            is_static,
        };
        let ended = self.ended.clone();
        self.keepers.insert(uid.clone(), kept);
        self.tasks.spawn(async move {
            keeper.run(pod, known, received).await;
            let _ = ended.send(uid);
        });
    }

    /// Why the node does not take a pod.
    fn refusal(&self, wants: &Wants, pod: &Value, is_static: bool) -> Option<(String, String)> {
        let refusal = Pod::from_value(pod.clone()).ok().and_then(|pod| pod.refusal());
        if let Some((reason, message)) = refusal {
            return Some((reason.to_owned(), message));
        }
        let node = self.shared.cluster.get(&NODE, "", &self.shared.name).ok()?;
        let node = Facts::of(&node.value()).ok()?;
        self.taken.refuses(wants, &node, is_static)
    }

    fn refuse(&mut self, uid: String, namespace: &str, name: &str, why: (&str, &str), is_static: bool) {
        let (reason, message) = why;
        let about = Reference::pod(namespace, name, &uid);
        self.shared.recorder.warning(KUBELET, about, reason, message);
        let shared = Arc::clone(&self.shared);
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let (reason, message) = (reason.to_owned(), message.to_owned());
        self.done.insert(uid.clone());
        self.tasks.spawn(async move {
            let target = Target { namespace: &namespace, name: &name, uid: &uid, is_static };
            let change = |pod: &mut Value, _: &str| keeper::rejection(pod, &reason, &message);
            if let Err(error) = keeper::write(&shared, &target, change).await {
                tracing::warn!(error = %error.message, name, "that a pod is refused cannot be written");
            }
        });
    }

    /// Removes the object, and the files, of a pod of which nothing runs.
    fn forget(&mut self, pod: Value, uid: String) {
        let (shared, agent) = (Arc::clone(&self.shared), self.agent.clone());
        self.tasks.spawn(async move {
            if let Err(error) = agent.remove(&uid, Known::default()).await {
                tracing::warn!(%error, uid, "a pod's files cannot be removed");
            }
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
            keeper::delete(&shared, text("namespace"), text("name"), &uid).await;
        });
    }

    /// Removes what the CRI server and the agent's directory have of pods that nobody wants.
    fn clean(&mut self) {
        let mut left = std::mem::take(&mut self.known);
        for uid in self.agent.directories() {
            if !self.keepers.contains_key(&uid) && !self.done.contains(&uid) {
                left.entry(uid).or_default();
            }
        }
        for (uid, known) in left {
            tracing::info!(uid, "a pod that has no object any more is removed");
            self.remove(uid, known);
        }
    }

    /// Ends what runs of a pod, and removes its files.
    fn remove(&mut self, uid: String, known: Known) {
        let agent = self.agent.clone();
        self.tasks.spawn(async move {
            if let Err(error) = agent.remove(&uid, known).await {
                tracing::warn!(%error, uid, "what is left of a pod cannot be removed");
            }
        });
    }

    /// Nothing of a pod is left.
    fn ended(&mut self, uid: &str) {
        let gone = self.keepers.remove(uid).is_none_or(|kept| kept.gone);
        self.taken.remove(uid);
        if !gone && !self.manifests.contains_key(uid) {
            // Its object may stay a while, for others' finalizers.
            self.done.insert(uid.to_owned());
        }
        self.begin_manifests();
        self.look_at_mirrors();
    }

    /// The pods of manifests are these now.
    fn folder(&mut self, pods: BTreeMap<String, Value>) {
        for uid in self.manifests.keys().filter(|uid| !pods.contains_key(*uid)) {
            self.done.remove(uid);
            if let Some(kept) = self.keepers.get(uid) {
                kept.order(Order::Unwanted);
            }
        }
        let before = std::mem::take(&mut self.manifests);
        for (uid, mut pod) in pods {
            match before.get(&uid) {
                Some(before) => pod = before.clone(),
                None => manifests::seen(&mut pod, Timestamp::now()),
            }
            self.manifests.insert(uid, pod);
        }
        self.begin_manifests();
        self.look_at_mirrors();
    }

    /// Runs pods of manifests that do not run. One that takes the place of another of its name waits for the other's end.
    fn begin_manifests(&mut self) {
        for (uid, pod) in self.manifests.clone() {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            let name = (text("namespace"), text("name"));
            let taken = self.keepers.values().any(|kept| kept.name == name);
            if !taken && !self.keepers.contains_key(&uid) && !self.done.contains(&uid) {
                let known = self.known.remove(&uid).unwrap_or_default();
                self.begin(uid, pod, known, true);
            }
        }
    }

    fn look_at_mirrors(&mut self) {
        if self.shared.config.static_pods.is_some() || self.mirrors_at.is_some() {
            self.mirrors_at = Some(tokio::time::Instant::now());
        }
    }

    /// Every pod of a manifest has a mirror, and no other pod.
    async fn mirrors(&mut self) {
        self.mirrors_at = None;
        let list = self.shared.cluster.list(&POD, None, &vaquita_apiserver::ListOptions::default());
        for object in list.map(|list| list.items).unwrap_or_default() {
            let pod = object.value();
            let mirrored = pod["metadata"]["annotations"][MIRROR].as_str();
            let wanted = |uid: &str| self.manifests.contains_key(uid) || self.keepers.contains_key(uid);
            let unwanted = mirrored.is_some_and(|uid| !wanted(uid));
            if unwanted && pod["spec"]["nodeName"] == self.shared.name {
                self.mirrored(mirror::hide(&self.shared, &pod).await.map(|()| false));
            }
        }
        for pod in self.manifests.values().cloned().collect::<Vec<_>>() {
            let shown = mirror::show(&self.shared, &pod).await;
            self.mirrored(shown);
        }
    }

    /// Tries again later what did not work.
    fn mirrored(&mut self, result: Result<bool, vaquita_apiserver::Status>) {
        if let Err(error) = result {
            tracing::warn!(error = %error.message, "a mirror of a pod of a manifest cannot be shown");
            self.mirrors_at = Some(tokio::time::Instant::now() + MIRRORS);
        }
    }
}

fn ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}
