//! CNI plugins that are small scripts.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What every script begins with: it writes down what it was asked and what it was told, each whole at once, since a test may
/// look while it is asked again. VERSION is answered.
const HEAD: &str = r#"#!/bin/sh
me=${0##*/}
dir=${0%/bin/*}
if [ "$CNI_COMMAND" = VERSION ]; then
    echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}'
    exit 0
fi
input=$(cat)
printf '%s\n' "$input" >"$dir/$me.$CNI_COMMAND.stdin.$$"
env >"$dir/$me.$CNI_COMMAND.env.$$"
mv "$dir/$me.$CNI_COMMAND.stdin.$$" "$dir/$me.$CNI_COMMAND.stdin"
mv "$dir/$me.$CNI_COMMAND.env.$$" "$dir/$me.$CNI_COMMAND.env"
echo "$CNI_COMMAND $me $CNI_CONTAINERID" >>"$dir/log"
"#;

/// A script that succeeds.
pub const GOOD: &str = r#"[ "$CNI_COMMAND" = ADD ] && echo '{"ips": [{"address": "10.1.0.2/24"}]}'
exit 0
"#;

/// Installs a plugin in `bin` below `dir`. What it was asked it writes to `dir`: a line in `log`, and
/// `<name>.<command>.stdin` and `.env`.
///
/// # Panics
/// When the file cannot be written.
pub fn install(dir: &Path, name: &str, script: &str) {
    let path = dir.join("bin").join(name);
    std::fs::write(&path, format!("{HEAD}{script}")).expect("the plugin is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .expect("the plugin becomes a program");
}
