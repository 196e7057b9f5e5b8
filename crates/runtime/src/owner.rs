//! Whose a container's cgroup is: OCI runtime specification 1.3, config-linux.md, "Cgroup ownership".

use std::ffi::OsStr;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use vaquita_cgroup::Cgroup;
use vaquita_sys::procfs::Procfs;

use crate::Error;

/// The kernel's maps have 340 lines at most, of three numbers (user_namespaces(7)).
const LONGEST_MAP: usize = 64 << 10;

/// Gives the container's cgroup to the user that its program runs as, where that one is meant to make groups of its own
/// inside: with a cgroup namespace of its own and the hierarchy mounted for writing. With v1 nothing is given.
///
/// `has_other_users` says whether the container is in another user namespace than the caller ([`crate::Plan::has_other_users`]);
/// `pid` is the container's first process, whose user namespace knows who that is also where it was joined.
///
/// # Errors
/// Where the owner of the group's files cannot be changed.
pub fn give(spec: &Spec, has_other_users: bool, cgroup: Option<&Cgroup>, pid: i32) -> Result<(), Error> {
    let (Some(cgroup), true) = (cgroup, is_meant(spec)) else { return Ok(()) };
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let owner = if has_other_users {
        let map = Procfs::host()?.read(format!("{pid}/uid_map"), LONGEST_MAP)?;
        outside(&String::from_utf8_lossy(&map), uid)
    } else {
        Some(uid)
    };
    // A user that is not mapped can run nothing: starting the container says so.
    owner.map_or(Ok(()), |owner| Ok(cgroup.give_to(owner)?))
}

fn is_meant(spec: &Spec) -> bool {
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let is_own = namespaces.iter().any(|namespace| {
        let joins = namespace.path().as_ref().is_some_and(|path| path.as_os_str() != OsStr::new(""));
        namespace.typ() == LinuxNamespaceType::Cgroup && !joins
    });
    is_own && spec.mounts().iter().flatten().any(is_writable_hierarchy)
}

fn is_writable_hierarchy(mount: &Mount) -> bool {
    let is_read_only = mount.options().iter().flatten().any(|option| matches!(option.as_str(), "ro" | "rro"));
    matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
        && mount.destination() == Path::new("/sys/fs/cgroup")
        && !is_read_only
}

/// The user outside of a namespace with this map who is `inside` within.
fn outside(map: &str, inside: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let (Some(Ok(first)), Some(Ok(host)), Some(Ok(size))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return None;
        };
        let (first, host, size): (u32, u32, u32) = (first, host, size);
        let offset = inside.checked_sub(first).filter(|offset| *offset < size)?;
        host.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_looked_up_in_the_map() {
        let map = "         0     100000      65536\n     70000       1000          1\n";
        assert_eq!(outside(map, 0), Some(100_000));
        assert_eq!(outside(map, 65_535), Some(165_535));
        assert_eq!(outside(map, 65_536), None);
        assert_eq!(outside(map, 70_000), Some(1000));
        assert_eq!(outside("0 0 4294967295\n", 7), Some(7));
        assert_eq!(outside("5 4294967290 100\n", 104), None);
        assert_eq!(outside("", 0), None);
    }

    #[test]
    fn it_takes_a_namespace_and_a_mount_for_writing() {
        let spec = |namespaces: &str, mount: &str| {
            let text = format!(
                r#"{{"ociVersion": "1.3.0", "linux": {{"namespaces": [{namespaces}]}}, "mounts": [{{{mount}}}]}}"#
            );
            serde_json::from_str::<Spec>(&text).unwrap()
        };
        let mount = |kind: &str, option: &str| {
            format!(
                r#""destination": "/sys/fs/cgroup", "type": "{kind}", "source": "cgroup", "options": ["nosuid", "{option}"]"#
            )
        };
        let own = r#"{"type": "cgroup"}"#;
        assert!(is_meant(&spec(own, &mount("cgroup", "rw"))));
        assert!(is_meant(&spec(own, &mount("cgroup2", "relatime"))));
        assert!(!is_meant(&spec(own, &mount("cgroup", "ro"))));
        assert!(!is_meant(&spec(own, &mount("bind", "rw"))));
        assert!(!is_meant(&spec(own, r#""destination": "/cgroup", "type": "cgroup", "source": "cgroup""#)));
        assert!(!is_meant(&spec("", &mount("cgroup", "rw"))));
        assert!(!is_meant(&spec(
            r#"{"type": "cgroup", "path": "/proc/1/ns/cgroup"}"#,
            &mount("cgroup", "rw")
        )));
    }
}
