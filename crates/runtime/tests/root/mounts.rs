//! The options of mounts, the root filesystem's propagation, and how the root is changed.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::MountFlags;
use serde_json::{Value, json};
use vaquita_runtime::Kind;
use vaquita_sys::mount::umount;
use vaquita_sys::ns;

use crate::harness::{Bundle, is_mounted_below};

/// A tmpfs on a directory of the host, with another in it, both with these attributes; unmounted when dropped.
struct HostMount {
    dir: tempfile::TempDir,
}

impl HostMount {
    /// By mount(2), which every kernel has.
    fn new(flags: MountFlags) -> Self {
        let host = Self { dir: vaquita_testing::temp_dir() };
        for place in [host.path(), host.path().join("deep")] {
            mount_tmpfs(&place, MountFlags::empty());
            std::fs::create_dir(place.join("deep")).unwrap();
            std::fs::create_dir(place.join("later")).unwrap();
            std::fs::write(place.join("file"), "content").unwrap();
            rustix::mount::mount_change(&place, rustix::mount::MountPropagationFlags::SHARED).unwrap();
        }
        for place in [host.path(), host.path().join("deep")] {
            rustix::mount::mount_remount(&place, flags | MountFlags::BIND, c"").unwrap();
        }
        host
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn bind(&self, destination: &str, options: &[&str]) -> Value {
        json!({"destination": destination, "source": self.path(), "options": options})
    }
}

fn mount_tmpfs(place: &Path, flags: MountFlags) {
    rustix::mount::mount(c"tmpfs", place, c"tmpfs", flags, None::<&std::ffi::CStr>).unwrap();
}

impl Drop for HostMount {
    fn drop(&mut self) {
        umount(self.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

fn ids(container: u32, host: u32, size: u32) -> Value {
    json!([{"containerID": container, "hostID": host, "size": size}])
}

/// Options of a mount as the container's mountinfo shows them.
fn options(answer: &str) -> Vec<&str> {
    answer.split(' ').nth(1).unwrap_or_default().split(',').collect()
}

const FLAGS: [&str; 7] = ["ro", "nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"];
const OPPOSITES: [&str; 7] = ["rw", "suid", "dev", "exec", "atime", "diratime", "symfollow"];

fn recursive<'a>(list: &[&str], space: &'a mut Vec<String>) -> Vec<&'a str> {
    *space = list.iter().map(|flag| format!("r{flag}")).collect();
    ["rbind"].into_iter().chain(space.iter().map(String::as_str)).collect()
}

#[test]
fn every_flag_is_set() {
    let host = HostMount::new(MountFlags::empty());
    let mut orders = "mount /all\nmount /all/deep\nmount /strict\nmount /alone".to_owned();
    let mut mounts = vec![
        host.bind("/all", &[&["rbind"][..], &FLAGS].concat()),
        host.bind("/strict", &["bind", "strictatime"]),
        // One mount only: recursive or not is the same.
        host.bind("/alone", &["bind", "rro", "nosuid", "rsuid", "noexec"]),
    ];
    for (number, flag) in FLAGS.iter().enumerate() {
        orders += &format!("\nmount /one{number}");
        mounts.push(host.bind(&format!("/one{number}"), &["bind", flag]));
    }
    let outcome = mounts.into_iter().fold(Bundle::new(&orders), Bundle::mount).run();
    let all = outcome.of("mount /all");
    assert!(FLAGS.iter().all(|flag| options(all).contains(flag)), "{all}");
    assert_eq!(options(outcome.of("mount /all/deep")), ["rw", "relatime"]);
    assert_eq!(options(outcome.of("mount /strict")), ["rw"]);
    assert_eq!(options(outcome.of("mount /alone")), ["ro", "noexec", "relatime"]);
    for (number, flag) in FLAGS.iter().enumerate() {
        let answer = outcome.of(&format!("mount /one{number}"));
        let expected = match *flag {
            "ro" => vec!["ro", "relatime"],
            "noatime" => vec!["rw", "noatime"],
            "nodiratime" => vec!["rw", "nodiratime", "relatime"],
            "nosymfollow" => vec!["rw", "relatime", "nosymfollow"],
            other => vec!["rw", other, "relatime"],
        };
        assert_eq!(options(answer), expected, "{flag}: {answer}");
    }
}

#[test]
fn every_flag_is_cleared() {
    let host = HostMount::new(all_flags());
    let outcome = Bundle::new("mount /as\nmount /top\nmount /top/deep\nmount /some")
        .mount(host.bind("/as", &["rbind"]))
        .mount(host.bind("/top", &[&["rbind"][..], &OPPOSITES].concat()))
        // The last one holds, and the recursive ones come after the others.
        .mount(host.bind("/some", &["bind", "rrw", "rw", "ro", "dev", "nodev", "suid"]))
        .run();
    assert_eq!(options(outcome.of("mount /as")), KEPT);
    assert_eq!(options(outcome.of("mount /top")), ["rw", "relatime"]);
    assert_eq!(options(outcome.of("mount /top/deep")), KEPT);
    assert_eq!(
        options(outcome.of("mount /some")),
        ["rw", "nodev", "noexec", "nodiratime", "relatime", "nosymfollow"]
    );
}

const KEPT: [&str; 7] = ["ro", "nosuid", "nodev", "noexec", "nodiratime", "relatime", "nosymfollow"];

fn all_flags() -> MountFlags {
    let all = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // MS_NOSYMFOLLOW
    all | MountFlags::NODIRATIME | MountFlags::RELATIME | MountFlags::from_bits_retain(256)
}

#[test]
fn recursive_flags_are_set_and_cleared() {
    let (plain, full) = (HostMount::new(MountFlags::empty()), HostMount::new(all_flags()));
    let mut space = Vec::new();
    let set = plain.bind("/set", &recursive(&FLAGS, &mut space));
    let clear = full.bind("/clear", &recursive(&OPPOSITES, &mut space));
    let mut bundle = Bundle::new("mount /set\nmount /set/deep\nmount /clear\nmount /clear/deep").mount(set);
    if refused(&mut bundle, "recursive options (\"rro\" and the like) need mount_setattr(2) of Linux 5.12") {
        return;
    }
    let outcome = bundle.mount(clear).run();
    for place in ["/set", "/set/deep"] {
        let answer = outcome.of(&format!("mount {place}"));
        assert!(FLAGS.iter().all(|flag| options(answer).contains(flag)), "{place}: {answer}");
    }
    assert_eq!(options(outcome.of("mount /clear")), ["rw", "relatime"]);
    assert_eq!(options(outcome.of("mount /clear/deep")), ["rw", "relatime"]);
}

/// Without the new mount API it is refused, for this reason.
fn refused(bundle: &mut Bundle, why: &str) -> bool {
    let calls = [libc::SYS_mount_setattr, libc::SYS_open_tree, libc::SYS_move_mount, libc::SYS_fsopen];
    if !calls.iter().any(|call| vaquita_testing::lacks(*call)) {
        return false;
    }
    let error = bundle.create().err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    assert!(error.to_string().contains(&format!("{why}, which is not to be had here")), "{error}");
    true
}

#[test]
fn binds_propagate_as_asked() {
    let host = HostMount::new(MountFlags::empty());
    let peer = host.bind("/case", &["rbind", "rshared"]);
    let lacking = refused(
        &mut Bundle::new("").mount(peer),
        "mounts that are shared with the host need open_tree(2) of Linux 5.2",
    );
    let cases: [(&[&str], &str, &str); 11] = [
        (&[], "[master]", "[master]"),
        (&["private"], "[]", "[master]"),
        (&["rprivate"], "[]", "[]"),
        (&["slave"], "[master]", "[master]"),
        (&["rslave"], "[master]", "[master]"),
        (if lacking { &["rprivate", "rshared"] } else { &["rshared"] }, "[shared]", "[shared]"),
        (&["shared"], "[shared master]", "[master]"),
        (&["rslave", "rshared"], "[shared master]", "[shared master]"),
        (&["rprivate", "shared"], "[shared]", "[]"),
        (&["unbindable"], "[unbindable]", "[master]"),
        (&["runbindable"], "[unbindable]", "[unbindable]"),
    ];
    let places: Vec<String> = (0..cases.len()).map(|number| format!("/case{number}")).collect();
    let orders: String = places.iter().map(|place| format!("mount {place}\nmount {place}/deep\n")).collect();
    let mut bundle = Bundle::new(&orders);
    for (place, (options, ..)) in places.iter().zip(cases) {
        bundle = bundle.mount(host.bind(place, &[&["rbind"][..], options].concat()));
    }
    let outcome = bundle.run();
    for (place, (options, top, deep)) in places.iter().zip(cases) {
        assert!(outcome.of(&format!("mount {place}")).ends_with(top), "{options:?}: {:#?}", outcome.output);
        assert!(
            outcome.of(&format!("mount {place}/deep")).ends_with(deep),
            "{options:?}: {:#?}",
            outcome.output
        );
    }
}

/// What is mounted on the host later appears in the container or not, and never the other way round but for rshared.
#[test]
fn later_mounts_of_the_host_arrive_where_asked() {
    let host = HostMount::new(MountFlags::empty());
    let mut bundle = Bundle::new("wait")
        .mount(host.bind("/slave", &["rbind", "rslave"]))
        .mount(host.bind("/private", &["rbind", "rprivate"]));
    let mut running = bundle.create().unwrap();
    running.start().unwrap();
    mount_tmpfs(&host.path().join("later"), MountFlags::empty());
    std::fs::write(host.path().join("later/new"), "").unwrap();
    let seen = running.exec_probe("ls /slave/later\nls /private/later", |_| {});
    assert_eq!(seen.of("ls /slave/later"), "new");
    assert_eq!(seen.of("ls /private/later"), "");
}

/// linux.rootfsPropagation: of the root, and of binds that say nothing.
#[test]
fn the_root_propagates_as_asked() {
    let host = HostMount::new(MountFlags::empty());
    // The container's root is a slave of what the bundle is on, if that one has anything to tell.
    let slave = if is_on_shared(Path::new(env!("CARGO_TARGET_TMPDIR"))) { "[master]" } else { "[]" };
    for (value, root, bind) in [
        (None, slave, "[master]"),
        (Some("private"), "[]", "[]"),
        (Some("rprivate"), "[]", "[]"),
        (Some("slave"), slave, "[master]"),
        (Some("rslave"), slave, "[master]"),
        (Some("shared"), "[shared]", "[shared]"),
        (Some("rshared"), "[shared]", "[shared]"),
        (Some("unbindable"), "[unbindable]", "[]"),
    ] {
        let mut bundle = Bundle::new("mount /\nmount /bind")
            .mount(host.bind("/bind", &["bind"]))
            .set("/linux/rootfsPropagation", json!(value));
        let why = "mounts that are shared with the host need open_tree(2) of Linux 5.2";
        if root == "[shared]" && refused(&mut bundle, why) {
            continue;
        }
        let outcome = bundle.run();
        assert!(outcome.of("mount /").ends_with(root), "{value:?}: {}", outcome.of("mount /"));
        assert!(outcome.of("mount /bind").ends_with(bind), "{value:?}: {}", outcome.of("mount /bind"));
    }
    let wrong = Bundle::new("").set("/linux/rootfsPropagation", json!("sideways"));
    assert_eq!(wrong.plan().unwrap_err().kind(), Kind::Invalid);
}

/// Whether a path is on a mount that the host shares.
fn is_on_shared(path: &Path) -> bool {
    let table = vaquita_sys::mount::mountinfo().unwrap();
    let above = table.iter().filter(|mount| path.starts_with(&mount.mount_point));
    let nearest = above.max_by_key(|mount| mount.mount_point.as_os_str().len()).unwrap();
    nearest.propagation == vaquita_sys::mount::Propagation::Shared
}

/// A root filesystem on a mount that the host shares: nothing of the container's mounts reaches the host.
#[test]
fn a_shared_root_filesystem_stays_apart() {
    let host = HostMount::new(MountFlags::empty());
    for value in [None, Some("slave"), Some("shared"), Some("private")] {
        let mut bundle = Bundle::new("wait").set("/linux/rootfsPropagation", json!(value));
        let deep = host.path().join("deep");
        // Not a copy: while its file is open for writing in a fork of another test it cannot be executed.
        let probe = bundle.path("probe");
        bundle =
            bundle.mount(json!({"destination": "/probe", "source": probe, "options": ["bind", "rprivate"]}));
        bundle.root = Some(deep.clone());
        let mut running = bundle.create().unwrap();
        running.start().unwrap();
        let below = |dir: &Path| is_mounted_below(&dir.join("proc")) || is_mounted_below(&dir.join("dev"));
        assert!(!below(&deep), "{value:?}");
        assert!(running.exec_probe("mount /proc", |_| {}).of("mount /proc").starts_with("proc"));
        running.finish();
    }
}

#[test]
fn a_mount_is_changed_after_the_fact() {
    let host = HostMount::new(MountFlags::empty());
    let remount = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "x", "source": "x", "options": options});
    let outcome = Bundle::new(
        "mount /t\ncreate /t/x\nmount /b\nmount /b/deep\nmount /sys\nmount /\ncreate /x",
    )
    .mount(json!({"destination": "/t", "type": "tmpfs", "source": "t", "options": ["size=1m", "nosuid"]}))
    .mount(json!({"destination": "/t/sub", "type": "tmpfs", "source": "t"}))
    .mount(remount("/t", &["remount", "size=64k", "ro"]))
    .mount(host.bind("/b", &["rbind", "nodev"]))
    .mount(remount("/b", &["bind", "remount", "nosuid", "noexec", "rprivate"]))
    .mount(remount("/sys", &["remount", "bind", "nosymfollow"]))
    .mount(remount("/", &["remount", "bind", "ro"]))
    .run();
    assert_eq!(options(outcome.of("mount /t")), ["ro", "nosuid", "relatime"]);
    assert_eq!(outcome.of("create /t/x"), "EROFS");
    assert_eq!(options(outcome.of("mount /b")), ["rw", "nosuid", "nodev", "noexec", "relatime"]);
    assert_eq!(options(outcome.of("mount /b/deep")), ["rw", "relatime"]);
    assert!(outcome.of("mount /b/deep").ends_with("[]"));
    assert!(options(outcome.of("mount /sys")).contains(&"nosymfollow"));
    assert_eq!(outcome.of("create /x"), "EROFS");

