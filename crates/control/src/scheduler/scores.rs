//! Which of several machines suits a pod best.

use super::filters::Place;
use super::wants::Wants;

/// A point of view on how well a machine suits a pod.
pub(crate) trait Score: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;

    /// How much it counts beside the others.
    fn weight(&self) -> i64;

    /// From 0 to 100.
    fn score(&self, pod: &Wants, place: Place<'_>) -> i64;
}

/// All points of view.
pub(crate) const SCORES: &[&dyn Score] = &[&TaintToleration, &NodeAffinity, &LeastAllocated, &ImageLocality];

/// The weighted sum of all scores.
pub(crate) fn total(pod: &Wants, place: Place<'_>) -> i64 {
    let weigh = |score: &&dyn Score| {
        let points = score.score(pod, place).clamp(0, 100);
        tracing::trace!(score = score.name(), node = place.facts.name, pod = pod.name, points);
        score.weight() * points
    };
    SCORES.iter().map(weigh).sum()
}

/// Machines with fewer taints that are only to be avoided.
#[derive(Debug)]
struct TaintToleration;

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &Wants, place: Place<'_>) -> i64 {
        let avoided =
            |taint: &&super::wants::Taint| taint.effect == "PreferNoSchedule" && !pod.tolerates(taint);
        let count = place.facts.taints.iter().filter(avoided).count();
        100 / (1 + i64::try_from(count).unwrap_or(99))
    }
}

/// Machines that the pod would like.
#[derive(Debug)]
struct NodeAffinity;

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, pod: &Wants, place: Place<'_>) -> i64 {
        let wishes = &pod.spec.affinity.node_affinity.preferred;
        let all: i64 = wishes.iter().map(|wish| wish.weight).sum();
        let fulfilled =
            wishes.iter().filter(|wish| wish.preference.matches(&place.facts.name, &place.facts.labels));
        fulfilled.map(|wish| wish.weight).sum::<i64>() * 100 / all.max(1)
    }
}

/// Machines with more cpu and memory left.
#[derive(Debug)]
struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &Wants, place: Place<'_>) -> i64 {
        let mut used = place.machine.requested();
        used.add(&pod.requests);
        let left = |name| {
            let capacity = i128::from(place.facts.allocatable.of_name(name));
            let left = (capacity - i128::from(used.of_name(name))).max(0);
            i64::try_from(left * 100 / capacity.max(1)).unwrap_or(0)
        };
        i64::midpoint(left("cpu"), left("memory"))
    }
}

/// Machines that have the images.
#[derive(Debug)]
struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, pod: &Wants, place: Place<'_>) -> i64 {
        let images = pod.spec.containers.iter().filter(|container| {
            let name = &container.image;
            let has = |other: &String| other == name || *other == format!("{name}:latest");
            place.facts.images.keys().any(has)
        });
        let count = i64::try_from(images.count()).unwrap_or(0);
        count * 100 / i64::try_from(pod.spec.containers.len().max(1)).unwrap_or(1)
    }
}
