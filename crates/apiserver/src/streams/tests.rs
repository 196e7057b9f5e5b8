use serde_json::json;

use super::*;

fn pod(names: &[&str]) -> Value {
    let list: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    json!({ "spec": { "containers": list, "initContainers": [{ "name": "init" }] } })
}

fn refused(result: Result<impl std::fmt::Debug, Status>) -> String {
    let status = result.unwrap_err();
    assert!((400..500).contains(&status.code), "{status:?}");
    status.message
}

#[test]
fn the_container_is_the_named_or_the_only_one() {
    assert_eq!(container("", &pod(&["a"]), "p").unwrap(), "a");
    assert_eq!(container("init", &pod(&["a"]), "p").unwrap(), "init");
    assert_eq!(refused(container("x", &pod(&["a"]), "p")), "container x is not valid for pod p");
    assert_eq!(
        refused(container("", &pod(&["a", "b"]), "p")),
        "a container name must be specified for pod p, choose one of: [init a b]"
    );
    assert_eq!(refused(container("", &pod(&[]), "p")), "a container name must be specified for pod p");
}

#[test]
fn streams_are_read_from_the_query() {
    let ask = |query: &str, what: &str| stream(&Query::parse(query), &pod(&["a"]), "p", what);
    let Stream::Exec { container, command, streams } =
        ask("command=sh&stdin=true&stdout=true&stderr=true&tty=true", "exec").unwrap()
    else {
        panic!()
    };
    assert_eq!((container.as_str(), command), ("a", vec!["sh".to_owned()]));
    assert_eq!(streams, Streams { stdin: true, stdout: true, stderr: false, tty: true });
    assert!(refused(ask("command=sh", "exec")).starts_with("you must specify at least 1 of"));
    assert!(refused(ask("stdout=true", "exec")).starts_with("you must specify at least one command"));
    // The container has no terminal, whatever the client thinks.
    let Stream::Attach { streams, .. } = ask("stdout=true&stderr=true&tty=false", "attach").unwrap() else {
        panic!()
    };
    assert!(streams.stderr && !streams.tty);
    assert_eq!(
        ask("ports=80&ports=81,82", "portforward").unwrap(),
        Stream::PortForward { ports: vec![80, 81, 82] }
    );
    refused(ask("ports=x", "portforward"));
}

#[test]
fn log_options_are_those_of_kubernetes() {
    let now: Timestamp = "2026-01-02T00:00:10Z".parse().unwrap();
    let ask = |query: &str| log_options(&Query::parse(query), "p", now);
    let options =
        ask("container=a&follow=true&tailLines=0&limitBytes=5&sinceSeconds=10&timestamps=true&previous=1")
            .unwrap();
    assert!(options.follow && options.previous && options.timestamps);
    assert_eq!((options.tail_lines, options.limit_bytes), (Some(0), Some(5)));
    assert_eq!(options.since.unwrap().to_string(), "2026-01-02T00:00:00Z");
    assert_eq!(ask("").unwrap(), LogOptions::default());
    assert_eq!(
        refused(ask("tailLines=-1")),
        "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0"
    );
    assert!(refused(ask("limitBytes=0")).contains("limitBytes: Invalid value: 0: must be greater than 0"));
    assert!(refused(ask("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z")).contains("at most one of"));
    assert!(refused(ask("stream=Stdout&tailLines=1")).contains("mutually exclusive"));
    assert!(refused(ask("stream=x")).contains("supported values: \"All\", \"Stderr\", \"Stdout\""));
    refused(ask("tailLines=many"));
    refused(ask("sinceTime=yesterday"));
}
