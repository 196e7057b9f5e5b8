//! How a pod is shown in a table (`printPod`).

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::at::Read;
use crate::{Column, time};

pub(super) const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready"),
    Column::text("Status"),
    Column::text("Restarts"),
    Column::AGE,
    Column::text("IP").wide(),
    Column::text("Node").wide(),
    Column::text("Nominated Node").wide(),
    Column::text("Readiness Gates").wide(),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let shown = Shown::of(pod);
    let restarts = match shown.last_restart {
        Some(last) if shown.restarts != 0 => {
            format!("{} ({} ago)", shown.restarts, time::age(&time::format(last).into(), now))
        }
        _ => shown.restarts.to_string(),
    };
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let ip = pod.list(&["status", "podIPs"]).first().map_or("", |ip| ip.text(&["ip"]));
    [
        pod.text(&["metadata", "name"]).to_owned(),
        format!("{}/{}", shown.ready, shown.total),
        shown.reason,
        restarts,
        time::age(pod.dig(&["metadata", "creationTimestamp"]), now),
        or_none(ip),
        or_none(pod.text(&["spec", "nodeName"])),
        or_none(pod.text(&["status", "nominatedNodeName"])),
        gates(pod),
    ]
    .map(Value::String)
    .into()
}

fn gates(pod: &Value) -> String {
    let gates = pod.list(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition(pod, gate.text(&["conditionType"])) == "True").count();
    format!("{open}/{}", gates.len())
}

/// The status of a condition; empty if there is none.
fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod.list(&["status", "conditions"]).iter();
    conditions.filter(|one| one.text(&["type"]) == kind).map(|one| one.text(&["status"])).next().unwrap_or("")
}

struct Shown {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts of some containers, and when the last of them ended before.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += status.number(&["restartCount"]);
        // None sorts before every time.
        self.last = self.last.max(time::parse(status.dig(&["lastState", "terminated", "finishedAt"])));
    }
}

