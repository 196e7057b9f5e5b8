//! The commands about images.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::Output;

#[derive(Args, Debug)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull an image from its registry
    Pull {
        /// As in a manifest: `busybox`, `registry.example/team/app:1.2`, `…@sha256:…`
        reference: String,
        /// Credentials for the registry; better in the environment than on the command line, which everybody can read
        #[arg(long, hide_env_values = true, env = "VAQUITA_CREDS", value_name = "USER:PASSWORD")]
        #[arg(value_parser = Credentials::from_str)]
        creds: Option<Credentials>,
        /// File with credentials, as Docker's config.json, whose credential helpers are run [default: those of podman and
        /// Docker, auth.json and ~/.docker/config.json]
        #[arg(long, hide_env = true, env = "REGISTRY_AUTH_FILE", value_name = "FILE")]
        authfile: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Import the images of a tar file or directory: an OCI layout or a Docker archive, also gzipped
    Load {
        /// The file; `-` is standard input, which is also what is read where none is named and it is no terminal
        #[arg(conflicts_with = "input")]
        file: Option<PathBuf>,
        /// The same, as other tools have it
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        #[command(flatten)]
        format: Format,
    },
    /// Write images into one tar file, which is an OCI layout and a Docker archive at once
    Save {
        /// Which ones. Named by tag they have that name in the archive, by digest or id they have none
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Where to; `-` is standard output, which it is also where none is named and that is no terminal
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List the images that are there
    Ls {
        /// Their ids and nothing else
        #[arg(short, long, conflicts_with_all = ["digests", "output"])]
        quiet: bool,
        /// Also the digests of their manifests
        #[arg(long)]
        digests: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show all that is known of images: configuration, manifest, layers, users
    Inspect {
        /// Which ones
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Give an image another name, and take that away from the image that had it
    Tag {
        /// Which one
        image: String,
        /// The name
        tag: String,
        #[command(flatten)]
        format: Format,
    },
    /// Take names away from images, and with the last name, by digest or by id remove them
    #[command(after_help = REMOVAL)]
    Rm {
        /// Which ones
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Remove the images that have no tag, that no container uses, and that are not pinned
    #[command(after_help = REMOVAL)]
    Prune {
        /// Those with tags, too
        #[arg(short, long)]
        all: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Show what takes which part of the disk, to the last block
    Du {
        #[command(flatten)]
        format: Format,
    },
}

const REMOVAL: &str = "\
A running container keeps the layers of its image: what they take is free when the last such container is removed.";

/// How results are printed.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Format {
    /// json: one object per line
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Output,
}

/// User and password for a registry.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: String,
}

impl FromStr for Credentials {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((username, password)) if !username.is_empty() => {
                Ok(Self { username: username.into(), password: password.into() })
            }
            _ => bail!("credentials are USER:PASSWORD"),
        }
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}
