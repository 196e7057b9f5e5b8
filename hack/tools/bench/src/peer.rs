//! The daemons, each in private directories with its own network.

mod crio;
mod network;

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::archive::{Archives, BUSYBOX, PAUSE};
use crate::client::{Client, until};
use crate::{AnyError, memory};

/// The cgroup below which every pod of a run lies.
const CGROUP: &str = "vaquita-bench";
/// How long a daemon may take to answer for the first time.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to remove the pods of a run that failed, and then for the last process to go.
const REMOVE_LIMIT: Duration = Duration::from_secs(120);
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Where the daemons may write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dirs<'a> {
    /// For what survives a reboot.
    pub(crate) disk: &'a Path,
    /// For what does not.
    pub(crate) memory: &'a Path,
}

/// A daemon that this program started.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) client: Client,
    /// The directories one of which stands in the command lines of this peer's helpers: on disk, and in memory.
    pub(crate) dirs: [PathBuf; 2],
    socket: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    load: Vec<(PathBuf, Vec<String>)>,
    /// What makes its containers, if that is another program.
    runtime: Option<String>,
    daemon: Option<Child>,
}

impl Peer {
    /// vaquita from the given binary.
    pub(crate) fn vaquita(program: &Path, dirs: Dirs<'_>, archives: &Archives) -> Result<Self, AnyError> {
        let program = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
        let (dir, state) = (dirs.disk.join("v"), dirs.memory.join("v"));
        let socket = dir.join("vaquita.sock");
        let common: Vec<String> = [
            ("--root", dir.join("root")),
            ("--state", state.clone()),
            ("--socket", socket.clone()),
            ("--bridge", "vbench0".into()),
            ("--subnet", "10.222.0.0/16".into()),
            ("--cgroup", format!("/{CGROUP}/node").into()),
            ("--network", "builtin".into()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.display().to_string()])
        .collect();
        let mut args = common.clone();
        args.push("daemon".into());
        let mut load = common;
        load.extend(["image".into(), "load".into(), archives.busybox.display().to_string()]);
        let load = vec![(program.clone(), load)];
        Self::new("vaquita", program, args, [dir, state], socket, load, None)
    }

    /// containerd of a directory, with an OCI runtime that its shim finds as it is named.
    pub(crate) fn containerd(
        programs: &Path,
        dirs: Dirs<'_>,
        archives: &Archives,
        runtime: &str,
    ) -> Result<Self, AnyError> {
        let program = programs.join("containerd");
        if !program.exists() {
            return Err(format!(
                "there is no {}; install containerd and containernetworking-plugins",
                program.display()
            )
            .into());
        }
        let (dir, state) = (dirs.disk.join("c"), dirs.memory.join("c"));
        let socket = dir.join("containerd.sock");
        network::write(&dir, "cnibench0", "10.223.0.0/16", network::PORTMAP)?;
        let config = dir.join("config.toml");
        std::fs::write(
            &config,
            CONFIG
                .replace("@DIR@", &dir.display().to_string())
                .replace("@STATE@", &state.display().to_string())
                .replace("@RUNTIME@", runtime)
                .replace("@PAUSE@", PAUSE),
        )?;
        let load = [&archives.busybox, &archives.pause]
            .into_iter()
            .map(|archive| {
                let (socket, archive) = (socket.display().to_string(), archive.display().to_string());
                let args = ["-a", &socket, "-n", "k8s.io", "images", "import", &archive].map(str::to_owned);
                (programs.join("ctr"), args.to_vec())
            })
            .collect();
        let args = vec!["-c".into(), config.display().to_string(), "-l".into(), "error".into()];
        Self::new("containerd", program, args, [dir, state], socket, load, Some(runtime.to_owned()))
    }

    fn new(
        name: &'static str,
        program: PathBuf,
        args: Vec<String>,
        dirs: [PathBuf; 2],
        socket: PathBuf,
        load: Vec<(PathBuf, Vec<String>)>,
        runtime: Option<String>,
    ) -> Result<Self, AnyError> {
        dirs.iter().try_for_each(std::fs::create_dir_all)?;
        let client = Client::new(&socket)?;
        Ok(Self { name, client, dirs, socket, program, args, load, runtime, daemon: None })
    }

