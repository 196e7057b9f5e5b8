//! Who is told of what, and what comes of the answers.

use std::time::Duration;

use vaquita_nri::api::{
    ContainerAdjustment, CreateContainerRequest, CreateContainerResponse, Empty, Event, KeyValue,
    LinuxMemory, LinuxResources, OptionalInt64, RunPodSandboxRequest, StateChangeEvent,
    StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse, UpdatePodSandboxRequest,
    ValidateContainerAdjustmentRequest, ValidateContainerAdjustmentResponse,
    {ContainerEviction, ContainerUpdate, LinuxContainerUpdate},
};
use vaquita_nri::{Kind, Plugins};

use super::client::Client;
use super::support::{Bench, container, pod, until};

fn memory(limit: i64) -> LinuxResources {
    let memory = LinuxMemory { limit: Some(OptionalInt64 { value: limit }), ..LinuxMemory::default() };
    LinuxResources { memory: Some(memory), ..LinuxResources::default() }
}

fn update(id: &str, limit: i64) -> ContainerUpdate {
    let linux = Some(Box::new(LinuxContainerUpdate { resources: Some(memory(limit)) }));
    ContainerUpdate { container_id: id.to_owned(), linux, ignore_failure: false }
}

fn variable(key: &str, value: &str) -> ContainerAdjustment {
    let env = vec![KeyValue { key: key.to_owned(), value: value.to_owned() }];
    ContainerAdjustment { env, ..ContainerAdjustment::default() }
}

async fn answer(client: &mut Client, method: &str) {
    let asked = client.asked(method).await;
    client.reply(&asked, &Empty {}).await;
}

#[tokio::test]
async fn without_plugins_everything_is_answered_at_once() {
    let none = Plugins::none();
    let bench = Bench::new().await;
    for plugins in [none, bench.plugins.clone()] {
        assert!(!plugins.any());
        drop(plugins.change().await);
        plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
        let creation = plugins.create_container(&pod("pod"), &container("c")).await.unwrap();
        assert_eq!(creation, vaquita_nri::Creation::default());
        let update = plugins.update_container(&pod("pod"), &container("c"), memory(5)).await.unwrap();
        assert_eq!(update.resources, memory(5));
        assert!(plugins.stop_container(&pod("pod"), &container("c")).await.unwrap().is_empty());
        plugins.stop().await;
    }
}

/// Every event of a pod and its container, in the order of their lives, each by its own request.
#[tokio::test]
async fn a_plugin_that_subscribed_to_all_hears_of_all() {
    let bench = Bench::new().await;
    let mut client = Client::connect(&bench.socket()).await;
    client.register("10", "a").await.unwrap();
    client.configure(0).await;
    answer(&mut client, "Synchronize").await;
    let (pod, container, plugins) = (pod("pod"), container("c"), &bench.plugins);
    let life = async {
        plugins.run_pod_sandbox(&pod).await.unwrap();
        plugins.create_container(&pod, &container).await.unwrap();
        plugins.post_create_container(&pod, &container).await.unwrap();
        plugins.start_container(&pod, &container).await.unwrap();
        plugins.post_start_container(&pod, &container).await.unwrap();
        plugins.update_container(&pod, &container, memory(1)).await.unwrap();
        plugins.post_update_container(&pod, &container).await.unwrap();
        plugins.update_pod_sandbox(&pod, None, Some(&memory(7))).await.unwrap();
        plugins.post_update_pod_sandbox(&pod).await.unwrap();
        plugins.stop_container(&pod, &container).await.unwrap();
        plugins.remove_container(&pod, &container).await.unwrap();
        plugins.stop_pod_sandbox(&pod).await.unwrap();
        plugins.remove_pod_sandbox(&pod).await.unwrap();
    };
    let told = async {
        let run = client.asked("RunPodSandbox").await;
        assert_eq!(run.payload::<RunPodSandboxRequest>().pod, Some(pod.clone()));
        client.reply(&run, &Empty {}).await;
        let create = client.asked("CreateContainer").await;
        let expected = CreateContainerRequest { pod: Some(pod.clone()), container: Some(container.clone()) };
        assert_eq!(create.payload::<CreateContainerRequest>(), expected);
        client.reply(&create, &Empty {}).await;
        for method in
            ["ValidateContainerAdjustment", "PostCreateContainer", "StartContainer", "PostStartContainer"]
        {
            answer(&mut client, method).await;
        }
        answer(&mut client, "UpdateContainer").await;
        answer(&mut client, "PostUpdateContainer").await;
        let resize = client.asked("UpdatePodSandbox").await;
        let resources = resize.payload::<UpdatePodSandboxRequest>();
        assert_eq!((resources.overhead_linux_resources, resources.linux_resources), (None, Some(memory(7))));
        client.reply(&resize, &Empty {}).await;
        for method in
            ["PostUpdatePodSandbox", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"]
        {
            answer(&mut client, method).await;
        }
    };
    tokio::join!(life, told);
}

#[tokio::test]
async fn plugins_are_told_in_order_and_only_of_what_they_subscribed_to() {
    let bench = Bench::new().await;
    let mut late = Client::join(&bench.socket(), "90", "a", &[Event::RunPodSandbox]).await;
    let mut early = Client::join(&bench.socket(), "10", "z", &[Event::RunPodSandbox]).await;
    let mut other = Client::join(&bench.socket(), "00", "o", &[Event::StopPodSandbox]).await;
    assert_eq!(bench.plugins.names(), ["00-o", "10-z", "90-a"]);
    let pod = pod("pod");
    let told = async {
        let first = early.asked("RunPodSandbox").await;
        // Nobody else hears of it before this one has answered.
        assert!(tokio::time::timeout(Duration::from_millis(50), late.next()).await.is_err());
        early.reply(&first, &Empty {}).await;
        answer(&mut late, "RunPodSandbox").await;
    };
    let (run, ()) = tokio::join!(bench.plugins.run_pod_sandbox(&pod), told);
    run.unwrap();
    tokio::join!(
        async { bench.plugins.stop_pod_sandbox(&pod).await.unwrap() },
        answer(&mut other, "StopPodSandbox")
    );
}

#[tokio::test]
async fn a_plugin_is_asked_one_thing_at_a_time() {
    let bench = Bench::new().await;
    let mut client = Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox]).await;
    let (one, two) = (pod("one"), pod("two"));
    let told = async {
        for _ in 0..2 {
            let run = client.asked("RunPodSandbox").await;
            assert!(tokio::time::timeout(Duration::from_millis(50), client.next()).await.is_err());
            client.reply(&run, &Empty {}).await;
        }
    };
    let (one, two, ()) =
        tokio::join!(bench.plugins.run_pod_sandbox(&one), bench.plugins.run_pod_sandbox(&two), told);
    one.and(two).unwrap();
}

