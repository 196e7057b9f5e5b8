//! Pods on a network of CNI plugins, when the daemon dies in the middle.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually};

/// Gives out an address, which it keeps in a file; hangs in ADD after that, with a program that it has started, while there is `hang`.
const PLUGIN: &str = r#"#!/bin/sh
dir=${0%/bin/*}
case $CNI_COMMAND in
VERSION) echo '{"supportedVersions": ["1.0.0", "1.1.0"]}';;
ADD)
    echo "$CNI_NETNS" >"$dir/leases/$CNI_CONTAINERID"
    if [ -e "$dir/hang" ]; then sleep 1000 & echo "$$ $!" >"$dir/pids.new"; mv "$dir/pids.new" "$dir/pids"; wait; fi
    echo '{"ips": [{"address": "10.1.0.2/24"}]}';;
DEL) rm -f "$dir/leases/$CNI_CONTAINERID";;
esac
echo "$CNI_COMMAND" >>"$dir/log"
"#;

fn node() -> Node {
    let node = Node::without_daemon();
    for dir in ["cni", "cni/bin", "cni/conf", "cni/leases"] {
        std::fs::create_dir(node.path(dir)).unwrap();
    }
    let plugin = node.write("cni/bin/leases", PLUGIN);
    std::fs::set_permissions(plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let list = r#"{"cniVersion": "1.1.0", "name": "leases", "plugins": [{"type": "leases"}]}"#;
    node.write("cni/conf/10-leases.conflist", list);
    node
}

fn leases(node: &Node) -> usize {
    std::fs::read_dir(node.path("cni/leases")).unwrap().count()
}

fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

#[test]
fn a_killed_daemon_leaves_nothing_of_a_pod_whose_plugin_hangs() {
    let node = node();
    node.start_daemon();
    let kept = Pod::run(&node, "kept");
    node.write("cni/hang", "");
    let request =
        cri::RunPodSandboxRequest { config: Some(Pod::config(&node, "half")), ..Default::default() };
    let mut client = node.cri();
    let pids = node.wait(async {
        let run = client.run_pod_sandbox(request);
        let hangs = async {
            loop {
                match std::fs::read_to_string(node.path("cni/pids")) {
                    Ok(pids) => break pids,
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        tokio::select! {
            answer = run => panic!("its plugin hangs: {answer:?}"),
            pids = hangs => pids,
        }
    });
    let running = node.check();
    assert!(
        running.iter().any(|one| one["note"].as_str().unwrap().starts_with("CNI plugin: ")),
        "{running:#?}"
    );
    node.kill_daemon();
    // Nobody has told it.
    let pids: Vec<_> = pids.split_whitespace().collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| runs(pid)), "{pids:?}");
    assert_eq!(leases(&node), 2);

    node.start_daemon();
    eventually("the lease to be given back", || (leases(&node) == 1).then_some(()));
    assert!(!pids.iter().any(|pid| runs(pid)), "{pids:?}");
    eventually("the sandbox to be gone", || (node.resources("attachment").len() == 1).then_some(()));
    assert_eq!(kept.ip(), "10.1.0.2");
    // The ADD that was killed did not get as far.
    let log = std::fs::read_to_string(node.path("cni/log")).unwrap();
    assert_eq!(log.lines().filter(|line| matches!(*line, "ADD" | "DEL")).collect::<Vec<_>>(), ["ADD", "DEL"]);
    kept.remove();
    assert_eq!(leases(&node), 0);
    node.finish();
}

/// Killed at moments that nobody has chosen, while pods come and go.
#[test]
fn no_address_is_lost_when_the_daemon_is_killed_again_and_again() {
    let node = node();
    node.start_daemon();
    for round in 0..10_u64 {
        let mut client = node.cri();
        node.wait(async {
            let cycle = async {
                for number in 0.. {
                    let config = Pod::config(&node, &format!("pod-{round}-{number}"));
                    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
                    let answer = client.run_pod_sandbox(request).await.unwrap().into_inner();
                    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: answer.pod_sandbox_id };
                    client.remove_pod_sandbox(request).await.unwrap();
                }
            };
            tokio::select! {
                () = cycle => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(7 + round * 9)) => {}
            }
        });
        node.kill_daemon();
        node.start_daemon();
    }
    // Those whose maker had been told of them stay until somebody removes them.
    let mut client = node.cri();
    eventually("the rest to be removed", || {
        let pods = node.wait(client.list_pod_sandbox(cri::ListPodSandboxRequest::default())).unwrap();
        for pod in pods.into_inner().items {
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.id };
            let _ = node.wait(client.remove_pod_sandbox(request));
        }
        (leases(&node) == 0 && node.resources("attachment").is_empty()).then_some(())
    });
    node.finish();
}
