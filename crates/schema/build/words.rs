//! The descriptions of types and fields, and for a test their shapes, from the schemas in k8s-openapi.
//!
//! The texts are Kubernetes' own, so they are taken from that crate when this one is built and are not kept here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use k8s_openapi::schemars::SchemaGenerator;
use k8s_openapi::schemars::generate::SchemaSettings;
use k8s_openapi::serde_json::{Map, Value};

/// Writes to `out`: `words.bin`, one zlib stream for each package; `words.txt`, where they lie in it; `shapes.txt`, which has
/// a line for each field of each type.
///
/// A stream has for each of its types, sorted: 0x1e, its name, 0x1f, its description, and for each field 0x1f, its name, 0x1f, its
/// description.
pub(crate) fn write(out: &Path) {
    let mut generator = SchemaSettings::openapi3().into_generator();
    ask(&mut generator);
    let schemas = generator.take_definitions(true);
    let mut packages: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    let mut shapes = String::new();
    for (name, schema) in &schemas {
        let (package, short) = name.rsplit_once('.').expect("a type has a package");
        let nothing = Map::new();
        let fields = schema.get("properties").and_then(Value::as_object).unwrap_or(&nothing);
        let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let mut words = format!("\x1e{short}\x1f{}", description(schema));
        for (field, schema) in fields {
            write!(words, "\x1f{field}\x1f{}", description(schema)).expect("writes to a string");
            let mark = if required.iter().any(|name| name == field) { "!" } else { "" };
            writeln!(shapes, "{name} {field} {}{mark}", shape(schema)).expect("writes to a string");
        }
        packages.entry(package.to_owned()).or_default().push((short.to_owned(), words));
    }
    let (mut streams, mut index) = (Vec::new(), String::new());
    for (package, mut types) in packages {
        types.sort();
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        for (_, words) in &types {
            encoder.write_all(words.as_bytes()).expect("writes to memory");
        }
        let stream = encoder.finish().expect("writes to memory");
        writeln!(index, "{package} {} {}", streams.len(), stream.len()).expect("writes to a string");
        streams.extend(stream);
    }
    fs::write(out.join("words.bin"), streams).expect("OUT_DIR can be written");
    fs::write(out.join("words.txt"), index).expect("OUT_DIR can be written");
    fs::write(out.join("shapes.txt"), shapes).expect("OUT_DIR can be written");
}

fn description(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// `string`, `integer:int32`, `[string`, `{string`, `<io.k8s.api.core.v1.Container`.
fn shape(schema: &Value) -> String {
    if let Some(reference) = reference(schema) {
        return format!("<{reference}");
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("any");
    if let (Some(items), "array") = (schema.get("items"), kind) {
        return format!("[{}", shape(items));
    }
    if let (Some(values), "object") = (schema.get("additionalProperties"), kind) {
        return format!("{{{}", shape(values));
    }
    match schema.get("format").and_then(Value::as_str) {
        Some(format) => format!("{kind}:{format}"),
        None => kind.to_owned(),
    }
}

fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref");
    let wrapped = || schema.get("allOf")?.get(0)?.get("$ref");
    direct.or_else(wrapped)?.as_str()?.rsplit('/').next()
}

macro_rules! roots {
    ($generator:ident, $($($path:ident)::+ { $($ty:ident)* })*) => {
        $({
            use k8s_openapi::$($path)::+::{$($ty),*};
            $($generator.subschema_for::<$ty>();)*
        })*
    };
}

/// Asks for the schemas of all kinds; the generator finds what they are made of.
fn ask(generator: &mut SchemaGenerator) {
    roots! { generator,
        api::admissionregistration::v1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding
            MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
            ValidatingWebhookConfiguration }
        api::admissionregistration::v1alpha1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding }
        api::admissionregistration::v1beta1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding }
        api::apiserverinternal::v1alpha1 { StorageVersion }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 { LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview
            SubjectAccessReview }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::certificates::v1alpha1 { ClusterTrustBundle }
        api::certificates::v1beta1 { ClusterTrustBundle PodCertificateRequest }
        api::coordination::v1 { Lease }
        api::coordination::v1alpha2 { LeaseCandidate }
        api::coordination::v1beta1 { LeaseCandidate }
        api::core::v1 { Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service
            ServiceAccount }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::networking::v1beta1 { IPAddress ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::resource::v1alpha3 { DeviceTaintRule ResourcePoolStatusRequest }
        api::resource::v1beta1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::resource::v1beta2 { DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::scheduling::v1alpha2 { PodGroup Workload }
        api::storage::v1 { CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass }
        api::storage::v1beta1 { VolumeAttributesClass }
        api::storagemigration::v1beta1 { StorageVersionMigration }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        apimachinery::pkg::apis::meta::v1 { APIGroup APIGroupList APIResourceList APIVersions DeleteOptions ListMeta Status }
        apimachinery::pkg::version { Info }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
    }
}
