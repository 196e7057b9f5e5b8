//! Which machines a pod can be on. Order and words are those of kube-scheduler's plugins.

mod neighbours;
mod spread;

use super::machines::{Facts, Machine, Machines};
use super::resources::Resources;
use super::wants::{Taint, Wants};

pub(crate) use neighbours::InterPodAffinity;
pub(crate) use spread::PodTopologySpread;

/// A condition that a machine must satisfy for a pod.
pub(crate) trait Filter: Send + Sync {
    /// The plugin's name.
    fn name(&self) -> &'static str;

    /// Whether the pod can be on this machine, or why not.
    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal>;
}

/// A machine among the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) machine: &'a Machine,
    pub(crate) all: &'a Machines,
}

/// Why a pod cannot be on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reasons: Vec<String>,
    /// It could, if other pods were not there.
    pub(crate) resolvable: bool,
}

impl Refusal {
    /// Whatever pods are there.
    fn always(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }

    /// Because of the pods that are there.
    fn for_now(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: true }
    }
}

/// All filters, in order: the first that refuses a machine says why.
pub(crate) const FILTERS: &[&dyn Filter] = &[
    &NodeUnschedulable,
    &NodeName,
    &TaintToleration,
    &NodeAffinity,
    &NodePorts,
    &NodeResourcesFit,
    &PodTopologySpread,
    &InterPodAffinity,
];

/// A machine that is cordoned takes only pods that tolerate it.
#[derive(Debug)]
pub(crate) struct NodeUnschedulable;

/// Of a machine that is cordoned.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        let taint = Taint { key: UNSCHEDULABLE.into(), effect: "NoSchedule".into(), ..Taint::default() };
        if place.facts.unschedulable && !pod.tolerates(&taint) {
            return Err(Refusal::always("node(s) were unschedulable"));
        }
        Ok(())
    }
}

/// The machine that the pod names.
#[derive(Debug)]
pub(crate) struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        if !pod.spec.node_name.is_empty() && pod.spec.node_name != place.facts.name {
            return Err(Refusal::always("node(s) didn't match the requested node name"));
        }
        Ok(())
    }
}

/// Taints that keep pods away, but for those that tolerate them.
#[derive(Debug)]
pub(crate) struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        if untolerated(pod, &place.facts.taints, &["NoSchedule", "NoExecute"]).is_some() {
            return Err(Refusal::always("node(s) had untolerated taint(s)"));
        }
        Ok(())
    }
}

/// The first taint of these effects that the pod does not tolerate.
pub(crate) fn untolerated<'a>(pod: &Wants, taints: &'a [Taint], effects: &[&str]) -> Option<&'a Taint> {
    taints.iter().find(|taint| effects.contains(&taint.effect.as_str()) && !pod.tolerates(taint))
}

/// The labels that the pod wants of its machine.
#[derive(Debug)]
pub(crate) struct NodeAffinity;

impl NodeAffinity {
    /// Whether selector and required terms are satisfied.
    pub(crate) fn satisfied(pod: &Wants, facts: &Facts) -> bool {
        let required = &pod.spec.affinity.node_affinity.required;
        pod.spec.node_selector.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
            && required.as_ref().is_none_or(|selector| selector.matches(&facts.name, &facts.labels))
    }
}

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        match Self::satisfied(pod, place.facts) {
            true => Ok(()),
            false => Err(Refusal::always("node(s) didn't match Pod's node affinity/selector")),
        }
    }
}

/// Ports of the host, which only one can have.
#[derive(Debug)]
pub(crate) struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        let mut taken = place.machine.pods.values().flat_map(|other| &other.ports);
        if taken.any(|taken| pod.ports.iter().any(|port| port.conflicts(taken))) {
            return Err(Refusal::for_now("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}

/// CPU, memory, disk, number of pods, and whatever else the machine counts.
#[derive(Debug)]
pub(crate) struct NodeResourcesFit;

/// A resource of which there is too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Insufficient {
    pub(crate) resource: String,
    pub(crate) requested: i64,
    pub(crate) used: i64,
    pub(crate) capacity: i64,
}

impl NodeResourcesFit {
    /// What there is too little of.
    pub(crate) fn lacking(pod: &Wants, facts: &Facts, machine: &Machine) -> Vec<Insufficient> {
        let used: Resources = machine.requested();
        let count = i64::try_from(machine.pods.len()).unwrap_or(i64::MAX);
        let capacity = facts.allocatable.of_name("pods");
        let mut lacking = Vec::new();
        if count + 1 > capacity {
            lacking.push(Insufficient { resource: "pods".into(), requested: 1, used: count, capacity });
        }
        let mut wanted: Vec<(&str, i64)> = pod.requests.iter().filter(|(_, amount)| *amount > 0).collect();
        let usual = ["cpu", "memory", "ephemeral-storage"];
        wanted.sort_by_key(|(name, _)| usual.iter().position(|other| other == name).unwrap_or(usual.len()));
        for (name, requested) in wanted {
            let (used, capacity) = (used.of_name(name), facts.allocatable.of_name(name));
            if requested > capacity.saturating_sub(used) {
                lacking.push(Insufficient { resource: name.to_owned(), requested, used, capacity });
            }
        }
        lacking
    }
}

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn check(&self, pod: &Wants, place: Place<'_>) -> Result<(), Refusal> {
        let lacking = Self::lacking(pod, place.facts, place.machine);
        if lacking.is_empty() {
            return Ok(());
        }
        let reason = |one: &Insufficient| match one.resource.as_str() {
            "pods" => "Too many pods".to_owned(),
            name => format!("Insufficient {name}"),
        };
        Err(Refusal {
            reasons: lacking.iter().map(reason).collect(),
            resolvable: lacking.iter().all(|one| one.requested <= one.capacity),
        })
    }
}
