//! The images that both sides run, as Docker archives made here: a busybox rootfs, and a pause image for the peer.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::AnyError;

/// The reference of the workload image.
pub(crate) const BUSYBOX: &str = "localhost/bench/busybox:1";
/// The reference of the peer's pause image.
pub(crate) const PAUSE: &str = "localhost/bench/pause:1";

/// Where the two archives lie.
#[derive(Debug)]
pub(crate) struct Archives {
    pub(crate) busybox: PathBuf,
    pub(crate) pause: PathBuf,
}

/// Writes both archives into `dir`.
pub(crate) fn write(dir: &Path) -> Result<Archives, AnyError> {
    let busybox = std::fs::read("/bin/busybox")
        .map_err(|error| format!("/bin/busybox: {error}; install the package busybox-static"))?;
    let links = ["sh", "sleep", "true", "cat", "echo", "yes"];
    let archives = Archives { busybox: dir.join("busybox.tar"), pause: dir.join("pause.tar") };
    image(&archives.busybox, BUSYBOX, &layer("bin/busybox", &busybox, &links)?, &["sleep", "1000000"])?;
    image(&archives.pause, PAUSE, &layer("pause", vaquita_pause::PROGRAM, &[])?, &["/pause"])?;
    Ok(archives)
}

fn layer(path: &str, program: &[u8], links: &[&str]) -> Result<Vec<u8>, AnyError> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin/", "etc/", "tmp/", "proc/", "sys/", "dev/"] {
        let mut header = header(0, 0o755, tar::EntryType::Directory);
        tar.append_data(&mut header, dir, std::io::empty())?;
    }
    tar.append_data(&mut header(program.len(), 0o755, tar::EntryType::Regular), path, program)?;
    for link in links {
        tar.append_link(&mut header(0, 0o777, tar::EntryType::Symlink), format!("bin/{link}"), "busybox")?;
    }
    let passwd = b"root:x:0:0:root:/:/bin/sh\n";
    tar.append_data(&mut header(passwd.len(), 0o644, tar::EntryType::Regular), "etc/passwd", &passwd[..])?;
    Ok(tar.into_inner()?)
}

fn header(size: usize, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_entry_type(kind);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn image(to: &Path, reference: &str, layer: &[u8], command: &[&str]) -> Result<(), AnyError> {
    let diff_id = sha256(layer);
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "bench" }],
    }))?;
    let config_name = format!("{}.json", sha256(&config));
    let manifest = serde_json::to_vec(&json!([{
        "Config": config_name,
        "RepoTags": [reference],
        "Layers": [format!("{diff_id}/layer.tar")],
    }]))?;
    let mut tar = tar::Builder::new(std::fs::File::create(to)?);
    let entries: [(&str, &[u8]); 3] =
        [(&config_name, &config), (&format!("{diff_id}/layer.tar"), layer), ("manifest.json", &manifest)];
    for (name, bytes) in entries {
        tar.append_data(&mut header(bytes.len(), 0o644, tar::EntryType::Regular), name, bytes)?;
    }
    tar.finish()?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
