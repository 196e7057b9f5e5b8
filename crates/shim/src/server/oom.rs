//! Whether a container ended for want of memory.

use std::path::Path;

use vaquita_cgroup::{Cgroup, Driver, Location};

use super::Server;
use super::container::Container;

impl Server {
    /// Kills for want of memory in the group of the pod, which is that of all its containers together. Told for scopes alone:
    /// other groups are there until we remove them.
    pub(super) fn ooms_of_pod(&self, scope: &Path) -> u64 {
        let pod = scope.parent().filter(|_| Location::at(scope).driver() == Driver::Systemd);
        let group = pod.and_then(|pod| Cgroup::open(&self.layout, pod).ok());
        group.and_then(|group| group.oom_kills().ok()).unwrap_or(0)
    }

    /// Whether somebody in the group of the container, which has ended, was killed for want of memory.
    ///
    /// systemd removes a scope in which nobody is left, and may have been faster. Then it is a kill that the pod's group has
    /// counted and no other container accounts for.
    pub(super) fn was_out_of_memory(&mut self, at: usize) -> bool {
        let ended = &self.containers[at];
        let kills = ooms(ended).unwrap_or_else(|| {
            let others =
                self.containers.iter().filter(|other| other.id != ended.id && other.process.is_some());
            let known =
                others.filter_map(ooms).sum::<u64>() + self.sandbox.as_ref().map_or(0, |pod| pod.ooms);
            self.ooms_of_pod(&ended.target.cgroup_path).saturating_sub(known)
        });
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.ooms += kills;
        }
        kills > 0
    }
}

fn ooms(container: &Container) -> Option<u64> {
    container.cgroup.as_ref()?.oom_kills().ok()
}
