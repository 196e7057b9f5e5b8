//! The metrics that kubelet serves as its own when the runtime is to measure containers: cAdvisor's names and labels.
//!
//! A table has for each metric how it is described and how it is read, so descriptors and metrics cannot disagree. The
//! interface has whole numbers only: seconds lose their fractions, as with every runtime.

mod families;
mod measure;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bytes::Bytes;
use vaquita_proto::cri;

use self::families::{CONTAINER, POD};
use self::measure::{Measured, MeasuredPod};
use crate::model::{Container, Sandbox, now};
use crate::node::Node;
use crate::stats::{Measure, Pods, Samples, recent, running};
use crate::{Result, encoded};

/// The labels that all metrics begin with. `id` is the cgroup and `name` the id of the container, as with cAdvisor; those
/// of a pod have no container, image and name.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// One metric of containers or pods, measured as `M`.
struct Family<M: 'static> {
    name: &'static str,
    help: &'static str,
    kind: cri::MetricType,
    /// The labels behind the common ones.
    labels: &'static [&'static str],
    /// The values with their labels; none where the kernel or the container has no such thing.
    read: Read<M>,
}

enum Read<M> {
    /// At most one, without further labels.
    One(fn(&M) -> Option<u64>),
    /// One for each value of the further labels.
    Many(fn(&M) -> Vec<Labelled>),
}

/// A value, and what the further labels are.
struct Labelled(Vec<String>, u64);

impl<M> Family<M> {
    fn describe(&self) -> cri::MetricDescriptor {
        let labels = LABELS.iter().chain(self.labels);
        cri::MetricDescriptor {
            name: self.name.to_owned(),
            help: self.help.to_owned(),
            label_keys: labels.map(|label| (*label).to_owned()).collect(),
        }
    }

    fn read(&self, measured: &M, timestamp: i64, labels: &[String; 6], into: &mut Vec<cri::Metric>) {
        let metric = |further: Vec<String>, value| cri::Metric {
            name: self.name.to_owned(),
            timestamp,
            metric_type: self.kind as i32,
            label_values: labels.iter().cloned().chain(further).collect(),
            value: Some(cri::UInt64Value { value }),
        };
        match self.read {
            Read::One(read) => into.extend(read(measured).map(|value| metric(Vec::new(), value))),
            Read::Many(read) => {
                into.extend(read(measured).into_iter().map(|Labelled(labels, value)| metric(labels, value)));
            }
        }
    }
}

/// Every metric there can be.
pub(crate) fn descriptors() -> Vec<cri::MetricDescriptor> {
    POD.iter().map(Family::describe).chain(CONTAINER.iter().map(Family::describe)).collect()
}

/// The metrics of the pods that are ready and of their containers that run.
#[derive(Debug)]
pub(crate) struct Metrics;

impl Measure for Metrics {
    type Of = Sandbox;
    /// A [`cri::PodSandboxMetrics`], as an item of a list.
    type Value = Bytes;

    fn samples(node: &Node) -> &Samples<Bytes> {
        &node.usage.metrics
    }

    fn all(node: &Node) -> Vec<Arc<Sandbox>> {
        <Pods as Measure>::all(node)
    }

    fn id(of: &Sandbox) -> &str {
        of.id()
    }

    /// Which containers run.
    fn tag(node: &Node, of: &Sandbox) -> u64 {
        let mut hasher = DefaultHasher::new();
        running(node, of).iter().for_each(|container| container.id().hash(&mut hasher));
        hasher.finish()
    }

    fn read(node: &Node, of: &Sandbox) -> Bytes {
        encoded::item(&pod(node, of))
    }
}

/// One [`cri::PodSandboxMetrics`] for each pod that is ready, as it was a moment ago, as the items of a list.
pub(crate) async fn measure(node: &Arc<Node>) -> Result<Vec<Bytes>> {
    let pods = <Pods as Measure>::all(node);
    Ok(recent::<Metrics>(node, &pods).await?.iter().map(|encoded| Bytes::clone(encoded)).collect())
}

