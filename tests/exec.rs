//! ExecSync.

use crate::support::{Node, Pod};

#[test]
fn output_and_exit_code_come_back() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "exec");
    let container = pod.start("main", &["sleep", "1000"]);
    let (code, out, err) = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"]);
    assert_eq!((code, out.as_str(), err.as_str()), (3, "out\n", "err\n"));
    assert_eq!(container.exec(&["cat", "/proc/1/cmdline"]).1, "sleep\x001000\0");
    assert_eq!(container.exec(&["sh", "-c", "kill -9 $$"]).0, 137);
    node.finish();
}

#[test]
fn large_output_is_complete() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "large");
    let container = pod.start("main", &["sleep", "1000"]);
    let (code, out, _) = container.exec(&["seq", "100000"]);
    assert_eq!(code, 0);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(out == expected, "{} bytes of {}", out.len(), expected.len());
    node.finish();
}

#[test]
fn a_command_that_takes_too_long_is_killed_and_said_so() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "slow");
    let container = pod.start("main", &["sleep", "1000"]);
    let status = container.try_exec(&["sleep", "777"], 1).unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
    let (_, processes, _) = container.exec(&["ps"]);
    assert!(!processes.contains("777"), "{processes}");
    node.finish();
}

#[test]
fn a_command_that_is_not_there_is_an_error() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "missing");
    let container = pod.start("main", &["sleep", "1000"]);
    let status = container.try_exec(&["/no/such"], 10).unwrap_err();
    assert!(status.message().contains("/no/such"), "{status}");
    container.stop(0);
    let status = container.try_exec(&["true"], 10).unwrap_err();
    assert!(status.message().contains("needs a running container"), "{status}");
    node.finish();
}

#[test]
fn twenty_at_once_do_not_mix() {
    let node = Node::start();
    node.load_busybox();
    let pod = Pod::run(&node, "many");
    let container = pod.start("main", &["sleep", "1000"]);
    let request = |number: u32| vaquita_proto::cri::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: vec!["echo".into(), number.to_string()],
        timeout: 30,
    };
    let answers = node.wait(async {
        let mut set = tokio::task::JoinSet::new();
        for number in 0..20 {
            let (mut cri, request) = (node.cri(), request(number));
            set.spawn(async move { (number, cri.exec_sync(request).await.unwrap().into_inner()) });
        }
        set.join_all().await
    });
    assert_eq!(answers.len(), 20);
    for (number, answer) in answers {
        assert_eq!(answer.exit_code, 0);
        assert_eq!(answer.stdout, format!("{number}\n").as_bytes());
    }
    node.finish();
}
