//! crun, on hosts that it refuses.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// A script in `dir` that is Debian's crun. That refuses hosts with both versions of cgroups: where this is one, it is shown
/// version 1 alone.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn crun(dir: &Path) -> PathBuf {
    let script = dir.join("crun");
    let text = r#"#!/bin/sh
set -e
if [ -d /sys/fs/cgroup/unified ] && [ -z "$ALONE" ]; then ALONE=1 exec unshare -m "$0" "$@"; fi
if [ -d /sys/fs/cgroup/unified ]; then
    aside=$(dirname "$0")/aside
    mkdir -p "$aside"
    mount -t tmpfs aside "$aside"
    for each in $(cd /sys/fs/cgroup; echo *); do
        [ "$each" != unified ] || continue
        mkdir "$aside/$each"
        mount --bind "/sys/fs/cgroup/$each" "$aside/$each"
    done
    mount -t tmpfs cgroup /sys/fs/cgroup
    for each in $(cd "$aside"; echo *); do
        mkdir "/sys/fs/cgroup/$each"
        mount --move "$aside/$each" "/sys/fs/cgroup/$each"
    done
fi
exec /usr/bin/crun "$@"
"#;
    std::fs::write(&script, text).expect("a script in place of crun");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
        .expect("a script that can be executed");
    script
}
