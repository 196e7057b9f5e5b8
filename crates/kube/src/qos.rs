//! Quality of service, and the kernel's numbers for requests and limits. The formulas are the kubelet's.

use std::collections::BTreeMap;

use crate::api::{Container, PodSpec, QosClass, Quantity};

/// Quality of service of a pod (`ComputePodQOS`).
pub(crate) fn class(spec: &PodSpec) -> QosClass {
    let mut any = false;
    let mut guaranteed = true;
    for container in spec.containers.iter().chain(&spec.init_containers) {
        let amount = |list: &BTreeMap<String, Quantity>, name| positive(list, name).map(Quantity::nanos);
        for name in ["cpu", "memory"] {
            let request = amount(&container.resources.requests, name);
            let limit = amount(&container.resources.limits, name);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => QosClass::BestEffort,
        (true, true) => QosClass::Guaranteed,
        (true, false) => QosClass::Burstable,
    }
}

/// cpu.shares (v1 units, which the CRI speaks) of thousandths of a CPU (`MilliCPUToShares`).
pub(crate) fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    (i128::from(milli) * 1024 / 1000)
        .clamp(MIN_SHARES.into(), MAX_SHARES.into())
        .try_into()
        .unwrap_or(MAX_SHARES)
}

/// CPU time per period, in microseconds (`MilliCPUToQuota`); 0 is no limit.
pub(crate) fn cpu_quota(milli: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    milli.saturating_mul(CPU_PERIOD / 1000).max(MIN_QUOTA)
}

/// oom_score_adj of a container's processes (`GetContainerOOMScoreAdjust`). `capacity` is the machine's memory.
pub(crate) fn oom_score_adj(spec: &PodSpec, container: &Container, capacity: i64) -> i64 {
    const GUARANTEED: i64 = -997;
    const BEST_EFFORT: i64 = 1000;
    match class(spec) {
        QosClass::Guaranteed => return GUARANTEED,
        QosClass::BestEffort => return BEST_EFFORT,
        QosClass::Burstable => {}
    }
    let request = |container: &Container| memory_request(container);
    let adjust = |bytes: i64| {
        1000 - i64::try_from(1000 * i128::from(bytes) / i128::from(capacity.max(1))).unwrap_or(1000)
    };
    let mut adj = adjust(request(container));
    if container.is_sidecar() {
        // A sidecar dies no earlier than the containers it serves.
        let least = spec.containers.iter().map(request).min().unwrap_or(0);
        adj = adj.min(adjust(least));
    }
    if adj < 1000 + GUARANTEED {
        1000 + GUARANTEED
    } else if adj == BEST_EFFORT {
        // More likely to live than a best-effort pod.
        adj - 1
    } else {
        adj
    }
}

/// Requests and limits of the whole pod, as its cgroup gets them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PodResources {
    pub(crate) cpu_shares: i64,
    /// 0 is no limit.
    pub(crate) cpu_quota: i64,
    /// 0 is no limit.
    pub(crate) memory_limit: i64,
}

/// What the pod's cgroup gets (`ResourceConfigForPod`): limits only where every container has one.
pub(crate) fn pod_resources(spec: &PodSpec) -> PodResources {
    let milli = |list: &BTreeMap<String, Quantity>| positive(list, "cpu").map_or(0, Quantity::milli);
    let bytes = |list: &BTreeMap<String, Quantity>| positive(list, "memory").map_or(0, Quantity::value);
    let all = |container: &Container, name| positive(&container.resources.limits, name).is_some();
    let every =
        |name| spec.containers.iter().chain(&spec.init_containers).all(|container| all(container, name));
    let shares = cpu_shares(peak(spec, |container| milli(&container.resources.requests)));
    if class(spec) == QosClass::BestEffort {
        return PodResources { cpu_shares: MIN_SHARES, ..PodResources::default() };
    }
    PodResources {
        cpu_shares: shares,
        cpu_quota: match every("cpu") {
            true => cpu_quota(peak(spec, |container| milli(&container.resources.limits))),
            false => 0,
        },
        memory_limit: match every("memory") {
            true => peak(spec, |container| bytes(&container.resources.limits)),
            false => 0,
        },
    }
}

/// The most that is needed at one time: all containers with the sidecars, or one init container with the sidecars
/// that were started before it.
fn peak(spec: &PodSpec, amount: impl Fn(&Container) -> i64) -> i64 {
    let mut sidecars = 0_i64;
    let mut most = 0;
    for container in &spec.init_containers {
        if container.is_sidecar() {
            sidecars = sidecars.saturating_add(amount(container));
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars.saturating_add(amount(container)));
        }
    }
    let apps = spec.containers.iter().map(&amount).fold(sidecars, i64::saturating_add);
    most.max(apps)
}

