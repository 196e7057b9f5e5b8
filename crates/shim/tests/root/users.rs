//! Pods with users of their own.

use std::os::unix::fs::MetadataExt;

use vaquita_shim::{ExecRequest, IdMap, Kind, Namespaces, SandboxRequest};
use vaquita_sys::mount::{Attr, mount_setattr};
use vaquita_sys::ns;

use crate::support::{Container, Pod, output, process};

const UIDS: IdMap = IdMap { inside: 0, outside: 700_000, length: 65536 };
const GIDS: IdMap = IdMap { inside: 0, outside: 800_000, length: 65536 };

async fn pod_with(new: Namespaces) -> Pod {
    let pod = Pod::empty().await;
    let request = SandboxRequest {
        id: "sandbox".to_owned(),
        hostname: if new.uts { "users".to_owned() } else { String::new() },
        new: Namespaces { user: true, ..new },
        cgroup: pod.cgroup("sandbox"),
        sysctls: if new.net {
            vec![
                ("net.ipv4.ping_group_range".into(), "0 65535".into()),
                ("kernel.shmmax".into(), "4096".into()),
            ]
        } else {
            Vec::new()
        },
        uid: 65535,
        gid: 65535,
        uid_maps: vec![UIDS],
        gid_maps: vec![GIDS],
        ..Default::default()
    };
    pod.client.create_sandbox(&request, None).await.unwrap();
    pod
}

fn container<'a>(pod: &'a Pod, id: &str, args: &[&str], shared_pid: bool) -> Container<'a> {
    let container = pod.container(id, args);
    if shared_pid { container.shared_pid() } else { container }
}

impl Container<'_> {
    /// Joins what the pod has, in a root that belongs to its users.
    async fn run_mapped(self, pod: &Pod, join: Namespaces) -> i32 {
        let users = pod.client.userns().await.unwrap();
        let root = pod.rootfs();
        let attr = Attr { userns: Some(std::os::fd::AsFd::as_fd(&users)), ..Attr::default() };
        mount_setattr(&root, "", false, &attr).unwrap();
        let id = self.id().to_owned();
        let pid = self.join(Namespaces { user: true, ..join }).create_in(root).await.unwrap().pid;
        pod.client.start(&id).await.unwrap();
        pid
    }
}

#[tokio::test]
async fn a_container_has_the_users_of_its_pod() {
    for shared_pid in [false, true] {
        let own = Namespaces { ipc: true, net: true, uts: true, pid: shared_pid, user: false };
        let mut pod = pod_with(own).await;
        let users = ns::identity(pod.client.userns().await.unwrap()).unwrap();
        let pause = pod.client.state().await.unwrap().sandbox.unwrap().pid;
        let status = std::fs::read_to_string(format!("/proc/{pause}/status")).unwrap();
        assert!(status.contains("Uid:\t765535\t") && status.contains("Gid:\t865535\t"), "{status}");
        // What was made with it belongs to it.
        let netns = pod.client.netns().await.unwrap();
        assert_eq!(ns::identity(ns::owner(&netns).unwrap()).unwrap(), users);

        let pid = container(&pod, "c", &["sleep"], shared_pid).run_mapped(&pod, own).await;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("Uid:\t700000\t") && status.contains("Gid:\t800000\t"), "{status}");
        let its = ns::open(rustix::process::Pid::from_raw(pid), ns::Kind::User).unwrap();
        assert_eq!(ns::identity(its).unwrap(), users);
        // T35: it is where it was put.
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroups.contains(pod.cgroup("c").to_str().unwrap()), "{cgroups}");

        // Its output can be opened anew by its root, though the host's root made the pipe.
        container(&pod, "again", &["reopen"], shared_pid).run_mapped(&pod, own).await;
        assert_eq!(pod.exit_of("again").await.code, 0);
        assert_eq!(output(&pod.log("again")), b"opened\n");

        for (number, file) in ["/proc/self/uid_map", "/proc/self/gid_map"].into_iter().enumerate() {
            let (reader, writer) = std::io::pipe().unwrap();
            let stdio = [None, Some(writer.into()), None];
            let request = ExecRequest {
                container: "c".into(),
                exec_id: number.to_string(),
                process: process(&["read", file]).to_string().into_bytes(),
            };
            let execed = pod.client.exec(&request, stdio).await.unwrap();
            assert_eq!(execed.wait().await.unwrap().code, 0);
            let owner = std::fs::File::from(std::os::fd::OwnedFd::from(reader.try_clone().unwrap()));
            assert_eq!(owner.metadata().unwrap().uid(), 700_000);
            let text = std::io::read_to_string(reader).unwrap();
            let numbers: Vec<&str> = text.split_whitespace().collect();
            assert_eq!(numbers, ["0", ["700000", "800000"][number], "65536"]);
        }
        let tty = container(&pod, "tty", &["tty"], shared_pid).tty();
        tty.run_mapped(&pod, own).await;
        assert_eq!(pod.exit_of("tty").await.code, 0);
        assert_eq!(output(&pod.log("tty")), b"tty true 24x80\r\n");
        pod.client.delete_sandbox().await.unwrap();
    }
}

#[tokio::test]
async fn users_of_its_own_in_the_network_of_the_host() {
    let own = Namespaces { ipc: true, ..Namespaces::default() };
    let mut pod = pod_with(own).await;
    assert_eq!(pod.client.netns().await.unwrap_err().kind(), Kind::NotFound);
    pod.container("c", &["read", "/proc/self/uid_map"]).run_mapped(&pod, own).await;
    assert_eq!(pod.exit_of("c").await.code, 0);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn maps_that_cannot_be_are_refused() {
    let pod = Pod::empty().await;
    let bad = IdMap { length: 0, ..UIDS };
    for (uid_maps, gid_maps) in
        [(vec![], vec![GIDS]), (vec![UIDS, UIDS], vec![GIDS]), (vec![bad], vec![GIDS])]
    {
        let request = SandboxRequest {
            id: "sandbox".to_owned(),
            new: Namespaces { user: true, ..Namespaces::default() },
            cgroup: pod.cgroup("sandbox"),
            uid_maps,
            gid_maps,
            ..Default::default()
        };
        assert_eq!(pod.client.create_sandbox(&request, None).await.unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(pod.client.userns().await.unwrap_err().kind(), Kind::NotFound);
}
