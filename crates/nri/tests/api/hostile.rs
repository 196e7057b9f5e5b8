//! Plugins that hang, die, flood and lie: others do not notice, and nothing grows.

use std::time::{Duration, Instant};

use prost::Message as _;
use vaquita_nri::api::{Empty, Event, UpdateContainersRequest, UpdateContainersResponse};

use super::client::{Client, Request, frame, message};
use super::support::{Bench, container, pod, until};

/// A plugin that answers whatever it is asked, in the background.
fn honest(mut client: Client) -> tokio::task::JoinHandle<u32> {
    tokio::spawn(async move {
        let mut count = 0;
        while let Some(asked) = client.next().await {
            client.reply(&asked, &Empty {}).await;
            count += 1;
        }
        count
    })
}

#[tokio::test]
async fn a_plugin_that_does_not_answer_is_closed_and_the_operation_goes_on() {
    let bench = Bench::with(|config| config.request_timeout = Duration::from_secs(2)).await;
    let mut silent = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
    let honest = honest(Client::join(&bench.socket(), "20", "b", &[Event::CreateContainer]).await);
    bench.plugins.create_container(&pod("pod"), &container("c")).await.unwrap();
    silent.closed().await;
    bench.plugins.create_container(&pod("pod"), &container("d")).await.unwrap();
    bench.plugins.stop().await;
    assert_eq!(honest.await.unwrap(), 3);
}

#[tokio::test]
async fn a_plugin_that_closes_in_the_middle_of_an_answer_is_left_out() {
    let bench = Bench::new().await;
    let mut client = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    let told = async {
        let create = client.asked("CreateContainer").await;
        let answer = frame(1, &message(create.stream, 2, &[0; 1000]));
        client.send(&answer[..500]).await;
        drop(client);
    };
    let (created, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
    created.unwrap();
    until(|| !bench.plugins.any()).await;
}

#[tokio::test]
async fn an_answer_that_is_none_closes_a_plugin() {
    let bench = Bench::new().await;
    for answer in [
        // No response; a response whose payload is none; one with a status that is none.
        &[0xff; 100][..],
        &[0x12, 2, 0xff, 0xff],
        &[0x0a, 3, 0x12, 200, 1],
    ] {
        let mut client = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
        let (pod, container) = (pod("pod"), container("c"));
        let told = async {
            let create = client.asked("CreateContainer").await;
            client.send(&frame(1, &message(create.stream, 2, answer))).await;
            client.closed().await;
        };
        let (created, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
        created.unwrap();
    }
}

#[tokio::test]
async fn malformed_bytes_close_a_connection_before_and_after_it_has_joined() {
    let bench = Bench::new().await;
    let honest = honest(Client::join(&bench.socket(), "20", "b", &[Event::RunPodSandbox]).await);
    let request = |stream: u32| {
        let request = Request { service: "x".to_owned(), ..Request::default() };
        frame(2, &message(stream, 1, &request.encode_to_vec()))
    };
    let attacks: Vec<Vec<u8>> = vec![
        vec![0xff; 64],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        frame(0, &[]),
        frame(3, &[0; 10]),
        frame(u32::MAX, &[0; 10]),
        // Frames and messages that are said to be huge.
        [&1_u32.to_be_bytes()[..], &u32::MAX.to_be_bytes()].concat(),
        frame(2, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1, 0]),
        frame(2, &[0, 0x10, 0, 1, 0, 0, 0, 1, 1, 0]),
        // A type that there is not, data of a stream, a request on the wrong channel, an answer on the wrong channel.
        frame(2, &message(1, 9, &[])),
        frame(2, &message(1, 3, &[])),
        frame(1, &message(1, 1, &[])),
        frame(2, &message(1, 2, &[])),
        // A request that is none; even numbers; numbers that do not rise.
        frame(2, &message(1001, 1, &[0xff; 20])),
        request(1002),
        [request(1003), request(1003)].concat(),
        [request(1003), request(1001)].concat(),
    ];
    for attack in attacks {
        let mut stranger = Client::connect(&bench.socket()).await;
        stranger.send(&attack).await;
        stranger.closed().await;
        let mut plugin = Client::join(&bench.socket(), "10", "a", &[Event::StopPodSandbox]).await;
        plugin.send(&attack).await;
        plugin.closed().await;
        bench.plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
    }
    bench.plugins.stop().await;
    assert_eq!(honest.await.unwrap(), 16 + 1);
}

/// What is left of them runs out of time, as each does that says nothing.
#[tokio::test]
async fn a_hundred_connections_that_never_register_make_room_for_who_does() {
    let bench = Bench::with(|config| config.registration_timeout = Duration::from_secs(600)).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(&bench.socket()).await;
        client.send(&frame(2, &message(1, 1, &[0; 100]))[..20]).await;
        crowd.push(client);
    }
    for client in &mut crowd[..84] {
        client.closed().await;
    }
    let honest = honest(Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox]).await);
    bench.plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
    bench.plugins.stop().await;
    assert_eq!(honest.await.unwrap(), 2);
}

