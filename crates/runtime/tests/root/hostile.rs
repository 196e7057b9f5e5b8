//! Images and specifications that want out, by the ids of the list of known attacks.

use std::os::unix::fs::symlink;

use serde_json::json;
use vaquita_runtime::Kind;

use crate::harness::{Bundle, Running};

/// A directory of the host that nothing may appear in.
struct Canary(tempfile::TempDir);

impl Canary {
    fn new() -> Self {
        Self(vaquita_testing::temp_dir())
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    #[track_caller]
    fn assert_untouched(&self) {
        let found: Vec<_> =
            std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(found.is_empty(), "on the host: {found:?}");
    }
}

/// T03: CVE-2019-19921, CVE-2023-28642, CVE-2025-54867.
#[test]
fn t03_proc_and_sys_are_no_links() {
    for place in ["/proc", "/sys"] {
        let mut bundle = Bundle::new("");
        std::fs::create_dir(bundle.path("elsewhere")).unwrap();
        symlink("/elsewhere", bundle.path(place)).unwrap();
        let error = bundle.create().err().unwrap();
        assert_eq!(error.errno(), Some(rustix::io::Errno::LOOP), "{error}");
        assert!(error.to_string().contains(&format!("on \"{place}\"")), "{error}");
    }
}

/// T03, second half: a mount point that leads into procfs by a link.
#[test]
fn t03_nothing_is_mounted_into_proc_by_a_link() {
    let mut bundle =
        Bundle::new("").mount(json!({"destination": "/data", "type": "tmpfs", "source": "tmpfs"}));
    symlink("/proc/sys", bundle.path("data")).unwrap();
    let error = bundle.create().err().unwrap();
    assert_eq!(error.errno(), Some(rustix::io::Errno::LOOP), "{error}");
}

/// T02: CVE-2019-16884.
#[test]
fn t02_a_bind_on_proc_must_be_procfs() {
    let mut bundle = Bundle::new("")
        .without_mount("/proc")
        .mount(json!({"destination": "/proc", "type": "bind", "source": "/tmp", "options": ["bind"]}));
    assert_eq!(bundle.create().err().unwrap().kind(), Kind::Invalid);
}

/// T04: CVE-2019-18837; T17.
#[test]
fn t04_mount_points_stay_inside() {
    let canary = Canary::new();
    for (link, destination) in [
        (canary.path().to_owned(), "/link/made/here"),
        (
            std::path::Path::new("../../../../../..").join(canary.path().strip_prefix("/").unwrap()),
            "/link/file",
        ),
        ("/proc/self/root".into(), "/link/x"),
    ] {
        let mut bundle = Bundle::new("ls /link").mount(json!({
            "destination": destination, "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]
        }));
        symlink(&link, bundle.path("link")).unwrap();
        // A link to nowhere inside cannot be made a directory of: an error, and nothing on the host.
        match bundle.create() {
            Err(error) => assert!(error.errno().is_some(), "{error}"),
            Ok(running) => drop(running),
        }
        canary.assert_untouched();
        // Where the same path exists inside, it is used.
        let inside = bundle.path(canary.path().to_str().unwrap());
        std::fs::create_dir_all(&inside).unwrap();
        drop(bundle.create());
        canary.assert_untouched();
    }
}

/// Images have such links, to files of systemd-resolved for one: what is missing is made where they lead to inside, and the mount
/// is there, by either name.
#[test]
fn links_to_nothing_are_followed_inside() {
    let canary = Canary::new();
    let outside = canary.path().join("file");
    let up = std::path::Path::new("../../../../../..").join(outside.strip_prefix("/").unwrap());
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    for (links, target) in [
        (vec![("etc/file", "/run/systemd/resolve/stub.conf")], "run/systemd/resolve/stub.conf"),
        (vec![("etc/file", "../run/./resolve//stub.conf")], "run/resolve/stub.conf"),
        (vec![("etc/file", "stub.conf")], "etc/stub.conf"),
        (vec![("etc/file", "one"), ("etc/one", "/two"), ("two", "three/"), ("three", "x/y")], "x/y"),
        (vec![("etc/file", "/lib/a/file"), ("lib", "usr/lib")], "usr/lib/a/file"),
        (vec![("etc/file", outside.to_str().unwrap())], outside.strip_prefix("/").unwrap().to_str().unwrap()),
        (vec![("etc/file", up.to_str().unwrap())], outside.strip_prefix("/").unwrap().to_str().unwrap()),
        (vec![("etc/file", "none/../../file")], "file"),
        (vec![("etc", "/usr/etc/")], "usr/etc/file"),
    ] {
        let orders = format!("stat /etc/file\nstat /{target}\nmount /{target}");
        let mut bundle = Bundle::new(&orders).mount(json!({
            "destination": "/etc/file", "type": "bind", "source": place, "options": ["bind", "ro", "noexec"]
        }));
        for (link, target) in &links {
            let link = bundle.path(link);
            std::fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(target, link).unwrap();
        }
        let made = bundle.path(target);
        let mut running = bundle.create().unwrap_or_else(|error| panic!("{links:?}: {error}"));
        running.start().unwrap();
        let outcome = running.finish();
        assert!(
            outcome.of(&format!("mount /{target}")).contains("noexec"),
            "{links:?}: {:?}",
            outcome.output
        );
        assert_eq!(
            std::fs::symlink_metadata(&made).unwrap().len(),
            0,
            "{links:?}: an empty file below the mount"
        );
        canary.assert_untouched();
    }
    // Of directories it is the same.
    let mut bundle = Bundle::new("mount /run/lock/x").mount(json!({
        "destination": "/var/lock/x", "type": "tmpfs", "source": "tmpfs", "options": ["noexec"]
    }));
    std::fs::create_dir(bundle.path("var")).unwrap();
    symlink("/run/lock", bundle.path("var/lock")).unwrap();
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    assert!(running.finish().of("mount /run/lock/x").contains("noexec"));
}

/// What cannot be followed is refused, and says of which mount.
#[test]
fn links_that_lead_nowhere_are_refused() {
    use rustix::io::Errno;
    let many: Vec<_> = (0..45).map(|n| (format!("etc/{n}"), format!("none/../{}", n + 1))).collect();
    let (long, longer) = (format!("/a/{}", "x/".repeat(2040)), "n/".repeat(100));
    let links = |links: &[(&str, &str)]| {
        links.iter().map(|(link, target)| ((*link).to_owned(), (*target).to_owned())).collect::<Vec<_>>()
    };
    for (links, errno) in [
        (links(&[("etc/0", "0")]), Errno::LOOP),
        (links(&[("etc/0", "/etc/1"), ("etc/1", "../etc/0")]), Errno::LOOP),
        (links(&[("etc/0", "1/x"), ("etc/1", "0/x")]), Errno::LOOP),
        (links(&[("etc/0", "../probe/x")]), Errno::NOTDIR),
        (links(&[("etc/0", "/proc/self/root/x")]), Errno::LOOP),
        (links(&[("etc/0", "/proc/self/fd/9/x")]), Errno::LOOP),
        (links(&[("etc/0", "/proc/sys/none")]), Errno::NOENT),
        (links(&[("etc/0", &long), ("a", &longer)]), Errno::NAMETOOLONG),
        (many, Errno::LOOP),
    ] {
        let mut bundle = Bundle::new("").mount(json!({
            "destination": "/etc/0", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]
        }));
        std::fs::create_dir(bundle.path("etc")).unwrap();
        for (link, target) in &links {
            symlink(target, bundle.path(link)).unwrap();
        }
        let error = bundle.create().err().unwrap_or_else(|| panic!("{links:?}"));
        assert!(error.to_string().contains("on \"/etc/0\""), "{links:?}: {error}");
        assert_eq!(error.errno(), Some(errno), "{links:?}: {error}");
    }
    // As many as the kernel follows of others, and no more.
    for (count, works) in [(39, true), (41, false)] {
        let mut bundle = Bundle::new("").mount(json!({
            "destination": "/0", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]
        }));
        for number in 0..count {
            symlink(format!("{}", number + 1), bundle.path(&number.to_string())).unwrap();
        }
        let error = bundle.create().err().and_then(|error| error.errno());
        assert_eq!(error, (!works).then_some(Errno::LOOP), "{count}");
    }
}

