//! Every property of runtime-spec that is this crate's is obeyed, or refused by its name. docs/runtime-spec.md says which
//! those are, and what is done with each.

use std::collections::BTreeSet;

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use crate::harness::Bundle;

/// What becomes of a property.
enum Fate {
    /// The program in the container answers this to an order.
    Shows(&'static str, &'static str),
    /// The container cannot be made or started, for a reason that begins so.
    Refused(&'static str),
    /// Another test shows it: this one, or those of this module.
    Elsewhere(&'static str),
}

use Fate::{Elsewhere, Refused, Shows};

struct Case {
    property: &'static str,
    /// JSON pointers and what is put there.
    set: Vec<(&'static str, Value)>,
    fate: Fate,
}

fn one(property: &'static str, pointer: &'static str, value: Value, fate: Fate) -> Case {
    Case { property, set: vec![(pointer, value)], fate }
}

fn elsewhere(property: &'static str, test: &'static str) -> Case {
    Case { property, set: Vec::new(), fate: Elsewhere(test) }
}

fn process() -> Vec<Case> {
    let caps = |list: &[&str]| json!(list);
    vec![
        elsewhere("process.terminal", "create::a_terminal"),
        one("process.cwd", "/process/cwd", json!("/tmp"), Shows("cwd", "/tmp")),
        one("process.env", "/process/env/1", json!("PATH=/else"), Shows("env PATH", "/else")),
        one("process.args", "/process/args/0", json!("/nope"), Refused("execve(\"/nope\"): ENOENT")),
        one("process.commandLine", "/process/commandLine", json!("x"), Refused("process.commandLine ")),
        one("process.user.uid", "/process/user/uid", json!(5), Shows("ids", "5 0 []")),
        one("process.user.gid", "/process/user/gid", json!(6), Shows("ids", "0 6 []")),
        one("process.user.umask", "/process/user/umask", json!(0o27), Shows("umask", "27")),
        one(
            "process.user.additionalGids",
            "/process/user/additionalGids",
            json!([7]),
            Shows("ids", "0 0 [7]"),
        ),
        one("process.user.username", "/process/user/username", json!("x"), Refused("process.user.username ")),
        one(
            "process.capabilities.bounding",
            "/process/capabilities/bounding",
            caps(&["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"]),
            Shows("status CapBnd", "00000000000000a1"),
        ),
        one(
            "process.capabilities.effective",
            "/process/capabilities/effective",
            caps(&["CAP_SETUID"]),
            Refused("process.capabilities.effective: "),
        ),
        one(
            "process.capabilities.permitted",
            "/process/capabilities/permitted",
            caps(&["CAP_KILL"]),
            Refused("process.capabilities.effective: {CAP_CHOWN}"),
        ),
        one(
            "process.capabilities.inheritable",
            "/process/capabilities/inheritable",
            caps(&["CAP_KILL"]),
            Shows("status CapInh", "0000000000000020"),
        ),
        one(
            "process.capabilities.ambient",
            "/process/capabilities/ambient",
            caps(&["CAP_KILL"]),
            Refused("process.capabilities.ambient: "),
        ),
        one(
            "process.rlimits",
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]),
            Shows("nofile", "Some(100) Some(200)"),
        ),
        one(
            "process.noNewPrivileges",
            "/process/noNewPrivileges",
            json!(false),
            Shows("status NoNewPrivs", "0"),
        ),
        elsewhere("process.apparmorProfile", "process::labels_are_refused_by_name"),
        elsewhere("process.selinuxLabel", "process::labels_are_refused_by_name"),
        one(
            "process.oomScoreAdj",
            "/process/oomScoreAdj",
            json!(500),
            Shows("cat /proc/self/oom_score_adj", "500"),
        ),
        elsewhere("process.scheduler", "process::it_is_scheduled_as_asked"),
        elsewhere("process.ioPriority", "process::io_priority_and_personality"),
        elsewhere("process.execCPUAffinity", "process::an_added_process_runs_on_the_cpus_asked_for"),
    ]
}

fn others() -> Vec<Case> {
    vec![
        one("ociVersion", "/ociVersion", json!("1.0.2"), Shows("pid", "1")),
        one("root.readonly", "/root/readonly", json!(true), Shows("create /x", "EROFS")),
        elsewhere("mounts[].destination", "mounts"),
        elsewhere("mounts[].source", "create::binds_of_every_sort"),
        elsewhere("mounts[].options", "mounts"),
        elsewhere("mounts[].type", "mounts"),
        elsewhere("mounts[].uidMappings", "mounts"),
        elsewhere("mounts[].gidMappings", "mounts"),
        one("hostname", "/hostname", json!("other"), Shows("hostname", "other")),
        one("domainname", "/domainname", json!("example"), Shows("domainname", "example")),
        one("solaris", "/solaris", json!({}), Refused("solaris ")),
        one("windows", "/windows", json!({"layerFolders": []}), Refused("windows ")),
        one(
            "vm",
            "/vm",
            json!({"kernel": {"path": "/x"}, "hypervisor": {"path": "/x"}, "image": {"path": "/x", "format": "raw"}}),
            Refused("vm "),
        ),
        one("zos", "/zos", json!({}), Refused("zos ")),
    ]
}

fn linux() -> Vec<Case> {
    let ids = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    vec![
        one(
            "linux.namespaces",
            "/linux/namespaces/0",
            json!({"type": "pid", "path": "/proc/self/ns/net"}),
            Refused("setns(<pid namespace>, CLONE_NEWPID): EINVAL"),
        ),
        one("linux.uidMappings", "/linux/uidMappings", ids.clone(), Refused("linux.uidMappings: ")),
        one("linux.gidMappings", "/linux/gidMappings", ids, Refused("linux.gidMappings: ")),
        Case {
            property: "linux.timeOffsets",
            set: vec![
                ("/linux/namespaces/5", json!({"type": "time"})),
                ("/linux/timeOffsets", json!({"boottime": {"secs": 50, "nanosecs": 1}})),
            ],
            fate: Shows(
                "cat /proc/self/timens_offsets",
                "monotonic           0         0|boottime           50         1",
            ),
        },
        one(
            "linux.devices",
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 5, "fileMode": 0o640, "uid": 3, "gid": 4}]),
            Shows("stat /dev/x", "char 640 3:4 1:5"),
        ),
        one(
            "linux.netDevices",
            "/linux/netDevices",
            json!({"nope": {"name": "x"}}),
            Refused("linux.netDevices: moving \"nope\""),
        ),
        one("linux.intelRdt", "/linux/intelRdt", json!({"closID": "nope"}), Refused("linux.intelRdt")),
        one(
            "linux.sysctl",
            "/linux/sysctl",
            json!({"net.ipv4.ip_forward": "1"}),
            Shows("cat /proc/sys/net/ipv4/ip_forward", "1"),
        ),
        one("linux.seccomp", "/linux/seccomp", every_seccomp(), Shows("mkdirat2 /tmp/x", "ENOSYS")),
        one(
            "linux.rootfsPropagation",
            "/linux/rootfsPropagation",
            json!("sideways"),
            Refused("linux.rootfsPropagation: "),
        ),
        one("linux.maskedPaths", "/linux/maskedPaths", json!(["/tmp"]), Shows("create /tmp/x", "EROFS")),
        one("linux.readonlyPaths", "/linux/readonlyPaths", json!(["/tmp"]), Shows("create /tmp/x", "EROFS")),
        elsewhere("linux.mountLabel", "mounts"),
        elsewhere("linux.personality", "process::io_priority_and_personality"),
        elsewhere("linux.memoryPolicy", "process::memory_comes_from_where_it_was_asked_to"),
    ]
}

