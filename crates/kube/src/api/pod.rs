//! Pod and its specification.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Container, ObjectMeta, PodSecurityContext, PodStatus, Volume};

super::object! {
    /// Containers that run together: one network, one set of volumes, one life.
    pub struct Pod {
        /// `v1`.
        pub api_version: String,
        /// `Pod`.
        pub kind: String,
        /// Name, namespace, labels, annotations.
        pub metadata: ObjectMeta,
        /// What is wanted.
        pub spec: PodSpec,
        /// What is; written by the node agent.
        pub status: PodStatus,
        /// A field of the specification that this node cannot honour.
        #[serde(skip)]
        pub unsupported: Option<String>,
    }
}

impl Pod {
    /// A pod as an API server has it. Fields that mean nothing to a node are passed over, and so is the status where it
    /// cannot be read; [`Self::refusal`] tells of those that cannot be had here.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`]: it is no pod that an API server would have let through.
    pub fn from_value(value: Value) -> crate::Result<Self> {
        super::lenient::pod(value)
    }

    /// Why a pod cannot be run on this node, if that is so: a reason in one word (the status') and a sentence.
    pub fn refusal(&self) -> Option<(&'static str, String)> {
        super::lenient::refusal(self)
    }
}

super::object! {
    /// What a pod shall be.
    pub struct PodSpec {
        /// Volumes that containers can mount.
        pub volumes: Vec<Volume>,
        /// Containers that run before the others, strictly in order; with `restartPolicy: Always` they are sidecars.
        pub init_containers: Vec<Container>,
        /// The containers; at least one.
        pub containers: Vec<Container>,
        /// Containers that were added while the pod ran, to look into it; never started again.
        pub ephemeral_containers: Vec<Container>,
        /// What happens when a container ends.
        pub restart_policy: RestartPolicy,
        /// Seconds between the stop signal and the kill; 30 where absent.
        pub termination_grace_period_seconds: Option<i64>,
        /// Seconds after which the pod is failed, counted from its start.
        pub active_deadline_seconds: Option<i64>,
        /// Where names are looked up.
        pub dns_policy: DnsPolicy,
        /// Additions to what `dnsPolicy` gives.
        pub dns_config: Option<PodDNSConfig>,
        /// Accepted where the labels of this machine satisfy it.
        pub node_selector: BTreeMap<String, String>,
        /// Accepted where it is this machine's name.
        pub node_name: String,
        /// `default` only: there are no service accounts yet.
        pub service_account_name: String,
        /// Deprecated alias of `serviceAccountName`.
        pub service_account: String,
        /// Without effect: there are no service-account tokens yet, so none is mounted.
        pub automount_service_account_token: Option<bool>,
        /// Use the host's network namespace.
        pub host_network: bool,
        /// Use the host's PID namespace.
        #[serde(rename = "hostPID")]
        pub host_pid: bool,
        /// Use the host's IPC namespace.
        #[serde(rename = "hostIPC")]
        pub host_ipc: bool,
        /// Only `true` for now: pods have no user namespace of their own yet.
        pub host_users: Option<bool>,
        /// One PID namespace for all containers of the pod.
        pub share_process_namespace: Option<bool>,
        /// Security attributes of all containers.
        pub security_context: Option<PodSecurityContext>,
        /// Secrets with registry credentials.
        pub image_pull_secrets: Vec<LocalObjectReference>,
        /// The pod's host name; its own name where absent.
        pub hostname: String,
        /// With it the pod's full name is `<hostname>.<subdomain>.<namespace>.svc.cluster.local`.
        pub subdomain: String,
        /// The kernel's host name is the full name.
        #[serde(rename = "setHostnameAsFQDN")]
        pub set_hostname_as_fqdn: Option<bool>,
        /// The runtime handler that makes the pod's containers, by its own name: there are no RuntimeClass objects. Where absent,
        /// vaquita itself.
        pub runtime_class_name: String,
        /// `default-scheduler` only: there is one machine and nothing to schedule.
        pub scheduler_name: String,
        /// Satisfied: this machine has no taints.
        pub tolerations: Vec<Toleration>,
        /// Lines for /etc/hosts.
        pub host_aliases: Vec<HostAlias>,
        /// Further conditions that must be true before the pod is ready.
        pub readiness_gates: Vec<PodReadinessGate>,
        /// Satisfied: there are no services whose variables could be injected.
        pub enable_service_links: Option<bool>,
        /// `linux` only.
        pub os: Option<PodOS>,
    }
}

super::choice! {
    /// What happens when a container of the pod ends.
    pub enum RestartPolicy {
        /// It is started again.
        Always,
        /// It is started again unless it exited with 0.
        OnFailure,
        /// It is not started again.
        Never,
    }
}

super::choice! {
    /// Where the pod's resolv.conf comes from.
    pub enum DnsPolicy {
        /// The cluster's DNS; as there is none, the host's.
        ClusterFirst,
        /// As `ClusterFirst`, also on the host's network.
        ClusterFirstWithHostNet,
        /// The host's.
        Default,
        /// Only `dnsConfig`.
        None,
    }
}

super::object! {
    /// Name servers, search domains and options of the pod's resolv.conf.
    pub struct PodDNSConfig {
        /// Addresses of name servers.
        pub nameservers: Vec<String>,
        /// Search domains.
        pub searches: Vec<String>,
        /// Resolver options.
        pub options: Vec<PodDNSConfigOption>,
    }
}

super::object! {
    /// One resolver option, such as `ndots:2`.
    pub struct PodDNSConfigOption {
        /// Its name.
        pub name: String,
        /// Its value, where it has one.
        pub value: Option<String>,
    }
}

super::object! {
    /// The name of another object in the same namespace.
    pub struct LocalObjectReference {
        /// Name.
        pub name: String,
    }
}

super::object! {
    /// A line of /etc/hosts.
    pub struct HostAlias {
        /// Address.
        pub ip: String,
        /// Names of that address.
        pub hostnames: Vec<String>,
    }
}

super::object! {
    /// A condition of the pod that must be `True` for the pod to be ready.
    pub struct PodReadinessGate {
        /// Type of the condition.
        pub condition_type: String,
    }
}

super::object! {
    /// A taint that is tolerated; this machine has none.
    pub struct Toleration {
        /// Taint key.
        pub key: String,
        /// `Exists` or `Equal`.
        pub operator: String,
        /// Taint value.
        pub value: String,
        /// Taint effect.
        pub effect: String,
        /// How long a NoExecute taint is tolerated.
        pub toleration_seconds: Option<i64>,
    }
}

super::object! {
    /// Operating system of the pod.
    pub struct PodOS {
        /// `linux`.
        pub name: String,
    }
}
