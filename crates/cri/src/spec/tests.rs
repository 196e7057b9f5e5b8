use serde_json::Value;

use super::*;
use crate::host::capability;

fn host() -> Host {
    Host {
        capabilities: ["CHOWN", "NET_ADMIN", "SYS_ADMIN"]
            .iter()
            .filter_map(|name| capability(name))
            .collect(),
        cgroup_v2: true,
        swap: true,
        hugetlb: true,
        huge_pages: vec!["2MB".into(), "1GB".into()],
        cpus: Default::default(),
        memory_nodes: Default::default(),
        apparmor: false,
        selinux: false,
        selinux_policy: None,
        oom_score_adj: 0,
        lowest_oom_score_adj: -1000,
        restrict_oom_score_adj: false,
    }
}

/// As JSON, without what has no order: whose container it is.
fn text(mut spec: Value) -> String {
    let whose = spec["annotations"].take();
    assert_eq!(whose.as_object().unwrap().len(), 7, "{whose}");
    assert_eq!(whose["io.kubernetes.cri.sandbox-id"], "pod");
    spec["annotations"] = serde_json::json!({});
    serde_json::to_string_pretty(&spec).unwrap()
}

fn image() -> ImageConfig {
    let mut image = ImageConfig::default();
    image.entrypoint = vec!["/entry".into()];
    image.cmd = vec!["from-image".into()];
    image.env = vec!["PATH=/image/bin".into(), "A=image".into(), "broken".into()];
    image.working_dir = "srv".into();
    image
}

fn context(change: impl FnOnce(&mut cri::LinuxContainerSecurityContext)) -> cri::ContainerConfig {
    let mut context = cri::LinuxContainerSecurityContext::default();
    change(&mut context);
    cri::ContainerConfig {
        linux: Some(cri::LinuxContainerConfig { security_context: Some(context), resources: None }),
        ..Default::default()
    }
}

fn sandbox(change: impl FnOnce(&mut cri::LinuxSandboxSecurityContext)) -> cri::PodSandboxConfig {
    let mut context = cri::LinuxSandboxSecurityContext::default();
    change(&mut context);
    cri::PodSandboxConfig {
        linux: Some(cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() }),
        ..Default::default()
    }
}

fn try_spec(config: &cri::ContainerConfig, sandbox: &cri::PodSandboxConfig, host: &Host) -> Result<Value> {
    spec_of(config, sandbox, host, &image())
}

fn spec_of(
    config: &cri::ContainerConfig,
    sandbox: &cri::PodSandboxConfig,
    host: &Host,
    image: &ImageConfig,
) -> Result<Value> {
    refuse_unsupported(config, sandbox, host)?;
    let sources: Vec<PathBuf> = config.mounts.iter().map(|mount| mount.host_path.clone().into()).collect();
    let spec = build(&Input {
        config,
        sandbox,
        pod: PodFiles {
            hosts: Path::new("/pod/hosts"),
            hostname: Path::new("/pod/hostname"),
            resolv: Path::new("/pod/resolv.conf"),
            shm: Path::new("/pod/shm"),
        },
        image,
        user: &User { uid: 1000, gid: 1000, groups: vec![1000, 20], home: "/home/u".into() },
        sources: &sources,
        volumes: &[],
        sandbox_id: "pod",
        devices: &[],
        seccomp: None,
        apparmor: None,
        selinux: None,
        target: Some(42),
        cgroup: Path::new("/vaquita/pod/container"),
        host,
        hostname: "web-0",
    })?;
    let mut value = serde_json::to_value(spec).unwrap();
    sort_sets(&mut value);
    Ok(value)
}

fn spec(config: &cri::ContainerConfig) -> Value {
    try_spec(config, &cri::PodSandboxConfig::default(), &host()).unwrap()
}

fn refusal(config: &cri::ContainerConfig) -> String {
    try_spec(config, &cri::PodSandboxConfig::default(), &host()).unwrap_err().to_string()
}

