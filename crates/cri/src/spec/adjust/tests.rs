//! Each wish of a plugin, and what it does.

use oci_spec::runtime::{LinuxDeviceType, LinuxNamespaceType, MountBuilder, ProcessBuilder};

use super::*;

const NO_PROPAGATION: &dyn Fn(&Path, bool) -> Result<()> =
    &|path, _| Err(Error::invalid(format!("{} is not shared", path.display())));

fn spec() -> Spec {
    let mut spec = Spec::default();
    let process = ProcessBuilder::default()
        .env(vec!["PATH=/bin".to_owned(), "A=1".to_owned()])
        .args(vec!["sleep".to_owned()])
        .build()
        .unwrap();
    let mount = |path: &str| MountBuilder::default().destination(path).source("/x").build().unwrap();
    spec.set_process(Some(process))
        .set_annotations(Some(
            [("kept".to_owned(), "1".to_owned()), ("gone".to_owned(), "1".to_owned())].into(),
        ))
        .set_mounts(Some(vec![mount("/a"), mount("/a/b"), mount("/gone")]));
    spec
}

fn host() -> Host {
    Host { swap: true, lowest_oom_score_adj: -1000, ..Host::default() }
}

fn context<'a>(host: &'a Host, limits: &'a cri::LinuxContainerResources) -> Context<'a> {
    let join = Namespaces { ipc: true, net: true, pid: false, user: false, uts: true };
    Context { host, limits, join, is_built_in: true, has_own_users: false, propagates: NO_PROPAGATION }
}

fn apply(asked: &api::ContainerAdjustment) -> Result<(Spec, Adjusted)> {
    let mut spec = spec();
    let limits = cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        memory_swap_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let adjusted = adjust(&mut spec, asked, &context(&host(), &limits))?;
    Ok((spec, adjusted))
}

fn with_linux(linux: api::LinuxContainerAdjustment) -> api::ContainerAdjustment {
    api::ContainerAdjustment { linux: Some(linux), ..Default::default() }
}

fn refusal(asked: &api::ContainerAdjustment) -> String {
    apply(asked).unwrap_err().to_string()
}

fn pair(key: &str, value: &str) -> api::KeyValue {
    api::KeyValue { key: key.into(), value: value.into() }
}

#[test]
fn nothing_asked_is_nothing_done() {
    let (after, adjusted) = apply(&api::ContainerAdjustment::default()).unwrap();
    assert_eq!(after, spec());
    assert_eq!(adjusted.limits.memory_limit_in_bytes, 64 << 20);
    assert!(adjusted.join.net && adjusted.cgroup.is_none());
}

