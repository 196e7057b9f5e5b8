//! `hack/bench pull`: how long an image takes from a registry on this machine, and what that costs.

mod image;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::AnyError;
use crate::client::until;
use crate::memory;
use crate::peer::Peer;
use crate::report::{Better, Report};

/// How often the memory of a daemon and its helpers is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(20);

/// Pulls the image `rounds` times with each peer in turn, in every codec.
///
/// Each pull is that of a daemon that was just started with an empty store; what was pulled before stays on the disk until the end,
/// because ext4 takes long to give out inodes again that were freed within the last minute (recently_deleted() in fs/ext4/ialloc.c).
/// Nothing is dropped from caches, and all is on the disk before a pull begins. One pull more is looked at for its memory,
/// which costs time, so its time is not told.
pub(crate) async fn all(
    peers: &mut [Peer],
    rounds: usize,
    (kept, work): (&Path, &Path),
    report: &mut Report,
) -> Result<(), AnyError> {
    let made = image::make(&kept.join("pull-image"))?;
    println!("image: {made}");
    let registry = Registry::start(&std::path::absolute(kept.join("pull-image"))?, work).await?;
    for codec in image::CODECS {
        let reference = format!("{}/bench/{codec}:1", registry.address);
        for peer in peers.iter_mut() {
            peer.start_empty().await?;
            report.version(peer.name, peer.version().await?);
            let peak = peak(peer, &reference).await?;
            report.row(&format!("{codec}, peak memory over idle"), "MiB", Better::Lower, peer.name, peak);
        }
        let mut taken = vec![(Vec::new(), Vec::new()); peers.len()];
        for _ in 0..rounds {
            for (peer, (times, cpus)) in peers.iter_mut().zip(&mut taken) {
                peer.start_empty().await?;
                rustix::fs::sync();
                let before = memory::cpu_with_ended(peer.pid());
                let start = Instant::now();
                peer.client.pull(&reference).await?;
                times.push(start.elapsed().as_secs_f64());
                cpus.push(memory::cpu_with_ended(peer.pid()).saturating_sub(before).as_secs_f64());
            }
        }
        for (peer, (times, cpus)) in peers.iter().zip(taken) {
            for (what, mut values) in [("wall time", times), ("CPU", cpus)] {
                values.sort_by(f64::total_cmp);
                let median = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
                report.row(&format!("{codec}, {what}, p50"), "s", Better::Lower, peer.name, median);
                let best = values.first().copied().unwrap_or(f64::NAN);
                report.row(&format!("{codec}, {what}, best"), "s", Better::Lower, peer.name, best);
            }
        }
    }
    Ok(())
}

/// Most memory (PSS, in MiB) of a daemon and all that it starts during a pull, beyond what it has before.
async fn peak(peer: &Peer, reference: &str) -> Result<f64, AnyError> {
    let pid = peer.pid();
    let idle = memory::with_children(pid);
    let ended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&ended);
    let sampler = std::thread::spawn(move || {
        let mut most = 0;
        while !seen.load(Ordering::Relaxed) {
            most = most.max(memory::with_children(pid));
            std::thread::sleep(SAMPLE);
        }
        most
    });
    let pulled = peer.client.pull(reference).await;
    ended.store(true, Ordering::Relaxed);
    let most = sampler.join().map_err(|_| "the sampling thread panicked")?;
    pulled?;
    #[allow(clippy::cast_precision_loss, reason = "KiB of one machine")]
    Ok(most.saturating_sub(idle) as f64 / 1024.0)
}

/// Debian's docker-registry, until it is dropped.
struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    async fn start(storage: &Path, work: &Path) -> Result<Self, AnyError> {
        // The port was free a moment ago; the registry cannot say which one it took.
        let address = format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let config: PathBuf = work.join("registry.yml");
        let storage = storage.display();
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                 storage:\n  filesystem:\n    rootdirectory: {storage}\nhttp:\n  addr: {address}\n"
            ),
        )?;
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("docker-registry: {error}; install the package of this name"))?;
        let registry = Self { process, address };
        until(LIMIT, "the registry", || async { TcpStream::connect(&registry.address).is_ok() }).await?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