/// The daemon's service has -999.
#[test]
fn a_container_does_not_inherit_that_it_is_spared() {
    let spared = Host { oom_score_adj: -999, ..host() };
    let score = |config: &cri::ContainerConfig, host: &Host| {
        let spec = try_spec(config, &cri::PodSandboxConfig::default(), host).unwrap();
        spec["process"]["oomScoreAdj"].as_i64()
    };
    let resources = cri::LinuxContainerResources { oom_score_adj: 7, ..Default::default() };
    let asked = cri::LinuxContainerConfig { resources: Some(resources), security_context: None };
    let asked = cri::ContainerConfig { linux: Some(asked), ..Default::default() };
    for (config, host, wanted) in [
        (&cri::ContainerConfig::default(), &spared, Some(0)),
        (&cri::ContainerConfig::default(), &host(), None),
        (&asked, &spared, Some(7)),
    ] {
        assert_eq!(score(config, host), wanted);
    }
}

/// Sets come out in any order.
fn sort_sets(value: &mut Value) {
    if let Some(capabilities) = value["process"]["capabilities"].as_object_mut() {
        for set in capabilities.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by_key(Value::to_string);
        }
    }
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

#[test]
fn a_plain_container() {
    insta::assert_snapshot!(text(spec(&cri::ContainerConfig::default())));
}

#[test]
fn everything_that_can_be_asked_for() {
    let mut config = context(|context| {
        context.capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        });
        context.no_new_privs = true;
        context.readonly_rootfs = true;
        context.masked_paths = vec!["/proc/kcore".into()];
        context.readonly_paths = vec!["/proc/sys".into()];
        context.namespace_options =
            Some(cri::NamespaceOption { pid: 3, target_id: "x".into(), ..Default::default() });
    });
    config.command = vec!["/bin/sh".into()];
    config.working_dir = "/tmp".into();
    config.tty = true;
    config.envs = vec![cri::KeyValue { key: "A".into(), value: b"b\nc".to_vec() }];
    config.mounts = vec![
        cri::Mount {
            container_path: "/data/in/".into(),
            host_path: "/h/in".into(),
            readonly: true,
            ..Default::default()
        },
        cri::Mount {
            container_path: "/data".into(),
            host_path: "/h".into(),
            propagation: 2,
            ..Default::default()
        },
        cri::Mount {
            container_path: "/etc/hosts".into(),
            host_path: "/h/hosts".into(),
            ..Default::default()
        },
        cri::Mount {
            container_path: "/ro".into(),
            host_path: "/h/ro".into(),
            readonly: true,
            recursive_read_only: true,
            mount_options: vec!["noexec".into()],
            ..Default::default()
        },
    ];
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: -997,
        cpuset_cpus: "0-1".into(),
        hugepage_limits: vec![cri::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    });
    insta::assert_snapshot!(text(spec(&config)));
}

#[test]
fn command_and_arguments() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (command, args, expected) in [
        (&[][..], &[][..], &["/entry", "from-image"][..]),
        (&[], &["x"], &["/entry", "x"]),
        (&["/c"], &[], &["/c"]),
        (&["/c"], &["x"], &["/c", "x"]),
    ] {
        let config =
            cri::ContainerConfig { command: words(command), args: words(args), ..Default::default() };
        assert_eq!(strings(&spec(&config)["process"]["args"]), expected);
    }
}

