//! Making containers for tests, and cleaning up behind them.

use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use serde_json::{Value, json};
use tempfile::TempDir;
use vaquita_cgroup::{Cgroup, Layout, Resources};
use vaquita_runtime::{
    Context, CreateArgs, Created, Error, ExecArgs, ExecPlan, Execed, ParentOf, Plan, Rendezvous, StartHandle,
    Stdio, create, exec, launch,
};
use vaquita_sys::mount::mountinfo;
use vaquita_sys::ns;
use vaquita_sys::process::{Exit, wait_pidfd};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::signal::{self, Signal};
use vaquita_testing::{require_root, unique};

/// A root filesystem with the probe in it, and a specification to change.
pub(crate) struct Bundle {
    pub(crate) dir: TempDir,
    pub(crate) spec: Value,
    pub(crate) join: Vec<(ns::Kind, OwnedFd)>,
    pub(crate) with_cgroup: bool,
    pub(crate) extra_fds: Vec<OwnedFd>,
    pub(crate) new_keyring: bool,
    pub(crate) restrict_oom_score_adj: bool,
    pub(crate) no_pivot: bool,
    /// Another root than `dir`.
    pub(crate) root: Option<PathBuf>,
    /// Ids of the root filesystem on the disk, and in the container.
    pub(crate) root_map: Option<Vec<LinuxIdMapping>>,
}

/// How a container ended, and what its program said.
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) output: Vec<String>,
}

impl Outcome {
    /// The answer to an order.
    #[track_caller]
    pub(crate) fn of(&self, order: &str) -> &str {
        let prefix = format!("{order} =");
        self.output
            .iter()
            .find_map(|line| line.strip_prefix(&prefix).map(str::trim))
            .unwrap_or_else(|| panic!("no answer to {order:?} in {:#?}", self.output))
    }
}

/// A container that was created, killed when dropped.
pub(crate) struct Running {
    pub(crate) created: Option<StartHandle>,
    pub(crate) pid: rustix::process::Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
    pub(crate) output: PipeReader,
    pub(crate) input: Option<std::io::PipeWriter>,
    pub(crate) spec: Spec,
    pub(crate) cgroup: Option<Group>,
}

/// A cgroup that is removed when dropped.
pub(crate) struct Group(pub(crate) Cgroup);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait_empty(std::time::Duration::from_secs(10));
        let _ = self.0.remove();
    }
}

impl Group {
    pub(crate) fn new() -> Self {
        let layout = Layout::detect().unwrap();
        let path = PathBuf::from(format!("/{}", unique("vqrt")));
        Self(Cgroup::begin(&layout, &path, &Resources::default()).unwrap())
    }
}

impl Bundle {
    /// A container as CRI asks for one, that runs the probe with these orders.
    pub(crate) fn new(orders: &str) -> Self {
        require_root();
        let dir =
            tempfile::Builder::new().prefix(&unique("root")).tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Containers run as other users, too.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let probe = dir.path().join("probe");
        fs::hard_link(std::env::current_exe().unwrap(), &probe).unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self {
            spec: spec(orders),
            dir,
            join: Vec::new(),
            with_cgroup: false,
            extra_fds: Vec::new(),
            new_keyring: true,
            restrict_oom_score_adj: false,
            no_pivot: false,
            root: None,
            root_map: None,
        }
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.dir.path().join(inside.trim_start_matches('/'))
    }

