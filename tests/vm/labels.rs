//! AppArmor, whose parser is where systemd is, and SELinux, which has a machine of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use vaquita_testing::{Defer, temp_dir, unique};

use crate::container::{Container, eventually, host, succeed};

const PROCESS: &str = "system_u:system_r:container_t";
const FILE: &str = "system_u:object_r:container_file_t";

#[test]
#[ignore = "needs AppArmor: hack/vm"]
fn systemd_an_apparmor_profile_confines() {
    let name = unique("vqaa");
    let profile =
        format!("abi <abi/4.0>,\nprofile {name} {{\n  file,\n  signal,\n  deny /forbidden w,\n}}\n");
    let container = Container::new(
        "cat /proc/self/attr/apparmor/current; echo x >/allowed && echo one; echo x >/forbidden",
    )
    .set("/process/apparmorProfile", json!(name));
    let dir = temp_dir();
    let file = dir.path().join("profile");
    fs::write(&file, profile).unwrap();
    host("apparmor_parser", &["--replace", "--skip-cache", file.to_str().unwrap()]);
    let _clean = Defer::new(|| {
        succeed(&Command::new("apparmor_parser").arg("--remove").arg(&file).output().unwrap());
    });
    let said = container.run();
    assert!(said.starts_with(&format!("{name} (enforce)\none\n")), "{said}");
    assert!(said.contains("/forbidden: Permission denied"), "{said}");
    assert!(!container.bundle().join("rootfs/forbidden").exists());
}

#[test]
#[ignore = "needs AppArmor: hack/vm"]
fn systemd_a_profile_that_is_not_there_is_an_error() {
    let container = Container::new("true").set("/process/apparmorProfile", json!("vqnobody"));
    container.create();
    let output = container.command("start", &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("vqnobody"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// A container with labels, whose root filesystem has them too, as an engine that calls the runtime has made it.
fn labelled(script: &str) -> Container {
    let container = Container::new(script)
        .set("/linux/maskedPaths", json!(["/sys", "/proc/fs"]))
        .set("/process/selinuxLabel", json!(format!("{PROCESS}:s0:c1,c2")))
        .set("/linux/mountLabel", json!(format!("{FILE}:s0:c1,c2")));
    label(&container.bundle().join("rootfs"), &format!("{FILE}:s0:c1,c2"));
    container
}

/// Labels a file and what is below it.
fn label(path: &Path, with: &str) {
    rustix::fs::lsetxattr(path, "security.selinux", with.as_bytes(), rustix::fs::XattrFlags::empty())
        .unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            label(&entry.unwrap().path(), with);
        }
    }
}

#[test]
#[ignore = "needs SELinux: hack/vm"]
fn selinux_labels_are_those_of_the_specification() {
    let script = "cat /proc/self/attr/current; echo; cat /proc/self/mountinfo; echo x >/tmp/x && echo may; ls /proc/fs && echo masked; \
                  cat /host && echo must not; cat /proc/keys; sleep 1000";
    let container = labelled(script);
    // A file of the root filesystem with another container's level.
    let other = container.bundle().join("rootfs/host");
    fs::write(&other, "of another").unwrap();
    label(&other, &format!("{FILE}:s0:c3,c4"));
    container.start();
    eventually("its keys", || container.output().contains("_ses").then_some(()));
    let said = container.output();
    assert!(said.starts_with(&format!("{PROCESS}:s0:c1,c2")), "{said}");
    let context = format!("context=\"{FILE}:s0:c1,c2\"");
    for filesystem in [" /dev rw", " /dev/shm ", " /dev/pts "] {
        let Some(line) = said.lines().find(|line| line.contains(filesystem)) else { continue };
        assert!(line.contains(&context), "{line}");
    }
    assert!(said.lines().any(|line| line.contains(" /dev rw")) && said.contains("\nmay\nmasked\n"), "{said}");
    assert!(said.contains("'/host': Permission denied") && !said.contains("must not"), "{said}");

    let exec = |options: &[&str]| {
        let mut exec = container.command("exec", options);
        exec.args(["cat", "/proc/self/attr/current", "/tmp/x"]);
        let output = exec.output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        said.replace('\0', "").trim_end().to_owned()
    };
    assert_eq!(exec(&[]), format!("{PROCESS}:s0:c1,c2x"));
    let more = format!("{PROCESS}:s0:c1,c2,c4");
    assert_eq!(exec(&["--process-label", &more]), format!("{more}x"));
    // It may not read its program, and is killed.
    assert_eq!(exec(&["--process-label", &format!("{PROCESS}:s0:c1")]), "");
    let wrong = exec(&["--process-label", "vq:nobody:t"]);
    assert!(wrong.contains("\"vq:nobody:t\" is no label of the SELinux policy"), "{wrong}");
}

#[test]
#[ignore = "needs SELinux: hack/vm"]
fn selinux_a_label_that_is_none_is_refused() {
    for field in ["/process/selinuxLabel", "/linux/mountLabel"] {
        let container = labelled("true").set(field, json!("system_u:system_r:vq_nobody_t:s0"));
        let said = container.refused();
        assert!(said.contains("vq_nobody_t:s0\" is no label of the SELinux policy"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
#[ignore = "needs SELinux: hack/vm"]
fn selinux_without_a_label_the_policy_says() {
    let container = labelled("cat /proc/self/attr/current");
    let container = container.set("/process/selinuxLabel", json!("")).set("/linux/mountLabel", json!(""));
    let said = container.run();
    assert!(said.starts_with("system_u:system_r:spc_t:s0"), "{said}");
}
