//! User namespaces: the users that a pod has for itself.

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};
use vaquita_proto::cri;
use vaquita_shim::IdMap;

use super::User;
use crate::{Error, Result};

/// The ids of a pod's user namespace, which begin with its root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Users {
    /// User ids.
    pub(crate) uids: IdMap,
    /// Group ids.
    pub(crate) gids: IdMap,
}

impl Users {
    /// Its root, as the host's user and group ids.
    pub(crate) fn root(&self) -> (u32, u32) {
        (self.uids.outside, self.gids.outside)
    }

    /// Whether everybody whom a container runs as is in the map.
    pub(crate) fn check(&self, user: &User) -> Result<()> {
        let outside = |what: &str, id: u32, map: &IdMap| {
            let last = map.length - 1;
            Err(Error::invalid(format!(
                "{what}: {id} is not among the ids of the pod's user namespace, 0…{last} (userns_options)"
            )))
        };
        if user.uid >= self.uids.length {
            return outside("run_as_user", user.uid, &self.uids);
        }
        match user.groups.iter().chain([&user.gid]).find(|gid| **gid >= self.gids.length) {
            Some(gid) => outside("supplemental_groups, run_as_group", *gid, &self.gids),
            None => Ok(()),
        }
    }
}

/// The users of a sandbox, if it has any of its own. What the client says of them is checked: one range each for users
/// and groups, of the same length, which begins with the namespace's root.
pub(crate) fn users(sandbox: &cri::PodSandboxConfig) -> Result<Option<Users>> {
    let options = crate::model::namespaces(sandbox);
    let Some(userns) = &options.userns_options else { return Ok(None) };
    let refuse = |why: String| Err(Error::invalid(format!("userns_options: {why}")));
    match cri::NamespaceMode::try_from(userns.mode) {
        Ok(cri::NamespaceMode::Node) if userns.uids.is_empty() && userns.gids.is_empty() => return Ok(None),
        Ok(cri::NamespaceMode::Node) => {
            return refuse("mode NODE has no mappings: its users are the host's".into());
        }
        Ok(cri::NamespaceMode::Pod) => {}
        Ok(mode) => return refuse(format!("mode {} is not possible: POD or NODE", mode.as_str_name())),
        Err(_) => return refuse(format!("mode {} is unknown", userns.mode)),
    }
    let users = Users { uids: one("uids", &userns.uids)?, gids: one("gids", &userns.gids)? };
    if users.uids.length != users.gids.length {
        return refuse(format!(
            "{} uids and {} gids: there must be as many of one as of the other",
            users.uids.length, users.gids.length
        ));
    }
    let node = cri::NamespaceMode::Node as i32;
    for (name, mode) in [("ipc", options.ipc), ("pid", options.pid)] {
        if mode == node {
            return refuse(format!(
                "a pod with users of its own cannot have the host's {name} namespace (namespace_options.{name})"
            ));
        }
    }
    if super::security::is_privileged(sandbox) {
        return refuse("a pod with users of its own cannot be privileged".into());
    }
    Ok(Some(users))
}

fn one(field: &str, mappings: &[cri::IdMapping]) -> Result<IdMap> {
    let refuse = |why: String| Err(Error::invalid(format!("userns_options.{field}: {why}")));
    let [mapping] = mappings else {
        return refuse(format!("{} mappings: there must be one", mappings.len()));
    };
    let cri::IdMapping { host_id: outside, container_id: inside, length } = *mapping;
    if inside != 0 {
        return refuse(format!("the mapping begins with {inside}: id 0, the pod's root, must be mapped"));
    }
    // The last number is no id.
    if length == 0 || outside.checked_add(length).is_none() {
        return refuse(format!("{length} ids from {outside} on are no range of ids"));
    }
    Ok(IdMap { inside, outside, length })
}

/// A container has the users of its sandbox.
pub(super) fn same_as_sandbox(
    options: Option<&cri::NamespaceOption>,
    sandbox: &cri::PodSandboxConfig,
) -> Result<()> {
    let Some(options) = options else { return Ok(()) };
    let host = cri::UserNamespace { mode: cri::NamespaceMode::Node as i32, ..Default::default() };
    let of_sandbox = crate::model::namespaces(sandbox).userns_options.unwrap_or_else(|| host.clone());
    let asked = options.userns_options.clone().unwrap_or(host);
    if asked == of_sandbox {
        return Ok(());
    }
    Err(Error::invalid("userns_options: the container's differ from those of its sandbox"))
}

/// Has the identities of a mount mapped, where the client says how.
pub(super) fn map(mount: &mut Mount, asked: &cri::Mount, users: Option<&Users>) -> Result<()> {
    if asked.uid_mappings.is_empty() && asked.gid_mappings.is_empty() {
        return Ok(());
    }
    let field = format!("mounts[{}]", asked.container_path);
    if asked.uid_mappings.is_empty() || asked.gid_mappings.is_empty() {
        return Err(Error::invalid(format!("{field}: uidMappings and gidMappings need each other")));
    }
    let is = |mappings: &[cri::IdMapping], map: &IdMap| match mappings {
        [one] => (one.container_id, one.host_id, one.length) == (map.inside, map.outside, map.length),
        _ => false,
    };
    let are_the_pods = users
        .is_some_and(|users| is(&asked.uid_mappings, &users.uids) && is(&asked.gid_mappings, &users.gids));
    if asked.image.as_ref().is_some_and(|image| !image.image.is_empty()) {
        if are_the_pods {
            // They are below it: an overlay cannot be mapped itself.
            return Ok(());
        }
        return Err(Error::unsupported(format!(
            "{field}: uidMappings and gidMappings of an image volume can only be those of its pod (userns_options)"
        )));
    }
    if are_the_pods {
        // The namespace is there already.
        let mut options = mount.options().clone().unwrap_or_default();
        options.push("idmap".into());
        mount.set_options(Some(options));
        return Ok(());
    }
    mount.set_uid_mappings(Some(mappings(&field, &asked.uid_mappings)?));
    mount.set_gid_mappings(Some(mappings(&field, &asked.gid_mappings)?));
    Ok(())
}