    let mut deep = Bundle::new("mount /b\nmount /b/deep")
        .mount(host.bind("/b", &["rbind"]))
        .mount(remount("/b", &["bind", "remount", "rnosuid"]));
    if !refused(&mut deep, "recursive options (\"rro\" and the like) need mount_setattr(2) of Linux 5.12") {
        let outcome = deep.run();
        assert_eq!(options(outcome.of("mount /b")), ["rw", "nosuid", "relatime"]);
        assert_eq!(options(outcome.of("mount /b/deep")), ["rw", "nosuid", "relatime"]);
    }
    let none = Bundle::new("").mount(remount("/tmp", &["remount", "ro"])).create().err().unwrap();
    assert_eq!(none.errno(), Some(Errno::INVAL), "{none}");
    assert!(none.to_string().starts_with("remounting \"/tmp\""), "{none}");
    let of_host =
        Bundle::new("").mount(host.bind("/b", &["bind"])).mount(remount("/b", &["remount", "size=1k"]));
    assert_eq!(of_host.plan().unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn a_tmpfs_takes_content_mode_and_owner_over() {
    let bundle = Bundle::new(
        "stat /mode\nstat /given\nstat /absent\nstat /absent2\nstat /copy\nls /copy\ncat /copy/file\nstat /copy/file\nlink /copy/link\nstat /copy/link\n\
         stat /copy/dir\ncat /copy/dir/deeper\nstat /copy/pipe\nls /copy/mounted\ncreate /copy/x\ncreate /ro/x\ncat /ro/file\nmount /ro\nmount /copy",
    );
    for place in ["mode", "given", "copy", "ro"] {
        std::fs::create_dir(bundle.path(place)).unwrap();
        std::fs::set_permissions(bundle.path(place), std::fs::Permissions::from_mode(0o2751)).unwrap();
        std::os::unix::fs::chown(bundle.path(place), Some(7), Some(8)).unwrap();
        std::fs::set_permissions(bundle.path(place), std::fs::Permissions::from_mode(0o2751)).unwrap();
    }
    for place in ["copy", "ro"] {
        std::fs::write(bundle.path(place).join("file"), "content").unwrap();
    }
    std::os::unix::fs::chown(bundle.path("copy/file"), Some(1000), Some(1001)).unwrap();
    std::fs::set_permissions(bundle.path("copy/file"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("/etc/passwd", bundle.path("copy/link")).unwrap();
    std::os::unix::fs::lchown(bundle.path("copy/link"), Some(3), Some(4)).unwrap();
    std::fs::create_dir(bundle.path("copy/dir")).unwrap();
    std::fs::create_dir(bundle.path("copy/mounted")).unwrap();
    std::fs::write(bundle.path("copy/dir/deeper"), "x".repeat(40_000)).unwrap();
    std::fs::set_permissions(bundle.path("copy/dir"), std::fs::Permissions::from_mode(0o1700)).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        bundle.path("copy/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let host = HostMount::new(MountFlags::empty());
    let tmpfs = |destination: &str, options: &[&str]| json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options});
    let outcome = bundle
        .mount(tmpfs("/mode", &[]))
        .mount(tmpfs("/absent", &[]))
        .mount(tmpfs("/absent2", &["tmpcopyup"]))
        .mount(tmpfs("/given", &["mode=700"]))
        .mount(host.bind("/copy/mounted", &["bind"]))
        .mount(tmpfs("/copy", &["tmpcopyup", "nosuid", "size=8m"]))
        .mount(tmpfs("/ro", &["tmpcopyup", "ro", "noexec"]))
        .set("/process/capabilities", {
            let all = ["CAP_DAC_OVERRIDE"];
            json!({"bounding": all, "effective": all, "permitted": all})
        })
        .run();
    assert_eq!(outcome.of("stat /mode"), "dir 2751 0:0 0:0");
    assert_eq!(outcome.of("stat /given"), "dir 700 0:0 0:0");
    // The filesystem's own, as with runc: what was made just now has none to keep.
    assert_eq!(outcome.of("stat /absent"), "dir 1777 0:0 0:0");
    assert_eq!(outcome.of("stat /absent2"), "dir 1777 0:0 0:0");
    assert_eq!(outcome.of("stat /copy"), "dir 2751 7:8 0:0");
    assert_eq!(outcome.of("ls /copy"), "dir file link mounted pipe");
    assert_eq!(outcome.of("cat /copy/file"), "content");
    assert_eq!(outcome.of("stat /copy/file"), "file 4711 1000:1001 0:0");
    assert_eq!(outcome.of("link /copy/link"), "/etc/passwd");
    assert_eq!(outcome.of("stat /copy/link"), "link 777 3:4 0:0");
    assert_eq!(outcome.of("stat /copy/dir"), "dir 1700 0:8 0:0");
    assert_eq!(outcome.of("cat /copy/dir/deeper").len(), 40_000);
    assert_eq!(outcome.of("stat /copy/pipe"), "fifo 640 0:8 0:0");
    // What the host has mounted there is not the image's.
    assert_eq!(outcome.of("ls /copy/mounted"), "");
    assert_eq!(outcome.of("create /copy/x"), "ok");
    assert_eq!(outcome.of("create /ro/x"), "EROFS");
    assert_eq!(outcome.of("cat /ro/file"), "content");
    assert_eq!(options(outcome.of("mount /ro")), ["ro", "noexec", "relatime"]);
    assert_eq!(options(outcome.of("mount /copy")), ["rw", "nosuid", "relatime"]);
}

/// The copy has its limit: an image cannot fill the host's memory through it.
#[test]
fn what_does_not_fit_into_a_tmpfs_is_an_error() {
    let bundle = Bundle::new("");
    std::fs::create_dir(bundle.path("copy")).unwrap();
    std::fs::write(bundle.path("copy/large"), vec![0; 1 << 20]).unwrap();
    let tmpfs = json!({"destination": "/copy", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "size=64k"]});
    let error = bundle.mount(tmpfs).create().err().unwrap();
    assert_eq!(error.to_string(), "mounting tmpfs on \"/copy\": sendfile: ENOSPC (No space left on device)");
}

#[test]
fn identities_of_a_mount_are_mapped() {
    let host = HostMount::new(MountFlags::empty());
    let mapped = |destination: &str, options: &[&str]| {
        let mut mount = host.bind(destination, options);
        mount["uidMappings"] = ids(0, 1000, 10);
        mount["gidMappings"] = ids(0, 2000, 10);
        mount
    };
    let mut bundle = Bundle::new("").mount(mapped("/one", &["rbind", "idmap"]));
    if refused(&mut bundle, "id mappings need mount_setattr(2) of Linux 5.12") {
        return;
    }
    let outcome = Bundle::new(
        "stat /one/file\nstat /one/deep/file\nstat /all/file\nstat /all/deep/file\nstat /implied/file\nmount /one",
    )
    .mount(mapped("/one", &["rbind", "idmap"]))
    .mount(mapped("/all", &["rbind", "ridmap", "ro"]))
    .mount(mapped("/implied", &["bind"]))
    .run();
    assert_eq!(outcome.of("stat /one/file"), "file 644 1000:2000 0:0");
    assert_eq!(outcome.of("stat /one/deep/file"), "file 644 0:0 0:0");
    assert_eq!(outcome.of("stat /all/file"), "file 644 1000:2000 0:0");
    assert_eq!(outcome.of("stat /all/deep/file"), "file 644 1000:2000 0:0");
    assert_eq!(outcome.of("stat /implied/file"), "file 644 1000:2000 0:0");
    // The host's view is as it was.
    assert_eq!(std::fs::metadata(host.path().join("file")).unwrap().uid(), 0);

    let none = Bundle::new("").mount(host.bind("/one", &["bind", "idmap"])).create().err().unwrap();
    assert_eq!(none.kind(), Kind::Invalid, "{none}");
    let sysfs = json!({"destination": "/x", "source": "/sys/kernel", "options": ["bind"],
        "uidMappings": ids(0, 1000, 10), "gidMappings": ids(0, 1000, 10)});
    let error = Bundle::new("").mount(sysfs).create().err().unwrap();
    assert_eq!(error.errno(), Some(Errno::INVAL));
    assert!(error.to_string().contains("the mount on \"/x\": id mappings: "), "{error}");
    assert!(error.to_string().contains("sysfs cannot map identities, or not with this kernel"), "{error}");
}

/// In a user namespace: a root filesystem and a volume with the ids of the image, mapped as the namespace maps.
#[test]
fn a_user_namespace_with_a_mapped_root() {
    let host = HostMount::new(MountFlags::empty());
    let map = ids(0, 100_000, 65536);
    let mut bundle = Bundle::new("ids\nstat /probe\nstat /plain/file\nstat /mapped/file\ncreate /mapped/new\nstat /mapped/new\ncreate /new")
        .mount(host.bind("/plain", &["bind"]))
        .mount(host.bind("/mapped", &["bind", "idmap"]))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map.clone());
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    bundle.root_map = Some(serde_json::from_value(map).unwrap());
    if refused(&mut bundle, "id mappings of the root filesystem need mount_setattr(2) of Linux 5.12") {
        return;
    }
    let created = bundle.path("new");
    let mut running = bundle.create().unwrap_or_else(|error| panic!("{error}"));
    running.start().unwrap();
    let outcome = running.finish();
    assert_eq!(outcome.of("ids"), "0 0 []");
    assert!(outcome.of("stat /probe").ends_with(" 0:0 0:0"));
    // The overflow id: not mapped.
    assert!(outcome.of("stat /plain/file").contains(" 65534:65534 "));
    assert!(outcome.of("stat /mapped/file").contains(" 0:0 "));
    assert_eq!(outcome.of("create /mapped/new"), "ok");
    assert_eq!(outcome.of("create /new"), "ok");
    assert_eq!(std::fs::metadata(created).unwrap().uid(), 0);
    assert_eq!(std::fs::metadata(host.path().join("new")).unwrap().uid(), 0);
}

#[test]
fn a_root_is_moved_without_a_pivot() {
    for terminal in [false, true] {
        let mut bundle = Bundle::new("wait").set("/process/terminal", json!(terminal));
        bundle.no_pivot = true;
        let mut running = bundle.create().unwrap();
        running.start().unwrap();
        let seen = running.exec_probe("ls /\nmount /proc\ncreate /x", |process| {
            process["terminal"] = json!(false);
        });
        assert_eq!(seen.of("ls /"), "dev probe proc sys tmp");
        assert_eq!(seen.of("create /x"), "ok");
        assert!(seen.of("mount /proc").starts_with("proc rw"));
        assert!(below_the_root(running.pid), "the host's procfs or sysfs is left in the namespace");
        assert!(!is_mounted_below(bundle.dir.path()));
    }
}

/// Takes the container's root away in its mount namespace, as its weakness has it, and looks what is below: true if the
/// host's procfs and sysfs are not there.
fn below_the_root(pid: rustix::process::Pid) -> bool {
    use std::os::fd::AsFd;
    let namespace = ns::open(Some(pid), ns::Kind::Mount).unwrap();
    let look = move || {
        ns::unshare(vaquita_sys::process::CloneFlags::NEWNS).unwrap();
        ns::setns(namespace.as_fd(), ns::Kind::Mount).unwrap();
        // Where mount(2) did it, another mount of the set-up lies between.
        for _ in 0..2 {
            umount("/", rustix::mount::UnmountFlags::DETACH).unwrap();
            // The root of the namespace is another now.
            ns::setns(namespace.as_fd(), ns::Kind::Mount).unwrap();
            if Path::new("/etc/passwd").exists() {
                break;
            }
        }
        assert!(Path::new("/etc/passwd").exists(), "this is the host's root");
        let is_empty = |path: &str| std::fs::read_dir(path).unwrap().next().is_none();
        is_empty("/proc") && is_empty("/sys")
    };
    std::thread::spawn(look).join().unwrap()
}

#[test]
fn labels_are_refused_without_selinux() {
    let mut bundle =
        Bundle::new("").set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0:c1,c2"));
    if vaquita_sys::selinux::is_enabled() {
        bundle.create().unwrap();
        return;
    }
    let error = bundle.create().err().unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().starts_with("linux.mountLabel: SELinux is not active"), "{error}");
}

