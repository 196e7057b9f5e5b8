//! The seccomp compiler against two others who say what a profile means: a model that reads the rules one by one, and
//! libseccomp, whose programs for the profiles in `seccomp/profiles` are kept beside them.
//!
//! `tests/fuzz` has the tool that makes this data, and a fuzz target which does the same with libseccomp at hand.

#![allow(clippy::unwrap_used, reason = "tests, in modules that clippy does not take for such")]
#![allow(missing_docs, unreachable_pub, dead_code, reason = "modules that the fuzz targets share")]
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

#[path = "seccomp/generate.rs"]
mod generate;
#[path = "seccomp/interpreter.rs"]
mod interpreter;
#[path = "seccomp/model.rs"]
mod model;

#[path = "seccomp/differences.rs"]
mod differences;

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use vaquita_runtime::seccomp::{Program, compile, runtime_default};
use vaquita_sys::seccomp::SockFilter;

use crate::generate::{Choices, calls, profile};
use crate::interpreter::{Call, check, run};
use crate::model::{Abi, Names, answer};

fn names() -> Names {
    Names::parse(include_str!("seccomp/numbers.txt"))
}

/// Compares with the model, on every call that the profile may treat apart.
fn compare_with_model(program: &Program, profile: &LinuxSeccomp, names: &Names) {
    check(program.instructions()).unwrap();
    for call in calls(profile, names) {
        let expected = answer(profile, names, &call);
        let actual = run(program.instructions(), &call);
        assert_eq!(actual, expected.verdict, "{call:x?}: {actual:#x}, not {expected:x?}\n{profile:?}");
    }
}

/// Compares with the program of libseccomp, but for the differences that are known and named.
fn compare_with_libseccomp(profile: &LinuxSeccomp, program: &Program, theirs: &[SockFilter], names: &Names) {
    check(theirs).unwrap();
    for call in calls(profile, names) {
        let (ours, theirs) = (run(program.instructions(), &call), run(theirs, &call));
        if let Err(why) = differences::explain(profile, names, &call, ours, theirs) {
            panic!("{call:x?}: {ours:#x}, libseccomp says {theirs:#x}: {why}\n{profile:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 200 } else { 2000 }))]

    #[test]
    fn random_profiles_mean_what_the_model_says(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let names = names();
        let profile = profile(&mut Choices(&bytes), &names);
        match compile(&profile) {
            Ok(program) => compare_with_model(&program, &profile, &names),
            // The only way for these profiles to be refused: the listener would not get out.
            Err(error) => prop_assert!(error.to_string().contains("sendmsg must be allowed"), "{}", error),
        }
    }
}

/// What the fuzzer has found worth keeping.
#[test]
fn kept_inputs_of_the_fuzzer_mean_what_the_model_says() {
    let names = names();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/seccomp");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let profile = profile(&mut Choices(&std::fs::read(entry.unwrap().path()).unwrap()), &names);
        if let Ok(program) = compile(&profile) {
            compare_with_model(&program, &profile, &names);
            count += 1;
        }
    }
    assert!(count >= 20, "{count} profiles");
}

#[test]
fn kept_profiles_mean_what_the_model_and_libseccomp_say() {
    let names = names();
    let mut count = 0;
    for path in profiles() {
        let profile: LinuxSeccomp = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let program = compile(&profile).unwrap();
        compare_with_model(&program, &profile, &names);
        let theirs = instructions(&path.with_extension("bpf"));
        compare_with_libseccomp(&profile, &program, &theirs, &names);
        count += 1;
    }
    assert!(count >= 8, "{count} profiles");
}

/// What containers get is what the kept profile of libseccomp's program is made of.
#[test]
fn the_default_profile_is_kept_as_it_is() {
    for (capabilities, name) in [
        (&[][..], "default.json"),
        (&[oci_spec::runtime::Capability::SysAdmin][..], "default-sys-admin.json"),
    ] {
        let current = serde_json::to_string(&runtime_default(capabilities)).unwrap();
        let kept = std::fs::read_to_string(directory().join(name)).unwrap();
        // The other differs in the native rules: only this machine's architecture is kept.
        if cfg!(target_arch = "x86_64") {
            assert!(kept.trim() == current, "{name} is out of date; it should be\n{current}");
        }
    }
}

/// Every name that libseccomp knows has its number, on each architecture.
#[test]
fn numbers_are_those_of_libseccomp() {
    let names = names();
    let architectures =
        r#"["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32","SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"]"#;
    for name in names.all() {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_KILL","architectures":{architectures},
                "syscalls":[{{"names":["{name}"],"action":"SCMP_ACT_ALLOW"}}]}}"#
        );
        let program = compile(&serde_json::from_str(&json).unwrap()).unwrap();
        for abi in Abi::ALL {
            let expected = names.number(abi, name);
            let allowed: Vec<u32> = (0..600)
                .chain(0xf_0000..0xf_0010)
                .filter(|number| {
                    let call =
                        Call { architecture: abi.audit(), number: number | abi.bit(), arguments: [99; 6] };
                    run(program.instructions(), &call) == 0x7fff_0000
                })
                .collect();
            assert_eq!(allowed, Vec::from_iter(expected), "{name} on {abi:?}");
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp/profiles")
}

fn profiles() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
}

fn instructions(path: &Path) -> Vec<SockFilter> {
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let mut words = line.split(' ');
        let mut number = |radix| u32::from_str_radix(words.next().unwrap(), radix).unwrap();
        let (code, jt, jf, k) = (number(16), number(10), number(10), number(16));
        SockFilter { code: code as u16, jt: jt as u8, jf: jf as u8, k }
    };
    text.lines().filter(|text| !text.starts_with('#')).map(line).collect()
}
