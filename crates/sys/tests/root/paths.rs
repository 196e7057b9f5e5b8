//! Paths in a root that somebody is changing.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, RenameFlags, renameat_with};
use vaquita_sys::Errno;
use vaquita_sys::root::Root;
use vaquita_testing::{Defer, require_root};

use super::support::{Yard, detached_tmpfs, place};

const TRIES: usize = 10_000;

#[test]
fn links_and_dots_stay_inside() {
    let yard = Yard::new();
    let root = yard.open();
    std::fs::create_dir_all(yard.root.join("outside")).unwrap();
    symlink(&yard.outside, yard.root.join("absolute")).unwrap();
    symlink("../outside", yard.root.join("dots")).unwrap();
    symlink("/proc/self/root", yard.root.join("magic")).unwrap();
    for path in ["absolute", "absolute/canary", "dots/canary", "../outside/canary", "magic"] {
        let error = root.open(path, OFlags::RDONLY).unwrap_err();
        assert_eq!(error.errno(), Errno::NOENT, "{error}");
    }
    assert_eq!(place(root.open_dir("dots").unwrap()), yard.root.join("outside"));
    assert_eq!(place(root.open_dir("../..").unwrap()), yard.root);
    assert_eq!(place(root.open_dir("").unwrap()), yard.root);
    let flags = OFlags::RDWR | OFlags::CREATE;
    assert_eq!(root.open("new", flags).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(root.create_file("absolute", 0o600).unwrap_err().errno(), Errno::EXIST);
    for path in ["..", "/", "", "outside/.."] {
        assert_eq!(root.create_file(path, 0o600).unwrap_err().errno(), Errno::INVAL, "{path:?}");
    }
    yard.assert_intact();
}

#[test]
fn magic_links_are_refused() {
    require_root();
    let root = Root::open_host("/proc").unwrap();
    let error = root.open("self/root/etc", OFlags::PATH).unwrap_err();
    assert_eq!(error.errno(), Errno::LOOP);
    assert!(error.to_string().contains("</proc>, \"self/root/etc\""), "{error}");
}

#[test]
fn directories_are_made_where_links_lead() {
    let yard = Yard::new();
    let root = yard.open();
    // As in images: /var/run -> /run, with no /run; and a chain of links, one of them relative.
    std::fs::create_dir(yard.root.join("var")).unwrap();
    symlink("/run", yard.root.join("var/run")).unwrap();
    symlink("var/lib", yard.root.join("lib")).unwrap();
    assert_eq!(place(root.mkdir_all("/var/run/secrets/x", 0o755).unwrap()), yard.root.join("run/secrets/x"));
    assert_eq!(place(root.mkdir_all("lib/a", 0o700).unwrap()), yard.root.join("var/lib/a"));
    assert_eq!(place(root.mkdir_all("lib/a/../b", 0o700).unwrap()), yard.root.join("var/lib/b"));
    let file = root.ensure_mountpoint("var/run/resolv.conf", false).unwrap();
    assert_eq!(place(file), yard.root.join("run/resolv.conf"));
    // A link out of the root leads to the same path inside.
    symlink(&yard.outside, yard.root.join("out")).unwrap();
    let made = place(root.mkdir_all("out/new", 0o755).unwrap());
    assert!(made.starts_with(&yard.root), "{}", made.display());
    symlink("loop", yard.root.join("loop")).unwrap();
    assert_eq!(root.mkdir_all("loop/x", 0o755).unwrap_err().errno(), Errno::LOOP);
    assert_eq!(root.mkdir_all("nothing/../x", 0o755).unwrap_err().errno(), Errno::NOENT);
    yard.assert_intact();
}

#[test]
fn a_mountpoint_is_of_the_kind_asked_for() {
    let yard = Yard::new();
    let root = yard.open();
    std::fs::create_dir(yard.root.join("dir")).unwrap();
    std::fs::write(yard.root.join("file"), "x").unwrap();
    root.ensure_mountpoint("dir", true).unwrap();
    root.ensure_mountpoint("file", false).unwrap();
    assert_eq!(root.ensure_mountpoint("dir", false).unwrap_err().errno(), Errno::ISDIR);
    assert_eq!(root.ensure_mountpoint("file", true).unwrap_err().errno(), Errno::NOTDIR);
    assert_eq!(root.ensure_mountpoint("file/below", true).unwrap_err().errno(), Errno::NOTDIR);
    assert_eq!(std::fs::read(yard.root.join("file")).unwrap(), b"x");
}

#[test]
fn only_regular_files_are_read() {
    require_root();
    let yard = Yard::new();
    let root = yard.open();
    std::fs::write(yard.root.join("passwd"), "root").unwrap();
    symlink("passwd", yard.root.join("link")).unwrap();
    symlink("/dev/zero", yard.root.join("zero")).unwrap();
    rustix::fs::mkfifoat(&root, "fifo", Mode::RUSR).unwrap();
    rustix::fs::mknodat(
        &root,
        "null",
        rustix::fs::FileType::CharacterDevice,
        Mode::RUSR,
        rustix::fs::makedev(1, 5),
    )
    .unwrap();
    std::fs::File::create(yard.root.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(root.read_bounded("passwd", 4).unwrap(), b"root");
    assert_eq!(root.read_bounded_following("link", 4).unwrap(), b"root");
    assert_eq!(root.read_bounded("passwd", 3).unwrap_err().errno(), Errno::FBIG);
    assert_eq!(root.read_bounded("sparse", 1 << 20).unwrap_err().errno(), Errno::FBIG);
    for (path, kind) in
        [("fifo", "a FIFO"), ("null", "a character device"), ("link", "a symbolic link"), ("", "a directory")]
    {
        let error = root.read_bounded(path, 10).unwrap_err();
        assert!(error.to_string().ends_with(&format!("not a regular file but {kind}")), "{error}");
        assert_eq!(error.errno(), Errno::INVAL);
    }
    assert_eq!(root.read_bounded_following("zero", 10).unwrap_err().errno(), Errno::NOENT);
}

#[test]
fn a_deep_tree_is_removed_with_few_fds() {
    let yard = Yard::new();
    let root = yard.open();
    // Deeper than a path can be long, and than fds may be open.
    let mut dir = root.mkdir_all("deep", 0o700).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "dddd", Mode::RWXU).unwrap();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        drop(rustix::fs::openat(&dir, "file", flags, Mode::RUSR).unwrap());
        dir = rustix::fs::openat(&dir, "dddd", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    symlink(&yard.outside, yard.root.join("deep/link")).unwrap();
    drop(dir);
    root.remove_tree("deep").unwrap();
    root.remove_tree("deep").unwrap(); // Gone already is fine.
    root.remove_tree("deep/er/still").unwrap();
    assert_eq!(std::fs::read_dir(&yard.root).unwrap().count(), 0);
    yard.assert_intact();
}

#[test]
fn a_wide_tree_is_removed() {
    let yard = Yard::new();
    for i in 0..2500 {
        std::fs::create_dir_all(yard.root.join(format!("wide/{i}/x"))).unwrap();
    }
    yard.open().remove_tree("wide").unwrap();
    std::fs::write(yard.root.join("file"), "").unwrap();
    yard.open().remove_tree("file").unwrap();
    symlink(&yard.outside, yard.root.join("link")).unwrap();
    yard.open().remove_tree("link").unwrap();
    assert_eq!(std::fs::read_dir(&yard.root).unwrap().count(), 0);
    yard.assert_intact();
}

#[test]
fn what_a_removal_frees_is_counted_once() {
    let yard = Yard::new();
    let path = |name: &str| yard.root.join(name);
    std::fs::create_dir_all(path("tree/a/b")).unwrap();
    std::fs::write(path("tree/one"), [7; 100_000]).unwrap();
    std::fs::hard_link(path("tree/one"), path("tree/a/b/two")).unwrap();
    std::fs::write(path("tree/a/other"), [7; 50_000]).unwrap();
    std::fs::write(path("kept"), [7; 400_000]).unwrap();
    std::fs::hard_link(path("kept"), path("tree/a/kept")).unwrap();
    symlink(&yard.outside, path("tree/link")).unwrap();
    let freed = yard.open().free_tree("tree").unwrap();
    assert!((150_000..200_000).contains(&freed), "{freed}");
    assert_eq!(yard.open().free_tree("tree").unwrap(), 0);
    assert_eq!(std::fs::metadata(path("kept")).unwrap().len(), 400_000);
    yard.assert_intact();
}

#[test]
fn another_mount_is_not_entered_by_removal() {
    require_root();
    super::support::with_own_mounts(|dir| {
        std::fs::create_dir_all(dir.join("tree/a/mounted")).unwrap();
        vaquita_sys::mount::move_mount(detached_tmpfs(), rustix::fs::CWD, dir.join("tree/a/mounted"))
            .unwrap();
        std::fs::write(dir.join("tree/a/mounted/precious"), "").unwrap();
        let error = Root::open_host(dir).unwrap().remove_tree("tree").unwrap_err();
        assert!(matches!(error.errno(), Errno::XDEV | Errno::BUSY), "{error}");
        assert!(dir.join("tree/a/mounted/precious").exists());
    });
}

/// Exchanges `root/a/swap` between a directory and a link to the outside, as fast as it can, while `body` runs.
fn while_swapping(yard: &Yard, body: impl FnOnce(&Root)) {
    let dir = yard.root.join("a");
    std::fs::create_dir_all(dir.join("swap")).unwrap();
    symlink(&yard.outside, dir.join("link")).unwrap();
    // A relative one too, which would lead out by dots.
    symlink("../../../outside", dir.join("dots")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let dir = rustix::fs::open(&dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                for other in ["link", "dots"] {
                    let _ = renameat_with(&dir, "swap", &dir, other, RenameFlags::EXCHANGE);
                    let _ = renameat_with(&dir, "swap", &dir, other, RenameFlags::EXCHANGE);
                }
            }
        });
        let _stop = Defer::new(|| stop.store(true, Ordering::Relaxed));
        body(&yard.open());
    });
}

