//! Where a pod goes, or the words that say why it cannot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::filters::{FILTERS, Place, Refusal};
use super::machines::Machines;
use super::scores;
use super::wants::Wants;

/// What becomes of a pod.
#[derive(Debug, Clone)]
pub(crate) enum Decision {
    /// It goes to this machine.
    Place(String),
    /// It has to wait.
    Wait {
        /// Why, as kube-scheduler says it.
        message: String,
        /// A machine where it fits when these pods, which matter less, are gone.
        preempt: Option<Preempt>,
    },
}

/// Pods that have to go for one that matters more.
#[derive(Debug, Clone)]
pub(crate) struct Preempt {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<Wants>>,
}

/// Decides about a pod.
pub(crate) fn decide(pod: &Wants, machines: &Machines) -> Decision {
    let mut refusals = BTreeMap::new();
    let mut best: Option<(i64, &str)> = None;
    for (facts, machine) in machines.known() {
        let place = Place { facts, machine, all: machines };
        match check(pod, place) {
            Err(refusal) => {
                refusals.insert(facts.name.as_str(), refusal);
            }
            Ok(()) => {
                let score = scores::total(pod, place);
                if best.is_none_or(|(most, _)| score > most) {
                    best = Some((score, &facts.name));
                }
            }
        }
    }
    if let Some((_, name)) = best {
        return Decision::Place(name.to_owned());
    }
    if refusals.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Wait { message, preempt: None };
    }
    let reasons = refusals.values().flat_map(|refusal| &refusal.reasons).map(String::as_str);
    let mut message = histogram(refusals.len(), reasons);
    let (words, preempt) = preemption(pod, machines, &refusals);
    if let Some(words) = words {
        message = format!("{message} preemption: {words}");
    }
    Decision::Wait { message, preempt }
}

/// The first refusal of this machine.
fn check(pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
    FILTERS.iter().try_for_each(|filter| {
        filter.check(pod, place).inspect_err(|refusal| {
            let (filter, node) = (filter.name(), &place.facts.name);
            tracing::debug!(filter, node, pod = pod.name, reasons = ?refusal.reasons, "a machine is refused");
        })
    })
}

/// How often each reason was given.
fn histogram<'a>(nodes: usize, reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
    let mut words: Vec<String> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    words.sort();
    format!("0/{nodes} nodes are available: {}.", words.join(", "))
}

/// Whether room can be made; or why not.
fn preemption(
    pod: &Wants,
    machines: &Machines,
    refusals: &BTreeMap<&str, Refusal>,
) -> (Option<String>, Option<Preempt>) {
    if pod.spec.preemption_policy == "Never" {
        return (Some("not eligible due to preemptionPolicy=Never.".to_owned()), None);
    }
    let mut reasons = Vec::new();
    let mut best: Option<Preempt> = None;
    for (name, refusal) in refusals {
        if !refusal.resolvable {
            reasons.push("Preemption is not helpful for scheduling");
            continue;
        }
        let weaker = machines.nodes[*name].pods.values().filter(|other| other.priority() < pod.priority());
        let weaker: Vec<Arc<Wants>> = weaker.cloned().collect();
        if weaker.is_empty() {
            reasons.push("No preemption victims found for incoming pod");
            continue;
        }
        let Some(victims) = victims(pod, name, weaker, machines) else {
            reasons.push(refusal.reasons.first().map_or("", String::as_str));
            continue;
        };
        let found = Preempt { node: (*name).to_owned(), victims };
        if best.as_ref().is_none_or(|best| cost(&found) < cost(best)) {
            best = Some(found);
        }
    }
    match best {
        Some(preempt) => (None, Some(preempt)),
        None => (Some(histogram(refusals.len(), reasons.into_iter())), None),
    }
}

/// How much is lost: the highest priority, their sum, their number.
fn cost(preempt: &Preempt) -> (i32, i64, usize) {
    let priorities = preempt.victims.iter().map(|victim| victim.priority());
    (
        priorities.clone().max().unwrap_or(i32::MIN),
        priorities.map(|priority| i64::from(priority) - i64::from(i32::MIN)).sum(),
        preempt.victims.len(),
    )
}

/// The fewest of these pods without which there is room; those that matter most, and are there longest, stay.
fn victims(
    pod: &Wants,
    node: &str,
    mut weaker: Vec<Arc<Wants>>,
    machines: &Machines,
) -> Option<Vec<Arc<Wants>>> {
    let mut without = machines.clone();
    for other in &weaker {
        without.forget(&other.uid);
    }
    let fits = |machines: &Machines| {
        let machine = &machines.nodes[node];
        let facts = machine.facts.as_ref()?;
        check(pod, Place { facts, machine, all: machines }).ok()
    };
    fits(&without)?;
    weaker.sort_by(|one, other| {
        other.priority().cmp(&one.priority()).then_with(|| one.created.cmp(&other.created))
    });
    let mut gone = Vec::new();
    for other in weaker {
        without.place(Arc::clone(&other));
        if fits(&without).is_none() {
            without.forget(&other.uid);
            gone.push(other);
        }
    }
    Some(gone)
}

#[cfg(test)]
mod tests;
