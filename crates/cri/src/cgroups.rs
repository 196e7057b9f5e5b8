//! Where pods and containers have their control groups, and who makes them: we, or systemd.
//!
//! A path says which it is ([`Location::at`]): below a pod whose group is a slice, `/a.slice/a-b.slice`, containers and pause
//! have scopes. So pods keep what they have when a server is started with the other driver.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use vaquita_cgroup::{Cgroup, Driver, Layout, Location, Resources, systemd};

use crate::error::Doing;
use crate::node::Failures;
use crate::pod::is_clean_absolute;
use crate::{Config, Error, Kind, Result};

/// What the client of a server with the other driver is told to do.
const DRIVERS: &str = "kubelet's cgroupDriver and the server's --cgroup-driver must be the same";

/// The group below which pods have theirs whose clients name no parent.
///
/// # Errors
/// `Invalid` for a path that the driver cannot use.
pub(crate) fn root(config: &Config) -> Result<PathBuf> {
    let root = &config.cgroup_root;
    match config.cgroup_driver {
        Driver::Systemd => {
            systemd::slice_for(root).doing(|| format!("name a slice for the cgroup {}", root.display()))
        }
        Driver::Cgroupfs if Location::at(root).driver() == Driver::Systemd => Err(Error::invalid(format!(
            "the cgroup {} is one that systemd makes: use another name, or the cgroup driver systemd",
            root.display()
        ))),
        Driver::Cgroupfs => Ok(root.clone()),
    }
}

/// The roots that a server has or had, whichever driver it was started with: pods stay with theirs.
pub(crate) fn roots(config: &Config) -> Vec<PathBuf> {
    let slice = systemd::slice_for(&config.cgroup_root).ok();
    [config.cgroup_root.clone()].into_iter().chain(slice).collect()
}

/// Makes the root, and writes down that it is this node's: two nodes below one group would take each other's pods for
/// leftovers. Tells whether it was there.
///
/// # Errors
/// `Busy` when it is another node's; `Unsupported` for systemd on a host with cgroup v1.
pub(crate) fn claim(layout: &Layout, config: &Config, root: &Path) -> Result<bool> {
    if config.cgroup_driver == Driver::Systemd && !layout.is_v2() {
        return Err(Error::unsupported(
            "the cgroup driver systemd needs a host with cgroup v2 alone, and this one has v1: use cgroupfs, and kubelet with it",
        ));
    }
    let existed = Cgroup::open(layout, root).is_ok();
    claim_as(layout, config, root).map(|()| existed).map_err(|error| {
        if !existed {
            // The first failure is told.
            let _ = remove_unused(layout, root);
        }
        let message = format!("claim the cgroup {}: {error}", root.display());
        Error::new(error.kind(), message)
    })
}

#[expect(clippy::disallowed_methods, reason = "a path of the host, which another node's server gave")]
fn claim_as(layout: &Layout, config: &Config, root: &Path) -> Result<()> {
    let doing = || "write down whose it is";
    let state = std::path::absolute(&config.state).doing(doing)?;
    let group = match config.cgroup_driver {
        Driver::Systemd => make(layout, root, &Resources::default())?,
        Driver::Cgroupfs => {
            let group = Cgroup::create(layout, root, &Resources::default()).doing(|| "make it")?;
            // Better no node than one on which every pod fails. systemd does so by itself.
            group.delegate().doing(|| "have limits in it")?;
            group
        }
    };
    match group.claimant().doing(doing)? {
        Some(owner) if owner != state && owner.exists() => Err(Error::new(
            Kind::Busy,
            format!(
                "it belongs to the node whose state is in {}: give this one another cgroup, bridge and subnet",
                owner.display()
            ),
        )),
        Some(owner) if owner == state => Ok(()),
        _ => group.claim(&state).doing(doing),
    }
}

/// The group of the pod `id`, below the parent that its client names or, without one, below `root`.
///
/// # Errors
/// `Invalid` for a parent that is none, or that belongs to the other driver.
pub(crate) fn of_pod(driver: Driver, parent: &str, root: &Path, id: &str) -> Result<PathBuf> {
    match (driver, parent) {
        (Driver::Cgroupfs, "") => Ok(root.join(id)),
        (Driver::Systemd, "") => systemd::slice_below(root, id).doing(|| "name the slice of the pod"),
        (Driver::Systemd, _) if !parent.ends_with(".slice") => Err(Error::invalid(format!(
            "cgroup_parent: {parent:?} is not a slice of systemd, which the cgroup driver systemd needs: {DRIVERS}"
        ))),
        (Driver::Systemd, _) => {
            systemd::slice_path(parent).map_err(|error| Error::invalid(format!("cgroup_parent: {error}")))
        }
        (Driver::Cgroupfs, _) if parent.ends_with(".slice") => Err(Error::invalid(format!(
            "cgroup_parent: {parent:?} is a slice of systemd, and the cgroup driver is cgroupfs: {DRIVERS}"
        ))),
        (Driver::Cgroupfs, _) if !is_clean_absolute(parent) || parent == "/" => Err(Error::invalid(format!(
            "cgroup_parent: {parent:?} must be absolute, below the root, and without \"..\""
        ))),
        (Driver::Cgroupfs, _) => Ok(parent.into()),
    }
}

