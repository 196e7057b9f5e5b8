//! What of ours exists on this host, and whose it is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vaquita_cgroup::{Cgroup, Layout};

use crate::container::volumes;
use crate::error::Doing;
use crate::model::{ContainerRecord, SandboxPhase, SandboxRecord, namespaces};
use crate::network::builtin_config;
use crate::paths::Paths;
use crate::{Config, Result, cgroups, kernel};

/// How long what is about to go is waited for. The kernel destroys the link of a dead network namespace some time after the last
/// process left it, a shim says that its pod is gone before it ends itself, and a directory goes after the record in it.
const PATIENCE: Duration = Duration::from_secs(3);

/// Something of ours that the kernel or a directory holds.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Resource {
    /// `mount`, `cgroup`, `netns`, `link`, `lease`, `process`, `snapshot`, `record` …
    pub kind: String,
    /// A path, an interface, a process id.
    pub name: String,
    /// The sandbox, the container, or `daemon`. `None`: an orphan.
    pub owner: Option<String>,
    /// What a reader may want to know: a command line, an address.
    pub note: String,
}

/// Lists everything below the directories, the cgroup root and the network of `config`, orphans last.
///
/// Needs no server and disturbs none: it reads the records and the kernel. What a pod that is being made or taken down
/// at that moment has may show up without an owner.
///
/// # Errors
/// When a part of the kernel cannot be read. A record that cannot be read is an orphan.
pub fn inventory(config: &Config) -> Result<Vec<Resource>> {
    settled(Instant::now() + PATIENCE, || look(config))
}

