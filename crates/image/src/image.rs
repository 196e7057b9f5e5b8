//! What an image says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// An image in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Image {
    /// The digest of its configuration: the one id by which every API names the image.
    pub id: Digest,
    /// Full names with a tag that point to it: `docker.io/library/busybox:latest`.
    pub repo_tags: Vec<String>,
    /// Full names with the manifest's digest: `docker.io/library/busybox@sha256:…`.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, configuration and layers as a registry stores them.
    pub size: u64,
    /// What to run and how.
    pub config: ImageConfig,
    /// Never removed by garbage collection.
    pub pinned: bool,
    /// Of an artifact, which can be mounted and not run, what it is (a media type); empty for an image.
    #[serde(default)]
    pub artifact_type: String,
    /// When the image was built, RFC 3339, as its configuration says; empty where it does not.
    #[serde(default)]
    pub created: String,
    /// When it came into the store, nanoseconds since 1970.
    #[serde(default)]
    pub stored_at: i64,
}

/// The part of an image's configuration that containers are made from.
///
/// All of it is untrusted text. Labels stay labels: nothing here is ever run or loaded by the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ImageConfig {
    /// `user[:group]`, each a name or a number; empty is root. See [`passwd::resolve`](crate::passwd::resolve).
    pub user: String,
    /// `NAME=value` each.
    pub env: Vec<String>,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// Where the program starts; empty is `/`.
    pub working_dir: String,
    /// Free text of the image's maker.
    pub labels: BTreeMap<String, String>,
    /// Directories that the image wants on a volume of their own.
    pub volumes: Vec<String>,
    /// Name or number of the signal that asks the program to end; empty is SIGTERM.
    pub stop_signal: String,
    /// `80/tcp` each.
    pub exposed_ports: Vec<String>,
}
