//! A container of a pod.

use std::collections::BTreeMap;

use super::{IntOrString, Lifecycle, Probe, Quantity, SecurityContext, VolumeMount};

super::object! {
    /// One container: image, command, environment, limits, probes, mounts.
    pub struct Container {
        /// Name, unique in the pod (a DNS label).
        pub name: String,
        /// Image reference.
        pub image: String,
        /// Replaces the image's entry point.
        pub command: Vec<String>,
        /// Replaces the image's command.
        pub args: Vec<String>,
        /// Working directory; the image's where absent.
        pub working_dir: String,
        /// Ports that the container serves.
        pub ports: Vec<ContainerPort>,
        /// Sources of environment variables.
        pub env_from: Vec<EnvFromSource>,
        /// Environment variables; they win over `envFrom`.
        pub env: Vec<EnvVar>,
        /// Requests and limits.
        pub resources: ResourceRequirements,
        /// `Always` makes an init container a sidecar.
        pub restart_policy: Option<ContainerRestartPolicy>,
        /// Exit codes that it is started again after, whatever the policy says.
        pub restart_policy_rules: Vec<ContainerRestartRule>,
        /// Volumes to mount.
        pub volume_mounts: Vec<VolumeMount>,
        /// Failure restarts the container.
        pub liveness_probe: Option<Probe>,
        /// Failure makes the container not ready.
        pub readiness_probe: Option<Probe>,
        /// Must succeed once before the other probes run; failure restarts the container.
        pub startup_probe: Option<Probe>,
        /// Hooks after start and before stop.
        pub lifecycle: Option<Lifecycle>,
        /// File in the container whose content becomes the termination message; `/dev/termination-log`.
        pub termination_message_path: String,
        /// Whether the end of the log may stand in for an empty message.
        pub termination_message_policy: TerminationMessagePolicy,
        /// When the image is pulled; by the tag where absent.
        pub image_pull_policy: Option<PullPolicy>,
        /// Security attributes; they win over the pod's.
        pub security_context: Option<SecurityContext>,
        /// Keep stdin open.
        pub stdin: bool,
        /// Close stdin after the first attached session.
        pub stdin_once: bool,
        /// Give the container a terminal.
        pub tty: bool,
        /// What a change of requests and limits does to the running container.
        pub resize_policy: Vec<ContainerResizePolicy>,
        /// Ephemeral containers: the container whose processes they share.
        pub target_container_name: String,
    }
}

super::choice! {
    /// Restart policy of one container, instead of the pod's.
    pub enum ContainerRestartPolicy {
        /// It is always started again. An init container with it is a sidecar: runs as long as the pod.
        Always,
        /// It is started again unless it exited with 0.
        OnFailure,
        /// It is not started again.
        Never,
    }
}

super::object! {
    /// When a container is started again.
    pub struct ContainerRestartRule {
        /// `Restart`.
        pub action: String,
        /// After which exit codes.
        pub exit_codes: Option<ContainerRestartRuleOnExitCodes>,
    }
}

super::object! {
    /// Some exit codes.
    pub struct ContainerRestartRuleOnExitCodes {
        /// `In` or `NotIn` the values.
        pub operator: String,
        /// The values.
        pub values: Vec<i32>,
    }
}

super::object! {
    /// What a change of one resource does to a running container.
    pub struct ContainerResizePolicy {
        /// `cpu` or `memory`.
        pub resource_name: String,
        /// `NotRequired` or `RestartContainer`.
        pub restart_policy: String,
    }
}

super::choice! {
    /// When an image is pulled.
    pub enum PullPolicy {
        /// Where it is missing.
        IfNotPresent,
        /// Before every start.
        Always,
        /// Never; a missing image is an error.
        Never,
    }
}

super::choice! {
    /// Where the termination message comes from.
    pub enum TerminationMessagePolicy {
        /// The file only.
        File,
        /// The file, or the end of the log of a failed container when the file is empty.
        FallbackToLogsOnError,
    }
}

super::choice! {
    /// Transport protocol of a port.
    pub enum Protocol {
        /// TCP.
        TCP,
        /// UDP.
        UDP,
        /// SCTP.
        SCTP,
    }
}

super::object! {
    /// A port of a container.
    pub struct ContainerPort {
        /// Name, unique in the pod; probes may use it.
        pub name: String,
        /// Port in the pod.
        pub container_port: i32,
        /// Port on the host; 0 or absent for none.
        pub host_port: Option<i32>,
        /// Host address of the host port; all where empty.
        #[serde(rename = "hostIP")]
        pub host_ip: String,
        /// Protocol.
        pub protocol: Protocol,
    }
}

