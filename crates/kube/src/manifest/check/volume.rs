//! Volumes.

use std::collections::BTreeSet;

use super::Report;
use super::container::{field_ref, resource_field_ref};
use super::names::{config_key, file_path, label, nfs_server};
use crate::api::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, NFSVolumeSource, PodSpec, ProjectedVolumeSource,
    Volume,
};
use crate::manifest::path::Path;

pub(super) fn volumes(report: &mut Report, path: &Path, volumes: &[Volume], spec: &PodSpec) {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        if report.required(&path.field("name"), &volume.name) {
            report.check(&path.field("name"), label(&volume.name));
            if !names.insert(&volume.name) {
                report.add(
                    &path.field("name"),
                    format!("{:?} is the name of another volume as well", volume.name),
                );
            }
        }
        one(report, &path, volume, spec);
    }
}

fn one(report: &mut Report, path: &Path, volume: &Volume, spec: &PodSpec) {
    report.exactly_one(
        path,
        &[
            ("emptyDir", volume.empty_dir.is_some()),
            ("hostPath", volume.host_path.is_some()),
            ("configMap", volume.config_map.is_some()),
            ("secret", volume.secret.is_some()),
            ("downwardAPI", volume.downward_api.is_some()),
            ("projected", volume.projected.is_some()),
            ("nfs", volume.nfs.is_some()),
        ],
    );
    if let Some(source) = &volume.nfs {
        nfs(report, &path.field("nfs"), source);
    }
    if let Some(source) = &volume.empty_dir
        && let Some(limit) = &source.size_limit
    {
        let path = path.fields(&["emptyDir", "sizeLimit"]);
        if limit.nanos() < 0 {
            report.add(&path, format!("{limit}: must not be negative"));
        }
    }
    if let Some(source) = &volume.host_path {
        host_path(report, &path.field("hostPath"), source);
    }
    if let Some(source) = &volume.config_map {
        let path = path.field("configMap");
        report.required(&path.field("name"), &source.name);
        mode(report, &path.field("defaultMode"), source.default_mode);
        items(report, &path.field("items"), &source.items, &mut BTreeSet::new());
    }
    if let Some(source) = &volume.secret {
        let path = path.field("secret");
        report.required(&path.field("secretName"), &source.secret_name);
        mode(report, &path.field("defaultMode"), source.default_mode);
        items(report, &path.field("items"), &source.items, &mut BTreeSet::new());
    }
    if let Some(source) = &volume.downward_api {
        let path = path.field("downwardAPI");
        mode(report, &path.field("defaultMode"), source.default_mode);
        downward(report, &path.field("items"), &source.items, spec, &mut BTreeSet::new());
    }
    if let Some(source) = &volume.projected {
        projected(report, &path.field("projected"), source, spec);
    }
}

fn host_path(report: &mut Report, path: &Path, source: &HostPathVolumeSource) {
    let path = path.field("path");
    if !report.required(&path, &source.path) {
        return;
    }
    if !source.path.starts_with('/') {
        report.add(&path, format!("{:?}: must be an absolute path", source.path));
    }
    if source.path.split('/').any(|part| part == "..") {
        report.add(&path, format!("{:?}: must not contain '..'", source.path));
    }
}

fn nfs(report: &mut Report, path: &Path, source: &NFSVolumeSource) {
    if report.required(&path.field("server"), &source.server) {
        report.check(&path.field("server"), nfs_server(&source.server));
    }
    if report.required(&path.field("path"), &source.path) && !source.path.starts_with('/') {
        report.add(&path.field("path"), format!("{:?}: must be an absolute path", source.path));
    }
}

fn items(report: &mut Report, path: &Path, items: &[KeyToPath], paths: &mut BTreeSet<String>) {
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        if report.required(&path.field("key"), &item.key) {
            report.check(&path.field("key"), config_key(&item.key));
        }
        file(report, &path.field("path"), &item.path, paths);
        mode(report, &path.field("mode"), item.mode);
    }
}

fn downward(
    report: &mut Report,
    path: &Path,
    items: &[DownwardAPIVolumeFile],
    spec: &PodSpec,
    paths: &mut BTreeSet<String>,
) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        file(report, &path.field("path"), &item.path, paths);
        mode(report, &path.field("mode"), item.mode);
        report.exactly_one(
            &path,
            &[
                ("fieldRef", item.field_ref.is_some()),
                ("resourceFieldRef", item.resource_field_ref.is_some()),
            ],
        );
        if let Some(selector) = &item.field_ref {
            field_ref(report, &path.field("fieldRef"), selector, FIELDS);
        }
        if let Some(selector) = &item.resource_field_ref {
            resource_field_ref(report, &path.field("resourceFieldRef"), selector, spec, true);
        }
    }
}

fn projected(report: &mut Report, path: &Path, source: &ProjectedVolumeSource, spec: &PodSpec) {
    mode(report, &path.field("defaultMode"), source.default_mode);
    // The files of all sources land in one directory.
    let mut paths = BTreeSet::new();
    for (index, projection) in source.sources.iter().enumerate() {
        let path = path.field("sources").index(index);
        report.exactly_one(
            &path,
            &[
                ("secret", projection.secret.is_some()),
                ("configMap", projection.config_map.is_some()),
                ("downwardAPI", projection.downward_api.is_some()),
                ("serviceAccountToken", projection.service_account_token.is_some()),
            ],
        );
        if projection.service_account_token.is_some() {
            let message = "there are no service accounts without a cluster: nobody gives tokens";
            report.add(&path.field("serviceAccountToken"), message);
        }
        if let Some(secret) = &projection.secret {
            report.required(&path.fields(&["secret", "name"]), &secret.name);
            items(report, &path.fields(&["secret", "items"]), &secret.items, &mut paths);
        }
        if let Some(config_map) = &projection.config_map {
            report.required(&path.fields(&["configMap", "name"]), &config_map.name);
            items(report, &path.fields(&["configMap", "items"]), &config_map.items, &mut paths);
        }
        if let Some(api) = &projection.downward_api {
            downward(report, &path.fields(&["downwardAPI", "items"]), &api.items, spec, &mut paths);
        }
    }
}

fn file(report: &mut Report, path: &Path, name: &str, paths: &mut BTreeSet<String>) {
    match file_path(name) {
        Err(message) => report.add(path, message),
        Ok(()) if !paths.insert(name.to_owned()) => {
            report.add(path, format!("{name:?} is the path of another item as well"))
        }
        Ok(()) => {}
    }
}

fn mode(report: &mut Report, path: &Path, mode: Option<i32>) {
    let Some(mode) = mode.filter(|mode| !(0..=0o777).contains(mode)) else { return };
    // 644 instead of 0644 is the usual slip; its digits say what was meant.
    let digits = mode.to_string();
    let hint = if digits.len() == 3 && digits.bytes().all(|b| b < b'8') {
        format!("; did you mean 0{digits} (octal)?")
    } else {
        String::new()
    };
    report.add(path, format!("{mode}: must be from 0 to 0777 (octal), which is 511{hint}"));
}