impl Shown {
    fn of(pod: &Value) -> Self {
        let phase = pod.text(&["status", "phase"]);
        let mut reason = match pod.text(&["status", "reason"]) {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        let gated =
            |one: &Value| one.text(&["type"]) == "PodScheduled" && one.text(&["reason"]) == "SchedulingGated";
        if pod.list(&["status", "conditions"]).iter().any(gated) {
            "SchedulingGated".clone_into(&mut reason);
        }
        let sidecars = || {
            let inits = pod.list(&["spec", "initContainers"]).iter();
            inits.filter(|one| one.text(&["restartPolicy"]) == "Always").map(|one| one.text(&["name"]))
        };
        let mut shown = Self {
            ready: 0,
            total: pod.list(&["spec", "containers"]).len() + sidecars().count(),
            reason,
            restarts: 0,
            last_restart: None,
        };
        let is_sidecar = |name: &str| sidecars().any(|sidecar| sidecar == name);
        let (mut restarts, initializing) = shown.inits(pod, &is_sidecar);
        if !initializing || condition(pod, "Initialized") == "True" {
            restarts = Restarts::default();
            let inits = pod.list(&["status", "initContainerStatuses"]).iter();
            inits.filter(|one| is_sidecar(one.text(&["name"]))).for_each(|one| restarts.add(one));
            shown.containers(pod, &mut restarts);
        }
        if !pod.dig(&["metadata", "deletionTimestamp"]).is_null() {
            if pod.text(&["status", "reason"]) == "NodeLost" {
                "Unknown".clone_into(&mut shown.reason);
            } else if !matches!(phase, "Failed" | "Succeeded") {
                "Terminating".clone_into(&mut shown.reason);
            }
        }
        (shown.restarts, shown.last_restart) = (restarts.count, restarts.last);
        shown
    }

    /// What the init containers say, up to the first that has not ended well. Returns their restarts and whether they
    /// are still at it.
    fn inits(&mut self, pod: &Value, is_sidecar: &dyn Fn(&str) -> bool) -> (Restarts, bool) {
        let mut restarts = Restarts::default();
        for (index, status) in pod.list(&["status", "initContainerStatuses"]).iter().enumerate() {
            restarts.add(status);
            let terminated = status.dig(&["state", "terminated"]);
            if !terminated.is_null() && terminated.number(&["exitCode"]) == 0 {
                continue;
            }
            if is_sidecar(status.text(&["name"])) && status.yes(&["started"]) {
                self.ready += usize::from(status.yes(&["ready"]));
                continue;
            }
            let waiting = status.text(&["state", "waiting", "reason"]);
            self.reason = if !terminated.is_null() {
                format!("Init:{}", ended(terminated))
            } else if !matches!(waiting, "" | "PodInitializing") {
                format!("Init:{waiting}")
            } else {
                format!("Init:{index}/{}", pod.list(&["spec", "initContainers"]).len())
            };
            return (restarts, true);
        }
        (restarts, false)
    }

    /// What the containers say; the first has the last word.
    fn containers(&mut self, pod: &Value, restarts: &mut Restarts) {
        let (mut running, mut failed) = (false, None);
        for status in pod.list(&["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let terminated = status.dig(&["state", "terminated"]);
            let waiting = status.text(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut self.reason);
            } else if !terminated.is_null() {
                self.reason = ended(terminated);
                if terminated.number(&["exitCode"]) != 0 {
                    failed = Some(self.reason.clone());
                }
            } else if status.yes(&["ready"]) && !status.dig(&["state", "running"]).is_null() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            self.reason = match failed {
                _ if running && condition(pod, "Ready") == "True" => "Running".to_owned(),
                Some(failed) => failed,
                None if running => "NotReady".to_owned(),
                None => "Completed".to_owned(),
            };
        }
    }
}

fn ended(terminated: &Value) -> String {
    match (terminated.text(&["reason"]), terminated.number(&["signal"])) {
        ("", 0) => format!("ExitCode:{}", terminated.number(&["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(spec: Value, status: Value) -> String {
        let pod = json!({
            "metadata": { "name": "a", "creationTimestamp": "2026-11-21T19:55:00Z" }, "spec": spec, "status": status,
        });
        let cells = cells(&pod, "2026-11-21T20:00:00Z".parse().unwrap());
        assert_eq!(cells.len(), COLUMNS.len());
        cells[1..5].iter().map(|cell| cell.as_str().unwrap()).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn phases() {
        let one = || json!({ "containers": [{ "name": "a" }] });
        let with = |state: Value| json!({ "phase": "Running", "containerStatuses": [{ "name": "a", "state": state }] });
        for (status, expected) in [
            (json!({ "phase": "Pending" }), "0/1 | Pending | 0 | 5m"),
            (json!({ "phase": "Failed", "reason": "Evicted" }), "0/1 | Evicted | 0 | 5m"),
            (
                with(json!({ "waiting": { "reason": "ContainerCreating" } })),
                "0/1 | ContainerCreating | 0 | 5m",
            ),
            (
                with(json!({ "terminated": { "exitCode": 0, "reason": "Completed" } })),
                "0/1 | Completed | 0 | 5m",
            ),
            (with(json!({ "terminated": { "exitCode": 3 } })), "0/1 | ExitCode:3 | 0 | 5m"),
            (with(json!({ "terminated": { "exitCode": 137, "signal": 9 } })), "0/1 | Signal:9 | 0 | 5m"),
            (
                with(json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } })),
                "0/1 | OOMKilled | 0 | 5m",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": [{ "ready": true, "restartCount": 3, "state": { "running": {} },
                    "lastState": { "terminated": { "finishedAt": "2026-11-21T19:59:50Z" } } }] }),
                "1/1 | Running | 3 (10s ago) | 5m",
            ),
            (
                json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "reason": "SchedulingGated" }] }),
                "0/1 | SchedulingGated | 0 | 5m",
            ),
        ] {
            assert_eq!(row(one(), status), expected);
        }
    }

    #[test]
    fn init_containers() {
        let spec = json!({ "containers": [{ "name": "a" }],
            "initContainers": [{ "name": "side", "restartPolicy": "Always" }, { "name": "b" }] });
        let side = || json!({ "name": "side", "started": true, "ready": true, "state": { "running": {} } });
        let status = |state: Value| {
            let inits = json!([side(), { "name": "b", "restartCount": 2, "state": state }]);
            json!({ "phase": "Pending", "initContainerStatuses": inits,
                "containerStatuses": [{ "name": "a", "state": { "waiting": { "reason": "PodInitializing" } } }] })
        };
        for (state, expected) in [
            (json!({ "running": {} }), "1/2 | Init:1/2 | 2 | 5m"),
            (json!({ "waiting": { "reason": "PodInitializing" } }), "1/2 | Init:1/2 | 2 | 5m"),
            (json!({ "waiting": { "reason": "CrashLoopBackOff" } }), "1/2 | Init:CrashLoopBackOff | 2 | 5m"),
            (json!({ "terminated": { "exitCode": 1, "reason": "Error" } }), "1/2 | Init:Error | 2 | 5m"),
            (json!({ "terminated": { "exitCode": 1 } }), "1/2 | Init:ExitCode:1 | 2 | 5m"),
            (json!({ "terminated": { "exitCode": 0 } }), "1/2 | PodInitializing | 0 | 5m"),
        ] {
            assert_eq!(row(spec.clone(), status(state)), expected);
        }
    }

    #[test]
    fn several_containers() {
        let spec = json!({ "containers": [{}, {}] });
        let done = json!({ "state": { "terminated": { "exitCode": 0, "reason": "Completed" } } });
        let up = json!({ "ready": true, "state": { "running": {} } });
        let failed = json!({ "state": { "terminated": { "exitCode": 1, "reason": "Error" } } });
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        for (statuses, conditions, expected) in [
            (json!([done, up]), json!([]), "1/2 | NotReady | 0 | 5m"),
            (json!([done, up]), ready, "1/2 | Running | 0 | 5m"),
            (json!([done, failed]), json!([]), "0/2 | Error | 0 | 5m"),
            (json!([done, done]), json!([]), "0/2 | Completed | 0 | 5m"),
        ] {
            let status =
                json!({ "phase": "Running", "containerStatuses": statuses, "conditions": conditions });
            assert_eq!(row(spec.clone(), status), expected);
        }
    }

    #[test]
    fn deletion() {
        let mut pod = json!({
            "metadata": { "name": "a", "creationTimestamp": "2026-11-21T20:00:00Z", "deletionTimestamp": "2026-11-21T20:00:30Z" },
            "spec": { "containers": [{}], "nodeName": "n", "readinessGates": [{ "conditionType": "x" }, { "conditionType": "y" }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }], "conditions": [{ "type": "x", "status": "True" }] },
        });
        let now = "2026-11-21T20:00:00Z".parse().unwrap();
        assert_eq!(
            cells(&pod, now),
            ["a", "0/1", "Terminating", "0", "0s", "10.0.0.1", "n", "<none>", "1/2"]
        );
        pod["status"]["phase"] = "Succeeded".into();
        assert_eq!(cells(&pod, now)[2], "Succeeded");
        pod["status"]["reason"] = "NodeLost".into();
        assert_eq!(cells(&pod, now)[2], "Unknown");
    }
}