/// All that a profile can have, but a listener.
fn every_seccomp() -> Value {
    let architectures = [
        "X86",
        "X86_64",
        "X32",
        "ARM",
        "AARCH64",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
        "SHEB",
    ];
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let args: Vec<Value> = operators
        .iter()
        .map(|op| json!({"index": 5, "value": u64::MAX, "valueTwo": 1, "op": format!("SCMP_CMP_{op}")}))
        .collect();
    let actions = ["KILL", "KILL_PROCESS", "KILL_THREAD", "TRAP", "TRACE", "LOG", "ALLOW"];
    let mut syscalls: Vec<Value> = actions
        .iter()
        .map(|action| json!({"names": ["acct"], "action": format!("SCMP_ACT_{action}"), "args": args}))
        .collect();
    syscalls.push(
        json!({"names": ["mkdir", "mkdirat", "unheard_of"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}),
    );
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": architectures.map(|name| format!("SCMP_ARCH_{name}")),
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "listenerPath": "/ignored/without/notify",
        "syscalls": syscalls,
    })
}

fn all() -> Vec<Case> {
    others().into_iter().chain(process()).chain(linux()).collect()
}

#[test]
fn every_property_is_obeyed_or_refused_by_name() {
    let list = std::process::Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let tests: Vec<&str> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    for Case { property, set, fate } in all() {
        let order = if let Shows(order, _) = fate { order } else { "pid" };
        if let Elsewhere(test) = fate {
            assert!(tests.iter().any(|name| name.starts_with(test)), "{property}: there is no test {test:?}");
            continue;
        }
        let mut bundle = Bundle::new(order);
        for (pointer, value) in set {
            bundle = put(bundle, pointer, value.clone());
            // A name that the types do not know would be ignored.
            let spec: Spec = serde_json::from_value(bundle.spec.clone()).unwrap();
            let known = serde_json::to_value(&spec).unwrap();
            assert!(known.pointer(pointer).is_some(), "{property} is not known");
        }
        match fate {
            Shows(order, answer) => assert_eq!(bundle.run().of(order), answer, "{property}"),
            Refused(text) => {
                let error = match bundle.create() {
                    Err(error) => error,
                    Ok(mut running) => running.start().expect_err(property),
                };
                assert!(error.to_string().starts_with(text), "{property}: {error}");
            }
            Elsewhere(_) => {}
        }
    }
}

fn put(mut bundle: Bundle, pointer: &str, value: Value) -> Bundle {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match bundle.spec.pointer_mut(parent).unwrap() {
        Value::Array(list) => match name.parse::<usize>().unwrap() {
            at if at < list.len() => list[at] = value,
            _ => list.push(value),
        },
        object => object[name] = value,
    }
    bundle
}

#[test]
fn the_page_and_the_test_have_the_same_properties() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runtime-spec.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        Some((cells.next()?.strip_prefix('`')?.strip_suffix('`')?, cells.next()?))
    });
    let told: BTreeSet<&str> =
        rows.filter(|(_, who)| *who == "runtime").map(|(property, _)| property).collect();
    let tested: BTreeSet<&str> = all().iter().map(|case| case.property).collect();
    assert_eq!(told, tested);
}
