//! Other limits for a container that is there.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use vaquita_cgroup::{Cgroup, Resources};
use vaquita_nri::api;
use vaquita_proto::cri;

use crate::error::Doing;
use crate::model::Container;
use crate::node::{Node, blocking};
use crate::{Error, Kind, Result, cgroups, nri, spec};

/// Sets other limits, all or none, as plugins would have it.
pub(crate) async fn update(node: &Arc<Node>, id: &str, change: cri::LinuxContainerResources) -> Result<()> {
    let container = node.tables.container(id)?;
    // Nobody waits for one that is being removed, which may have hooks that take their time.
    expect_alive(&container)?;
    let revised = {
        let right = node.nri.change().await;
        let _lane = container.lane.lock().await;
        expect_alive(&container)?;
        let old = container.resources();
        let new = spec::merged(&old, &change);
        let revised = nri::update(node, &right, &container, &change, new).await?;
        set(node, &container, &old, &revised.limits, revised.rest.as_ref()).await?;
        revised
    };
    // Not before: others may be about to ask the same of this one.
    drop(nri::apply(node, revised.updates).await);
    nri::evict(node, revised.evictions);
    nri::post_update(node, &container).await;
    Ok(())
}

/// Sets limits that a plugin wants, without asking others.
pub(crate) async fn update_for_plugin(
    node: &Arc<Node>,
    container: &Arc<Container>,
    asked: &api::LinuxResources,
) -> Result<()> {
    expect_alive(container)?;
    let _lane = container.lane.lock().await;
    expect_alive(container)?;
    let old = container.resources();
    let new = spec::merge(&old, asked, &node.host);
    set(node, container, &old, &new, Some(asked)).await
}

fn expect_alive(container: &Container) -> Result<()> {
    let life = container.life();
    if life.is_over() || life.removing {
        return Err(Error::new(Kind::Precondition, format!("container {} has ended", container.id())));
    }
    Ok(())
}

/// Sets limits, and what only plugins have words for.
async fn set(
    node: &Arc<Node>,
    container: &Arc<Container>,
    old: &cri::LinuxContainerResources,
    new: &cri::LinuxContainerResources,
    rest: Option<&api::LinuxResources>,
) -> Result<()> {
    let job = Update::new(node, container, (old, new), rest)?;
    let updated = blocking("update the limits", move || job.run()).await;
    // Its cgroup goes when it ends, and what a file of it says then is beside the point.
    updated.or_else(|error| expect_alive(container).and(Err(error)))?;
    container.resources_changed(new.clone());
    node.paths.write_container(&container.record())
}

/// What is to be done, and how it is taken back: what only plugins have words for is not.
struct Update {
    node: Arc<Node>,
    container: Arc<Container>,
    limits: Resources,
    former: Resources,
    /// From which `oom_score_adj` to which, if that changes.
    score: Option<(i32, i32)>,
}

impl Update {
    fn new(
        node: &Arc<Node>,
        container: &Arc<Container>,
        (old, new): (&cri::LinuxContainerResources, &cri::LinuxContainerResources),
        rest: Option<&api::LinuxResources>,
    ) -> Result<Self> {
        let former = spec::cgroup_limits(&spec::limits(old, &node.host)?);
        let mut limits = spec::limits(new, &node.host)?;
        if let Some(rest) = rest {
            spec::adjust::refuse_late(rest)?;
            spec::adjust::add_rest(&mut limits, rest)?;
        }
        let limits = spec::cgroup_limits(&limits);
        let is_less = new.memory_limit_in_bytes > 0
            && (old.memory_limit_in_bytes <= 0 || new.memory_limit_in_bytes < old.memory_limit_in_bytes);
        let lowest = node.host.lowest_oom_score_adj;
        let score = |asked| spec::oom_score_adj(asked, &node.host).map(|score| score.max(lowest));
        Ok(Self {
            node: node.clone(),
            container: container.clone(),
            // v2 would kill processes; v1 frees what it can, and refuses.
            limits: Resources { memory_check_before_update: is_less && node.host.cgroup_v2, ..limits },
            former,
            score: match old.oom_score_adj == new.oom_score_adj {
                true => None,
                false => Some((score(old)?, score(new)?)),
            },
        })
    }

    fn run(&self) -> Result<()> {
        let path = &self.container.record.cgroup;
        let doing = || format!("set the limits of {}", path.display());
        let cgroup = Cgroup::open(&self.node.layout, path).doing(doing)?;
        let limit = |limits: &Resources| cgroups::limit(&self.node.layout, path, limits);
        let result = limit(&self.limits).and_then(|()| match self.score {
            Some((from, to)) => self.rescore(&cgroup, from, to),
            None => Ok(()),
        });
        if result.is_err() {
            // What was set before the failure goes back; the first error is the one to tell.
            let _ = limit(&self.former);
            let _ = self.score.map(|(from, to)| self.rescore(&cgroup, to, from));
        }
        result
    }

    /// Gives the container's processes that have one `oom_score_adj` another; those that have chosen their own keep it.
    fn rescore(&self, cgroup: &Cgroup, from: i32, to: i32) -> Result<()> {
        let mut done = BTreeSet::new();
        loop {
            let before = done.len();
            for pid in self.processes(cgroup)? {
                if done.insert(pid) {
                    self.rescore_one(cgroup, pid, (from, to))?;
                }
            }
            // Those that were made meanwhile have the old one, perhaps.
            if done.len() == before {
                return Ok(());
            }
        }
    }

    /// One that was not started is in no cgroup of v1 yet.
    fn processes(&self, cgroup: &Cgroup) -> Result<Vec<i32>> {
        let mut all = cgroup.procs().doing(|| "list the processes of the container")?;
        all.extend(self.container.life().pid);
        Ok(all)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a process of the host's own /proc, then one of its files by name"
    )]
    fn rescore_one(&self, cgroup: &Cgroup, pid: i32, (from, to): (i32, i32)) -> Result<()> {
        let is_gone = |errno: Errno| matches!(errno, Errno::NOENT | Errno::SRCH);
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())
        };
        let dir: OwnedFd = match open() {
            Err(errno) if is_gone(errno) => return Ok(()),
            other => other.doing(|| format!("open /proc/{pid}"))?,
        };
        // The directory is of one process, whoever gets its number later: still one of the container's?
        if !self.processes(cgroup)?.contains(&pid) {
            return Ok(());
        }
        let written = (|| {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&dir, "oom_score_adj", flags, Mode::empty())?;
            let mut text = [0; 16];
            let length = rustix::io::read(&file, &mut text)?;
            let now =
                std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse::<i32>().ok());
            if now == Some(from) {
                rustix::io::pwrite(&file, to.to_string().as_bytes(), 0)?;
            }
            Ok(())
        })();
        match written {
            Err(errno) if is_gone(errno) => Ok(()),
            Err(Errno::ACCESS) => Err(Error::new(
                Kind::Denied,
                format!(
                    "oom_score_adj: {to} is less than process {pid} may have: the daemon lacks CAP_SYS_RESOURCE"
                ),
            )),
            other => other.doing(|| format!("write oom_score_adj of process {pid}")),
        }
    }
}
