//! Builds the pause program with one compiler call: it is `no_std`, so it must not take the workspace's profile.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/pause.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    let pause = Path::new(&out).join("pause");
    let status = Command::new(std::env::var("RUSTC").expect("cargo sets RUSTC"))
        .args(["--edition=2024", "--crate-name=pause", "--crate-type=bin", "-Copt-level=z", "-Cpanic=abort"])
        .args(["-Ccodegen-units=1", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static"])
        .args(["-Clink-arg=-Wl,--build-id=none,-n,-z,norelro,-z,noseparate-code"])
        .arg(format!("--target={target}"))
        .args(["-o".as_ref(), pause.as_os_str(), "src/pause.rs".as_ref()])
        .status()
        .expect("the compiler that cargo named starts");
    assert!(status.success(), "pause does not compile");
}
