//! Limits of the CRI in the words of plugins.

use vaquita_nri::api;
use vaquita_proto::cri;

/// What is 0 or empty is not given.
pub(super) fn from_cri(limits: &cri::LinuxContainerResources) -> api::LinuxResources {
    let signed = |value: i64| Some(api::OptionalInt64 { value }).filter(|_| value != 0);
    let unsigned = |value: i64| {
        u64::try_from(value).ok().filter(|value| *value != 0).map(|value| api::OptionalUInt64 { value })
    };
    api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: signed(limits.memory_limit_in_bytes),
            swap: signed(limits.memory_swap_limit_in_bytes),
            ..Default::default()
        }),
        cpu: Some(api::LinuxCpu {
            shares: unsigned(limits.cpu_shares),
            quota: signed(limits.cpu_quota),
            period: unsigned(limits.cpu_period),
            cpus: limits.cpuset_cpus.clone(),
            mems: limits.cpuset_mems.clone(),
            ..Default::default()
        }),
        hugepage_limits: limits
            .hugepage_limits
            .iter()
            .map(|limit| api::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: limits.unified.clone(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::spec::merge;

    #[test]
    fn what_plugins_are_told_is_what_they_would_set() {
        let limits = cri::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: -1,
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 30,
            memory_swap_limit_in_bytes: 2 << 30,
            cpuset_cpus: "0-1".into(),
            hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            unified: [("memory.low".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let host = Host { swap: true, ..Host::default() };
        assert_eq!(merge(&cri::LinuxContainerResources::default(), &from_cri(&limits), &host), limits);
        assert_eq!(merge(&limits, &api::LinuxResources::default(), &host), limits);
    }
}
