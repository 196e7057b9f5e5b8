//! What takes which part of the disk.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;
use tonic::transport::Channel;
use vaquita_proto::node::images_client::ImagesClient;
use vaquita_proto::node::{ContainerUsage, DiskUsageRequest, DiskUsageResponse, ImageUsage};

use super::{MAX_MESSAGE, id};
use crate::options::Output;
use crate::{client, size, table, terminal};

/// What each kind is, in the order in which they are shown.
const KINDS: [(&str, &str); 12] = [
    ("layers", "files of layers"),
    ("replaced", "files that their own layer replaced; kept for saving it"),
    ("recipes", "what makes the tar of a layer again"),
    ("writable", "what containers have written"),
    ("documents", "manifests and configurations"),
    ("notes", "what is known of layers"),
    ("partial", "beginnings of layers, for the next pull"),
    ("unfinished", "coming in, or left by a pull for the next one"),
    ("database", "the transaction log"),
    ("reserve", "kept back for the day on which the disk is full"),
    ("directories", "directories themselves"),
    ("foreign", "not of vaquita"),
];

pub(super) async fn usage(channel: Channel, output: Output) -> Result<ExitCode> {
    let answer = ImagesClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .disk_usage(DiskUsageRequest {})
        .await;
    let usage = answer.map_err(|status| client::told(&status))?.into_inner();
    terminal::out(&match output {
        Output::Text => text(&usage),
        Output::Json => lines(&usage),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(usage: &DiskUsageResponse) -> String {
    let mut text = String::new();
    if !usage.images.is_empty() {
        let rows: Vec<Vec<String>> = usage.images.iter().map(image).collect();
        let header = ["IMAGE", "ID", "LAYERS", "SHARED", "EXCLUSIVE", "CONTAINERS"];
        text += &format!("{}\n", table::render(&header, &rows));
    }
    if !usage.containers.is_empty() {
        let rows: Vec<Vec<String>> = usage.containers.iter().map(container).collect();
        text += &format!("{}\n", table::render(&["CONTAINER", "ID", "IMAGE", "WRITTEN"], &rows));
    }
    let mut rows = Vec::new();
    for (kind, what) in KINDS {
        if let Some(part) = usage.parts.iter().find(|part| part.kind == kind) {
            let row = [kind.to_owned(), part.count.to_string(), size::bytes(part.bytes), what.to_owned()];
            rows.push(row.into());
        }
    }
    let total = ["all".into(), String::new(), size::bytes(usage.bytes), usage.directory.clone()];
    rows.push(total.into());
    text + &table::render(&["PART", "COUNT", "SIZE", "WHAT IT IS"], &rows)
}

fn image(image: &ImageUsage) -> Vec<String> {
    vec![
        image.tags.first().cloned().unwrap_or_else(|| "<none>".into()),
        id(&image.id).to_owned(),
        image.layers.to_string(),
        size::bytes(image.bytes_shared),
        size::bytes(image.bytes_exclusive),
        image.containers.to_string(),
    ]
}

fn container(container: &ContainerUsage) -> Vec<String> {
    let name = match container.name.as_str() {
        "" => "<none>".to_owned(),
        name => format!("{}/{name}", container.pod),
    };
    vec![name, id(&container.id).to_owned(), id(&container.image).to_owned(), size::bytes(container.bytes)]
}

/// An object for each image, container and part, and one for all.
fn lines(usage: &DiskUsageResponse) -> String {
    let images = usage.images.iter().map(|image| {
        json!({
            "type": "image",
            "id": image.id,
            "tags": image.tags,
            "layers": image.layers,
            "bytesShared": image.bytes_shared,
            "bytesExclusive": image.bytes_exclusive,
            "containers": image.containers,
        })
    });
    let containers = usage.containers.iter().map(|container| {
        json!({
            "type": "container",
            "id": container.id,
            "pod": container.pod,
            "name": container.name,
            "image": container.image,
            "bytes": container.bytes,
        })
    });
    let parts = usage
        .parts
        .iter()
        .map(|part| json!({ "type": "part", "part": part.kind, "count": part.count, "bytes": part.bytes }));
    let all = json!({ "type": "all", "directory": usage.directory, "bytes": usage.bytes });
    images.chain(containers).chain(parts).chain([all]).map(|object| format!("{object}\n")).collect()
}

#[cfg(test)]
mod tests {
    use vaquita_proto::node::DiskPart;

    use super::*;

    fn usage() -> DiskUsageResponse {
        let part = |kind: &str, bytes, count| DiskPart { kind: kind.into(), bytes, count };
        DiskUsageResponse {
            directory: "/var/lib/vaquita/images".into(),
            bytes: 5 << 20,
            parts: vec![part("database", 1 << 20, 1), part("layers", 4 << 20, 2)],
            images: vec![ImageUsage {
                id: "ab".repeat(32),
                tags: vec!["docker.io/library/a:1".into()],
                bytes_shared: 1 << 20,
                bytes_exclusive: 3 << 20,
                layers: 2,
                containers: 1,
            }],
            containers: vec![ContainerUsage {
                id: "cd".repeat(32),
                pod: "web".into(),
                name: "main".into(),
                image: "ab".repeat(32),
                bytes: 4096,
            }],
        }
    }

    #[test]
    fn what_is_shown() {
        let shown = "\
            IMAGE                  ID             LAYERS  SHARED   EXCLUSIVE  CONTAINERS\n\
            docker.io/library/a:1  ababababababa  2       1.0 MiB  3.0 MiB    1\n\
            \n\
            CONTAINER  ID             IMAGE          WRITTEN\n\
            web/main   cdcdcdcdcdcdc  ababababababa  4.0 KiB\n\
            \n\
            PART      COUNT  SIZE     WHAT IT IS\n\
            layers    2      4.0 MiB  files of layers\n\
            database  1      1.0 MiB  the transaction log\n\
            all              5.0 MiB  /var/lib/vaquita/images\n";
        assert_eq!(text(&usage()), shown);
    }

    #[test]
    fn the_lines_have_stable_fields() {
        let text = lines(&usage());
        let fields = text.lines().map(|line| {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            object.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        });
        let expected = [
            "type id tags layers bytesShared bytesExclusive containers",
            "type id pod name image bytes",
            "type part count bytes",
            "type part count bytes",
            "type directory bytes",
        ];
        assert_eq!(fields.collect::<Vec<_>>(), expected);
    }
}
