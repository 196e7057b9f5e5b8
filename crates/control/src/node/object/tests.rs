use serde_json::{Value, json};

use super::super::machine::{Load, Machine, Room};
use super::*;

fn machine() -> Machine {
    Machine {
        cpus: 4,
        memory: 8 << 30,
        huge_pages: vec![(2 << 20, 16), (1 << 30, 0)],
        disk: 1000 << 10,
        machine_id: "m".into(),
        arch: "amd64",
        ..Machine::default()
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn look<'a>(machine: &'a Machine, runtime: &'a Runtime, seconds: i64) -> Look<'a> {
    let address = Some("192.0.2.1".parse().unwrap());
    Look { name: "n1", address, machine, disk_percent: 10, pressed: [false; 3], runtime, now: at(seconds) }
}

fn condition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let mut all = status["conditions"].as_array().unwrap().iter();
    all.find(|one| one["type"] == name).unwrap()
}

#[test]
fn a_new_node_has_its_labels() {
    let node =
        new("n1", &machine(), &BTreeMap::from([("disk".into(), "ssd".into())]), &["10.0.0.0/16".into()]);
    let labels = node["metadata"]["labels"].as_object().unwrap();
    assert_eq!(labels["kubernetes.io/hostname"], "n1");
    assert_eq!(labels["kubernetes.io/arch"], "amd64");
    assert_eq!(labels["node-role.kubernetes.io/control-plane"], "");
    assert_eq!(labels["disk"], "ssd");
    assert_eq!(node["spec"]["podCIDR"], "10.0.0.0/16");
}

#[test]
fn quantities_are_as_kubernetes_writes_them() {
    let mut status = Value::Null;
    refresh(&mut status, &look(&machine(), &Runtime::default(), 0));
    assert_eq!(
        status["capacity"],
        json!({"cpu": "4", "ephemeral-storage": "1000Ki", "hugepages-1Gi": "0", "hugepages-2Mi": "32Mi",
            "memory": "8Gi", "pods": "110"})
    );
    assert_eq!(
        status["allocatable"],
        json!({"cpu": "4", "ephemeral-storage": "921600", "hugepages-1Gi": "0", "hugepages-2Mi": "32Mi",
            "memory": "8060Mi", "pods": "110"})
    );
    assert_eq!(status["addresses"][0], json!({"type": "InternalIP", "address": "192.0.2.1"}));
}

#[test]
fn what_others_wrote_stays() {
    let mut status = json!({
        "capacity": {"example.com/gpu": "2", "hugepages-4Mi": "0"},
        "conditions": [{"type": "NetworkUnavailable", "status": "False"}],
    });
    refresh(&mut status, &look(&machine(), &Runtime::default(), 0));
    assert_eq!(status["capacity"]["example.com/gpu"], "2");
    assert_eq!(status["capacity"]["hugepages-4Mi"], Value::Null);
    assert_eq!(condition(&status, "NetworkUnavailable")["status"], "False");
    let names: Vec<&Value> =
        status["conditions"].as_array().unwrap().iter().map(|one| &one["type"]).collect();
    assert_eq!(names, ["NetworkUnavailable", "MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
}

#[test]
fn conditions_remember_when_they_changed() {
    let (machine, fine) = (machine(), Runtime::default());
    let down = Runtime { trouble: vec!["container runtime is down".into()], ..Runtime::default() };
    let mut status = Value::Null;
    let told = refresh(&mut status, &look(&machine, &down, 0));
    assert_eq!(told, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
    assert_eq!(condition(&status, "Ready")["message"], "container runtime is down");
    let before = status.clone();
    assert_eq!(refresh(&mut status, &look(&machine, &down, 10)), Happenings::new());
    assert!(!differs(&before, &status));
    assert_eq!(condition(&status, "Ready")["lastHeartbeatTime"], seconds(at(10)));
    assert_eq!(condition(&status, "Ready")["lastTransitionTime"], seconds(at(0)));

    assert_eq!(refresh(&mut status, &look(&machine, &fine, 20)), ["NodeReady"]);
    assert!(differs(&before, &status));
    assert_eq!(condition(&status, "Ready")["lastTransitionTime"], seconds(at(20)));
    assert_eq!(condition(&status, "Ready")["reason"], "KubeletReady");
    assert_eq!(condition(&status, "Ready")["message"], "kubelet is posting ready status");
    let short = Look { pressed: [true, false, false], ..look(&machine, &fine, 30) };
    assert_eq!(refresh(&mut status, &short), ["NodeHasInsufficientMemory"]);
    assert_eq!(condition(&status, "MemoryPressure")["status"], "True");
}

#[test]
fn pressures_last_a_while() {
    let fine = Load {
        memory_available: 1 << 30,
        most_processes: 1000,
        disk: Room { capacity: 100, available: 50, inodes: 0, inodes_free: 0 },
        ..Load::default()
    };
    let mut pressures = Pressures::default();
    assert_eq!(pressures.feel(&fine, 10, at(0)), [false; 3]);
    let no_memory = Load { memory_available: 99 << 20, ..fine };
    assert_eq!(pressures.feel(&no_memory, 10, at(1)), [true, false, false]);
    assert_eq!(pressures.feel(&fine, 10, at(300)), [true, false, false]);
    assert_eq!(pressures.feel(&fine, 10, at(301)), [false; 3]);
    let no_disk = Load { disk: Room { available: 9, ..fine.disk }, ..fine };
    assert_eq!(pressures.feel(&no_disk, 10, at(302)), [false, true, false]);
    assert_eq!(pressures.feel(&Load { processes: 951, ..fine }, 10, at(303)), [false, true, true]);
}

#[test]
fn the_largest_images_are_told() {
    let image = |name: &str, size| (vec![name.to_owned(); 7], size);
    let mut all: Vec<_> = (0..60).map(|n| image(&format!("i{n}"), n)).collect();
    all.push((Vec::new(), 1000));
    let told = images(&all);
    assert_eq!(told.as_array().unwrap().len(), IMAGES);
    assert_eq!(told[0]["sizeBytes"], 59);
    assert_eq!(told[0]["names"].as_array().unwrap().len(), NAMES);
}