super::object! {
    /// One environment variable.
    pub struct EnvVar {
        /// Name.
        pub name: String,
        /// Value, with `$(VAR)` expanded.
        pub value: String,
        /// Where the value comes from instead.
        pub value_from: Option<EnvVarSource>,
    }
}

super::object! {
    /// Where a value comes from; exactly one.
    pub struct EnvVarSource {
        /// A field of the pod.
        pub field_ref: Option<ObjectFieldSelector>,
        /// A request or limit of a container.
        pub resource_field_ref: Option<ResourceFieldSelector>,
        /// A key of a ConfigMap.
        pub config_map_key_ref: Option<ConfigMapKeySelector>,
        /// A key of a Secret.
        pub secret_key_ref: Option<SecretKeySelector>,
    }
}

super::object! {
    /// A field of the pod.
    pub struct ObjectFieldSelector {
        /// `v1`.
        pub api_version: String,
        /// Path, such as `metadata.name` or `metadata.labels['app']`.
        pub field_path: String,
    }
}

super::object! {
    /// A request or limit of a container.
    pub struct ResourceFieldSelector {
        /// Container; needed in volumes, the own one in variables.
        pub container_name: String,
        /// `limits.cpu`, `requests.memory`, …
        pub resource: String,
        /// Unit of the output; 1 where absent.
        pub divisor: Option<Quantity>,
    }
}

super::object! {
    /// A key of a ConfigMap.
    pub struct ConfigMapKeySelector {
        /// Name of the ConfigMap.
        pub name: String,
        /// Key in it.
        pub key: String,
        /// A missing ConfigMap or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// A key of a Secret.
    pub struct SecretKeySelector {
        /// Name of the Secret.
        pub name: String,
        /// Key in it.
        pub key: String,
        /// A missing Secret or key is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// A whole ConfigMap or Secret as environment variables.
    pub struct EnvFromSource {
        /// Put in front of each name.
        pub prefix: String,
        /// The ConfigMap.
        pub config_map_ref: Option<ConfigMapEnvSource>,
        /// The Secret.
        pub secret_ref: Option<SecretEnvSource>,
    }
}

super::object! {
    /// A ConfigMap as environment variables.
    pub struct ConfigMapEnvSource {
        /// Name of the ConfigMap.
        pub name: String,
        /// A missing ConfigMap is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// A Secret as environment variables.
    pub struct SecretEnvSource {
        /// Name of the Secret.
        pub name: String,
        /// A missing Secret is no error.
        pub optional: Option<bool>,
    }
}

super::object! {
    /// Requests and limits by resource name (`cpu`, `memory`, `hugepages-2Mi`).
    pub struct ResourceRequirements {
        /// The most that may be used.
        pub limits: BTreeMap<String, Quantity>,
        /// What is needed; the limit where absent.
        pub requests: BTreeMap<String, Quantity>,
    }
}

impl ContainerPort {
    /// The port on the host, if one is asked for.
    pub fn published(&self) -> Option<i32> {
        self.host_port.filter(|port| *port != 0)
    }
}

impl Container {
    /// What a running container is compared by (FNV-1a of the fields that kubelet compares): with another one it must be made
    /// anew.
    pub(crate) fn fingerprint(&self) -> String {
        let text = format!("{}\0{}", self.name, self.image);
        let hash = text
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("{hash:x}")
    }

    /// Whether a rule says that it is started again after this exit code.
    pub(crate) fn rule_restarts(&self, code: i32) -> bool {
        let fits = |codes: &ContainerRestartRuleOnExitCodes| match codes.operator.as_str() {
            "In" => codes.values.contains(&code),
            "NotIn" => !codes.values.contains(&code),
            _ => false,
        };
        let restarts = |rule: &ContainerRestartRule| {
            rule.action == "Restart" && rule.exit_codes.as_ref().is_some_and(fits)
        };
        self.restart_policy_rules.iter().any(restarts)
    }

    /// Whether this init container is a sidecar.
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(ContainerRestartPolicy::Always)
    }

    /// The number of a port given by number or by the name of one of this container's ports.
    pub fn port_number(&self, port: &IntOrString) -> Option<u16> {
        let number = match port {
            IntOrString::Int(number) => i64::from(*number),
            IntOrString::String(name) => match self.ports.iter().find(|port| port.name == *name) {
                Some(port) => i64::from(port.container_port),
                None => name.parse().ok()?,
            },
        };
        u16::try_from(number).ok().filter(|number| *number != 0)
    }
}