#[test]
fn annotations_environment_and_arguments() {
    let asked = api::ContainerAdjustment {
        annotations: [("-gone", ""), ("new", "2"), ("-kept", ""), ("kept", "3")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        env: vec![pair("A", "2"), pair("B", "x=y"), pair("-PATH", "")],
        args: ["", "echo", "hello"].map(str::to_owned).into(),
        ..Default::default()
    };
    let (spec, _) = apply(&asked).unwrap();
    let annotations = spec.annotations().clone().unwrap();
    assert_eq!((annotations.len(), &*annotations["new"], &*annotations["kept"]), (2, "2", "3"));
    let process = spec.process().clone().unwrap();
    assert_eq!(process.env().clone().unwrap(), ["A=2", "B=x=y"]);
    assert_eq!(process.args().clone().unwrap(), ["echo", "hello"]);
    for bad in [pair("", "x"), pair("A=B", "x"), pair("A", "x\0")] {
        let error = refusal(&api::ContainerAdjustment { env: vec![bad], ..Default::default() });
        assert!(error.starts_with("env: "), "{error}");
    }
}

#[test]
fn mounts_are_replaced_removed_and_in_order() {
    let mount = |destination: &str, source: &str, options: &[&str]| api::Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: String::new(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let asked = api::ContainerAdjustment {
        mounts: vec![
            mount("-/gone", "", &[]),
            mount("/a", "/host", &["ro"]),
            mount("/b/c/d", "/host", &["bind"]),
            mount("/b", "/host", &["rbind", "rw"]),
        ],
        ..Default::default()
    };
    let (spec, _) = apply(&asked).unwrap();
    let all = spec.mounts().clone().unwrap();
    let paths: Vec<_> = all.iter().map(|mount| mount.destination().to_str().unwrap()).collect();
    assert_eq!(paths, ["/a", "/b", "/a/b", "/b/c/d"]);
    assert_eq!(all[0].options().clone().unwrap(), ["rbind", "ro"]);
    assert_eq!(all[3].options().clone().unwrap(), ["bind"]);
    for (bad, why) in [
        (mount("/a/../b", "/host", &[]), "has a \"..\""),
        (mount("/a", "host", &["bind"]), "mounts[/a].source: \"host\" is not absolute"),
        (mount("/a", "/host", &["rshared"]), "mounts[/a]: /host is not shared"),
    ] {
        let error = refusal(&api::ContainerAdjustment { mounts: vec![bad], ..Default::default() });
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn propagation_is_the_roots_too() {
    let mut spec = spec();
    let mount = |options: &str| api::Mount {
        destination: format!("/{options}"),
        source: "/host".into(),
        r#type: "bind".into(),
        options: vec![options.into()],
    };
    let (host, limits) = (host(), cri::LinuxContainerResources::default());
    let context = Context { propagates: &|_, _| Ok(()), ..context(&host, &limits) };
    for (option, root) in [("rslave", "rslave"), ("rshared", "rshared"), ("rslave", "rshared")] {
        let asked = api::ContainerAdjustment { mounts: vec![mount(option)], ..Default::default() };
        adjust(&mut spec, &asked, &context).unwrap();
        assert_eq!(spec.linux().clone().unwrap().rootfs_propagation().as_deref(), Some(root));
    }
}

#[test]
fn hooks_come_after_those_that_are_there() {
    let hook = |path: &str| api::Hook {
        path: path.into(),
        args: vec!["x".into()],
        env: Vec::new(),
        timeout: Some(api::OptionalInt { value: 3 }),
    };
    let hooks = api::Hooks {
        create_runtime: vec![hook("/one"), hook("/two")],
        poststop: vec![hook("/three")],
        ..Default::default()
    };
    let (spec, _) = apply(&api::ContainerAdjustment { hooks: Some(hooks), ..Default::default() }).unwrap();
    let hooks = spec.hooks().clone().unwrap();
    let all = hooks.create_runtime().clone().unwrap();
    assert_eq!((all.len(), all[1].path().as_path(), all[1].timeout()), (2, Path::new("/two"), Some(3)));
    assert!(hooks.poststop().is_some() && hooks.poststart().is_none());
}

#[test]
fn limits_are_merged_and_checked() {
    let int64 = |value| Some(api::OptionalInt64 { value });
    let resources = api::LinuxResources {
        memory: Some(api::LinuxMemory {
            limit: int64(128 << 20),
            reservation: int64(1 << 20),
            ..Default::default()
        }),
        cpu: Some(api::LinuxCpu { quota: int64(50_000), ..Default::default() }),
        pids: Some(api::LinuxPids { limit: 17 }),
        devices: vec![api::LinuxDeviceCgroup {
            allow: true,
            r#type: "c".into(),
            major: int64(10),
            minor: None,
            access: "rw".into(),
        }],
        ..Default::default()
    };
    let asked = with_linux(api::LinuxContainerAdjustment {
        resources: Some(resources.clone()),
        oom_score_adj: Some(api::OptionalInt { value: 400 }),
        ..Default::default()
    });
    let (spec, adjusted) = apply(&asked).unwrap();
    let limits = adjusted.limits;
    assert_eq!((limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes), (128 << 20, 128 << 20));
    assert_eq!((limits.cpu_quota, limits.oom_score_adj), (50_000, 400));
    let made = spec.linux().clone().unwrap().resources().clone().unwrap();
    let memory = made.memory().unwrap();
    assert_eq!((memory.limit(), memory.reservation()), (Some(128 << 20), Some(1 << 20)));
    assert_eq!((made.pids().unwrap().limit(), made.cpu().clone().unwrap().quota()), (17, Some(50_000)));
    assert_eq!(made.devices().clone().unwrap().last().unwrap().major(), Some(10));
    assert_eq!(spec.process().clone().unwrap().oom_score_adj(), Some(400));

    let class = |name: &str| Some(api::OptionalString { value: name.into() });
    for (bad, why) in [
        (api::LinuxResources { blockio_class: class("fast"), ..Default::default() }, "blockio_class"),
        (
            api::LinuxResources {
                unified: [("memory.high".to_owned(), "1".to_owned())].into(),
                ..Default::default()
            },
            "unified",
        ),
        (
            api::LinuxResources {
                hugepage_limits: vec![api::HugepageLimit { page_size: "2MB".into(), limit: 1 }],
                ..Default::default()
            },
            "hugepage_limits",
        ),
    ] {
        let asked = api::LinuxContainerAdjustment { resources: Some(bad), ..Default::default() };
        let error = refusal(&with_linux(asked));
        assert!(error.contains(why), "{error}");
    }
    for (late, is_refused) in [
        (api::LinuxResources { rdt_class: class("gold"), ..Default::default() }, true),
        (api::LinuxResources { devices: resources.devices, ..Default::default() }, true),
        (api::LinuxResources { pids: resources.pids, ..Default::default() }, false),
    ] {
        assert_eq!(refuse_late(&late).is_err(), is_refused);
    }
}

#[test]
fn devices_have_a_rule_and_an_owner() {
    let device = |path: &str| api::LinuxDevice {
        path: path.into(),
        r#type: "c".into(),
        major: 10,
        minor: 229,
        ..Default::default()
    };
    let asked = |devices| with_linux(api::LinuxContainerAdjustment { devices, ..Default::default() });
    let (spec, _) = apply(&asked(vec![device("/dev/fuse"), device("/dev/other")])).unwrap();
    let linux = spec.linux().clone().unwrap();
    let made = linux.devices().clone().unwrap();
    assert_eq!((made.len(), made[0].typ(), made[0].uid()), (2, LinuxDeviceType::C, Some(0)));
    let rule = linux.resources().clone().unwrap().devices().clone().unwrap().pop().unwrap();
    assert_eq!((rule.allow(), rule.minor()), (true, Some(229)));
    let mut spec = spec;
    let (host, limits) = (host(), cri::LinuxContainerResources::default());
    adjust(&mut spec, &asked(vec![device("-/dev/fuse")]), &context(&host, &limits)).unwrap();
    assert_eq!(spec.linux().clone().unwrap().devices().clone().unwrap().len(), 1);
    let owned = api::LinuxDevice { uid: Some(api::OptionalUInt32 { value: 1 }), ..device("/dev/fuse") };
    let context = Context { has_own_users: true, ..context(&host, &limits) };
    let error = adjust(&mut spec, &asked(vec![owned]), &context).unwrap_err().to_string();
    assert!(error.contains("users of its own"), "{error}");
    let unknown = api::LinuxDevice { r#type: "x".into(), ..device("/dev/fuse") };
    assert!(refusal(&asked(vec![unknown])).contains("\"x\" is not the type of a device"));
}

#[test]
fn a_namespace_that_is_named_is_not_the_pods() {
    let namespace = |kind: &str, path: &str| api::LinuxNamespace { r#type: kind.into(), path: path.into() };
    let asked = |namespaces| with_linux(api::LinuxContainerAdjustment { namespaces, ..Default::default() });
    let (spec, adjusted) =
        apply(&asked(vec![namespace("network", "/run/netns/x"), namespace("-uts", "")])).unwrap();
    assert_eq!((adjusted.join.net, adjusted.join.uts, adjusted.join.ipc), (false, false, true));
    let all = spec.linux().clone().unwrap().namespaces().clone().unwrap();
    let net = all.iter().find(|other| other.typ() == LinuxNamespaceType::Network).unwrap();
    assert_eq!(net.path().as_deref(), Some(Path::new("/run/netns/x")));
    assert!(!all.iter().any(|other| other.typ() == LinuxNamespaceType::Uts));
    for bad in [namespace("user", ""), namespace("-mount", ""), namespace("what", "")] {
        assert!(refusal(&asked(vec![bad])).starts_with("linux.namespaces["));
    }
}

#[test]
fn scheduling_filters_and_memory_by_their_words() {
    let linux = api::LinuxContainerAdjustment {
        io_priority: Some(api::LinuxIoPriority {
            class: api::IoPrioClass::IoprioClassBe as i32,
            priority: 3,
        }),
        scheduler: Some(api::LinuxScheduler {
            policy: api::LinuxSchedulerPolicy::SchedBatch as i32,
            nice: 5,
            flags: vec![api::LinuxSchedulerFlag::SchedFlagResetOnFork as i32],
            ..Default::default()
        }),
        seccomp_policy: Some(api::LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            architectures: vec!["SCMP_ARCH_X86_64".into()],
            syscalls: vec![api::LinuxSyscall {
                names: vec!["mkdir".into()],
                action: "SCMP_ACT_ERRNO".into(),
                args: vec![api::LinuxSeccompArg { op: "SCMP_CMP_EQ".into(), ..Default::default() }],
                ..Default::default()
            }],
            ..Default::default()
        }),
        memory_policy: Some(api::LinuxMemoryPolicy {
            mode: api::MpolMode::MpolPreferredMany as i32,
            nodes: "0".into(),
            flags: vec![api::MpolFlag::MpolFStaticNodes as i32],
        }),
        sysctl: [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into(),
        net_devices: [("eth9".to_owned(), api::LinuxNetDevice { name: "lan".into() })].into(),
        rdt: Some(api::LinuxRdt {
            clos_id: Some(api::OptionalString { value: "gold".into() }),
            ..Default::default()
        }),
        cgroups_path: "/elsewhere".into(),
        ..Default::default()
    };
    let (mut spec, adjusted) = apply(&with_linux(linux.clone())).unwrap();
    let made = serde_json::to_value(&spec).unwrap();
    for (pointer, value) in [
        ("/process/ioPriority/class", "IOPRIO_CLASS_BE"),
        ("/process/scheduler/policy", "SCHED_BATCH"),
        ("/process/scheduler/flags/0", "SCHED_RESET_ON_FORK"),
        ("/linux/seccomp/syscalls/0/action", "SCMP_ACT_ERRNO"),
        ("/linux/seccomp/syscalls/0/args/0/op", "SCMP_CMP_EQ"),
        ("/linux/memoryPolicy/mode", "MPOL_PREFERRED_MANY"),
        ("/linux/memoryPolicy/flags/0", "MPOL_F_STATIC_NODES"),
        ("/linux/sysctl/net.ipv4.ip_forward", "1"),
        ("/linux/netDevices/eth9/name", "lan"),
        ("/linux/intelRdt/closID", "gold"),
    ] {
        assert_eq!(made.pointer(pointer).and_then(serde_json::Value::as_str), Some(value), "{pointer}");
    }
    assert_eq!(adjusted.cgroup.as_deref(), Some(Path::new("/elsewhere")));
    // Another runtime would leave out what it does not know.
    let (host, limits) = (host(), cri::LinuxContainerResources::default());
    let context = Context { is_built_in: false, ..context(&host, &limits) };
    let error = adjust(&mut spec, &with_linux(linux.clone()), &context).unwrap_err().to_string();
    assert!(error.contains("another runtime handler"), "{error}");
    let unknown = |change: &dyn Fn(&mut api::LinuxContainerAdjustment)| {
        let mut asked = linux.clone();
        change(&mut asked);
        refusal(&with_linux(asked))
    };
    let errors = [
        unknown(&|asked| asked.io_priority.as_mut().unwrap().class = 9),
        unknown(&|asked| asked.scheduler.as_mut().unwrap().policy = 99),
        unknown(&|asked| asked.scheduler.as_mut().unwrap().flags = vec![99]),
        unknown(&|asked| asked.seccomp_policy.as_mut().unwrap().default_action = "WHAT".into()),
        unknown(&|asked| asked.memory_policy.as_mut().unwrap().mode = 99),
    ];
    for error in errors {
        assert!(error.starts_with("linux.") && error.ends_with("is unknown"), "{error}");
    }
}

#[test]
fn rlimits_replace_their_like() {
    let limit = |soft| api::PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 200, soft };
    let asked = api::ContainerAdjustment { rlimits: vec![limit(100), limit(150)], ..Default::default() };
    let (spec, _) = apply(&asked).unwrap();
    let all = spec.process().clone().unwrap().rlimits().clone().unwrap();
    assert_eq!(
        all.iter().filter(|limit| limit.hard() == 200).map(|limit| limit.soft()).collect::<Vec<_>>(),
        [150]
    );
    let bad = api::PosixRlimit { r#type: "RLIMIT_WHAT".into(), ..limit(1) };
    let error = refusal(&api::ContainerAdjustment { rlimits: vec![bad], ..Default::default() });
    assert_eq!(error, "rlimits: \"RLIMIT_WHAT\" is unknown");
}
