//! Pods and containers from the beginning to the end, through the CRI.

use std::path::Path;

use vaquita_proto::cri;

use crate::support::{Node, Pod};

/// The security context, to change.
fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

#[test]
fn a_container_is_created_runs_ends_and_is_removed() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "life");
    assert_eq!(pod.status().state(), cri::PodSandboxState::SandboxReady);
    let container = pod.create(Pod::container_config("main", &["sh", "-c", "echo hello; exit 5"])).unwrap();
    assert_eq!(container.status().state(), cri::ContainerState::ContainerCreated);
    container.start().unwrap();
    let status = container.exited();
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    assert_eq!(container.output(), "hello\n");
    container.remove();
    container.remove();
    pod.stop();
    pod.stop();
    assert_eq!(pod.status().state(), cri::PodSandboxState::SandboxNotready);
    pod.remove();
    pod.remove();
    node.finish();
}

#[test]
fn stop_asks_first_and_kills_after_the_grace_period() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "stop");
    let polite = pod.start(
        "polite",
        &["sh", "-c", "trap 'echo bye; exit 4' TERM; echo ready; while true; do sleep 0.01; done"],
    );
    crate::support::eventually("the trap", || polite.output().contains("ready").then_some(()));
    polite.stop(60);
    assert_eq!(polite.exited().exit_code, 4);
    assert_eq!(polite.output(), "ready\nbye\n");
    let deaf = pod.start("deaf", &["sleep", "1000"]);
    deaf.stop(1);
    assert_eq!(deaf.exited().exit_code, 137);
    deaf.stop(1);
    node.finish();
}

#[test]
fn memory_beyond_the_limit_is_told_as_oom() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "oom");
    let mut config = Pod::container_config("main", &["sh", "-c", "x=a; while true; do x=$x$x; done"]);
    config.linux.get_or_insert_default().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..cri::LinuxContainerResources::default()
    });
    let status = pod.start_config(config).exited();
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    node.finish();
}

#[test]
fn what_cannot_be_executed_is_a_start_error() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "starterror");
    let container = pod.create(Pod::container_config("main", &["/no/such"])).unwrap();
    let error = container.start().unwrap_err();
    assert!(error.message().contains("/no/such"), "{error}");
    let status = container.exited();
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    node.finish();
}

#[test]
fn a_container_is_confined_as_others_confine_it() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "confined");
    // Not every kernel has each of them.
    let masked: Vec<&str> = ["/proc/kcore", "/proc/acpi", "/proc/keys"]
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    // kubelet asks for all this by name; without names nothing is masked.
    let confine = |config: &mut cri::ContainerConfig| {
        let security = security(config);
        security.no_new_privs = true;
        security.masked_paths = masked.iter().map(|&path| path.into()).collect();
        security.readonly_paths = vec!["/proc/sys".into()];
        security.seccomp = Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
            localhost_ref: String::new(),
        });
    };
    let (code, status) = pod.output("status", confine, &["cat", "/proc/self/status"]);
    assert_eq!(code, 0);
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    // The default set of containerd and docker: 14 capabilities.
    assert_eq!(field("CapEff:"), "00000000a80425fb");
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    let (_, mounts) = pod.output("mounts", confine, &["cat", "/proc/self/mounts"]);
    let mount = |at: &str| {
        mounts.lines().find(|line| line.split(' ').nth(1) == Some(at)).unwrap_or_default().to_owned()
    };
    assert!(mount("/sys").contains("ro,"), "{mounts}");
    assert!(mount("/proc/sys").contains("ro,"), "{mounts}");
    assert!(masked.iter().all(|path| !mount(path).is_empty()), "{masked:?} in {mounts}");
    let (code, _) = pod.output("mount", |_| {}, &["mount", "-t", "tmpfs", "none", "/tmp"]);
    assert_ne!(code, 0, "a container may not mount");
    node.finish();
}

