//! `vaquita daemon`: the node as a service.

mod lock;
mod log;
mod notify;
mod ready;

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::fs::Mode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vaquita_cri::{Config, Server};

use self::ready::Ready;
use crate::options::{self, Node};
use crate::up;

pub(crate) use self::lock::{Busy, Lock};
pub(crate) use self::ready::Outcome;

/// The threads of the runtime: requests are short, what blocks runs beside them.
const WORKERS: usize = 2;

pub(crate) fn main(node: &Node, args: options::Daemon) -> Result<ExitCode> {
    let mut ready = Ready::new(args.background);
    let result = run(node, args, &mut ready);
    if let Err(error) = &result {
        ready.failed(error);
    }
    result
}

fn run(node: &Node, args: options::Daemon, ready: &mut Ready) -> Result<ExitCode> {
    need_root("the daemon")?;
    let config = Config {
        cgroup_driver: node.cgroup_driver(),
        idle_exit: args.idle_exit,
        streaming: args.streaming(),
        metrics_address: args.metrics_address,
        otlp_endpoint: args.otlp_endpoint.clone(),
        otlp_sampling_per_million: args.otlp_sampling_per_million,
        nri: args.nri.config()?,
        ..node.config()?
    };
    log::start(args.log_format, &args.log_level)?;
    if args.background {
        leave_session()?;
        // It was started as /proc/self/exe.
        rustix::thread::set_name(c"vaquita").context("cannot name the process")?;
    }
    // Whoever started it may have another: directories above ours must be nobody else's to write to.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let _lock = Lock::take(&config, args.background)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let cluster = args.api.then(|| up::Settings::new(&config, &args)).transpose()?;
    runtime.block_on(serve(config, cluster, ready))?;
    Ok(ExitCode::SUCCESS)
}

/// Says in one sentence that a command is for root only.
pub(crate) fn need_root(what: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    anyhow::bail!("{what} needs root, to make namespaces, cgroups and networks: try again with sudo")
}

async fn serve(config: Config, cluster: Option<up::Settings>, ready: &mut Ready) -> Result<()> {
    let mut stop = Stop::new()?;
    let socket = config.socket.clone();
    // First what fails when something is asked for that cannot be: nothing has been touched then.
    let opened = match cluster {
        Some(settings) => Some(up::Opened::open(settings).await?),
        None => None,
    };
    let server = Server::start(config).await.context("cannot start the node")?;
    let running = opened.map(|opened| opened.start(&server)).transpose()?;
    ready.succeeded();
    notify::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %socket.display(), "ready");
    server
        .serve(async {
            let name = stop.wait().await;
            notify::stopping();
            tracing::info!(signal = name, "ending; pods are left running");
            // The API before the node before what runs the pods: each needs the next one.
            if let Some(running) = running {
                running.shutdown().await;
            }
        })
        .await
        .context("the node failed")?;
    tracing::info!("ended");
    Ok(())
}

/// SIGTERM and SIGINT. SIGHUP is ignored: a terminal that closes is no reason to end.
struct Stop {
    term: Signal,
    int: Signal,
    _hangup: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let asked = "cannot ask for signals";
        Ok(Self {
            term: signal(SignalKind::terminate()).context(asked)?,
            int: signal(SignalKind::interrupt()).context(asked)?,
            _hangup: signal(SignalKind::hangup()).context(asked)?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Away from the terminal and the directory of who started us, so that neither's end is ours.
fn leave_session() -> Result<()> {
    match rustix::process::setsid() {
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(io::Error::from(error)).context("setsid"),
    }
    std::env::set_current_dir("/").context("cannot change to /")
}
