use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A host with a helper that is this script.
struct Host {
    dir: vaquita_testing::TempDir,
}

impl Host {
    fn new(script: &str) -> Self {
        vaquita_testing::require_root();
        let host = Self { dir: vaquita_testing::temp_dir() };
        let helper = host.dir.path().join(HELPER);
        std::fs::write(&helper, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(host.target()).unwrap();
        host
    }

    fn target(&self) -> PathBuf {
        self.dir.path().join("target")
    }

    async fn mount(&self, source: &NFSVolumeSource) -> Result<()> {
        let dirs = [PathBuf::from("/nowhere"), self.dir.path().to_owned()];
        // A script that another thread's fork holds open for a moment cannot be executed.
        loop {
            match mount_within(Duration::from_millis(700), &dirs, source, &self.target()).await {
                Err(error) if error.to_string().contains("Text file busy") => {}
                other => return other,
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = mount::umount(self.target(), UnmountFlags::DETACH);
    }
}

fn source(server: &str) -> NFSVolumeSource {
    NFSVolumeSource { server: server.to_owned(), path: "/srv/data".to_owned(), read_only: false }
}

#[tokio::test]
async fn the_helper_is_told_what_to_mount_where_once() {
    let host = Host::new("echo \"$@\" >>\"${0%/*}/calls\"\nexec mount -t tmpfs nfs-test \"$2\"");
    host.mount(&source("nas.example")).await.unwrap();
    host.mount(&source("nas.example")).await.unwrap();
    let calls = || std::fs::read_to_string(host.dir.path().join("calls")).unwrap();
    assert_eq!(calls(), format!("nas.example:/srv/data {}\n", host.target().display()));
    assert!(is_mounted(&host.target()).unwrap());
    unmount(&host.target()).unwrap();
    assert!(!is_mounted(&host.target()).unwrap());
    host.mount(&NFSVolumeSource { read_only: true, ..source("fd00::1") }).await.unwrap();
    assert!(calls().ends_with(&format!("\n[fd00::1]:/srv/data {} -o ro\n", host.target().display())));
}

#[tokio::test]
async fn what_the_helper_says_is_told() {
    let host = Host::new("echo 'mount.nfs: access denied by server' >&2\necho 'while mounting' >&2\nexit 32");
    let error = host.mount(&source("nas")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "mount nas:/srv/data: mount.nfs: exit status: 32: mount.nfs: access denied by server; while mounting"
    );
    let host = Host::new("exit 0");
    let error = host.mount(&source("nas")).await.unwrap_err();
    assert_eq!(error.to_string(), "mount nas:/srv/data: mount.nfs ended well and mounted nothing");
    // A daemon that it leaves behind keeps its pipe, and more words than anybody wants are not waited for.
    let host = Host::new(
        "sleep 1000 & echo $! >\"${0%/*}/left\"\nhead -c 300000 /dev/zero | tr '\\0' x >&2\nexit 1",
    );
    let error = host.mount(&source("nas")).await.unwrap_err().to_string();
    let left = std::fs::read_to_string(host.dir.path().join("left")).unwrap();
    let left = rustix::process::Pid::from_raw(left.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
    assert!(error.starts_with("mount nas:/srv/data: mount.nfs: exit status: 1: xxx"), "{error:.200}");
    assert!(error.len() < WORDS + 100, "{}", error.len());
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_with_all_that_asks_it() {
    let host = Host::new("echo trying >&2\nsleep 1000 & echo $$ $! >\"${0%/*}/pids\"\nwait");
    let error = host.mount(&source("nas")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout);
    assert_eq!(error.to_string(), "mount nas:/srv/data: the server did not answer within 0 s: trying");
    let pids = std::fs::read_to_string(host.dir.path().join("pids")).unwrap();
    for pid in pids.split_whitespace() {
        let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
        // Killed; who adopts it may not have waited for it yet.
        let is_alive = || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
        };
        while is_alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(!is_mounted(&host.target()).unwrap());
}

#[tokio::test]
async fn without_a_helper_it_is_said_what_to_install() {
    let error = mount(&["/nowhere".into()], &source("nas"), Path::new("/nowhere/else")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(
        error.to_string(),
        "mount nas:/srv/data: there is no mount.nfs on this host; install nfs-common (Debian) or nfs-utils (Fedora)"
    );
}

#[test]
fn servers_are_no_options() {
    let of = |server: &str, path: &str| {
        export(&NFSVolumeSource { server: server.into(), path: path.into(), read_only: false })
    };
    assert_eq!(of("10.0.0.1", "/").unwrap(), "10.0.0.1:/");
    assert_eq!(of("fe80::1%eth0", "/x").unwrap(), "[fe80::1%eth0]:/x");
    assert_eq!(of("[fd00::1]", "/x").unwrap(), "[fd00::1]:/x");
    for (server, path) in
        [("-o", "/"), ("", "/"), ("a b", "/"), ("a,b", "/"), ("a", "x"), ("a", ""), ("a", "/\n")]
    {
        assert_eq!(of(server, path).unwrap_err().kind(), Kind::Invalid, "{server} {path}");
    }
}
