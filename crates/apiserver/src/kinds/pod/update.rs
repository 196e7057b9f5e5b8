//! What may change of a pod that exists.

use serde_json::Value;

use super::spec::ip;
use crate::kinds::at::{At, Read, keep};
use crate::kinds::errors::{Errors, same};
use crate::kinds::resources::qos;
use crate::names;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A change of the pod itself.
pub(super) fn pod(errors: &mut Errors, pod: &At<'_>, old: &Value) {
    annotations(errors, pod, old);
    let spec = pod.at("spec");
    let before = old.dig(&["spec"]);
    for list in ["containers", "initContainers"] {
        let containers = spec.at(list);
        if containers.len() != before.list(&[list]).len() {
            return errors.forbidden(&containers, "pod updates may not add or remove containers");
        }
        for image in containers.items().map(|container| container.at("image")) {
            errors.needs(&image);
            if image.text().trim() != image.text() {
                errors.invalid(&image, "must not have leading or trailing whitespace");
            }
        }
    }
    let deadline = spec.at("activeDeadlineSeconds");
    let deadline_before = before.dig(&["activeDeadlineSeconds"]).as_i64();
    match (deadline.int(), deadline_before) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            return errors.invalid(&deadline, "must be between 0 and 2147483647, inclusive");
        }
        (Some(now), Some(before)) if before < now => {
            return errors.invalid(&deadline, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(&deadline, "must not update from a positive integer to nil value"),
        _ => {}
    }
    tolerations(errors, &spec.at("tolerations"), before.list(&["tolerations"]));
    let gates = before.list(&["schedulingGates"]);
    for gate in spec.at("schedulingGates").items() {
        let name = gate.at("name").text();
        if !gates.iter().any(|gate| gate.text(&["name"]) == name) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&gate.at("name"), text);
        }
    }
    let munged = munged(errors, &spec, before);
    if !same(&munged, before) {
        let diff = diff(before, &munged);
        errors.forbidden(&spec, format!("pod updates may not change fields other than {CHANGEABLE}\n{diff}"));
    }
}

/// The new specification with everything that may change as it was.
fn munged(errors: &mut Errors, spec: &At<'_>, before: &Value) -> Value {
    let mut munged = spec.value().clone();
    for list in ["containers", "initContainers"] {
        for (container, before) in munged.list_mut(list).iter_mut().zip(before.list(&[list])) {
            keep(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut munged, before, field);
    }
    let grace = "terminationGracePeriodSeconds";
    if before.number(&[grace]) < 0 && munged.number(&[grace]) == 1 {
        keep(&mut munged, before, grace);
    }
    if before.list(&["schedulingGates"]).is_empty() {
        return munged;
    }
    // While it is gated, a pod may get more to select nodes by.
    let selector = spec.at("nodeSelector");
    let kept = |(key, value): (&String, &Value)| selector.value().get(key) == Some(value);
    if !before.dig(&["nodeSelector"]).as_object().into_iter().flatten().all(kept) {
        let text = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&selector, text);
    }
    keep(&mut munged, before, "nodeSelector");
    let node = spec.at("affinity").at("nodeAffinity");
    if !same(node.value(), before.dig(&["affinity", "nodeAffinity"])) {
        node_affinity(errors, &node, before.dig(&["affinity", "nodeAffinity"]));
        keep(munged.object("affinity"), before.dig(&["affinity"]), "nodeAffinity");
    }
    munged
}

