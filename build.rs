//! Tells the linker where the program starts: see `crates/entry`.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    // Elsewhere its addresses would have to be relocated first, which the C library does.
    let is_fixed =
        var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("relocation-model=static"));
    if is_fixed && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo::rustc-link-arg-bin=vaquita=-Wl,-e,vaquita_entry");
    }
}
