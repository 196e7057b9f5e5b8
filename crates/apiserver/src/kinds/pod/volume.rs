//! Volumes of a pod (`ValidateVolumes`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::container::PULL_POLICIES;
use super::env::{field, resource};
use super::projected;
use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::labels;
use crate::kinds::quantity::Quantity;
use crate::names;

/// The sources that a volume may have, in the order in which Kubernetes looks at them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const HOST_PATHS: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const DOWNWARD: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks the volumes; those without errors, by name.
pub(super) fn volumes<'a>(
    errors: &mut Errors,
    list: &At<'a>,
    pod: Option<&At<'_>>,
) -> BTreeMap<&'a str, &'a Value> {
    let pod_name = pod.map_or("", |pod| pod.at("metadata").at("name").text());
    let made: BTreeSet<String> = list
        .items()
        .filter(|volume| volume.at("ephemeral").given() && !pod_name.is_empty())
        .map(|volume| format!("{pod_name}-{}", volume.at("name").text()))
        .collect();
    let mut good = BTreeMap::new();
    for volume in list.items() {
        let mut found = Errors::default();
        let name = volume.at("name");
        source(&mut found, &volume, pod.is_some(), pod_name);
        if found.needs(&name) {
            found.messages(&name, names::label(name.text()));
        }
        if good.contains_key(name.text()) {
            found.duplicate(&name, name.text());
        }
        if found.0.is_empty() {
            good.insert(name.text(), volume.value());
        }
        errors.0.append(&mut found.0);
        let claim = volume.at("persistentVolumeClaim").at("claimName");
        if made.contains(claim.text()) {
            errors.invalid(&claim, "must not reference a PVC that gets created for an ephemeral volume");
        }
    }
    good
}

