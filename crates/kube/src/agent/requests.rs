//! CRI requests from a pod: pure, so that they can be looked at.

use std::collections::BTreeMap;

use vaquita_proto::cri;

use super::context::Context;
use super::env::Environment;
use super::{names, security};
use crate::api::{Container, ContainerPort, Protocol, QosClass, Quantity};
use crate::{Result, qos};

/// Labels that the kubelet gives, too: tools find pods and containers by them.
pub(super) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(super) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(super) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(super) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(super) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub(super) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// The run that a sandbox belongs to, so that a later one can tell whether it is dead.
pub(super) const OWNER: &str = "vaquita.run/owner";
/// The directory of the agent that made a sandbox.
pub(super) const AGENT_ROOT: &str = "vaquita.run/agent-root";

/// The sandbox of a pod.
///
/// # Errors
/// A host name that cannot be.
pub(super) fn sandbox(context: &Context, attempt: u32) -> Result<cri::PodSandboxConfig> {
    let pod = &context.pod;
    let mut labels: BTreeMap<String, String> = pod.metadata.labels.clone();
    labels.extend(own_labels(context));
    let mut annotations: BTreeMap<String, String> = pod.metadata.annotations.clone();
    if !context.kept {
        annotations.insert(OWNER.to_owned(), serde_json::to_string(&context.owner).unwrap_or_default());
    }
    annotations.insert(AGENT_ROOT.to_owned(), context.config.root.to_string_lossy().into_owned());
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            namespace: pod.metadata.namespace.clone(),
            attempt,
        }),
        hostname: names::kernel_name(pod)?,
        log_directory: context.log_dir().to_string_lossy().into_owned(),
        dns_config: Some(names::dns(pod, &context.host)),
        port_mappings: port_mappings(context),
        labels,
        annotations,
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(context),
            security_context: Some(security::sandbox(&pod.spec)),
            sysctls: security::sysctls(&pod.spec),
            overhead: None,
            resources: Some(pod_resources(context)),
        }),
        windows: None,
    })
}

/// What the pod as a whole may take.
pub(super) fn pod_resources(context: &Context) -> cri::LinuxContainerResources {
    let resources = qos::pod_resources(&context.pod.spec);
    cri::LinuxContainerResources {
        cpu_period: if resources.cpu_quota == 0 { 0 } else { qos::CPU_PERIOD },
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit,
        ..cri::LinuxContainerResources::default()
    }
}

/// What a container's configuration is made of beside its specification.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) attempt: u32,
    /// Image id, as PullImage or ImageStatus gave it.
    pub(super) image: String,
    /// User of the image.
    pub(super) user: security::ImageUser,
    pub(super) env: Environment,
    pub(super) mounts: Vec<cri::Mount>,
    /// The container whose processes it shares.
    pub(super) target: Option<String>,
}

/// A container of a pod.
///
/// # Errors
/// A user that runAsNonRoot forbids.
pub(super) fn container(
    context: &Context,
    container: &Container,
    parts: Parts,
) -> Result<cri::ContainerConfig> {
    let expand = |texts: &[String]| texts.iter().map(|text| parts.env.expand(text)).collect();
    let envs =
        parts.env.iter().map(|(key, value)| cri::KeyValue { key: key.to_owned(), value: value.to_vec() });
    let mut labels: BTreeMap<String, String> = own_labels(context).collect();
    labels.insert(CONTAINER_NAME.to_owned(), container.name.clone());
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt: parts.attempt }),
        image: Some(cri::ImageSpec {
            image: parts.image.clone(),
            user_specified_image: container.image.clone(),
            ..cri::ImageSpec::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone(),
        envs: envs.collect(),
        mounts: parts.mounts,
        labels,
        annotations: annotations(context, container, parts.attempt),
        log_path: Context::log_path(&container.name, parts.attempt),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(context, container)),
            security_context: Some(security::container(context, container, &parts.user, parts.target)?),
        }),
        ..cri::ContainerConfig::default()
    })
}

fn own_labels(context: &Context) -> impl Iterator<Item = (String, String)> {
    let metadata = &context.pod.metadata;
    [(POD_NAME, &metadata.name), (POD_NAMESPACE, &metadata.namespace), (POD_UID, &metadata.uid)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.clone()))
}

fn cgroup_parent(context: &Context) -> String {
    pod_cgroup(&context.config.cgroup_root, qos::class(&context.pod.spec), &context.pod.metadata.uid)
}

