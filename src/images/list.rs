//! What there is: lists, and everything about one.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use tonic::transport::Channel;
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::{Image, ListImagesRequest};
use vaquita_proto::node::images_client::ImagesClient;
use vaquita_proto::node::{InspectRequest, InspectResponse};

use super::{MAX_MESSAGE, complain, id};
use crate::options::Output;
use crate::{client, size, table, terminal};

pub(super) async fn list(channel: Channel, quiet: bool, digests: bool, output: Output) -> Result<ExitCode> {
    let mut images = ImageServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .list_images(ListImagesRequest::default())
        .await
        .map_err(|status| client::told(&status))?
        .into_inner()
        .images;
    // Those without a name last.
    let key = |image: &Image| (image.repo_tags.is_empty(), image.repo_tags.clone(), image.id.clone());
    images.sort_by_key(key);
    if quiet {
        terminal::out(&images.iter().map(|image| format!("{}\n", image.id)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    if output == Output::Json {
        let line = |image: &Image| {
            let object = json!({
                "id": image.id,
                "tags": image.repo_tags,
                "digests": image.repo_digests,
                "size": image.size,
                "pinned": image.pinned,
            });
            format!("{object}\n")
        };
        terminal::out(&images.iter().map(line).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = images.iter().flat_map(|image| rows(image, digests)).collect();
    let header: &[&str] = if digests { &["IMAGE", "DIGEST", "ID", "SIZE"] } else { &["IMAGE", "ID", "SIZE"] };
    terminal::out(&table::render(header, &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// A row for each tag; where there is none, for each digest.
fn rows(image: &Image, digests: bool) -> Vec<Vec<String>> {
    let (id, size) = (id(&image.id).to_owned(), size::bytes(image.size));
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    let none = ["<none>".to_owned()];
    let names = if names.is_empty() { &none[..] } else { names };
    let row = |name: &String| {
        let repository = |name: &str| {
            let end = name.rfind('/').map_or(0, |slash| slash);
            name[end..].find([':', '@']).map_or(name, |colon| &name[..end + colon]).to_owned()
        };
        let digest = || {
            let mut parts = image.repo_digests.iter().filter_map(|digest| digest.split_once('@'));
            let found = parts.find(|(name_of, _)| *name_of == repository(name));
            found.map_or("<none>", |(_, digest)| digest).to_owned()
        };
        let digest = digests.then(digest);
        [Some(name.clone()), digest, Some(id.clone()), Some(size.clone())].into_iter().flatten().collect()
    };
    names.iter().map(row).collect()
}

pub(super) async fn inspect(channel: Channel, images: Vec<String>, output: Output) -> Result<ExitCode> {
    let mut client = ImagesClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut code = ExitCode::SUCCESS;
    for image in images {
        match client.inspect(InspectRequest { image: image.clone() }).await {
            Ok(answer) => {
                let object = described(&answer.into_inner());
                match output {
                    Output::Json => terminal::out(&format!("{object}\n"))?,
                    Output::Text => terminal::out(&format!("{object:#}\n"))?,
                }
            }
            Err(status) => code = complain(&image, &status)?,
        }
    }
    Ok(code)
}

fn described(image: &InspectResponse) -> Value {
    let document = |text: &str| serde_json::from_str::<Value>(text).unwrap_or(Value::Null);
    let (manifest, config) = (document(&image.manifest), document(&image.config));
    let blob = |index: usize| manifest.pointer(&format!("/layers/{index}")).cloned().unwrap_or(Value::Null);
    let layers: Vec<Value> = image
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            json!({
                "diffId": layer.diff_id,
                "chainId": layer.chain_id,
                "blob": blob(index),
                "diskBytes": layer.bytes,
                "files": layer.inodes,
                "images": layer.images,
                "path": layer.path,
            })
        })
        .collect();
    let text = |value: &str| if value.is_empty() { Value::Null } else { value.into() };
    let stored = jiff::Timestamp::from_nanosecond(image.stored_at.into()).ok();
    json!({
        "id": image.id,
        "tags": image.tags,
        "digests": image.digests,
        "size": image.size,
        "diskBytes": image.layers.iter().map(|layer| layer.bytes).sum::<u64>(),
        "created": text(&image.created),
        "storedAt": stored.map(|time| time.to_string()),
        "pinned": image.pinned,
        "artifactType": text(&image.artifact_type),
        "containers": image.containers,
        "layers": layers,
        "config": config,
        "manifest": manifest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_name() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let mut image = Image {
            id: digest.clone(),
            repo_tags: vec!["localhost:5000/a/b:1".into(), "docker.io/library/c:2".into()],
            repo_digests: vec![format!("localhost:5000/a/b@{digest}")],
            size: 2048,
            ..Image::default()
        };
        let shown = rows(&image, true);
        assert_eq!(shown[0], ["localhost:5000/a/b:1", &digest, "ababababababa", "2.0 KiB"]);
        assert_eq!(shown[1], ["docker.io/library/c:2", "<none>", "ababababababa", "2.0 KiB"]);
        image.repo_tags.clear();
        assert_eq!(rows(&image, false)[0][0], image.repo_digests[0]);
        image.repo_digests.clear();
        assert_eq!(rows(&image, false), [["<none>", "ababababababa", "2.0 KiB"]]);
    }
}
