//! The specification of a pod, in a pod or in a template of pods (`ValidatePodSpec`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::{affinity, container, security, volume};
use crate::kinds::at::{At, Read};
use crate::kinds::errors::Errors;
use crate::kinds::forms::subdomain_underscore;
use crate::kinds::resources::{Amounts, Of, containers, requirements};
use crate::kinds::{labels, tolerations};
use crate::names;

/// What the parts of a specification need to know of the whole.
pub(super) struct Whole<'a> {
    pub(super) spec: At<'a>,
    /// The volumes without errors, by name.
    pub(super) volumes: BTreeMap<&'a str, &'a Value>,
    /// Names of the claims of devices.
    pub(super) claims: Vec<&'a str>,
    /// Whether it is a pod's, not a template's.
    pub(super) is_pod: bool,
}

impl Whole<'_> {
    /// Whether users in the pod are those of the host.
    pub(super) fn host_users(&self) -> bool {
        self.spec.at("hostUsers").value().as_bool() != Some(false)
    }
}

/// Everything that is wrong with a specification. `pod` is the pod that it is of, if it is not a template's.
pub(super) fn check(errors: &mut Errors, spec: &At<'_>, pod: Option<&At<'_>>) {
    let grace = spec.at("terminationGracePeriodSeconds");
    if !grace.given() {
        errors.required(&grace, "");
    }
    let volumes = volume::volumes(errors, &spec.at("volumes"), pod);
    let claims = spec.at("resourceClaims");
    let claim_names =
        claims.items().map(|claim| claim.at("name").text()).filter(|name| !name.is_empty()).collect();
    let whole = Whole { spec: spec.clone(), volumes, claims: claim_names, is_pod: pod.is_some() };
    resource_claims(errors, &claims);
    container::all(errors, &whole);
    pod_resources(errors, &whole);
    host_ports(errors, &whole);
    errors.one_of(&spec.at("restartPolicy"), &["Always", "OnFailure", "Never"]);
    errors.one_of(&spec.at("dnsPolicy"), &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels::labels(errors, &spec.at("nodeSelector"));
    security::pod(errors, &whole);
    affinity::affinity(errors, &spec.at("affinity"));
    dns(errors, spec);
    for gate in spec.at("readinessGates").items() {
        let kind = gate.at("conditionType");
        errors.messages(&kind, names::qualified(kind.text()));
    }
    gates(errors, &spec.at("schedulingGates"));
    affinity::spread(errors, &spec.at("topologySpreadConstraints"));
    security::host_users(errors, &whole);
    host_name(errors, spec);
    simple(errors, spec);
    tolerations::check(errors, &spec.at("tolerations"));
    aliases(errors, &spec.at("hostAliases"));
    classes(errors, spec);
    security::system(errors, &whole);
    files(errors, &whole);
}

fn simple(errors: &mut Errors, spec: &At<'_>) {
    given(errors, &spec.at("serviceAccountName"), names::subdomain);
    given(errors, &spec.at("nodeName"), names::subdomain);
    errors.range(&spec.at("activeDeadlineSeconds"), 1, i64::from(i32::MAX));
    given(errors, &spec.at("hostname"), names::label);
    given(errors, &spec.at("subdomain"), names::label);
}

fn classes(errors: &mut Errors, spec: &At<'_>) {
    given(errors, &spec.at("priorityClassName"), names::subdomain);
    let class = spec.at("runtimeClassName");
    if class.given() {
        errors.messages(&class, names::subdomain(class.text()));
    }
    errors.one_of_if_given(&spec.at("preemptionPolicy"), &["PreemptLowerPriority", "Never"]);
    let overhead = spec.at("overhead");
    if overhead.given() {
        let limits = serde_json::json!({ "limits": overhead.value() });
        requirements(errors, &overhead.elsewhere(&limits), Of::Container, &[]);
    }
}

/// A text must have the form if there is any.
fn given(errors: &mut Errors, at: &At<'_>, form: fn(&str) -> Vec<String>) {
    if !at.is_empty() {
        errors.messages(at, form(at.text()));
    }
}

fn resource_claims(errors: &mut Errors, claims: &At<'_>) {
    let mut seen = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.at("name");
        if name.is_empty() {
            errors.required(&name, "");
        } else if !seen.insert(name.text()) {
            errors.duplicate(&name, name.text());
        } else {
            errors.messages(&name, names::label(name.text()));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|field| claim.at(field));
        match sources.iter().filter(|source| source.given()).count() {
            0 => errors
                .invalid(&claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => {}
            _ => errors.invalid(
                &claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for source in sources.iter().filter(|source| source.given()) {
            errors.messages(source, names::subdomain(source.text()));
        }
    }
}

/// `resources` of the pod as a whole: no less than what the containers ask for, and no container gets more.
fn pod_resources(errors: &mut Errors, whole: &Whole<'_>) {
    let at = whole.spec.at("resources");
    if !at.given() {
        return;
    }
    if at.at("claims").given() {
        errors.forbidden(&at.at("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(errors, &at, Of::Pod, &whole.claims);
    let (requests, limits) = (Amounts::of(at.at("requests").value()), Amounts::of(at.at("limits").value()));
    for (name, needed) in containers(whole.spec.value(), "requests").0 {
        if let Some(own) = requests.get(&name).filter(|own| needed > *own) {
            let text = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.invalid_as(&at.at("requests").key(&name), own.to_string(), text);
        }
    }
    for (name, needed) in containers(whole.spec.value(), "limits").0 {
        if let Some(own) = limits.get(&name).filter(|own| name.starts_with("hugepages-") && needed > *own) {
            let text = format!("must be greater than or equal to aggregate container limits of {needed}");
            errors.invalid_as(&at.at("limits").key(&name), own.to_string(), text);
        }
    }
    for (index, container) in whole.spec.at("containers").items().enumerate() {
        for (name, limit) in Amounts::of(container.at("resources").at("limits").value()).0 {
            if let Some(own) = limits.get(&name).filter(|own| limit > *own) {
                let place = at.at("containers").index(index).key(&name).at("limits");
                errors.invalid_as(
                    &place,
                    limit.to_string(),
                    format!("must be less than or equal to pod limits of {own}"),
                );
            }
        }
    }
}

/// On the host's network the port on the host is the port of the container.
fn host_ports(errors: &mut Errors, whole: &Whole<'_>) {
    if !whole.spec.at("hostNetwork").yes() {
        return;
    }
    for container in whole.spec.at("containers").items() {
        for port in container.at("ports").items() {
            let host = port.at("hostPort");
            let needed = whole.is_pod || host.number() != 0;
            if needed && host.number() != port.at("containerPort").number() {
                errors.invalid_as(
                    &host,
                    host.number(),
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
}

fn dns(errors: &mut Errors, spec: &At<'_>) {
    let config = spec.at("dnsConfig");
    let servers = config.at("nameservers");
    if spec.at("dnsPolicy").text() == "None" {
        if !config.given() {
            return errors.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return errors.required(&servers, text);
        }
    }
    if servers.len() > 3 {
        errors.invalid(&servers, "must not have more than 3 nameservers");
    }
    for server in servers.items() {
        ip(errors, &server);
    }
    let searches = config.at("searches");
    if searches.len() > 32 {
        errors.invalid(&searches, "must not have more than 32 search paths");
    }
    let all: Vec<&str> = searches.items().map(|search| search.text()).collect();
    if all.join(" ").len() > 2048 {
        errors.invalid(
            &searches,
            "must not have more than 2048 characters (including spaces) in the search list",
        );
    }
    for search in searches.items().filter(|search| search.text() != ".") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        for message in subdomain_underscore(name) {
            errors.invalid_as(&search, name, message);
        }
    }
    for option in config.at("options").items() {
        if option.at("name").is_empty() {
            errors.required(&option, "must not be empty");
        }
    }
}

/// An address: no leading zeros, no IPv4 in IPv6.
pub(super) fn ip(errors: &mut Errors, at: &At<'_>) {
    match at.text().parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_some() => {
            errors.invalid(at, "must not be an IPv4-mapped IPv6 address");
        }
        Ok(_) => {}
        Err(_) => {
            let parts: Vec<&str> = at.text().split('.').collect();
            let decimal = |part: &&str| (1..=3).contains(&part.len()) && part.parse::<u8>().is_ok();
            let zeros = parts.len() == 4 && parts.iter().all(decimal);
            let text = if zeros {
                "must not have leading 0s"
            } else {
                "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            };
            errors.invalid_as(at, at.text(), text);
        }
    }
}

fn gates(errors: &mut Errors, gates: &At<'_>) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.at("name").text();
        for message in names::qualified(name) {
            errors.invalid_as(&gate, name, message);
        }
        if !seen.insert(name) {
            errors.duplicate(&gate, name);
        }
    }
}

fn host_name(errors: &mut Errors, spec: &At<'_>) {
    let name = spec.at("hostnameOverride");
    if !name.given() {
        return;
    }
    if spec.at("setHostnameAsFQDN").yes() {
        errors.forbidden(&name, "may not be specified when setHostnameAsFQDN is true");
    }
    if spec.at("hostNetwork").yes() {
        errors.forbidden(&name, "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        errors.too_long(&name, 64);
    }
    errors.messages(&name, names::subdomain(name.text()));
}

fn aliases(errors: &mut Errors, aliases: &At<'_>) {
    for alias in aliases.items() {
        ip(errors, &alias.at("ip"));
        for name in alias.at("hostnames").items() {
            errors.messages(&name, names::subdomain(name.text()));
        }
    }
}

/// Files with variables are in emptyDir volumes.
fn files(errors: &mut Errors, whole: &Whole<'_>) {
    let volumes = whole.spec.value().list(&["volumes"]);
    for container in ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| whole.spec.at(list).items().collect::<Vec<_>>())
    {
        for variable in container.at("env").items() {
            let file = variable.at("valueFrom").at("fileKeyRef");
            if !file.given() {
                continue;
            }
            let name = file.at("volumeName");
            match volumes.iter().find(|volume| volume.text(&["name"]) == name.text()) {
                None => errors.not_found(&name, ""),
                Some(volume) if volume.dig(&["emptyDir"]).is_null() => {
                    errors.invalid(&name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}