#[test]
fn user_groups_directory_and_environment_are_as_asked() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "user");
    let (code, out) = pod.output(
        "main",
        |config| {
            let security = security(config);
            security.run_as_user = Some(cri::Int64Value { value: 65534 });
            security.run_as_group = Some(cri::Int64Value { value: 1000 });
            security.supplemental_groups = vec![2000];
            config.working_dir = "/tmp".into();
            config.envs = vec![cri::KeyValue { key: "WORD".into(), value: "a b".into() }];
        },
        &["sh", "-c", "id -u; id -g; id -G; pwd; echo \"$WORD\"; echo $PATH"],
    );
    assert_eq!(code, 0, "{out}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        (lines[0], lines[1], lines[3], lines[4], lines[5]),
        ("65534", "1000", "/tmp", "a b", "/usr/bin:/bin")
    );
    let mut groups: Vec<&str> = lines[2].split(' ').collect();
    groups.sort_unstable();
    assert!(groups.contains(&"1000") && groups.contains(&"2000") && !groups.contains(&"0"), "{groups:?}");
    node.finish();
}

#[test]
fn a_read_only_root_stays_as_it_is_and_a_volume_does_not() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "readonly");
    let volume = node.path("volume");
    std::fs::create_dir(&volume).unwrap();
    let (code, out) = pod.output(
        "main",
        |config| {
            security(config).readonly_rootfs = true;
            config.mounts = vec![cri::Mount {
                container_path: "/data".into(),
                host_path: volume.display().to_string(),
                ..cri::Mount::default()
            }];
        },
        &["sh", "-c", "touch /new 2>/dev/null && echo bad; echo kept > /data/file"],
    );
    assert_eq!((code, out.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(volume.join("file")).unwrap(), "kept\n");
    node.finish();
}

#[test]
fn a_shared_pid_namespace_shows_the_neighbours() {
    let node = Node::start();
    node.load_busybox();
    let mut config = Pod::config(&node, "shared");
    let options =
        cri::NamespaceOption { pid: cri::NamespaceMode::Pod.into(), ..cri::NamespaceOption::default() };
    config.linux.get_or_insert_default().security_context.get_or_insert_default().namespace_options =
        Some(options.clone());
    let pod = Pod::run_config(&node, config);
    let with_options = |name: &str| {
        let mut config = Pod::container_config(name, &["sleep", "4321"]);
        security(&mut config).namespace_options = Some(options.clone());
        pod.start_config(config)
    };
    let (one, _two) = (with_options("one"), with_options("two"));
    let processes = one.exec(&["ps"]).1;
    assert_eq!(processes.matches("sleep 4321").count(), 2, "{processes}");
    assert!(!one.exec(&["cat", "/proc/1/cmdline"]).1.contains("sleep"), "pause is the first process");
    assert!(one.exec(&["cat", "/proc/1/status"]).1.contains("\nSeccomp:\t2\n"), "which is confined");
    node.finish();
}

#[test]
fn lists_filter_and_show_what_is_there() {
    let node = Node::start();
    node.load_busybox();
    let mut config = Pod::config(&node, "labelled");
    config.labels = [("app".to_owned(), "x".to_owned())].into();
    let pod = Pod::run_config(&node, config);
    let other = Pod::run(&node, "other");
    let container = pod.start("main", &["sleep", "1000"]);
    let filter = cri::PodSandboxFilter {
        label_selector: [("app".to_owned(), "x".to_owned())].into(),
        ..cri::PodSandboxFilter::default()
    };
    let listed =
        node.wait(node.cri().list_pod_sandbox(cri::ListPodSandboxRequest { filter: Some(filter) })).unwrap();
    let ids: Vec<String> = listed.into_inner().items.into_iter().map(|pod| pod.id).collect();
    assert_eq!(ids, std::slice::from_ref(&pod.id));
    let listed =
        node.wait(node.cri().list_containers(cri::ListContainersRequest::default())).unwrap().into_inner();
    assert_eq!(listed.containers.len(), 1);
    assert_eq!((&listed.containers[0].id, &listed.containers[0].pod_sandbox_id), (&container.id, &pod.id));
    other.remove();
    node.finish();
}

#[test]
fn running_the_same_sandbox_again_joins_it() {
    let node = Node::start();
    let config = Pod::config(&node, "again");
    let run = || {
        let mut cri = node.cri();
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        async move { cri.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id }
    };
    let (one, two) = node.wait(async { tokio::join!(run(), run()) });
    assert_eq!(one, two);
    assert_eq!(node.wait(run()), one);
    node.finish();
}
