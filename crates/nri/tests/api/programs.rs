//! Plugins that are started: this very program, by another name.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use vaquita_nri::api::{ConfigureResponse, Empty};

use super::client::Client;
use super::support::{Bench, pod, until};

/// Is no test where it was not started as a plugin.
#[tokio::test]
async fn plugin() {
    let Ok(socket) = std::env::var("NRI_PLUGIN_SOCKET") else { return };
    let stream = vaquita_sys::process::inherited(socket.parse().unwrap()).unwrap();
    let stream = std::os::unix::net::UnixStream::from(stream);
    stream.set_nonblocking(true).unwrap();
    let mut client = Client::over(UnixStream::from_std(stream).unwrap());
    let (index, name) = (std::env::var("NRI_PLUGIN_IDX").unwrap(), std::env::var("NRI_PLUGIN_NAME").unwrap());
    client.register(&index, &name).await.unwrap();
    let configure = client.asked("Configure").await;
    let told = configure.payload::<vaquita_nri::api::ConfigureRequest>().config;
    let variables: Vec<_> = std::env::vars().map(|(name, _)| name).collect();
    // The configuration is where to write to.
    std::fs::write(&told, format!("{} {index} {name} {}", std::process::id(), variables.join(","))).unwrap();
    client.reply(&configure, &ConfigureResponse { events: 0 }).await;
    while let Some(asked) = client.next().await {
        std::fs::write(&told, asked.method()).unwrap();
        client.reply(&asked, &Empty {}).await;
        if asked.method() == "Shutdown" {
            // It does not go by itself.
            std::future::pending::<()>().await;
        }
    }
}

fn program(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
async fn a_program_is_started_with_its_name_its_configuration_and_a_connection_and_ended_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (programs, confs, said) =
        (dir.path().join("plugins"), dir.path().join("conf"), dir.path().join("said"));
    let this = std::env::current_exe().unwrap();
    program(
        &programs.join("10-test"),
        &format!("exec {} --exact api::programs::plugin --nocapture", this.display()),
    );
    std::fs::create_dir(&confs).unwrap();
    std::fs::write(confs.join("test.conf"), said.to_str().unwrap()).unwrap();
    let bench = Bench::with(|config| {
        config.plugin_dir = Some(programs);
        config.plugin_config_dir = Some(confs);
    })
    .await;
    // It has joined already. It was told of nothing yet but to synchronize.
    assert!(bench.plugins.any());
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "Synchronize");
    bench.plugins.run_pod_sandbox(&pod("pod")).await.unwrap();
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "RunPodSandbox");
    bench.plugins.stop().await;
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "Shutdown");
}

#[tokio::test]
async fn programs_that_do_not_register_end_or_are_killed_with_what_they_started() {
    let dir = tempfile::tempdir().unwrap();
    let (programs, pids) = (dir.path().join("plugins"), dir.path().join("pids"));
    program(
        &programs.join("10-mute"),
        &format!(
            "PATH=/bin:/usr/bin; env >{0}.env; sleep 1000 & echo $! >>{0}; echo $$ >>{0}; wait",
            pids.display()
        ),
    );
    program(&programs.join("20-ends"), "exit 1");
    std::fs::write(programs.join("30-unfit"), "no program").unwrap();
    std::fs::set_permissions(programs.join("30-unfit"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let bench = Bench::with(|config| {
        config.plugin_dir = Some(programs);
        config.registration_timeout = Duration::from_secs(1);
    })
    .await;
    let environment = std::fs::read_to_string(dir.path().join("pids.env")).unwrap();
    let mut variables: Vec<_> = environment.lines().filter(|line| line.starts_with("NRI")).collect();
    variables.sort_unstable();
    assert_eq!(variables, ["NRI_PLUGIN_IDX=10", "NRI_PLUGIN_NAME=mute", "NRI_PLUGIN_SOCKET=3"]);
    assert!(!environment.contains("CARGO"), "{environment}");
    let pids = std::fs::read_to_string(pids).unwrap();
    assert_eq!(pids.lines().count(), 2);
    until(|| !pids.lines().any(is_alive)).await;
    assert!(!bench.plugins.any());
}

/// A program whose connection is closed, because it answers nonsense here, does not stay.
#[tokio::test]
async fn a_program_that_misbehaves_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (programs, pid) = (dir.path().join("plugins"), dir.path().join("pid"));
    program(
        &programs.join("10-liar"),
        &format!(
            "PATH=/bin:/usr/bin; echo $$ >{}; echo nonsense nonsense >&3; exec sleep 1000",
            pid.display()
        ),
    );
    let bench = Bench::with(|config| config.plugin_dir = Some(programs)).await;
    let pid = std::fs::read_to_string(pid).unwrap();
    until(|| !is_alive(&pid)).await;
    assert!(!bench.plugins.any());
}
