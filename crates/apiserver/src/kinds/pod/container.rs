//! Containers of the three sorts.

use std::collections::BTreeSet;

use super::spec::Whole;
use super::{env, mounts, probe, security};
use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::forms;
use crate::kinds::resources::{Of, requirements};
use crate::names;

pub(super) const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];

/// Fields that a container which was added for debugging may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub(super) fn all(errors: &mut Errors, whole: &Whole<'_>) {
    regular(errors, whole);
    init(errors, whole);
    ephemeral(errors, whole);
}

/// Rules for images that templates need not keep.
pub(super) fn images(errors: &mut Errors, spec: &At<'_>, list: &str) {
    for container in spec.at(list).items() {
        let image = container.at("image");
        if image.text().trim() != image.text() {
            errors.invalid(&image, "must not have leading or trailing whitespace");
        }
    }
}

fn regular(errors: &mut Errors, whole: &Whole<'_>) {
    let list = whole.spec.at("containers");
    if list.is_empty() {
        return errors.required(&list, "");
    }
    let mut names = BTreeSet::new();
    for container in list.items() {
        common(errors, &container, whole);
        let name = container.at("name");
        if !names.insert(name.text()) {
            errors.duplicate(&name, name.text());
        }
        probe::all(errors, &container, whole);
        restart(errors, &container);
    }
    host_ports(errors, &list.items().collect::<Vec<_>>(), &list);
}

fn init(errors: &mut Errors, whole: &Whole<'_>) {
    let mut names: BTreeSet<&str> =
        whole.spec.at("containers").items().map(|container| container.at("name").text()).collect();
    let list = whole.spec.at("initContainers");
    for container in list.items() {
        common(errors, &container, whole);
        restart(errors, &container);
        let name = container.at("name");
        if !name.is_empty() && !names.insert(name.text()) {
            errors.duplicate(&name, name.text());
        }
        host_ports(errors, std::slice::from_ref(&container), &list);
        if container.at("restartPolicy").text() == "Always" {
            probe::all(errors, &container, whole);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.at(field).given() {
                let text = "may not be set for init containers without restartPolicy=Always";
                errors.forbidden(&container.at(field), text);
            }
        }
        for policy in container.at("resizePolicy").items() {
            let restart = policy.at("restartPolicy");
            if restart.text() == "RestartContainer" {
                let text = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.invalid(&restart, text);
            }
        }
    }
}

fn ephemeral(errors: &mut Errors, whole: &Whole<'_>) {
    let names_of = |list: &str| {
        let items = whole.spec.at(list);
        items.items().map(|container| container.at("name").text()).collect::<Vec<_>>()
    };
    let others: Vec<&str> = [names_of("containers"), names_of("initContainers")].concat();
    let mut names: BTreeSet<&str> = others.iter().copied().collect();
    for container in whole.spec.at("ephemeralContainers").items() {
        common(errors, &container, whole);
        let image = container.at("image");
        if image.text().trim() != image.text() {
            errors.invalid(&image, "must not have leading or trailing whitespace");
        }
        let name = container.at("name");
        if !names.insert(name.text()) {
            errors.duplicate(&name, name.text());
        }
        let target = container.at("targetContainerName");
        if !target.is_empty() && !others.contains(&target.text()) {
            errors.not_found(&target, "");
        }
        let text = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL {
            let at = container.at(field);
            // An empty list or no resources at all are nothing; an empty hook or probe is one.
            let nothing = matches!(*field, "ports" | "resources" | "resizePolicy" | "restartPolicyRules");
            if at.given() && !(nothing && at.is_empty()) {
                errors.forbidden(&at, text);
            }
        }
        for mount in container.at("volumeMounts").items() {
            for field in ["subPath", "subPathExpr"] {
                if !mount.at(field).is_empty() {
                    errors.forbidden(&mount.at(field), text);
                }
            }
        }
    }
}

/// What holds for every sort.
fn common(errors: &mut Errors, container: &At<'_>, whole: &Whole<'_>) {
    let name = container.at("name");
    if errors.needs(&name) {
        errors.messages(&name, names::label(name.text()));
    }
    errors.needs(&container.at("image"));
    errors.one_of(&container.at("terminationMessagePolicy"), &["File", "FallbackToLogsOnError"]);
    ports(errors, &container.at("ports"));
    env::variables(errors, container);
    mounts::mounts(errors, container, whole);
    mounts::devices(errors, container, whole);
    errors.one_of(&container.at("imagePullPolicy"), PULL_POLICIES);
    requirements(errors, &container.at("resources"), Of::Container, &whole.claims);
    resize(errors, &container.at("resizePolicy"), whole);
    security::container(errors, &container.at("securityContext"), whole);
}

fn ports(errors: &mut Errors, ports: &At<'_>) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.at("name");
        if !name.is_empty() {
            let messages = forms::port(name.text());
            if messages.is_empty() && !names.insert(name.text()) {
                errors.duplicate(&name, name.text());
            }
            errors.messages(&name, messages);
        }
        let inner = port.at("containerPort");
        if inner.number() == 0 {
            errors.required(&inner, "");
        }
        for number in [inner, port.at("hostPort")].iter().filter(|number| number.number() != 0) {
            errors.range(number, 1, 65535);
        }
        errors.one_of(&port.at("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

/// No port of the host is used twice.
fn host_ports(errors: &mut Errors, containers: &[At<'_>], list: &At<'_>) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in container.at("ports").items().enumerate() {
            let host = port.at("hostPort").number();
            let key = format!("{}/{}/{host}", port.at("protocol").text(), port.at("hostIP").text());
            if host != 0 && !seen.insert(key.clone()) {
                errors.duplicate(&list.index(index).at("ports").index(number).at("hostPort"), key);
            }
        }
    }
}

fn resize(errors: &mut Errors, policies: &At<'_>, whole: &Whole<'_>) {
    let mut seen = BTreeSet::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.at("resourceName"), policy.at("restartPolicy"));
        if !seen.insert(resource.text()) {
            errors.duplicate(&policy, resource.text());
        }
        for (field, known) in
            [(&resource, ["cpu", "memory"]), (&restart, ["NotRequired", "RestartContainer"])]
        {
            if field.is_empty() {
                errors.required(policies, "");
            } else if !known.contains(&field.text()) {
                errors.not_supported_as(policies, field.text(), &known);
            }
        }
        if whole.spec.at("restartPolicy").text() == "Never" && restart.text() != "NotRequired" {
            let text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid_as(policies, restart.text(), text);
        }
    }
}

/// `restartPolicy` of one container and the rules beside it.
fn restart(errors: &mut Errors, container: &At<'_>) {
    let (policy, rules) = (container.at("restartPolicy"), container.at("restartPolicyRules"));
    if !policy.given() && !rules.is_empty() {
        errors.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    errors.one_of_if_given(&policy, &["Always", "Never", "OnFailure"]);
    if rules.len() > 20 {
        errors.too_many(&rules, rules.len(), 20);
    }
    for rule in rules.items() {
        let action = rule.at("action");
        if !["Restart", "RestartAllContainers"].contains(&action.text()) {
            errors.not_supported(&action, &["Restart", "RestartAllContainers"]);
        }
        let codes = rule.at("exitCodes");
        if !codes.given() {
            errors.required(&codes, "must be specified");
            continue;
        }
        let operator = codes.at("operator");
        if !["In", "NotIn"].contains(&operator.text()) {
            errors.not_supported(&operator, &["In", "NotIn"]);
        }
        let values = codes.at("values");
        if values.len() > 255 {
            errors.too_many(&values, values.len(), 255);
        }
    }
}
