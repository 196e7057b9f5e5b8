//! `vaquita demo`, played with as its hint says.

use crate::support::{Node, Run, eventually, http};

#[test]
fn readiness_liveness_and_memory_can_be_played_with() {
    let node = Node::start();
    let mut run = Run::start(&node, &["demo", "--output", "json"]);
    let address = run.address();
    run.event("PodReady", |_| true);
    let post = |path: &str| http("POST", &address, 8080, path);
    let get = |path: &str| http("GET", &address, 8080, path).unwrap();

    let (status, page) = get("/");
    assert_eq!(status, 200);
    assert!(page.contains("<h1>demo</h1>"), "{page}");
    assert!(get("/env").1.contains("POD_NAME=demo\n"));
    assert!(get("/env").1.contains(&format!("POD_IP={address}\n")));
    assert_eq!(get("/fs/work/motto").1, "A group of whales is a pod.\n");

    assert_eq!(post("/ready?fail=2").unwrap().0, 200);
    run.event("PodNotReady", |event| event["containers"][0] == "web");
    run.event("PodReady", |_| true);

    assert_eq!(post("/healthy").unwrap().0, 200);
    run.event("Stopping", |event| event["container"] == "web");
    run.event("ContainerStarted", |event| event["container"] == "web" && event["restartCount"] == 1);
    run.event("PodReady", |_| true);

    // The answer is lost with the server.
    let _ = post("/mem?mib=100");
    let end = run.event("ContainerExited", |event| event["container"] == "web");
    assert_eq!(end["reason"], "OOMKilled", "{end}");
    run.event("BackOff", |event| event["container"] == "web");

    run.interrupt();
    assert_eq!(run.ended().status.code(), Some(130));
    node.finish();
}

#[test]
fn it_says_what_to_try() {
    let node = Node::start();
    let run = Run::start(&node, &["demo"]);
    run.err("demo ready\n");
    run.err("curl -X POST 'http://10.204.");
    for text in ["init prepare: exit 0", "init verify: exit 0", "web started", "visitor started"] {
        run.err(text);
    }
    run.interrupt();
    run.err("ending: Ctrl-C again kills");
    run.err("demo removed");
    assert_eq!(run.ended().status.code(), Some(130));
    eventually("the pod to be gone", || node.resources("process").is_empty().then_some(()));
    node.finish();
}