#[test]
fn capabilities_as_asked() {
    let with = |add: &[&str], drop: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let config = context(|context| {
            context.capabilities = Some(cri::Capability {
                add_capabilities: names(add),
                drop_capabilities: names(drop),
                ..Default::default()
            });
        });
        let spec = spec(&config);
        assert_eq!(spec["process"]["capabilities"]["bounding"], spec["process"]["capabilities"]["effective"]);
        strings(&spec["process"]["capabilities"]["bounding"])
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(with(&[], &[]).len(), 14);
    assert_eq!(with(&[], &["all"]), [] as [&str; 0]);
    assert_eq!(with(&["SYS_TIME"], &["ALL"]), ["CAP_SYS_TIME"]);
    assert_eq!(with(&["ALL"], &["NET_ADMIN"]), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
    assert_eq!(with(&["cap_sys_time"], &[]).len(), 15);
    let bad = context(|context| {
        context.capabilities =
            Some(cri::Capability { add_capabilities: vec!["NET_ROOT".into()], ..Default::default() });
    });
    assert!(refusal(&bad).contains("NET_ROOT"));
}

#[test]
fn privileged_needs_a_privileged_sandbox() {
    let config = context(|context| {
        context.privileged = true;
        context.masked_paths = vec!["/proc/kcore".into()];
    });
    assert!(refusal(&config).contains("sandbox that is not privileged"));
    let spec = try_spec(&config, &sandbox(|context| context.privileged = true), &host()).unwrap();
    assert_eq!(strings(&spec["linux"]["maskedPaths"]), [] as [&str; 0]);
    assert_eq!(strings(&spec["process"]["capabilities"]["bounding"]).len(), 3);
    assert_eq!(spec["linux"]["resources"]["devices"], serde_json::json!([{"allow": true, "access": "rwm"}]));
    let kinds: Vec<_> =
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|ns| &ns["type"]).collect();
    assert_eq!(kinds, ["mount"]);
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let mount = |change: fn(&mut cri::Mount)| {
        let mut mount =
            cri::Mount { container_path: "/m".into(), host_path: "/h".into(), ..Default::default() };
        change(&mut mount);
        cri::ContainerConfig { mounts: vec![mount], ..Default::default() }
    };
    let profile = |profile_type| Some(cri::SecurityProfile { profile_type, localhost_ref: String::new() });
    let cases: Vec<(cri::ContainerConfig, &str)> = vec![
        (mount(|mount| mount.uid_mappings = vec![cri::IdMapping::default()]), "uidMappings"),
        (mount(|mount| mount.recursive_read_only = true), "recursive_read_only"),
        (mount(|mount| mount.mount_options = vec!["suid".into()]), "mount_options"),
        (mount(|mount| mount.container_path = "/a/../../b".into()), "container_path"),
        (mount(|mount| mount.container_path = "/".into()), "container_path"),
        (mount(|mount| mount.propagation = 7), "propagation"),
        (context(|context| context.apparmor = profile(0)), "apparmor"),
        (context(|context| context.apparmor_profile = "localhost/x".into()), "apparmor"),
        (
            context(|context| {
                context.selinux_options =
                    Some(cri::SeLinuxOption { level: "s0".into(), ..Default::default() });
            }),
            "selinux_options",
        ),
        (
            context(|context| {
                context.namespace_options = Some(cri::NamespaceOption {
                    userns_options: Some(cri::UserNamespace::default()),
                    ..Default::default()
                });
            }),
            "userns_options",
        ),
        (
            context(|context| {
                context.namespace_options = Some(cri::NamespaceOption { pid: 2, ..Default::default() });
            }),
            "namespace_options.pid",
        ),
        (
            context(|context| {
                context.namespace_options = Some(cri::NamespaceOption { network: 2, ..Default::default() });
            }),
            "namespace_options.network",
        ),
        (
            context(|context| {
                context.capabilities = Some(cri::Capability {
                    add_ambient_capabilities: vec!["CHOWN".into()],
                    ..Default::default()
                });
            }),
            "add_ambient_capabilities",
        ),
        (
            cri::ContainerConfig {
                envs: vec![cri::KeyValue { key: "X".into(), value: vec![0xff] }],
                ..Default::default()
            },
            "envs[X]",
        ),
    ];
    for (config, field) in cases {
        let error = refusal(&config);
        assert!(error.contains(field), "{error} should name {field}");
    }
    context(|context| context.apparmor = profile(1));
}

#[test]
fn an_unlimited_field_is_not_a_limit() {
    let limits = limits(&cri::LinuxContainerResources::default(), &host()).unwrap();
    let value = serde_json::to_value(limits).unwrap();
    assert_eq!(value, serde_json::json!({"memory": {}, "cpu": {}}));
}

