//! Sandboxes and containers from creation to deletion.

use std::path::Path;

use vaquita_shim::client::Client;
use vaquita_shim::{Event, ExecRequest, ExitRecord, Kind, Namespaces, SignalScope, Status};

use crate::support::{Pod, process, shim_of, until};

#[tokio::test]
async fn a_container_lives_and_is_forgotten() {
    let mut pod = Pod::new().await;
    let created = pod.container("c", &["exit", "3"]).create().await.unwrap();
    let state = pod.client.state().await.unwrap();
    assert_eq!((state.containers[0].status, state.containers[0].pid), (Status::Created, created.pid));
    assert!(Path::new(&format!("/proc/{}", created.pid)).exists());
    assert_eq!(pod.container("c", &["sleep"]).create().await.unwrap_err().kind(), Kind::Exists);

    pod.client.start("c").await.unwrap();
    let exit = pod.exit_of("c").await;
    assert_eq!((exit.code, exit.signal, exit.oom), (3, None, false));
    assert!(exit.started_at_ns > 0 && exit.finished_at_ns >= exit.started_at_ns);
    let record = ExitRecord::read(&pod.bundle("c")).unwrap().unwrap();
    assert_eq!(exit, record.into());

    let state = pod.client.state().await.unwrap();
    assert_eq!((state.containers[0].status, &state.containers[0].exit), (Status::Stopped, &Some(exit)));
    assert_eq!(pod.client.start("c").await.unwrap_err().kind(), Kind::State);
    assert_eq!(pod.client.reopen_log("c").await.unwrap_err().kind(), Kind::State);
    pod.client.signal("c", 15, SignalScope::Init).await.unwrap();
    pod.client.signal("c", 15, SignalScope::All).await.unwrap();

    pod.client.delete("c").await.unwrap();
    pod.client.delete("c").await.unwrap();
    assert!(pod.client.state().await.unwrap().containers.is_empty());
    assert_eq!(pod.client.start("c").await.unwrap_err().kind(), Kind::NotFound);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn the_sandbox_is_told_and_taken_down() {
    let mut pod = Pod::empty().await;
    assert_eq!(pod.client.netns().await.unwrap_err().kind(), Kind::NotFound);
    let sandbox = pod.create_sandbox().await.unwrap();
    let netns = sandbox.netns.as_ref().unwrap();
    let again = pod.client.netns().await.unwrap();
    assert_eq!(vaquita_sys::ns::identity(netns).unwrap(), vaquita_sys::ns::identity(again).unwrap());
    let state = pod.client.state().await.unwrap().sandbox.unwrap();
    assert_eq!((state.id.as_str(), state.pid, state.running), ("sandbox", sandbox.pid, true));
    assert_eq!(pod.create_sandbox().await.unwrap_err().kind(), Kind::Exists);
    assert_eq!(pod.client.shutdown().await.unwrap_err().kind(), Kind::Busy);

    let (shim, dir) = (pod.shim(), pod.dir());
    pod.client.delete_sandbox().await.unwrap();
    let mut events = Vec::new();
    while let Some(event) = pod.events.recv().await {
        events.push(event);
    }
    assert!(
        matches!(&events[..], [Event::Exited(exited), Event::Lost] if exited.id == "sandbox"),
        "{events:?}"
    );
    until("the shim has ended", || !Path::new(&format!("/proc/{shim}")).exists()).await;
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(Client::connect(&dir).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_pod_without_namespaces_uses_those_of_the_host() {
    let pod = Pod::empty().await;
    let sandbox = pod.create_sandbox_with(Namespaces::default()).await.unwrap();
    assert!(sandbox.netns.is_none());
    assert_eq!(pod.client.netns().await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(pod.container("c", &["sleep"]).create().await.unwrap_err().kind(), Kind::Invalid);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_killed_container_says_the_signal() {
    let mut pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    assert_eq!(pod.client.signal("c", 65, SignalScope::Init).await.unwrap_err().kind(), Kind::Invalid);
    pod.client.signal("c", 9, SignalScope::Init).await.unwrap();
    let exit = pod.exit_of("c").await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    pod.run("d", &["sleep"]).await;
    pod.client.signal("d", 9, SignalScope::All).await.unwrap();
    assert_eq!(pod.exit_of("d").await.signal, Some(9));
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_container_beyond_its_memory_is_told_so() {
    let mut pod = Pod::new().await;
    pod.container("c", &["hog", "200000000"]).memory_limit(32 * 1024 * 1024).run().await;
    let exit = pod.exit_of("c").await;
    assert!(exit.oom, "{exit:?}");
    assert_eq!(exit.signal, Some(9));
    assert!(ExitRecord::read(&pod.bundle("c")).unwrap().unwrap().oom);
    pod.client.delete_sandbox().await.unwrap();
}

/// What the set-up takes is not for the container to pay.
#[tokio::test]
async fn a_container_starts_in_very_little_memory() {
    let mut pod = Pod::new().await;
    for (id, megabytes) in [("four", 4), ("two", 2)] {
        pod.container(id, &["sleep"]).memory_limit(megabytes << 20).run().await;
        let exec = ExecRequest {
            container: id.to_owned(),
            exec_id: "e".to_owned(),
            process: process(&["exit", "5"]).to_string().into_bytes(),
        };
        let execed = pod.client.exec(&exec, [None, None, None]).await.unwrap();
        assert_eq!(execed.wait().await.unwrap().code, 5);
        pod.client.signal(id, 9, SignalScope::Init).await.unwrap();
        let exit = pod.exit_of(id).await;
        assert_eq!((exit.signal, exit.oom), (Some(9), false));
    }
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn what_runs_is_deleted_too() {
    let pod = Pod::new().await;
    pod.container("created", &["sleep"]).create().await.unwrap();
    pod.run("running", &["sleep"]).await;
    pod.run("deleted", &["sleep"]).await;
    let (a, b) = tokio::join!(pod.client.delete("deleted"), pod.client.delete("deleted"));
    a.unwrap();
    b.unwrap();
    assert_eq!(pod.client.state().await.unwrap().containers.len(), 2);
    pod.client.delete_sandbox().await.unwrap();
    assert!(shim_of(&pod.dir()).is_none(), "its record is removed before anybody is told");
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_the_start() {
    let mut pod = Pod::new().await;
    let mut container = pod.container("c", &[]);
    container.set_args(&["/no/such/program"]);
    container.create().await.unwrap();
    let error = pod.client.start("c").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exec(rustix::io::Errno::NOENT), "{error}");
    let exit = pod.exit_of("c").await;
    assert_eq!(exit.started_at_ns, 0);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_wrong_specification_leaves_nothing() {
    let pod = Pod::new().await;
    let mut container = pod.container("c", &["sleep"]);
    container.set_args(&[]);
    let error = container.create().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(pod.client.state().await.unwrap().containers.is_empty());
    // The name is free.
    pod.run("c", &["sleep"]).await;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn children_end_with_a_container_that_shares_a_pid_namespace() {
    let mut pod = Pod::empty().await;
    let new = Namespaces { pid: true, ..pod.namespaces() };
    pod.create_sandbox_with(new).await.unwrap();
    pod.container("c", &["leave-child"]).shared_pid().run().await;
    let exit = pod.exit_of("c").await;
    assert_eq!(exit.code, 0);
    pod.client.delete("c").await.unwrap();
    assert_eq!(pod.log("c")[0].content, b"parent");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn many_containers_at_once() {
    let mut pod = Pod::new().await;
    let ids: Vec<String> = (0..20).map(|at| format!("c{at}")).collect();
    let runs = ids.iter().map(|id| async { pod.run(id, &["exit", &id[1..]]).await });
    for run in runs.map(Box::pin).collect::<Vec<_>>() {
        run.await;
    }
    until("all have ended", || ids.iter().all(|id| pod.bundle(id).join("exit.json").exists())).await;
    let mut codes = Vec::new();
    while codes.len() < ids.len() {
        if let Some(Event::Exited(exited)) = pod.events.recv().await {
            assert_eq!(format!("c{}", exited.exit.code), exited.id);
            codes.push(exited.exit.code);
        }
    }
    pod.client.delete_sandbox().await.unwrap();
}
