//! Pods of a cluster: kept after their end, and adopted by the next process.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vaquita_kube::agent::{Agent, Config, Fixed, Handle, Known};
use vaquita_kube::api::{ContainerStatus, Pod, PodPhase, PodStatus};

use crate::fake::{Behaviour, Fake, Run};

const UID: &str = "11111111-2222-4333-8444-555555555555";

/// A machine with one pod, and the agent's process on it.
struct Node {
    fake: Fake,
    dir: vaquita_testing::TempDir,
    pod: Value,
    handle: Option<Handle>,
}

impl Node {
    async fn new(fake: Fake, spec: Value) -> Self {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "web", "namespace": "default", "uid": UID, "generation": 1, "managedFields": []},
            "spec": spec,
        });
        let mut node = Self { fake, dir: vaquita_testing::temp_dir(), pod, handle: None };
        node.begin().await;
        node
    }

    fn agent(&self) -> Agent {
        Agent::new(self.fake.client(), Config::new(self.dir.path().join("pods")))
    }

    fn typed(&self) -> Pod {
        Pod::from_value(self.pod.clone()).unwrap()
    }

    /// A process begins, finds what there is and takes care of the pod.
    async fn begin(&mut self) {
        let agent = self.agent();
        let mut known = agent.known().await.unwrap();
        let known = known.remove(UID).unwrap_or_default();
        self.handle = Some(agent.start(self.typed(), Arc::new(Fixed::default()), known));
    }

    /// The process dies. What it had last told of the pod is what the next one knows.
    fn die(&mut self) {
        let handle = self.handle.take().unwrap();
        self.pod["status"] = serde_json::to_value(&*handle.status().borrow()).unwrap();
    }

    fn update(&mut self, pointer: &str, value: Value) {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.pod.pointer_mut(parent).unwrap()[key] = value;
        self.pod["metadata"]["generation"] = json!(self.pod["metadata"]["generation"].as_i64().unwrap() + 1);
        let pod = self.typed();
        self.handle().update(pod);
    }

    fn handle(&mut self) -> &mut Handle {
        self.handle.as_mut().unwrap()
    }

    async fn until(&mut self, fits: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut status = self.handle().status();
        let found = tokio::time::timeout(Duration::from_secs(3600), status.wait_for(fits)).await;
        match found {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("it never happened: {:#?}", self.handle().status().borrow()),
        }
    }

    async fn ready(&mut self) -> PodStatus {
        self.until(is_ready).await
    }

    /// Ends the pod and sees that nothing is left. Returns what was told of its events.
    async fn end(mut self) -> Vec<String> {
        let pod = self.typed();
        self.handle().stop(30);
        let outcome = self.handle().outcome().await.unwrap();
        assert_eq!(outcome.errors, Vec::<String>::new());
        assert!(self.fake.is_empty());
        assert_eq!(std::fs::read_dir(self.dir.path().join("pods")).unwrap().count(), 0);
        let mut records = Vec::new();
        while let Some(event) = self.handle().event().await {
            let told = event.kind.records(&pod).into_iter();
            records.extend(
                told.map(|record| format!("{} {} {}", record.reason, record.field_path, record.message)),
            );
        }
        records
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let condition = |type_: &str| status.conditions.iter().find(|one| one.type_ == type_);
    condition("Ready").is_some_and(|one| format!("{:?}", one.status) == "True")
}

/// The first container, once there is any.
fn only(status: &PodStatus) -> ContainerStatus {
    status.container_statuses.first().cloned().unwrap_or_default()
}

fn made(fake: &Fake) -> usize {
    fake.calls().iter().filter(|call| call.starts_with("CreateContainer")).count()
}

