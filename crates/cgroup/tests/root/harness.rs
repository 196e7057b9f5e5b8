//! What the tests share: groups that go with the test, and processes in them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use vaquita_cgroup::{Cgroup, Layout, Resources, Version, remove_empty_parents};
use vaquita_sys::process::{Clone, Exit, Forked, clone3, exit_now, try_wait_pidfd, wait_pidfd};
use vaquita_sys::signal::{Signal, send};
use vaquita_sys::socket;
use vaquita_testing::{Defer, Leaks, require_root, unique};

/// A child in a group, blocked on a socket until it is told to go on.
pub(crate) struct Member {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Member {
    /// `body` runs in the group once the test says so. It must neither allocate nor panic.
    pub(crate) fn new(group: &Cgroup, by_clone: bool, body: impl FnOnce() -> i32) -> Self {
        let (ours, theirs) = socket::pair().unwrap();
        let cgroup = if by_clone { group.dir_fd() } else { None };
        let entry = if cgroup.is_some() { group.entry_after_clone() } else { group.entry() }.unwrap();
        let how = Clone { cgroup, ..Clone::default() };
        // SAFETY: the child makes system calls only, and exits.
        match unsafe { clone3(&how) }.unwrap() {
            Forked::Child => {
                let entered = entry.enter_self().map_or_else(|errno| errno.raw_os_error(), |()| 0);
                let _ = rustix::io::write(&theirs, &entered.to_ne_bytes());
                let _ = rustix::io::read(&theirs, &mut [0; 1]);
                exit_now(body())
            }
            Forked::Parent { pid, pidfd } => {
                let mut entered = [0; 4];
                rustix::io::read(&ours, &mut entered).unwrap();
                assert_eq!(i32::from_ne_bytes(entered), 0, "the child could not enter");
                Self { pid: pid.as_raw_nonzero().get(), pidfd, socket: ours }
            }
        }
    }

    pub(crate) fn sleeper(group: &Cgroup) -> Self {
        Self::new(group, true, || 0)
    }

    pub(crate) fn go(&self) {
        rustix::io::write(&self.socket, b"x").unwrap();
    }

    pub(crate) fn finish(self) -> Exit {
        self.go();
        wait_pidfd(&self.pidfd).unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if matches!(try_wait_pidfd(&self.pidfd), Ok(None)) {
            let _ = send(&self.pidfd, Signal::KILL);
            let _ = wait_pidfd(&self.pidfd);
        }
    }
}

/// The host's layout; and where that is hybrid, its v1 hierarchies alone, as hosts without the v2 one have them.
pub(crate) fn layouts() -> Vec<Layout> {
    let whole = Layout::detect().unwrap();
    let v1 = whole.hierarchies().iter().filter(|hierarchy| hierarchy.version == Version::V1).cloned();
    match Layout::new(v1.collect()) {
        // Kernels can be built without the v1 interface of some controllers; then this is no whole host.
        Ok(v1) if v1 != whole && v1.controller("memory").is_some() => vec![whole, v1],
        _ => vec![whole],
    }
}

/// A group of its own for a test, removed with its parents at the end; once in each layout.
pub(crate) fn with_group(resources: &Resources, test: impl Fn(&Layout, &Cgroup)) {
    require_root();
    for layout in layouts() {
        let tag = unique("vqcg");
        let _leaks = Leaks::of(&tag);
        let top = PathBuf::from("/").join(&tag);
        let group = Cgroup::create(&layout, &top.join("pod/leaf"), resources).unwrap();
        let _clean = Defer::new(|| {
            group.kill().unwrap();
            group.remove().unwrap();
            remove_empty_parents(&layout, group.path(), Path::new("/")).unwrap();
        });
        test(&layout, &group);
    }
}

/// What a file of the group says, in the hierarchy of the controller.
pub(crate) fn file(layout: &Layout, group: &Cgroup, controller: &str, v1: &str, v2: &str) -> String {
    let hierarchy = layout.controller(controller).unwrap();
    let name = if hierarchy.version == Version::V1 { v1 } else { v2 };
    let path = hierarchy.mount.join(group.path().strip_prefix("/").unwrap()).join(name);
    std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}
