use jiff::Timestamp;
use serde_json::Value;

use super::at::{At, Read, object};
use super::errors::Errors;
use crate::kind::Alias;
use crate::{Column, FieldError, Kind, Subresource, names, time};

/// What happened to an object.
pub static EVENT: Kind = Kind {
    plural: "events",
    singular: "event",
    name: "Event",
    short_names: &["ev"],
    columns: COLUMNS,
    cells,
    default: |event| {
        for field in ["involvedObject", "source"] {
            event.object(field);
        }
        for field in ["reportingComponent", "reportingInstance"] {
            event.make(field, || "".into());
        }
    },
    validate: |event, _, _| legacy(event, "reportingComponent"),
    selectable: &[
        "involvedObject.apiVersion",
        "involvedObject.fieldPath",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.resourceVersion",
        "involvedObject.uid",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ],
    create_on_update: true,
    ..Kind::PLAIN
};

/// The newer view of the same events.
pub static EVENT_V1: Kind = Kind {
    group: "events.k8s.io",
    cells: |event, now| {
        let mut stored = event.clone();
        import(&mut stored);
        cells(&stored, now)
    },
    default: |event| {
        event.object("regarding");
    },
    validate: strict,
    selectable: &[
        "reason",
        "regarding.apiVersion",
        "regarding.fieldPath",
        "regarding.kind",
        "regarding.name",
        "regarding.namespace",
        "regarding.resourceVersion",
        "regarding.uid",
        "reportingController",
        "type",
    ],
    stored: Some(Alias { kind: &EVENT, import, export }),
    plural: "events",
    singular: "event",
    name: "Event",
    short_names: &["ev"],
    columns: COLUMNS,
    create_on_update: true,
    ..Kind::PLAIN
};

const COLUMNS: &[Column] = &[
    Column::text("Last Seen"),
    Column::text("Type"),
    Column::text("Reason"),
    Column::text("Object"),
    Column::text("Subobject").wide(),
    Column::text("Source").wide(),
    Column::text("Message"),
    Column::text("First Seen").wide(),
    Column::integer("Count").wide(),
    Column { format: "name", ..Column::text("Name") }.wide(),
];

/// Names of fields: those of events.k8s.io/v1, and those of v1.
const FIELDS: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn import(event: &mut Value) {
    rename(event, |name| FIELDS.iter().find(|(new, _)| *new == name).map(|(_, old)| *old));
}

fn export(event: &mut Value) {
    rename(event, |name| FIELDS.iter().find(|(_, old)| *old == name).map(|(new, _)| *new));
}

fn rename(event: &mut Value, to: impl Fn(&str) -> Option<&'static str>) {
    if let Value::Object(fields) = event {
        let renamed = std::mem::take(fields).into_iter();
        *fields = renamed.map(|(name, value)| (to(&name).map_or(name, str::to_owned), value)).collect();
    }
}

fn cells(event: &Value, now: Timestamp) -> Vec<Value> {
    let given = |field: &str| !event.dig(&[field]).is_null();
    let first = if given("firstTimestamp") { "firstTimestamp" } else { "eventTime" };
    let first = time::age(event.dig(&[first]), now);
    let mut last =
        if given("lastTimestamp") { time::age(&event["lastTimestamp"], now) } else { first.clone() };
    let mut count = event.number(&["count"]);
    if given("series") {
        last = time::age(event.dig(&["series", "lastObservedTime"]), now);
        count = event.number(&["series", "count"]);
    } else if count == 0 {
        count = 1;
    }
    let kind = event.text(&["involvedObject", "kind"]).to_lowercase();
    let object = match event.text(&["involvedObject", "name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let either = |a: &[&str], b: &str| match event.text(a) {
        "" => event.text(&[b]).to_owned(),
        text => text.to_owned(),
    };
    let (component, host) = (
        either(&["source", "component"], "reportingComponent"),
        either(&["source", "host"], "reportingInstance"),
    );
    let source = if host.is_empty() { component } else { format!("{component}, {host}") };
    vec![
        last.into(),
        event.text(&["type"]).into(),
        event.text(&["reason"]).into(),
        object.into(),
        event.text(&["involvedObject", "fieldPath"]).into(),
        source.into(),
        event.text(&["message"]).trim().into(),
        first.into(),
        count.into(),
        event["metadata"]["name"].clone(),
    ]
}

/// The rules for events in the form of v1.
fn legacy(event: &Value, controller: &str) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let root = At::root(event);
    let namespace = root.at("metadata").at("namespace").text();
    let about = root.at("involvedObject").at("namespace");
    if !root.at("eventTime").given() {
        let matches = match about.text() {
            "" => matches!(namespace, "" | "default"),
            about => about == namespace,
        };
        if !matches {
            errors.invalid_as(&about, about.text(), "does not match event.namespace");
        }
        return errors.0;
    }
    if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
        errors.invalid_as(&about, "", "does not match event.namespace");
    }
    let component = root.at(controller).elsewhere(root.at("reportingComponent").value());
    errors.needs(&component);
    errors.messages(&component, names::qualified(component.text()));
    let instance = root.at("reportingInstance");
    errors.needs(&instance);
    for (at, needed, most) in [
        (instance, false, 128),
        (root.at("action"), true, 128),
        (root.at("reason"), true, 128),
        (root.at("message"), false, 1024),
    ] {
        if needed {
            errors.needs(&at);
        }
        if at.len() > most {
            errors.invalid_as(&at, "", format!("can have at most {most} characters"));
        }
    }
    errors.0
}

