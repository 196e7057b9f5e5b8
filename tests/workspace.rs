//! Guards the arrows between the crates and the places of some dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Who may use whom: ARCHITECTURE.md draws the same arrows. Tests may also use what is further below, and the helpers for tests.
const ARROWS: &[(&str, &[&str])] = &[
    ("vaquita-proto", &[]),
    ("vaquita-testing", &[]),
    ("vaquita-pause", &[]),
    ("vaquita-entry", &[]),
    ("vaquita-sys", &[]),
    ("vaquita-cgroup", &["vaquita-sys"]),
    ("vaquita-runtime", &["vaquita-cgroup", "vaquita-pause", "vaquita-sys"]),
    ("vaquita-shim", &["vaquita-cgroup", "vaquita-runtime", "vaquita-sys"]),
    ("vaquita-oci", &["vaquita-cgroup", "vaquita-entry", "vaquita-runtime", "vaquita-sys"]),
    ("vaquita-image", &["vaquita-sys"]),
    ("vaquita-net", &["vaquita-sys"]),
    ("vaquita-cni", &["vaquita-sys"]),
    ("vaquita-nri", &["vaquita-proto", "vaquita-sys"]),
    ("vaquita-streaming", &[]),
    (
        "vaquita-cri",
        &[
            "vaquita-cgroup",
            "vaquita-cni",
            "vaquita-image",
            "vaquita-net",
            "vaquita-nri",
            "vaquita-proto",
            "vaquita-runtime",
            "vaquita-shim",
            "vaquita-streaming",
            "vaquita-sys",
        ],
    ),
    ("vaquita-kube", &["vaquita-proto", "vaquita-sys"]),
    ("vaquita-schema", &[]),
    ("vaquita-store", &[]),
    ("vaquita-apiserver", &["vaquita-schema", "vaquita-store"]),
    (
        "vaquita-control",
        &["vaquita-apiserver", "vaquita-kube", "vaquita-proto", "vaquita-schema", "vaquita-sys"],
    ),
];

/// Tools: outside the product, they may use whatever crate they look at.
const TOOLS: &[&str] = &["vaquita-bench"];

/// Dependencies that only the binary has: a library parses no command line and gives errors with a kind.
const BINARY_ONLY: &[&str] = &["clap", "anyhow", "tracing-subscriber"];

/// Crates that run between clone and exec or once per pod: no async runtime there.
const SYNC_ONLY: &[&str] =
    &["vaquita-sys", "vaquita-cgroup", "vaquita-runtime", "vaquita-oci", "vaquita-pause", "vaquita-net"];

/// Crates whose processes have to do with containers and their files: what they may not call says the clippy.toml of each, all
/// alike.
const GUARDED: &[&str] = &["cgroup", "cni", "cri", "image", "net", "oci", "runtime", "shim", "streaming"];

#[test]
fn crates_use_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(name, below)| (*name, below.iter().copied().collect())).collect();
    for package in packages() {
        let name = text(&package, "name");
        if name == "vaquita" || TOOLS.contains(&name) {
            continue;
        }
        let below = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is new: say in tests/workspace.rs what it may use"));
        for dependency in dependencies(&package) {
            let used = text(dependency, "name");
            let testing = dependency["kind"] == "dev"
                && (used == "vaquita-testing" || below.iter().any(|name| allowed[name].contains(used)));
            if used.starts_with("vaquita") && !testing {
                assert!(below.contains(used), "{name} must not use {used}: the arrows point down only");
            }
        }
    }
}

#[test]
fn only_the_binary_parses_arguments_and_uses_anyhow() {
    for package in packages() {
        let name = text(&package, "name");
        if name == "vaquita" || TOOLS.contains(&name) {
            continue;
        }
        for dependency in dependencies(&package) {
            let used = text(dependency, "name");
            assert!(
                !BINARY_ONLY.contains(&used),
                "{name} must not use {used}: it belongs in the binary only"
            );
        }
    }
}

#[test]
fn low_crates_have_no_async_runtime() {
    for package in packages() {
        let name = text(&package, "name");
        if SYNC_ONLY.contains(&name) {
            let tokio = dependencies(&package).iter().any(|dependency| text(dependency, "name") == "tokio");
            assert!(!tokio, "{name} must not use tokio: it also runs in processes with one thread");
        }
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for package in packages() {
        let path = text(&package, "manifest_path");
        let manifest = std::fs::read_to_string(path).unwrap();
        let lints = manifest.contains("[lints]\nworkspace = true");
        assert!(lints, "{path} lacks `[lints] workspace = true`");
    }
}

/// clippy reads one file for a package, the nearest: there is no inheriting.
#[test]
fn guarded_crates_have_one_list_of_disallowed_methods() {
    let file = |directory: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join("clippy.toml");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let list = file("crates/runtime");
    for setting in file("").lines() {
        assert!(list.lines().any(|line| line == setting), "crates/runtime/clippy.toml lacks `{setting}`");
    }
    for name in GUARDED {
        assert!(
            file(&format!("crates/{name}")) == list,
            "crates/{name}/clippy.toml: cp crates/runtime/clippy.toml"
        );
    }
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn dependencies(package: &Value) -> &[Value] {
    package["dependencies"].as_array().unwrap()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}