/// The group of a container, or of the pause process, in that of its pod.
pub(crate) fn of_container(pod: &Path, id: &str) -> PathBuf {
    match Location::at(pod).driver() {
        Driver::Systemd => pod.join(format!("cri-vaquita-{id}.scope")),
        Driver::Cgroupfs => pod.join(id),
    }
}

/// The group that somebody has chosen for a container of a pod, by a path or, with systemd, by `slice:prefix:name`.
///
/// # Errors
/// `Invalid` for what the pod's driver cannot make; `Exists` for a group that is there: it goes with the container.
pub(crate) fn chosen(layout: &Layout, pod: &Path, asked: &Path) -> Result<PathBuf> {
    let text = asked.to_string_lossy();
    let parts: Vec<&str> = text.split(':').collect();
    let path = match parts[..] {
        [slice, prefix, name] => systemd::slice_path(slice)
            .map_err(|error| Error::invalid(format!("cgroups_path: {error}")))?
            .join(format!("{prefix}-{name}.scope")),
        _ => asked.to_owned(),
    };
    if !path.to_str().is_some_and(is_clean_absolute) || path == Path::new("/") {
        return Err(Error::invalid(format!(
            "cgroups_path: {text:?} must be absolute, below the root, and without \"..\""
        )));
    }
    if is_systemd(&path) != is_systemd(pod) {
        return Err(Error::invalid(format!(
            "cgroups_path: {text:?} is not made by whoever makes the pod's, {}",
            pod.display()
        )));
    }
    match Cgroup::open(layout, &path) {
        Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => Ok(path),
        Err(error) => Err(error).doing(|| format!("open the cgroup {}", path.display())),
        Ok(_) => Err(Error::new(
            Kind::Exists,
            format!("cgroups_path: {text:?} is there: a container's cgroup is made and removed with it"),
        )),
    }
}

/// Whether systemd makes the group at that path.
pub(crate) fn is_systemd(path: &Path) -> bool {
    Location::at(path).driver() == Driver::Systemd
}

/// Whose group it is, by the name that we give one: the id of a sandbox or of a container.
pub(crate) fn id(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let id = match (name.strip_suffix(".scope"), name.strip_suffix(".slice")) {
        (Some(scope), _) => scope.strip_prefix("cri-vaquita-")?,
        (_, Some(slice)) => slice.rsplit('-').next()?,
        _ => name,
    };
    Some(id).filter(|id| crate::model::is_id(id))
}

/// The groups that pods share, innermost first: the root, and the classes of service that the node agent has below it.
pub(crate) fn shared(root: &Path) -> Vec<PathBuf> {
    let below = |outer: &Path, name: &str| match is_systemd(outer) {
        true => systemd::slice_below(outer, name).ok(),
        false => Some(outer.join(name)),
    };
    let pods = below(root, "kubepods");
    let classes =
        pods.iter().flat_map(|pods| [below(pods, "besteffort"), below(pods, "burstable")]).flatten();
    classes.chain(pods.clone()).chain([root.to_owned()]).collect()
}

/// Makes a group with these limits, or sets those of a slice that is there.
pub(crate) fn make(layout: &Layout, path: &Path, limits: &Resources) -> Result<Cgroup> {
    let doing = || format!("create the cgroup {}", path.display());
    let annotations = HashMap::<String, String>::new();
    let placed = Location::at(path).create(layout, limits, &annotations).doing(doing)?;
    let cgroup =
        placed.into_cgroup().ok_or_else(|| Error::invalid(format!("no cgroup {}", path.display())))?;
    cgroup.finish().doing(doing)?;
    Ok(cgroup)
}

/// Changes the limits of a group, for systemd too where it is its own.
pub(crate) fn limit(layout: &Layout, path: &Path, limits: &Resources) -> Result<()> {
    Location::at(path).update(layout, limits).doing(|| format!("set the limits of {}", path.display()))
}

/// Removes a group that pods share, unless there is something in it.
pub(crate) fn remove_unused(layout: &Layout, path: &Path) -> Result<()> {
    let doing = || format!("remove the cgroup {}", path.display());
    if !is_systemd(path) {
        return vaquita_cgroup::remove_empty_parents(layout, &path.join("none"), "/".as_ref()).doing(doing);
    }
    // systemd would stop what is in a slice with it.
    match vaquita_cgroup::list(layout, path).doing(doing)?.len() {
        1 => remove_empty(layout, path),
        _ => Ok(()),
    }
}

