//! Where a pod wants to be.

use crate::kinds::at::At;
use crate::kinds::errors::Errors;
use crate::kinds::labels::{label_key, selector};
use crate::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(errors: &mut Errors, affinity: &At<'_>) {
    let node = affinity.at("nodeAffinity");
    let required = node.at(REQUIRED);
    if required.given() {
        let terms = required.at("nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&terms, "must have at least one node selector term");
        }
        for term in terms.items() {
            node_term(errors, &term, true);
        }
    }
    for preferred in node.at(PREFERRED).items() {
        weight(errors, &preferred);
        node_term(errors, &preferred.at("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        for term in affinity.at(kind).at(REQUIRED).items() {
            pod_term(errors, &term);
        }
        for preferred in affinity.at(kind).at(PREFERRED).items() {
            weight(errors, &preferred);
            pod_term(errors, &preferred.at("podAffinityTerm"));
        }
    }
}

fn weight(errors: &mut Errors, term: &At<'_>) {
    let weight = term.at("weight");
    if !(1..=100).contains(&weight.number()) {
        errors.invalid_as(&weight, weight.number(), "must be in the range 1-100");
    }
}

fn node_term(errors: &mut Errors, term: &At<'_>, check_values: bool) {
    for rule in term.at("matchExpressions").items() {
        let (values, operator) = (rule.at("values"), rule.at("operator"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors
                    .forbidden(&values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                errors.required(&values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid_as(&operator, other, "not a valid selector operator"),
        }
        label_key(errors, &rule.at("key"), rule.at("key").text());
        for value in values.items().filter(|_| check_values) {
            errors.messages(&value, names::label_value(value.text()));
        }
    }
    for rule in term.at("matchFields").items() {
        let (values, operator, key) = (rule.at("values"), rule.at("operator"), rule.at("key"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                let text =
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&values, text);
            }
            "In" | "NotIn" => {}
            other => errors.invalid_as(&operator, other, "not a valid selector operator"),
        }
        if key.text() != "metadata.name" {
            errors.invalid_as(&key, key.text(), "not a valid field selector key");
            continue;
        }
        for value in values.items() {
            errors.messages(&value, names::subdomain(value.text()));
        }
    }
}

fn pod_term(errors: &mut Errors, term: &At<'_>) {
    selector(errors, &term.at("labelSelector"));
    selector(errors, &term.at("namespaceSelector"));
    for name in term.at("namespaces").items() {
        for message in names::label(name.text()) {
            errors.invalid_as(&term.at("namespace"), name.text(), message);
        }
    }
    match_keys(errors, term);
    let key = term.at("topologyKey");
    if key.is_empty() {
        errors.required(&key, "can not be empty");
    }
    label_key(errors, &key, key.text());
}

/// `matchLabelKeys` and `mismatchLabelKeys` beside a selector of labels.
fn match_keys(errors: &mut Errors, term: &At<'_>) {
    let selector = term.at("labelSelector");
    let [matching, other] = ["matchLabelKeys", "mismatchLabelKeys"].map(|field| term.at(field));
    for keys in [&matching, &other].into_iter().filter(|keys| !keys.is_empty()) {
        if !selector.given() {
            errors.forbidden(keys, "must not be specified when labelSelector is not set");
            continue;
        }
        for key in keys.items() {
            label_key(errors, &key, key.text());
        }
    }
    let mut selected: Vec<&str> = selector.at("matchLabels").entries().map(|(key, _)| key).collect();
    for rule in selector.at("matchExpressions").items() {
        let key = rule.at("key").text();
        if let Some(index) = matching.items().position(|one| one.text() == key)
            && selected.contains(&key)
        {
            errors.invalid_as(&term.index(index), key, "exists in both matchLabelKeys and labelSelector");
        }
        selected.push(key);
    }
    for key in matching.items().filter(|key| other.items().any(|other| other.text() == key.text())) {
        errors.invalid(&key, "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(errors: &mut Errors, constraints: &At<'_>) {
    for (index, one) in constraints.items().enumerate() {
        let (skew, key, action) = (one.at("maxSkew"), one.at("topologyKey"), one.at("whenUnsatisfiable"));
        if skew.number() <= 0 {
            errors.invalid_as(&skew, skew.number(), "must be greater than zero");
        }
        if key.is_empty() {
            errors.required(&key, "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action.text()) {
            errors.not_supported(&action, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let again = |other: &At<'_>| {
            other.at("topologyKey").text() == key.text()
                && other.at("whenUnsatisfiable").text() == action.text()
        };
        if constraints.items().skip(index + 1).any(|other| again(&other)) {
            let pair = format!("{{{}, {}}}", key.text(), action.text());
            errors.duplicate(&one.at("{topologyKey, whenUnsatisfiable}"), pair);
        }
        let domains = one.at("minDomains");
        if domains.given() {
            if domains.number() <= 0 {
                errors.invalid(&domains, "must be greater than zero");
            }
            if action.text() != "DoNotSchedule" {
                let text = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    action.text()
                );
                errors.invalid(&domains, text);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.one_of_if_given(&one.at(policy), &["Honor", "Ignore"]);
        }
        match_keys(errors, &one);
        selector(errors, &one.at("labelSelector"));
    }
}
