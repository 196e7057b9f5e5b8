//! Where volumes are in containers.

use std::collections::BTreeSet;

use super::spec::Whole;
use super::volume::{local, no_backsteps};
use crate::kinds::at::{At, Read};
use crate::kinds::errors::Errors;

pub(super) fn mounts(errors: &mut Errors, container: &At<'_>, whole: &Whole<'_>) {
    let list = container.at("volumeMounts");
    let devices = container.at("volumeDevices");
    let mut paths = BTreeSet::new();
    for mount in list.items() {
        let (name, path) = (mount.at("name"), mount.at("mountPath"));
        errors.needs(&name);
        if !whole.volumes.contains_key(name.text()) {
            errors.not_found(&name, "");
        }
        errors.needs(&path);
        if !paths.insert(path.text()) {
            errors.invalid(&path, "must be unique");
        }
        if devices.items().any(|device| device.at("name").text() == name.text()) {
            errors.invalid(&name, "must not already exist in volumeDevices");
        }
        if devices.items().any(|device| device.at("devicePath").text() == path.text()) {
            errors.invalid(&path, "must not already exist as a path in volumeDevices");
        }
        let (sub, expression) = (mount.at("subPath"), mount.at("subPathExpr"));
        if !sub.is_empty() {
            local(errors, &list.at("subPath"), sub.text());
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
            }
            local(errors, &list.at("subPathExpr"), expression.text());
        }
        modes(errors, container, &list, &mount);
    }
}

/// Errors of these are reported at the list, not at the mount.
fn modes(errors: &mut Errors, container: &At<'_>, list: &At<'_>, mount: &At<'_>) {
    let propagation = mount.at("mountPropagation");
    let place = list.at("mountPropagation");
    if propagation.given() {
        let known = ["Bidirectional", "HostToContainer", "None"];
        if !known.contains(&propagation.text()) {
            errors.not_supported_as(&place, propagation.text(), &known);
        }
        if propagation.text() == "Bidirectional" && !container.value().yes(&["securityContext", "privileged"])
        {
            errors.forbidden(
                &place,
                "Bidirectional mount propagation is available only to privileged containers",
            );
        }
    }
    let recursive = mount.at("recursiveReadOnly");
    let place = list.at("recursiveReadOnly");
    match recursive.text() {
        _ if !recursive.given() => {}
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.at("readOnly").yes() {
                errors.forbidden(&place, "may only be specified when readOnly is true");
            }
            if propagation.given() && propagation.text() != "None" {
                let text = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(&place, text);
            }
        }
        other => errors.not_supported_as(&place, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

pub(super) fn devices(errors: &mut Errors, container: &At<'_>, whole: &Whole<'_>) {
    let mounts = container.at("volumeMounts");
    let (mut paths, mut names) = (BTreeSet::new(), BTreeSet::new());
    for device in container.at("volumeDevices").items() {
        let (name, path) = (device.at("name"), device.at("devicePath"));
        errors.needs(&name);
        if !name.is_empty() && !names.insert(name.text()) {
            errors.invalid(&name, "must be unique");
        }
        match whole.volumes.get(name.text()) {
            None => errors.not_found(&name, ""),
            Some(volume)
                if !["persistentVolumeClaim", "ephemeral"].iter().any(|kind| volume.get(kind).is_some()) =>
            {
                let text =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&name, text);
            }
            Some(_) => {}
        }
        errors.needs(&path);
        if paths.contains(path.text()) {
            errors.invalid(&path, "must be unique");
        }
        let mut steps = Errors::default();
        no_backsteps(&mut steps, &path, path.text());
        if steps.0.is_empty() {
            paths.insert(path.text());
        } else {
            errors.invalid(&path, "can not contain backsteps ('..')");
        }
        if mounts.items().any(|mount| mount.at("name").text() == name.text()) {
            errors.invalid(&name, "must not already exist in volumeMounts");
        }
        if mounts.items().any(|mount| mount.at("mountPath").text() == path.text()) {
            errors.invalid(&path, "must not already exist as a path in volumeMounts");
        }
    }
}