#[test]
fn an_update_keeps_what_it_does_not_name() {
    let old = cri::LinuxContainerResources { cpu_shares: 2, memory_limit_in_bytes: 5, ..Default::default() };
    let new = cri::LinuxContainerResources { memory_limit_in_bytes: 9, ..Default::default() };
    let all = merged(&old, &new);
    assert_eq!((all.cpu_shares, all.memory_limit_in_bytes), (2, 9));
}

#[test]
fn an_exec_is_the_container_with_another_command() {
    let config = cri::ContainerConfig::default();
    let spec: Spec = serde_json::from_value(spec(&config)).unwrap();
    let own = spec.process().clone().unwrap();
    let process = exec_process(own.clone(), &["/bin/true".into()], false, Some(7)).unwrap();
    assert_eq!(process.args().as_deref(), Some(&["/bin/true".to_owned()][..]));
    assert_eq!(process.user().uid(), 1000);
    assert!(exec_process(own, &[], false, None).is_err());
}

/// T18, T34.
#[test]
fn cve_2024_40635_ids_do_not_wrap() {
    for good in [0, 2_147_483_647] {
        assert_eq!(id("run_as_user", good).map(i64::from).unwrap(), good);
    }
    for bad in [-1, 2_147_483_648, 4_294_967_295, 4_294_967_296, 99_999_999_999] {
        assert!(id("run_as_user", bad).is_err(), "{bad}");
    }
}