/// Looks until nothing without an owner is there that may be about to go, or until the time is up.
fn settled(deadline: Instant, mut look: impl FnMut() -> Result<Vec<Resource>>) -> Result<Vec<Resource>> {
    loop {
        let mut all = look()?;
        all.sort_by(|one, other| (one.owner.is_none(), one).cmp(&(other.owner.is_none(), other)));
        let may_go = |resource: &Resource| matches!(resource.kind.as_str(), "link" | "process" | "record");
        let dying = all.iter().any(|resource| resource.owner.is_none() && may_go(resource));
        if !dying || Instant::now() > deadline {
            return Ok(all);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn look(config: &Config) -> Result<Vec<Resource>> {
    let paths = Paths::of(config);
    let mut all = Vec::new();
    let records = records(&paths, &mut all)?;
    let daemon = UnixStream::connect(&config.socket).is_ok();
    let owners = Owners { records, daemon };
    processes(&paths, &owners, &mut all)?;
    groups(config, &owners, &mut all)?;
    mounts(config, &paths, &owners, &mut all)?;
    snapshots(&paths, &owners, &mut all)?;
    checkpoints(&paths, &owners, &mut all)?;
    network(config, &paths, &owners, &mut all)?;
    plugins(&paths, &owners, &mut all)?;
    Ok(all)
}

/// What the records say.
#[derive(Default)]
struct Records {
    sandboxes: BTreeMap<String, SandboxRecord>,
    containers: BTreeMap<String, ContainerRecord>,
}

/// Who can own something.
struct Owners {
    records: Records,
    /// A server answers on the socket.
    daemon: bool,
}

impl Owners {
    /// A sandbox that still holds resources.
    fn sandbox(&self, id: &str) -> Option<String> {
        let record = self.records.sandboxes.get(id)?;
        (record.life.phase != SandboxPhase::Stopped).then(|| id.to_owned())
    }

    /// What all pods share is the server's while it runs, and the pods' as long as there are any.
    fn shared(&self) -> Option<String> {
        if self.daemon {
            return Some("daemon".to_owned());
        }
        let live = |record: &SandboxRecord| record.life.phase != SandboxPhase::Stopped;
        self.records.sandboxes.values().any(live).then(|| "pods".to_owned())
    }
}

fn resource(kind: &str, name: impl Into<String>, owner: Option<String>, note: impl Into<String>) -> Resource {
    Resource { kind: kind.to_owned(), name: name.into(), owner, note: note.into() }
}

fn records(paths: &Paths, all: &mut Vec<Resource>) -> Result<Records> {
    let mut records = Records::default();
    for id in paths.pod_ids()? {
        let name = paths.pod(&id).display().to_string();
        match paths.read_sandbox(&id) {
            Ok(Some(record)) => {
                let metadata = record.config.metadata.clone().unwrap_or_default();
                let note = format!("pod {}/{}, {:?}", metadata.namespace, metadata.name, record.life.phase);
                all.push(resource("record", name, Some(id.clone()), note));
                if let Some(pid) = record.life.pid
                    && namespaces(&record.config).network == 0
                    && let Ok(link) = kernel::network_namespace(pid)
                {
                    all.push(resource(
                        "netns",
                        link.to_string_lossy(),
                        Some(id.clone()),
                        format!("of pid {pid}"),
                    ));
                }
                records.sandboxes.insert(id.clone(), record);
            }
            Ok(None) => all.push(resource("record", name, None, "a directory without a record")),
            Err(error) => all.push(resource("record", name, None, error.to_string())),
        }
        for container in paths.container_ids(&id)? {
            let name = paths.container(&id, &container).display().to_string();
            match paths.read_container(&id, &container) {
                Ok(Some(record)) => {
                    let metadata = record.config.metadata.clone().unwrap_or_default();
                    let note = format!("container {}, attempt {}", metadata.name, metadata.attempt);
                    all.push(resource("record", name, Some(container.clone()), note));
                    records.containers.insert(container, record);
                }
                Ok(None) => all.push(resource("record", name, None, "a directory without a record")),
                Err(error) => all.push(resource("record", name, None, error.to_string())),
            }
        }
    }
    Ok(records)
}

/// The shims, by their command line.
fn processes(paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let pods = paths.pods();
    for pid in kernel::pids().doing(|| "list /proc")? {
        // It may have ended meanwhile.
        let Ok(line) = kernel::of_process(pid, "cmdline") else { continue };
        let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        if words.next().as_deref() != Some("vaquita-shim") {
            continue;
        }
        let dir = PathBuf::from(words.next().unwrap_or_default().into_owned());
        let Ok(id) = dir.strip_prefix(&pods) else { continue };
        // What a shim has cloned goes by its name until it executes a program.
        let Some(parent) = parent(pid) else { continue };
        if kernel::of_process(parent, "cmdline").is_ok_and(|other| other == line) {
            continue;
        }
        let owner = owners.sandbox(&id.to_string_lossy());
        all.push(resource("process", pid.to_string(), owner, format!("vaquita-shim {}", dir.display())));
    }
    Ok(())
}

/// The parent of a process, by proc_pid_stat(5). None when either is gone.
fn parent(pid: i32) -> Option<i32> {
    let stat = kernel::text_of_process(pid, "stat").ok()?;
    // The name before it may hold anything, parentheses included.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

fn groups(config: &Config, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let layout = Layout::detect().doing(|| "find the cgroup hierarchies")?;
    let mut owned: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (id, record) in &owners.records.sandboxes {
        if owners.sandbox(id).is_some() {
            if record.cgroup_is_ours {
                owned.insert(record.cgroup.clone(), id.clone());
            }
            owned.insert(cgroups::of_container(&record.cgroup, id), id.clone());
        }
    }
    for (id, record) in &owners.records.containers {
        owned.insert(record.cgroup.clone(), id.clone());
    }
    let roots = cgroups::roots(config);
    let mut found = BTreeSet::new();
    for root in &roots {
        found.extend(list(&layout, root)?);
    }
    for path in owned.keys() {
        if !found.contains(path) {
            found.extend(list(&layout, path)?);
        }
    }
    for path in found {
        let owner = match owned.get(&path) {
            Some(owner) => Some(owner.clone()),
            // Inside a container's: it made that itself, in a cgroup namespace.
            None if owned.keys().any(|owner| path.starts_with(owner)) => owned
                .iter()
                .filter(|(owner, _)| path.starts_with(owner))
                .max_by_key(|(owner, _)| owner.components().count())
                .map(|(_, id)| id.clone()),
            None if owned.keys().any(|owner| owner.starts_with(&path)) => Some("pods".to_owned()),
            None if is_shared(&path, &roots) => owners.shared(),
            None => None,
        };
        let pids = Cgroup::open(&layout, &path).and_then(|cgroup| cgroup.procs()).unwrap_or_default();
        // Those of a group below are that one's.
        if !owned.keys().any(|other| *other != path && other.starts_with(&path)) {
            let of = owner.clone();
            all.extend(
                pids.iter().map(|pid| resource("process", pid.to_string(), of.clone(), command(*pid))),
            );
        }
        all.push(resource("cgroup", path.display().to_string(), owner, ""));
    }
    Ok(())
}

fn list(layout: &Layout, path: &Path) -> Result<Vec<PathBuf>> {
    vaquita_cgroup::list(layout, path).doing(|| format!("list the cgroups below {}", path.display()))
}

/// The root and the classes of service below it belong to no pod and stay while the daemon does.
fn is_shared(path: &Path, roots: &[PathBuf]) -> bool {
    roots.iter().any(|root| cgroups::shared(root).iter().any(|shared| shared == path))
}

/// The command line of a process, as ps shows it.
fn command(pid: i32) -> String {
    /// More would fill the screen.
    const LIMIT: usize = 200;
    let line = kernel::of_process(pid, "cmdline").unwrap_or_default();
    let text = String::from_utf8_lossy(&line[..line.len().min(LIMIT)]).replace('\0', " ");
    text.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn mounts(config: &Config, paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let pods = paths.pods();
    for mount in vaquita_sys::mount::mountinfo().doing(|| "read the mounts of the host")? {
        let point = &mount.mount_point;
        let below =
            [&config.root, &config.state].into_iter().any(|dir| point.starts_with(dir) && point != dir);
        if !below {
            continue;
        }
        let owner = match point.strip_prefix(&pods) {
            Ok(rest) => {
                rest.components().next().and_then(|id| owners.sandbox(&id.as_os_str().to_string_lossy()))
            }
            // Volumes are the agent's, which works through the server.
            Err(_) => owners.shared(),
        };
        all.push(resource("mount", point.display().to_string(), owner, mount.fs_type));
    }
    Ok(())
}

fn snapshots(paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let dir = paths.images().join("snapshots");
    for id in names(&dir)? {
        let owner = {
            let container = volumes::owner(&id);
            owners.records.containers.contains_key(container).then(|| container.to_owned())
        };
        all.push(resource("snapshot", dir.join(&id).display().to_string(), owner, ""));
    }
    Ok(())
}

/// What a server that was killed has left there the next one removes.
fn checkpoints(paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let dir = paths.checkpoints();
    for id in names(&dir)? {
        let container = owners.records.containers.contains_key(&id).then(|| id.clone());
        let owner = container.or_else(|| owners.daemon.then(|| "daemon".to_owned()));
        all.push(resource("checkpoint", dir.join(&id).display().to_string(), owner, "unfinished"));
    }
    Ok(())
}

/// What is in a directory, which need not be there.
fn names(dir: &Path) -> Result<Vec<String>> {
    let names = crate::paths::names(dir)?;
    Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

fn network(config: &Config, paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    use vaquita_net::ResourceKind;
    let Some(network) = &config.network else { return Ok(()) };
    let found = vaquita_net::inventory(&builtin_config(network, paths))
        .doing(|| format!("list what the pod network {} has", network.bridge))?;
    for item in found {
        let kind = match item.kind {
            ResourceKind::Address => "address",
            ResourceKind::Bridge => "bridge",
            ResourceKind::HostPort => "host port",
            ResourceKind::Lease => "lease",
            ResourceKind::Link => "link",
            ResourceKind::Table => "nft table",
            _ => "network",
        };
        let owner = match item.owner {
            Some(id) => owners.sandbox(&id),
            None if item.kind.is_shared() => owners.shared(),
            None => None,
        };
        all.push(resource(kind, item.name, owner, ""));
    }
    Ok(())
}

/// What CNI plugins have made, by our records of it; the plugins that run. What no sandbox has any more is the server's, which asks
/// the plugins again and again to free it.
fn plugins(paths: &Paths, owners: &Owners, all: &mut Vec<Resource>) -> Result<()> {
    let daemon = || owners.daemon.then(|| "daemon".to_owned());
    for (id, cached) in vaquita_cni::cached(&paths.cni()).doing(|| "list what CNI plugins have made")? {
        let (owner, note) = match cached {
            Ok(cached) => {
                let addresses: Vec<_> = cached.addresses.iter().map(ToString::to_string).collect();
                let note = format!("{} {:?} {}", cached.network, cached.phase, addresses.join(", "));
                (owners.sandbox(&id).or_else(daemon), note.trim_end().to_owned())
            }
            Err(error) => (owners.sandbox(&id), error.to_string()),
        };
        all.push(resource("attachment", id, owner, note));
    }
    for (pid, id) in vaquita_cni::running(&paths.cni()).doing(|| "look for CNI plugins")? {
        let owner = owners.sandbox(&id).or_else(daemon);
        all.push(resource("process", pid.to_string(), owner, format!("CNI plugin: {}", command(pid))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_to_go_is_waited_for() {
        let orphan = |kind: &str| resource(kind, "x", None, "");
        let owned = |kind: &str| resource(kind, "y", Some("z".to_owned()), "");
        let later = Instant::now() + Duration::from_secs(600);
        for kind in ["link", "process", "record"] {
            let mut looks = vec![vec![owned(kind)], vec![orphan(kind), owned(kind)], vec![orphan(kind)]];
            assert_eq!(settled(later, || Ok(looks.pop().unwrap())).unwrap(), [owned(kind)]);
            assert!(looks.is_empty());
            // What stays is told.
            let past = Instant::now();
            let all = settled(past, || Ok(vec![orphan(kind), owned(kind)])).unwrap();
            assert_eq!(all, [owned(kind), orphan(kind)]);
        }
        let mut looks = vec![vec![orphan("cgroup")]];
        assert_eq!(settled(later, || Ok(looks.pop().unwrap())).unwrap(), [orphan("cgroup")]);
    }
}
