//! Registration, configuration, synchronization, and the end of it.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use vaquita_nri::api::{
    Empty, Event, LinuxContainerUpdate, SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest,
    UpdateContainersResponse, {ContainerEviction, ContainerUpdate},
};
use vaquita_nri::{Kind, Plugins};

use super::client::Client;
use super::support::{Bench, config, container, pod, until};

fn update(id: &str) -> ContainerUpdate {
    let linux = Some(Box::new(LinuxContainerUpdate::default()));
    ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: false }
}

#[tokio::test]
async fn a_plugin_registers_is_configured_and_told_of_all_there_is() {
    let bench = Bench::with(|config| config.request_timeout = Duration::from_millis(12_345)).await;
    bench.node.pods.lock().unwrap().push(pod("pod"));
    bench.node.containers.lock().unwrap().push(container("container"));
    *bench.node.stubborn.lock().unwrap() = "x".to_owned();
    assert!(!bench.plugins.any());

    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "test").await.unwrap();
    let configuration = client.configure(0).await;
    assert_eq!(configuration.runtime_name, "vaquita");
    assert_eq!(configuration.runtime_version, concat!("v", env!("CARGO_PKG_VERSION")));
    assert_eq!(configuration.nri_version, "v0.12.0");
    assert_eq!((configuration.registration_timeout, configuration.request_timeout), (20_000, 12_345));
    assert_eq!(configuration.config, "");

    let synchronize = client.asked("Synchronize").await;
    assert!(bench.plugins.any());
    let all: SynchronizeRequest = synchronize.payload();
    assert_eq!((all.pods, all.containers, all.more), (vec![pod("pod")], vec![container("container")], false));
    client.reply(&synchronize, &SynchronizeResponse { update: vec![update("x")], more: false }).await;
    until(|| *bench.node.updates.lock().unwrap() == [update("x")]).await;

    drop(client);
    until(|| !bench.plugins.any()).await;
}

#[tokio::test]
async fn a_plugin_with_a_wrong_name_is_told_and_may_try_again() {
    let bench = Bench::new().await;
    let mut client = Client::connect(&bench.socket()).await;
    let early = client.ask::<Empty>("UpdateContainers", &UpdateContainersRequest::default()).await;
    assert_eq!(early.unwrap_err().code, 3);
    for (index, name) in [("1", "a"), ("xx", "a"), ("10", ""), ("10", "a/b"), ("", "")] {
        assert_eq!(client.register(index, name).await.unwrap_err().code, 3, "{index} {name}");
    }
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
}

#[tokio::test]
async fn a_plugin_cannot_register_twice_nor_call_what_there_is_not() {
    let bench = Bench::new().await;
    let mut client = Client::join(&bench.socket(), "10", "a", &[]).await;
    assert_eq!(client.register("10", "b").await.unwrap_err().code, 3);
    assert_eq!(client.ask::<Empty>("Reboot", &Empty {}).await.unwrap_err().code, 12);
    client.send_request("nri.pkg.api.v1alpha1.Plugin", "Shutdown", &Empty {}).await;
    assert_eq!(client.response::<Empty>().await.1.unwrap_err().code, 12);
    assert!(bench.plugins.any());
}

#[tokio::test]
async fn events_that_there_are_not_are_no_subscription() {
    let bench = Bench::new().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(1 << 14).await;
    client.closed().await;
}

#[tokio::test]
async fn a_plugin_that_cannot_be_configured_or_synchronized_does_not_join() {
    let bench = Bench::new().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    let configure = client.asked("Configure").await;
    client.refuse(&configure, 2, "no").await;
    client.closed().await;

    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    let synchronize = client.asked("Synchronize").await;
    client.refuse(&synchronize, 2, "no").await;
    client.closed().await;
    until(|| !bench.plugins.any()).await;
}

#[tokio::test]
async fn a_plugin_that_says_nothing_is_closed_at_each_step() {
    let bench = Bench::with(|config| {
        config.registration_timeout = Duration::from_millis(100);
        config.request_timeout = Duration::from_millis(100);
    })
    .await;
    Client::connect(&bench.socket()).await.closed().await;

    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.closed().await;

    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    client.closed().await;
    until(|| !bench.plugins.any()).await;
}

#[tokio::test]
async fn much_is_told_in_parts_to_a_plugin_that_understands_them() {
    let bench = Bench::new().await;
    let many: Vec<_> = (0..100)
        .map(|id| {
            let mut container = container(&format!("{id}"));
            container.env.push("x".repeat(100_000));
            container
        })
        .collect();
    *bench.node.containers.lock().unwrap() = many.clone();

    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    let (mut told, mut parts) = (Vec::new(), 0);
    loop {
        let synchronize = client.asked("Synchronize").await;
        let part: SynchronizeRequest = synchronize.payload();
        assert!(synchronize.request.payload.len() < 4 << 20);
        told.extend(part.containers);
        parts += 1;
        client.reply(&synchronize, &SynchronizeResponse { update: Vec::new(), more: part.more }).await;
        if !part.more {
            break;
        }
    }
    assert_eq!((told == many, parts), (true, 3));

    let mut client = Client::connect(&bench.socket()).await;
    client.register("20", "b").await.unwrap();
    client.configure(0).await;
    let synchronize = client.asked("Synchronize").await;
    client.reply(&synchronize, &SynchronizeResponse::default()).await;
    client.closed().await;
}

