use super::*;
use crate::api::{
    CdiDevice, HugepageLimit, KeyValue, LinuxContainerUpdate, LinuxCpu, LinuxDevice, LinuxMemory,
    LinuxNamespace, LinuxNetDevice, LinuxPids, Mount, OptionalInt, OptionalInt64, OptionalString,
    OptionalUInt64, PosixRlimit,
};

fn container() -> Container {
    Container {
        id: "new".to_owned(),
        env: vec!["PATH=/bin".to_owned(), "HOME=/".to_owned()],
        mounts: vec![mount("/data", "/host")],
        args: vec!["sleep".to_owned()],
        annotations: [("a".to_owned(), "1".to_owned())].into(),
        ..Container::default()
    }
}

fn mount(destination: &str, source: &str) -> Mount {
    Mount { destination: destination.to_owned(), source: source.to_owned(), ..Mount::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

fn map<V: Clone>(entries: &[(&str, V)]) -> BTreeMap<String, V> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn linux(linux: LinuxContainerAdjustment) -> ContainerAdjustment {
    ContainerAdjustment { linux: Some(linux), ..ContainerAdjustment::default() }
}

fn memory(limit: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: limit }), ..LinuxMemory::default() };
    LinuxResources { memory: Some(memory), ..LinuxResources::default() }
}

fn shares(shares: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value: shares }), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn update(id: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    let linux = Some(Box::new(LinuxContainerUpdate { resources: Some(resources) }));
    ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure }
}

/// The answers of plugins `10-a`, `20-b`, … in their order.
fn create(wishes: impl IntoIterator<Item = ContainerAdjustment>) -> Result<Creating> {
    let mut creating = Creating::new(container());
    for (at, wish) in wishes.into_iter().enumerate() {
        let plugin = format!("{}0-{}", at + 1, char::from(b'a' + at as u8));
        creating.add(&plugin, Some(wish), Vec::new(), Vec::new())?;
    }
    Ok(creating)
}

fn conflict(result: Result<Creating>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    error.to_string()
}

#[test]
fn different_wishes_are_united() {
    let creating = create([
        ContainerAdjustment { env: vec![variable("A", "1")], ..Default::default() },
        ContainerAdjustment { mounts: vec![mount("/x", "/y")], ..linux_of(memory(5)) },
        linux_of(shares(7)),
    ])
    .unwrap();
    assert_eq!(creating.container().env, ["PATH=/bin", "HOME=/", "A=1"]);
    assert_eq!(creating.container().mounts, [mount("/data", "/host"), mount("/x", "/y")]);
    let adjustment = creating.finish().adjustment;
    assert_eq!(adjustment.env, [variable("A", "1")]);
    assert_eq!(adjustment.mounts, [mount("/x", "/y")]);
    let resources = adjustment.linux.unwrap().resources.unwrap();
    assert_eq!((resources.memory, resources.cpu), (memory(5).memory, shares(7).cpu));
}

fn linux_of(resources: LinuxResources) -> ContainerAdjustment {
    linux(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() })
}

