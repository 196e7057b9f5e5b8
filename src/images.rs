//! `vaquita image`: what it does about images, by requests to the daemon.

mod list;
mod remove;
mod transfer;
mod usage;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::options::{Image, ImageCommand, Node};
use crate::{client, credentials, terminal};

/// The largest answer that is accepted: a list as kubelet takes it, or two documents of an image.
const MAX_MESSAGE: usize = 16 << 20;

pub(crate) fn main(node: &Node, args: Image) -> Result<ExitCode> {
    client::need_root("image")?;
    client::block_on(async {
        let channel = client::connect_or_start(node).await?.channel;
        match args.command {
            ImageCommand::Du { format } => usage::usage(channel, format.output).await,
            ImageCommand::Inspect { images, format } => list::inspect(channel, images, format.output).await,
            ImageCommand::Load { file, input, format } => {
                transfer::load(channel, file.or(input), format.output).await
            }
            ImageCommand::Ls { quiet, digests, format } => {
                list::list(channel, quiet, digests, format.output).await
            }
            ImageCommand::Prune { all, format } => remove::prune(channel, all, format.output).await,
            ImageCommand::Pull { reference, creds, authfile, format } => {
                let request = credentials::request(&reference, creds, authfile.as_deref());
                let request = request.await.with_context(|| format!("cannot pull {reference}"))?;
                transfer::pull(channel, request, format.output).await
            }
            ImageCommand::Rm { images, format } => remove::remove(channel, images, format.output).await,
            ImageCommand::Save { images, output } => transfer::save(channel, images, output).await,
            ImageCommand::Tag { image, tag, format } => remove::tag(channel, image, tag, format.output).await,
        }
    })
}

/// As people see ids.
fn id(id: &str) -> &str {
    crate::check::short(id)
}

/// Says why something was not done, and with which image unless the daemon says so itself, and goes on with the rest.
fn complain(image: &str, status: &tonic::Status) -> Result<ExitCode> {
    let told = client::told(status).to_string();
    let about = if told.contains(image) { String::new() } else { format!("{image}: ") };
    terminal::err(&format!("vaquita: {about}{told}\n"))?;
    Ok(ExitCode::FAILURE)
}