/// T10: CVE-2024-21626.
#[test]
fn t10_no_working_directory_outside() {
    for cwd in ["/proc/self/fd/7", "/proc/self/fd/8/../..", "/proc/1/root/..", "/proc/self/cwd"] {
        let mut bundle = Bundle::new("cwd\nls .").set("/process/cwd", json!(cwd));
        match bundle.create() {
            Err(error) => assert!(error.errno().is_some(), "{cwd}: {error}"),
            Ok(mut running) => {
                running.start().unwrap();
                let outcome = running.finish();
                assert!(outcome.of("cwd").starts_with('/'), "{cwd}");
                assert!(!outcome.of("ls .").contains("work"), "{cwd}");
            }
        }
    }
}

/// T12: CVE-2025-31133. The image's own /dev/null is a link or a file; the mask is the host's device all the same.
#[test]
fn t12_masks_are_the_real_null_device() {
    let canary = Canary::new();
    std::fs::write(canary.path().join("secret"), "secret").unwrap();
    let bundle = Bundle::new("stat /masked\ncat /masked")
        .without_mount("/dev")
        .without_mount("/dev/pts")
        .without_mount("/dev/shm")
        .without_mount("/dev/mqueue")
        .set("/linux/maskedPaths", json!(["/masked", "/absent", "/probe/not/a/directory"]));
    std::fs::create_dir(bundle.path("dev")).unwrap();
    std::fs::write(bundle.path("masked"), "hidden").unwrap();
    symlink("/proc/sysrq-trigger", bundle.path("dev/core")).unwrap();
    let outcome = bundle.run();
    assert_eq!(outcome.of("stat /masked"), "char 666 0:0 1:3");
    assert_eq!(outcome.of("cat /masked"), "");

    let mut linked = Bundle::new("")
        .without_mount("/dev")
        .without_mount("/dev/pts")
        .without_mount("/dev/shm")
        .without_mount("/dev/mqueue");
    std::fs::create_dir(linked.path("dev")).unwrap();
    symlink("/proc/sysrq-trigger", linked.path("dev/null")).unwrap();
    let error = linked.create().err().unwrap();
    assert_eq!(error.errno(), Some(rustix::io::Errno::EXIST), "{error}");
}