/// `<prefix>/kubepods[/burstable|/besteffort]/pod<uid>`, or with a slice for prefix the slice that kubelet would name.
fn pod_cgroup(prefix: &str, class: QosClass, uid: &str) -> String {
    let class = match class {
        QosClass::Guaranteed => None,
        QosClass::Burstable => Some("burstable"),
        QosClass::BestEffort => Some("besteffort"),
    };
    let pod = format!("pod{uid}");
    let parts = ["kubepods"].into_iter().chain(class).chain([pod.as_str()]);
    let slice = prefix.rsplit('/').next().and_then(|name| name.strip_suffix(".slice"));
    match slice {
        // A dash leads to the next level.
        Some(outer) => {
            parts.fold(outer.to_owned(), |name, part| format!("{name}-{}", part.replace('-', "_"))) + ".slice"
        }
        None => parts.fold(prefix.trim_end_matches('/').to_owned(), |path, part| format!("{path}/{part}")),
    }
}

fn port_mappings(context: &Context) -> Vec<cri::PortMapping> {
    let spec = &context.pod.spec;
    // On the host's network a port of the container is a port of the host already.
    if spec.host_network {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().filter(|container| container.is_sidecar());
    let ports = sidecars.chain(&spec.containers).flat_map(|container| &container.ports);
    ports.filter_map(port_mapping).collect()
}

fn port_mapping(port: &ContainerPort) -> Option<cri::PortMapping> {
    let protocol = match port.protocol {
        Protocol::TCP => cri::Protocol::Tcp,
        Protocol::UDP => cri::Protocol::Udp,
        Protocol::SCTP => cri::Protocol::Sctp,
    };
    Some(cri::PortMapping {
        protocol: protocol.into(),
        container_port: port.container_port,
        host_port: port.published()?,
        host_ip: port.host_ip.clone(),
    })
}

fn annotations(context: &Context, container: &Container, attempt: u32) -> BTreeMap<String, String> {
    let grace = context.pod.spec.termination_grace_period_seconds.unwrap_or(30);
    let mut list = vec![
        (RESTART_COUNT, attempt.to_string()),
        (CONTAINER_HASH, container.fingerprint()),
        ("io.kubernetes.container.terminationMessagePath", container.termination_message_path.clone()),
        (
            "io.kubernetes.container.terminationMessagePolicy",
            format!("{:?}", container.termination_message_policy),
        ),
        ("io.kubernetes.pod.terminationGracePeriod", grace.to_string()),
    ];
    if !container.ports.is_empty() {
        list.push((
            "io.kubernetes.container.ports",
            serde_json::to_string(&container.ports).unwrap_or_default(),
        ));
    }
    list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Requests and limits as the kernel gets them (`calculateLinuxResources`).
pub(super) fn resources(context: &Context, container: &Container) -> cri::LinuxContainerResources {
    let amount = |list: &BTreeMap<String, Quantity>, name: &str| {
        list.get(name).filter(|quantity| quantity.nanos() > 0).cloned()
    };
    let limits = &container.resources.limits;
    let cpu = amount(&container.resources.requests, "cpu").or_else(|| amount(limits, "cpu"));
    let cpu_quota = qos::cpu_quota(amount(limits, "cpu").map_or(0, |quantity| quantity.milli()));
    let mut unified = BTreeMap::new();
    if context.host.unified_memory {
        // A container is one unit: where one process is killed for memory, all are. And none of it is swapped.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
        if amount(limits, "memory").is_some() {
            unified.insert("memory.swap.max".to_owned(), "0".to_owned());
        }
    }
    let hugepages = limits.iter().filter_map(|(name, limit)| {
        let size = name.strip_prefix("hugepages-")?;
        let page_size = format!("{}B", size.trim_end_matches('i'));
        Some(cri::HugepageLimit { page_size, limit: u64::try_from(limit.value()).unwrap_or(0) })
    });
    cri::LinuxContainerResources {
        cpu_period: if cpu_quota == 0 { 0 } else { qos::CPU_PERIOD },
        cpu_quota,
        cpu_shares: qos::cpu_shares(cpu.map_or(0, |quantity| quantity.milli())),
        memory_limit_in_bytes: amount(limits, "memory").map_or(0, |quantity| quantity.value()),
        oom_score_adj: qos::oom_score_adj(&context.pod.spec, container, context.host.memory),
        hugepage_limits: hugepages.collect(),
        unified,
        ..cri::LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::context::tests::context;
    use crate::agent::security::ImageUser;

    #[test]
    fn pods_are_in_groups_of_their_class() {
        let of = |prefix, class| pod_cgroup(prefix, class, "1-2");
        assert_eq!(of("/v", QosClass::Guaranteed), "/v/kubepods/pod1-2");
        assert_eq!(of("/", QosClass::BestEffort), "/kubepods/besteffort/pod1-2");
        assert_eq!(of("/v.slice", QosClass::Guaranteed), "v-kubepods-pod1_2.slice");
        assert_eq!(of("/a.slice/a-b.slice", QosClass::Burstable), "a-b-kubepods-burstable-pod1_2.slice");
    }

    #[test]
    fn sandbox_requests() {
        let plain = context("containers: [{name: a, image: x}]");
        insta::assert_snapshot!(format!("{:#?}", sandbox(&plain, 0).unwrap()));
        let full = context(
            "hostname: h\nsubdomain: s\nsetHostnameAsFQDN: true\nhostPID: true\nhostIPC: true\n\
             dnsConfig: {searches: [a.b]}\n\
             securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000], sysctls: [{name: net.ipv4.ip_forward, value: '1'}]}\n\
             initContainers: [{name: s, image: x, restartPolicy: Always, ports: [{containerPort: 9, hostPort: 9, protocol: UDP}], resources: {limits: {cpu: 1, memory: 64Mi}}}]\n\
             containers: [{name: a, image: x, ports: [{containerPort: 80}, {containerPort: 81, hostPort: 8081, hostIP: 127.0.0.1}], securityContext: {privileged: true}, resources: {limits: {cpu: 500m, memory: 64Mi}}}]",
        );
        insta::assert_snapshot!(format!("{:#?}", sandbox(&full, 3).unwrap()));
        let host =
            context("hostNetwork: true\ncontainers: [{name: a, image: x, ports: [{containerPort: 80}]}]");
        let config = sandbox(&host, 0).unwrap();
        assert_eq!((config.hostname.as_str(), config.port_mappings.len()), ("", 0));
    }

    #[test]
    fn container_requests() {
        let context = context(
            "securityContext: {runAsUser: 1000, fsGroup: 3000, seccompProfile: {type: RuntimeDefault}}\n\
             containers:\n\
             - name: a\n\
             \x20 image: busybox:1\n\
             \x20 command: [sh, -c, echo $(GREETING) $(MISSING) $$(GREETING)]\n\
             \x20 args: [$(NAME)]\n\
             \x20 workingDir: /tmp\n\
             \x20 tty: true\n\
             \x20 stdin: true\n\
             \x20 envFrom: [{prefix: P_, configMapRef: {name: conf}}, {secretRef: {name: none, optional: true}}]\n\
             \x20 env:\n\
             \x20 - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}\n\
             \x20 - {name: GREETING, value: hello $(NAME) $(P_color)}\n\
             \x20 - {name: P_size, value: small}\n\
             \x20 - {name: WORD, valueFrom: {secretKeyRef: {name: pass, key: word}}}\n\
             \x20 - {name: GONE, valueFrom: {configMapKeyRef: {name: conf, key: nope, optional: true}}}\n\
             \x20 - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}\n\
             \x20 - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n\
             \x20 resources: {limits: {cpu: 500m, memory: 64Mi, hugepages-2Mi: 4Mi}, requests: {cpu: 100m, memory: 32Mi}}\n\
             \x20 securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {add: [NET_ADMIN], drop: [ALL]}, seccompProfile: {type: Localhost, localhostProfile: p/a.json}}\n",
        );
        let spec = &context.pod.spec.containers[0];
        let parts = Parts {
            attempt: 2,
            image: "sha256:abc".to_owned(),
            user: ImageUser::default(),
            env: Environment::resolve(&context, spec, &["10.0.0.2".to_owned(), "fd00::2".to_owned()])
                .unwrap(),
            mounts: Vec::new(),
            target: None,
        };
        let mut config = container(&context, spec, parts).unwrap();
        let envs: Vec<String> = config
            .envs
            .drain(..)
            .map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)))
            .collect();
        insta::assert_snapshot!(envs.join("\n"), @r"
        P_color=red
        P_size=small
        NAME=web
        GREETING=hello web red
        WORD=s3cret
        CPU=500
        IP=10.0.0.2
        ");
        insta::assert_snapshot!(format!("{config:#?}"));
    }

    #[test]
    fn missing_objects() {
        let context = context(
            "containers: [{name: a, image: x, env: [{name: A, valueFrom: {configMapKeyRef: {name: conf, key: nope}}}]}, {name: b, image: x, envFrom: [{secretRef: {name: nope}}]}]",
        );
        let errors: Vec<String> = context
            .pod
            .spec
            .containers
            .iter()
            .map(|spec| Environment::resolve(&context, spec, &[]).unwrap_err().to_string())
            .collect();
        assert_eq!(errors[0], "A: ConfigMap \"conf\" has no key \"nope\"");
        assert_eq!(errors[1], "there is no Secret \"nope\" in namespace \"default\": add it to the manifest");
    }
}
