//! How long the lists take that a kubelet asks for again and again.

use std::time::Instant;

use crate::AnyError;
use crate::client::List;
use crate::peer::Peer;
use crate::report::{Better, Report, percentile};

/// How often each list is asked for.
const CALLS: usize = 500;

/// Makes `pods` pods on the host's network and times the lists of them.
pub(crate) async fn all(peers: &mut [Peer], pods: usize, report: &mut Report) -> Result<(), AnyError> {
    for peer in peers.iter_mut() {
        peer.start().await?;
        peer.load_images().await?;
        report.version(peer.name, peer.client.version().await?);
        let mut alive = Vec::new();
        for number in 0..pods {
            alive.push(peer.client.run_pod(&format!("l{number}"), true).await?);
        }
        for list in List::ALL {
            let mut times = Vec::new();
            for _ in 0..CALLS {
                let start = Instant::now();
                let found = peer.client.list(list).await?;
                times.push(start.elapsed());
                if found != pods {
                    return Err(format!("{list:?} has {found} of {pods}").into());
                }
            }
            times.sort();
            for percent in [50, 99] {
                let name = format!("{list:?}, {pods} pods, p{percent}");
                report.row(&name, "ms", Better::Lower, peer.name, percentile(&times, percent));
            }
        }
        for pod in &alive {
            peer.client.remove_pod(pod).await?;
        }
    }
    Ok(())
}
