//! Containers written to archives, with a script in the place of CRIU: what it is told, and what becomes of its answers. With
//! CRIU itself, those that hack/vm runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use tonic::Code;
use vaquita_cgroup::{Cgroup, Layout};
use vaquita_proto::cri;

use crate::support::{Node, container};

/// `check` succeeds. Of a dump the arguments and the state of the freezer are written down.
const HEAD: &str = r#"#!/bin/sh
here=${0%/*}
if [ "$1" = check ]; then
    [ ! -e "$here/broken" ] || { echo 'Error (criu/cr-check.c:1): this kernel has no such thing' >&2; exit 1; }
    exit 0
fi
echo "$@" >"$here/arguments"
while [ $# -gt 0 ]; do
    case $1 in
        --images-dir) images=$2 ;;
        --work-dir) work=$2 ;;
        --freeze-cgroup) freezer=$2 ;;
    esac
    shift
done
cat "$freezer"/freezer.state "$freezer"/cgroup.freeze >"$here/frozen" 2>/dev/null
"#;

const GOOD: &str = r#"
echo memory >"$images/pages-1.img"
echo done >"$work/dump.log"
"#;

const BAD: &str = r#"
echo memory >"$images/pages-1.img"
printf '%s\n' '(00.1) Error (criu/tty.c:1): a first reason' '(00.2) Error (criu/cr-dump.c:1): a second one' >"$work/dump.log"
echo '(00.3) Error (criu/cr-dump.c:2): Dumping FAILED.' >>"$work/dump.log"
exit 1
"#;

/// Its helper would hold what CRIU holds.
const SLOW: &str = r#"
sleep 1000 &
echo $! >"$here/helper"
wait
"#;

struct Place {
    node: Node,
    dir: tempfile::TempDir,
    id: String,
}

impl Place {
    /// A running container that has changed its root, and a CRIU that does this.
    async fn new(script: &str) -> Self {
        let mut node = Node::without_server();
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("criu");
        // Not written by this process, of which others that it starts would have the descriptor for a moment.
        std::fs::write(dir.path().join("script"), format!("{HEAD}{script}")).unwrap();
        let mut install = std::process::Command::new("install");
        assert!(
            install.arg("-m755").arg(dir.path().join("script")).arg(&program).status().unwrap().success()
        );
        node.config.criu = program;
        node.start().await;
        node.pull().await;
        let sandbox = node.run("checkpoint").await;
        std::fs::write(dir.path().join("data"), "data").unwrap();
        let data = cri::Mount {
            container_path: "/data".into(),
            host_path: dir.path().join("data").to_str().unwrap().into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig { mounts: vec![data], ..container("main", &["sleep"]) };
        let id = node.create_as(&sandbox, config).await.unwrap();
        node.start_container(&id).await;
        let place = Self { node, dir, id };
        place.exec(&["make", "/made", "7"]).await;
        place
    }

    async fn exec(&self, args: &[&str]) {
        let cmd = ["/bin/vaquita"].iter().chain(args).map(|word| (*word).to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: self.id.clone(), cmd, timeout: 60 };
        let answer = self.node.runtime().exec_sync(request).await.unwrap().into_inner();
        assert_eq!(answer.exit_code, 0, "{answer:?}");
    }

    async fn checkpoint(&self, location: &Path, timeout: i64) -> Result<(), tonic::Status> {
        let location = location.to_str().unwrap().to_owned();
        let request = cri::CheckpointContainerRequest { container_id: self.id.clone(), location, timeout };
        self.node.runtime().checkpoint_container(request).await.map(drop)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn staging(&self) -> PathBuf {
        self.node.config.root.join("checkpoints")
    }

    fn group(&self) -> Cgroup {
        let cgroups = self.node.check().into_iter().filter(|one| one.kind == "cgroup");
        let path = cgroups.map(|one| one.name).find(|name| name.ends_with(&self.id)).unwrap();
        Cgroup::open(&Layout::detect().unwrap(), Path::new(&path)).unwrap()
    }

    /// The container goes on, and nothing is left but what was wanted in `out`.
    async fn is_clean(&self, out: &[&str]) {
        let names = |path: &Path| {
            let entries = std::fs::read_dir(path).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&self.path("out")), out);
        assert_eq!(names(&self.staging()), Vec::<String>::new());
        assert!(!self.group().is_frozen().unwrap());
        assert_eq!(self.node.status(&self.id).await.state(), cri::ContainerState::ContainerRunning);
        self.exec(&["exit", "0"]).await;
    }
}

fn entries(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    });
    entries.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_written_while_it_stands_still() {
    let place = Place::new(GOOD).await;
    let out = place.path("out");
    std::fs::create_dir(&out).unwrap();
    let archive = out.join("a.tar");
    for round in 0..2 {
        place.checkpoint(&archive, 0).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    place.is_clean(&["a.tar"]).await;
    assert_eq!(archive.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let state = place.read("frozen");
    assert!(state.contains("FROZEN") || state.trim() == "1", "{state:?}");

    let arguments = place.read("arguments");
    let pod = place.node.pods().await.remove(0);
    let pid = place.node.check().into_iter().find(|one| one.kind == "netns").unwrap();
    let inode = pid.name.trim_start_matches("net:").to_owned();
    for expected in [
        &format!("--external net{inode}:extRootNetNS"),
        "--leave-running",
        "--external mnt[/data]:/data",
        "--external mnt[/etc/hosts]:/etc/hosts",
        "--external mnt[/dev/shm]:/dev/shm",
    ] {
        assert!(arguments.contains(expected), "{expected:?} is missing: {arguments}");
    }
    assert!(arguments.contains("]:extRootPidNS"), "the pod shares its PID namespace: {arguments}");

    let entries = entries(&archive);
    let names: Vec<_> = entries.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "checkpoint/",
            "checkpoint/descriptors.json",
            "checkpoint/pages-1.img",
            "config.dump",
            "dump.log",
            "rootfs-diff.tar",
            "spec.dump",
            "status",
            "status.dump"
        ]
    );
    let json = |name: &str| serde_json::from_slice::<serde_json::Value>(&entries[name]).unwrap();
    let config = json("config.dump");
    assert_eq!((&config["id"], &config["name"]), (&place.id.clone().into(), &"main".into()));
    assert_eq!(config["rootfsImage"], crate::support::IMAGE);
    let spec = json("spec.dump");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.container-name"], "main");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.sandbox-id"], pod.id);
    assert_eq!(spec["process"]["args"][1], "sleep");
    let mut layer = tar::Archive::new(&entries["rootfs-diff.tar"][..]);
    let made = layer.entries().unwrap().map(|entry| entry.unwrap());
    let made = made.map(|entry| (entry.path().unwrap().display().to_string(), entry.header().uid().unwrap()));
    assert!(made.collect::<Vec<_>>().contains(&("made".to_owned(), 7)));
    place.node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_fails_leaves_nothing() {
    let place = Place::new(BAD).await;
    std::fs::create_dir(place.path("out")).unwrap();
    let archive = place.path("out").join("a.tar");
    std::fs::write(&archive, "of another time").unwrap();
    let error = place.checkpoint(&archive, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::Internal, "{error}");
    let told = "criu failed (exit status: 1): (00.1) Error (criu/tty.c:1): a first reason; \
                (00.2) Error (criu/cr-dump.c:1): a second one";
    assert!(error.message().contains(told) && !error.message().contains("FAILED"), "{error}");
    place.is_clean(&["a.tar"]).await;
    assert_eq!(place.read("out/a.tar"), "of another time");

    for (location, timeout) in [("out", 0), ("out/missing/a.tar", 0), ("out/a.tar", -1)] {
        let error = place.checkpoint(&place.path(location), timeout).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{location}: {error}");
    }
    place.is_clean(&["a.tar"]).await;
    place.node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn criu_that_hangs_is_killed_with_its_helpers() {
    let place = Place::new(SLOW).await;
    std::fs::create_dir(place.path("out")).unwrap();
    let error = place.checkpoint(&place.path("out/a.tar"), 5).await.unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    assert!(error.message().contains("was killed"), "{error}");
    let helper = place.read("helper");
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.trim())).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while alive() {
        tokio::task::yield_now().await;
    }
    place.is_clean(&[]).await;
    place.node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_can_be_removed_while_it_is_written() {
    let place = Place::new(SLOW).await;
    std::fs::create_dir(place.path("out")).unwrap();
    let archive = place.path("out/a.tar");
    let remove = async {
        while !place.path("helper").exists() {
            tokio::task::yield_now().await;
        }
        let request = cri::RemoveContainerRequest { container_id: place.id.clone() };
        place.node.runtime().remove_container(request).await.unwrap();
    };
    let (written, ()) = tokio::join!(place.checkpoint(&archive, 0), remove);
    let error = written.unwrap_err();
    assert!(error.message().contains("the container ended meanwhile"), "{error}");
    assert!(std::fs::read_dir(place.path("out")).unwrap().next().is_none());
    assert!(std::fs::read_dir(place.staging()).unwrap().next().is_none());
    place.node.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_criu_says_so() {
    let place = Place::new(GOOD).await;
    std::fs::create_dir(place.path("out")).unwrap();
    std::fs::write(place.path("broken"), "").unwrap();
    let error = place.checkpoint(&place.path("out/a.tar"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.message().contains("this kernel has no such thing"), "{error}");
    std::fs::remove_file(place.path("criu")).unwrap();
    let error = place.checkpoint(&place.path("out/a.tar"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    let program = place.path("criu");
    assert!(error.message().contains(&format!("{program:?} cannot be executed")), "{error}");
    assert!(!place.path("arguments").exists());

    let missing = cri::CheckpointContainerRequest { container_id: "00".into(), ..Default::default() };
    let error = place.node.runtime().checkpoint_container(missing).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    place.node.finish().await;
}

/// A container's configuration as kubelet sends it.
fn counter(name: &str) -> cri::ContainerConfig {
    let context = cri::LinuxContainerSecurityContext {
        namespace_options: Some(cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            ..Default::default()
        }),
        seccomp: Some(cri::SecurityProfile::default()),
        masked_paths: ["/proc/kcore", "/proc/acpi", "/proc/timer_list", "/nothing"]
            .map(str::to_owned)
            .to_vec(),
        readonly_paths: ["/proc/sys", "/proc/bus"].map(str::to_owned).to_vec(),
        no_new_privs: true,
        ..Default::default()
    };
    let linux = cri::LinuxContainerConfig { security_context: Some(context), ..Default::default() };
    cri::ContainerConfig {
        linux: Some(linux),
        log_path: format!("{name}.log"),
        ..container(name, &["count"])
    }
}

/// What [`counter`] has written to its root.
async fn count(node: &Node, id: &str) -> u64 {
    let cmd = ["/bin/vaquita", "read", "/count"].map(str::to_owned).to_vec();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd: cmd.clone(), timeout: 60 };
        let answer = node.runtime().exec_sync(request).await.unwrap().into_inner();
        if let Some(count) =
            std::str::from_utf8(&answer.stdout).ok().and_then(|text| text.trim().parse().ok())
        {
            return count;
        }
        assert!(Instant::now() < deadline, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn goes_on(node: &Node, id: &str) {
    let before = count(node, id).await;
    while count(node, id).await == before {}
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs CRIU: hack/vm"]
async fn systemd_containers_of_pods_are_written_by_criu() {
    let mut node = Node::without_server();
    node.start().await;
    node.pull().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    let config = cri::PodSandboxConfig {
        log_directory: dir.path().join("logs").to_str().unwrap().into(),
        ..crate::support::pod("counters")
    };
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let sandbox = node.runtime().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let shared = cri::LinuxContainerConfig {
        security_context: Some(cri::LinuxContainerSecurityContext::default()),
        ..Default::default()
    };
    for config in [
        counter("plain"),
        cri::ContainerConfig { tty: true, ..counter("terminal") },
        cri::ContainerConfig { stdin: true, ..counter("stdin") },
        cri::ContainerConfig { linux: Some(shared), ..counter("shared") },
    ] {
        let name = config.metadata.clone().unwrap().name;
        let id = node.create_as(&sandbox, config).await.unwrap();
        node.start_container(&id).await;
        goes_on(&node, &id).await;
        let before = count(&node, &id).await;
        let location = dir.path().join(format!("{name}.tar"));
        let location = location.to_str().unwrap().to_owned();
        let request = cri::CheckpointContainerRequest {
            container_id: id.clone(),
            location: location.clone(),
            timeout: 0,
        };
        let answer = node.runtime().checkpoint_container(request).await;
        answer.unwrap_or_else(|error| panic!("{name}: {error}"));
        goes_on(&node, &id).await;
        let entries = entries(Path::new(&location));
        for expected in ["checkpoint/inventory.img", "checkpoint/pages-1.img", "stats-dump", "container.log"]
        {
            assert!(entries.contains_key(expected), "{name}: {expected}: {:?}", entries.keys());
        }
        let mut layer = tar::Archive::new(&entries["rootfs-diff.tar"][..]);
        let mut written = 0;
        for entry in layer.entries().unwrap() {
            let mut entry = entry.unwrap();
            if entry.path().unwrap().as_ref() == Path::new("count") {
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                written = text.trim().parse().unwrap();
            }
        }
        assert!(written >= before, "{name}: {written} after {before}");
    }
    node.finish().await;
}

/// A server was killed while CRIU was at work, which has the lock until it ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_server_wakes_what_stands_still() {
    let mut place = Place::new(GOOD).await;
    std::fs::create_dir(place.path("out")).unwrap();
    let group = place.group();
    place.node.kill();
    let staging = place.staging().join(&place.id);
    std::fs::create_dir_all(staging.join("content/checkpoint")).unwrap();
    std::fs::write(staging.join("partial"), place.path("out/.a.tar").to_str().unwrap()).unwrap();
    std::fs::write(place.path("out/.a.tar"), "half").unwrap();
    let lock = File::create(staging.join("lock")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    group.freeze().unwrap();

    place.node.start().await;
    let error = place.checkpoint(&place.path("out/a.tar"), 0).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(group.is_frozen().unwrap() && staging.exists());
    assert!(place.node.check().iter().any(|one| one.kind == "checkpoint"));
    drop(lock);
    let deadline = Instant::now() + Duration::from_secs(60);
    while staging.exists() {
        assert!(Instant::now() < deadline, "it stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    place.is_clean(&[]).await;
    place.node.finish().await;
}
