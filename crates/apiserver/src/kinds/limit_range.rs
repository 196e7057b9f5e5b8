use std::collections::BTreeSet;

use serde_json::Value;

use super::at::{At, Read};
use super::errors::Errors;
use super::quantity::Quantity;
use super::resources::{Of, name, overcommit, round};
use crate::{FieldError, Kind, Subresource, names};

/// What containers and pods of a namespace may ask for, and what they ask for by default.
pub static LIMIT_RANGE: Kind = Kind {
    plural: "limitranges",
    singular: "limitrange",
    name: "LimitRange",
    short_names: &["limits"],
    default,
    validate,
    ..Kind::PLAIN
};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

fn default(range: &mut Value) {
    let Some(spec) = range.get_mut("spec") else { return };
    for limit in spec.list_mut("limits") {
        for list in LISTS {
            if let Some(amounts) = limit.get_mut(list) {
                round(amounts);
            }
        }
        if limit.text(&["type"]) != "Container" {
            continue;
        }
        // What is not given follows from what is: the default from the maximum, the request from the default, then
        // from the minimum.
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            for (name, amount) in limit.dig(&[from]).as_object().cloned().into_iter().flatten() {
                limit.object(to).make(&name, || amount);
            }
        }
    }
}

fn validate(range: &Value, _: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let mut seen = BTreeSet::new();
    for limit in At::root(range).at("spec").at("limits").items() {
        let kind = limit.at("type");
        let messages = names::qualified(kind.text());
        if !messages.is_empty() {
            errors.messages(&kind, messages);
        } else if !kind.text().contains('/')
            && !matches!(kind.text(), "Pod" | "Container" | "PersistentVolumeClaim")
        {
            errors.invalid(&kind, "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind.text()) {
            errors.duplicate(&kind, kind.text());
        }
        item(&mut errors, &limit, kind.text());
    }
    errors.0
}

fn item(errors: &mut Errors, limit: &At<'_>, kind: &str) {
    let of = if matches!(kind, "Pod" | "Container") { Of::Container } else { Of::Any };
    let mut resources = BTreeSet::new();
    for list in LISTS {
        let amounts = limit.at(list);
        if kind == "Pod" && list.starts_with("default") {
            if !amounts.is_empty() {
                errors.forbidden(&amounts, "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (resource, at) in amounts.entries() {
            name(errors, &at, resource, of);
            resources.insert(resource);
        }
    }
    if kind == "PersistentVolumeClaim"
        && !["min", "max"].iter().any(|list| limit.at(list).at("storage").given())
    {
        let text = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&limit.at("limits"), text);
    }
    for resource in resources {
        compare(errors, limit, kind, resource);
    }
}

fn compare(errors: &mut Errors, limit: &At<'_>, kind: &str, resource: &str) {
    let place = |list: &str| limit.at(list).key(resource);
    let amount = |list: &str| {
        let at = place(list);
        (at.given() && !(kind == "Pod" && list.starts_with("default"))).then(|| Quantity::of(at.value()))
    };
    let [max, min, default, request, ratio] = LISTS.map(amount);
    let mut say =
        |list: &str, shown: Quantity, text: String| errors.invalid_as(&place(list), shown.to_string(), text);
    if let (Some(min), Some(max)) = (min, max)
        && min > max
    {
        say("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let Some(request) = request {
        if let Some(min) = min.filter(|min| *min > request) {
            say(
                "defaultRequest",
                request,
                format!("min value {min} is greater than default request value {request}"),
            );
        }
        if let Some(max) = max.filter(|max| request > *max) {
            say(
                "defaultRequest",
                request,
                format!("default request value {request} is greater than max value {max}"),
            );
        }
        if let Some(default) = default.filter(|default| request > *default) {
            let text =
                format!("default request value {request} is greater than default limit value {default}");
            say("defaultRequest", request, text);
        }
    }
    if let Some(default) = default {
        if let Some(min) = min.filter(|min| *min > default) {
            say("default", min, format!("min value {min} is greater than default value {default}"));
        }
        if let Some(max) = max.filter(|max| default > *max) {
            say("default", max, format!("default value {default} is greater than max value {max}"));
        }
    }
    if let Some(ratio) = ratio {
        if ratio < Quantity::ONE {
            say("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = thousandths(max) / thousandths(min);
            if thousandths(ratio) / 1000.0 > most {
                say(
                    "maxLimitRequestRatio",
                    ratio,
                    format!("ratio {ratio} is greater than max/min = {most:.6}"),
                );
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && default != request
        && !overcommit(resource)
    {
        let text =
            format!("default value {default} must equal to defaultRequest value {request} in {resource}");
        say("defaultRequest", request, text);
    }
}

/// For ratios, which are told with six digits.
#[allow(clippy::cast_precision_loss, reason = "a ratio is compared and told, not stored")]
pub(crate) fn thousandths(quantity: Quantity) -> f64 {
    quantity.milli() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults() {
        let mut range = json!({ "spec": { "limits": [
            { "type": "Container", "max": { "cpu": "1000m", "memory": "1Gi" }, "min": { "cpu": "100m" }, "default": { "cpu": "500m" } },
            { "type": "Pod", "max": { "cpu": "2" } },
        ] } });
        default(&mut range);
        assert_eq!(
            range["spec"]["limits"],
            json!([
                { "type": "Container", "max": { "cpu": "1", "memory": "1Gi" }, "min": { "cpu": "100m" },
                    "default": { "cpu": "500m", "memory": "1Gi" }, "defaultRequest": { "cpu": "500m", "memory": "1Gi" } },
                { "type": "Pod", "max": { "cpu": "2" } },
            ])
        );
    }

    #[test]
    fn checks() {
        let texts = |limits: Value| {
            let range = json!({ "spec": { "limits": limits } });
            validate(&range, None, None).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts(json!([{ "type": "Container", "max": { "cpu": "1" } }])), [""; 0]);
        assert_eq!(
            texts(json!([
                { "type": "Container", "min": { "cpu": "2" }, "max": { "cpu": "1" }, "default": { "cpu": "3" } },
                { "type": "Container" }, { "type": "Thing" },
                { "type": "Pod", "default": { "cpu": "1" }, "maxLimitRequestRatio": { "cpu": "500m" } },
                { "type": "PersistentVolumeClaim" },
            ])),
            [
                r#"spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1"#,
                r#"spec.limits[0].default[cpu]: Invalid value: "1": default value 3 is greater than max value 1"#,
                r#"spec.limits[1].type: Duplicate value: "Container""#,
                r#"spec.limits[2].type: Invalid value: "Thing": must be a standard limit type or fully qualified"#,
                "spec.limits[3].default: Forbidden: may not be specified when `type` is 'Pod'",
                r#"spec.limits[3].maxLimitRequestRatio[cpu]: Invalid value: "500m": ratio 500m is less than 1"#,
                "spec.limits[4].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
            ]
        );
        assert_eq!(
            texts(
                json!([{ "type": "Container", "min": { "cpu": "1" }, "max": { "cpu": "1500m" }, "maxLimitRequestRatio": { "cpu": "2" } }])
            ),
            [
                r#"spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: "2": ratio 2 is greater than max/min = 1.500000"#
            ]
        );
    }
}
