//! Measures vaquita beside containerd and CRI-O, and its OCI command line beside crun and runc, on one machine in one run.
//!
//! The daemons run at the same time in private directories, with the same image, and each figure is taken from
//! all in turn, so that the ratio holds even on a noisy machine. Every client call is gRPC over the CRI socket.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod archive;
mod client;
mod lists;
mod logs;
mod measure;
mod memory;
mod oci;
mod peer;
mod pull;
mod report;
mod store;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::runtime::Runtime;

use crate::measure::Settings;
use crate::peer::{Dirs, Peer};
use crate::report::Report;

/// Errors are shown to a person and end the run.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What the other daemons use if nothing else is said.
const RUNC: &str = "runc";

/// The column of a daemon that somebody else has started.
const SOMEBODY: &str = "daemon";

const USAGE: &str = "\
usage: hack/bench oci [...]: the OCI command line beside crun and runc; see its --help
       hack/bench store [...]: the store of the cluster's objects; see its --help
       hack/bench lists [...]: the lists that kubelet asks for, with 200 pods; flags as below
       hack/bench lists --socket PATH: those of the daemon that listens there, with the pods that it has
       hack/bench logs [...]: a container that writes 1 GB of lines; flags as below
       hack/bench pull [...]: an image of 306 MiB from a registry on this machine; flags as below
       hack/bench [--vaquita BIN] [--rounds N] [--pods N] [--only PEER]... [--containerd DIR] [--crio DIR] [--runtime PROGRAM] [--out DIR]

  --vaquita BIN      the binary to measure (hack/bench builds and names the release binary)
  --rounds N         pods measured one after another for each latency (default 40), or pulls (default 3)
  --pods N           pods alive for the memory and restart figures (default 50)
  --only PEER        measure vaquita, containerd or crio only; may be repeated
  --containerd DIR   where containerd, its shim and ctr are (default /usr/bin)
  --crio DIR         measure CRI-O too: where crio is, and conmon and pinns unless they are in the PATH; needs skopeo
  --runtime PROGRAM  what containerd and CRI-O make containers with (default runc)
  --out DIR          write bench.txt, bench.json and bench.svg there (default target/bench); pull keeps its image there";

struct Options {
    vaquita: PathBuf,
    out: PathBuf,
    only: Vec<String>,
    containerd: PathBuf,
    crio: Option<PathBuf>,
    runtime: String,
    settings: Settings,
    what: What,
    /// Of a daemon that somebody else has started.
    socket: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Pods,
    Lists,
    Logs,
    Pull,
}

impl What {
    /// What the files of the report are called.
    fn name(self) -> &'static str {
        match self {
            Self::Pods => "bench",
            Self::Lists => "lists",
            Self::Logs => "logs",
            Self::Pull => "pull",
        }
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    let outcome = if args.next_if_eq("oci").is_some() {
        oci::main(args)
    } else if args.next_if_eq("store").is_some() {
        store::main(args)
    } else if args.next_if_eq(logs::WRITER).is_some() {
        logs::write_lines(args)
    } else {
        options(args).and_then(|options| run(&options))
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(mut args: std::iter::Peekable<impl Iterator<Item = String>>) -> Result<Options, AnyError> {
    let what =
        [What::Lists, What::Logs, What::Pull].into_iter().find(|what| args.next_if_eq(what.name()).is_some());
    let what = what.unwrap_or(What::Pods);
    let mut options = Options {
        vaquita: PathBuf::from("target/x86_64-unknown-linux-gnu/release/vaquita"),
        out: PathBuf::from("target/bench"),
        only: Vec::new(),
        containerd: PathBuf::from("/usr/bin"),
        crio: None,
        runtime: RUNC.to_owned(),
        settings: Settings {
            rounds: if what == What::Pull { 3 } else { 40 },
            pods: if what == What::Lists { 200 } else { 50 },
        },
        what,
        socket: None,
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--vaquita" => options.vaquita = value()?.into(),
            "--rounds" => options.settings.rounds = value()?.parse()?,
            "--pods" => options.settings.pods = value()?.parse()?,
            "--only" => options.only.push(value()?),
            "--containerd" => options.containerd = std::path::absolute(value()?)?,
            "--crio" => options.crio = Some(std::path::absolute(value()?)?),
            "--runtime" => options.runtime = value()?,
            "--socket" if what == What::Lists => options.socket = Some(value()?.into()),
            "--out" => options.out = value()?.into(),
            "-h" | "--help" => {
                println!("{USAGE}");
                #[allow(clippy::exit, reason = "help ends the program")]
                std::process::exit(0);
            }
            other => return Err(format!("unknown argument {other:?}\n{USAGE}").into()),
        }
    }
    Ok(options)
}

/// Held while this run is the only one of the machine: two would share bridge and control group, and measure each other.
fn alone() -> Result<UnixListener, AnyError> {
    UnixListener::bind_addr(&SocketAddr::from_abstract_name("vaquita-bench")?)
        .map_err(|error| format!("another hack/bench is running, wait for its end: {error}").into())
}

fn threads() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn run(options: &Options) -> Result<(), AnyError> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: the daemons make namespaces, cgroups and mounts".into());
    }
    if let Some(socket) = &options.socket {
        let mut report = Report::new([SOMEBODY.to_owned()]);
        threads()?.block_on(lists::of(socket, &mut report))?;
        return report.write(&options.out, What::Lists.name());
    }
    let _alone = alone()?;
    let work = tempfile::Builder::new().prefix("vaquita-bench-").tempdir()?;
    if options.runtime != RUNC || options.crio.is_some() {
        oci::private_control_groups(work.path())?;
    }
    let runtime = threads()?;
    // On a host with systemd /run is in memory, and daemons keep their state there.
    let memory = tempfile::Builder::new().prefix("vaquita-bench-").tempdir_in("/dev/shm")?;
    let dirs = Dirs { disk: work.path(), memory: memory.path() };
    let archives = archive::write(work.path())?;
    let _inside = runtime.enter();
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);

    let mut peers = Vec::new();
    if wanted("vaquita") {
        peers.push(Peer::vaquita(&options.vaquita, dirs, &archives)?);
    }
    if wanted("containerd") {
        peers.push(Peer::containerd(&options.containerd, dirs, &archives, &options.runtime)?);
    }
    if let Some(programs) = options.crio.as_deref().filter(|_| wanted("crio")) {
        peers.push(Peer::crio(programs, dirs, &archives, &options.runtime)?);
    }
    if peers.is_empty() {
        return Err("nothing to measure: --only takes vaquita, containerd or, with --crio, crio".into());
    }
    let mut report = Report::new(peers.iter().map(|peer| peer.name.to_owned()));
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = measure(&mut peers, options, work.path(), &mut report) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    });
    for peer in peers {
        runtime.block_on(peer.stop());
    }
    outcome?;

    report.write(&options.out, options.what.name())
}

async fn measure(
    peers: &mut [Peer],
    options: &Options,
    work: &Path,
    report: &mut Report,
) -> Result<(), AnyError> {
    let settings = &options.settings;
    match options.what {
        What::Pods => measure::all(peers, settings, report).await,
        What::Lists => lists::all(peers, settings.pods, report).await,
        What::Logs => logs::all(peers, work, report).await,
        What::Pull => pull::all(peers, settings.rounds, (&options.out, work), report).await,
    }
}