/// T15: CVE-2026-41579.
#[test]
fn t15_a_dev_that_is_a_link_makes_nothing_on_the_host() {
    let canary = Canary::new();
    for target in [
        canary.path().to_owned(),
        std::path::Path::new("../../../..").join(canary.path().strip_prefix("/").unwrap()),
    ] {
        for with_mount in [false, true] {
            let mut bundle = Bundle::new("");
            if !with_mount {
                for place in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                    bundle = bundle.without_mount(place);
                }
            }
            symlink(&target, bundle.path("dev")).unwrap();
            drop(bundle.create());
            canary.assert_untouched();
            std::fs::create_dir_all(bundle.path(canary.path().to_str().unwrap())).unwrap();
            drop(bundle.create());
            canary.assert_untouched();
        }
    }
}

/// T13: CVE-2025-52565. The console's mount point is a link.
#[test]
fn t13_the_console_stays_inside() {
    let canary = Canary::new();
    let mut bundle = Bundle::new("").set("/process/terminal", json!(true));
    for place in ["/dev", "/dev/shm", "/dev/mqueue"] {
        bundle = bundle.without_mount(place);
    }
    std::fs::create_dir_all(bundle.path("dev/pts")).unwrap();
    symlink(canary.path().join("console"), bundle.path("dev/console")).unwrap();
    drop(bundle.create());
    canary.assert_untouched();
    // Without a devpts there is no terminal, and what else is at that place is not taken for one.
    let mut none = Bundle::new("").set("/process/terminal", json!(true)).without_mount("/dev/pts");
    let error = none.create().err().unwrap();
    assert!(matches!(error.errno(), Some(rustix::io::Errno::NOENT)), "{error}");
    let mut other = Bundle::new("")
        .set("/process/terminal", json!(true))
        .without_mount("/dev/pts")
        .mount(json!({"destination": "/dev/pts", "type": "tmpfs", "source": "tmpfs"}));
    let error = other.create().err().unwrap();
    assert_eq!(error.errno(), Some(rustix::io::Errno::NODEV), "{error}");
}

/// T06, T11 in small: somebody exchanges a directory of the container for a link to the host while containers are made.
#[test]
fn t06_a_swapper_wins_nothing() {
    let canary = Canary::new();
    let mut bundle =
        Bundle::new("").mount(json!({"destination": "/swap/a/b", "type": "tmpfs", "source": "tmpfs"}));
    std::fs::create_dir(bundle.path("swap")).unwrap();
    symlink(canary.path(), bundle.path("link")).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (one, two) = (bundle.path("swap"), bundle.path("link"));
    let swapper = std::thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &one,
                    rustix::fs::CWD,
                    &two,
                    rustix::fs::RenameFlags::EXCHANGE,
                );
            }
        }
    });
    for _ in 0..60 {
        drop::<Result<Running, _>>(bundle.create());
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    swapper.join().unwrap();
    canary.assert_untouched();
    assert!(!crate::harness::is_mounted_below(canary.path()));
    assert!(!crate::harness::is_mounted_below(bundle.dir.path()));
}

/// T01 in small: what a container finds of us through /proc is not the host's file, or cannot be written.
#[test]
fn t01_a_waiting_process_cannot_be_looked_into() {
    let running = Bundle::new("").create().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", running.pid)).unwrap();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let filter = |status: &str| status.lines().find(|line| line.starts_with("Seccomp:")).unwrap().to_owned();
    assert_eq!(filter(&status), filter(&own));
    // Not dumpable: its files in /proc are root's whatever its user is (proc(5)).
    std::fs::metadata(format!("/proc/{}/exe", running.pid)).unwrap();
    // 0, 1, 2 and the socket. It closes the others when it has told that it is ready.
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", running.pid)).unwrap().count();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while fds() != 4 {
        assert!(std::time::Instant::now() < end, "{} descriptors", fds());
        std::thread::yield_now();
    }
}
