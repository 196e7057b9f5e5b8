//! Reading `cgroupsPath`.

use std::path::{Component, Path, PathBuf};

use crate::systemd::{Bus, Unit};
use crate::{Error, Kind, Result};

/// The group for cgroupfs: `given`, or `id`, from `base` unless it is absolute.
pub(super) fn cgroupfs(given: Option<&Path>, id: &str, base: &Path) -> Result<PathBuf> {
    let path = base.join(given.filter(|path| !path.as_os_str().is_empty()).unwrap_or(id.as_ref()));
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let is_group =
        path.components().count() > 1 && path.to_str().is_some_and(|text| !text.contains(['\n', '\0']));
    if !is_plain || !is_group {
        let message = format!("cgroupsPath {path:?} is not the path of a control group below the root");
        return Err(Error::refused(Kind::Invalid, message));
    }
    if path.to_str().is_some_and(|text| text.matches(':').count() == 2 && !text[1..].contains('/')) {
        let message = format!(
            "cgroupsPath {:?} is of the form slice:prefix:name: the systemd driver (--systemd-cgroup) reads that",
            given.unwrap_or(id.as_ref())
        );
        return Err(Error::refused(Kind::Invalid, message));
    }
    Ok(path)
}

/// The scope of `slice:prefix:name`. As runc reads it: an empty slice is the default one.
pub(super) fn scope(given: Option<&Path>, id: &str, bus: Bus, default_slice: &str) -> Result<Unit> {
    let Some(given) = given.filter(|path| !path.as_os_str().is_empty()) else {
        return Unit::new(bus, default_slice, &format!("vaquita-{id}.scope"));
    };
    let text = given.to_str().unwrap_or_default();
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        let message =
            format!("cgroupsPath {given:?} must be of the form slice:prefix:name for the systemd driver");
        return Err(Error::refused(Kind::Invalid, message));
    };
    if name.is_empty() || name.ends_with(".slice") {
        let message = format!("cgroupsPath {given:?} must name a scope; {name:?} is the name of none");
        return Err(Error::refused(Kind::Invalid, message));
    }
    let slice = if slice.is_empty() { default_slice } else { slice };
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    Unit::new(bus, slice, &unit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is accepted is below the base or absolute, and has no step up, no NUL and no line break.
        #[test]
        fn no_path_leads_elsewhere(text in "[a.:/\\n\\x00 -]{0,24}") {
            if let Ok(path) = cgroupfs(Some(Path::new(&text)), "id", "/base".as_ref()) {
                let shown = path.to_str().unwrap();
                prop_assert!(path.is_absolute() && path != Path::new("/"));
                prop_assert!(!path.components().any(|part| part == Component::ParentDir), "{:?}", shown);
                prop_assert!(!shown.contains(['\n', '\0']), "{:?}", shown);
                prop_assert!(text.starts_with('/') || path.starts_with("/base"), "{:?}", shown);
            }
            if let Ok(scope) = scope(Some(Path::new(&text)), "id", Bus::System, "system.slice") {
                let path = scope.path_below(Path::new("/m")).unwrap();
                prop_assert!(path.starts_with("/m") && scope.name().ends_with(".scope"), "{:?}", path);
                prop_assert!(!path.components().any(|part| part == Component::ParentDir), "{:?}", path);
                prop_assert!(!scope.name().contains(['/', '\n', '\0']), "{:?}", scope.name());
            }
        }
    }

    #[test]
    fn paths_of_cgroupfs() {
        let path = |given: Option<&str>| cgroupfs(given.map(Path::new), "c1", "/base".as_ref());
        assert_eq!(path(Some("/a/b")).unwrap(), Path::new("/a/b"));
        assert_eq!(path(Some("a")).unwrap(), Path::new("/base/a"));
        assert_eq!(path(Some("")).unwrap(), Path::new("/base/c1"));
        assert_eq!(path(None).unwrap(), Path::new("/base/c1"));
        assert_eq!(cgroupfs(None, "a:b:c", "/base".as_ref()).unwrap(), Path::new("/base/a:b:c"));
        for bad in ["/", "..", "/a/../../b", "a\nb", "a\0b"] {
            assert_eq!(path(Some(bad)).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
        let error = cgroupfs(Some("s.slice:p:n".as_ref()), "c1", "/".as_ref()).unwrap_err();
        assert!(error.to_string().contains("--systemd-cgroup"), "{error}");
    }

    #[test]
    fn scopes() {
        let read = |given: Option<&str>| {
            let scope = scope(given.map(Path::new), "c1", Bus::System, "system.slice")?;
            Ok::<_, Error>(format!("{} {}", scope.name(), scope.path_below("/".as_ref())?.display()))
        };
        assert_eq!(read(None).unwrap(), "vaquita-c1.scope /system.slice/vaquita-c1.scope");
        assert_eq!(read(Some(":docker:x")).unwrap(), "docker-x.scope /system.slice/docker-x.scope");
        assert_eq!(read(Some("a-b.slice::x")).unwrap(), "x.scope /a.slice/a-b.slice/x.scope");
        assert_eq!(read(Some("-.slice:p:x")).unwrap(), "p-x.scope /p-x.scope");
        for bad in ["/a/b", "a:b", "a:b:c:d", "a.slice:p:", "a.slice:p:x.slice", "a:p:x", "a.slice:p/../q:x"]
        {
            assert_eq!(read(Some(bad)).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }
}