/// fsconfig(2) takes values of 255 bytes, mount(2) a page of them.
#[test]
fn long_values_arrive() {
    let dirs = vaquita_testing::temp_dir();
    let layers: Vec<PathBuf> =
        (0..12).map(|number| dirs.path().join(format!("{number}-a-directory-with-a-long-name"))).collect();
    for (number, layer) in layers.iter().enumerate() {
        std::fs::create_dir(layer).unwrap();
        std::fs::write(layer.join(number.to_string()), "").unwrap();
    }
    let lower = layers.iter().map(|layer| layer.display().to_string()).collect::<Vec<_>>().join(":");
    assert!(lower.len() > 255);
    let overlay = json!({"destination": "/o", "type": "overlay", "source": "overlay", "options": [format!("lowerdir={lower}"), "nodev", "ro"]});
    let outcome = Bundle::new("ls /o\nmount /o\nmount /after")
        .mount(overlay)
        .mount(json!({"destination": "/after", "type": "tmpfs", "source": "tmpfs"}))
        .run();
    assert_eq!(outcome.of("ls /o"), "0 1 10 11 2 3 4 5 6 7 8 9");
    assert!(outcome.of("mount /o").starts_with("overlay ro,nodev,relatime"), "{}", outcome.of("mount /o"));
    assert!(outcome.of("mount /after").starts_with("tmpfs rw"));
}

