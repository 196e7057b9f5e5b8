//! Containers' groups, from the making to the removal, on the host's own kernel.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vaquita_cgroup::{Cgroup, Driver, Kind, Layout, Location, Resources};
use vaquita_sys::process::Idle;
use vaquita_testing::{Defer, Leaks, require_root, unique};

/// A process that ends when its input is closed, or when the test does.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Self {
        Self(Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_location_goes_from_the_making_to_the_removal() {
    require_root();
    let layout = Layout::detect().unwrap();
    let tag = unique("vqloc");
    let _leaks = Leaks::of(&tag);
    let path = PathBuf::from("/").join(&tag).join("pod/c1");
    let mut location = Location::new(Driver::Cgroupfs, Some(&path), "c1").unwrap();
    let limits = Resources { pids_limit: Some(7), devices: Some(Vec::new()), ..Resources::default() };
    let mut placed = location.create(&layout, &limits, &HashMap::new()).unwrap();
    // A crash from here on leaves what the removal finds.
    assert!(!layout.hierarchies().iter().any(is_v2) || location.open(&layout).unwrap().is_some());
    placed.cgroup().unwrap().finish().unwrap();
    location.note_parents(&placed);
    let saved = serde_json::to_string(&location).unwrap();
    placed.settle(1).unwrap();
    let location: Location = serde_json::from_str(&saved).unwrap();
    let _clean = Defer::new(|| location.remove(&layout).unwrap());
    let group = location.open(&layout).unwrap().unwrap();
    assert_eq!(group.stats().unwrap().pids.unwrap().limit, Some(7));
    location.update(&layout, &Resources { pids_limit: Some(9), ..Resources::default() }).unwrap();
    assert_eq!(group.stats().unwrap().pids.unwrap().limit, Some(9));

    let sleeper = Sleeper::new();
    group.add(sleeper.pid()).unwrap();
    let again = Location::new(Driver::Cgroupfs, Some(&path), "c2").unwrap();
    let error = again.clone().create(&layout, &limits, &HashMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("has 1 processes already"), "{error}");
    drop(sleeper);
    group.freeze().unwrap();
    let error = again.clone().create(&layout, &limits, &HashMap::new()).unwrap_err();
    assert!(error.to_string().contains("is frozen"), "{error}");
    group.thaw().unwrap();
    // It was there: the second container's removal leaves the first one's parents.
    let mut again = again;
    again.create(&layout, &limits, &HashMap::new()).unwrap();
    again.remove(&layout).unwrap();
    assert_eq!(location.open(&layout).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(vaquita_cgroup::list(&layout, &Path::new("/").join(&tag)).unwrap().len(), 2);
    location.remove(&layout).unwrap();
    assert_eq!(vaquita_cgroup::list(&layout, &Path::new("/").join(&tag)).unwrap().len(), 0);
}

#[test]
fn an_ordinary_user_on_v1_gets_no_group_and_no_limits() {
    let layout = Layout::detect().unwrap();
    if layout.is_v2() {
        // There it depends on what is delegated: the tests of `rootless` make that.
        return;
    }
    let mut location = Location::rootless(&layout, Driver::Cgroupfs, None, "c1").unwrap();
    assert_eq!(location.path(), None);
    let none = Resources { devices: Some(Vec::new()), ..Resources::default() };
    let mut placed = location.create(&layout, &none, &HashMap::new()).unwrap();
    assert!(placed.cgroup().is_none());
    placed.settle(1).unwrap();
    assert!(location.open(&layout).unwrap().is_none());
    let limits = Resources { memory_limit: Some(1 << 20), ..Resources::default() };
    let error = location.create(&layout, &limits, &HashMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert_eq!(location.update(&layout, &limits).unwrap_err().kind(), Kind::Denied);
    location.remove(&layout).unwrap();
    let error = Location::rootless(&layout, Driver::Systemd, None, "c1").unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

fn is_v2(hierarchy: &vaquita_cgroup::Hierarchy) -> bool {
    hierarchy.version == vaquita_cgroup::Version::V2
}

/// Rootless where something is delegated: the child of this test is an ordinary user in a group that was given to it.
#[test]
fn an_ordinary_user_makes_groups_where_they_are_delegated() {
    require_root();
    let layout = Layout::detect().unwrap();
    if !layout.is_v2() {
        // v1 cannot be delegated safely: nothing is given away, and nothing is taken for given.
        let tag = unique("vqloc");
        let group = Cgroup::create(&layout, &Path::new("/").join(&tag), &Resources::default()).unwrap();
        let _clean = Defer::new(|| group.remove().unwrap());
        group.give_to(65534).unwrap();
        for hierarchy in layout.hierarchies() {
            let owner =
                std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(hierarchy.mount.join(&tag)).unwrap());
            assert_eq!(owner, 0, "{hierarchy:?}");
        }
        return;
    }
    let tag = unique("vqloc");
    let _leaks = Leaks::of(&tag);
    let top = Path::new("/").join(&tag);
    let given = Cgroup::create(&layout, &top, &Resources::default()).unwrap();
    let inner = Cgroup::create(&layout, &top.join("session"), &Resources::default()).unwrap();
    let _clean = Defer::new(|| {
        given.kill().unwrap();
        given.remove().unwrap();
    });
    given.give_to(65534).unwrap();
    inner.give_to(65534).unwrap();
    let output = ordinary_user(&tag, &inner);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(vaquita_cgroup::list(&layout, &top).unwrap().len(), 2, "the user has tidied up");
}

/// Runs [`as_an_ordinary_user`] in the group.
fn ordinary_user(tag: &str, group: &Cgroup) -> std::process::Output {
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let program = dir.path().join("tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for path in [dir.path(), &program] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // It waits for a line, so that it is in its group before it does anything.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "read line && exec \"$@\"", "sh"])
        .arg(&program)
        .args(["--ignored", "--exact", "location::as_an_ordinary_user"])
        .env("VAQUITA_TAG", tag)
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    group.add(child.id().try_into().unwrap()).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait_with_output().unwrap()
}

#[test]
#[ignore = "is run by an_ordinary_user_makes_groups_where_they_are_delegated"]
fn as_an_ordinary_user() {
    let tag = std::env::var("VAQUITA_TAG").unwrap();
    let layout = Layout::detect().unwrap();
    let mut location = Location::rootless(&layout, Driver::Cgroupfs, None, "c1").unwrap();
    assert_eq!(location.path().unwrap(), Path::new("/").join(&tag).join("vaquita-c1"));
    let limits = Resources { pids_limit: Some(7), devices: Some(Vec::new()), ..Resources::default() };
    let mut placed = location.create(&layout, &limits, &HashMap::new()).unwrap();
    let group = placed.cgroup().unwrap();
    assert!(group.takes_clones() && group.dir_fd().is_some());
    group.set_devices(&[]).unwrap();
    let first = Idle::new().unwrap();
    group.add(first.pid()).unwrap();
    placed.settle(first.pid()).unwrap();
    let group = location.open(&layout).unwrap().unwrap();
    assert_eq!(group.procs().unwrap(), [first.pid()]);
    assert_eq!(group.stats().unwrap().pids.unwrap().limit, Some(7));
    location.update(&layout, &Resources { pids_limit: Some(9), ..Resources::default() }).unwrap();
    assert_eq!(group.stats().unwrap().pids.unwrap().limit, Some(9));
    group.kill().unwrap();
    drop(first);
    location.remove(&layout).unwrap();
    // It may not raise what it was given, nor leave it.
    let limit = Path::new("/sys/fs/cgroup").join(&tag).join("pids.max");
    assert_eq!(std::fs::write(limit, "max").unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
    let outside = Path::new("/elsewhere");
    let mut location = Location::rootless(&layout, Driver::Cgroupfs, Some(outside), "c1").unwrap();
    let error = location.create(&layout, &Resources::default(), &HashMap::new()).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
}