#[tokio::test]
async fn a_new_container_is_shown_to_each_plugin_as_those_before_want_it() {
    let bench = Bench::new().await;
    let mut first = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
    let mut second = Client::join(&bench.socket(), "20", "b", &[Event::CreateContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    let eviction = ContainerEviction { container_id: "y".to_owned(), reason: "noise".to_owned() };
    let told = async {
        let create = first.asked("CreateContainer").await;
        let (adjust, update) = (Some(variable("A", "1")), vec![update("x", 5)]);
        let evict = vec![eviction.clone()];
        first.reply(&create, &CreateContainerResponse { adjust, update, evict }).await;
        let create = second.asked("CreateContainer").await;
        let shown = create.payload::<CreateContainerRequest>().container.unwrap();
        assert_eq!(shown.env, ["PATH=/bin", "A=1"]);
        let adjust = Some(variable("B", "2"));
        second.reply(&create, &CreateContainerResponse { adjust, ..Default::default() }).await;
    };
    let (creation, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
    let creation = creation.unwrap();
    assert_eq!(creation.adjustment.env, [variable("A", "1").env, variable("B", "2").env].concat());
    assert_eq!(creation.updates, [update("x", 5)]);
    assert_eq!(creation.evictions, [eviction]);
}

#[tokio::test]
async fn plugins_that_do_not_agree_fail_the_creation_and_stay() {
    let bench = Bench::new().await;
    let mut first = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
    let mut second = Client::join(&bench.socket(), "20", "b", &[Event::CreateContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    for _ in 0..2 {
        let told = async {
            for client in [&mut first, &mut second] {
                let create = client.asked("CreateContainer").await;
                let adjust = Some(variable("A", "1"));
                client.reply(&create, &CreateContainerResponse { adjust, ..Default::default() }).await;
            }
        };
        let (creation, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
        let error = creation.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert_eq!(error.to_string(), "plugins 10-a and 20-b both set Env A of container c");
    }
}

#[tokio::test]
async fn a_plugin_that_refuses_ends_what_is_begun_and_not_what_is_ended() {
    let bench = Bench::new().await;
    let events = [Event::RunPodSandbox, Event::StopPodSandbox];
    let mut first = Client::join(&bench.socket(), "10", "a", &events).await;
    let mut second = Client::join(&bench.socket(), "20", "b", &events).await;
    let pod = pod("pod");
    let told = async {
        let run = first.asked("RunPodSandbox").await;
        first.refuse(&run, 2, "not today").await;
    };
    let (run, ()) = tokio::join!(bench.plugins.run_pod_sandbox(&pod), told);
    let error = run.unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (Kind::Plugin, "plugin 10-a failed RunPodSandbox: not today")
    );
    let told = async {
        let stop = first.asked("StopPodSandbox").await;
        first.refuse(&stop, 2, "never").await;
        answer(&mut second, "StopPodSandbox").await;
    };
    let (stop, ()) = tokio::join!(bench.plugins.stop_pod_sandbox(&pod), told);
    assert!(stop.unwrap_err().to_string().contains("never"));
}

#[tokio::test]
async fn resources_are_what_the_plugins_make_of_them() {
    let bench = Bench::new().await;
    let mut first = Client::join(&bench.socket(), "10", "a", &[Event::UpdateContainer]).await;
    let mut second = Client::join(&bench.socket(), "20", "b", &[Event::UpdateContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    let told = async {
        let asked = first.asked("UpdateContainer").await;
        assert_eq!(asked.payload::<UpdateContainerRequest>().linux_resources, Some(memory(1)));
        let update = vec![update("c", 2), update("x", 3)];
        first.reply(&asked, &UpdateContainerResponse { update, evict: Vec::new() }).await;
        let asked = second.asked("UpdateContainer").await;
        assert_eq!(asked.payload::<UpdateContainerRequest>().linux_resources, Some(memory(2)));
        second.reply(&asked, &Empty {}).await;
    };
    let (changed, ()) = tokio::join!(bench.plugins.update_container(&pod, &container, memory(1)), told);
    let changed = changed.unwrap();
    assert_eq!((changed.resources, changed.updates), (memory(2), vec![update("x", 3)]));
}

#[tokio::test]
async fn what_plugins_want_when_a_container_stops_comes_back_whoever_fails() {
    let bench = Bench::new().await;
    let mut first = Client::join(&bench.socket(), "10", "a", &[Event::StopContainer]).await;
    let mut second = Client::join(&bench.socket(), "20", "b", &[Event::StopContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    let told = async {
        let stop = first.asked("StopContainer").await;
        first.refuse(&stop, 2, "no").await;
        let stop = second.asked("StopContainer").await;
        second.reply(&stop, &StopContainerResponse { update: vec![update("x", 3)] }).await;
    };
    let (updates, ()) = tokio::join!(bench.plugins.stop_container(&pod, &container), told);
    assert_eq!(updates.unwrap(), [update("x", 3)]);
}

#[tokio::test]
async fn an_old_plugin_is_told_by_state_changes() {
    let bench = Bench::new().await;
    let mut client =
        Client::join(&bench.socket(), "10", "a", &[Event::RunPodSandbox, Event::StartContainer]).await;
    let (pod, container) = (pod("pod"), container("c"));
    let told = async {
        let run = client.asked("RunPodSandbox").await;
        client.refuse(&run, 12, "method RunPodSandbox").await;
        let change = client.asked("StateChange").await;
        let expected =
            StateChangeEvent { event: Event::RunPodSandbox as i32, pod: Some(pod.clone()), container: None };
        assert_eq!(change.payload::<StateChangeEvent>(), expected);
        client.reply(&change, &Empty {}).await;
        // It is known by now.
        let change = client.asked("StateChange").await;
        let change_of = change.payload::<StateChangeEvent>();
        assert_eq!(
            (change_of.event(), change_of.container),
            (Event::StartContainer, Some(container.clone()))
        );
        client.refuse(&change, 2, "no").await;
    };
    let life = async {
        bench.plugins.run_pod_sandbox(&pod).await.unwrap();
        assert!(bench.plugins.start_container(&pod, &container).await.is_err());
    };
    tokio::join!(life, told);
}

#[tokio::test]
async fn a_judge_sees_what_is_wanted_by_whom_and_may_reject_it() {
    let bench = Bench::new().await;
    let mut maker = Client::join(&bench.socket(), "10", "a", &[Event::CreateContainer]).await;
    let mut judge = Client::join(&bench.socket(), "20", "b", &[Event::ValidateContainerAdjustment]).await;
    let (pod, container) = (pod("pod"), container("c"));
    for reject in [true, false] {
        let told = async {
            let create = maker.asked("CreateContainer").await;
            let adjust = Some(variable("A", "1"));
            maker.reply(&create, &CreateContainerResponse { adjust, ..Default::default() }).await;
            let asked = judge.asked("ValidateContainerAdjustment").await;
            let request: ValidateContainerAdjustmentRequest = asked.payload();
            assert_eq!(request.container, Some(container.clone()));
            assert_eq!(request.adjust, Some(variable("A", "1")));
            assert_eq!(request.plugins.len(), 2);
            let owners = &request.owners.unwrap().owners["c"].compound;
            assert_eq!(owners.values().next().unwrap().owners["A"], "10-a");
            let reason = "not so".to_owned();
            judge.reply(&asked, &ValidateContainerAdjustmentResponse { reject, reason }).await;
        };
        let (creation, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
        match creation {
            Ok(_) => assert!(!reject),
            Err(error) => assert!(reject && error.to_string().ends_with("not so"), "{error}"),
        }
    }
    // One that is gone before it has judged has not agreed.
    let told = async {
        answer(&mut maker, "CreateContainer").await;
        judge.asked("ValidateContainerAdjustment").await;
        drop(judge);
    };
    let (creation, ()) = tokio::join!(bench.plugins.create_container(&pod, &container), told);
    assert_eq!(creation.unwrap_err().kind(), Kind::Plugin);
    until(|| bench.plugins.any()).await;
}