    /// Replaces what is at a JSON pointer.
    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    pub(crate) fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    pub(crate) fn without_namespace(mut self, kind: &str) -> Self {
        self.spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|namespace| namespace["type"] != kind);
        self
    }

    pub(crate) fn without_mount(mut self, destination: &str) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != destination);
        self
    }

    pub(crate) fn plan(&self) -> Result<Plan, Error> {
        let spec: Spec = serde_json::from_value(self.spec.clone()).unwrap();
        let restrict_oom_score_adj = self.restrict_oom_score_adj;
        let bundle = self.dir.path().to_owned();
        let id = Some("box".to_owned());
        Plan::new(&spec, &Context { bundle, restrict_oom_score_adj, id, passes_listeners: true })
    }

    pub(crate) fn create(&mut self) -> Result<Running, Error> {
        self.create_as(ParentOf::Caller)
    }

    pub(crate) fn create_as(&mut self, parent: ParentOf) -> Result<Running, Error> {
        self.create_with(parent, None)
    }

    pub(crate) fn create_with(
        &mut self,
        parent: ParentOf,
        rendezvous: Option<Rendezvous<'_>>,
    ) -> Result<Running, Error> {
        let plan = self.plan()?;
        let root = self.root.as_deref().unwrap_or(self.dir.path());
        let rootfs = match plan.has_own_mounts() {
            true => vaquita_runtime::rootfs::open(root)?,
            false => vaquita_runtime::rootfs::open_directory(root)?,
        };
        if let Some(map) = &self.root_map {
            vaquita_runtime::rootfs::map_ids(&rootfs, map, map)?;
        }
        let (input_read, input) = std::io::pipe().unwrap();
        let (output, output_write) = std::io::pipe().unwrap();
        let stdio = if self.spec["process"]["terminal"] == true {
            Stdio::Terminal { rows: 40, columns: 100 }
        } else {
            let error = output_write.try_clone().unwrap();
            Stdio::Fds([input_read.into(), output_write.into(), error.into()])
        };
        let cgroup = self.with_cgroup.then(Group::new);
        let args = CreateArgs {
            rootfs,
            stdio,
            join: std::mem::take(&mut self.join),
            cgroup: cgroup.as_ref().map(|group| &group.0),
            parent,
            extra_fds: std::mem::take(&mut self.extra_fds),
            new_keyring: self.new_keyring,
            rendezvous,
            meanwhile: None,
            start_socket: None,
            no_pivot: self.no_pivot,
        };
        let Created { pid, pidfd, start, console } = create(&plan, args)?;
        let spec = serde_json::from_value(self.spec.clone()).unwrap();
        Ok(Running { created: Some(start), pid, pidfd, console, output, input: Some(input), spec, cgroup })
    }

    /// Creates, starts, and waits for the end.
    #[track_caller]
    pub(crate) fn run(mut self) -> Outcome {
        let mut running = self.create().unwrap_or_else(|error| panic!("create: {error}"));
        running.start().unwrap_or_else(|error| panic!("start: {error}"));
        running.finish()
    }
}

