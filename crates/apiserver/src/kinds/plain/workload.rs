//! How workloads are shown, and the rules for their templates of pods.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, labels, name, or, selector};
use crate::kinds::at::{At, Read};
use crate::kinds::errors::Errors;
use crate::kinds::pod_template as check_template;
use crate::{Column, ColumnKind, FieldError, Subresource, time};

const CONTAINERS: Column = Column::text("Containers").wide();
const IMAGES: Column = Column::text("Images").wide();
const SELECTOR: Column = Column::text("Selector").wide();

/// The template of pods of a workload, and that the selector of an existing one stays.
pub(super) fn validate(
    value: &Value,
    old: Option<&Value>,
    subresource: Option<Subresource>,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    if subresource.is_some() {
        return errors.0;
    }
    let spec = At::root(value).at("spec");
    let of_jobs = spec.at("jobTemplate");
    let template = if of_jobs.given() { of_jobs.at("spec").at("template") } else { spec.at("template") };
    check_template(&mut errors, &template);
    // The selector of a ReplicationController is a map and may change.
    let selector = spec.at("selector");
    if let Some(old) = old.filter(|_| selector.at("matchLabels").given()) {
        errors.immutable(&selector, old.dig(&["spec", "selector"]));
    }
    errors.0
}

pub(super) fn validate_pod_template(
    value: &Value,
    _: Option<&Value>,
    _: Option<Subresource>,
) -> Vec<FieldError> {
    let mut errors = Errors::default();
    check_template(&mut errors, &At::root(value).at("template"));
    errors.0
}

/// Names and images of the containers of a template.
fn containers(template: &Value) -> [Value; 2] {
    let all = template.list(&["spec", "containers"]);
    ["name", "image"].map(|field| {
        all.iter().map(|container| container.text(&[field])).collect::<Vec<_>>().join(",").into()
    })
}

fn count(value: &Value, path: &[&str]) -> Value {
    value.number(path).into()
}

pub(super) const POD_TEMPLATE: &[Column] =
    &[Column::NAME, Column::text("Containers"), Column::text("Images"), Column::text("Pod Labels")];

pub(super) fn pod_template(value: &Value, _: Timestamp) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["template"]));
    vec![name(value), names, images, labels(value.dig(&["template", "metadata", "labels"])).into()]
}

pub(super) const REPLICAS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired"),
    Column::integer("Current"),
    Column::integer("Ready"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn replicas(value: &Value, now: Timestamp) -> Vec<Value> {
    counted(value, now, selector(value.dig(&["spec", "selector"])))
}

pub(super) fn controller(value: &Value, now: Timestamp) -> Vec<Value> {
    counted(value, now, labels(value.dig(&["spec", "selector"])))
}

fn counted(value: &Value, now: Timestamp, selector: String) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["spec", "template"]));
    vec![
        name(value),
        count(value, &["spec", "replicas"]),
        count(value, &["status", "replicas"]),
        count(value, &["status", "readyReplicas"]),
        age(value, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) const DEPLOYMENT: &[Column] = &[
    Column::NAME,
    Column::text("Ready"),
    Column::text("Up-to-date"),
    Column::text("Available"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn ready(value: &Value) -> Value {
    format!("{}/{}", value.number(&["status", "readyReplicas"]), value.number(&["spec", "replicas"])).into()
}

pub(super) fn deployment(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["spec", "template"]));
    vec![
        name(value),
        ready(value),
        count(value, &["status", "updatedReplicas"]),
        count(value, &["status", "availableReplicas"]),
        age(value, now),
        names,
        images,
        selector(value.dig(&["spec", "selector"])).into(),
    ]
}

pub(super) const STATEFUL: &[Column] =
    &[Column::NAME, Column::text("Ready"), Column::AGE, CONTAINERS, IMAGES];

pub(super) fn stateful(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["spec", "template"]));
    vec![name(value), ready(value), age(value, now), names, images]
}