/// A container is in the state, or its creation is told; never both, never neither.
#[tokio::test]
async fn a_plugin_joins_wholly_before_or_wholly_after_a_change() {
    let bench = Bench::new().await;
    let change = bench.plugins.change().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    // It is not among those who are told of this change.
    assert!(!bench.plugins.any());
    bench.plugins.create_container(&pod("pod"), &container("one")).await.unwrap();
    bench.node.containers.lock().unwrap().push(container("one"));
    drop(change);
    let synchronize = client.asked("Synchronize").await;
    assert_eq!(synchronize.payload::<SynchronizeRequest>().containers, [container("one")]);

    // A change that begins meanwhile waits for the plugin, and tells it.
    let create = async {
        let change = bench.plugins.change().await;
        assert!(bench.plugins.any());
        bench.plugins.create_container(&pod("pod"), &container("two")).await.unwrap();
        drop(change);
    };
    let answer = async {
        assert!(tokio::time::timeout(Duration::from_millis(50), client.next()).await.is_err());
        client.reply(&synchronize, &SynchronizeResponse::default()).await;
        let create = client.asked("CreateContainer").await;
        client.reply(&create, &Empty {}).await;
        let judge = client.asked("ValidateContainerAdjustment").await;
        client.reply(&judge, &Empty {}).await;
    };
    tokio::join!(create, answer);
}

#[tokio::test]
async fn a_plugin_that_waits_for_a_long_change_holds_up_no_others() {
    let bench = Bench::new().await;
    let long = bench.plugins.change().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    for _ in 0..5 {
        let other = tokio::time::timeout(Duration::from_secs(10), bench.plugins.change()).await;
        drop(other.expect("the plugin lets nobody pass"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(long);
    client.asked("Synchronize").await;
}

#[tokio::test]
async fn a_plugin_does_not_wait_for_a_change_for_ever() {
    let bench = Bench::with(|config| config.registration_timeout = Duration::from_millis(600)).await;
    let long = bench.plugins.change().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    client.closed().await;
    drop(long);
    Client::join(&bench.socket(), "10", "a", &[]).await;
}

#[tokio::test]
async fn updates_that_a_plugin_asks_for_are_done_and_the_failed_ones_told() {
    let bench = Bench::new().await;
    *bench.node.stubborn.lock().unwrap() = "b".to_owned();
    let mut client = Client::join(&bench.socket(), "10", "a", &[]).await;
    let eviction = ContainerEviction { container_id: "c".to_owned(), reason: "noise".to_owned() };
    let request =
        UpdateContainersRequest { update: vec![update("a"), update("b")], evict: vec![eviction.clone()] };
    let response: UpdateContainersResponse = client.ask("UpdateContainers", &request).await.unwrap();
    assert_eq!(response.failed, [update("b")]);
    assert_eq!(*bench.node.updates.lock().unwrap(), [update("a"), update("b")]);
    assert_eq!(*bench.node.evictions.lock().unwrap(), [eviction]);
}

#[tokio::test]
async fn at_the_end_plugins_are_told_and_the_socket_is_gone() {
    let bench = Bench::new().await;
    let mut client = Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox]).await;
    let mut stranger = Client::connect(&bench.socket()).await;
    let (plugins, pod) = (bench.plugins.clone(), pod("pod"));
    // Who is still joining is not told.
    let hears = async {
        let run = client.asked("RunPodSandbox").await;
        client.reply(&run, &Empty {}).await;
    };
    let (run, ()) = tokio::join!(plugins.run_pod_sandbox(&pod), hears);
    run.unwrap();
    let farewell = async {
        let shutdown = client.asked("Shutdown").await;
        client.reply(&shutdown, &Empty {}).await;
        client.closed().await;
        stranger.closed().await;
    };
    tokio::join!(plugins.stop(), farewell);
    assert!(!bench.socket().exists());
    assert!(!bench.plugins.any());
    bench.plugins.run_pod_sandbox(&pod).await.unwrap();
}

#[tokio::test]
async fn nobody_joins_before_it_has_begun() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nri/nri.sock");
    let node = std::sync::Arc::<super::support::Node>::default();
    let (plugins, beginning) = Plugins::open(config(socket.clone()), node.clone()).unwrap();
    let mut client = Client::connect(&socket).await;
    tokio::time::timeout(Duration::from_millis(50), client.register("10", "a")).await.unwrap_err();
    // What changes now it is synchronized with.
    drop(plugins.change().await);
    node.pods.lock().unwrap().push(pod("pod"));
    beginning.begin().await;
    assert!(client.response::<Empty>().await.1.is_ok());
    client.configure(0).await;
    let synchronize = client.asked("Synchronize").await;
    assert_eq!(synchronize.payload::<SynchronizeRequest>().pods, [pod("pod")]);

    let (_, beginning) = Plugins::open(config(dir.path().join("other.sock")), node).unwrap();
    drop(beginning);
    assert!(!dir.path().join("other.sock").exists());
}

#[tokio::test]
async fn the_socket_is_ours_alone() {
    let bench = Bench::new().await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&bench.socket()), 0o600);
    assert_eq!(mode(bench.socket().parent().unwrap()), 0o700);
    let start = |socket: std::path::PathBuf| {
        Plugins::start(config(socket), std::sync::Arc::<super::support::Node>::default())
    };
    assert_eq!(start(bench.socket()).await.unwrap_err().kind(), Kind::Busy);

    // What nobody listens on any more is replaced, anything else is not.
    let left = bench.dir.path().join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    start(left).await.unwrap();
    let file = bench.dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(start(file.clone()).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(std::fs::read_to_string(file).unwrap(), "mine");

    let shared = bench.dir.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let error = start(shared.join("nri.sock")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("others may write"), "{error}");
    assert_eq!(mode(&shared), 0o1777);
}