#[tokio::test(start_paused = true)]
async fn what_runs_goes_on_under_the_next_process() {
    let spec = json!({
        "initContainers": [{"name": "i", "image": "x"}],
        "containers": [{"name": "a", "image": "x", "startupProbe": {"exec": {"command": ["ok"]}}}],
    });
    let fake = Fake::new();
    fake.behave("i", Behaviour { runs: vec![Run::ends(1, 0)], ..Behaviour::default() });
    let mut node = Node::new(fake, spec).await;
    let before = node.ready().await;
    node.die();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    node.begin().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let after = node.ready().await;
    assert_eq!(after, before, "even the times are the same");
    assert_eq!(made(&node.fake), 2);
    assert_eq!((after.phase, only(&after).started), (PodPhase::Running, Some(true)));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_ended_meanwhile_is_started_again_and_counted() {
    let fake = Fake::new();
    let run = |seconds, code| Run { seconds, code };
    fake.behave("a", Behaviour { runs: vec![run(Some(50), 3), run(None, 0)], ..Behaviour::default() });
    let mut node = Node::new(fake, json!({"containers": [{"name": "a", "image": "x"}]})).await;
    let before = node.ready().await;
    node.die();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(node.fake.running().is_empty());
    node.begin().await;
    let after = node.until(|status| is_ready(status) && only(status).restart_count == 1).await;
    let last = only(&after).last_state.terminated.unwrap();
    assert_eq!((last.exit_code, last.container_id), (3, only(&before).container_id));
    assert_eq!(node.fake.container_count(), 2, "one that runs, one that is dead");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_the_pod_is_made_anew_and_the_counts_go_on() {
    let mut node = Node::new(Fake::new(), json!({"containers": [{"name": "a", "image": "x"}]})).await;
    let before = node.ready().await;
    node.die();
    node.fake.forget_everything();
    node.begin().await;
    let after = node.until(|status| is_ready(status) && only(status).restart_count == 1).await;
    let last = only(&after).last_state.terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_str()), (137, "ContainerStatusUnknown"));
    assert_eq!(after.start_time, before.start_time);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_stays_until_it_is_told_to_go() {
    for reboot in [false, true] {
        let fake = Fake::new();
        fake.behave("a", Behaviour { runs: vec![Run::ends(5, 0)], ..Behaviour::default() });
        let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]});
        let mut node = Node::new(fake, spec).await;
        node.until(|status| status.phase == PodPhase::Succeeded).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(node.fake.container_count(), 1);
        assert!(node.dir.path().join("pods").join(UID).join("logs/a/0.log").exists());
        let before = node.handle().status().borrow().clone();
        assert_eq!(before.pod_ip, "10.0.0.2", "the address stays as well");
        node.die();
        if reboot {
            node.fake.forget_everything();
        }
        node.begin().await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(*node.handle().status().borrow(), before, "reboot: {reboot}");
        assert_eq!(made(&node.fake), 1);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn another_image_restarts_the_container() {
    let mut node = Node::new(
        Fake::new(),
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x:1"}]}),
    )
    .await;
    let before = node.ready().await;
    node.update("/spec/containers/0/image", json!("x:2"));
    let after = node.until(|status| is_ready(status) && only(status).restart_count == 1).await;
    assert_eq!(
        (only(&after).image.as_str(), only(&after).image_id.as_str()),
        ("docker.io/library/x:2", "x:2@sha256:0")
    );
    assert_eq!((before.observed_generation, after.observed_generation), (Some(1), Some(2)));
    let events = node.end().await;
    let killing: Vec<&String> = events.iter().filter(|event| event.starts_with("Killing")).collect();
    assert_eq!(
        killing,
        [
            "Killing spec.containers{a} Container a definition changed, will be restarted",
            "Killing spec.containers{a} Stopping container a"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn containers_can_be_added_to_look_into_a_pod() {
    let fake = Fake::new();
    fake.behave("d", Behaviour { runs: vec![Run::ends(9, 0)], ..Behaviour::default() });
    let mut node = Node::new(fake, json!({"containers": [{"name": "a", "image": "x"}]})).await;
    node.ready().await;
    let added = json!([{"name": "d", "image": "tools", "targetContainerName": "a"}]);
    node.update("/spec/ephemeralContainers", added);
    let ended = |status: &PodStatus| {
        status.ephemeral_container_statuses.iter().any(|one| one.state.terminated.is_some())
    };
    let status = node.until(ended).await;
    assert_eq!((status.phase, is_ready(&status)), (PodPhase::Running, true));
    let target = {
        let state = node.fake.lock();
        let added = state.containers.values().find(|one| one.name() == "d").unwrap();
        let linux = added.config.linux.as_ref().unwrap();
        linux.security_context.as_ref().unwrap().namespace_options.as_ref().unwrap().target_id.clone()
    };
    assert!(only(&status).container_id.ends_with(&target), "{target}");
    let pod = node.typed();
    let started = loop {
        let event = node.handle().event().await.unwrap();
        let mut records = event.kind.records(&pod).into_iter();
        if let Some(record) = records.find(|one| one.reason == "Started" && one.field_path.contains("{d}")) {
            break record;
        }
    };
    assert_eq!(started.field_path, "spec.ephemeralContainers{d}");
    // Never started again, not by the next process either.
    node.die();
    node.begin().await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(made(&node.fake), 2);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn limits_change_while_a_container_runs() {
    let spec = json!({"containers": [{"name": "a", "image": "x", "resources": {"limits": {"memory": "64Mi"}, "requests": {"memory": "64Mi"}}}]});
    let mut node = Node::new(Fake::new(), spec).await;
    node.ready().await;
    node.update(
        "/spec/containers/0/resources",
        json!({"limits": {"memory": "128Mi"}, "requests": {"memory": "64Mi"}}),
    );
    let status = node
        .until(|status| {
            only(status).resources.as_ref().is_some_and(|it| it.limits["memory"].value() == 128 << 20)
                && status.conditions.iter().all(|one| one.type_ != "PodResizeInProgress")
        })
        .await;
    assert_eq!(only(&status).restart_count, 0);
    let calls = node.fake.calls();
    let updates: Vec<&String> = calls.iter().filter(|call| call.starts_with("Update")).collect();
    assert_eq!(updates, ["UpdatePodSandboxResources 134217728", "UpdateContainerResources a 134217728"]);
    // The next process knows what was granted.
    node.die();
    node.begin().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.fake.calls().iter().filter(|call| call.starts_with("Update")).count(), 2);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn one_dead_container_of_each_is_kept_and_no_empty_sandbox() {
    let fake = Fake::new();
    let run = |seconds, code| Run { seconds, code };
    let runs = vec![run(None, 0), run(Some(5), 1), run(Some(5), 1), run(None, 0)];
    fake.behave("a", Behaviour { runs, ..Behaviour::default() });
    let mut node = Node::new(fake, json!({"containers": [{"name": "a", "image": "x"}]})).await;
    node.ready().await;
    node.fake.kill_sandbox();
    node.until(|status| is_ready(status) && only(status).restart_count == 3).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!((node.fake.container_count(), node.fake.lock().sandboxes.len()), (2, 1));
    let logs = node.dir.path().join("pods").join(UID).join("logs/a");
    let mut names: Vec<_> =
        std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["2.log", "3.log"]);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_told_in_kubelets_words() {
    let fake = Fake::new();
    fake.behave("a", Behaviour { start_error: "no such program", ..Behaviour::default() });
    fake.fail_pulls("gone:1", 1);
    let spec = json!({"imagePullSecrets": [{"name": "reg"}], "containers": [
        {"name": "a", "image": "x"},
        {"name": "b", "image": "gone:1"},
        {"name": "c", "image": "x", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "k"}}}]},
    ]});
    let mut node = Node::new(fake, spec).await;
    let reason = |status: &PodStatus, index: usize| {
        let waiting = status.container_statuses.get(index).and_then(|one| one.state.waiting.clone());
        waiting.map(|waiting| waiting.reason).unwrap_or_default()
    };
    let wanted = ["RunContainerError", "ErrImagePull", "CreateContainerConfigError"];
    node.until(|status| (0..3).map(|index| reason(status, index)).eq(wanted)).await;
    node.until(|status| reason(status, 1) == "ImagePullBackOff").await;
    let events = node.end().await;
    for event in [
        "FailedToRetrieveImagePullSecret  Unable to retrieve some image pull secrets (reg); attempting to pull the image may not succeed.",
        "Failed spec.containers{a} Error: no such program",
        "Failed spec.containers{b} Failed to pull image \"gone:1\": no such image",
        "Failed spec.containers{b} Error: ErrImagePull",
        "BackOff spec.containers{b} Back-off pulling image \"gone:1\"",
        "Failed spec.containers{b} Error: ImagePullBackOff",
        "Failed spec.containers{c} Error: configmap \"conf\" not found",
    ] {
        assert!(events.iter().any(|told| told == event), "{event} in {events:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn long_logs_are_rotated() {
    let mut node = Node::new(Fake::new(), json!({"containers": [{"name": "a", "image": "x"}]})).await;
    node.ready().await;
    let log = node.dir.path().join("pods").join(UID).join("logs/a/0.log");
    let text = "2026-11-21T02:00:00Z stdout F long\n".repeat(400_000);
    std::fs::write(&log, &text).unwrap();
    let reopened = |node: &Node| node.fake.calls().iter().filter(|call| call.starts_with("Reopen")).count();
    while reopened(&node) == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(reopened(&node), 1, "a short one is left alone");
    let files = vaquita_kube::rotation::files(&log);
    let read = |path| std::io::read_to_string(vaquita_kube::rotation::open(path).unwrap()).unwrap();
    assert_eq!(files.len(), 2);
    assert_eq!(read(&files[0]).len(), text.len());
    assert_eq!(read(&files[1]), "2026-11-21T02:00:00Z stdout F anew\n");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_can_be_hastened() {
    let hook = json!({"preStop": {"exec": {"command": ["hang"]}}});
    let mut node =
        Node::new(Fake::new(), json!({"containers": [{"name": "a", "image": "x", "lifecycle": hook}]})).await;
    node.ready().await;
    node.handle().stop(1000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = tokio::time::Instant::now();
    node.handle().stop(10);
    node.handle().outcome().await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(20), "{:?}", before.elapsed());
    assert!(node.fake.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_stays_failed() {
    let mut node = Node::new(Fake::new(), json!({"containers": [{"name": "a", "image": "x"}]})).await;
    node.ready().await;
    node.handle().evict("Preempting", "Preempted in order to admit critical pod");
    let status = node.until(|status| status.phase == PodPhase::Failed).await;
    assert_eq!(status.reason, "Preempting");
    node.die();
    node.begin().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let after = node.handle().status().borrow().clone();
    assert_eq!((after.phase, after.reason.as_str()), (PodPhase::Failed, "Preempting"));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_any_more_is_removed() {
    let mut node = Node::new(Fake::new(), json!({"containers": [{"name": "a", "image": "x"}]})).await;
    node.ready().await;
    node.die();
    let agent = node.agent();
    let mut known = agent.known().await.unwrap();
    let known = known.remove(UID).unwrap();
    assert_eq!(known.pod(), Some(("default", "web")));
    assert_eq!(agent.directories(), [UID]);
    agent.remove(UID, known).await.unwrap();
    assert!(node.fake.is_empty() && agent.directories().is_empty());
    agent.remove(UID, Known::default()).await.unwrap();
}
