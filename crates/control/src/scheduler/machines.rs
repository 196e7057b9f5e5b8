//! The machines and who is on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use vaquita_kube::api::Quantity;

use super::resources::Resources;
use super::wants::{Taint, Wants};

/// All machines, and the labels of all namespaces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machines {
    pub(crate) nodes: BTreeMap<String, Machine>,
    pub(crate) namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

impl Machines {
    /// All pods that are on a machine, with the machine.
    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Machine, &Arc<Wants>)> {
        self.nodes.values().flat_map(|machine| machine.pods.values().map(move |pod| (machine, pod)))
    }

    /// Takes note of a pod on its machine. One that has finished, or has no machine, is on none.
    pub(crate) fn place(&mut self, pod: Arc<Wants>) {
        self.forget(&pod.uid);
        let node = &pod.spec.node_name;
        if pod.finished || node.is_empty() {
            return;
        }
        // A machine that is not known yet may become so: its pods count then.
        let machine = self.nodes.entry(node.clone()).or_default();
        machine.pods.insert(pod.uid.clone(), pod);
    }

    /// Forgets a pod. Whether it was on a machine.
    pub(crate) fn forget(&mut self, uid: &str) -> bool {
        self.nodes.values_mut().filter_map(|machine| machine.pods.remove(uid)).count() > 0
    }

    /// Takes note of a machine. Whether anything changed that matters to pods.
    pub(crate) fn know(&mut self, facts: Facts) -> bool {
        let machine = self.nodes.entry(facts.name.clone()).or_default();
        let changed = machine.facts.as_ref() != Some(&facts);
        machine.facts = Some(facts);
        changed
    }

    /// Forgets a machine, not its pods.
    pub(crate) fn lose(&mut self, name: &str) {
        if let Some(machine) = self.nodes.get_mut(name) {
            machine.facts = None;
        }
    }

    /// Machines that there are.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Facts, &Machine)> {
        self.nodes.values().filter_map(|machine| Some((machine.facts.as_ref()?, machine)))
    }
}

/// A machine and its pods.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    /// None while there are only pods that name it.
    pub(crate) facts: Option<Facts>,
    pub(crate) pods: BTreeMap<String, Arc<Wants>>,
}

impl Machine {
    /// What its pods ask for.
    pub(crate) fn requested(&self) -> Resources {
        let mut sum = Resources::default();
        self.pods.values().for_each(|pod| sum.add(&pod.requests));
        sum
    }

    /// The value of a label of it.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.facts.as_ref()?.labels.get(key).map(String::as_str)
    }
}

/// What matters of a Node object to pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) unschedulable: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: Resources,
    /// Names of the images that are there, with their sizes in bytes.
    pub(crate) images: BTreeMap<String, i64>,
}

impl Facts {
    /// Reads a Node object.
    pub(crate) fn of(node: &Value) -> Result<Self, serde_json::Error> {
        let node = Node::deserialize(node)?;
        let images = node.status.images.into_iter();
        Ok(Self {
            name: node.metadata.name,
            labels: node.metadata.labels,
            unschedulable: node.spec.unschedulable,
            taints: node.spec.taints,
            allocatable: Resources::of(&node.status.allocatable),
            images: images
                .flat_map(|image| image.names.into_iter().map(move |name| (name, image.size_bytes)))
                .collect(),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    name: String,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    unschedulable: bool,
    taints: Vec<Taint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    allocatable: BTreeMap<String, Quantity>,
    images: Vec<Image>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Image {
    names: Vec<String>,
    size_bytes: i64,
}
