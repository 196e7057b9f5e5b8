//! Images that are made here, from files of the host.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tar::{EntryType, Header};

use crate::digest::Hasher;
use crate::manifest::{self, Blob, Content, Machine, OCI_MANIFEST};
use crate::store::{Progress, blocking};
use crate::{BuiltinFile, Digest, Error, Image, ImageConfig, Reference, Source, Store};

use super::spool::Spool;
use super::{LayerFile, Local, take_in};

/// See [`Store::builtin`].
pub(crate) async fn builtin(
    store: &Store,
    reference: &Reference,
    config: ImageConfig,
    files: Vec<BuiltinFile>,
) -> Result<Image, Error> {
    let progress = Progress::new(reference.to_string());
    store.0.show(&progress);
    let (layout, wanted) = (Arc::clone(&store.0.layout), reference.clone());
    // The spool holds the layer's file until the image is in.
    let (_spool, local) = blocking(move || {
        let mut spool = Spool::new(&layout)?;
        let (file, path, _) = spool.file()?;
        let (diff_id, size) = write_layer(file, files)?;
        Ok((spool, describe(&wanted, &config, diff_id, size, path)?))
    })
    .await?;
    take_in(store, local, &progress).await
}

fn describe(
    reference: &Reference,
    config: &ImageConfig,
    diff_id: Digest,
    size: u64,
    path: PathBuf,
) -> Result<Local, Error> {
    let set =
        |names: &[String]| names.iter().map(|name| (name.clone(), json!({}))).collect::<Map<String, Value>>();
    let document = json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": Machine::host().arch,
        "os": "linux",
        "config": {
            "User": config.user, "Env": config.env, "Entrypoint": config.entrypoint, "Cmd": config.cmd,
            "WorkingDir": config.working_dir, "Labels": config.labels, "Volumes": set(&config.volumes),
            "StopSignal": config.stop_signal, "ExposedPorts": set(&config.exposed_ports),
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    });
    let text = document.to_string().into_bytes();
    let id = Digest::of(&text);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": id, "size": text.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": diff_id, "size": size}],
    });
    let manifest = manifest.to_string().into_bytes();
    Ok(Local {
        id,
        configuration: manifest::configuration(&text, 1, &Machine::host())?,
        repo_tags: reference.repo_tag().into_iter().collect(),
        repo_digests: vec![reference.repo_digest(&Digest::of(&manifest))],
        documents: vec![manifest, text],
        layers: vec![LayerFile {
            path,
            size,
            blob: Some(Blob { digest: diff_id, size, content: Content::Plain }),
        }],
    })
}

/// Writes the layer: entries sorted by path, all owned by root, of the year 1970.
#[expect(clippy::disallowed_methods, reason = "a file that whoever calls names")]
fn write_layer(file: File, mut files: Vec<BuiltinFile>) -> Result<(Digest, u64), Error> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let output = Hashed { file: BufWriter::new(file), hasher: Hasher::new(), size: 0 };
    let mut archive = tar::Builder::new(output);
    let failed = |e: std::io::Error| Error::io("write(layer)", &e);
    let mut made: BTreeSet<String> = files
        .iter()
        .filter(|file| matches!(file.source, Source::Directory))
        .map(|file| file.path.clone())
        .collect();
    for file in &files {
        let inner = file.path.strip_prefix('/').filter(|path| !path.is_empty() && !path.ends_with('/'));
        let path = inner
            .ok_or_else(|| Error::invalid(format!("builtin file {:?} has no absolute path", file.path)))?;
        for (end, _) in file.path.match_indices('/').skip(1) {
            let parent = &file.path[..end];
            if made.insert(parent.to_owned()) {
                append(&mut archive, &parent[1..], header(EntryType::Directory, 0o755, 0), std::io::empty())
                    .map_err(failed)?;
            }
        }
        match &file.source {
            Source::Bytes(bytes) => {
                append(
                    &mut archive,
                    path,
                    header(EntryType::Regular, file.mode, bytes.len() as u64),
                    &bytes[..],
                )
                .map_err(failed)?;
            }
            Source::Directory => {
                append(&mut archive, path, header(EntryType::Directory, file.mode, 0), std::io::empty())
                    .map_err(failed)?;
            }
            Source::File(source) => {
                let named = |e: std::io::Error| Error::io(format!("read({})", source.display()), &e);
                let input = File::open(source).map_err(named)?;
                let size = input.metadata().map_err(named)?.len();
                append(&mut archive, path, header(EntryType::Regular, file.mode, size), input.take(size))
                    .map_err(named)?;
            }
            Source::Symlink(target) => {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                archive.append_link(&mut header, path, target).map_err(failed)?;
            }
        }
    }
    let mut output = archive.into_inner().map_err(failed)?;
    output.flush().map_err(failed)?;
    Ok((output.hasher.finish(), output.size))
}

fn append(
    archive: &mut tar::Builder<Hashed>,
    path: &str,
    mut header: Header,
    content: impl Read,
) -> std::io::Result<()> {
    archive.append_data(&mut header, path, content)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Writes to a file and hashes what goes through.
struct Hashed {
    file: BufWriter<File>,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
