//! The command line: what it says when something is not as it should be.

use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use crate::support::{Node, eventually, succeed};

/// The overflow user: nobody in particular.
const NOBODY: u32 = 65534;

fn vaquita(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vaquita"));
    command.args(args);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fails_with_one_line(output: &Output, status: i32, part: &str) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.starts_with("vaquita: ") && error.contains(part), "{error}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn without_root_each_command_says_so_in_one_sentence() {
    vaquita_testing::require_root();
    // The binary must be in a place where everybody may read it.
    let dir = vaquita_testing::temp_dir();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let binary = dir.path().join("vaquita");
    std::fs::copy(env!("CARGO_BIN_EXE_vaquita"), &binary).unwrap();
    for args in [&["demo"][..], &["daemon"], &["check"], &["image", "ls"]] {
        let output = Command::new(&binary).args(args).uid(NOBODY).gid(NOBODY).output().unwrap();
        fails_with_one_line(&output, 1, "needs root");
    }
    let output = Command::new(&binary).arg("version").uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(succeed(&output).starts_with("vaquita 0."));
}

#[test]
fn a_typo_in_a_manifest_is_shown_where_it_stands() {
    let manifest =
        include_str!("../examples/job.yaml").replace("restartPolicy: Never", "restartPolcy: Never");
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("pod.yaml");
    std::fs::write(&path, &manifest).unwrap();
    let output = vaquita(&["run", path.to_str().unwrap()]).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    let line = manifest.lines().position(|line| line.contains("restartPolcy")).unwrap() + 1;
    assert!(
        error.starts_with(&format!("{}:{line}:3: error: spec.restartPolcy: ", path.display())),
        "{error}"
    );
    assert!(error.contains("restartPolicy"), "{error}");
    assert!(error.contains(&format!("{line} |   restartPolcy: Never\n")), "{error}");
    assert!(error.contains("|   ^\n"), "{error}");
    assert!(error.ends_with("nothing was started\n"), "{error}");
}

#[test]
fn a_file_without_a_pod_or_that_is_not_there_is_an_error() {
    let output = vaquita(&["run", "/nonexistent.yaml"]).output().unwrap();
    fails_with_one_line(&output, 1, "cannot open /nonexistent.yaml: No such file");
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("map.yaml");
    std::fs::write(&path, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n").unwrap();
    let output = vaquita(&["run", path.to_str().unwrap()]).output().unwrap();
    fails_with_one_line(&output, 2, "there is no Pod in");
}

#[test]
fn the_examples_and_the_demo_are_good_manifests() {
    let demo = vaquita(&["demo", "--print"]).output().unwrap();
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("demo.yaml");
    std::fs::write(&path, &demo.stdout).unwrap();
    let files = ["examples/pod.yaml", "examples/job.yaml", path.to_str().unwrap()];
    let texts: Vec<(&str, String)> =
        files.iter().map(|file| (*file, std::fs::read_to_string(file).unwrap())).collect();
    let borrowed: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let manifest = vaquita_kube::manifest::read(&borrowed).unwrap();
    assert_eq!(manifest.pods.len(), 3);
}

#[test]
fn a_second_daemon_is_told_who_has_the_directory() {
    let node = Node::start();
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(node.path("state/daemon.json")).unwrap()).unwrap();
    let output = node.output(&["daemon"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains(&format!("the daemon with pid {} uses ", record["pid"])), "{error}");
    node.finish();
}

#[test]
fn a_daemon_is_started_in_the_background_and_goes_away_when_nobody_needs_it() {
    let node = Node::without_daemon();
    assert_eq!(succeed(&node.output(&["image", "ls"])), "IMAGE  ID  SIZE\n");
    let record = std::fs::read_to_string(node.path("state/daemon.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!(record["background"], true);
    let process = format!("/proc/{}", record["pid"]);
    eventually("the background daemon to end", || (!std::path::Path::new(&process).exists()).then_some(()));
    node.finish();
}

#[test]
fn the_binary_is_static() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_vaquita")).output().unwrap();
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("not a dynamic executable") || said.contains("statically linked"), "{said}");
}
