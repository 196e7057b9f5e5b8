use std::sync::Arc;

use serde_json::{Value, json};

use super::super::machines::{Facts, Machines};
use super::super::wants::Wants;
use super::{Decision, decide};

/// A machine with 4 CPUs, 8 GiB and room for 3 pods.
fn node(name: &str, more: &Value) -> Facts {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "a"}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "3", "ephemeral-storage": "10Gi"}},
    });
    merge(&mut node, more);
    Facts::of(&node).unwrap()
}

fn pod(name: &str, more: &Value) -> Wants {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": name}},
        "spec": {"containers": [{"image": "x"}]},
    });
    merge(&mut pod, more);
    Wants::of(&pod).unwrap()
}

fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            more.iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, more) => *base = more.clone(),
    }
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"spec": {"containers": [{"resources": {"requests": {"cpu": cpu, "memory": memory}}}]}})
}

/// One machine with these pods on it.
fn machines(more: &Value, there: Vec<Wants>) -> Machines {
    let mut machines = Machines::default();
    machines.know(node("n1", more));
    for mut pod in there {
        pod.spec.node_name = "n1".to_owned();
        machines.place(Arc::new(pod));
    }
    machines
}

/// The machine, or the words.
fn outcome(pod: &Wants, machines: &Machines) -> String {
    match decide(pod, machines) {
        Decision::Place(node) => node,
        Decision::Wait { message, .. } => message,
    }
}

const NOT_HELPFUL: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str =
    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

fn waits(pod: &Wants, machines: &Machines, reason: &str, preemption: &str) {
    let expected = format!("0/1 nodes are available: 1 {reason}. {preemption}");
    assert_eq!(outcome(pod, machines), expected, "{}", pod.name);
}

#[test]
fn a_pod_that_asks_for_nothing_fits() {
    assert_eq!(outcome(&pod("p", &json!({})), &machines(&json!({}), vec![])), "n1");
    assert_eq!(outcome(&pod("p", &json!({})), &Machines::default()), "no nodes available to schedule pods");
}

#[test]
fn resources() {
    let none = json!({});
    let empty = machines(&none, vec![]);
    assert_eq!(outcome(&pod("all", &asks("4", "8Gi")), &empty), "n1");
    waits(&pod("p", &asks("4001m", "1")), &empty, "Insufficient cpu", NOT_HELPFUL);
    waits(&pod("p", &asks("1", "9Gi")), &empty, "Insufficient memory", NOT_HELPFUL);
    waits(&pod("p", &asks("5", "9Gi")), &empty, "Insufficient cpu, 1 Insufficient memory", NOT_HELPFUL);
    let disk = json!({"spec": {"containers": [{"resources": {"requests": {"ephemeral-storage": "11Gi"}}}]}});
    waits(&pod("p", &disk), &empty, "Insufficient ephemeral-storage", NOT_HELPFUL);
    let device = json!({"spec": {"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}]}});
    waits(&pod("p", &device), &empty, "Insufficient example.com/gpu", NOT_HELPFUL);

    let busy = machines(&none, vec![pod("a", &asks("3", "1Gi"))]);
    assert_eq!(outcome(&pod("p", &asks("1", "7Gi")), &busy), "n1");
    waits(&pod("p", &asks("1001m", "1Gi")), &busy, "Insufficient cpu", NO_VICTIMS);
    waits(&pod("p", &asks("1", "7681Mi")), &busy, "Insufficient memory", NO_VICTIMS);
    // What has finished uses nothing.
    let mut done = pod("a", &asks("4", "8Gi"));
    done.finished = true;
    assert_eq!(outcome(&pod("p", &asks("4", "8Gi")), &machines(&none, vec![done])), "n1");

    let full = machines(&none, (0..3).map(|n| pod(&format!("p{n}"), &none)).collect());
    waits(&pod("p", &none), &full, "Too many pods", NO_VICTIMS);
}

#[test]
fn names_and_cordons() {
    let other = json!({"spec": {"nodeName": "n2"}});
    let empty = machines(&json!({}), vec![]);
    waits(&pod("p", &other), &empty, "node(s) didn't match the requested node name", NOT_HELPFUL);

    let cordoned = machines(&json!({"spec": {"unschedulable": true}}), vec![]);
    waits(&pod("p", &json!({})), &cordoned, "node(s) were unschedulable", NOT_HELPFUL);
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    assert_eq!(outcome(&pod("p", &tolerant), &cordoned), "n1");
}

#[test]
fn taints() {
    let tainted = |effect: &str| {
        machines(&json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}), vec![])
    };
    let plain = pod("p", &json!({}));
    for effect in ["NoSchedule", "NoExecute"] {
        waits(&plain, &tainted(effect), "node(s) had untolerated taint(s)", NOT_HELPFUL);
    }
    assert_eq!(outcome(&plain, &tainted("PreferNoSchedule")), "n1");
    let table = [
        (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "other", "operator": "Exists"}), false),
    ];
    for (toleration, tolerated) in table {
        let pod = pod("p", &json!({"spec": {"tolerations": [toleration]}}));
        assert_eq!(outcome(&pod, &tainted("NoSchedule")) == "n1", tolerated, "{toleration}");
    }
}