#[test]
fn other_sources_types_and_flags() {
    let outcome = Bundle::new("ls /bundle\nmount /sync\nmount /lazy\nmount /ramfs\nmount /iversion\ncreate /iversion/x")
        .mount(json!({"destination": "/bundle", "source": "tmp", "options": ["bind"]}))
        .mount(json!({"destination": "/sync", "type": "tmpfs", "source": "x", "options": ["sync", "dirsync", "async", "silent", "loud", "defaults"]}))
        .mount(json!({"destination": "/lazy", "type": "tmpfs", "source": "x", "options": ["lazytime", "nomand", "uid=5"]}))
        .mount(json!({"destination": "/ramfs", "type": "ramfs", "options": ["mode=700"]}))
        .mount(json!({"destination": "/iversion", "type": "tmpfs", "source": "x", "options": ["iversion", "noexec"]}))
        .run();
    assert_eq!(outcome.of("ls /bundle"), "");
    assert!(outcome.of("mount /sync").starts_with("tmpfs rw,relatime"));
    assert!(outcome.of("mount /ramfs").starts_with("ramfs rw,relatime"));
    assert!(outcome.of("mount /iversion").starts_with("tmpfs rw,noexec,relatime"));
    assert_eq!(outcome.of("create /iversion/x"), "ok");
    let unknown = Bundle::new("")
        .mount(json!({"destination": "/b", "source": "tmp", "options": ["bind", "src-nofollow"]}));
    let error = unknown.plan().unwrap_err();
    assert_eq!(error.to_string(), "the mount on \"/b\": option \"src-nofollow\" is not one of a bind mount");
}