/// T29, T30, T37, T38: what others have taken from annotations and labels, and got root on the host by.
fn hostile() -> impl Iterator<Item = (String, String)> {
    [
        ("io.kubernetes.cri-o.UnifiedCgroup.main", "memory.max=max;pids.max=max"),
        ("io.kubernetes.cri-o.userns-mode", "auto:size=1"),
        ("io.kubernetes.cri-o.Devices", "/dev/sda:/dev/sda:rwm"),
        ("io.kubernetes.cri-o.ShmSize", "10g"),
        ("io.containerd.cri.runtime-spec", r#"{"process":{"capabilities":{"effective":["CAP_SYS_ADMIN"]}}}"#),
        ("org.systemd.property.ExecStopPost", "['/bin/touch', '/pwned']"),
        ("run.oci.hooks.stdout", "/pwned"),
        ("run.oci.keep_original_groups", "1"),
        ("cdi.k8s.io/device", "vendor.com/device=all"),
        ("containerd.io/restart.loguri", "binary:///bin/sh?-c=touch+/pwned"),
        ("io.kubernetes.cri-o.annotations.checkpoint.name", "/tmp/checkpoint.tar"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// T29 (CVE-2023-6476), T30 (CVE-2024-3154), T37 (CVE-2024-8676).
#[test]
fn cve_2023_6476_annotations_lift_nothing() {
    let plain = plain();
    let mut pod = plain.clone();
    pod.annotations.extend(hostile());
    pod.labels.extend(hostile());
    let mut config = cri::ContainerConfig::default();
    config.annotations.extend(hostile());
    config.labels.extend(hostile());
    let expected = spec(&cri::ContainerConfig::default());
    assert_eq!(try_spec(&config, &pod, &host()).unwrap(), expected);
    let request = |config| {
        let request = sandbox_request("id", config, Path::new("/vaquita/pod"), &host()).unwrap();
        format!("{request:?}")
    };
    assert_eq!(request(&pod), request(&plain));
}

/// T38 (CVE-2026-53488), T25 (CVE-2022-23648): of an image's configuration, labels and volumes are for people to read.
#[test]
fn cve_2026_53488_labels_of_an_image_are_no_control_data() {
    let mut labelled = image();
    labelled.labels.extend(hostile());
    labelled.volumes = vec!["/etc".into(), "/../../etc".into()];
    let of = |image| spec_of(&cri::ContainerConfig::default(), &plain(), &host(), image).unwrap();
    assert_eq!(of(&labelled), of(&image()));
}

fn plain() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig::default()
}

/// Every limit that the kernel would refuse, or that this host cannot keep, is refused by the name of its field.
#[test]
fn limits_that_cannot_be_are_named() {
    let host = host();
    let of = |host: &Host, change: fn(&mut cri::LinuxContainerResources)| {
        let mut asked = cri::LinuxContainerResources::default();
        change(&mut asked);
        limits(&asked, host)
    };
    for (change, field) in [
        ((|asked| asked.cpu_quota = 999) as fn(&mut cri::LinuxContainerResources), "cpu_quota"),
        (|asked| asked.cpu_period = 999, "cpu_period"),
        (|asked| asked.cpu_period = 1_000_001, "cpu_period"),
        (|asked| asked.cpu_period = -1, "cpu_period"),
        (|asked| asked.cpu_shares = -1, "cpu_shares"),
        (|asked| asked.memory_limit_in_bytes = -2, "memory_limit_in_bytes"),
        (|asked| asked.memory_swap_limit_in_bytes = -2, "memory_swap_limit_in_bytes"),
        (|asked| asked.memory_swap_limit_in_bytes = 5, "needs a memory_limit_in_bytes"),
        (
            |asked| (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes) = (6, 5),
            "memory_swap_limit_in_bytes",
        ),
        (|asked| asked.hugepage_limits = vec![page("2M", 0)], "hugepage_limits[2M]"),
        (|asked| asked.hugepage_limits = vec![page("2MB", 1), page("4MB", 0)], "only 2MB, 1GB"),
        (|asked| asked.cpuset_cpus = "0-".into(), "cpuset_cpus"),
        (|asked| asked.cpuset_mems = "x".into(), "cpuset_mems"),
        (|asked| drop(asked.unified.insert("memory.max/../x".into(), "1".into())), "unified"),
    ] {
        let error = of(&host, change).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("resources."), "{field}: {error}");
    }
    for change in [
        (|asked| asked.cpu_quota = -1) as fn(&mut cri::LinuxContainerResources),
        |asked| (asked.cpu_quota, asked.cpu_period) = (1000, 1000),
        |asked| (asked.cpu_quota, asked.cpu_period) = (i64::from(i32::MAX), 1_000_000),
        |asked| asked.cpu_shares = 1,
        |asked| asked.hugepage_limits = vec![page("2MB", 0), page("1GB", u64::MAX)],
        |asked| (asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes) = (-1, -1),
    ] {
        of(&host, change).unwrap();
    }
}

/// What kubelet means by a limit of swap, from the request to the files of v1 and v2.
#[test]
fn swap_as_kubelet_means_it() {
    let with = |host: &Host, limit, swap| {
        let asked = cri::LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        };
        limits(&asked, host).map(|limits| limits.memory().as_ref().and_then(|memory| memory.swap()))
    };
    let counts = Host { swap: true, ..host() };
    let does_not = Host { swap: false, ..host() };
    // No word of it: no swap above the limit; none anywhere, and there is nothing to limit.
    assert_eq!(with(&counts, 5 << 20, 0).unwrap(), Some(5 << 20));
    assert_eq!(with(&counts, 0, 0).unwrap(), None);
    assert_eq!(with(&counts, 5 << 20, 8 << 20).unwrap(), Some(8 << 20));
    assert_eq!(with(&counts, 5 << 20, -1).unwrap(), Some(-1));
    // A kernel that does not count it: what was not asked for need not be, what was asked for cannot.
    assert_eq!(with(&does_not, 5 << 20, 0).unwrap(), None);
    assert_eq!(with(&does_not, 5 << 20, -1).unwrap(), None);
    for swap in [5 << 20, 8 << 20] {
        assert!(with(&does_not, 5 << 20, swap).unwrap_err().to_string().contains("swapaccount"));
    }
}

fn page(size: &str, limit: u64) -> cri::HugepageLimit {
    cri::HugepageLimit { page_size: size.into(), limit }
}
