//! `hack/bench oci`: the OCI command line beside crun and runc, in one run.
//!
//! Everything happens in a mount namespace of this program's own, where `/sys/fs/cgroup` has the v1 controllers alone on
//! a host with both versions (crun refuses those), and below directories that are gone afterwards.

mod bundle;
mod calls;
mod measure;
mod peer;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::AnyError;
use crate::report::Report;
use bundle::Bundle;
use peer::Peer;
pub(crate) use peer::private_control_groups;

const USAGE: &str = "\
usage: hack/bench oci [--vaquita BIN] [--peer PATH]... [--rounds N] [--out DIR]

  --vaquita BIN   the binary to measure (hack/bench builds and names the release binary)
  --peer PATH     a runtime to compare with; ratios are to the first one (default: crun and runc of the PATH)
  --rounds N      containers measured one after another (default 100)
  --out DIR       write oci.txt, oci.json and oci.svg there (default target/bench)";

struct Options {
    vaquita: PathBuf,
    peers: Vec<PathBuf>,
    rounds: usize,
    out: PathBuf,
}

/// Measures, prints and writes as the arguments after `oci` say.
pub(crate) fn main(args: impl Iterator<Item = String>) -> Result<(), AnyError> {
    let Some(options) = options(args)? else {
        println!("{USAGE}");
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() {
        return Err("needs root: the runtimes make namespaces, cgroups and mounts".into());
    }
    // As an engine's supervisor is: containers that the runtimes let go of become children of this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let disk = tempfile::Builder::new().prefix("vaquita-bench-").tempdir()?;
    // On a host with systemd /run is in memory, and runtimes keep their state there.
    let memory = tempfile::Builder::new().prefix("vaquita-bench-").tempdir_in("/dev/shm")?;
    private_control_groups(memory.path())?;
    let bundle = Bundle::new(disk.path())?;
    let mut peers =
        vec![Peer::new(&installed(&options.vaquita, disk.path())?, "vaquita-oci", memory.path())?];
    for path in &options.peers {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        peers.push(Peer::new(path, &name, memory.path())?);
    }

    let mut report = Report::new(peers.iter().map(|peer| peer.name.clone()));
    for peer in &peers {
        report.version(&peer.name, peer.version()?);
    }
    let outcome = measure::all(&peers, &bundle, options.rounds, &mut report);
    for peer in &peers {
        peer.remove_leftovers();
    }
    peer::remove_control_groups();
    outcome?;
    report.write(&options.out, "oci")
}

/// A copy of the program, written in one go as an installer does. What a linker has written lies in small pieces in the page
/// cache, and takes 0.25 ms longer to start; the peers are where their packages have put them.
fn installed(program: &Path, dir: &Path) -> Result<PathBuf, AnyError> {
    let copy = dir.join("vaquita");
    std::fs::read(program)
        .and_then(|bytes| std::fs::write(&copy, bytes))
        .and_then(|()| std::fs::set_permissions(&copy, Permissions::from_mode(0o755)))
        .map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(copy)
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, AnyError> {
    let mut options = Options {
        vaquita: PathBuf::from("target/x86_64-unknown-linux-gnu/release/vaquita"),
        peers: Vec::new(),
        rounds: 100,
        out: PathBuf::from("target/bench"),
    };
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--vaquita" => options.vaquita = value()?.into(),
            "--peer" => options.peers.push(value()?.into()),
            "--rounds" => options.rounds = value()?.parse()?,
            "--out" => options.out = value()?.into(),
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}\n{USAGE}").into()),
        }
    }
    if options.peers.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found =
            |name: &str| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists());
        options.peers = ["crun", "runc"].into_iter().filter_map(found).collect();
    }
    Ok(Some(options))
}