/// Kills what is in these groups and removes them. Those that are not there are removed.
pub(crate) fn remove<'a>(layout: &Layout, paths: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let mut failures = Failures::default();
    for path in paths {
        failures.note(remove_one(layout, path));
    }
    failures.finish("removing cgroups")
}

fn remove_one(layout: &Layout, path: &Path) -> Result<()> {
    let open = || match Cgroup::open(layout, path) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(error) if error.kind() == vaquita_cgroup::Kind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("open the cgroup {}", path.display())),
    };
    let cgroup = if is_systemd(path) {
        open()?
    } else {
        if open()?.is_none() {
            return Ok(());
        }
        // Mostly nobody is in it any more: to look for whom to kill takes six calls in every hierarchy.
        let above = path.parent().unwrap_or(path);
        vaquita_cgroup::remove_empty_parents(layout, &path.join("none"), above)
            .doing(|| format!("remove the cgroup {}", path.display()))?;
        let Some(cgroup) = open()? else { return Ok(()) };
        Some(cgroup)
    };
    // systemd may know a unit still that is not there.
    if let Some(cgroup) = cgroup {
        cgroup.kill().doing(|| format!("kill the cgroup {}", path.display()))?;
    }
    remove_empty(layout, path)
}

/// Removes a group that nobody is in, and has systemd forget it where it is its own.
pub(crate) fn remove_empty(layout: &Layout, path: &Path) -> Result<()> {
    Location::at(path).remove(layout).doing(|| format!("remove the cgroup {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_parent_says_where_a_pod_is() {
        let slice = "/kubepods.slice/kubepods-podu_1.slice";
        let of = |driver, parent: &str, root: &str| of_pod(driver, parent, root.as_ref(), ID);
        for (driver, parent, pod) in [
            (Driver::Cgroupfs, "", format!("/vaquita/{ID}")),
            (Driver::Cgroupfs, "/kubepods/podu-1", "/kubepods/podu-1".to_owned()),
            (Driver::Systemd, slice, slice.to_owned()),
            (Driver::Systemd, "kubepods-podu_1.slice", slice.to_owned()),
        ] {
            assert_eq!(of(driver, parent, "/vaquita").unwrap(), Path::new(&pod), "{driver:?} {parent}");
        }
        let pod = of(Driver::Systemd, "", "/vaquita.slice").unwrap();
        assert_eq!(pod, PathBuf::from(format!("/vaquita.slice/vaquita-{ID}.slice")));
        assert_eq!(of_container(&pod, ID), pod.join(format!("cri-vaquita-{ID}.scope")));
        assert_eq!(of_container("/vaquita/a".as_ref(), ID), PathBuf::from(format!("/vaquita/a/{ID}")));
    }

    #[test]
    fn a_parent_of_the_other_driver_is_refused_with_a_way_out() {
        for (driver, parent) in [
            (Driver::Cgroupfs, "/kubepods.slice/kubepods-podu.slice"),
            (Driver::Cgroupfs, "kubepods-podu.slice"),
            (Driver::Systemd, "/kubepods/podu"),
            (Driver::Systemd, "/kubepods.slice/podu"),
        ] {
            let error = of_pod(driver, parent, "/vaquita".as_ref(), ID).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            let text = error.to_string();
            assert!(text.contains("cgroup driver") && text.contains("--cgroup-driver"), "{text}");
        }
        for (driver, parent) in [
            (Driver::Cgroupfs, "/"),
            (Driver::Cgroupfs, "a/b"),
            (Driver::Cgroupfs, "/a/../b"),
            (Driver::Systemd, "-.slice"),
            (Driver::Systemd, "a--b.slice"),
            (Driver::Systemd, "/b.slice/a-b.slice"),
            (Driver::Systemd, "../a.slice"),
        ] {
            let error = of_pod(driver, parent, "/vaquita".as_ref(), ID).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{parent}");
        }
    }

    #[test]
    fn groups_are_known_by_their_names() {
        for ours in [ID.to_owned(), format!("cri-vaquita-{ID}.scope"), format!("vaquita-{ID}.slice")] {
            assert_eq!(id(&Path::new("/x").join(&ours)), Some(ID), "{ours}");
        }
        for other in ["/", "/vaquita", "/vaquita.slice", "/kubepods/podu", "/x.scope", "/cri-vaquita-1.scope"]
        {
            assert_eq!(id(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn classes_of_service_are_shared() {
        let text = |root: &str| {
            shared(root.as_ref()).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(text("/v"), ["/v/kubepods/besteffort", "/v/kubepods/burstable", "/v/kubepods", "/v"]);
        let pods = "/v.slice/v-kubepods.slice";
        assert_eq!(
            text("/v.slice"),
            [
                format!("{pods}/v-kubepods-besteffort.slice").as_str(),
                &format!("{pods}/v-kubepods-burstable.slice"),
                pods,
                "/v.slice"
            ]
        );
    }
}
