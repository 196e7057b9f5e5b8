//! Pods of a kind spread over zones or machines.

use std::collections::BTreeMap;

use super::super::machines::{Facts, Machine};
use super::super::select::LabelSelector;
use super::super::wants::{Spread, Wants};
use super::{Filter, NodeAffinity, Place, Refusal, untolerated};

/// Constraints that must hold (`whenUnsatisfiable: DoNotSchedule`).
#[derive(Debug)]
pub(crate) struct PodTopologySpread;

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        let constraints = &pod.spec.topology_spread_constraints;
        let hard: Vec<&Spread> =
            constraints.iter().filter(|one| one.when_unsatisfiable != "ScheduleAnyway").collect();
        for one in &hard {
            let Some(here) = place.machine.label(&one.topology_key) else {
                return Err(Refusal::always(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let counts = counts(pod, one, &hard, place);
            let least = match one.min_domains {
                Some(domains) if i64::try_from(counts.len()).unwrap_or(i64::MAX) < domains => 0,
                _ => counts.values().copied().min().unwrap_or(0),
            };
            let own = i64::from(selects(one, pod, pod));
            let skew = counts.get(here).copied().unwrap_or(0) + own - least;
            if skew > one.max_skew {
                return Err(Refusal::for_now("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}

/// How many pods each place has that the constraint is about.
fn counts<'a>(pod: &Wants, one: &Spread, hard: &[&Spread], place: Place<'a>) -> BTreeMap<&'a str, i64> {
    let mut counts = BTreeMap::new();
    for (facts, machine) in place.all.known() {
        let complete = hard.iter().all(|other| facts.labels.contains_key(&other.topology_key));
        let Some(domain) = facts.labels.get(&one.topology_key).filter(|_| complete) else { continue };
        if !counted(pod, one, facts) {
            continue;
        }
        *counts.entry(domain.as_str()).or_default() += matching(pod, one, machine);
    }
    counts
}

/// Whether the machine takes part.
fn counted(pod: &Wants, one: &Spread, facts: &Facts) -> bool {
    (one.node_affinity_policy == "Ignore" || NodeAffinity::satisfied(pod, facts))
        && (one.node_taints_policy != "Honor"
            || untolerated(pod, &facts.taints, &["NoSchedule", "NoExecute"]).is_none())
}

fn matching(pod: &Wants, one: &Spread, machine: &Machine) -> i64 {
    let others = machine.pods.values();
    let count = others
        .filter(|other| !other.deleting && other.namespace == pod.namespace && selects(one, pod, other))
        .count();
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whether the constraint of `pod` is about `other`. One without a selector is about none.
fn selects(one: &Spread, pod: &Wants, other: &Wants) -> bool {
    let same = |key: &String| pod.labels.get(key).is_none_or(|value| other.labels.get(key) == Some(value));
    one.label_selector.as_ref().is_some_and(|selector: &LabelSelector| selector.matches(&other.labels))
        && one.match_label_keys.iter().all(same)
}
