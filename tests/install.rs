//! The installer: `hack/install`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Uri};
use vaquita_proto::cri;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

const BINARY: &str = env!("CARGO_BIN_EXE_vaquita");

fn installer(args: &[&str]) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/install"));
    command.args(args);
    command
}

#[track_caller]
fn succeed(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}

/// Files and links below a directory, with modes and targets.
fn files(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            all.extend(files(&path));
        } else if metadata.is_symlink() {
            all.insert(path.clone(), path.read_link().unwrap().display().to_string());
        } else {
            all.insert(path, format!("{:o}", metadata.permissions().mode() & 0o7777));
        }
    }
    all
}

#[test]
fn what_is_installed_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| succeed(&installer(args).env("DESTDIR", dir.path()).output().unwrap());
    let found = || -> Vec<(String, String)> {
        let below = |path: &Path| path.strip_prefix(dir.path()).unwrap().display().to_string();
        files(dir.path()).into_iter().map(|(path, what)| (below(&path), what)).collect()
    };
    let file = |path: &str, what: &str| (path.to_owned(), what.to_owned());
    let all = [
        file("etc/crictl.yaml", "644"),
        file("etc/systemd/system/vaquita.service", "644"),
        file("usr/bin/vaquita", "755"),
        file("usr/bin/vaquita-oci", "vaquita"),
    ];
    run(&["--binary", BINARY, "--prefix", "/usr"]);
    assert_eq!(found(), all);
    let unit = std::fs::read_to_string(dir.path().join("etc/systemd/system/vaquita.service")).unwrap();
    for line in ["Type=notify", "KillMode=process", "Delegate=yes", "ExecStart=/usr/bin/vaquita daemon"] {
        assert!(unit.lines().any(|found| found == line), "{line} is missing in:\n{unit}");
    }
    // Again, over what is there.
    run(&["--api", "--binary", BINARY, "--prefix", "/usr"]);
    assert_eq!(found(), all);
    let unit = std::fs::read_to_string(dir.path().join("etc/systemd/system/vaquita.service")).unwrap();
    assert!(unit.lines().any(|found| found == "ExecStart=/usr/bin/vaquita up"), "{unit}");
    run(&["remove", "--prefix", "/usr"]);
    assert_eq!(found(), []);
    // A configuration that is there stays as it is.
    let theirs = dir.path().join("etc/crictl.yaml");
    std::fs::write(&theirs, "timeout: 1\n").unwrap();
    run(&["--binary", BINARY, "--prefix", "/usr"]);
    run(&["remove", "--prefix", "/usr"]);
    assert_eq!(std::fs::read_to_string(theirs).unwrap(), "timeout: 1\n");
}

#[test]
fn an_option_that_does_not_exist_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let output = installer(&["--prefiks", "/usr"]).env("DESTDIR", dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--prefiks"), "{output:?}");
    assert_eq!(files(dir.path()), BTreeMap::new());
}

/// Takes the service away however the test ends.
struct Service;

impl Drop for Service {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", "vaquita.service"]).status();
        let _ = std::fs::remove_dir_all("/run/vaquita/pods");
        let _ = installer(&["remove", "--purge"]).status();
    }
}

/// The service starts, its pods outlive it, and removing leaves nothing.
#[tokio::test]
#[ignore = "needs systemd, which may get a service: hack/vm systemd system/system:install"]
async fn systemd_the_service_comes_and_goes_and_pods_stay() {
    vaquita_testing::require_root();
    let service = Service;
    succeed(&installer(&["--binary", BINARY]).output().unwrap());
    let is_active = || Command::new("systemctl").args(["is-active", "vaquita.service"]).output().unwrap();
    succeed(&is_active());

    let metadata = cri::PodSandboxMetadata {
        name: "stays".into(),
        uid: "u".into(),
        namespace: "default".into(),
        attempt: 0,
    };
    let config = cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() };
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let id = client().run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let restarted = Command::new("systemctl").args(["restart", "vaquita.service"]).output().unwrap();
    succeed(&restarted);
    let all =
        client().list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner().items;
    let states: Vec<_> = all.iter().map(|pod| (pod.id.as_str(), pod.state())).collect();
    assert_eq!(states, [(id.as_str(), cri::PodSandboxState::SandboxReady)]);

    let refused = installer(&["remove"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    succeed(&is_active());
    client().remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
    succeed(&installer(&["remove", "--purge"]).output().unwrap());
    std::mem::forget(service);
    for path in [
        "/etc/crictl.yaml",
        "/etc/systemd/system/vaquita.service",
        "/etc/systemd/system/multi-user.target.wants/vaquita.service",
        "/run/vaquita",
        "/sys/class/net/vaquita0",
        "/sys/fs/cgroup/vaquita",
        "/sys/fs/cgroup/vaquita.slice",
        "/usr/local/bin/vaquita",
        "/usr/local/bin/vaquita-oci",
        "/var/lib/vaquita",
    ] {
        assert!(Path::new(path).symlink_metadata().is_err(), "{path} is left");
    }
    assert!(!is_active().status.success());
}

fn client() -> RuntimeServiceClient<tonic::transport::Channel> {
    let connect = tower::service_fn(|_: Uri| async {
        tokio::net::UnixStream::connect("/run/vaquita/vaquita.sock").await.map(TokioIo::new)
    });
    RuntimeServiceClient::new(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect))
}
