//! The help texts, as they are.

use std::os::unix::process::CommandExt;
use std::process::Command;

fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_vaquita"))
        .arg0("vaquita-oci")
        .args(args)
        .arg("--help")
        .env("COLUMNS", "100")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_reads_well() {
    let all = help(&[]);
    let commands =
        all.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let commands: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    let mut text = all.clone();
    for command in commands {
        text.push_str(&format!("\n==== {command}\n\n{}", help(&[command])));
    }
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    insta::assert_snapshot!("vaquita_oci_help", text);
}

#[test]
fn features_say_what_is_there() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vaquita")).arg0("vaquita-oci").arg("features").output().unwrap();
    let features: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(features["ociVersionMax"], "1.3.0");
    let has = |pointer: &str, name: &str| {
        let list = features.pointer(pointer).and_then(|list| list.as_array()).unwrap();
        assert!(list.iter().any(|item| item == name), "{pointer} has no {name}: {list:?}");
    };
    has("/hooks", "startContainer");
    has("/mountOptions", "rro");
    has("/linux/namespaces", "user");
    has("/linux/namespaces", "time");
    has("/linux/capabilities", "CAP_BPF");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    has("/linux/seccomp/supportedFlags", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV");
    has("/linux/memoryPolicy/modes", "MPOL_INTERLEAVE");
    for section in [
        "cgroup/v1",
        "cgroup/v2",
        "cgroup/systemd",
        "seccomp/enabled",
        "apparmor/enabled",
        "mountExtensions/idmap/enabled",
    ] {
        assert_eq!(features.pointer(&format!("/linux/{section}")), Some(&true.into()), "{section}");
    }
}
