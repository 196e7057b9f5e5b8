//! The measurements, each taken from every peer in turn.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::AnyError;
use crate::client::{Client, Pod, until};
use crate::memory;
use crate::peer::Peer;
use crate::report::{Better, Report, count, millis, percentile};

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) rounds: usize,
    pub(crate) pods: usize,
}

/// Starts every peer and fills the report.
pub(crate) async fn all(
    peers: &mut [Peer],
    settings: &Settings,
    report: &mut Report,
) -> Result<(), AnyError> {
    for peer in peers.iter_mut() {
        let started = peer.start().await?;
        peer.load_images().await?;
        report.version(peer.name, peer.version().await?);
        report.row("daemon start to first answer", "ms", Better::Lower, peer.name, millis(started));
        report.row("daemon PSS, no pods", "MiB", Better::Lower, peer.name, mib(memory::of(peer.pid()).pss));
        // One pod first: what is made once (bridge, tables, caches) is not part of the figures.
        let pod = peer.client.run_pod("warm", false).await?;
        peer.client.remove_pod(&pod).await?;
    }
    for host_network in [false, true] {
        for peer in peers.iter() {
            latencies(peer, settings.rounds, host_network, report).await?;
        }
    }
    for clients in [1, 5] {
        for peer in peers.iter() {
            cycles(peer, clients, settings.rounds, report).await?;
        }
    }
    for peer in peers.iter() {
        exec(peer, settings.rounds, report).await?;
    }
    for peer in peers.iter_mut() {
        many(peer, settings.pods, report).await?;
    }
    Ok(())
}

async fn latencies(
    peer: &Peer,
    rounds: usize,
    host_network: bool,
    report: &mut Report,
) -> Result<(), AnyError> {
    let (mut ready, mut gone) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let start = Instant::now();
        let pod = peer.client.run_pod(&format!("p{round}-{host_network}"), host_network).await?;
        ready.push(start.elapsed());
        let start = Instant::now();
        peer.client.remove_pod(&pod).await?;
        gone.push(start.elapsed());
    }
    let network = if host_network { "host network" } else { "own network" };
    for (what, mut times) in [("pod ready", ready), ("teardown", gone)] {
        times.sort();
        report.row(
            &format!("{what}, {network}, p50"),
            "ms",
            Better::Lower,
            peer.name,
            percentile(&times, 50),
        );
        report.row(
            &format!("{what}, {network}, p95"),
            "ms",
            Better::Lower,
            peer.name,
            percentile(&times, 95),
        );
    }
    Ok(())
}

async fn cycles(peer: &Peer, clients: usize, rounds: usize, report: &mut Report) -> Result<(), AnyError> {
    let cpu = memory::machine_cpu_ms();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let client = peer.client.clone();
        tasks.spawn(async move {
            for round in 0..rounds {
                let pod = client.run_pod(&format!("c{clients}-{number}-{round}"), false).await?;
                client.remove_pod(&pod).await?;
            }
            Ok::<_, AnyError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let total = count(clients * rounds);
    let name = format!("cycles per second, {clients} client{}", if clients == 1 { "" } else { "s" });
    report.row(&name, "/s", Better::Higher, peer.name, total / start.elapsed().as_secs_f64());
    if clients == 1 {
        let spent = memory::machine_cpu_ms().saturating_sub(cpu);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of one run")]
        report.row("CPU per cycle, whole machine", "ms", Better::Lower, peer.name, spent as f64 / total);
    }
    Ok(())
}

async fn exec(peer: &Peer, rounds: usize, report: &mut Report) -> Result<(), AnyError> {
    let pod = peer.client.run_pod("exec", false).await?;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = Instant::now();
        peer.client.exec_true(&pod).await?;
        times.push(start.elapsed());
    }
    times.sort();
    report.row("ExecSync true, serial, p50", "ms", Better::Lower, peer.name, percentile(&times, 50));
    let mut times = Vec::new();
    for _ in 0..rounds.div_ceil(20) {
        times.extend(exec_at_once(&peer.client, &pod).await?);
    }
    times.sort();
    report.row("ExecSync true, 20 at once, p50", "ms", Better::Lower, peer.name, percentile(&times, 50));
    peer.client.remove_pod(&pod).await
}

async fn exec_at_once(client: &Client, pod: &Pod) -> Result<Vec<Duration>, AnyError> {
    let mut tasks = JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        let pod = Pod { sandbox: pod.sandbox.clone(), container: pod.container.clone() };
        tasks.spawn(async move {
            let start = Instant::now();
            client.exec_true(&pod).await.map(|()| start.elapsed())
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.push(done??);
    }
    Ok(times)
}

async fn many(peer: &mut Peer, pods: usize, report: &mut Report) -> Result<(), AnyError> {
    let mut alive = Vec::new();
    for number in 0..pods {
        alive.push(peer.client.run_pod(&format!("m{number}"), false).await?);
    }
    let mut lists = Vec::new();
    for _ in 0..100 {
        let start = Instant::now();
        peer.client.running().await?;
        lists.push(start.elapsed());
    }
    lists.sort();
    report.row(
        &format!("ListContainers, {pods} pods, p50"),
        "ms",
        Better::Lower,
        peer.name,
        percentile(&lists, 50),
    );

    let daemon = memory::of(peer.pid());
    let helpers = memory::helpers(peer.pid(), &peer.dirs, "sleep");
    #[allow(clippy::cast_precision_loss, reason = "KiB of one machine")]
    let each = |total: u64| total as f64 / count(pods);
    report.row(&format!("daemon PSS, {pods} pods"), "MiB", Better::Lower, peer.name, mib(daemon.pss));
    report.row(&format!("daemon RSS, {pods} pods"), "MiB", Better::Lower, peer.name, mib(daemon.rss));
    report.row("helpers PSS, each pod", "KiB", Better::Lower, peer.name, each(helpers.pss));
    report.row("helpers RSS, each pod", "KiB", Better::Lower, peer.name, each(helpers.rss));
    report.row(
        "helper processes, each pod",
        "",
        Better::Lower,
        peer.name,
        count(helpers.processes) / count(pods),
    );

    peer.kill()?;
    let start = Instant::now();
    peer.start().await?;
    let client = peer.client.clone();
    until(Duration::from_secs(60), "all containers listed again", || async {
        client.running().await.is_ok_and(|running| running == pods)
    })
    .await?;
    let name = format!("kill -9 to all {pods} pods listed");
    report.row(&name, "ms", Better::Lower, peer.name, millis(start.elapsed()));
    for pod in &alive {
        peer.client.remove_pod(pod).await?;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "KiB of one machine")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
