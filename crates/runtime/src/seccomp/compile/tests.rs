use oci_spec::runtime::{Capability, LinuxSeccomp};

use super::super::bpf::interpreter::{Data, run};
use super::super::runtime_default;
use super::*;
use crate::Kind;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn verdict_of(program: &Program, column: Column, number: u32, arguments: [u64; 6]) -> u32 {
    run(program.instructions(), &Data { number, architecture: column.audit, arguments }).0
}

fn call(program: &Program, column: Column, name: &str, first: u64) -> u32 {
    verdict_of(program, column, column.number(name).unwrap(), [first, 0, 0, 0, 0, 0])
}

#[test]
fn actions_become_return_values() {
    let actions = [
        ("SCMP_ACT_KILL", "", 0),
        ("SCMP_ACT_KILL_THREAD", "", 0),
        ("SCMP_ACT_KILL_PROCESS", "", 0x8000_0000),
        ("SCMP_ACT_TRAP", "", 0x0003_0000),
        ("SCMP_ACT_ERRNO", "", 0x0005_0001),
        ("SCMP_ACT_ERRNO", r#","errnoRet":38"#, 0x0005_0026),
        ("SCMP_ACT_ERRNO", r#","errnoRet":0"#, 0x0005_0000),
        ("SCMP_ACT_TRACE", "", 0x7ff0_0001),
        ("SCMP_ACT_TRACE", r#","errnoRet":7"#, 0x7ff0_0007),
        ("SCMP_ACT_LOG", "", 0x7ffc_0000),
    ];
    for (action, errno, value) in actions {
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["mkdir","nonsense"],"action":"{action}"{errno}}}]}}"#
        );
        let program = compile(&profile(&json)).unwrap();
        assert_eq!(call(&program, X86_64, "mkdir", 0), value, "{action}");
        assert_eq!(call(&program, X86_64, "read", 0), ALLOW);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (json, kind) in [
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#,
            Kind::Invalid,
        ),
        (r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":4096}"#, Kind::Invalid),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","defaultErrnoRet":1}"#, Kind::Invalid),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL",
                "args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
            Kind::Invalid,
        ),
        (
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#,
            Kind::Invalid,
        ),
    ] {
        assert_eq!(compile(&profile(json)).unwrap_err().kind(), kind, "{json}");
    }
}