/// A wish for each property, and what it is called.
#[allow(clippy::too_many_lines, reason = "a table")]
fn wishes() -> Vec<(&'static str, ContainerAdjustment)> {
    let name = |name: &str| name.to_owned();
    vec![
        (
            "Annotations k",
            ContainerAdjustment { annotations: map(&[("k", name("v"))]), ..Default::default() },
        ),
        ("Mounts /x", ContainerAdjustment { mounts: vec![mount("/x", "/y")], ..Default::default() }),
        ("Env A", ContainerAdjustment { env: vec![variable("A", "1")], ..Default::default() }),
        ("Args", ContainerAdjustment { args: vec![name("true")], ..Default::default() }),
        (
            "Rlimits RLIMIT_CORE",
            ContainerAdjustment {
                rlimits: vec![PosixRlimit { r#type: name("RLIMIT_CORE"), ..Default::default() }],
                ..Default::default()
            },
        ),
        (
            "CdiDevices v/c=d",
            ContainerAdjustment {
                cdi_devices: vec![CdiDevice { name: name("v/c=d") }],
                ..Default::default()
            },
        ),
        (
            "Devices /dev/x",
            linux(LinuxContainerAdjustment {
                devices: vec![LinuxDevice { path: name("/dev/x"), ..Default::default() }],
                ..Default::default()
            }),
        ),
        (
            "Namespace network",
            linux(LinuxContainerAdjustment {
                namespaces: vec![LinuxNamespace { r#type: name("network"), path: name("/n") }],
                ..Default::default()
            }),
        ),
        (
            "Sysctl kernel.x",
            linux(LinuxContainerAdjustment { sysctl: map(&[("kernel.x", name("1"))]), ..Default::default() }),
        ),
        (
            "LinuxNetDevices eth1",
            linux(LinuxContainerAdjustment {
                net_devices: map(&[("eth1", LinuxNetDevice { name: name("eth0") })]),
                ..Default::default()
            }),
        ),
        ("CgroupsPath", linux(LinuxContainerAdjustment { cgroups_path: name("/p"), ..Default::default() })),
        (
            "OomScoreAdj",
            linux(LinuxContainerAdjustment {
                oom_score_adj: Some(OptionalInt { value: 1 }),
                ..Default::default()
            }),
        ),
        (
            "IoPriority",
            linux(LinuxContainerAdjustment { io_priority: Some(Default::default()), ..Default::default() }),
        ),
        (
            "SeccompPolicy",
            linux(LinuxContainerAdjustment {
                seccomp_policy: Some(Default::default()),
                ..Default::default()
            }),
        ),
        (
            "LinuxSched",
            linux(LinuxContainerAdjustment { scheduler: Some(Default::default()), ..Default::default() }),
        ),
        (
            "MemoryPolicy",
            linux(LinuxContainerAdjustment { memory_policy: Some(Default::default()), ..Default::default() }),
        ),
        (
            "RdtClosID",
            linux(LinuxContainerAdjustment {
                rdt: Some(LinuxRdt {
                    clos_id: Some(OptionalString { value: name("c") }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        ),
        ("MemLimit", linux_of(memory(1))),
        ("CPUShares", linux_of(shares(1))),
        ("PidsLimit", linux_of(LinuxResources { pids: Some(LinuxPids { limit: 1 }), ..Default::default() })),
        (
            "HugepageLimits 2MB",
            linux_of(LinuxResources {
                hugepage_limits: vec![HugepageLimit { page_size: name("2MB"), limit: 1 }],
                ..Default::default()
            }),
        ),
        (
            "CgroupsUnified memory.high",
            linux_of(LinuxResources { unified: map(&[("memory.high", name("1"))]), ..Default::default() }),
        ),
    ]
}

#[test]
fn two_plugins_that_set_the_same_are_in_conflict() {
    for (what, wish) in wishes() {
        let error = conflict(create([wish.clone(), ContainerAdjustment::default(), wish]));
        assert_eq!(error, format!("plugins 10-a and 30-c both set {what} of container new"));
    }
}

#[test]
fn a_removal_takes_an_entry_from_the_plugin_that_set_it() {
    let creating = create([
        ContainerAdjustment {
            env: vec![variable("A", "1")],
            mounts: vec![mount("/x", "/y")],
            annotations: map(&[("k", "v".to_owned())]),
            ..Default::default()
        },
        ContainerAdjustment {
            env: vec![variable("-A", ""), variable("A", "2")],
            mounts: vec![mount("-/x", "")],
            annotations: map(&[("-k", String::new()), ("k", "w".to_owned())]),
            ..Default::default()
        },
    ])
    .unwrap();
    assert_eq!(creating.container().env, ["PATH=/bin", "HOME=/", "A=2"]);
    assert_eq!(creating.container().mounts, [mount("/data", "/host")]);
    assert_eq!(creating.container().annotations["k"], "w");
    let adjustment = creating.finish().adjustment;
    assert_eq!(adjustment.env, [variable("A", "2")]);
    assert_eq!(adjustment.mounts, [mount("-/x", "")]);
    assert_eq!(adjustment.annotations, map(&[("k", "w".to_owned())]));
}

#[test]
fn what_was_taken_from_one_plugin_is_not_a_third_ones() {
    let set = ContainerAdjustment { env: vec![variable("A", "1")], ..Default::default() };
    let removal = ContainerAdjustment { env: vec![variable("-A", "")], ..Default::default() };
    let error = conflict(create([set.clone(), removal, set]));
    assert!(error.starts_with("plugins 20-b and 30-c both set Env A"), "{error}");
}

#[test]
fn a_removal_of_what_no_plugin_has_set_reaches_the_container_and_leaves_the_name_free() {
    let creating = create([
        ContainerAdjustment {
            env: vec![variable("-HOME", "")],
            mounts: vec![mount("-/data", "")],
            annotations: map(&[("-a", String::new())]),
            ..Default::default()
        },
        ContainerAdjustment { env: vec![variable("HOME", "/root")], ..Default::default() },
    ])
    .unwrap();
    assert_eq!(creating.container().env, ["PATH=/bin", "HOME=/root"]);
    assert!(creating.container().mounts.is_empty() && creating.container().annotations.is_empty());
    let adjustment = creating.finish().adjustment;
    assert_eq!(adjustment.env, [variable("-HOME", ""), variable("HOME", "/root")]);
    assert_eq!(adjustment.mounts, [mount("-/data", "")]);
    assert_eq!(adjustment.annotations, map(&[("-a", String::new())]));
}

#[test]
fn a_namespace_that_one_plugin_removes_another_cannot_set() {
    let namespace = |name: &str, path: &str| {
        linux(LinuxContainerAdjustment {
            namespaces: vec![LinuxNamespace { r#type: name.to_owned(), path: path.to_owned() }],
            ..Default::default()
        })
    };
    let error = conflict(create([namespace("-network", ""), namespace("network", "/n")]));
    assert!(error.contains("Namespace network"), "{error}");
}

#[test]
fn arguments_are_replaced_when_the_first_is_empty() {
    let args = |args: &[&str]| ContainerAdjustment {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..Default::default()
    };
    let creating = create([args(&["true"]), args(&["", "false", "-x"])]).unwrap();
    assert_eq!(creating.container().args, ["false", "-x"]);
    assert_eq!(creating.finish().adjustment.args, ["false", "-x"]);
}

#[test]
fn rdt_that_is_set_after_a_removal_stands_in_its_place() {
    let rdt = |class: Option<&str>, remove: bool| {
        let clos_id = class.map(|class| OptionalString { value: class.to_owned() });
        linux(LinuxContainerAdjustment {
            rdt: Some(LinuxRdt { clos_id, remove, ..Default::default() }),
            ..Default::default()
        })
    };
    let of = |creating: Creating| creating.finish().adjustment.linux.unwrap().rdt.unwrap();
    let removed = of(create([rdt(Some("a"), false), rdt(None, true)]).unwrap());
    assert_eq!((removed.clos_id, removed.remove), (None, true));
    let replaced = of(create([rdt(Some("a"), false), rdt(Some("b"), true)]).unwrap());
    assert_eq!((replaced.clos_id.unwrap().value.as_str(), replaced.remove), ("b", false));
}

#[test]
fn hooks_of_all_plugins_run_in_their_order() {
    let hook = |path: &str| Hook { path: path.to_owned(), ..Default::default() };
    let hooks = |path: &str| ContainerAdjustment {
        hooks: Some(Hooks { poststop: vec![hook(path)], ..Default::default() }),
        ..Default::default()
    };
    let creating = create([hooks("/a"), hooks("/b")]).unwrap();
    assert_eq!(creating.owners().owners["new"].simple[&(Field::OciHooks as i32)], "10-a,20-b");
    assert_eq!(creating.finish().adjustment.hooks.unwrap().poststop, [hook("/a"), hook("/b")]);
}

#[test]
fn owners_are_told_with_a_mark_where_something_was_only_taken_away() {
    let creating = create([
        ContainerAdjustment { env: vec![variable("A", "1"), variable("B", "1")], ..linux_of(memory(1)) },
        ContainerAdjustment { env: vec![variable("-A", "")], ..Default::default() },
    ])
    .unwrap();
    let owners = &creating.owners().owners["new"];
    assert_eq!(owners.simple, BTreeMap::from([(Field::MemLimit as i32, "10-a".to_owned())]));
    let env = &owners.compound[&(Field::Env as i32)].owners;
    assert_eq!(env, &map(&[("A", "-20-b".to_owned()), ("B", "10-a".to_owned())]));
}

#[test]
fn names_that_are_none_are_refused() {
    for wish in [
        ContainerAdjustment { env: vec![variable("", "1")], ..Default::default() },
        ContainerAdjustment { env: vec![variable("-", "")], ..Default::default() },
        ContainerAdjustment { env: vec![variable("A=B", "")], ..Default::default() },
        ContainerAdjustment { mounts: vec![mount("", "/y")], ..Default::default() },
        ContainerAdjustment { annotations: map(&[("-", String::new())]), ..Default::default() },
        ContainerAdjustment { rlimits: vec![PosixRlimit::default()], ..Default::default() },
    ] {
        assert_eq!(create([wish]).unwrap_err().kind(), Kind::Plugin);
    }
}

#[test]
fn updates_of_other_containers_are_united_or_in_conflict() {
    let mut creating = Creating::new(container());
    creating.add("10-a", None, vec![update("x", memory(1), true)], Vec::new()).unwrap();
    creating
        .add("20-b", None, vec![update("x", shares(2), false), update("y", memory(3), true)], Vec::new())
        .unwrap();
    let error = creating.add("30-c", None, vec![update("x", memory(4), false)], Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "plugins 10-a and 30-c both set MemLimit of container x");
    // It does not mind, and nothing of it is done.
    let both = LinuxResources { pids: Some(LinuxPids { limit: 9 }), ..memory(4) };
    creating.add("30-c", None, vec![update("x", both, true)], Vec::new()).unwrap();
    let united = LinuxResources { cpu: shares(2).cpu, ..memory(1) };
    assert_eq!(creating.finish().updates, [update("x", united, false), update("y", memory(3), true)]);
}

#[test]
fn a_container_that_is_being_made_is_adjusted_and_not_updated() {
    let error =
        Creating::new(container()).add("10-a", None, vec![update("new", memory(1), true)], Vec::new());
    assert_eq!(error.unwrap_err().kind(), Kind::Plugin);
}

#[test]
fn an_update_is_what_was_asked_for_with_what_plugins_change() {
    let asked = LinuxResources { cpu: shares(100).cpu, ..memory(10) };
    let mut updating = Updating::new("x", asked);
    let more = LinuxResources { pids: Some(LinuxPids { limit: 5 }), ..memory(20) };
    updating.add("10-a", vec![update("x", more, false), update("y", shares(1), false)], Vec::new()).unwrap();
    assert_eq!(updating.resources().memory, memory(20).memory);
    updating.add("20-b", vec![update("x", memory(30), true)], Vec::new()).unwrap();
    let error = updating.add("20-b", vec![update("x", memory(30), false)], Vec::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    let update = updating.finish();
    assert_eq!(update.resources.memory, memory(20).memory);
    assert_eq!(update.resources.cpu, shares(100).cpu);
    assert_eq!(update.resources.pids, Some(LinuxPids { limit: 5 }));
    assert_eq!(update.updates.len(), 1);
}
