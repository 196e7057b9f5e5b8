//! `features`: what this runtime can do (runtime-spec, features.md).
//!
//! Most of it is found out by planning a container that asks for it: what the plan takes is there.

use serde_json::{Value, json};
use vaquita_runtime::{Context, Kind, MOUNT_OPTIONS, Plan, document, seccomp};
use vaquita_sys::cap::Capability;

use crate::SPEC_VERSION;

/// The features as a JSON object. `version` is that of the program.
#[must_use]
pub fn features(version: &str) -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": NAMESPACES.iter().filter(|kind| takes_namespace(kind)).collect::<Vec<_>>(),
            "capabilities": Capability::all().map(|one| one.to_string()).collect::<Vec<_>>(),
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": known(ACTIONS, |action| json!({"defaultAction": action})),
                "operators": known(OPERATORS, with_operator),
                "archs": known(ARCHS, |arch| json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": [arch]})),
                "knownFlags": known(FLAGS, with_flag),
                "supportedFlags": known(FLAGS, with_flag),
            },
            "apparmor": {"enabled": takes("/process/apparmorProfile", json!("unconfined"))},
            "selinux": {"enabled": takes("/process/selinuxLabel", json!("system_u:system_r:container_t:s0"))},
            "intelRdt": {
                "enabled": takes("/linux/intelRdt", json!({"closID": "features"})),
                "schemata": takes("/linux/intelRdt", json!({"closID": "features", "schemata": ["L3:0=f"]})),
                "monitoring": takes("/linux/intelRdt", json!({"closID": "features", "enableMonitoring": true})),
            },
            "memoryPolicy": {
                "modes": policy(MODES, |mode| json!({"mode": mode, "nodes": "0"})),
                "flags": policy(MODE_FLAGS, |flag| json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]})),
            },
            "mountExtensions": {"idmap": {"enabled": takes("/mounts", json!([{
                "destination": "/a", "source": "/", "type": "bind", "options": ["bind", "idmap"],
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
                "gidMappings": [{"containerID": 0, "hostID": 1, "size": 1}],
            }]))}},
            "netDevices": {"enabled": takes("/linux/netDevices", json!({"eth0": {"name": "eth0"}}))},
        },
        "annotations": {"io.vaquita.version": version},
        "potentiallyUnsafeConfigAnnotations": ["org.systemd.property."],
    })
}

const NAMESPACES: &[&str] = &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"];

/// What the specification names (config-linux.md, "Seccomp").
const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];
const OPERATORS: &[&str] = &[
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
];
const ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];
const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];
/// config-linux.md, "Memory Policy".
const MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];
const MODE_FLAGS: &[&str] = &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

fn with_operator(operator: &str) -> Value {
    let argument = json!({"index": 0, "value": 1, "valueTwo": 1, "op": operator});
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["close"], "action": "SCMP_ACT_ERRNO", "args": [argument]}],
    })
}

fn with_flag(flag: &str) -> Value {
    // One of them is about notified calls.
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/run/agent",
        "flags": [flag],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    })
}

fn known<'a>(names: &[&'a str], profile: impl Fn(&str) -> Value) -> Vec<&'a str> {
    let compiles = |name: &&&str| {
        let mut profile = profile(name);
        if **name == "SCMP_ACT_NOTIFY" {
            profile["listenerPath"] = json!("/run/agent");
        }
        let text = profile.to_string();
        document::parse("profile", text.as_bytes()).is_ok_and(|profile| {
            // As a default it would stop the message about itself: refused for that, and not because it is unknown.
            !seccomp::compile(&profile).is_err_and(|error| error.kind() == Kind::Unsupported)
        })
    };
    // Where everything passes, nothing is known of it.
    if compiles(&&"NO_SUCH_NAME") { Vec::new() } else { names.iter().filter(compiles).copied().collect() }
}

fn policy<'a>(names: &[&'a str], policy: impl Fn(&str) -> Value) -> Vec<&'a str> {
    let takes = |name: &&str| takes("/linux/memoryPolicy", policy(name));
    if takes(&"NO_SUCH_NAME") {
        Vec::new()
    } else {
        names.iter().filter(|name| takes(name)).copied().collect()
    }
}

fn takes_namespace(kind: &str) -> bool {
    let mut kinds = vec![json!({"type": "mount"})];
    if kind != "mount" {
        kinds.push(json!({"type": kind}));
    }
    takes("/linux/namespaces", Value::Array(kinds))
}

/// Whether a container that asks for it is one that can be planned, be its values sensible or not.
fn takes(pointer: &str, value: Value) -> bool {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let mut spec = json!({
        "ociVersion": SPEC_VERSION,
        "root": {"path": "rootfs"},
        "process": {"cwd": "/", "args": ["true"], "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "network"}]},
    });
    let (parent, name) = pointer.rsplit_once('/').unwrap_or_default();
    if value.to_string().contains("\"user\"") {
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    }
    let parent = if parent.is_empty() { Some(&mut spec) } else { spec.pointer_mut(parent) };
    if let Some(parent) = parent {
        parent[name] = value;
    }
    let context = Context { id: Some("features".to_owned()), ..Context::default() };
    document::parse_spec("features", spec.to_string().as_bytes())
        .is_ok_and(|spec| !Plan::new(&spec, &context).is_err_and(|error| error.kind() == Kind::Unsupported))
}
