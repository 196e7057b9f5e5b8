//! Memory that the node's own processes take.

use std::os::unix::fs::MetadataExt as _;

use crate::support::{Node, Pod, eventually};

#[test]
fn the_program_is_in_memory_once_and_a_supervisor_at_rest_is_small() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "small");
    let container = pod.start("main", &["sleep", "1000"]);
    let [daemon, shim] = node.pids()[..] else { panic!("{:?}", node.pids()) };
    let program = |pid: u32| {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).unwrap();
        (file.dev(), file.ino())
    };
    assert_eq!(program(shim), program(daemon), "the supervisor runs from another file");
    assert_eq!(kib(shim, "RssShmem"), 0, "the supervisor runs from memory");
    eventually("the supervisor's stack to be given back", || (stack(shim) <= 20).then_some(()));
    assert!(kib(shim, "RssAnon") <= 160, "it has {} KiB of its own", kib(shim, "RssAnon"));
    assert_eq!(container.exec(&["echo", "awake"]).1, "awake\n");
    node.finish();
}

/// What a process has, in KiB (proc_pid_status(5)).
fn kib(pid: u32, what: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// What a process has of its first thread's stack, in KiB (proc_pid_smaps(5)).
fn stack(pid: u32) -> usize {
    let table = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let lines = table.lines().skip_while(|line| !line.ends_with("[stack]"));
    let resident = lines.filter_map(|line| line.strip_prefix("Rss:")).next().unwrap();
    resident.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