fn inside(yard: &Yard, fd: impl AsFd) {
    let place = place(fd);
    assert!(place.starts_with(&yard.root), "escaped to {}", place.display());
}

#[test]
fn race_open_never_escapes() {
    let yard = Yard::new();
    let mut opened = 0;
    while_swapping(&yard, |root| {
        for _ in 0..TRIES {
            if let Ok(fd) = root.open("a/swap", OFlags::PATH) {
                inside(&yard, fd);
                opened += 1;
            }
            assert!(root.open("a/swap/canary", OFlags::PATH).is_err(), "the canary was reached");
        }
    });
    assert!(opened > 0, "the race was never won by the good side: the test shows nothing");
    yard.assert_intact();
}

#[test]
fn race_mkdir_all_and_files_never_escape() {
    let yard = Yard::new();
    let mut made = 0;
    while_swapping(&yard, |root| {
        for i in 0..TRIES {
            if let Ok(fd) = root.mkdir_all(format!("a/swap/d{}/e", i % 50), 0o755) {
                inside(&yard, fd);
                made += 1;
            }
            if let Ok(fd) = root.ensure_mountpoint(format!("a/swap/f{}", i % 50), false) {
                inside(&yard, fd);
            }
            if let Ok(fd) = root.create_file(format!("a/swap/g{i}"), 0o600) {
                inside(&yard, fd);
            }
            if i % 50 == 49 {
                let _ = root.remove_tree("a/swap/d0");
            }
        }
    });
    assert!(made > 0);
    yard.assert_intact();
}

