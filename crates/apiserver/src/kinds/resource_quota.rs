use jiff::Timestamp;
use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use super::quantity::Quantity;
use super::resources::{Of, list, quota_standard, round};
use crate::{Column, FieldError, Kind, Subresource, time};

/// How much of everything a namespace may have.
pub static RESOURCE_QUOTA: Kind = Kind {
    plural: "resourcequotas",
    singular: "resourcequota",
    name: "ResourceQuota",
    short_names: &["quota"],
    subresources: &[Subresource::Status],
    columns: &[Column::NAME, Column::text("Request"), Column::text("Limit"), Column::AGE],
    cells,
    prepare: |quota, old, _| {
        if old.is_none() {
            quota.object("status");
        }
    },
    default: |quota| {
        for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
            if let Some(amounts) = quota.get_mut(path[0]).and_then(|part| part.get_mut(path[1])) {
                round(amounts);
            }
        }
    },
    validate,
    returns_deleted: true,
    ..Kind::PLAIN
};

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "VolumeAttributesClass",
    "CrossNamespacePodAffinity",
];

fn cells(quota: &Value, now: Timestamp) -> Vec<Value> {
    let hard = quota.dig(&["status", "hard"]);
    let mut names: Vec<&str> =
        hard.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for name in names {
        let column = if name.starts_with("limits.") { &mut limits } else { &mut requests };
        let amount = |list: &str| Quantity::of(quota.dig(&["status", list, name]));
        column.push(format!("{name}: {}/{}", amount("used"), amount("hard")));
    }
    vec![
        quota["metadata"]["name"].clone(),
        requests.join(", ").into(),
        limits.join(", ").into(),
        time::age(&quota["metadata"]["creationTimestamp"], now).into(),
    ]
}

fn validate(quota: &Value, old: Option<&Value>, subresource: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(quota);
    if old.is_none() || subresource == Some(Subresource::Status) {
        list(&mut errors, &root.at("status").at("hard"), Of::Quota);
        list(&mut errors, &root.at("status").at("used"), Of::Quota);
    }
    if subresource == Some(Subresource::Status) {
        return errors.0;
    }
    let spec = root.at("spec");
    list(&mut errors, &spec.at("hard"), Of::Quota);
    scopes(&mut errors, &spec);
    selector(&mut errors, &spec);
    if let Some(old) = old {
        let sorted = |quota: &Value| {
            let mut names: Vec<String> =
                quota.list(&["spec", "scopes"]).iter().map(|scope| scope.text(&[]).to_owned()).collect();
            names.sort_unstable();
            names
        };
        if sorted(quota) != sorted(old) {
            errors.invalid(&spec.at("scopes"), "field is immutable");
        }
    }
    errors.0
}

fn scopes(errors: &mut Errors, spec: &At<'_>) {
    let at = spec.at("scopes");
    for scope in at.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.invalid(&at, "unsupported scope");
        }
        fits(errors, &at, spec, scope.text());
    }
    conflicts(errors, spec, &at.items().map(|scope| scope.text()).collect::<Vec<_>>());
}

fn selector(errors: &mut Errors, spec: &At<'_>) {
    let selector = spec.at("scopeSelector");
    let at = selector.at("matchExpressions");
    for rule in at.items() {
        let (scope, operator, values) =
            (rule.at("scopeName").text(), rule.at("operator").text(), rule.at("values"));
        if !SCOPES.contains(&scope) {
            errors.invalid_as(&at.at("scopeName"), scope, "unsupported scope");
        }
        fits(errors, &at.elsewhere(selector.value()), spec, scope);
        let exists_only =
            !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
        if exists_only && operator != "Exists" {
            let text = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid_as(&at.at("operator"), operator, text);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let text = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&at.at("values"), text);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let text = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid_as(&at.at("values"), values.value().clone(), text);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid_as(&at.at("operator"), operator, "not a valid selector operator"),
        }
    }
    let names: Vec<&str> = at.items().map(|rule| rule.at("scopeName").text()).collect();
    conflicts(errors, spec, &names);
}

/// Whether a scope says anything about each of the resources.
fn fits(errors: &mut Errors, at: &At<'_>, spec: &At<'_>, scope: &str) {
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    let mut resources: Vec<&str> = spec.at("hard").entries().map(|(name, _)| name).collect();
    resources.sort_unstable();
    for name in resources.into_iter().filter(|name| quota_standard(name)) {
        let fits = match scope {
            "BestEffort" => name == "pods",
            "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
            scope if SCOPES.contains(&scope) => name == "pods" || compute.contains(&name),
            _ => true,
        };
        if !fits {
            errors.invalid(at, "unsupported scope applied to resource");
        }
    }
}

fn conflicts(errors: &mut Errors, spec: &At<'_>, scopes: &[&str]) {
    for [a, b] in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if scopes.contains(&a) && scopes.contains(&b) {
            let at = spec.at("scopeSelector").at("matchExpressions");
            let at = if spec.at("scopes").is_empty() { at } else { spec.at("scopes") };
            errors.invalid_as(&at, spec.at("scopes").value().clone(), "conflicting scopes");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(quota: &Value, old: Option<&Value>) -> Vec<String> {
        validate(quota, old, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn row() {
        let quota = json!({ "metadata": { "name": "q" }, "status": {
            "hard": { "pods": "10", "limits.cpu": "4", "cpu": "2" }, "used": { "pods": "3", "cpu": "500m" } } });
        assert_eq!(
            cells(&quota, Timestamp::now()),
            ["q", "cpu: 500m/2, pods: 3/10", "limits.cpu: 0/4", "<unknown>"]
        );
    }

    #[test]
    fn checks() {
        let good = json!({ "spec": { "hard": { "pods": "10", "requests.cpu": "1", "count/deployments.apps": "1",
            "requests.example.com/gpu": "1", "requests.hugepages-2Mi": "4Mi" } } });
        assert_eq!(texts(&good, None), [""; 0]);
        let bad = json!({ "spec": { "hard": { "things": "1", "pods": "1500m", "secrets": "-1", "storage": "1" },
            "scopes": ["BestEffort", "NotBestEffort", "x"] } });
        let found = texts(&bad, None);
        assert_eq!(
            found[..5],
            [
                r#"spec.hard[things]: Invalid value: "things": must be a standard resource type or fully qualified"#,
                r#"spec.hard[things]: Invalid value: "things": must be a standard resource for quota"#,
                r#"spec.hard[pods]: Invalid value: "1500m": must be an integer"#,
                r#"spec.hard[secrets]: Invalid value: "-1": must be greater than or equal to 0"#,
                r#"spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota"#,
            ]
        );
        let scopes = r#"["BestEffort","NotBestEffort","x"]"#;
        for text in ["unsupported scope applied to resource", "unsupported scope", "conflicting scopes"] {
            assert!(
                found.contains(&format!("spec.scopes: Invalid value: {scopes}: {text}")),
                "{text}: {found:?}"
            );
        }
        let old = json!({ "spec": { "scopes": ["BestEffort"] } });
        assert_eq!(
            texts(&json!({ "spec": {} }), Some(&old)),
            ["spec.scopes: Invalid value: null: field is immutable"]
        );
    }
}
