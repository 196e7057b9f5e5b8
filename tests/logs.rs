//! Container output in CRI log files.

use crate::support::{Node, Pod};

#[test]
fn every_line_is_in_the_file_before_the_exit_is_told() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "lines");
    let container = pod.start("main", &["seq", "50000"]);
    assert_eq!(container.exited().exit_code, 0);
    let expected: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    let output = container.output();
    assert!(output == expected, "{} bytes of {}", output.len(), expected.len());
    node.finish();
}

#[test]
fn streams_are_told_apart_and_times_do_not_go_back() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "streams");
    let container = pod.start("main", &["sh", "-c", "echo one; echo two >&2; echo three"]);
    container.exited();
    let log = container.log();
    let of = |stream: &str| -> Vec<String> {
        log.iter().filter(|record| record.stream == stream).map(|record| record.text.clone()).collect()
    };
    assert_eq!(of("stdout"), ["one", "three"]);
    assert_eq!(of("stderr"), ["two"]);
    assert!(log.iter().map(|record| record.time.parse::<jiff::Timestamp>().unwrap()).is_sorted());
    node.finish();
}

#[test]
fn a_long_line_is_cut_into_partial_records_and_an_open_end_is_kept() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "long");
    let script = "dd if=/dev/zero bs=1000 count=100 2>/dev/null | cat -v; echo; echo -n open";
    let container = pod.start("main", &["sh", "-c", script]);
    container.exited();
    let log = container.log();
    assert!(log.iter().filter(|record| record.partial).count() >= 12, "{}", log.len());
    assert_eq!(container.output().trim_end_matches('\n'), format!("{}\nopen", "^@".repeat(100_000)));
    node.finish();
}

#[test]
fn a_rotated_log_goes_on_in_a_new_file() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "rotated");
    let script = "echo before; while [ ! -e /tmp/go ]; do sleep 0.01; done; echo after";
    let container = pod.start("main", &["sh", "-c", script]);
    crate::support::eventually("the first line", || container.output().contains("before").then_some(()));
    let old = container.log_path().with_extension("old");
    std::fs::rename(container.log_path(), &old).unwrap();
    let request = vaquita_proto::cri::ReopenContainerLogRequest { container_id: container.id.clone() };
    node.wait(node.cri().reopen_container_log(request)).unwrap();
    assert_eq!(container.exec(&["touch", "/tmp/go"]).0, 0);
    container.exited();
    assert_eq!(container.output(), "after\n");
    assert!(std::fs::read_to_string(old).unwrap().contains("before"));
    node.finish();
}