fn source(errors: &mut Errors, volume: &At<'_>, is_pod: bool, pod_name: &str) {
    let mut given = SOURCES.iter().map(|kind| (*kind, volume.at(kind))).filter(|(_, source)| source.given());
    let Some((kind, source)) = given.next() else {
        return errors.required(volume, "must specify a volume type");
    };
    let needed: &[&str] = match kind {
        "awsElasticBlockStore" => &["volumeID"],
        "azureDisk" => &["diskName", "diskURI"],
        "azureFile" => &["secretName", "shareName"],
        "cephfs" | "rbd" => &["monitors"],
        "cinder" | "portworxVolume" => &["volumeID"],
        "flexVolume" => &["driver"],
        "gcePersistentDisk" => &["pdName"],
        "gitRepo" => &["repository"],
        "glusterfs" => &["endpoints", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "nfs" => &["server", "path"],
        "persistentVolumeClaim" => &["claimName"],
        "photonPersistentDisk" => &["pdID"],
        "quobyte" => &["registry", "volume"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "vsphereVolume" => &["volumePath"],
        _ => &[],
    };
    for field in needed {
        if source.at(field).is_empty() {
            errors.required(&source.at(field), "");
        }
    }
    match kind {
        "emptyDir" => {
            let limit = source.at("sizeLimit");
            if Quantity::of(limit.value()).is_negative() {
                errors.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
            }
        }
        "hostPath" => {
            let path = source.at("path");
            if errors.needs(&path) {
                no_backsteps(errors, &path, path.text());
                errors.one_of_if_given(&source.at("type"), HOST_PATHS);
            }
        }
        "nfs" if !source.at("path").text().starts_with('/') => {
            let path = source.at("path");
            errors.invalid_as(&path, path.text(), "must be an absolute path");
        }
        "gitRepo" => local(errors, &source.at("directory"), source.at("directory").text()),
        "secret" | "configMap" => {
            errors.needs(&source.at(if kind == "secret" { "secretName" } else { "name" }));
            mode(errors, &source.at("defaultMode"));
            for item in source.at("items").items() {
                key(errors, &item);
            }
        }
        "downwardAPI" => {
            mode(errors, &source.at("defaultMode"));
            for item in source.at("items").items() {
                downward(errors, &source, &item);
            }
        }
        "projected" => {
            mode(errors, &source.at("defaultMode"));
            projected::sources(errors, &source);
        }
        "csi" => driver(errors, &source),
        "ephemeral" => ephemeral(errors, volume, &source, pod_name),
        "image" => {
            if is_pod {
                errors.needs(&source.at("reference"));
            }
            errors.one_of(&source.at("pullPolicy"), PULL_POLICIES);
        }
        _ => {}
    }
    for (_, more) in given {
        errors.forbidden(&more, "may not specify more than 1 volume type");
    }
}

/// Bits of permission, if they are given.
pub(super) fn mode(errors: &mut Errors, at: &At<'_>) {
    if at.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errors.invalid(at, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A key and the file that it becomes.
pub(super) fn key(errors: &mut Errors, item: &At<'_>) {
    errors.needs(&item.at("key"));
    let path = item.at("path");
    errors.needs(&path);
    file(errors, &path, path.text());
    mode(errors, &item.at("mode"));
}

/// A file with a field or resource of the pod; reported at the volume, as Kubernetes does.
pub(super) fn downward(errors: &mut Errors, at: &At<'_>, item: &At<'_>) {
    let path = at.at("path").elsewhere(item.at("path").value());
    errors.needs(&path);
    file(errors, &path, path.text());
    let (one, other) = (item.at("fieldRef"), item.at("resourceFieldRef"));
    if one.given() {
        field(errors, &at.at("fieldRef").elsewhere(one.value()), DOWNWARD);
        if other.given() {
            errors.invalid_as(
                at,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if other.given() {
        resource(errors, &at.at("resourceFieldRef").elsewhere(other.value()), true);
    } else {
        errors.required(at, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, &at.at("mode").elsewhere(item.at("mode").value()));
}

/// A path below something else.
pub(super) fn local(errors: &mut Errors, at: &At<'_>, path: &str) {
    if path.starts_with('/') {
        errors.invalid_as(at, path, "must be a relative path");
    }
    no_backsteps(errors, at, path);
}

pub(super) fn no_backsteps(errors: &mut Errors, at: &At<'_>, path: &str) {
    if path.split('/').any(|part| part == "..") {
        errors.invalid_as(at, path, "must not contain '..'");
    }
}

/// A path of a file in a volume, where names that begin with `..` are the writer's.
pub(super) fn file(errors: &mut Errors, at: &At<'_>, path: &str) {
    local(errors, at, path);
    if path.starts_with("..") && !path.starts_with("../") {
        errors.invalid_as(at, path, "must not start with '..'");
    }
}

fn driver(errors: &mut Errors, source: &At<'_>) {
    let driver = source.at("driver");
    if errors.needs(&driver) {
        if driver.len() > 63 {
            errors.too_long(&driver, 63);
        }
        errors.messages(&driver, names::subdomain(&driver.text().to_lowercase()));
    }
    let secret = source.at("nodePublishSecretRef");
    if secret.given() && errors.needs(&secret.at("name")) {
        for message in names::subdomain(secret.at("name").text()) {
            errors.invalid_as(&source.at("name"), secret.at("name").text(), message);
        }
    }
}

fn ephemeral(errors: &mut Errors, volume: &At<'_>, source: &At<'_>, pod_name: &str) {
    let template = source.at("volumeClaimTemplate");
    if !template.given() {
        return errors.required(&template, "");
    }
    let meta = template.at("metadata");
    labels::annotations(errors, &meta.at("annotations"));
    labels::labels(errors, &meta.at("labels"));
    for (name, _) in meta.entries().filter(|(name, _)| !matches!(*name, "annotations" | "labels")) {
        errors.forbidden(&meta.at(name), "cannot be set");
    }
    claim(errors, &template.at("spec"));
    let name = volume.at("name").text();
    if !pod_name.is_empty() && !name.is_empty() {
        let claim = format!("{pod_name}-{name}");
        for message in names::subdomain(&claim) {
            errors.invalid(&volume.at("name"), format!("PVC name {claim:?}: {message}"));
        }
    }
}

/// The specification of a claim of storage.
fn claim(errors: &mut Errors, spec: &At<'_>) {
    let modes = spec.at("accessModes");
    if modes.is_empty() {
        errors.required(&modes, "at least 1 access mode is required");
    }
    labels::selector(errors, &spec.at("selector"));
    let known = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in modes.items().filter(|mode| !known.contains(&mode.text())) {
        errors.not_supported_as(&modes, mode.text(), &known);
    }
    let alone = modes.items().any(|mode| mode.text() == "ReadWriteOncePod");
    if alone && modes.items().any(|mode| mode.text() != "ReadWriteOncePod" && known.contains(&mode.text())) {
        errors.forbidden(&modes, "may not use ReadWriteOncePod with other access modes");
    }
    let storage = spec.at("resources").at("requests").at("storage");
    let place = spec.at("resources").key("storage");
    if !storage.given() {
        errors.required(&place, "");
    } else if Quantity::of(storage.value()) <= Quantity::ZERO {
        errors.invalid_as(&place, storage.text(), "must be greater than zero");
    }
    let class = spec.at("storageClassName");
    if !class.is_empty() {
        errors.messages(&class, names::subdomain(class.text()));
    }
    errors.one_of_if_given(&spec.at("volumeMode"), &["Block", "Filesystem"]);
}
