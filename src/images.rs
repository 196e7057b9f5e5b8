//! `vaquita image`: pull, load, list and remove.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use vaquita_proto::cri::image_service_client::ImageServiceClient;
use vaquita_proto::cri::{ImageSpec, ListImagesRequest, RemoveImageRequest};
use vaquita_proto::node::node_client::NodeClient;
use vaquita_proto::node::{ImageProgress, LoadImageRequest, PullImageRequest};

use crate::check::short;
use crate::options::{Image, ImageCommand, Node, Output};
use crate::terminal::{Style, printable};
use crate::{client, credentials, size, table, terminal};

/// The largest list that is accepted, as kubelet sets it.
const MAX_MESSAGE: usize = 16 << 20;

pub(crate) fn main(node: &Node, args: Image) -> Result<ExitCode> {
    client::need_root("image")?;
    client::block_on(async {
        let channel = client::connect_or_start(node).await?.channel;
        match args.command {
            ImageCommand::Load { file } => load(channel, &file, args.output).await,
            ImageCommand::Ls => list(channel, args.output).await,
            ImageCommand::Pull { reference, creds, authfile } => {
                let request = credentials::request(&reference, creds, authfile.as_deref());
                let request = request.await.with_context(|| format!("cannot pull {reference}"))?;
                pull(channel, request, args.output).await
            }
            ImageCommand::Rm { images } => remove(channel, &images, args.output).await,
        }
    })
}