/// The rules for events in the form of events.k8s.io/v1; the paths are those of v1, as Kubernetes gives them.
fn strict(event: &Value, old: Option<&Value>, _: Option<Subresource>) -> Vec<FieldError> {
    let mut stored = event.clone();
    import(&mut stored);
    let mut errors = Errors(legacy(&stored, "reportingController"));
    let root = At::root(&stored);
    let series = root.at("series");
    let before = old.cloned().map(|mut old| {
        import(&mut old);
        old
    });
    let changed = before.as_ref().is_none_or(|old| old.dig(&["series"]) != series.value());
    if series.given() && changed {
        if series.at("count").number() < 2 {
            errors.invalid_as(&root.at("series.count"), "", "should be at least 2");
        }
        if !series.at("lastObservedTime").given() {
            errors.required(&root.at("series.lastObservedTime"), "");
        }
    }
    if let Some(old) = &before {
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingInstance",
        ] {
            errors.immutable(&root.at(field), old.dig(&[field]));
        }
        let controller = root.at("reportingController").elsewhere(root.at("reportingComponent").value());
        errors.immutable(&controller, old.dig(&["reportingComponent"]));
        return errors.0;
    }
    if !root.at("eventTime").given() {
        errors.required(&root.at("eventTime"), "");
    }
    let kind = root.at("type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        errors.invalid_as(&kind, "", format!("has invalid value: {}", kind.text()));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        let at = root.at(field);
        let empty = at.value() == &object() || at.int() == Some(0);
        if at.given() && !empty {
            errors.invalid_as(&at, "", "needs to be unset");
        }
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn old_form() -> Value {
        json!({
            "metadata": { "name": "a.1", "namespace": "default" }, "type": "Normal", "reason": "Pulled", "message": " done\n",
            "involvedObject": { "kind": "Pod", "name": "a", "namespace": "default", "fieldPath": "spec.containers{a}" },
            "source": { "component": "kubelet", "host": "n" }, "count": 3,
            "firstTimestamp": "2026-11-21T19:00:00Z", "lastTimestamp": "2026-11-21T19:59:00Z",
        })
    }

    #[test]
    fn two_views() {
        let mut event = old_form();
        export(&mut event);
        assert_eq!(event["regarding"]["name"], "a");
        assert_eq!(event["note"], " done\n");
        assert_eq!(event["deprecatedCount"], 3);
        import(&mut event);
        assert_eq!(event, old_form());
    }

    #[test]
    fn row() {
        let now = "2026-11-21T20:00:00Z".parse().unwrap();
        assert_eq!(
            cells(&old_form(), now),
            [
                json!("60s"),
                json!("Normal"),
                json!("Pulled"),
                json!("pod/a"),
                json!("spec.containers{a}"),
                json!("kubelet, n"),
                json!("done"),
                json!("60m"),
                json!(3),
                json!("a.1"),
            ]
        );
        let new = json!({ "metadata": { "name": "b" }, "eventTime": "2026-11-21T19:59:30.000000Z", "regarding": { "kind": "Node" },
            "reportingController": "c", "series": { "count": 5, "lastObservedTime": "2026-11-21T19:59:50.000000Z" } });
        let cells = (EVENT_V1.cells)(&new, now);
        assert_eq!(cells[0], "10s");
        assert_eq!(cells[3], "node");
        assert_eq!(cells[5], "c");
        assert_eq!(cells[8], 5);
    }

    #[test]
    fn rules() {
        assert!((EVENT.validate)(&old_form(), None, None).is_empty());
        let mut other = old_form();
        other["metadata"]["namespace"] = "x".into();
        assert_eq!(
            (EVENT.validate)(&other, None, None)[0].to_string(),
            r#"involvedObject.namespace: Invalid value: "default": does not match event.namespace"#
        );
        let new = json!({ "metadata": { "name": "b", "namespace": "default" }, "regarding": { "kind": "Node" }, "type": "x",
            "deprecatedCount": 1 });
        let texts: Vec<String> = strict(&new, None, None).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "eventTime: Required value",
                r#"type: Invalid value: "": has invalid value: x"#,
                r#"count: Invalid value: "": needs to be unset"#
            ]
        );
        let good = json!({ "metadata": { "name": "b", "namespace": "default" }, "regarding": { "kind": "Node" }, "type": "Normal",
            "eventTime": "2026-11-21T19:59:30.000000Z", "reportingController": "a/b", "reportingInstance": "i",
            "action": "Do", "reason": "Done" });
        assert_eq!(strict(&good, None, None), []);
        let mut changed = good.clone();
        changed["note"] = "other".into();
        assert_eq!(
            strict(&changed, Some(&good), None)[0].to_string(),
            r#"message: Invalid value: "other": field is immutable"#
        );
    }
}
