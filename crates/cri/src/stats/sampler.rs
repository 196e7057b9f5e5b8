//! Measuring, on demand and in the background.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::samples::{Samples, TICK};
use crate::Result;
use crate::node::{Node, blocking};

/// How long the background works in one go, an object more or less, and rests in between. Who wakes on a processor that is busy with
/// it waits so long: the scheduler lets a thread finish its slice, some 3 ms.
const WORK: Duration = Duration::from_micros(200);
const REST: Duration = Duration::from_micros(300);

/// Something that can be measured.
pub(crate) trait Measure: 'static {
    /// What it is measured of.
    type Of: Send + Sync + 'static;
    /// What comes out.
    type Value: Send + Sync + 'static;

    /// Where that is kept.
    fn samples(node: &Node) -> &Samples<Self::Value>;

    /// All objects that can be measured now.
    fn all(node: &Node) -> Vec<Arc<Self::Of>>;

    /// An object's id.
    fn id(of: &Self::Of) -> &str;

    /// What a measurement is about beside the object itself: with another one it is no longer valid.
    fn tag(node: &Node, of: &Self::Of) -> u64;

    /// Reads what the kernel counts. May block for a moment.
    fn read(node: &Node, of: &Self::Of) -> Self::Value;
}

/// Measures in the background while somebody wants it.
#[derive(Debug, Default)]
pub(crate) struct Sampler(AtomicBool);

/// What was measured of objects a moment ago, and is no older than any earlier answer; what there is no such measurement of
/// is measured now.
pub(crate) async fn recent<M: Measure>(
    node: &Arc<Node>,
    objects: &[Arc<M::Of>],
) -> Result<Vec<Arc<M::Value>>> {
    let tags: Vec<_> = objects.iter().map(|object| M::tag(node, object)).collect();
    let wanted = objects.iter().zip(&tags).map(|(object, tag)| (M::id(object), *tag));
    let now = Instant::now();
    let mut found = M::samples(node).ask(wanted, now);
    if M::samples(node).is_wanted(now) {
        start(node);
    }
    let missing: Vec<_> = (0..objects.len()).filter(|at| found[*at].is_none()).collect();
    if !missing.is_empty() {
        let some = missing.iter().map(|at| objects[*at].clone()).collect();
        for (at, value) in missing.into_iter().zip(measured::<M>(node, some).await?) {
            found[at] = Some(value);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

/// Measures objects now.
pub(crate) async fn measured<M: Measure>(
    node: &Arc<Node>,
    objects: Vec<Arc<M::Of>>,
) -> Result<Vec<Arc<M::Value>>> {
    let node = node.clone();
    blocking("measure containers", move || {
        Ok(objects.iter().map(|object| measure::<M>(&node, object, true)).collect())
    })
    .await
}

fn measure<M: Measure>(node: &Node, object: &M::Of, served: bool) -> Arc<M::Value> {
    let (at, tag) = (Instant::now(), M::tag(node, object));
    let value = Arc::new(M::read(node, object));
    M::samples(node).put(M::id(object), tag, at, value.clone(), served);
    value
}

/// Sees to it that there is a background.
fn start(node: &Arc<Node>) {
    if !node.usage.sampler.0.swap(true, Ordering::AcqRel) {
        tokio::spawn(run(node.clone()));
    }
}

async fn run(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let worker = node.clone();
        let wanted = blocking("measure in the background", move || {
            let mut pace = Pace(Instant::now());
            let all = [
                tick::<super::Containers>(&worker, &mut pace),
                tick::<super::Pods>(&worker, &mut pace),
                tick::<crate::metrics::Metrics>(&worker, &mut pace),
            ];
            Ok(all.contains(&true))
        })
        .await;
        if !matches!(wanted, Ok(true)) {
            node.usage.sampler.0.store(false, Ordering::Release);
            // Somebody who asks from here on starts another. Who asked between the two looks waits once.
            return;
        }
    }
}

/// When a stretch of work began.
struct Pace(Instant);

impl Pace {
    /// Rests where it was long enough.
    fn step(&mut self) {
        if self.0.elapsed() >= WORK {
            std::thread::sleep(REST);
            self.0 = Instant::now();
        }
    }
}

/// Measures what is due; says whether anybody wants it at all.
fn tick<M: Measure>(node: &Node, pace: &mut Pace) -> bool {
    let samples = M::samples(node);
    if !samples.is_wanted(Instant::now()) {
        samples.rest(Instant::now());
        return false;
    }
    let objects = M::all(node);
    let by_id: BTreeMap<_, _> = objects.iter().map(|object| (M::id(object), object)).collect();
    samples.keep(|id| by_id.contains_key(id));
    for id in samples.due(by_id.keys().copied(), Instant::now()) {
        if let Some(object) = by_id.get(id) {
            measure::<M>(node, object, false);
            pace.step();
        }
    }
    true
}
