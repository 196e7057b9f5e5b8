//! Whether the node takes a pod that was given to it: the scheduler may not have been asked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::scheduler::filters::{NodeAffinity, NodeResourcesFit, untolerated};
use crate::scheduler::machines::{Facts, Machine};
use crate::scheduler::wants::Wants;

/// The pods that the node has taken.
#[derive(Debug, Default)]
pub(crate) struct Taken(Machine);

impl Taken {
    /// A pod was taken.
    pub(crate) fn insert(&mut self, pod: Arc<Wants>) {
        self.0.pods.insert(pod.uid.clone(), pod);
    }

    /// Nothing of a pod is left, or it has ended.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.0.pods.remove(uid);
    }

    /// Why the node does not take a pod, in kubelet's words: a reason and a message.
    pub(crate) fn refuses(&self, pod: &Wants, node: &Facts, is_static: bool) -> Option<(String, String)> {
        // Devices and the like that the node does not know may be somebody else's matter.
        let known: BTreeMap<&str, i64> = node.allocatable.iter().collect();
        let lacking = NodeResourcesFit::lacking(pod, node, &self.0);
        let lacking = lacking
            .into_iter()
            .find(|one| !one.resource.contains('/') || known.contains_key(one.resource.as_str()));
        if let Some(one) = lacking {
            let message = format!(
                "Node didn't have enough resource: {}, requested: {}, used: {}, capacity: {}",
                one.resource, one.requested, one.used, one.capacity
            );
            return Some((format!("OutOf{}", one.resource), message));
        }
        let failed =
            |name: &str, words: &str| Some((name.to_owned(), format!("Predicate {name} failed: {words}")));
        if !NodeAffinity::satisfied(pod, node) {
            return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
        }
        let mut ports = self.0.pods.values().flat_map(|other| &other.ports);
        if ports.any(|taken| pod.ports.iter().any(|port| port.conflicts(taken))) {
            return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports");
        }
        if !is_static && untolerated(pod, &node.taints, &["NoExecute"]).is_some() {
            return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value) -> Arc<Wants> {
        Arc::new(Wants::of(&json!({"metadata": {"name": name, "uid": name}, "spec": spec})).unwrap())
    }

    fn asks(name: &str, amount: &str) -> Value {
        json!({"containers": [{"resources": {"requests": {name: amount}}}]})
    }

    #[test]
    fn pods_that_do_not_fit_are_refused_in_kubelets_words() {
        let node = json!({
            "metadata": {"name": "n1", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
        });
        let node = Facts::of(&node).unwrap();
        let mut taken = Taken::default();
        let mut plain = asks("cpu", "1500m");
        plain["tolerations"] = json!([{"operator": "Exists"}]);
        let first = pod("a", plain.clone());
        assert_eq!(taken.refuses(&first, &node, false), None);
        taken.insert(first);
        let (reason, message) = taken.refuses(&pod("b", plain.clone()), &node, false).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(
            message,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000"
        );
        let refused = |spec: Value| taken.refuses(&pod("b", spec), &node, false).map(|(reason, _)| reason);
        assert_eq!(refused(asks("memory", "2Gi")).as_deref(), Some("OutOfmemory"));
        // Nobody here counts these.
        assert_eq!(refused(asks("example.com/x", "1")).as_deref(), Some("TaintToleration"));
        assert_eq!(refused(json!({"nodeSelector": {"disk": "hdd"}})).as_deref(), Some("NodeAffinity"));
        assert_eq!(refused(json!({})).as_deref(), Some("TaintToleration"));
        assert_eq!(taken.refuses(&pod("b", json!({})), &node, true), None);
        taken.insert(pod("c", json!({"containers": [{"ports": [{"hostPort": 80}]}]})));
        let (reason, _) = taken.refuses(&pod("d", json!({})), &node, true).unwrap();
        assert_eq!(reason, "OutOfpods");
        taken.remove("a");
        let port = json!({"containers": [{"ports": [{"hostPort": 80}]}]});
        assert_eq!(taken.refuses(&pod("d", port), &node, true).unwrap().0, "NodePorts");
        assert_eq!(taken.refuses(&pod("d", plain), &node, false), None);
    }
}
