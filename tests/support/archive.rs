//! Images for tests, made here.

use std::path::Path;

use serde_json::json;

/// The reference of [`busybox`].
pub(crate) const BUSYBOX: &str = "localhost/test/busybox:1";

/// Names of busybox that tests use.
const LINKS: &[&str] = &[
    "cat", "chmod", "date", "dd", "echo", "env", "false", "grep", "hostname", "httpd", "id", "ip", "kill",
    "ls", "mkdir", "mount", "nc", "ps", "pwd", "rm", "seq", "sh", "sleep", "stat", "stty", "tail", "tar",
    "test", "touch", "true", "wget", "yes",
];

/// Writes a Docker archive with Debian's static busybox.
pub(crate) fn busybox(to: &Path) {
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    let etc = |tar: &mut Tar| {
        dir(tar, "etc/");
        file(tar, "etc/passwd", 0o644, passwd.as_bytes());
        file(tar, "etc/group", 0o644, b"root:x:0:\naudio:x:29:nobody\nnogroup:x:65534:\n");
    };
    image(to, BUSYBOX, json!({ "Env": ["PATH=/usr/bin:/bin"], "Cmd": ["sleep", "infinity"] }), etc);
}

/// A layer that is being written.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    /// Adds a file.
    pub(crate) fn file(&mut self, name: &str, text: &str) {
        file(self, name, 0o644, text.as_bytes());
    }

    /// Adds a directory.
    pub(crate) fn dir(&mut self, name: &str) {
        dir(self, name);
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.0.append_link(&mut header(0, 0o777, tar::EntryType::Symlink), name, target).unwrap();
    }
}

/// Writes a Docker archive with busybox, this configuration and these files.
pub(crate) fn image(to: &Path, reference: &str, config: serde_json::Value, files: impl FnOnce(&mut Tar)) {
    let program = std::fs::read("/bin/busybox").expect("/bin/busybox: install the package busybox-static");
    let layer = layer(&program, files);
    let diff_id = sha256(&layer);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "test" }],
    });
    let config = config.to_string().into_bytes();
    let config_name = format!("{}.json", sha256(&config));
    let layer_name = format!("{diff_id}/layer.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }]).to_string();
    let mut tar = tar::Builder::new(std::fs::File::create(to).unwrap());
    for (name, bytes) in [
        (&config_name, &config[..]),
        (&layer_name, &layer),
        (&"manifest.json".to_owned(), manifest.as_bytes()),
    ] {
        append(&mut tar, name, 0o644, bytes);
    }
    tar.finish().unwrap();
}

fn layer(program: &[u8], files: impl FnOnce(&mut Tar)) -> Vec<u8> {
    let mut tar = Tar(tar::Builder::new(Vec::new()));
    for (dir, mode) in [("bin/", 0o755), ("tmp/", 0o1777), ("proc/", 0o755), ("sys/", 0o755), ("dev/", 0o755)]
    {
        tar.0.append_data(&mut header(0, mode, tar::EntryType::Directory), dir, std::io::empty()).unwrap();
    }
    file(&mut tar, "bin/busybox", 0o755, program);
    for link in LINKS {
        tar.link(&format!("bin/{link}"), "busybox");
    }
    files(&mut tar);
    tar.0.into_inner().unwrap()
}

fn dir(tar: &mut Tar, name: &str) {
    tar.0.append_data(&mut header(0, 0o755, tar::EntryType::Directory), name, std::io::empty()).unwrap();
}

fn file(tar: &mut Tar, name: &str, mode: u32, bytes: &[u8]) {
    append(&mut tar.0, name, mode, bytes);
}

fn append(tar: &mut tar::Builder<impl std::io::Write>, name: &str, mode: u32, bytes: &[u8]) {
    tar.append_data(&mut header(bytes.len(), mode, tar::EntryType::Regular), name, bytes).unwrap();
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

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
