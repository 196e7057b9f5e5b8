//! The mount API, procfs, namespaces, terminals.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::OFlags;
use vaquita_sys::mount::{
    Attr, Attributes, Filesystem, mount_setattr, mountinfo_of, move_mount, open_tree_clone, umount,
};
use vaquita_sys::procfs::Procfs;
use vaquita_sys::root::Root;
use vaquita_sys::{Errno, Kind, ns, tty};
use vaquita_testing::{lacks, require_root, run_without};

use super::support::{detached_tmpfs, with_own_mounts};

#[test]
fn a_detached_tree_is_built_attached_and_gone() {
    require_root();
    with_own_mounts(|dir| {
        let tree = detached_tmpfs();
        Root::from_fd(tree.try_clone().unwrap()).create_file("a", 0o600).unwrap();
        std::fs::create_dir(dir.join("at")).unwrap();
        move_mount(&tree, rustix::fs::CWD, dir.join("at")).unwrap();
        assert!(dir.join("at/a").exists());
        let read_only = Attr { set: Attributes::RDONLY | Attributes::NOSUID, ..Attr::default() };
        mount_setattr(&tree, "", true, &read_only).unwrap();
        assert_eq!(
            std::fs::write(dir.join("at/b"), "").unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
        let table = mountinfo_of(Path::new("/proc/thread-self/mountinfo")).unwrap();
        let entry = table.iter().find(|entry| entry.mount_point == dir.join("at")).unwrap();
        assert!(entry.options.starts_with("ro,nosuid"), "{}", entry.options);
        let copy = open_tree_clone(&tree, "", false).unwrap();
        umount(dir.join("at"), rustix::mount::UnmountFlags::empty()).unwrap_err(); // Held by `tree`.
        umount(dir.join("at"), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(!dir.join("at/a").exists());
        assert!(Root::from_fd(copy).stat("a").is_ok());
    });
}

#[test]
fn what_the_kernel_says_about_a_filesystem_is_in_the_error() {
    require_root();
    let error = Filesystem::open("tmpfs").unwrap().set_string("nonsense", "1").map(drop).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(r#"fsconfig(<tmpfs>, FSCONFIG_SET_STRING, "nonsense", "1"): EINVAL"#), "{text}");
    assert!(text.contains("Unknown parameter 'nonsense'"), "{text}");
    assert_eq!(Filesystem::open("nofs").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_wrong_attribute_is_told_with_the_call() {
    require_root();
    let tree = detached_tmpfs();
    let attr = Attr { set: Attributes::NOATIME, ..Attr::default() }; // Without clearing the mode there was.
    let error = mount_setattr(&tree, "", true, &attr).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.to_string().starts_with("mount_setattr(["), "{error}");
    assert!(error.to_string().contains(r#"</>, "", AT_RECURSIVE, Attr {"#), "{error}");
}

#[test]
fn a_private_procfs_reads_and_writes() {
    require_root();
    let proc = Procfs::open().unwrap();
    let name = proc.read("sys/kernel/ostype", 64).unwrap();
    assert_eq!(name, b"Linux\n");
    assert_eq!(proc.read("self/stat", 4).unwrap_err().errno(), Errno::FBIG);
    proc.write("thread-self/comm", "procfs-test").unwrap();
    assert_eq!(proc.read("thread-self/comm", 64).unwrap(), b"procfs-test\n");
    // Magic links and the way out are closed.
    for path in ["self/exe", "self/root/etc", "self/fd/0", "self/cwd"] {
        assert_eq!(proc.open_file(path, OFlags::RDONLY).unwrap_err().errno(), Errno::LOOP, "{path}");
    }
    assert_eq!(proc.open_file("../etc", OFlags::PATH).unwrap_err().errno(), Errno::XDEV);
    assert_eq!(proc.open_file("/etc", OFlags::PATH).unwrap_err().errno(), Errno::XDEV);
    assert_eq!(proc.write("sys/kernel/ostype", "x").unwrap_err().kind(), Kind::Denied);
}

#[test]
fn procfs_falls_back_where_the_kernel_is_older() {
    require_root();
    for calls in [&[libc::SYS_fsopen][..], &[libc::SYS_fsopen, libc::SYS_open_tree], OLD] {
        run_without(calls, &["a_private_procfs_reads_and_writes"], &[]);
    }
}

/// All calls that a kernel of 2019 lacks.
const OLD: &[libc::c_long] = &[
    libc::SYS_openat2,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_clone3,
    libc::SYS_close_range,
    libc::SYS_pidfd_open,
];

/// The tests of paths and processes, races included, with what stands in for the calls.
#[test]
fn older_kernels_do_the_same() {
    require_root();
    run_without(&[libc::SYS_openat2], &["root::paths::"], &[]);
    run_without(&[libc::SYS_clone3], &["root::processes::"], &[]);
    run_without(&[libc::SYS_close_range], &["root::processes::"], &[]);
}

/// A time namespace is asked of clone3(2) only, and a pid is no hold of a process.
#[test]
fn what_has_no_substitute_says_so() {
    use vaquita_sys::process::{CloneFlags, open_pidfd};
    if lacks(libc::SYS_pidfd_open) {
        let error = open_pidfd(rustix::process::getpid()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("before Linux 5.3"), "{error}");
        let how = vaquita_sys::process::Clone { flags: CloneFlags::NEWTIME, ..Default::default() };
        // SAFETY: it fails before anything is cloned.
        let error = unsafe { vaquita_sys::process::clone3(&how) }.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    } else {
        require_root();
        run_without(OLD, &["what_has_no_substitute_says_so"], &[]);
    }
}

#[test]
fn what_only_looks_like_procfs_is_refused() {
    require_root();
    let tmpfs = detached_tmpfs();
    assert_eq!(Procfs::from_fd(tmpfs).unwrap_err().errno(), Errno::XDEV);
    let inner =
        rustix::fs::open("/proc/self", OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
    assert_eq!(Procfs::from_fd(inner).unwrap_err().errno(), Errno::XDEV);
}

#[test]
fn a_mount_over_a_file_of_procfs_is_seen() {
    require_root();
    with_own_mounts(|dir| {
        // As a hostile container would do it in the /proc that it can reach.
        let proc = Filesystem::open("proc").unwrap().create().unwrap();
        std::fs::create_dir(dir.join("proc")).unwrap();
        move_mount(&proc, rustix::fs::CWD, dir.join("proc")).unwrap();
        std::fs::write(dir.join("fake"), "").unwrap();
        let fake = open_tree_clone(rustix::fs::CWD, dir.join("fake"), false).unwrap();
        move_mount(&fake, rustix::fs::CWD, dir.join("proc/sys/kernel/domainname")).unwrap();
        let opened =
            rustix::fs::open(dir.join("proc"), OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .unwrap();
        let handle = Procfs::from_fd(opened).unwrap();
        assert_eq!(handle.write("sys/kernel/domainname", "x").unwrap_err().errno(), Errno::XDEV);
    });
}

#[test]
fn a_closure_runs_in_another_network_namespace() {
    require_root();
    let netns = ns::new_netns().unwrap();
    let own = ns::identity(ns::open(None, ns::Kind::Net).unwrap()).unwrap();
    let inside =
        ns::in_netns(&netns, || ns::identity(ns::open(None, ns::Kind::Net).unwrap()).unwrap()).unwrap();
    assert_eq!(inside, ns::identity(&netns).unwrap());
    assert_ne!(inside, own);
    assert_eq!(ns::identity(ns::open(None, ns::Kind::Net).unwrap()).unwrap(), own);
    let uts = ns::open(None, ns::Kind::Uts).unwrap();
    assert_eq!(ns::in_netns(&uts, || ()).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_terminal_comes_from_the_devpts_that_is_held() {
    require_root();
    let devpts = Filesystem::open("devpts").unwrap();
    devpts.set_flag("newinstance").map(drop).unwrap_or_default();
    devpts.set_string("ptmxmode", "0666").unwrap();
    let devpts = devpts.create().unwrap();
    let pty = tty::open_pty_in(&devpts).unwrap();
    tty::set_size(&pty.master, tty::Size { rows: 25, columns: 80 }).unwrap();
    assert_eq!(tty::size(&pty.slave).unwrap(), tty::Size { rows: 25, columns: 80 });
    rustix::io::write(&pty.master, b"hello\n").unwrap();
    let mut line = [0; 16];
    assert_eq!(rustix::io::read(&pty.slave, &mut line).unwrap(), 6);
    // Something else that is called ptmx is not taken.
    let fake = Root::from_fd(detached_tmpfs());
    fake.create_file("ptmx", 0o666).unwrap();
    assert_eq!(tty::open_pty_in(fake.as_fd()).unwrap_err().errno(), Errno::NODEV);
}
