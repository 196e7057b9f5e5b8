//! Pods that want to be, or not to be, where others are.

use super::super::machines::Machines;
use super::super::wants::{PodTerm, Wants};
use super::{Filter, Place, Refusal};

/// Required terms of affinity and anti-affinity: the pod's own, and those of the pods that are there.
#[derive(Debug)]
pub(crate) struct InterPodAffinity;

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        if !attracted(pod, place) {
            return Err(Refusal::always("node(s) didn't match pod affinity rules"));
        }
        let same = |term: &PodTerm, other: Option<&str>| {
            other.is_some() && other == place.machine.label(&term.topology_key)
        };
        let own = &pod.spec.affinity.pod_anti_affinity.required;
        for (machine, other) in place.all.pods() {
            let meets = |term: &PodTerm| {
                same(term, machine.label(&term.topology_key)) && selects(term, pod, other, place.all)
            };
            if own.iter().any(meets) {
                return Err(Refusal::for_now("node(s) didn't match pod anti-affinity rules"));
            }
        }
        for (machine, other) in place.all.pods() {
            let meets = |term: &PodTerm| {
                same(term, machine.label(&term.topology_key)) && selects(term, other, pod, place.all)
            };
            if other.spec.affinity.pod_anti_affinity.required.iter().any(meets) {
                return Err(Refusal::for_now("node(s) didn't satisfy existing pods anti-affinity rules"));
            }
        }
        Ok(())
    }
}

/// Whether every term of affinity has a pod here that satisfies all of them, or the pod is the first of its kind.
fn attracted(pod: &Wants, place: Place<'_>) -> bool {
    let terms = &pod.spec.affinity.pod_affinity.required;
    if terms.is_empty() {
        return true;
    }
    if terms.iter().any(|term| place.machine.label(&term.topology_key).is_none()) {
        return false;
    }
    let all = |other: &Wants| terms.iter().all(|term| selects(term, pod, other, place.all));
    let here = |term: &PodTerm| {
        let label = place.machine.label(&term.topology_key);
        place.all.pods().any(|(machine, other)| machine.label(&term.topology_key) == label && all(other))
    };
    if terms.iter().all(here) {
        return true;
    }
    let first = !place.all.pods().any(|(machine, other)| {
        all(other) && terms.iter().any(|term| machine.label(&term.topology_key).is_some())
    });
    first && all(pod)
}

/// Whether a term of `owner` is about `other`.
fn selects(term: &PodTerm, owner: &Wants, other: &Wants, all: &Machines) -> bool {
    let named = term.namespaces.contains(&other.namespace);
    let labelled = term.namespace_selector.as_ref().is_some_and(|selector| {
        let none = std::collections::BTreeMap::new();
        selector.matches(all.namespaces.get(&other.namespace).unwrap_or(&none))
    });
    let own =
        term.namespaces.is_empty() && term.namespace_selector.is_none() && owner.namespace == other.namespace;
    (named || labelled || own)
        && term.label_selector.as_ref().is_some_and(|selector| selector.matches(&other.labels))
}
