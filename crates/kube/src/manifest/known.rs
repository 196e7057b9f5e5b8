//! What Kubernetes knows and vaquita does not (yet), and the nearest name for what nobody knows.

/// Fields of v1 objects that are refused, with the reason. From the Kubernetes 1.36 API.
const NOT_YET: &[(&str, &[&str])] = &[
    (
        "PodSpec",
        &[
            "affinity",
            "ephemeralContainers",
            "hostnameOverride",
            "overhead",
            "preemptionPolicy",
            "priority",
            "priorityClassName",
            "resourceClaims",
            "resources",
            "schedulingGates",
            "schedulingGroup",
            "topologySpreadConstraints",
            "workloadRef",
        ],
    ),
    ("Container", &["resizePolicy", "restartPolicyRules", "targetContainerName", "volumeDevices"]),
    ("EnvVarSource", &["fileKeyRef"]),
    ("LifecycleHandler", &["tcpSocket"]),
    ("Lifecycle", &["stopSignal"]),
    ("ResourceRequirements", &["claims"]),
    (
        "Volume",
        &[
            "awsElasticBlockStore",
            "azureDisk",
            "azureFile",
            "cephfs",
            "cinder",
            "csi",
            "ephemeral",
            "fc",
            "flexVolume",
            "flocker",
            "gcePersistentDisk",
            "gitRepo",
            "glusterfs",
            "image",
            "iscsi",
            "persistentVolumeClaim",
            "photonPersistentDisk",
            "portworxVolume",
            "quobyte",
            "rbd",
            "scaleIO",
            "storageos",
            "vsphereVolume",
        ],
    ),
    ("VolumeProjection", &["clusterTrustBundle", "podCertificate"]),
    ("PodSecurityContext", &["seLinuxChangePolicy", "windowsOptions"]),
    ("SecurityContext", &["windowsOptions"]),
    ("ObjectMeta", &["finalizers", "generateName", "ownerReferences"]),
];

/// Fields that a server writes.
const SERVERS: &[(&str, &[&str])] = &[
    (
        "ObjectMeta",
        &[
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "generation",
            "managedFields",
            "resourceVersion",
            "selfLink",
            "uid",
        ],
    ),
    ("Pod", &["status"]),
];

/// Kinds that `kubectl apply` takes and vaquita does not yet.
const KINDS: &[&str] = &[
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Ingress",
    "Job",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "ReplicaSet",
    "ReplicationController",
    "Service",
    "ServiceAccount",
    "StatefulSet",
];

/// Why a field is refused although Kubernetes knows it.
pub(super) fn refused(object: &str, field: &str) -> Option<&'static str> {
    let listed = |table: &[(&str, &[&str])]| {
        table.iter().any(|(name, fields)| *name == object && fields.contains(&field))
    };
    if listed(SERVERS) {
        Some("is written by a server, not by a manifest; remove it")
    } else if listed(NOT_YET) {
        Some("is known to Kubernetes, but vaquita does not support it yet")
    } else {
        None
    }
}

/// The message for a field that does not exist.
pub(super) fn unknown_field(name: &str, fields: &[&str]) -> String {
    match nearest(name, fields) {
        Some(field) => format!("unknown field; did you mean {field}?"),
        None => "unknown field".to_owned(),
    }
}

/// The message for a value that an enumeration does not have.
pub(super) fn unknown_value(kind: &str, value: &str, variants: &[&str]) -> String {
    if kind == "StorageMedium" && value.starts_with("HugePages") {
        return format!("{value:?} is known to Kubernetes, but vaquita does not support it yet");
    }
    let choices = variants.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    match nearest(value, variants) {
        Some(name) => format!("unsupported value {value:?}; did you mean {name:?}? (one of {choices})"),
        None => format!("unsupported value {value:?}; use one of {choices}"),
    }
}

/// The message for a kind that is not read.
pub(super) fn unknown_kind(kind: &str) -> String {
    if KINDS.contains(&kind) {
        return format!(
            "{kind} is known to Kubernetes, but vaquita does not support it yet: it runs Pod, and reads ConfigMap and Secret"
        );
    }
    match nearest(kind, &["Pod", "ConfigMap", "Secret", "List"]) {
        Some(name) => format!("unknown kind {kind:?}; did you mean {name}?"),
        None => format!("unknown kind {kind:?}; vaquita reads Pod, ConfigMap, Secret and List"),
    }
}

/// The one of `names` that was probably meant.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    let allowed = match name.len() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    let distance = |candidate: &&str| edits(&lower, &candidate.to_lowercase());
    let best =
        names.iter().filter(|candidate| !candidate.is_empty()).min_by_key(|candidate| distance(candidate))?;
    (distance(best) <= allowed).then_some(*best)
}

/// Insertions, deletions, replacements and swaps of neighbours between two texts.
fn edits(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in right.iter().enumerate() {
            let mut cost = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == right[j - 1] && left[i - 1] == *b {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        assert_eq!(edits("polcy", "policy"), 1);
        assert_eq!(edits("ab", "ba"), 1);
        assert_eq!(nearest("imagePullPolcy", &["image", "imagePullPolicy"]), Some("imagePullPolicy"));
        assert_eq!(nearest("ImagePullPolicy", &["image", "imagePullPolicy"]), Some("imagePullPolicy"));
        assert_eq!(nearest("zebra", &["image", "imagePullPolicy"]), None);
    }
}