#[test]
fn labels_of_the_machine() {
    let empty = machines(&json!({}), vec![]);
    let words = "node(s) didn't match Pod's node affinity/selector";
    assert_eq!(outcome(&pod("p", &json!({"spec": {"nodeSelector": {"zone": "a"}}})), &empty), "n1");
    waits(&pod("p", &json!({"spec": {"nodeSelector": {"zone": "b"}}})), &empty, words, NOT_HELPFUL);
    let wants = |operator: &str| {
        let terms = json!([{"matchExpressions": [{"key": "zone", "operator": operator, "values": ["a"]}]}]);
        let required = json!({"nodeSelectorTerms": terms});
        let affinity = json!({"requiredDuringSchedulingIgnoredDuringExecution": required});
        pod("p", &json!({"spec": {"affinity": {"nodeAffinity": affinity}}}))
    };
    assert_eq!(outcome(&wants("In"), &empty), "n1");
    waits(&wants("NotIn"), &empty, words, NOT_HELPFUL);
}

#[test]
fn ports_of_the_host() {
    let with = |name: &str, port: Value| pod(name, &json!({"spec": {"containers": [{"ports": [port]}]}}));
    let there = machines(&json!({}), vec![with("a", json!({"hostPort": 80, "hostIP": "10.0.0.1"}))]);
    let table = [
        (json!({"hostPort": 80}), false),
        (json!({"hostPort": 80, "hostIP": "10.0.0.1"}), false),
        (json!({"hostPort": 80, "hostIP": "10.0.0.2"}), true),
        (json!({"hostPort": 80, "protocol": "UDP"}), true),
        (json!({"hostPort": 81}), true),
        (json!({"containerPort": 80}), true),
    ];
    for (port, free) in table {
        let pod = with("p", port.clone());
        if free {
            assert_eq!(outcome(&pod, &there), "n1", "{port}");
        } else {
            waits(&pod, &there, "node(s) didn't have free ports for the requested pod ports", NO_VICTIMS);
        }
    }
}

#[test]
fn neighbours() {
    let term =
        |app: &str, key: &str| json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]);
    let near = |name: &str, app: &str, key: &str| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": term(app, key)});
        pod(name, &json!({"spec": {"affinity": {"podAffinity": required}}}))
    };
    let far = |name: &str, app: &str| {
        let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": term(app, "zone")});
        pod(name, &json!({"spec": {"affinity": {"podAntiAffinity": required}}}))
    };
    let web = || pod("web", &json!({}));
    let empty = machines(&json!({}), vec![]);
    let with_web = machines(&json!({}), vec![web()]);
    assert_eq!(outcome(&near("p", "web", "zone"), &with_web), "n1");
    waits(&near("p", "web", "zone"), &empty, "node(s) didn't match pod affinity rules", NOT_HELPFUL);
    waits(&near("p", "web", "rack"), &with_web, "node(s) didn't match pod affinity rules", NOT_HELPFUL);
    // The first of its kind.
    assert_eq!(outcome(&near("p", "p", "zone"), &empty), "n1");

    waits(&far("p", "web"), &with_web, "node(s) didn't match pod anti-affinity rules", NO_VICTIMS);
    assert_eq!(outcome(&far("p", "web"), &empty), "n1");
    let alone = machines(&json!({}), vec![far("a", "web")]);
    waits(&web(), &alone, "node(s) didn't satisfy existing pods anti-affinity rules", NO_VICTIMS);
    // Other namespaces are not meant, unless they are named.
    let mut elsewhere = web();
    elsewhere.namespace = "other".to_owned();
    assert_eq!(outcome(&elsewhere, &alone), "n1");
    let mut named = far("p", "web");
    named.spec.affinity.pod_anti_affinity.required[0].namespaces = vec!["other".to_owned()];
    waits(
        &named,
        &machines(&json!({}), vec![elsewhere]),
        "node(s) didn't match pod anti-affinity rules",
        NO_VICTIMS,
    );
}

