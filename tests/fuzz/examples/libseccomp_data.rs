//! Writes what the ordinary tests of the seccomp compiler know of libseccomp: the numbers of calls, and the program that
//! the library makes of each profile in `crates/runtime/tests/seccomp/profiles`.
//!
//! Usage, in tests/fuzz: cargo run --example libseccomp_data

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use oci_spec::runtime::Capability;
use vaquita_fuzz::libseccomp;
use vaquita_fuzz::model::Abi;
use vaquita_runtime::seccomp::runtime_default;

fn main() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/runtime/tests/seccomp");
    std::fs::write(dir.join("numbers.txt"), numbers()).unwrap();
    for (name, capabilities) in
        [("default.json", &[][..]), ("default-sys-admin.json", &[Capability::SysAdmin][..])]
    {
        let profile = serde_json::to_string(&runtime_default(capabilities)).unwrap();
        std::fs::write(dir.join("profiles").join(name), profile + "\n").unwrap();
    }
    for entry in std::fs::read_dir(dir.join("profiles")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let profile = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let program = libseccomp::compile(&profile).unwrap();
            let mut text = format!("# made by libseccomp {}: code jt jf k\n", libseccomp::version());
            for instruction in program {
                let (code, jt, jf, k) = (instruction.code, instruction.jt, instruction.jf, instruction.k);
                writeln!(text, "{code:x} {jt} {jf} {k:x}").unwrap();
            }
            std::fs::write(path.with_extension("bpf"), text).unwrap();
        }
    }
}

fn numbers() -> String {
    let mut names: BTreeMap<String, [Option<u32>; 5]> = BTreeMap::new();
    for abi in Abi::ALL {
        // By number first: for names of socketcall(2) and ipc(2) the library has numbers of its own.
        for number in (0..600).chain(0xf_0000..0xf_0010) {
            if let Some(name) = libseccomp::name(abi, number) {
                names.entry(name).or_default()[abi as usize] = Some(number);
            }
        }
    }
    for (name, numbers) in &mut names {
        for abi in Abi::ALL {
            if let Some(number) = libseccomp::number(abi, name) {
                numbers[abi as usize] = Some(number);
            }
        }
    }
    // On x32 the library knows none; the kernel's header has it.
    names.remove("map_shadow_stack");
    let mut text = format!("# libseccomp {}: x86_64 x86 x32 aarch64 arm\n", libseccomp::version());
    for (name, numbers) in names {
        let numbers =
            numbers.map(|number| number.map_or_else(|| "-".to_owned(), |number| number.to_string()));
        writeln!(text, "{name} {}", numbers.join(" ")).unwrap();
    }
    text
}
