//! Names that images get and lose, and what goes with the last one.

use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::json;
use tonic::transport::Channel;
use vaquita_proto::node::images_client::ImagesClient;
use vaquita_proto::node::{DeleteRequest, Deleted, PruneRequest, TagRequest};

use super::{complain, id};
use crate::options::Output;
use crate::{client, size, terminal};

pub(super) async fn tag(channel: Channel, image: String, tag: String, output: Output) -> Result<ExitCode> {
    let request = TagRequest { image: image.clone(), tag: tag.clone() };
    let answer = ImagesClient::new(channel).tag(request).await;
    let answer = answer.map_err(|status| client::told(&status));
    let tagged = answer.with_context(|| format!("cannot call {image} {tag}"))?.into_inner();
    match output {
        Output::Text => terminal::out(&format!("{} {}\n", tagged.tag, id(&tagged.id)))?,
        Output::Json => terminal::out(&format!("{}\n", json!({ "id": tagged.id, "tag": tagged.tag })))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn remove(channel: Channel, images: Vec<String>, output: Output) -> Result<ExitCode> {
    let mut client = ImagesClient::new(channel);
    let mut code = ExitCode::SUCCESS;
    for image in images {
        match client.delete(DeleteRequest { image: image.clone() }).await {
            Ok(answer) => terminal::out(&said(&answer.into_inner(), output))?,
            Err(status) => code = complain(&image, &status)?,
        }
    }
    Ok(code)
}

pub(super) async fn prune(channel: Channel, all: bool, output: Output) -> Result<ExitCode> {
    let answer = ImagesClient::new(channel).prune(PruneRequest { all }).await;
    let gone = answer.map_err(|status| client::told(&status))?.into_inner().images;
    let mut text: String = gone.iter().map(|image| said(image, output)).collect();
    if output == Output::Text {
        let bytes = gone.iter().map(|image| image.bytes_freed).sum();
        text += &match gone.len() {
            0 if all => "nothing to remove\n".to_owned(),
            0 => "nothing to remove; with --all images go that have tags, too\n".to_owned(),
            count => format!("{count} removed, {} freed\n", size::bytes(bytes)),
        };
    }
    terminal::out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What became of one image, with the ends of the lines.
fn said(image: &Deleted, output: Output) -> String {
    if output == Output::Json {
        let object = json!({
            "id": image.id,
            "untagged": image.untagged,
            "removed": image.removed,
            "bytesFreed": image.bytes_freed,
            "containers": image.containers,
        });
        return format!("{object}\n");
    }
    let mut text: String = image.untagged.iter().map(|name| format!("untagged {name}\n")).collect();
    if image.removed {
        let freed = size::bytes(image.bytes_freed);
        text += &match image.containers.len() {
            0 => format!("removed {}, {freed} freed\n", id(&image.id)),
            1 => format!(
                "removed {}, {freed} freed; a container keeps its layers until it goes\n",
                id(&image.id)
            ),
            count => format!(
                "removed {}, {freed} freed; {count} containers keep its layers until they go\n",
                id(&image.id)
            ),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_removal() {
        let mut image = Deleted {
            id: format!("sha256:{}", "ab".repeat(32)),
            untagged: vec!["docker.io/library/a:1".into()],
            ..Deleted::default()
        };
        assert_eq!(said(&image, Output::Text), "untagged docker.io/library/a:1\n");
        image.removed = true;
        image.bytes_freed = 3 << 20;
        assert_eq!(
            said(&image, Output::Text),
            "untagged docker.io/library/a:1\nremoved ababababababa, 3.0 MiB freed\n"
        );
        image.containers = vec!["c".into(), "d".into()];
        assert!(said(&image, Output::Text).ends_with("; 2 containers keep its layers until they go\n"));
        let object: serde_json::Value = serde_json::from_str(&said(&image, Output::Json)).unwrap();
        assert_eq!((&object["removed"], &object["bytesFreed"]), (&true.into(), &(3 << 20).into()));
    }
}
