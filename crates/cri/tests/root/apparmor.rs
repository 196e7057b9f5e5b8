//! Pods under AppArmor, which the machine of `hack/vm` runs. What loads profiles is where systemd is.

use std::path::Path;
use std::process::Command;

use cri::security_profile::ProfileType;
use tonic::Code;
use vaquita_proto::cri;
use vaquita_testing::{Defer, temp_dir, unique};

use crate::support::{Node, container, pod};

/// The profile of who does not ask for one.
const DEFAULT: &str = "vaquita-default";

fn profile(kind: ProfileType, name: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
}

/// A profile that denies writing to `/forbidden`, for as long as the guard lives.
fn load(name: &str) -> Defer<impl FnOnce()> {
    let text = format!(
        "abi <abi/3.0>,\nprofile {name} flags=(attach_disconnected) {{\n  file,\n  network,\n  capability,\n  signal,\n  \
         deny /forbidden w,\n}}\n"
    );
    let dir = temp_dir();
    let file = dir.path().join("profile");
    std::fs::write(&file, text).unwrap();
    let parser = move |what: &str| {
        let output =
            Command::new("apparmor_parser").args([what, "--skip-cache"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    parser("--replace");
    Defer::new(move || {
        parser("--remove");
        drop(dir);
    })
}

/// How a process is confined, as the host sees it.
fn confinement(pid: u64) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap().trim_end().to_owned()
}

impl Node {
    async fn create_confined(
        &self,
        sandbox: &str,
        name: &str,
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Result<String, tonic::Status> {
        let mut context = cri::LinuxContainerSecurityContext::default();
        change(&mut context);
        let linux = cri::LinuxContainerConfig { security_context: Some(context), resources: None };
        let config = cri::ContainerConfig { linux: Some(linux), ..container(name, &["sleep"]) };
        self.create_as(sandbox, config).await
    }

    async fn launch_confined(
        &self,
        sandbox: &str,
        name: &str,
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> String {
        let id = self.create_confined(sandbox, name, change).await.unwrap();
        self.start_container(&id).await;
        id
    }

    async fn run_confined(&self, name: &str, context: cri::LinuxSandboxSecurityContext) -> String {
        let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        let config = cri::PodSandboxConfig { linux: Some(linux), ..pod(name) };
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
    }

    /// What a command in a container prints.
    async fn said(&self, id: &str, args: &[&str]) -> String {
        let cmd = std::iter::once("/bin/vaquita").chain(args.iter().copied()).map(str::to_owned).collect();
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 60 };
        let answer = self.runtime().exec_sync(request).await.unwrap().into_inner();
        String::from_utf8([answer.stdout, answer.stderr].concat()).unwrap()
    }

    /// How a container and a command in it are confined, which is the same.
    async fn confinement(&self, id: &str) -> String {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: true };
        let info = self.runtime().container_status(request).await.unwrap().into_inner().info;
        let of_container = confinement(pid(&info["info"]));
        let of_command = self.said(id, &["read", "/proc/self/attr/apparmor/current"]).await;
        assert_eq!(of_command.trim_end(), of_container);
        of_container
    }
}

fn pid(info: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(info).unwrap()["pid"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor and its parser: hack/vm"]
async fn systemd_a_profile_of_the_node_confines_container_and_command() {
    let name = unique("vqaa");
    let _loaded = load(&name);
    let node = Node::new().await;
    let sandbox = node.run("named").await;
    let new = node
        .launch_confined(&sandbox, "new", |context| {
            context.apparmor = profile(ProfileType::Localhost, &name);
            context.apparmor_profile = "unconfined".into();
        })
        .await;
    let old = node
        .launch_confined(&sandbox, "old", |context| context.apparmor_profile = format!("localhost/{name}"))
        .await;
    for id in [new, old] {
        assert_eq!(node.confinement(&id).await, format!("{name} (enforce)"));
        assert_eq!(node.said(&id, &["make", "/allowed", "0"]).await, "");
        let denied = node.said(&id, &["make", "/forbidden", "0"]).await;
        assert!(denied.contains("Permission denied"), "{denied}");
        assert!(node.said(&id, &["read", "/forbidden"]).await.is_empty());
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor and its parser: hack/vm"]
async fn systemd_who_does_not_ask_has_the_default_profile() {
    let node = Node::new().await;
    let sandbox = node.run("default").await;
    for (name, apparmor, old) in [
        ("silent", None, ""),
        ("asks", profile(ProfileType::RuntimeDefault, ""), ""),
        ("asks-as-of-old", None, "runtime/default"),
    ] {
        let id = node
            .launch_confined(&sandbox, name, |context| {
                context.apparmor = apparmor;
                context.apparmor_profile = old.into();
            })
            .await;
        assert_eq!(node.confinement(&id).await, format!("{DEFAULT} (enforce)"), "{name}");
        assert_eq!(node.said(&id, &["make", "/allowed", "0"]).await, "");
        // What the file says to one who may write to it, and who may not.
        for (file, answer) in [
            ("/proc/sys/kernel/shm_rmid_forced", "Invalid argument"),
            ("/proc/sys/kernel/msgmax", "Permission denied"),
            ("/proc/sys/net/ipv4/ip_forward", "Permission denied"),
            ("/proc/sysrq-trigger", "Permission denied"),
            ("/proc/self/oom_score_adj", "Invalid argument"),
        ] {
            let said = node.said(&id, &["make", file, "0"]).await;
            assert!(said.contains(answer), "{file}: {said}");
        }
        // The daemon's helper may end it.
        let stop = cri::StopContainerRequest { container_id: id.clone(), timeout: 60 };
        node.runtime().stop_container(stop).await.unwrap();
        assert_eq!(node.exited(&id).await.exit_code, 143, "{name}");
    }
    node.finish().await;
}

/// The same files as above.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor: hack/vm"]
async fn vm_unconfined_is_unconfined_and_so_is_privileged() {
    let node = Node::new().await;
    let context = cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() };
    let sandbox = node.run_confined("free", context).await;
    for (name, privileged, apparmor, old) in [
        ("unconfined", false, profile(ProfileType::Unconfined, ""), ""),
        ("unconfined-as-of-old", false, None, "unconfined"),
        ("privileged", true, None, ""),
        ("privileged-default", true, profile(ProfileType::RuntimeDefault, ""), ""),
    ] {
        let id = node
            .launch_confined(&sandbox, name, |context| {
                context.privileged = privileged;
                context.apparmor = apparmor;
                context.apparmor_profile = old.into();
            })
            .await;
        assert_eq!(node.confinement(&id).await, "unconfined", "{name}");
        let said = node.said(&id, &["make", "/proc/sys/kernel/msgmax", "0"]).await;
        assert!(said.contains("Invalid argument"), "{name}: {said}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor: hack/vm"]
async fn vm_a_profile_that_is_not_loaded_is_refused() {
    let node = Node::new().await;
    let context = cri::LinuxSandboxSecurityContext { privileged: true, ..Default::default() };
    let sandbox = node.run_confined("absent", context).await;
    for privileged in [false, true] {
        let error = node
            .create_confined(&sandbox, "absent", |context| {
                context.privileged = privileged;
                context.apparmor = profile(ProfileType::Localhost, "vq-nobody");
            })
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains("\"vq-nobody\" is not loaded"), "{error}");
    }
    node.finish().await;
}

/// Where no default profile can be had only those go without who have not asked for it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor: hack/vm"]
async fn vm_no_default_profile_without_its_parser() {
    let node = Node::new().await;
    let sandbox = node.run("poor").await;
    let has_parser = Path::new("/usr/sbin/apparmor_parser").exists();
    let silent = node.launch_confined(&sandbox, "silent", |_| {}).await;
    let expected = if has_parser { format!("{DEFAULT} (enforce)") } else { "unconfined".to_owned() };
    assert_eq!(node.confinement(&silent).await, expected);
    let asks = node
        .create_confined(&sandbox, "asks", |context| {
            context.apparmor = profile(ProfileType::RuntimeDefault, "");
        })
        .await;
    if has_parser {
        asks.unwrap();
    } else {
        let error = asks.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition);
        assert!(error.message().contains("no apparmor_parser"), "{error}");
    }
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs AppArmor and its parser: hack/vm"]
async fn systemd_a_sandbox_is_confined_when_it_asks() {
    let node = Node::new().await;
    for (name, apparmor, expected) in [
        ("plain", None, "unconfined".to_owned()),
        ("default", profile(ProfileType::RuntimeDefault, ""), format!("{DEFAULT} (enforce)")),
    ] {
        let context = cri::LinuxSandboxSecurityContext { apparmor, ..Default::default() };
        let sandbox = node.run_confined(name, context).await;
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: true };
        let info = node.runtime().pod_sandbox_status(request).await.unwrap().into_inner().info;
        assert_eq!(confinement(pid(&info["info"])), expected);
        node.stop_pod(&sandbox).await;
    }
    node.finish().await;
}

/// What every other machine says: the wish is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_profile_without_apparmor_is_refused() {
    if std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
    {
        // The tests above have it.
        return;
    }
    let node = Node::new().await;
    let sandbox = node.run("without").await;
    for (apparmor, name) in [
        (profile(ProfileType::Localhost, "vq-nobody"), "vq-nobody"),
        (profile(ProfileType::RuntimeDefault, ""), "runtime/default"),
    ] {
        let error =
            node.create_confined(&sandbox, "a", |context| context.apparmor = apparmor).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains(name) && error.message().contains("not enabled"), "{error}");
    }
    let plain = node.launch_confined(&sandbox, "plain", |_| {}).await;
    let free = node
        .launch_confined(&sandbox, "free", |context| context.apparmor = profile(ProfileType::Unconfined, ""))
        .await;
    for id in [plain, free] {
        assert_eq!(node.said(&id, &["echo", "x"]).await, "x");
    }
    node.finish().await;
}
