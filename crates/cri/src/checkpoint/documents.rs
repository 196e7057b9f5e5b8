//! What an archive says of its container, in the words of checkpointctl's library (`lib/metadata.go`), containerd and CRI-O.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::staging::Staging;
use crate::Result;
use crate::error::Doing;
use crate::model::{Container, ContainerRecord, Sandbox, SandboxRecord, now};

/// What Go's library writes for no time at all.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Writes `config.dump`, `spec.dump`, `status.dump` and `status`.
pub(super) fn write(sandbox: &Sandbox, container: &Container, spec: &Spec, staging: &Staging) -> Result<()> {
    let record = &container.record;
    staging.write("config.dump", &config(record, now()))?;
    let spec = serde_json::to_value(spec).doing(|| "write the specification")?;
    staging.write("spec.dump", &annotated(spec, &sandbox.record, record))?;
    let life = container.life();
    let status = json!({
        "id": record.id,
        "metadata": container.metadata(),
        "state": life.state() as i32,
        "created_at": record.created_at,
        "started_at": life.started_at,
        "image": record.config.image,
        "image_ref": record.image,
        "labels": record.config.labels,
        "annotations": record.config.annotations,
        "log_path": record.log_path,
    });
    staging.write("status.dump", &status)?;
    let status = json!({
        "CreatedAt": record.created_at,
        "StartedAt": life.started_at,
        "FinishedAt": 0,
        "ExitCode": 0,
        "Pid": life.pid.unwrap_or_default(),
        "Reason": "",
        "Message": "",
    });
    staging.write("status", &status)
}

fn config(record: &ContainerRecord, now: i64) -> Value {
    let image = record.config.image.clone().unwrap_or_default();
    let asked =
        if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image };
    json!({
        "id": record.id,
        "name": record.config.metadata.clone().unwrap_or_default().name,
        "rootfsImage": image.image,
        // Without its algorithm: other stores call an image so.
        "rootfsImageRef": record.image.strip_prefix("sha256:").unwrap_or(&record.image),
        "rootfsImageName": asked,
        "runtime": "vaquita",
        "createdTime": time(record.created_at),
        "checkpointedTime": time(now),
        "restoredTime": NEVER,
        "restored": false,
    })
}

/// The specification with what others look for in it to find out whose it was.
fn annotated(mut spec: Value, sandbox: &SandboxRecord, container: &ContainerRecord) -> Value {
    let pod = sandbox.config.metadata.clone().unwrap_or_default();
    let name = container.config.metadata.clone().unwrap_or_default().name;
    let own = serde_json::to_string(&container.config.annotations).unwrap_or_default();
    let all: BTreeMap<&str, String> = [
        ("io.kubernetes.cri.container-type", "container".to_owned()),
        ("io.kubernetes.cri.container-name", name),
        ("io.kubernetes.cri.sandbox-id", sandbox.id.clone()),
        ("io.kubernetes.cri.sandbox-name", pod.name),
        ("io.kubernetes.cri.sandbox-namespace", pod.namespace),
        ("io.kubernetes.cri.sandbox-uid", pod.uid),
        ("io.kubernetes.cri-o.Annotations", own),
    ]
    .into();
    spec["annotations"] = json!(all);
    spec
}

/// Nanoseconds since 1970 as RFC 3339 has it.
fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(nanoseconds.into()).map_or_else(|_| NEVER.to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_go_reads_them() {
        assert_eq!(time(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(1_700_000_000_120_000_000), "2023-11-14T22:13:20.12Z");
    }
}