#[test]
fn only_listed_architectures_may_call() {
    let program =
        compile(&profile(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"]}"#))
            .unwrap();
    assert_eq!(verdict_of(&program, X86_64, 0, [0; 6]), ALLOW);
    assert_eq!(verdict_of(&program, X86_64, X32_BIT, [0; 6]), KILL_PROCESS);
    assert_eq!(verdict_of(&program, X86_64, u32::MAX, [0; 6]), ALLOW);
    assert_eq!(verdict_of(&program, X86, 0, [0; 6]), KILL_PROCESS);
    let both = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32","SCMP_ARCH_X86","SCMP_ARCH_RISCV64"],
            "syscalls":[{"names":["ioctl"],"action":"SCMP_ACT_ERRNO"}]}"#,
    ))
    .unwrap();
    // The numbers differ on all three.
    for column in [X86_64, X32, X86] {
        assert_eq!(call(&both, column, "ioctl", 0), ERRNO | EPERM);
        assert_eq!(call(&both, column, "read", 0), ALLOW);
    }
    let arm = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"],
            "syscalls":[{"names":["read","set_tls"],"action":"SCMP_ACT_ALLOW"}]}"#,
    ))
    .unwrap();
    assert_eq!(verdict_of(&arm, AARCH64, 63, [0; 6]), ALLOW);
    assert_eq!(verdict_of(&arm, ARM, 3, [0; 6]), ALLOW);
    assert_eq!(verdict_of(&arm, ARM, 0xf_0005, [0; 6]), ALLOW);
    assert_eq!(verdict_of(&arm, ARM, 400, [0; 6]), ERRNO | ENOSYS);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist() {
    let old = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","openat"],"action":"SCMP_ACT_ALLOW"},
        {"names":["statx"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    let program = compile(&profile(old)).unwrap();
    assert_eq!(call(&program, X86_64, "read", 0), ALLOW);
    assert_eq!(call(&program, X86_64, "mkdir", 0), ERRNO | EPERM);
    assert_eq!(call(&program, X86_64, "statx", 0), ERRNO | EPERM);
    assert_eq!(call(&program, X86_64, "rseq", 0), ERRNO | ENOSYS);
    assert_eq!(call(&program, X86_64, "clone3", 0), ERRNO | ENOSYS);
    let log = compile(&profile(&old.replacen("SCMP_ACT_ERRNO", "SCMP_ACT_LOG", 1))).unwrap();
    assert_eq!(call(&log, X86_64, "clone3", 0), LOG);
}

#[test]
fn rules_for_one_call_combine_as_in_runc() {
    let arg = |index: u32, value: u32| format!(r#"{{"index":{index},"value":{value},"op":"SCMP_CMP_EQ"}}"#);
    let rule = |action: &str, args: &[String]| {
        format!(r#"{{"names":["socket"],"action":"SCMP_ACT_{action}","args":[{}]}}"#, args.join(","))
    };
    let with = |rules: &[String]| {
        compile(&profile(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{}]}}"#,
            rules.join(",")
        )))
        .unwrap()
    };
    let number = X86_64.number("socket").unwrap();
    let test =
        |program: &Program, a: u64, b: u64| verdict_of(program, X86_64, number, [a, b, 0, 0, 0, 0]) == ALLOW;

    let all = with(&[rule("ALLOW", &[arg(0, 1), arg(1, 2)])]);
    assert!(test(&all, 1, 2) && !test(&all, 1, 3) && !test(&all, 0, 2));
    let either = with(&[rule("ALLOW", &[arg(0, 1), arg(0, 2), arg(1, 9)])]);
    assert!(test(&either, 1, 0) && test(&either, 2, 0) && test(&either, 0, 9) && !test(&either, 3, 0));
    let plain_wins = with(&[rule("KILL", &[arg(0, 1)]), rule("ALLOW", &[]), rule("KILL", &[])]);
    assert!(test(&plain_wins, 1, 0) && test(&plain_wins, 0, 0));
    let as_default = with(&[rule("ERRNO", &[]), rule("ALLOW", &[])]);
    assert!(test(&as_default, 0, 0));
}

#[test]
fn gates_of_x86_are_guarded() {
    let deny = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],
            "syscalls":[{"names":["socket","shmget"],"action":"SCMP_ACT_ERRNO"}]}"#,
    ))
    .unwrap();
    assert_eq!(call(&deny, X86, "socketcall", 1), ERRNO | EPERM);
    assert_eq!(call(&deny, X86, "socketcall", 2), ALLOW);
    assert_eq!(call(&deny, X86, "ipc", 23), ERRNO | EPERM);
    assert_eq!(call(&deny, X86, "ipc", 0x1_0017), ERRNO | EPERM);
    assert_eq!(call(&deny, X86, "ipc", 24), ALLOW);
}