fn mappings(field: &str, asked: &[cri::IdMapping]) -> Result<Vec<LinuxIdMapping>> {
    let one = |mapping: &cri::IdMapping| {
        let builder = LinuxIdMappingBuilder::default();
        let built =
            builder.container_id(mapping.container_id).host_id(mapping.host_id).size(mapping.length).build();
        built.map_err(|error| Error::invalid(format!("{field}: {error}")))
    };
    asked.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cri::NamespaceMode::{Container, Node, Pod, Target};

    fn sandbox(change: impl FnOnce(&mut cri::NamespaceOption)) -> cri::PodSandboxConfig {
        let map = vec![cri::IdMapping { host_id: 65536, container_id: 0, length: 65536 }];
        let userns = cri::UserNamespace { mode: Pod as i32, uids: map.clone(), gids: map };
        let mut options = cri::NamespaceOption { userns_options: Some(userns), ..Default::default() };
        change(&mut options);
        let context =
            cri::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        cri::PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    fn with(change: impl FnOnce(&mut cri::UserNamespace)) -> Result<Option<Users>> {
        users(&sandbox(|options| change(options.userns_options.as_mut().unwrap())))
    }

    #[test]
    fn one_range_that_begins_with_root() {
        let users = with(|_| {}).unwrap().unwrap();
        assert_eq!(users.root(), (65536, 65536));
        let user = |uid, gid, groups: &[u32]| User { uid, gid, groups: groups.to_vec(), home: String::new() };
        users.check(&user(65535, 0, &[65535])).unwrap();
        for (bad, field) in [
            (user(65536, 0, &[]), "run_as_user"),
            (user(0, 65536, &[]), "group"),
            (user(0, 0, &[70000]), "70000"),
        ] {
            let error = users.check(&bad).unwrap_err().to_string();
            assert!(error.contains(field) && error.contains("0…65535"), "{error}");
        }
        assert_eq!(
            with(|users| *users = cri::UserNamespace { mode: Node as i32, ..Default::default() }).unwrap(),
            None
        );
        assert_eq!(super::users(&sandbox(|options| options.userns_options = None)).unwrap(), None);
        // Of the host's network there is no harm.
        super::users(&sandbox(|options| options.network = Node as i32)).unwrap().unwrap();
    }

    #[test]
    fn what_is_no_namespace_of_users_is_refused() {
        for mode in [Container as i32, Target as i32, 9, Node as i32] {
            assert!(with(|users| users.mode = mode).is_err(), "{mode}");
        }
        assert!(with(|users| users.uids.push(users.uids[0])).unwrap_err().to_string().contains("2 mappings"));
        assert!(with(|users| users.gids.clear()).unwrap_err().to_string().contains("0 mappings"));
        assert!(with(|users| users.gids[0].container_id = 1).unwrap_err().to_string().contains("id 0"));
        assert!(with(|users| users.gids[0].length = 5).unwrap_err().to_string().contains("as many"));
        assert!(with(|users| users.uids[0].length = 0).is_err());
        assert!(with(|users| users.uids[0].host_id = u32::MAX - 65535).is_err());
        for change in [
            |options: &mut cri::NamespaceOption| options.ipc = Node as i32,
            |options: &mut cri::NamespaceOption| options.pid = Node as i32,
        ] {
            assert!(users(&sandbox(change)).unwrap_err().to_string().contains("the host's"));
        }
        let mut privileged = sandbox(|_| {});
        privileged.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
        assert!(users(&privileged).unwrap_err().to_string().contains("privileged"));
    }

    #[test]
    fn containers_have_the_users_of_their_pod() {
        let own = sandbox(|_| {});
        let options = crate::model::namespaces(&own);
        same_as_sandbox(Some(&options), &own).unwrap();
        same_as_sandbox(None, &own).unwrap();
        same_as_sandbox(Some(&cri::NamespaceOption::default()), &cri::PodSandboxConfig::default()).unwrap();
        assert!(same_as_sandbox(Some(&cri::NamespaceOption::default()), &own).is_err());
        assert!(same_as_sandbox(Some(&options), &cri::PodSandboxConfig::default()).is_err());
    }

    #[test]
    fn mounts_are_mapped_as_asked() {
        let pod = users(&sandbox(|_| {})).unwrap().unwrap();
        let map = |host_id| vec![cri::IdMapping { host_id, container_id: 0, length: 65536 }];
        let asked = |uids, gids| cri::Mount { uid_mappings: uids, gid_mappings: gids, ..Default::default() };
        let mapped = |asked: cri::Mount| {
            let mut mount = super::super::mount("/data", "bind", "/data", &["rbind"]);
            super::map(&mut mount, &asked, Some(&pod)).map(|()| mount)
        };
        let options = |mount: &Mount| mount.options().clone().unwrap();
        assert_eq!(options(&mapped(asked(vec![], vec![])).unwrap()), ["rbind"]);
        let same = mapped(asked(map(65536), map(65536))).unwrap();
        assert_eq!((options(&same).len(), same.uid_mappings()), (2, &None));
        let other = mapped(asked(map(5), map(65536))).unwrap();
        assert_eq!(other.uid_mappings().as_ref().unwrap()[0].host_id(), 5);
        assert_eq!(options(&other), ["rbind"]);
        assert!(mapped(asked(map(5), vec![])).is_err());
    }
}
