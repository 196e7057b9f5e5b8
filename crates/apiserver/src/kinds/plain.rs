//! The other built-in kinds of Kubernetes 1.36, on which nothing here acts: stored as they come, with the defaults that
//! controllers rely on, so that a kube-controller-manager and a kube-scheduler can do their work.

mod cells;
mod defaults;
mod storage;
mod workload;

use crate::{Kind, Scope, Subresource, Verb};

use Subresource::{Proxy, Scale, Status};

/// Kinds of which there are none, but which clients look for: `kubectl cluster-info` asks for the services of the cluster.
pub static EMPTY: &[Kind] = &[Kind {
    short_names: &["svc"],
    categories: &["all"],
    verbs: &[Verb::Get, Verb::List, Verb::Watch],
    columns: cells::SERVICE,
    cells: cells::service,
    selectable: &["spec.clusterIP", "spec.type"],
    ..core("services", "service", "Service")
}];

/// Kinds that are served on request only.
pub static PLAIN: &[Kind] = &[
    Kind {
        short_names: &["ep"],
        columns: cells::ENDPOINTS,
        cells: cells::endpoints,
        default: defaults::endpoints,
        ..core("endpoints", "endpoints", "Endpoints")
    },
    Kind {
        short_names: &["pvc"],
        subresources: &[Status],
        columns: storage::CLAIM,
        cells: storage::claim,
        default: defaults::claim,
        prepare: defaults::prepare_pending,
        returns_deleted: true,
        ..core("persistentvolumeclaims", "persistentvolumeclaim", "PersistentVolumeClaim")
    },
    Kind {
        scope: Scope::Cluster,
        short_names: &["pv"],
        subresources: &[Status],
        columns: storage::VOLUME,
        cells: storage::volume,
        default: defaults::volume,
        prepare: defaults::prepare_pending,
        returns_deleted: true,
        ..core("persistentvolumes", "persistentvolume", "PersistentVolume")
    },
    Kind {
        columns: workload::POD_TEMPLATE,
        cells: workload::pod_template,
        default: defaults::pod_template,
        validate: workload::validate_pod_template,
        generation: true,
        returns_deleted: true,
        ..core("podtemplates", "podtemplate", "PodTemplate")
    },
    Kind {
        short_names: &["rc"],
        categories: &["all"],
        subresources: &[Scale, Status],
        columns: workload::REPLICAS,
        cells: workload::controller,
        default: defaults::controller,
        validate: workload::validate,
        selectable: &["status.replicas"],
        generation: true,
        ..core("replicationcontrollers", "replicationcontroller", "ReplicationController")
    },
    Kind {
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[Proxy, Status],
        columns: cells::SERVICE,
        cells: cells::service,
        default: defaults::service,
        check_name: super::forms::label_1035,
        selectable: &["spec.clusterIP", "spec.type"],
        returns_deleted: true,
        ..core("services", "service", "Service")
    },
    Kind {
        columns: workload::REVISION,
        cells: workload::revision,
        raw: &["data"],
        ..row("apps", "controllerrevisions", "controllerrevision", "ControllerRevision")
    },
    Kind {
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[Status],
        columns: workload::DAEMONS,
        cells: workload::daemons,
        default: defaults::daemons,
        validate: workload::validate,
        generation: true,
        ..row("apps", "daemonsets", "daemonset", "DaemonSet")
    },
    Kind {
        short_names: &["deploy"],
        categories: &["all"],
        subresources: &[Scale, Status],
        columns: workload::DEPLOYMENT,
        cells: workload::deployment,
        default: defaults::deployment,
        validate: workload::validate,
        generation: true,
        ..row("apps", "deployments", "deployment", "Deployment")
    },
    Kind {
        short_names: &["rs"],
        categories: &["all"],
        subresources: &[Scale, Status],
        columns: workload::REPLICAS,
        cells: workload::replicas,
        default: defaults::replicas,
        validate: workload::validate,
        selectable: &["status.replicas"],
        generation: true,
        ..row("apps", "replicasets", "replicaset", "ReplicaSet")
    },
    Kind {
        short_names: &["sts"],
        categories: &["all"],
        subresources: &[Scale, Status],
        columns: workload::STATEFUL,
        cells: workload::stateful,
        default: defaults::stateful,
        validate: workload::validate,
        generation: true,
        ..row("apps", "statefulsets", "statefulset", "StatefulSet")
    },
    Kind {
        version: "v2",
        default: defaults::autoscaler,
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[Status],
        ..row("autoscaling", "horizontalpodautoscalers", "horizontalpodautoscaler", "HorizontalPodAutoscaler")
    },
    Kind {
        short_names: &["cj"],
        categories: &["all"],
        subresources: &[Status],
        columns: workload::CRON_JOB,
        cells: workload::cron_job,
        default: defaults::cron_job,
        validate: workload::validate,
        generation: true,
        ..row("batch", "cronjobs", "cronjob", "CronJob")
    },
    Kind {
        categories: &["all"],
        subresources: &[Status],
        columns: workload::JOB,
        cells: workload::job,
        default: defaults::job,
        prepare: defaults::prepare_job,
        validate: workload::validate,
        selectable: &["status.successful"],
        generation: true,
        ..row("batch", "jobs", "job", "Job")
    },
    Kind {
        scope: Scope::Cluster,
        short_names: &["csr"],
        subresources: &[Status],
        selectable: &["spec.signerName"],
        ..row(
            "certificates.k8s.io",
            "certificatesigningrequests",
            "certificatesigningrequest",
            "CertificateSigningRequest",
        )
    },
    Kind {
        columns: cells::SLICE,
        cells: cells::slice,
        default: defaults::slice,
        generation: true,
        ..row("discovery.k8s.io", "endpointslices", "endpointslice", "EndpointSlice")
    },
    Kind {
        scope: Scope::Cluster,
        generation: true,
        ..row("networking.k8s.io", "ingressclasses", "ingressclass", "IngressClass")
    },
    Kind {
        short_names: &["ing"],
        subresources: &[Status],
        columns: cells::INGRESS,
        cells: cells::ingress,
        generation: true,
        ..row("networking.k8s.io", "ingresses", "ingress", "Ingress")
    },
    Kind {
        scope: Scope::Cluster,
        short_names: &["ip"],
        ..row("networking.k8s.io", "ipaddresses", "ipaddress", "IPAddress")
    },
    Kind {
        short_names: &["netpol"],
        default: defaults::network_policy,
        generation: true,
        ..row("networking.k8s.io", "networkpolicies", "networkpolicy", "NetworkPolicy")
    },
    Kind {
        scope: Scope::Cluster,
        subresources: &[Status],
        ..row("networking.k8s.io", "servicecidrs", "servicecidr", "ServiceCIDR")
    },
    Kind {
        short_names: &["pdb"],
        subresources: &[Status],
        columns: workload::BUDGET,
        cells: workload::budget,
        generation: true,
        ..row("policy", "poddisruptionbudgets", "poddisruptionbudget", "PodDisruptionBudget")
    },
    Kind {
        scope: Scope::Cluster,
        default: defaults::binding,
        check_name: crate::names::path_segment,
        ..row(RBAC, "clusterrolebindings", "clusterrolebinding", "ClusterRoleBinding")
    },
    Kind {
        scope: Scope::Cluster,
        check_name: crate::names::path_segment,
        ..row(RBAC, "clusterroles", "clusterrole", "ClusterRole")
    },
    Kind {
        default: defaults::binding,
        check_name: crate::names::path_segment,
        ..row(RBAC, "rolebindings", "rolebinding", "RoleBinding")
    },
    Kind { check_name: crate::names::path_segment, ..row(RBAC, "roles", "role", "Role") },
    Kind { scope: Scope::Cluster, ..row("resource.k8s.io", "deviceclasses", "deviceclass", "DeviceClass") },
    Kind {
        subresources: &[Status],
        ..row("resource.k8s.io", "resourceclaims", "resourceclaim", "ResourceClaim")
    },
    row("resource.k8s.io", "resourceclaimtemplates", "resourceclaimtemplate", "ResourceClaimTemplate"),
    Kind {
        scope: Scope::Cluster,
        selectable: &["spec.driver", "spec.nodeName"],
        ..row("resource.k8s.io", "resourceslices", "resourceslice", "ResourceSlice")
    },
    Kind {
        scope: Scope::Cluster,
        default: defaults::csi_driver,
        ..row(STORAGE, "csidrivers", "csidriver", "CSIDriver")
    },
    Kind { scope: Scope::Cluster, ..row(STORAGE, "csinodes", "csinode", "CSINode") },
    row(STORAGE, "csistoragecapacities", "csistoragecapacity", "CSIStorageCapacity"),
    Kind {
        scope: Scope::Cluster,
        short_names: &["sc"],
        columns: storage::CLASS,
        cells: storage::class,
        default: defaults::storage_class,
        ..row(STORAGE, "storageclasses", "storageclass", "StorageClass")
    },
    Kind {
        scope: Scope::Cluster,
        subresources: &[Status],
        columns: storage::ATTACHMENT,
        cells: storage::attachment,
        ..row(STORAGE, "volumeattachments", "volumeattachment", "VolumeAttachment")
    },
    Kind {
        scope: Scope::Cluster,
        short_names: &["vac"],
        ..row(STORAGE, "volumeattributesclasses", "volumeattributesclass", "VolumeAttributesClass")
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        ..row(ADMISSION, "mutatingadmissionpolicies", "mutatingadmissionpolicy", "MutatingAdmissionPolicy")
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        ..row(
            ADMISSION,
            "mutatingadmissionpolicybindings",
            "mutatingadmissionpolicybinding",
            "MutatingAdmissionPolicyBinding",
        )
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        ..row(
            ADMISSION,
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            "MutatingWebhookConfiguration",
        )
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        subresources: &[Status],
        ..row(
            ADMISSION,
            "validatingadmissionpolicies",
            "validatingadmissionpolicy",
            "ValidatingAdmissionPolicy",
        )
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        ..row(
            ADMISSION,
            "validatingadmissionpolicybindings",
            "validatingadmissionpolicybinding",
            "ValidatingAdmissionPolicyBinding",
        )
    },
    Kind {
        scope: Scope::Cluster,
        categories: EXTENSIONS,
        ..row(
            ADMISSION,
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            "ValidatingWebhookConfiguration",
        )
    },
    Kind {
        scope: Scope::Cluster,
        subresources: &[Status],
        ..row(FLOW, "flowschemas", "flowschema", "FlowSchema")
    },
    Kind {
        scope: Scope::Cluster,
        subresources: &[Status],
        ..row(FLOW, "prioritylevelconfigurations", "prioritylevelconfiguration", "PriorityLevelConfiguration")
    },
];

const ADMISSION: &str = "admissionregistration.k8s.io";
const EXTENSIONS: &[&str] = &["api-extensions"];
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";

const fn row(group: &'static str, plural: &'static str, singular: &'static str, name: &'static str) -> Kind {
    Kind { group, plural, singular, name, ..Kind::PLAIN }
}

const fn core(plural: &'static str, singular: &'static str, name: &'static str) -> Kind {
    row("", plural, singular, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows() {
        for (index, kind) in PLAIN.iter().enumerate() {
            assert!(!PLAIN[..index].contains(kind), "{kind:?} twice");
            assert!(!crate::kinds::KINDS.contains(&kind), "{kind:?} is served always");
            let object = json!({ "metadata": { "name": "a" }, "spec": {} });
            let cells = (kind.cells)(&object, jiff::Timestamp::now());
            assert_eq!(cells.len(), kind.columns.len(), "{kind:?}");
            let mut object = json!({ "metadata": { "name": "a" } });
            (kind.default)(&mut object);
            let again = object.clone();
            (kind.default)(&mut object);
            assert_eq!(object, again, "{kind:?}");
        }
    }
}
