//! Volumes that are put together from several sources.

use std::collections::BTreeSet;

use super::volume::{downward, file, key};
use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::labels::selector;
use crate::names;

/// `sources` of a projected volume: one sort each, and no file twice.
pub(super) fn sources(errors: &mut Errors, volume: &At<'_>) {
    let mut paths = BTreeSet::new();
    let once = |errors: &mut Errors, paths: &mut BTreeSet<String>, path: &str, shown: &str| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            errors.invalid_as(volume, shown, "conflicting duplicate paths");
        }
    };
    for source in volume.at("sources").items() {
        let mut count = 0;
        for kind in ["secret", "configMap"] {
            let one = source.at(kind);
            if !one.given() {
                continue;
            }
            count += 1;
            errors.needs(&one.at("name"));
            for item in one.at("items").items() {
                key(errors, &item);
                once(errors, &mut paths, item.at("path").text(), one.at("name").text());
            }
        }
        let fields = source.at("downwardAPI");
        if fields.given() {
            count += 1;
            for item in fields.at("items").items() {
                downward(errors, &fields, &item);
                once(errors, &mut paths, item.at("path").text(), item.at("path").text());
            }
        }
        let token = source.at("serviceAccountToken");
        if token.given() {
            count += 1;
            self::token(errors, volume, &token);
        }
        let bundle = source.at("clusterTrustBundle");
        if bundle.given() {
            count += 1;
            self::bundle(errors, &bundle);
            once(errors, &mut paths, bundle.at("path").text(), bundle.at("path").text());
        }
        let certificate = source.at("podCertificate");
        if certificate.given() {
            count += 1;
            self::certificate(errors, &certificate);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                once(errors, &mut paths, certificate.at(field).text(), certificate.at(field).text());
            }
        }
        if count > 1 {
            errors.forbidden(&source, "may not specify more than 1 volume type per source");
        }
    }
}

/// The path is reported at the volume, as Kubernetes does.
fn token(errors: &mut Errors, volume: &At<'_>, token: &At<'_>) {
    let seconds = token.at("expirationSeconds");
    if seconds.number() < 600 {
        errors.invalid_as(&seconds, seconds.number(), "may not specify a duration less than 10 minutes");
    }
    if seconds.number() > 1 << 32 {
        errors.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
    }
    let path = token.at("path").text();
    let place = volume.at("path");
    if path.is_empty() {
        errors.required(&place, "");
    } else {
        file(errors, &place, path);
    }
}

fn bundle(errors: &mut Errors, bundle: &At<'_>) {
    let (name, signer) = (bundle.at("name"), bundle.at("signerName"));
    match (name.given(), signer.given()) {
        (true, true) => errors.invalid(bundle, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                errors.required(&name, "must be a valid object name");
            }
            let bare = name.text().rsplit(':').next().unwrap_or_default();
            for message in names::subdomain(bare) {
                errors.invalid(&name, format!("not a valid clustertrustbundlename: {message}"));
            }
            if bundle.at("labelSelector").given() {
                errors
                    .invalid(&bundle.at("labelSelector"), "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                errors.required(&signer, "must be a valid signer name");
            }
            selector(errors, &bundle.at("labelSelector"));
        }
        (false, false) => errors.required(bundle, "either name or signerName must be specified"),
    }
    let path = bundle.at("path");
    errors.needs(&path);
    file(errors, &path, path.text());
}

fn certificate(errors: &mut Errors, certificate: &At<'_>) {
    errors.needs(&certificate.at("signerName"));
    let kinds = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let kind = certificate.at("keyType");
    if !kinds.contains(&kind.text()) {
        errors.not_supported(&kind, &kinds);
    }
    let seconds = certificate.at("maxExpirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < 3600) {
        errors.invalid(&seconds, "if provided, maxExpirationSeconds must be >= 3600");
    }
    let paths =
        ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|field| certificate.at(field));
    if paths.iter().all(At::is_empty) {
        let text = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.required(certificate, text);
    }
    for path in paths.iter().filter(|path| !path.is_empty()) {
        file(errors, path, path.text());
    }
}