pub(super) const DAEMONS: &[Column] = &[
    Column::NAME,
    Column::integer("Desired"),
    Column::integer("Current"),
    Column::integer("Ready"),
    Column::integer("Up-to-date"),
    Column::integer("Available"),
    Column::text("Node Selector"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn daemons(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["spec", "template"]));
    let mut cells = vec![name(value)];
    for field in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        cells.push(count(value, &["status", field]));
    }
    cells.push(labels(value.dig(&["spec", "template", "spec", "nodeSelector"])).into());
    cells.extend([age(value, now), names, images, selector(value.dig(&["spec", "selector"])).into()]);
    cells
}

pub(super) const JOB: &[Column] = &[
    Column::NAME,
    Column::text("Status"),
    Column::text("Completions"),
    Column::text("Duration"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn job(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(value.dig(&["spec", "template"]));
    let done = value.number(&["status", "succeeded"]);
    let completions = match value.dig(&["spec", "completions"]).as_i64() {
        Some(wanted) => format!("{done}/{wanted}"),
        None if value.number(&["spec", "parallelism"]) > 1 => {
            format!("{done}/1 of {}", value.number(&["spec", "parallelism"]))
        }
        None => format!("{done}/1"),
    };
    let [start, end] =
        ["startTime", "completionTime"].map(|field| time::parse(value.dig(&["status", field])));
    let duration = start
        .map_or_else(String::new, |start| time::human(end.unwrap_or(now).as_second() - start.as_second()));
    vec![
        name(value),
        job_status(value).into(),
        completions.into(),
        duration.into(),
        age(value, now),
        names,
        images,
        selector(value.dig(&["spec", "selector"])).into(),
    ]
}

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| {
        let conditions = job.list(&["status", "conditions"]).iter();
        conditions.filter(|one| one.text(&["type"]) == kind).any(|one| one.text(&["status"]) == "True")
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if !job.dig(&["metadata", "deletionTimestamp"]).is_null() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) const CRON_JOB: &[Column] = &[
    Column::NAME,
    Column::text("Schedule"),
    Column::text("Timezone"),
    Column { kind: ColumnKind::Boolean, ..Column::text("Suspend") },
    Column::integer("Active"),
    Column::text("Last Schedule"),
    Column::AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) fn cron_job(value: &Value, now: Timestamp) -> Vec<Value> {
    let job = value.dig(&["spec", "jobTemplate", "spec"]);
    let [names, images] = containers(job.dig(&["template"]));
    let last = value.dig(&["status", "lastScheduleTime"]);
    let last = if last.is_null() { "<none>".to_owned() } else { time::age(last, now) };
    let suspended = if value.yes(&["spec", "suspend"]) { "True" } else { "False" };
    vec![
        name(value),
        value.text(&["spec", "schedule"]).into(),
        or(value, &["spec", "timeZone"], "<none>"),
        suspended.into(),
        value.list(&["status", "active"]).len().into(),
        last.into(),
        age(value, now),
        names,
        images,
        selector(job.dig(&["selector"])).into(),
    ]
}

pub(super) const REVISION: &[Column] =
    &[Column::NAME, Column::text("Controller"), Column::text("Revision"), Column::AGE];

pub(super) fn revision(value: &Value, now: Timestamp) -> Vec<Value> {
    let owners = value.list(&["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|owner| owner.yes(&["controller"])).map(|owner| {
        let group = owner.text(&["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
        let kind = owner.text(&["kind"]).to_lowercase();
        let dot = if group.is_empty() { "" } else { "." };
        format!("{kind}{dot}{group}/{}", owner.text(&["name"]))
    });
    vec![
        name(value),
        controller.unwrap_or_else(|| "<none>".to_owned()).into(),
        count(value, &["revision"]),
        age(value, now),
    ]
}

pub(super) const BUDGET: &[Column] = &[
    Column::NAME,
    Column::text("Min Available"),
    Column::text("Max Unavailable"),
    Column::integer("Allowed Disruptions"),
    Column::AGE,
];

pub(super) fn budget(value: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |field: &str| match value.dig(&["spec", field]) {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        number => Value::from(number.to_string()),
    };
    vec![
        name(value),
        amount("minAvailable"),
        amount("maxUnavailable"),
        count(value, &["status", "disruptionsAllowed"]),
        age(value, now),
    ]
}