    /// Starts the daemon and returns the time until it answers.
    pub(crate) async fn start(&mut self) -> Result<Duration, AnyError> {
        let log = std::fs::File::options().create(true).append(true).open(self.dirs[0].join("daemon.log"))?;
        // Its helpers are looked for there first.
        let mut path = self.program.parent().unwrap_or(Path::new("/")).as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let child = Command::new(&self.program)
            .args(&self.args)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for this program, which still needs the daemon to remove the pods.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program.display()))?;
        self.daemon = Some(child);
        self.client = Client::new(&self.socket)?;
        let client = self.client.clone();
        until(START_LIMIT, self.name, || async { client.version().await.is_ok() }).await.map_err(|error| {
            let log = std::fs::read_to_string(self.dirs[0].join("daemon.log")).unwrap_or_default();
            format!("{error}; its log:\n{log}").into()
        })
    }

    /// Starts the daemon anew with nothing in its store; what it had is put aside, until this program ends.
    pub(crate) async fn start_empty(&mut self) -> Result<(), AnyError> {
        self.kill()?;
        let root = self.dirs[0].join("root");
        if root.exists() {
            let unused = (0..).map(|n| self.dirs[0].join(format!("old-{n}"))).find(|path| !path.exists());
            std::fs::rename(root, unused.ok_or("no name is left")?)?;
        }
        self.start().await.map(|_| ())
    }

    /// The daemon's name and version, with what makes its containers.
    pub(crate) async fn version(&self) -> Result<String, AnyError> {
        let version = self.client.version().await?;
        Ok(match &self.runtime {
            Some(runtime) => format!("{version} with {runtime}"),
            None => version,
        })
    }

    /// Imports the images.
    pub(crate) async fn load_images(&self) -> Result<(), AnyError> {
        for (program, args) in &self.load {
            let output = Command::new(program).args(args).output()?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr);
                return Err(format!("{} {}: {text}", program.display(), args.join(" ")).into());
            }
        }
        if !self.client.has_image(BUSYBOX).await? {
            return Err(format!("{}: {BUSYBOX} is not there after the import", self.name).into());
        }
        Ok(())
    }

    /// The daemon's process id; 0 when it does not run.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().map_or(0, Child::id)
    }

    /// kill -9 of the daemon, and only of it.
    pub(crate) fn kill(&mut self) -> Result<(), AnyError> {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok(())
    }

    /// Removes the pods of a run that failed, ends the daemon, and removes what is left of processes, mounts, links and cgroups.
    pub(crate) async fn stop(mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = tokio::time::timeout(REMOVE_LIMIT, self.client.remove_all()).await;
            signal(daemon.id(), Signal::TERM);
            let _ = daemon.wait();
        }
        let _ = until(EXIT_LIMIT, "the end of the helpers", || async {
            let helpers = memory::family(0, &self.dirs);
            helpers.iter().for_each(|&pid| signal(pid, Signal::KILL));
            helpers.is_empty()
        })
        .await;
        let lies_in_ours = |mount: &PathBuf| self.dirs.iter().any(|dir| mount.starts_with(dir));
        // The last one first: some lie on others.
        for mount in mounts(|_| true).iter().rev().filter(|mount| lies_in_ours(mount)) {
            let _ = unmount(mount, UnmountFlags::DETACH);
        }
        ["vbench0", "cnibench0", "cnibench1"].into_iter().for_each(network::remove);
        for mount in cgroup_mounts() {
            remove_groups(&mount.join(CGROUP));
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Where the hierarchies are mounted.
pub(crate) fn cgroup_mounts() -> Vec<PathBuf> {
    mounts(|kind| kind.starts_with("cgroup"))
}

/// Where file systems of some kinds are mounted, in the order of mounting.
fn mounts(kind: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| fields.get(2).is_some_and(|found| kind(found)))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

/// Removes a control group with those below it, as far as they are empty.
pub(crate) fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

const CONFIG: &str = r#"version = 2
root = "@DIR@/root"
state = "@STATE@"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "@DIR@/containerd.sock"
[ttrpc]
  address = "@DIR@/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@PAUSE@"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "@DIR@/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "@RUNTIME@"
"#;
