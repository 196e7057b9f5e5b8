//! What this kernel cannot do is refused by name, and nothing is left of the container.

use serde_json::{Value, json};

use crate::container::Container;

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_limits_that_cannot_be_are_refused() {
    let table: [(&str, Value, &[&str]); 6] = [
        ("hugepageLimits", json!([{"pageSize": "3MB", "limit": 0}]), &["hugetlb.3MB"]),
        ("memory", json!({"swap": 1 << 20, "limit": 2 << 20}), &["memory", "swap"]),
        ("memory", json!({"limit": 8 << 20, "swappiness": 10}), &["swappiness"]),
        ("cpu", json!({"realtimeRuntime": 1000, "realtimePeriod": 10_000}), &["realtime"]),
        ("rdma", json!({"mlx5_9": {"hcaHandles": 3}}), &["rdma"]),
        ("network", json!({"classID": 5}), &["net_cls"]),
    ];
    for (name, value, words) in table {
        let container = Container::new("true").limit(name, value.clone());
        let said = container.refused();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{name} {value}: {said}");
    }
}

#[test]
#[ignore = "needs cgroup v2: hack/vm"]
fn vm_files_of_v2_are_written_as_given() {
    let unified = json!({"memory.high": "8388608", "cpu.idle": "1", "pids.max": "9"});
    let container = Container::new("true").limit("unified", unified);
    container.run();
    let files = ["memory.high", "cpu.idle", "pids.max"].map(|name| container.file(name));
    assert_eq!(files, ["8388608", "1", "9"]);
    let said = Container::new("true").limit("unified", json!({"memory.nothing": "1"})).refused();
    assert!(said.contains("memory.nothing"), "{said}");
}
