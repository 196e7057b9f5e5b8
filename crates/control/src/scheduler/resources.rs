//! Amounts of resources, and what a pod asks for in all.

use std::collections::BTreeMap;

use vaquita_kube::api::Quantity;

use super::wants::{Container, Spec};

/// Amounts by resource name: cpu in thousandths, all others in whole units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// The amounts of a list as objects have it.
    pub(crate) fn of(list: &BTreeMap<String, Quantity>) -> Self {
        Self(list.iter().map(|(name, quantity)| (name.clone(), amount(name, quantity))).collect())
    }

    /// How much of this; 0 where it is not named.
    pub(crate) fn of_name(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All that is named.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Adds amounts.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Raises each amount to the other one.
    fn raise(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

fn amount(name: &str, quantity: &Quantity) -> i64 {
    if name == "cpu" { quantity.milli() } else { quantity.value() }
}

/// What a pod asks for: the most that it needs at one time. Containers and sidecars add up; an init container needs its
/// own and that of the sidecars before it; requests of the pod itself stand instead of the sum; overhead comes on top.
pub(crate) fn requests(spec: &Spec) -> Resources {
    let own = |container: &Container| Resources::of(&container.resources.requests);
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&own(container));
    }
    let mut sidecars = Resources::default();
    let mut most = Resources::default();
    for container in &spec.init_containers {
        let mut now = own(container);
        if container.is_sidecar() {
            sum.add(&now);
            sidecars.add(&now);
            now = sidecars.clone();
        } else {
            now.add(&sidecars);
        }
        most.raise(&now);
    }
    sum.raise(&most);
    for (name, amount) in Resources::of(&spec.resources.requests).0 {
        sum.0.insert(name, amount);
    }
    sum.add(&Resources::of(&spec.overhead));
    sum
}

#[cfg(test)]
mod tests {
    use super::super::wants::Wants;
    use serde_json::json;

    fn requests(spec: &serde_json::Value) -> (i64, i64) {
        let wants = Wants::of(&json!({"metadata": {}, "spec": spec})).unwrap();
        (wants.requests.of_name("cpu"), wants.requests.of_name("memory"))
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str, memory: &str) -> serde_json::Value {
        let mut one = container(cpu, memory);
        one["restartPolicy"] = json!("Always");
        one
    }

    #[test]
    fn a_pod_asks_for_the_most_that_it_needs_at_one_time() {
        let two = json!([container("1", "1Gi"), container("500m", "1Gi")]);
        assert_eq!(requests(&json!({"containers": two})), (1500, 2 << 30));
        // An init container runs before the others: the larger counts, for each resource.
        let init = json!([container("2", "1Mi"), container("1", "3Gi")]);
        assert_eq!(requests(&json!({"containers": two, "initContainers": init})), (2000, 3 << 30));
        // Sidecars go on: they add to the containers, and to the init containers after them.
        let init = json!([container("2", "1Mi"), sidecar("1", "1Mi"), container("2", "1Mi")]);
        assert_eq!(
            requests(&json!({"containers": two, "initContainers": init})),
            (3000, (2 << 30) + (1 << 20))
        );
        assert_eq!(
            requests(&json!({"containers": two, "overhead": {"cpu": "250m", "memory": "120Mi"}})),
            (1750, (2 << 30) + (120 << 20))
        );
        assert_eq!(
            requests(&json!({"containers": two, "resources": {"requests": {"cpu": "3"}}})),
            (3000, 2 << 30)
        );
        assert_eq!(requests(&json!({"containers": [{}]})), (0, 0));
    }
}
