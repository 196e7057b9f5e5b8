//! AppArmor. Its parser is where systemd is.

use std::fs;
use std::process::Command;

use serde_json::json;
use vaquita_testing::{Defer, temp_dir, unique};

use crate::container::{Container, host, succeed};

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
