//! The image that is pulled: five layers of this machine's own files, gzipped and with zstd, where a registry finds them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::json;

use crate::AnyError;

/// How the layers are compressed, which is also what the repositories below `bench/` are called.
pub(super) const CODECS: [&str; 2] = ["gzip", "zstd"];
/// Where the files are taken from.
const FROM: [&str; 4] = ["/usr/bin", "/usr/lib", "/usr/sbin", "/usr/share"];
/// What the layers hold, in MiB: 306 in all.
const LAYERS: [u64; 5] = [100, 80, 60, 45, 21];
/// Larger files are left out, since few of them would be the whole image.
const LARGEST: u64 = 16 << 20;
/// As builders of images compress.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Files of one directory that follow each other in a layer.
struct Group {
    files: Vec<(PathBuf, u64)>,
}

/// A layer as it is in the registry's storage.
struct Layer {
    diff_id: String,
    /// Digest and size for each of [`CODECS`].
    blobs: Vec<(String, u64)>,
    files: usize,
}

/// Writes the storage of a registry to `dir`, unless an earlier run has, and returns a line that tells what is in it.
///
/// The files are the machine's, so the image is another one elsewhere, but the same again here: whole directories, in an
/// order that a hash of their names gives, until each layer has its size.
pub(super) fn make(dir: &Path) -> Result<String, AnyError> {
    let told = dir.join("image.txt");
    if let Ok(text) = std::fs::read_to_string(&told) {
        return Ok(text);
    }
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    let mut groups = groups()?.into_iter();
    let chosen: Vec<Vec<(PathBuf, u64)>> =
        LAYERS.iter().map(|size| choose(&mut groups, size << 20)).collect::<Result<_, _>>()?;
    let layers = std::thread::scope(|scope| {
        let workers: Vec<_> =
            chosen.iter().enumerate().map(|(n, files)| scope.spawn(move || layer(dir, n, files))).collect();
        let ended =
            workers.into_iter().map(|worker| worker.join().map_err(|_| "a layer's thread panicked")?);
        ended.collect::<Result<Vec<Layer>, AnyError>>()
    })?;
    let mut text = format!(
        "{} files, {} MiB in layers of {LAYERS:?} MiB",
        layers.iter().map(|layer| layer.files).sum::<usize>(),
        LAYERS.iter().sum::<u64>()
    );
    for (at, codec) in CODECS.into_iter().enumerate() {
        publish(dir, codec, at, &layers)?;
        let bytes: u64 = layers.iter().map(|layer| layer.blobs[at].1).sum();
        text.push_str(&format!(", {} MB {codec}", bytes / 1_000_000));
    }
    std::fs::write(told, &text)?;
    Ok(text)
}

/// All directories with the files that may be used, in the order of their hashes.
fn groups() -> Result<Vec<Group>, AnyError> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = FROM.iter().map(PathBuf::from).collect();
    while let Some(dir) = todo.pop() {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.is_file() && metadata.len() <= LARGEST {
                files.push((entry.path(), metadata.len()));
            }
        }
        files.sort();
        found.push((sha256(dir.as_os_str().as_bytes()), Group { files }));
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found.into_iter().map(|(_, group)| group).collect())
}

/// Takes directories until they have `size` bytes; the last one not whole.
fn choose(groups: &mut impl Iterator<Item = Group>, size: u64) -> Result<Vec<(PathBuf, u64)>, AnyError> {
    let mut chosen = Vec::new();
    let mut left = size;
    while left > LARGEST / 16 {
        let group = groups.next().ok_or("this machine has too few files below /usr to make an image of")?;
        for file in group.files {
            if file.1 <= left {
                left -= file.1;
                chosen.push(file);
            }
        }
    }
    chosen.sort();
    Ok(chosen)
}

