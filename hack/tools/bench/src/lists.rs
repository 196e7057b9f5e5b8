//! How long the lists take that a kubelet asks for again and again.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::{Client, List};
use crate::memory;
use crate::peer::Peer;
use crate::report::{Better, Report, count, percentile};
use crate::{AnyError, SOMEBODY};

/// How often each list is asked for, one question after the other.
const CALLS: usize = 500;
/// How often at kubelet's pace, and what that is.
const ROUNDS: usize = 6;
const PACE: Duration = Duration::from_secs(10);

/// Makes `pods` pods and times the lists of them.
pub(crate) async fn all(peers: &mut [Peer], pods: usize, report: &mut Report) -> Result<(), AnyError> {
    for peer in peers.iter_mut() {
        peer.start().await?;
        peer.load_images().await?;
        report.version(peer.name, peer.version().await?);
        let mut alive = Vec::new();
        for number in 0..pods {
            alive.push(peer.client.run_pod(&format!("l{number}"), false).await?);
        }
        each(&peer.client, peer.name, Some(pods), report).await?;
        paced(peer, pods, report).await?;
        for pod in &alive {
            peer.client.remove_pod(pod).await?;
        }
    }
    Ok(())
}

/// Times the lists of the daemon that listens at `socket`, with the pods that it has.
pub(crate) async fn of(socket: &Path, report: &mut Report) -> Result<(), AnyError> {
    let client = Client::new(socket)?;
    report.version(SOMEBODY, client.version().await?);
    each(&client, SOMEBODY, None, report).await?;
    let pods = client.list(List::ListPodSandbox).await?.unwrap_or_default();
    report.row("Pods", "", Better::Higher, SOMEBODY, count(pods));
    Ok(())
}

/// All lists that there are. With `pods` so many have to be in each.
async fn each(client: &Client, name: &str, pods: Option<usize>, report: &mut Report) -> Result<(), AnyError> {
    for list in List::ALL {
        let Some(length) = client.list(list).await? else { continue };
        let expected = pods.filter(|_| list != List::ListImages).unwrap_or(length);
        at_once(client, name, list, expected, report).await?;
        undecoded(client, name, list, report).await?;
    }
    Ok(())
}

async fn at_once(
    client: &Client,
    name: &str,
    list: List,
    expected: usize,
    report: &mut Report,
) -> Result<(), AnyError> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        let found = client.list(list).await?;
        times.push(start.elapsed());
        if found != Some(expected) {
            return Err(format!("{list:?} has {} of {expected}", found.unwrap_or_default()).into());
        }
    }
    rows(&format!("{list:?}"), times, name, report);
    Ok(())
}

/// The same for a client that takes the bytes and does not look at them.
async fn undecoded(client: &Client, name: &str, list: List, report: &mut Report) -> Result<(), AnyError> {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let start = Instant::now();
        client.take(list).await?;
        times.push(start.elapsed());
    }
    rows(&format!("{list:?}, not decoded"), times, name, report);
    Ok(())
}

fn rows(what: &str, mut times: Vec<Duration>, peer: &str, report: &mut Report) {
    times.sort();
    for percent in [50, 99] {
        let name = format!("{what}, p{percent}");
        report.row(&name, "ms", Better::Lower, peer, percentile(&times, percent));
    }
}

/// As a kubelet does: now and then. The slowest of some, and the daemon's CPU time meanwhile.
async fn paced(peer: &Peer, pods: usize, report: &mut Report) -> Result<(), AnyError> {
    let mut slowest = [Duration::ZERO; List::MEASURED.len()];
    let (mut before, mut begin) = (Duration::ZERO, Instant::now());
    for round in 0..ROUNDS + 2 {
        tokio::time::sleep(PACE).await;
        // Who begins to ask, and asks once more, waits.
        if round == 2 {
            (before, begin) = (memory::cpu(peer.pid(), &peer.dirs, "sleep"), Instant::now());
        }
        for (list, slowest) in List::MEASURED.into_iter().zip(&mut slowest) {
            let start = Instant::now();
            if peer.client.list(list).await?.is_some_and(|found| found != pods) {
                return Err(format!("{list:?} has not all {pods}").into());
            }
            if round >= 2 {
                *slowest = (*slowest).max(start.elapsed());
            }
        }
    }
    for (list, slowest) in List::MEASURED.into_iter().zip(slowest) {
        let name = format!("{list:?}, every 10 s, slowest");
        report.row(&name, "ms", Better::Lower, peer.name, slowest.as_secs_f64() * 1e3);
    }
    let used = memory::cpu(peer.pid(), &peer.dirs, "sleep").saturating_sub(before);
    let share = used.as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    report.row("CPU of the daemon meanwhile", "%", Better::Lower, peer.name, share);
    let started = count(pods);
    report.row("Pods", "", Better::Higher, peer.name, started);
    Ok(())
}