fn pod(node: &Node, sandbox: &Sandbox) -> cri::PodSandboxMetrics {
    let record = &sandbox.record;
    let metadata = record.config.metadata.clone().unwrap_or_default();
    let cgroup = record.cgroup.to_string_lossy().into_owned();
    let labels = [
        String::new(),
        cgroup,
        String::new(),
        String::new(),
        metadata.namespace.clone(),
        metadata.name.clone(),
    ];
    let (time, mut metrics) = (now(), Vec::new());
    let measured = MeasuredPod::of(sandbox);
    POD.iter().for_each(|family| family.read(&measured, time, &labels, &mut metrics));
    let running = running(node, sandbox);
    cri::PodSandboxMetrics {
        pod_sandbox_id: sandbox.id().to_owned(),
        metrics,
        container_metrics: running.iter().map(|container| of_container(node, container, &metadata)).collect(),
    }
}

fn of_container(node: &Node, container: &Container, pod: &cri::PodSandboxMetadata) -> cri::ContainerMetrics {
    let record = &container.record;
    let image = record.config.image.as_ref();
    let image = image.map(|image| match image.user_specified_image.as_str() {
        "" => image.image.clone(),
        name => name.to_owned(),
    });
    let labels = [
        container.metadata().name,
        record.cgroup.to_string_lossy().into_owned(),
        image.unwrap_or_default(),
        record.id.clone(),
        pod.namespace.clone(),
        pod.name.clone(),
    ];
    let (time, mut metrics) = (now(), Vec::new());
    let measured = Measured::of(node, container);
    CONTAINER.iter().for_each(|family| family.read(&measured, time, &labels, &mut metrics));
    cri::ContainerMetrics { container_id: record.id.clone(), metrics }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_labels_are_what_prometheus_takes() {
        let all = descriptors();
        let names: BTreeSet<_> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names.len(), all.len(), "a name twice");
        for one in &all {
            let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(word(&one.name) && one.name.starts_with("container_"), "{}", one.name);
            assert!(!one.help.is_empty() && one.label_keys.iter().all(|label| word(label)), "{one:?}");
            let labels: BTreeSet<_> = one.label_keys.iter().collect();
            assert_eq!(labels.len(), one.label_keys.len(), "{one:?}");
        }
        // A total is a counter, as Prometheus wants it, with cAdvisor's one exception.
        for (name, kind) in
            CONTAINER.iter().map(|one| (one.name, one.kind)).chain(POD.iter().map(|one| (one.name, one.kind)))
        {
            let counter = name.ends_with("_total") && name != "container_fs_inodes_total";
            assert!(!counter || kind == cri::MetricType::Counter, "{name}");
        }
    }

    #[test]
    fn nothing_measured_makes_no_metrics() {
        let labels = std::array::from_fn(|_| String::new());
        let mut metrics = Vec::new();
        POD.iter().for_each(|family| family.read(&MeasuredPod::default(), 1, &labels, &mut metrics));
        assert_eq!(metrics, []);
    }

    #[test]
    fn every_family_has_labels_for_its_values() {
        let measured = Measured::example();
        let labels = std::array::from_fn(|_| String::new());
        for family in CONTAINER {
            let mut metrics = Vec::new();
            family.read(&measured, 1, &labels, &mut metrics);
            assert!(!metrics.is_empty(), "{} of {measured:?}", family.name);
            for metric in metrics {
                assert_eq!(metric.label_values.len(), family.describe().label_keys.len(), "{metric:?}");
            }
        }
        for family in POD {
            let mut metrics = Vec::new();
            family.read(&MeasuredPod::example(), 1, &labels, &mut metrics);
            assert_eq!(metrics.len(), 1, "{}", family.name);
            assert_eq!(metrics[0].label_values.len(), family.describe().label_keys.len());
        }
    }
}
