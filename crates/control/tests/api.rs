//! The node and the scheduler on a cluster with a store of its own and a CRI server that does as it is told.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]
#[path = "../../kube/tests/api/fake.rs"]
#[allow(dead_code, reason = "shared with the tests of the agent, which use all of it")]
mod fake;
#[path = "../../kube/tests/api/service.rs"]
mod service;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fake::{Behaviour, Fake, Run};
use serde_json::{Value, json};
use vaquita_apiserver::kinds::{EVENT, LEASE, NODE, POD};
use vaquita_apiserver::{
    Cluster, DeleteOptions, Kind, ListOptions, Options, Reason, Status, Subresource, Write,
};
use vaquita_control::{Config, Control, Tokens};
use vaquita_kube::agent;
use vaquita_store::Store;

struct NoTokens;

impl Tokens for NoTokens {
    fn request<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Value,
    ) -> Pin<Box<dyn Future<Output = Result<Value, Status>> + Send + 'a>> {
        Box::pin(std::future::ready(Err(Status::internal("nobody gives tokens here"))))
    }
}

/// A node at work.
struct Home {
    cluster: Cluster,
    fake: Fake,
    control: Option<Control>,
    dir: tempfile::TempDir,
    write: Write,
}

impl Home {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), vaquita_store::Options::default()).unwrap();
        let cluster = Cluster::new(store, Options::default());
        cluster.bootstrap().await.unwrap();
        let fake = Fake::new();
        let mut home = Self { cluster, fake, control: None, dir, write: Write::system("test") };
        let mut account = json!({"metadata": {"name": "default"}});
        account["automountServiceAccountToken"] = false.into();
        let kind = &vaquita_apiserver::kinds::SERVICE_ACCOUNT;
        home.cluster.create(kind, "default", account, &home.write).await.unwrap();
        home.start(change).await;
        home
    }

    async fn start(&mut self, change: impl FnOnce(&mut Config)) {
        let mut agent = agent::Config::new(self.dir.path().join("pods"));
        agent.node_name = "n1".to_owned();
        let mut config = Config::new(self.fake.client(), agent, Arc::new(NoTokens));
        // This machine's disk may be as full as it likes.
        config.disk_percent = 0;
        change(&mut config);
        let control = Control::start(self.cluster.clone(), config).unwrap();
        tokio::time::timeout(Duration::from_secs(20), control.ready()).await.unwrap();
        self.control = Some(control);
    }

    async fn stop(&mut self) {
        self.control.take().unwrap().shutdown().await;
    }

    async fn create(&self, name: &str, spec: &Value) -> Value {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"containers": [{"name": name, "image": "img"}], "terminationGracePeriodSeconds": 1},
        });
        merge(&mut pod["spec"], spec);
        self.fake.have("img");
        self.cluster.create(&POD, "default", pod, &self.write).await.unwrap().value()
    }

    fn get(&self, kind: &'static Kind, namespace: &str, name: &str) -> Option<Value> {
        match self.cluster.get(kind, namespace, name) {
            Ok(object) => Some(object.value()),
            Err(error) => {
                assert_eq!(error.reason, Reason::NotFound, "{}", error.message);
                None
            }
        }
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.get(&POD, "default", name)
    }

    /// Waits until a pod is so.
    async fn until(&self, name: &str, what: impl Fn(&Value) -> bool) -> Value {
        let found = eventually(|| self.pod(name).filter(&what)).await;
        found.unwrap_or_else(|| panic!("{name} is {:#?}", self.pod(name)))
    }

    async fn running(&self, name: &str) -> Value {
        self.until(name, |pod| pod["status"]["phase"] == "Running").await
    }

    async fn gone(&self, name: &str) {
        let gone = eventually(|| self.pod(name).is_none().then_some(())).await;
        assert!(gone.is_some(), "{name} is {:#?}", self.pod(name));
    }

    async fn nothing_runs(&self) {
        assert!(eventually(|| self.fake.is_empty().then_some(())).await.is_some(), "something runs");
    }

    async fn delete(&self, name: &str, grace: Option<i64>) {
        let options = DeleteOptions { grace, ..DeleteOptions::default() };
        self.cluster.delete(&POD, "default", name, &options, &self.write).await.unwrap();
    }

    /// Events about an object: reasons and messages.
    fn events(&self, name: &str) -> Vec<(String, String)> {
        let list = self.cluster.list(&EVENT, None, &ListOptions::default()).unwrap();
        let events = list.items.iter().map(vaquita_apiserver::Object::value);
        let about = events.filter(|event| event["involvedObject"]["name"] == name);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        about.map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
    }

    async fn event(&self, name: &str, reason: &str) -> String {
        let find = || self.events(name).into_iter().find(|(found, _)| found == reason);
        let found = eventually(find).await;
        found.unwrap_or_else(|| panic!("no {reason} of {name}: {:#?}", self.events(name))).1
    }

    async fn edit(&self, kind: &'static Kind, namespace: &str, name: &str, change: Value) {
        let edit = |object: &mut Value| {
            merge(object, &change);
            Ok(true)
        };
        self.cluster.modify(kind, namespace, name, None, &self.write, edit).await.unwrap();
    }
}

fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            more.iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, more) => *base = more.clone(),
    }
}

/// Asks again and again, for a while.
async fn eventually<T>(ask: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..1000 {
        if let Some(found) = ask() {
            return Some(found);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.clone().find(|one| one["type"] == name).unwrap_or(&Value::Null)
}

fn asks(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "img", "resources": {"requests": {"cpu": cpu}}}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_tells_what_it_is() {
    let home = Home::new().await;
    let node = home.get(&NODE, "", "n1").unwrap();
    assert_eq!(condition(&node, "Ready")["status"], "True");
    assert_eq!(condition(&node, "Ready")["reason"], "KubeletReady");
    assert_eq!(node["status"]["nodeInfo"]["containerRuntimeVersion"], "fake://1.2.3");
    assert_eq!(node["status"]["capacity"]["pods"], "110");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    let lease = eventually(|| home.get(&LEASE, "kube-node-lease", "n1")).await.unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(
        home.event("n1", "NodeHasSufficientMemory").await,
        "Node n1 status is now: NodeHasSufficientMemory"
    );
    assert_eq!(home.event("n1", "Starting").await, "Starting kubelet.");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_did_with_the_node_outlives_a_restart() {
    let mut home = Home::new().await;
    let change = json!({
        "metadata": {"labels": {"disk": "ssd", "kubernetes.io/os": "plan9", "node-role.kubernetes.io/control-plane": "x"},
            "annotations": {"a": "b"}},
        "spec": {"taints": [{"key": "mine", "effect": "NoSchedule"}], "unschedulable": true},
    });
    home.edit(&NODE, "", "n1", change).await;
    let cordoned = |home: &Home| {
        let node = home.get(&NODE, "", "n1")?;
        let taints = node["spec"]["taints"].as_array()?;
        let keys: Vec<&str> = taints.iter().map(|taint| taint["key"].as_str().unwrap()).collect();
        (keys == ["mine", "node.kubernetes.io/unschedulable"]).then_some(node.clone())
    };
    assert!(eventually(|| cordoned(&home)).await.is_some(), "{:#?}", home.get(&NODE, "", "n1"));
    assert_eq!(home.event("n1", "NodeNotSchedulable").await, "Node n1 status is now: NodeNotSchedulable");
    home.stop().await;
    home.start(|_| {}).await;
    let node = cordoned(&home).unwrap();
    assert_eq!(node["metadata"]["labels"]["disk"], "ssd");
    assert_eq!(node["metadata"]["annotations"]["a"], "b");
    // Those that are the node's own are put right.
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux");
    // A node that was deleted registers again.
    let options = DeleteOptions::default();
    home.cluster.delete(&NODE, "", "n1", &options, &home.write).await.unwrap();
    home.stop().await;
    home.start(|_| {}).await;
    assert_eq!(home.get(&NODE, "", "n1").unwrap()["spec"]["unschedulable"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_from_creation_to_deletion() {
    let home = Home::new().await;
    home.create("web", &json!({})).await;
    let pod = home.running("web").await;
    assert_eq!(pod["spec"]["nodeName"], "n1");
    let pod = home.until("web", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(condition(&pod, "PodScheduled")["status"], "True");
    assert_eq!(condition(&pod, "PodScheduled")["lastProbeTime"], Value::Null);
    let status = &pod["status"];
    assert_eq!(status["qosClass"], "BestEffort");
    assert!(status["startTime"].is_string() && status["hostIP"].is_string(), "{status:#?}");
    let container = &status["containerStatuses"][0];
    assert_eq!((&container["name"], &container["ready"]), (&json!("web"), &json!(true)));
    assert!(container["containerID"].as_str().unwrap().starts_with("vaquita://"), "{container}");
    assert_eq!(home.event("web", "Scheduled").await, "Successfully assigned default/web to n1");
    home.event("web", "Started").await;
    assert_eq!(home.pod("web").unwrap()["metadata"]["generation"], 1);

    home.delete("web", None).await;
    home.until("web", |pod| !pod["metadata"]["deletionTimestamp"].is_null()).await;
    home.gone("web").await;
    home.nothing_runs().await;
    home.event("web", "Killing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_ended_stays_until_it_is_deleted() {
    let home = Home::new().await;
    home.fake.behave("job", Behaviour { runs: vec![Run::ends(0, 0)], ..Behaviour::default() });
    home.create("job", &json!({"restartPolicy": "Never"})).await;
    let pod = home.until("job", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    home.delete("job", None).await;
    home.gone("job").await;
    home.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_deletion_leaves_nothing() {
    let home = Home::new().await;
    home.create("web", &json!({"terminationGracePeriodSeconds": 1000})).await;
    home.running("web").await;
    home.delete("web", Some(0)).await;
    home.gone("web").await;
    home.nothing_runs().await;
    // The name is free at once, and its next pod is another one.
    home.create("web", &json!({})).await;
    home.running("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_grace_period_counts() {
    let home = Home::new().await;
    home.create("web", &json!({"terminationGracePeriodSeconds": 1000})).await;
    home.running("web").await;
    home.delete("web", None).await;
    let pod = home.until("web", |pod| !pod["metadata"]["deletionTimestamp"].is_null()).await;
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 1000);
    home.delete("web", Some(1)).await;
    home.gone("web").await;
    home.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_go_on_over_a_restart() {
    let mut home = Home::new().await;
    home.create("web", &json!({})).await;
    home.create("lost", &json!({})).await;
    home.create("ending", &json!({})).await;
    let before = home.running("web").await;
    home.running("lost").await;
    home.running("ending").await;
    home.stop().await;
    assert!(!home.fake.is_empty());
    // While nobody looked one was deleted with force, and one gracefully.
    home.delete("lost", Some(0)).await;
    home.delete("ending", None).await;
    let calls = home.fake.calls().len();
    home.start(|_| {}).await;
    home.gone("ending").await;
    let only_web = || {
        let state = home.fake.lock();
        let names: Vec<String> = state.containers.values().map(fake::Container::name).collect();
        (names == ["web"]).then_some(())
    };
    assert!(eventually(only_web).await.is_some(), "{:?}", home.fake.calls());
    let later = home.fake.calls()[calls..].to_vec();
    assert!(!later.iter().any(|call| call.starts_with("CreateContainer")), "{later:?}");
    let after = home.running("web").await;
    assert_eq!(before["status"]["startTime"], after["status"]["startTime"]);
    assert_eq!(before["status"]["containerStatuses"], after["status"]["containerStatuses"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_fit_wait_until_they_do() {
    let home = Home::new().await;
    home.create("huge", &asks("100000")).await;
    let words = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: \
                 1 Preemption is not helpful for scheduling.";
    let pod = home.until("huge", |pod| condition(pod, "PodScheduled")["status"] == "False").await;
    assert_eq!(condition(&pod, "PodScheduled")["reason"], "Unschedulable");
    assert_eq!(condition(&pod, "PodScheduled")["message"], words);
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(home.event("huge", "FailedScheduling").await, words);

    home.edit(&NODE, "", "n1", json!({"spec": {"unschedulable": true}})).await;
    let cordoned = || (!home.get(&NODE, "", "n1")?["spec"]["taints"].is_null()).then_some(());
    assert!(eventually(cordoned).await.is_some());
    home.create("web", &json!({})).await;
    home.until("web", |pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable").await;
    home.edit(&NODE, "", "n1", json!({"spec": {"unschedulable": false}})).await;
    home.running("web").await;
    assert_eq!(home.pod("huge").unwrap()["spec"]["nodeName"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_this_scheduler_is_left_alone() {
    let home = Home::new().await;
    home.create("other", &json!({"schedulerName": "mine"})).await;
    home.create("gated", &json!({"schedulingGates": [{"name": "a"}]})).await;
    home.create("web", &json!({})).await;
    home.running("web").await;
    assert_eq!(home.pod("other").unwrap()["status"]["conditions"], Value::Null);
    assert_eq!(condition(&home.pod("gated").unwrap(), "PodScheduled")["reason"], "SchedulingGated");
    home.edit(&POD, "default", "gated", json!({"spec": {"schedulingGates": []}})).await;
    home.running("gated").await;
    assert_eq!(home.pod("other").unwrap()["spec"]["nodeName"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_names_the_node_is_checked_by_the_node() {
    let home = Home::new().await;
    let mut spec = asks("100000");
    spec["nodeName"] = "n1".into();
    home.create("huge", &spec).await;
    let pod = home.until("huge", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(pod["status"]["reason"], "OutOfcpu");
    let message = pod["status"]["message"].as_str().unwrap();
    let start =
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 100000000, used: 0, capacity: ";
    assert!(message.starts_with(start), "{message}");
    assert!(home.event("huge", "OutOfcpu").await.starts_with("Node didn't have enough resource: cpu"));
    home.create("fine", &json!({"nodeName": "n1"})).await;
    home.running("fine").await;
    home.delete("huge", None).await;
    home.gone("huge").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_gates_are_for_others_to_open() {
    let home = Home::new().await;
    home.create("web", &json!({"readinessGates": [{"conditionType": "example.com/ok"}]})).await;
    let shut = |pod: &Value| condition(pod, "Ready")["reason"] == "ReadinessGatesNotReady";
    home.until("web", shut).await;
    let open = |pod: &mut Value| {
        let gate = json!({"type": "example.com/ok", "status": "True"});
        pod["status"]["conditions"].as_array_mut().unwrap().push(gate);
        Ok(true)
    };
    let status = Some(Subresource::Status);
    home.cluster.modify(&POD, "default", "web", status, &home.write, open).await.unwrap();
    let pod = home.until("web", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(condition(&pod, "example.com/ok")["status"], "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_manifests_have_mirrors() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.yaml");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n\
                spec: {containers: [{name: web, image: img}], terminationGracePeriodSeconds: 1}\n";
    std::fs::write(&file, text).unwrap();
    let dir: PathBuf = folder.path().to_owned();
    let home = Home::with(|config| {
        config.static_pods = Some(dir);
    })
    .await;
    home.fake.have("img");
    let mirror = home.running("web-n1").await;
    let uid = mirror["metadata"]["annotations"]["kubernetes.io/config.hash"].clone();
    assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"], uid);
    assert_eq!(mirror["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    // A mirror that is deleted comes back; the pod does not notice.
    let containers = || home.fake.lock().containers.keys().cloned().collect::<Vec<_>>();
    let before = containers();
    home.delete("web-n1", None).await;
    let another = |pod: &Value| {
        pod["metadata"]["uid"] != mirror["metadata"]["uid"] && pod["status"]["phase"] == "Running"
    };
    home.until("web-n1", another).await;
    assert_eq!(containers(), before);
    // Another text is another pod.
    std::fs::write(&file, text.replace("name: web, image", "name: other, image")).unwrap();
    let other = |pod: &Value| {
        pod["metadata"]["annotations"]["kubernetes.io/config.hash"] != uid
            && pod["status"]["phase"] == "Running"
    };
    home.until("web-n1", other).await;
    std::fs::remove_file(&file).unwrap();
    home.gone("web-n1").await;
    home.nothing_runs().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_matters_more_takes_the_place() {
    let home = Home::new().await;
    let node = home.get(&NODE, "", "n1").unwrap();
    let cpus: u32 = node["status"]["capacity"]["cpu"].as_str().unwrap().parse().unwrap();
    home.create("low", &asks(&cpus.to_string())).await;
    home.running("low").await;
    let class = json!({"metadata": {"name": "high"}, "value": 1000});
    let kind = &vaquita_apiserver::kinds::PRIORITY_CLASS;
    home.cluster.create(kind, "", class, &home.write).await.unwrap();
    let mut spec = asks("1");
    spec["priorityClassName"] = "high".into();
    home.create("high", &spec).await;
    home.gone("low").await;
    home.running("high").await;
    assert!(home.event("low", "Preempted").await.starts_with("Preempted by pod "));
}

#[tokio::test(flavor = "multi_thread")]
async fn taints_that_end_pods() {
    let home = Home::new().await;
    home.create("web", &json!({})).await;
    let tolerations = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute"}]);
    home.create("tough", &json!({"tolerations": tolerations})).await;
    let soon = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    home.create("soon", &json!({"tolerations": soon})).await;
    for name in ["web", "tough", "soon"] {
        home.running(name).await;
    }
    let taints = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
    home.edit(&NODE, "", "n1", json!({"spec": {"taints": taints}})).await;
    home.gone("web").await;
    home.gone("soon").await;
    assert_eq!(home.event("web", "TaintManagerEviction").await, "Marking for deletion Pod default/web");
    assert_eq!(home.pod("tough").unwrap()["metadata"]["deletionTimestamp"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_refers_to_comes_from_the_cluster() {
    let home = Home::new().await;
    let key = json!({"name": "conf", "key": "color"});
    let env = json!([{"name": "COLOR", "valueFrom": {"configMapKeyRef": key}}]);
    home.create("web", &json!({"containers": [{"name": "c", "image": "img", "env": env}]})).await;
    let waits = |pod: &Value| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["reason"] == "CreateContainerConfigError"
    };
    home.until("web", waits).await;
    let map = json!({"metadata": {"name": "conf"}, "data": {"color": "red"}});
    let kind = &vaquita_apiserver::kinds::CONFIG_MAP;
    home.cluster.create(kind, "default", map, &home.write).await.unwrap();
    home.running("web").await;
    let state = home.fake.lock();
    let config = &state.containers.values().next().unwrap().config;
    assert!(config.envs.iter().any(|env| env.key == "COLOR" && env.value == b"red"), "{:?}", config.envs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_runtime_class_is_gone_can_be_deleted() {
    let mut home = Home::new().await;
    let kind = &vaquita_apiserver::kinds::RUNTIME_CLASS;
    let class = json!({"metadata": {"name": "special"}, "handler": "kata"});
    home.cluster.create(kind, "", class, &home.write).await.unwrap();
    home.create("web", &json!({"runtimeClassName": "special"})).await;
    home.running("web").await;
    home.stop().await;
    home.cluster.delete(kind, "", "special", &DeleteOptions::default(), &home.write).await.unwrap();
    home.start(|_| {}).await;
    home.delete("web", None).await;
    home.gone("web").await;
    home.nothing_runs().await;
}