fn node_affinity(errors: &mut Errors, node: &At<'_>, before: &Value) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = node.at(required).at("nodeSelectorTerms");
    let old = before.list(&[required, "nodeSelectorTerms"]);
    if !old.is_empty() && old.len() != terms.len() {
        return errors
            .invalid(&terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (term, old) in terms.items().zip(old) {
        let lists = ["matchExpressions", "matchFields"];
        let empty = lists.iter().all(|list| old.list(&[list]).is_empty());
        let grows = |list: &&str| {
            let (now, old) = (term.value().list(&[list]), old.list(&[list]));
            now.len() >= old.len() && now.iter().zip(old).all(|(now, old)| same(now, old))
        };
        let filled = lists.iter().any(|list| !term.at(list).is_empty());
        if !lists.iter().all(grows) || (empty && filled) {
            errors.invalid(&term, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// Which fields differ, a line for what was and one for what is.
fn diff(old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    walk("spec", old, new, &mut lines);
    lines.join("\n") + "\n"
}

fn walk(path: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    match (old, new) {
        _ if same(old, new) => {}
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                walk(&format!("{path}.{key}"), old.dig(&[key]), new.dig(&[key]), lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                walk(&format!("{path}[{index}]"), a, b, lines);
            }
        }
        _ => lines.extend([format!("- {path}: {old}"), format!("+ {path}: {new}")]),
    }
}

fn tolerations(errors: &mut Errors, tolerations: &At<'_>, old: &[Value]) {
    let without_time = |one: &Value| {
        let mut one = one.clone();
        crate::kinds::at::remove(&mut one, "tolerationSeconds");
        one
    };
    let kept = |old: &Value| {
        let old = without_time(old);
        tolerations.items().any(|new| same(&without_time(new.value()), &old))
    };
    if !old.iter().all(kept) {
        errors.forbidden(tolerations, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn annotations(errors: &mut Errors, pod: &At<'_>, old: &Value) {
    let now = pod.at("metadata").at("annotations");
    let before = old.dig(&["metadata", "annotations"]);
    let kind = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with("container.apparmor.security.beta.kubernetes.io/") => {
            Some("AppArmor annotations")
        }
        _ => None,
    };
    for (key, value) in before.as_object().into_iter().flatten() {
        if let Some(what) = kind(key).filter(|_| now.key(key).value() != value) {
            errors.forbidden(&now.key(key), format!("may not remove or update {what}"));
        }
    }
    for (key, value) in now.entries().filter(|(key, _)| before.get(key).is_none()) {
        if let Some(what) = kind(key) {
            errors.forbidden(&value, format!("may not add {what}"));
        }
    }
}

/// A change of the containers for debugging: they only get more.
pub(super) fn ephemeral(errors: &mut Errors, pod: &At<'_>, old: &Value) {
    if !old.dig(&["metadata", "annotations", MIRROR]).is_null() {
        errors.0.clear();
        return errors.forbidden(&pod.whole(), "static pods do not support ephemeral containers");
    }
    let list = pod.at("spec").at("ephemeralContainers");
    for before in old.list(&["spec", "ephemeralContainers"]) {
        let name = before.text(&["name"]);
        match list.items().find(|one| one.at("name").text() == name) {
            None => errors
                .forbidden(&list, format!("existing ephemeral containers \"{name}\" may not be removed\n")),
            Some(now) if !same(now.value(), before) => {
                let mut lines = Vec::new();
                walk(name, before, now.value(), &mut lines);
                let text = format!(
                    "existing ephemeral containers \"{name}\" may not be changed\n{}\n",
                    lines.join("\n")
                );
                errors.forbidden(&list, text);
            }
            Some(_) => {}
        }
    }
}

/// A change of resources: CPU and memory alone, of the same containers, in the same class.
pub(super) fn resize(errors: &mut Errors, pod: &At<'_>, old: &Value) {
    if !old.dig(&["metadata", "annotations", MIRROR]).is_null() {
        errors.0.clear();
        return errors.forbidden(&pod.whole(), "static pods cannot be resized");
    }
    let (spec, before) = (pod.at("spec"), old.dig(&["spec"]));
    if qos(spec.value()) != old.text(&["status", "qosClass"]) {
        let text = "Pod QOS Class may not change as a result of resizing";
        errors.invalid_as(&spec, old.text(&["status", "qosClass"]), text);
    }
    for list in ["initContainers", "containers"] {
        let (now, before) = (spec.at(list), before.list(&[list]));
        if now.len() != before.len() {
            return errors.forbidden(&now, format!("{list} may not be added or removed on resize"));
        }
        for (container, before) in now.items().zip(before) {
            if container.at("name").text() != before.text(&["name"]) {
                let text = format!("{list} may not be renamed or reordered on resize");
                return errors.forbidden(&container.at("name"), text);
            }
            for (field, what) in [("requests", "requests"), ("limits", "limits")] {
                let at = container.at("resources").at(field);
                let had = before.dig(&["resources", field]).as_object();
                if had.into_iter().flatten().any(|(name, _)| !at.at(name).given()) {
                    errors.forbidden(&at, format!("resource {what} cannot be removed"));
                }
            }
            only_compute(errors, list, &spec, &container, before);
        }
    }
}

fn only_compute(errors: &mut Errors, list: &str, spec: &At<'_>, container: &At<'_>, before: &Value) {
    let mut now = container.value().clone();
    let mut old = before.clone();
    for one in [&mut now, &mut old] {
        crate::kinds::at::remove(one, "resizePolicy");
        for field in ["requests", "limits"] {
            if let Some(amounts) = one.get_mut("resources").and_then(|resources| resources.get_mut(field)) {
                crate::kinds::at::remove(amounts, "cpu");
                crate::kinds::at::remove(amounts, "memory");
            }
        }
    }
    if same(&now, &old) {
        return;
    }
    if list == "containers" {
        errors.forbidden(spec, "only cpu and memory resources are mutable");
    } else {
        errors
            .forbidden(container, "only cpu and memory resources for init or sidecar containers are mutable");
    }
}

/// A change of the status.
pub(super) fn status(errors: &mut Errors, pod: &At<'_>, old: &Value) {
    annotations(errors, pod, old);
    let status = pod.at("status");
    for condition in status.at("conditions").items() {
        let (kind, generation) = (condition.at("type"), condition.at("observedGeneration"));
        if generation.number() < 0 {
            errors.invalid(&generation, "must be a non-negative integer");
        }
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            for message in names::qualified(kind.text()) {
                errors.invalid_as(&condition.at("Type"), kind.text(), message);
            }
        }
    }
    let (node, node_before) = (status.at("nominatedNodeName"), old.text(&["status", "nominatedNodeName"]));
    if !node.is_empty() && node.text() != node_before {
        errors.messages(&node, names::subdomain(node.text()));
        if !old.text(&["spec", "nodeName"]).is_empty() {
            errors.forbidden(&node, "may not be set on pods that are already bound to a node");
        }
    }
    if status.at("observedGeneration").number() < 0 {
        errors.invalid(&status.at("observedGeneration"), "must be a non-negative integer");
    }
    errors.immutable(&status.at("qosClass"), old.dig(&["status", "qosClass"]));
    transitions(errors, &status, old);
    for (list, own) in [("podIPs", "podIP"), ("hostIPs", "hostIP")] {
        let ips = status.at(list);
        for one in ips.items() {
            // Addresses are reported as the text, not as the object that holds it.
            ip(errors, &one.elsewhere(one.value().dig(&["ip"])));
        }
        let first = ips.index(0).at("ip");
        if own == "hostIP" && !ips.is_empty() && first.text() != status.at(own).text() {
            errors.invalid(&first, "must be equal to `hostIP`");
        }
        let six = ips.items().filter(|one| one.at("ip").text().contains(':')).count();
        if ips.len() > 2 || (ips.len() == 2 && six != 1) {
            errors.invalid(&ips, "may specify no more than one IP for each IP family");
        }
    }
}

/// A container that has ended stays so, unless it is to be started again.
fn transitions(errors: &mut Errors, status: &At<'_>, old: &Value) {
    let spec = old.dig(&["spec"]);
    let all = spec.list(&["containers"]).iter().chain(spec.list(&["initContainers"]));
    let mut rules = all.flat_map(|container| container.list(&["restartPolicyRules"]));
    if rules.any(|rule| rule.text(&["action"]) == "RestartAllContainers") {
        return;
    }
    for (list, containers) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ] {
        for (index, before) in old.list(&["status", list]).iter().enumerate() {
            let name = before.text(&["name"]);
            let ended = before.dig(&["state", "terminated"]);
            let now = status.at(list).items().find(|one| one.at("name").text() == name);
            let runs = now.is_some_and(|now| !now.at("state").at("terminated").given());
            if ended.is_null() || !runs {
                continue;
            }
            let container = spec.list(&[containers]).iter().find(|one| one.text(&["name"]) == name);
            let again = container.is_some_and(|one| restarts(one, spec, ended.number(&["exitCode"])));
            if !again {
                let at = status.at(list).index(index).at("state");
                errors.forbidden(&at, "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// Whether a container that ended so is started again.
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let own = container.text(&["restartPolicy"]);
    let rule = container.list(&["restartPolicyRules"]).iter().any(|rule| {
        let listed = rule.list(&["exitCodes", "values"]).iter().any(|value| value.as_i64() == Some(code));
        listed == (rule.text(&["exitCodes", "operator"]) == "In")
    });
    match if own.is_empty() { spec.text(&["restartPolicy"]) } else { own } {
        _ if !own.is_empty() && rule => true,
        "OnFailure" => code != 0,
        "Never" => false,
        _ => true,
    }
}