async fn list(channel: Channel, output: Output) -> Result<ExitCode> {
    let mut images = ImageServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE)
        .list_images(ListImagesRequest::default())
        .await
        .map_err(|status| client::told(&status))?
        .into_inner()
        .images;
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags).then_with(|| a.id.cmp(&b.id)));
    if output == Output::Json {
        for image in images {
            let object = serde_json::json!({
                "id": image.id,
                "tags": image.repo_tags,
                "digests": image.repo_digests,
                "size": image.size,
            });
            terminal::out(&format!("{object}\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = images
        .iter()
        .flat_map(|image| {
            let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
            let none = ["<none>".to_owned()];
            let names = if names.is_empty() { &none[..] } else { names };
            names
                .iter()
                .map(|name| vec![name.clone(), short(&image.id).to_owned(), size::bytes(image.size)])
                .collect::<Vec<_>>()
        })
        .collect();
    terminal::out(&table::render(&["IMAGE", "ID", "SIZE"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(channel: Channel, images: &[String], output: Output) -> Result<ExitCode> {
    let mut client = ImageServiceClient::new(channel);
    let mut code = ExitCode::SUCCESS;
    for name in images {
        let spec = ImageSpec { image: name.clone(), ..ImageSpec::default() };
        // CRI's RemoveImage is content with an image that is not there; a person wants to know.
        let status = vaquita_proto::cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let found = client.image_status(status).await.map(|answer| answer.into_inner().image);
        let result = match found {
            Ok(None) => Err("no such image".to_owned()),
            Ok(Some(_)) => client
                .remove_image(RemoveImageRequest { image: Some(spec) })
                .await
                .map(|_| ())
                .map_err(|status| status.message().to_owned()),
            Err(status) => Err(status.message().to_owned()),
        };
        match (result, output) {
            (Ok(()), Output::Text) => terminal::out(&format!("removed {name}\n"))?,
            (Ok(()), Output::Json) => {
                terminal::out(&format!("{}\n", serde_json::json!({ "removed": name })))?
            }
            (Err(why), _) => {
                terminal::err(&format!("vaquita: {name}: {why}\n"))?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn pull(channel: Channel, request: PullImageRequest, output: Output) -> Result<ExitCode> {
    let reference = request.reference.clone();
    let stream =
        NodeClient::new(channel).pull_image(request).await.map_err(|status| client::told(&status))?;
    follow(stream.into_inner(), output).await.with_context(|| format!("cannot pull {reference}"))
}

async fn load(channel: Channel, file: &Path, output: Output) -> Result<ExitCode> {
    let (input, total): (Box<dyn AsyncRead + Send + Unpin>, u64) = if file == Path::new("-") {
        (Box::new(tokio::fs::File::from_std(std::io::stdin().as_fd().try_clone_to_owned()?.into())), 0)
    } else {
        let opened =
            tokio::fs::File::open(file).await.with_context(|| format!("cannot open {}", file.display()))?;
        let length = opened.metadata().await.map_or(0, |metadata| metadata.len());
        (Box::new(opened), length)
    };
    let (pieces, mut unread) = pieces(input);
    let stream = NodeClient::new(channel).load_image(pieces).await.map_err(|status| client::told(&status))?;
    let stream = stream.into_inner().map(move |message| {
        message.map(|mut progress| {
            if progress.bytes_total == 0 {
                progress.bytes_total = total;
            }
            progress
        })
    });
    let result = follow(stream, output).await;
    // What could not be read is the better reason than an archive that ends too early.
    let result = unread.try_recv().map_or(result, |error| Err(error.into()));
    result.with_context(|| format!("cannot load {}", file.display()))
}

/// The file as messages, and where its reading failed the reason.
fn pieces(
    mut input: Box<dyn AsyncRead + Send + Unpin>,
) -> (impl tokio_stream::Stream<Item = LoadImageRequest>, oneshot::Receiver<std::io::Error>) {
    const PIECE: usize = 256 << 10;
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let (failed, unread) = oneshot::channel();
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = match input.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    // The receiver lives until the transfer has ended.
                    let _ = failed.send(error);
                    break;
                }
            };
            if sender.send(LoadImageRequest { data: buffer[..read].to_vec() }).await.is_err() {
                break;
            }
        }
    });
    (tokio_stream::wrappers::ReceiverStream::new(receiver), unread)
}

/// Shows the progress of a transfer until it is done.
async fn follow(
    mut stream: impl tokio_stream::Stream<Item = Result<ImageProgress, tonic::Status>> + Unpin,
    output: Output,
) -> Result<ExitCode> {
    let style = Style::of_stderr();
    let started = Instant::now();
    let mut last = None;
    while let Some(progress) = stream.next().await {
        let progress = progress.map_err(|status| client::told(&status));
        if let (Output::Text, Some(columns)) = (output, style.columns) {
            let line =
                progress.as_ref().map(|progress| bar(progress, started.elapsed().as_secs_f64(), columns));
            terminal::err(&format!("\r\x1b[K{}", line.unwrap_or_default()))?;
        }
        let progress = progress?;
        if output == Output::Json {
            terminal::out(&json(&progress))?;
        }
        last = Some(progress);
    }
    if style.columns.is_some() && output == Output::Text {
        terminal::err("\r\x1b[K")?;
    }
    let last = last.filter(|progress| progress.done).context("the daemon went away before it was done")?;
    if output == Output::Text {
        let time = size::duration(started.elapsed());
        for (name, id) in
            last.references.iter().zip(last.image_ids.iter().map(String::as_str).chain(std::iter::repeat("")))
        {
            terminal::out(&format!("{} {} ({time})\n", printable(name, Style::PLAIN), short(id)))?;
        }
        if last.references.is_empty() {
            last.image_ids.iter().try_for_each(|id| terminal::out(&format!("{} ({time})\n", short(id))))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `busybox [####....] 3.1 MiB of 5.9 MiB, 11 MiB/s, layer 1 of 2`, cut to the width of the terminal.
fn bar(progress: &ImageProgress, seconds: f64, columns: usize) -> String {
    let name = printable(&progress.reference, Style::PLAIN);
    let line = crate::run::transfer_line(
        &name,
        (progress.bytes_done, progress.bytes_total),
        (progress.layers_done.into(), progress.layers_total.into()),
        seconds,
    );
    line.chars().take(columns.saturating_sub(1)).collect()
}

fn json(progress: &ImageProgress) -> String {
    let object = serde_json::json!({
        "reference": progress.reference,
        "bytesDone": progress.bytes_done,
        "bytesTotal": progress.bytes_total,
        "layersDone": progress.layers_done,
        "layersTotal": progress.layers_total,
        "images": progress.image_ids,
        "references": progress.references,
        "done": progress.done,
    });
    format!("{object}\n")
}
