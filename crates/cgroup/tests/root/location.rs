//! Containers' groups, from the making to the removal, on the host's own kernel.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use vaquita_cgroup::{Driver, Kind, Layout, Location, Resources};
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