#[test]
fn spreading() {
    let spread = |key: &str, min: Value| {
        let one = json!({"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "minDomains": min,
            "labelSelector": {"matchLabels": {"app": "p"}}});
        pod("p", &json!({"spec": {"topologySpreadConstraints": [one]}}))
    };
    let two =
        || vec![pod("p", &json!({"metadata": {"uid": "1"}})), pod("p", &json!({"metadata": {"uid": "2"}}))];
    let words = "node(s) didn't match pod topology spread constraints";
    // There is one zone only: nothing can be out of balance.
    assert_eq!(outcome(&spread("zone", Value::Null), &machines(&json!({}), two())), "n1");
    waits(&spread("zone", json!(2)), &machines(&json!({}), two()), words, NO_VICTIMS);
    waits(
        &spread("rack", Value::Null),
        &machines(&json!({}), vec![]),
        &format!("{words} (missing required label)"),
        NOT_HELPFUL,
    );
    // A second zone that is empty has to be filled first.
    let mut zones = machines(&json!({}), two());
    zones.know(node("n2", &json!({"metadata": {"labels": {"zone": "b"}}})));
    assert_eq!(outcome(&spread("zone", Value::Null), &zones), "n2");
    let soft = json!({"whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 1, "topologyKey": "rack"});
    let soft = pod("p", &json!({"spec": {"topologySpreadConstraints": [soft]}}));
    assert_eq!(outcome(&soft, &machines(&json!({}), two())), "n1");
}

#[test]
fn reasons_of_several_machines_are_counted() {
    let mut machines = machines(&json!({"spec": {"unschedulable": true}}), vec![]);
    machines.know(node("n2", &json!({"spec": {"unschedulable": true}})));
    machines.know(node("n3", &json!({})));
    assert_eq!(
        outcome(&pod("p", &asks("5", "1")), &machines),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn the_emptier_machine_is_taken() {
    let mut machines = machines(&json!({}), vec![pod("a", &asks("2", "1Gi"))]);
    machines.know(node("n2", &json!({})));
    assert_eq!(outcome(&pod("p", &asks("1", "1Gi")), &machines), "n2");
    machines.know(node("n2", &json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}})));
    assert_eq!(outcome(&pod("p", &asks("1", "1Gi")), &machines), "n1");
}

#[test]
fn pods_that_matter_less_make_room() {
    let with = |name: &str, cpu: &str, priority: i32| {
        let mut pod = pod(name, &asks(cpu, "1"));
        pod.spec.priority = Some(priority);
        pod
    };
    let there =
        || machines(&json!({}), vec![with("low", "2", 1), with("mid", "1", 5), with("high", "1", 10)]);
    let victims = |pod: &Wants| match decide(pod, &there()) {
        Decision::Wait { preempt, message } => {
            let names = |victim: &Arc<Wants>| victim.name.clone();
            let found = preempt.map(|found| found.victims.iter().map(names).collect::<Vec<_>>());
            (found, message)
        }
        Decision::Place(node) => panic!("placed on {node}"),
    };
    let words = "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods.";
    assert_eq!(victims(&with("p", "2", 7)), (Some(vec!["low".to_owned()]), words.to_owned()));
    assert_eq!(victims(&with("p", "3", 7)).0, Some(vec!["mid".to_owned(), "low".to_owned()]));
    // Nobody goes where it does not help.
    assert_eq!(victims(&with("p", "4", 7)).0, None);
    assert_eq!(victims(&with("p", "1", 1)), (None, format!("{words} {NO_VICTIMS}")));
    let mut never = with("p", "1", 7);
    never.spec.preemption_policy = "Never".to_owned();
    let expected = format!("{words} preemption: not eligible due to preemptionPolicy=Never.");
    assert_eq!(victims(&never), (None, expected));
}
