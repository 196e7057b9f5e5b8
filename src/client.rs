//! The way to the daemon: the one on the socket, or one that is started for us.

mod settings;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use rustix::fs::{FlockOperation, flock};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use vaquita_cri::Config;
use vaquita_proto::cri::VersionRequest;
use vaquita_proto::cri::runtime_service_client::RuntimeServiceClient;

use crate::daemon::{self, Outcome};
use crate::options::Node;

pub(crate) use settings::Settings;

/// How long a daemon that is about to end, or that somebody else starts, is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to a daemon that answers, and whether it was started for this.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) started: bool,
}

/// The daemon on the socket, or a new one in the background that ends when nobody needs it.
///
/// Two that come at once get the same daemon.
///
/// # Errors
/// When there is none and none can be started: with the reason that it gave.
pub(crate) async fn connect_or_start(node: &Node) -> Result<Connection> {
    let config = node.config()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(channel) = connect(&config.socket).await? {
            return Ok(Connection { channel, started: false });
        }
        let outcome = {
            let (node, config) = (node.clone(), config.clone());
            tokio::task::spawn_blocking(move || start(&node, &config))
                .await
                .context("starting the daemon")??
        };
        match outcome {
            Some(Outcome::Ready) => {
                let channel = connect(&config.socket).await?;
                let channel = channel.context("the daemon started and went away again")?;
                return Ok(Connection { channel, started: true });
            }
            Some(Outcome::Failed(why)) => {
                bail!("the daemon did not start: {why} (its log is {})", log_path(&config).display())
            }
            // It is about to answer, or about to end: look again.
            Some(Outcome::Busy(why)) if Instant::now() > deadline => {
                bail!("{why}, but does not answer on {}", config.socket.display())
            }
            Some(Outcome::Busy(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            None => {}
        }
    }
}

/// A daemon that answers on the socket, if there is one.
///
/// # Errors
/// When something else is there, or the socket may not be used.
async fn connect(socket: &Path) -> Result<Option<Channel>> {
    let path = socket.to_owned();
    let first = match UnixStream::connect(&path).await {
        Ok(stream) => Mutex::new(Some(stream)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", socket.display())),
    };
    // The channel connects again by itself when the daemon was away.
    let connector = tower::service_fn(move |_: Uri| {
        let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        let path = path.clone();
        async move {
            match first {
                Some(stream) => Ok(TokioIo::new(stream)),
                None => UnixStream::connect(path).await.map(TokioIo::new),
            }
        }
    });
    // The name is not looked up: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://localhost");
    let Ok(channel) = endpoint.connect_with_connector(connector).await else { return Ok(None) };
    match RuntimeServiceClient::new(channel.clone()).version(VersionRequest::default()).await {
        Ok(_) => Ok(Some(channel)),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            bail!("what answers on {} is not a CRI runtime", socket.display())
        }
        // It went away between the connection and the answer.
        Err(_) => Ok(None),
    }
}

/// Starts a daemon and waits until it answers or fails. `None`: somebody else had started one meanwhile.
fn start(node: &Node, config: &Config) -> Result<Option<Outcome>> {
    let path = log_path(config);
    if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(&config.state) {
        bail!("cannot make {}: {error}", config.state.display());
    }
    let open = || -> Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    };
    // Those who start a daemon at the same time wait for each other here.
    let turn = open()?;
    flock(&turn, FlockOperation::LockExclusive).context("cannot lock the daemon's log")?;
    if std::os::unix::net::UnixStream::connect(&config.socket).is_ok() {
        return Ok(None);
    }
    let mut child = Command::new("/proc/self/exe")
        .arg0("vaquita")
        .args(["daemon", "--background", "--idle-exit"])
        .args(node.to_args()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(open()?)
        .spawn()
        .context("cannot start the daemon")?;
    let pipe = child.stdout.take().context("the daemon has no standard output")?;
    let outcome = Outcome::read(pipe);
    if outcome == Outcome::Ready {
        // It may end before us, killed for instance: then it must not stay as a zombie.
        std::thread::spawn(move || child.wait());
    } else {
        // It has said why, and ends: nothing is left behind.
        child.wait().context("waiting for the daemon")?;
    }
    Ok(Some(outcome))
}

fn log_path(config: &Config) -> std::path::PathBuf {
    config.state.join("daemon.log")
}

/// Runs a command that talks to the daemon.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(future)
}

/// What a command of a client needs before anything else.
pub(crate) fn need_root(what: &str) -> Result<()> {
    daemon::need_root(what)
}

/// An error of the daemon, in its own words.
pub(crate) fn told(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!(
        "{}",
        if status.message().is_empty() { status.code().description() } else { status.message() }
    )
}
