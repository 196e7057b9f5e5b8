//! Plugins that come and go while pods do.

use std::collections::{BTreeSet, VecDeque};

use vaquita_nri::api;
use vaquita_proto::cri;

use super::plugin::Plugin;
use super::{node_in, socket, update_of};
use crate::support::Node;

/// Pods one after the other, each with a container that ends and one that is stopped.
async fn live(node: &Node, name: &str) {
    for round in 0..4 {
        let sandbox = node.run(&format!("{name}{round}")).await;
        let short = node.launch(&sandbox, "short", &["exit", "0"]).await;
        let long = node.launch(&sandbox, "long", &["sleep"]).await;
        let update = cri::UpdateContainerResourcesRequest {
            container_id: long.clone(),
            linux: Some(cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
            ..Default::default()
        };
        node.runtime().update_container_resources(update).await.unwrap();
        node.exited(&short).await;
        node.stop_pod(&sandbox).await;
        node.remove_pod(&sandbox).await;
    }
}

/// Whatever a plugin was told makes sense, wherever in the lives of others it came in.
fn makes_sense(plugin: &Plugin) {
    let (pods, containers) = plugin.synchronized();
    let first: BTreeSet<_> =
        pods.iter().map(|pod| &pod.id).chain(containers.iter().map(|container| &container.id)).collect();
    let told = plugin.told();
    let mut seen = BTreeSet::new();
    let mut begun: BTreeSet<_> = first.iter().map(|id| (*id).clone()).collect();
    for event in &told {
        assert!(seen.insert((&event.id, &event.method)), "told twice: {event:?}");
        let is_known = begun.contains(&event.id);
        match event.method.as_str() {
            "RunPodSandbox" | "CreateContainer" => {
                assert!(!is_known, "it was there: {event:?}");
                begun.insert(event.id.clone());
            }
            // What had ended is not among what there is.
            "StopContainer" | "RemoveContainer" => {}
            // These follow an event that it may have missed, and say nothing that it has to know.
            method if method.starts_with("Post") => {}
            _ => assert!(is_known, "unheard of: {event:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_by_who_comes_in_between() {
    let node = node_in(|_| {}).await;
    let mut lives = Box::pin(async {
        tokio::join!(live(&node, "a"), live(&node, "b"), live(&node, "c"), live(&node, "d"));
    });
    let mut there = VecDeque::new();
    for number in 0.. {
        let (path, index) = (socket(&node).to_owned(), format!("{:02}", number % 100));
        let mut join = tokio::task::spawn_blocking(move || {
            let plugin = Plugin::join(&path, &index, Box::new(|_, _| Ok(Vec::new())));
            let pids = Some(api::LinuxPids { limit: 100 });
            let limits = api::LinuxResources { pids, ..Default::default() };
            let containers = plugin.synchronized().1;
            // They may have ended by now.
            plugin.update(
                containers.iter().map(|other| update_of(&other.id, limits.clone())).collect(),
                Vec::new(),
            );
            plugin
        });
        tokio::select! {
            () = &mut lives => {
                there.push_back(join.await.unwrap());
                break;
            }
            plugin = &mut join => there.push_back(plugin.unwrap()),
        }
        // A few at once, so that each hears of something.
        if there.len() > 5 {
            makes_sense(&there.pop_front().unwrap());
        }
    }
    drop(lives);
    assert!(there.iter().any(|plugin| !plugin.told().is_empty()));
    there.iter().for_each(makes_sense);
    node.finish().await;
}