fn memory_request(container: &Container) -> i64 {
    container.resources.requests.get("memory").map_or(0, Quantity::value)
}

/// A request or limit that says something: zero is none.
fn positive<'a>(list: &'a BTreeMap<String, Quantity>, name: &str) -> Option<&'a Quantity> {
    list.get(name).filter(|quantity| quantity.nanos() > 0)
}

/// Length of a CPU period in microseconds.
pub(crate) const CPU_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shares_and_quotas() {
        let shares = [
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 3),
            (100, 102),
            (200, 204),
            (500, 512),
            (1000, 1024),
            (256_000, 262_144),
            (300_000, 262_144),
        ];
        for (milli, expected) in shares {
            assert_eq!(cpu_shares(milli), expected, "{milli}");
        }
        for (milli, expected) in [
            (0, 0),
            (1, 1000),
            (5, 1000),
            (9, 1000),
            (10, 1000),
            (200, 20_000),
            (500, 50_000),
            (1000, 100_000),
            (1500, 150_000),
        ] {
            assert_eq!(cpu_quota(milli), expected, "{milli}");
        }
    }

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |entries: &[(&str, &str)]| {
            entries.iter().map(|(name, value)| ((*name).to_owned(), value.parse().unwrap())).collect()
        };
        let mut container = Container::default();
        container.resources.limits = list(limits);
        container.resources.requests = list(requests);
        container
    }

    fn spec(containers: Vec<Container>) -> PodSpec {
        PodSpec { containers, ..PodSpec::default() }
    }

    #[test]
    fn classes() {
        let both = [("cpu", "1"), ("memory", "1Gi")];
        let of = |containers| class(&spec(containers));
        assert_eq!(of(vec![container(&[], &[])]), QosClass::BestEffort);
        assert_eq!(of(vec![container(&[("cpu", "0")], &[])]), QosClass::BestEffort);
        assert_eq!(of(vec![container(&both, &both)]), QosClass::Guaranteed);
        assert_eq!(
            of(vec![container(&[("cpu", "1000m"), ("memory", "1024Mi")], &both)]),
            QosClass::Guaranteed
        );
        assert_eq!(of(vec![container(&both, &both), container(&[], &[])]), QosClass::Burstable);
        assert_eq!(of(vec![container(&[("cpu", "1")], &both)]), QosClass::Guaranteed);
        assert_eq!(of(vec![container(&[("memory", "1Mi")], &[])]), QosClass::Burstable);
    }

    /// The values of `pkg/kubelet/qos/policy_test.go` (a machine with 4 000 000 000 bytes).
    #[test]
    fn oom_scores() {
        let capacity = 4_000_000_000;
        let of = |container: Container| {
            let spec = spec(vec![container.clone()]);
            oom_score_adj(&spec, &container, capacity)
        };
        assert_eq!(of(container(&[], &[])), 1000);
        let half = [("cpu", "5m"), ("memory", "2000000000")];
        assert_eq!(of(container(&half, &half)), -997);
        assert_eq!(of(container(&half, &[])), 500);
        assert_eq!(of(container(&[("cpu", "100m")], &[("cpu", "100m")])), 999);
        assert_eq!(of(container(&[("memory", "4000000000")], &[("cpu", "5m")])), 3);
        assert_eq!(of(container(&[("memory", "1")], &[])), 999);
    }

    #[test]
    fn sidecars_die_last() {
        let mut sidecar = container(&[("memory", "100000000")], &[]);
        sidecar.restart_policy = Some(crate::api::ContainerRestartPolicy::Always);
        let mut spec = spec(vec![container(&[("memory", "2000000000")], &[])]);
        spec.init_containers = vec![sidecar.clone()];
        assert_eq!(oom_score_adj(&spec, &sidecar, 4_000_000_000), 500);
    }

    #[test]
    fn pods() {
        let mut pod = spec(vec![
            container(&[("cpu", "100m")], &[("cpu", "200m"), ("memory", "64Mi")]),
            container(&[("cpu", "100m")], &[("cpu", "300m")]),
        ]);
        let expected = PodResources { cpu_shares: 204, cpu_quota: 50_000, memory_limit: 0 };
        assert_eq!(pod_resources(&pod), expected);
        pod.init_containers = vec![container(&[("cpu", "1")], &[("cpu", "1")])];
        let expected = PodResources { cpu_shares: 1024, cpu_quota: 100_000, memory_limit: 0 };
        assert_eq!(pod_resources(&pod), expected);
        assert_eq!(pod_resources(&spec(vec![container(&[], &[])])).cpu_shares, 2);
    }
}