/// Packs files, and compresses them in every way at once.
fn layer(dir: &Path, number: usize, files: &[(PathBuf, u64)]) -> Result<Layer, AnyError> {
    let path = |codec: &str| dir.join(format!("{number}.{codec}"));
    let plain = Hashing::new(io::sink());
    let gzip = Hashing::new(BufWriter::new(File::create(path("gzip"))?));
    let gzip = flate2::write::GzEncoder::new(gzip, flate2::Compression::new(GZIP_LEVEL));
    let zstd = Hashing::new(BufWriter::new(File::create(path("zstd"))?));
    let zstd = zstd::Encoder::new(zstd, ZSTD_LEVEL)?;
    let mut tar = tar::Builder::new(All { plain, gzip, zstd });
    let mut last = Path::new("/");
    for (file, _) in files {
        let parent = file.parent().unwrap_or(last);
        let mut new: Vec<&Path> = parent.ancestors().take_while(|dir| !last.starts_with(dir)).collect();
        new.reverse();
        for dir in new {
            tar.append_data(&mut header(&dir.metadata()?, 0), dir.strip_prefix("/")?, io::empty())?;
        }
        last = parent;
        let content = std::fs::read(file)?;
        let mut header = header(&file.metadata()?, content.len() as u64);
        tar.append_data(&mut header, file.strip_prefix("/")?, &content[..])?;
    }
    let All { plain, gzip, zstd } = tar.into_inner()?;
    let mut blobs = Vec::new();
    for (codec, done) in CODECS.into_iter().zip([gzip.finish()?, zstd.finish()?]) {
        let (digest, size) = done.finish()?;
        let to = blob_path(dir, &digest);
        std::fs::create_dir_all(to.parent().unwrap_or(dir))?;
        std::fs::rename(path(codec), to)?;
        blobs.push((digest, size));
    }
    Ok(Layer { diff_id: plain.finish()?.0, blobs, files: files.len() })
}

fn header(metadata: &std::fs::Metadata, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(if metadata.is_dir() {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    });
    header.set_size(size);
    header.set_mode(metadata.mode() & 0o7777);
    header.set_uid(metadata.uid().into());
    header.set_gid(metadata.gid().into());
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header
}

/// Writes configuration and manifest of one codec, and what links them to the name `bench/<codec>:1` (the layout of
/// distribution's filesystem driver, registry/storage/paths.go).
fn publish(dir: &Path, codec: &str, at: usize, layers: &[Layer]) -> Result<(), AnyError> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        // Another image for each codec, with another id.
        "config": { "Labels": { "codec": codec } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let described: Vec<_> = layers
        .iter()
        .map(|layer| {
            let (digest, size) = &layer.blobs[at];
            let media_type = format!("application/vnd.oci.image.layer.v1.tar+{codec}");
            json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size })
        })
        .collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{}", sha256(&config)),
            "size": config.len(),
        },
        "layers": described,
    }))?;
    let repository = dir.join("docker/registry/v2/repositories/bench").join(codec);
    let link = |at: String, digest: &str| -> Result<(), AnyError> {
        let file = repository.join(at).join("link");
        std::fs::create_dir_all(file.parent().unwrap_or(dir))?;
        Ok(std::fs::write(file, format!("sha256:{digest}"))?)
    };
    for document in [&config, &manifest] {
        let to = blob_path(dir, &sha256(document));
        std::fs::create_dir_all(to.parent().unwrap_or(dir))?;
        std::fs::write(to, document)?;
    }
    link(format!("_layers/sha256/{}", sha256(&config)), &sha256(&config))?;
    for layer in layers {
        let digest = &layer.blobs[at].0;
        link(format!("_layers/sha256/{digest}"), digest)?;
    }
    let digest = sha256(&manifest);
    link(format!("_manifests/revisions/sha256/{digest}"), &digest)?;
    link(format!("_manifests/tags/1/index/sha256/{digest}"), &digest)?;
    link("_manifests/tags/1/current".to_owned(), &digest)
}

fn blob_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("docker/registry/v2/blobs/sha256").join(&digest[..2]).join(digest).join("data")
}

/// The same bytes to everybody.
struct All {
    plain: Hashing<io::Sink>,
    gzip: flate2::write::GzEncoder<Hashing<BufWriter<File>>>,
    zstd: zstd::Encoder<'static, Hashing<BufWriter<File>>>,
}

impl Write for All {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.plain.write_all(bytes)?;
        self.gzip.write_all(bytes)?;
        self.zstd.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and hashes what is written.
struct Hashing<W> {
    inner: W,
    context: Context,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, context: Context::new(&SHA256), size: 0 }
    }

    fn finish(mut self) -> io::Result<(String, u64)> {
        self.inner.flush()?;
        Ok((hex(self.context.finish().as_ref()), self.size))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.context.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