impl Running {
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        self.created.take().unwrap().start()
    }

    /// Closes its input and reads its output to the end.
    pub(crate) fn finish(mut self) -> Outcome {
        self.input = None;
        let exit = wait_pidfd(&self.pidfd).unwrap();
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        Outcome { exit, output: marked(&text) }
    }

    /// Reads output until the answer to this order is there.
    pub(crate) fn read_until(&mut self, order: &str) -> String {
        let mut text = String::new();
        let mut byte = [0];
        loop {
            assert_eq!(self.output.read(&mut byte).unwrap(), 1, "end of output after {text:?}");
            text.push(char::from(byte[0]));
            if let Some(line) = text.lines().last()
                && text.ends_with('\n')
                && let Some(answer) = line.strip_prefix(&format!("> {order} = "))
            {
                return answer.to_owned();
            }
        }
    }

    pub(crate) fn exec_plan(&self, change: impl FnOnce(&mut Value)) -> Result<ExecPlan, Error> {
        let mut process = serde_json::to_value(self.spec.process().as_ref().unwrap()).unwrap();
        change(&mut process);
        let process: Process = serde_json::from_value(process).unwrap();
        let context = Context { passes_listeners: true, ..Context::default() };
        ExecPlan::new(&process, &self.spec, &context)
    }

    pub(crate) fn exec(&self, plan: &ExecPlan) -> Result<(Execed, PipeReader), Error> {
        self.exec_by(plan, exec)
    }

    /// As [`Self::exec`], for a process that nobody waits for while it joins.
    pub(crate) fn launch(&self, plan: &ExecPlan) -> Result<(Execed, PipeReader), Error> {
        self.exec_by(plan, |plan, args| launch(plan, args, &Procfs::open()?))
    }

    fn exec_by(
        &self,
        plan: &ExecPlan,
        exec: impl FnOnce(&ExecPlan, ExecArgs<'_>) -> Result<Execed, Error>,
    ) -> Result<(Execed, PipeReader), Error> {
        let (input, _) = std::io::pipe().unwrap();
        let (output, output_write) = std::io::pipe().unwrap();
        let stdio = Stdio::Fds([input.into(), output_write.try_clone().unwrap().into(), output_write.into()]);
        let args = ExecArgs {
            init: self.pidfd.as_fd(),
            stdio,
            created: self.created.is_some(),
            cgroup: self.cgroup.as_ref().map(|group| &group.0),
            extra_fds: Vec::new(),
            new_keyring: true,
            parent: ParentOf::Caller,
        };
        Ok((exec(plan, args)?, output))
    }

    /// Executes the probe with these orders and waits for its end.
    #[track_caller]
    pub(crate) fn exec_probe(&self, orders: &str, change: impl FnOnce(&mut Value)) -> Outcome {
        outcome(self.exec(&self.probe_plan(orders, change)))
    }

    /// As [`Self::exec_probe`], in both ways: what it must be like in the one, it must be like in the other.
    #[track_caller]
    pub(crate) fn exec_probes(&self, orders: &str, change: impl FnOnce(&mut Value)) -> [Outcome; 2] {
        let plan = self.probe_plan(orders, change);
        assert!(plan.goes_alone());
        [outcome(self.exec(&plan)), outcome(self.launch(&plan))]
    }

    #[track_caller]
    fn probe_plan(&self, orders: &str, change: impl FnOnce(&mut Value)) -> ExecPlan {
        self.exec_plan(|process| {
            process["env"] = json!([format!("VAQUITA_PROBE={orders}"), "PATH=/bin:/"]);
            change(process);
        })
        .unwrap()
    }
}

#[track_caller]
fn outcome(execed: Result<(Execed, PipeReader), Error>) -> Outcome {
    let (execed, mut output) = execed.unwrap_or_else(|error| panic!("exec: {error}"));
    execed.started.wait().unwrap_or_else(|error| panic!("execve: {error}"));
    let exit = wait_pidfd(&execed.pidfd).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    Outcome { exit, output: marked(&text) }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = signal::send(&self.pidfd, Signal::KILL);
        let _ = wait_pidfd(&self.pidfd);
    }
}

pub(crate) fn marked(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("> ")).map(|line| line.trim_end().to_owned()).collect()
}

/// Whether the host has a mount whose mount point or root names this directory.
pub(crate) fn is_mounted_below(dir: &Path) -> bool {
    mountinfo().unwrap().iter().any(|mount| mount.mount_point.starts_with(dir))
}

fn spec(orders: &str) -> Value {
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "probe",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", "probe::probe", "--exact", "--nocapture", "--test-threads=1"],
            "env": [format!("VAQUITA_PROBE={orders}"), "PATH=/bin:/"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": ["CAP_CHOWN", "CAP_KILL"],
                "effective": ["CAP_CHOWN", "CAP_KILL"],
                "permitted": ["CAP_CHOWN", "CAP_KILL"],
            },
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"},
            ],
            "maskedPaths": vaquita_runtime::defaults::MASKED_PATHS,
            "readonlyPaths": vaquita_runtime::defaults::READONLY_PATHS,
            "seccomp": vaquita_runtime::seccomp::runtime_default(&[]),
        },
    })
}