#[test]
fn race_remove_tree_never_escapes() {
    let yard = Yard::new();
    // The way back up is what can be led astray: directories are moved while they are being emptied.
    std::fs::create_dir_all(yard.root.join("elsewhere")).unwrap();
    let mut removed = 0;
    while_swapping(&yard, |root| {
        for i in 0..TRIES / 10 {
            let _ = root.mkdir_all(format!("a/swap/t/u{i}/v"), 0o755);
            removed += usize::from(root.remove_tree("a/swap/t").is_ok());
            let _ = root.remove_tree("a/swap/canary");
        }
    });
    assert!(removed > 0);
    yard.assert_intact();
}

#[test]
fn race_removal_while_directories_are_moved_out() {
    let yard = Yard::new();
    let stop = AtomicBool::new(false);
    std::fs::create_dir_all(yard.root.join("keep/x")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever is being emptied is exchanged with a directory beside the tree, whose parent must survive.
            while !stop.load(Ordering::Relaxed) {
                let _ = renameat_with(
                    rustix::fs::CWD,
                    yard.root.join("tree/a/b"),
                    rustix::fs::CWD,
                    yard.root.join("keep/x"),
                    RenameFlags::EXCHANGE,
                );
            }
        });
        let _stop = Defer::new(|| stop.store(true, Ordering::Relaxed));
        let root = yard.open();
        for _ in 0..TRIES / 10 {
            // The kernel refuses (EXDEV) where it sees the directory leave the root's view.
            let _ = root.mkdir_all("tree/a/b/c/d", 0o755);
            let _ = root.remove_tree("tree");
            assert!(yard.root.join("keep").exists(), "the directory beside the tree was removed");
            let _ = std::fs::create_dir(yard.root.join("keep/x"));
        }
    });
    assert!(Path::new(&yard.root).exists());
    yard.assert_intact();
}