#[tokio::test]
async fn a_flood_of_requests_is_refused_but_for_a_few_and_others_go_on() {
    let bench = Bench::new().await;
    *bench.node.slowness.lock().unwrap() = Duration::from_millis(300);
    let mut flood = Client::join(&bench.socket(), "10", "a", &[Event::StopPodSandbox]).await;
    let honest = honest(Client::join(&bench.socket(), "20", "b", &[Event::RunPodSandbox]).await);
    for _ in 0..50 {
        let request = UpdateContainersRequest::default();
        flood.send_request("nri.pkg.api.v1alpha1.Runtime", "UpdateContainers", &request).await;
    }
    let (mut refused, start, mut last) = (0, Instant::now(), Duration::ZERO);
    for _ in 0..50 {
        match flood.response::<UpdateContainersResponse>().await.1 {
            Ok(_) => {}
            Err(status) => {
                assert_eq!(status.code, 8);
                refused += 1;
                last = start.elapsed();
            }
        }
    }
    assert!((30..=45).contains(&refused), "{refused} were refused");
    // Each has cost its sender time.
    assert!(last >= Duration::from_millis(10) * (refused - 1), "{refused} within {last:?}");
    bench.plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
    bench.plugins.stop().await;
    assert_eq!(honest.await.unwrap(), 2);
}

/// It asks without end and reads no answer: it can write what a socket holds and little more.
#[tokio::test]
async fn a_flood_of_nonsense_fills_no_memory() {
    let bench = Bench::new().await;
    let mut flood = Client::join(&bench.socket(), "10", "a", &[Event::StopPodSandbox]).await;
    let honest = honest(Client::join(&bench.socket(), "20", "b", &[Event::RunPodSandbox]).await);
    let mut sent = 0;
    for stream in (1001_u32..).step_by(2) {
        let request = Request { service: "x".repeat(1000), ..Request::default() };
        let bytes = frame(2, &message(stream, 1, &request.encode_to_vec()));
        match tokio::time::timeout(Duration::from_millis(500), flood.send(&bytes)).await {
            Ok(true) => sent += bytes.len(),
            Ok(false) | Err(_) => break,
        }
        assert!(sent < 8 << 20);
    }
    bench.plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
    bench.plugins.stop().await;
    assert_eq!(honest.await.unwrap(), 2);
}

/// Messages to a plugin that does not read wait in no queue for ever.
#[tokio::test]
async fn a_plugin_that_does_not_read_is_closed() {
    let bench = Bench::with(|config| config.request_timeout = Duration::from_millis(300)).await;
    let client = Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox]).await;
    let mut large = pod("pod");
    large.annotations.insert("a".to_owned(), "x".repeat(3 << 20));
    bench.plugins.run_pod_sandbox(&large).await.unwrap();
    until(|| !bench.plugins.any()).await;
    drop(client);
}

#[tokio::test]
async fn what_is_too_long_to_be_told_is_an_error_and_closes_nobody() {
    let bench = Bench::new().await;
    let _client = Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox]).await;
    let mut large = pod("pod");
    large.annotations.insert("a".to_owned(), "x".repeat(4 << 20));
    let error = bench.plugins.run_pod_sandbox(&large).await.unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    assert!(bench.plugins.any());
}

#[tokio::test]
async fn there_are_so_many_plugins_and_no_more() {
    let bench = Bench::new().await;
    let mut plugins = Vec::new();
    for _ in 0..64 {
        plugins.push(Client::join(&bench.socket(), "10", "a", &[Event::StopPodSandbox]).await);
    }
    let mut client = Client::connect(&bench.socket()).await;
    assert_eq!(client.register("10", "b").await.unwrap_err().code, 8);
    plugins.pop();
    // Its place is free as soon as that has been noticed.
    while client.register("10", "b").await.is_err() {}
}
