//! CRI-O with conmon and pinns.

use std::path::{Path, PathBuf};

use super::{Dirs, Peer, network};
use crate::AnyError;
use crate::archive::{Archives, BUSYBOX, PAUSE};

impl Peer {
    /// CRI-O of a directory, which has `conmon` and `pinns` too unless they are in the `PATH`, with an OCI runtime.
    pub(crate) fn crio(
        programs: &Path,
        dirs: Dirs<'_>,
        archives: &Archives,
        runtime: &str,
    ) -> Result<Self, AnyError> {
        let program = programs.join("crio");
        if !program.exists() {
            return Err(
                format!("there is no {}; --crio names the directory of CRI-O", program.display()).into()
            );
        }
        let (dir, state) = (dirs.disk.join("o"), dirs.memory.join("o"));
        // Host ports it makes itself, and its own example has no plugin for them.
        network::write(&dir, "cnibench1", "10.224.0.0/16", "")?;
        let policy = dir.join("policy.json");
        std::fs::write(&policy, r#"{ "default": [{ "type": "insecureAcceptAnything" }] }"#)?;
        let config = dir.join("crio.conf");
        std::fs::write(
            &config,
            CONFIG
                .replace("@DIR@", &dir.display().to_string())
                .replace("@STATE@", &state.display().to_string())
                .replace("@RUNTIME@", &found(runtime)?.display().to_string())
                .replace("@PAUSE@", PAUSE),
        )?;
        // No drop-in files of the host.
        let args = [("--config", config), ("--config-dir", dir.join("none"))]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value.display().to_string()])
            .collect();
        // It has no call that takes an archive, but shares its storage with other programs.
        let storage = format!("[overlay@{}+{}]", dir.join("root").display(), state.join("storage").display());
        let load = [(&archives.busybox, BUSYBOX), (&archives.pause, PAUSE)]
            .into_iter()
            .map(|(archive, name)| {
                let from = format!("docker-archive:{}", archive.display());
                let to = format!("containers-storage:{storage}{name}");
                let policy = policy.display().to_string();
                (PathBuf::from("skopeo"), vec!["--policy".to_owned(), policy, "copy".to_owned(), from, to])
            })
            .collect();
        let socket = dir.join("crio.sock");
        Self::new("crio", program, args, [dir, state], socket, load, Some(runtime.to_owned()))
    }
}

/// The program that a name stands for, as a shell finds it: CRI-O wants a path.
fn found(program: &str) -> Result<PathBuf, AnyError> {
    if program.contains('/') {
        return Ok(std::path::absolute(program)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(program));
    candidates.find(|file| file.exists()).ok_or_else(|| format!("there is no {program} in the PATH").into())
}

const CONFIG: &str = r#"[crio]
root = "@DIR@/root"
runroot = "@STATE@/storage"
storage_driver = "overlay"
log_dir = "@DIR@/logs"
version_file = "@STATE@/version"
clean_shutdown_file = "@DIR@/clean.shutdown"
[crio.api]
listen = "@DIR@/crio.sock"
[crio.runtime]
default_runtime = "bench"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_exits_dir = "@STATE@/exits"
container_attach_socket_dir = "@STATE@/attach"
namespaces_dir = "@STATE@/namespaces"
hooks_dir = ["@DIR@/hooks"]
irqbalance_config_file = "@DIR@/irqbalance"
irqbalance_config_restore_file = "disable"
log_level = "error"
[crio.runtime.runtimes.bench]
runtime_path = "@RUNTIME@"
runtime_root = "@STATE@/runtime"
[crio.image]
pause_image = "@PAUSE@"
signature_policy = "@DIR@/policy.json"
signature_policy_dir = "@DIR@/policies"
namespaced_auth_dir = "@DIR@/auth"
[crio.network]
network_dir = "@DIR@/cni"
plugin_dirs = ["/usr/lib/cni"]
[crio.nri]
enable_nri = false
"#;