#[test]
fn the_default_profile_allows_what_containers_need() {
    let plain = compile(&runtime_default(&[])).unwrap();
    let admin = compile(&runtime_default(&[Capability::SysAdmin, Capability::SysTime])).unwrap();
    for name in ["read", "execve", "futex", "ptrace", "uretprobe", "mseal", "arch_prctl"] {
        assert_eq!(call(&plain, X86_64, name, 0), ALLOW, "{name}");
    }
    for name in [
        "mount",
        "unshare",
        "bpf",
        "keyctl",
        "reboot",
        "io_uring_setup",
        "clock_settime",
        "userfaultfd",
        "fsopen",
    ] {
        assert_eq!(call(&plain, X86_64, name, 0), ERRNO | EPERM, "{name}");
    }
    for name in ["mount", "bpf", "clone3", "fsopen", "clock_settime"] {
        assert_eq!(call(&admin, X86_64, name, 0), ALLOW, "{name}");
    }
    assert_eq!(call(&plain, X86_64, "clone3", 0), ERRNO | ENOSYS);
    assert_eq!(call(&plain, X86_64, "file_setattr", 0), ERRNO | ENOSYS);
    assert_eq!(call(&plain, X86_64, "clone", 0x11), ALLOW);
    assert_eq!(call(&plain, X86_64, "clone", 0x1000_0011), ERRNO | EPERM);
    assert_eq!(call(&admin, X86_64, "clone", 0x1000_0011), ALLOW);
    for (family, allowed) in
        [(1, true), (2, true), (16, true), (37, true), (38, false), (39, true), (40, false), (41, true)]
    {
        assert_eq!(call(&plain, X86_64, "socket", family) == ALLOW, allowed, "family {family}");
    }
    for (persona, allowed) in
        [(0, true), (8, true), (0x20000, true), (0x20008, true), (0xffff_ffff, true), (0x4_0000, false)]
    {
        assert_eq!(call(&plain, X86_64, "personality", persona) == ALLOW, allowed, "{persona:#x}");
    }
    assert_eq!(call(&plain, X86, "socketcall", 1), ALLOW);
    assert_eq!(call(&plain, X32, "read", 0), ALLOW);
}

#[test]
fn a_verdict_takes_few_instructions() {
    let program = compile(&runtime_default(&[])).unwrap();
    assert!(program.instructions().len() < 800, "{} instructions", program.instructions().len());
    let worst = (0..470_u32)
        .map(|number| {
            run(program.instructions(), &Data { number, architecture: X86_64.audit, arguments: [50; 6] }).1
        })
        .max();
    assert!(worst.unwrap() <= 40, "{worst:?}");
    let read =
        run(program.instructions(), &Data { number: 0, architecture: X86_64.audit, arguments: [0; 6] }).1;
    assert!(read <= 12, "{read}");
}

/// One line for each instruction, with the targets of its jumps.
fn listing(program: &Program) -> String {
    let line = |(at, instruction): (usize, &SockFilter)| {
        let SockFilter { code, jt, jf, k } = *instruction;
        let (yes, no) = (at + 1 + usize::from(jt), at + 1 + usize::from(jf));
        let text = match code {
            bpf::LOAD => format!("load [{k}]"),
            bpf::AND => format!("and {k:#x}"),
            bpf::JUMP => format!("goto {}", at + 1 + k as usize),
            bpf::EQUAL => format!("if == {k:#x} goto {yes} else {no}"),
            bpf::GREATER => format!("if > {k:#x} goto {yes} else {no}"),
            bpf::AT_LEAST => format!("if >= {k:#x} goto {yes} else {no}"),
            bpf::RETURN => format!("return {k:#x}"),
            other => format!("{other:#x}"),
        };
        format!("{at} {text}\n")
    };
    program.instructions().iter().enumerate().map(line).collect()
}

#[test]
fn a_small_profile_in_full() {
    let program = compile(&profile(
        r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read","write","openat"],"action":"SCMP_ACT_ALLOW"},
            {"names":["socket"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
    ))
    .unwrap();
    insta::assert_snapshot!(listing(&program), @r"
    0 load [4]
    1 if == 0xc000003e goto 3 else 2
    2 return 0x80000000
    3 load [0]
    4 if >= 0x101 goto 17 else 5
    5 if >= 0x29 goto 9 else 6
    6 if >= 0x2 goto 8 else 7
    7 return 0x7fff0000
    8 return 0x50001
    9 if >= 0x2a goto 16 else 10
    10 load [20]
    11 if == 0x0 goto 12 else 15
    12 load [16]
    13 if == 0x1 goto 14 else 15
    14 return 0x7fff0000
    15 return 0x50001
    16 return 0x50001
    17 if >= 0x40000000 goto 21 else 18
    18 if >= 0x102 goto 20 else 19
    19 return 0x7fff0000
    20 return 0x50026
    21 if >= 0xffffffff goto 23 else 22
    22 return 0x80000000
    23 return 0x50001
    ");
}
