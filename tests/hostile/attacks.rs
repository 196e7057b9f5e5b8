//! Containers that attack whoever makes them or enters them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde_json::json;

use crate::scene::{self, Container, Scene, Verb, in_parallel};

/// How often the container is entered while it attacks.
const EXECS: usize = 1000;

/// T01: CVE-2019-5736. A container with every power it could use opens the program that enters it and tries to write to
/// it; every second program is one whose interpreter is that program itself, which then runs inside.
#[test]
fn t01_who_enters_a_container_cannot_be_overwritten() {
    let scene = Scene::new();
    // What is attacked is a copy: should the attack succeed, only the copy is lost.
    let copy = scene.path("vaquita-oci");
    scene::copy(scene::runtime(), &copy);
    let before = identity(&copy);
    let root = scene.path("bundle/rootfs");
    scene::copy(std::env::current_exe().unwrap(), root.join("attacker"));
    fs::write(root.join("self"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(root.join("self"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut container = scene.container_with(|config| {
        let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        config["process"]["args"] =
            json!(["/attacker", "attacks::attacker", "--exact", "--nocapture", "--test-threads=1"]);
        config["process"]["env"] = json!(["VAQUITA_ATTACK=1"]);
        config["process"]["rlimits"] = json!([]);
    });
    container.runtime = copy.display().to_string();
    container.must(Verb::Create);
    container.must(Verb::Start);
    in_parallel(EXECS, |number| {
        let program = if number % 2 == 0 { "/self" } else { "/bin/true" };
        let output = container.command(&container.with_id(&["exec"], &[program]));
        if number % 2 == 1 {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
    fs::write(root.join("stop"), "").unwrap();
    let report = loop {
        match fs::read_to_string(root.join("report")) {
            Ok(report) => break report,
            Err(_) => assert_eq!(container.status().as_deref(), Some("running"), "the attacker ended early"),
        }
    };
    // That it was an attack: it saw many that were not of its own root, and tried.
    let [seen, tried, won] =
        report.split(' ').map(|number| number.parse().unwrap()).collect::<Vec<usize>>()[..]
    else {
        panic!("{report:?}")
    };
    assert!(seen > EXECS / 20 && tried > seen, "no attack: {report}");
    assert_eq!(won, 0, "it could write: {report}");
    assert!(identity(&copy) == before, "the program was changed");
    assert_eq!(container.remove(), Vec::<String>::new());
}

fn identity(path: &Path) -> (Vec<u8>, u64, i64, i64, i64) {
    let stat = fs::metadata(path).unwrap();
    (fs::read(path).unwrap(), stat.ino(), stat.mtime(), stat.mtime_nsec(), stat.ctime_nsec())
}

/// Not a test of anything by itself: what runs in the container.
#[test]
fn attacker() {
    if std::env::var_os("VAQUITA_ATTACK").is_none() {
        return;
    }
    let which = |stat: &fs::Metadata| (stat.dev(), stat.ino());
    let own = ["/proc/self/exe", "/bin/busybox"].map(|path| which(&fs::metadata(path).unwrap()));
    let mut held: Vec<File> = Vec::new();
    let (mut seen, mut tried, mut won) = (BTreeSet::new(), 0, 0);
    while !Path::new("/stop").exists() {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let exe = format!("/proc/{pid}/exe");
            // As one that is only held: it can be opened anew when nobody runs it any more.
            let Ok(fd) = rustix::fs::open(&exe, OFlags::PATH, Mode::empty()) else { continue };
            let file = File::from(fd);
            if file.metadata().is_ok_and(|stat| !own.contains(&which(&stat))) {
                seen.insert(pid);
                held.push(file);
            }
        }
        let first = held.len().saturating_sub(64);
        held.drain(..first);
        for file in &held {
            use std::os::fd::AsRawFd as _;
            tried += 1;
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            if let Ok(mut file) = File::options().append(true).open(path)
                && file.write_all(b"#").is_ok()
            {
                won += 1;
            }
        }
    }
    fs::write("/report.new", format!("{} {tried} {won}", seen.len())).unwrap();
    fs::rename("/report.new", "/report").unwrap();
    loop {
        std::thread::park();
    }
}

/// T10, CVE-2024-21626: whatever the caller has open, a program in a container has 0, 1 and 2.
#[test]
fn t10_programs_inherit_nothing_but_their_output() {
    let scene = Scene::new();
    // Not closed on exec, as a careless caller leaves them.
    let _open: Vec<_> = (0..20)
        .map(|_| rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap())
        .collect();
    let mut container = scene.container();
    container.must(Verb::Create);
    // What it waits for, and where it enters its control groups; no directory, and nothing else of the host's.
    let is_fine = |target: &str| {
        let group = target.starts_with("/sys/fs/cgroup/") && !Path::new(target).is_dir();
        group || ["/dev/null", "/memfd:output (deleted)"].contains(&target) || target.starts_with("socket:")
    };
    // It closes the rest when it has said that it is ready.
    let deadline = Instant::now() + Duration::from_secs(20);
    let init = pid(&container);
    loop {
        let waiting = fds(&init);
        if waiting.iter().all(|(_, target)| is_fine(target)) {
            break;
        }
        assert!(Instant::now() < deadline, "{waiting:?}");
    }
    container.must(Verb::Start);
    assert_three(&fds(&pid(&container)));

    let file = scene.path("exec.pid");
    let detached = ["exec", "--detach", "--pid-file", file.to_str().unwrap()];
    let output = container.command(&container.with_id(&detached, &["/bin/sleep", "1000"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let execed = fs::read_to_string(&file).unwrap();
    container.adopt(execed.trim());
    assert_three(&fds(execed.trim()));

    let other = scene.container();
    let bundle = scene.path(&other.id).display().to_string();
    let output = other.command(&other.with_id(&["run", "--detach", "--bundle", &bundle], &[]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_three(&fds(&pid(&other)));

    // And no working directory outside, by a number that a descriptor of the runtime may have.
    for number in 3..30 {
        let cwd = format!("/proc/self/fd/{number}");
        let output =
            container.command(&container.with_id(&["exec", "--cwd", &cwd], &["/bin/sh", "-c", "pwd -P"]));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success(), "{cwd} is {shown:?}");
    }
}

/// T05, GHSA-g54h-m393-cpwq: a list of devices that is null or empty is no list of all devices.
#[test]
fn t05_no_list_of_devices_allows_none() {
    let scene = Scene::new();
    for devices in [json!(null), json!([])] {
        let container = scene.container_with(|config| {
            config["linux"]["resources"]["devices"] = devices.clone();
            let all = json!(["CAP_MKNOD"]);
            config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
        });
        container.must(Verb::Create);
        container.must(Verb::Start);
        // Of the host's disk, or of nothing: who may not open it is told before the kernel looks for it.
        let script =
            "busybox mknod /dev/disk b 254 0 && busybox head -c 1 /dev/null && busybox head -c 1 /dev/disk";
        let output = container.command(&container.with_id(&["exec"], &["/bin/sh", "-c", script]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("/dev/disk: Operation not permitted"), "{said}");
    }
}

/// T08, CVE-2022-29162, CVE-2022-27650: no capability is inheritable that was not asked to be.
#[test]
fn t08_nothing_is_inheritable() {
    let scene = Scene::new();
    let container = scene.container();
    container.must(Verb::Create);
    container.must(Verb::Start);
    let init = fs::read_to_string(format!("/proc/{}/status", pid(&container))).unwrap();
    let script = "while read line; do echo $line; done < /proc/self/status";
    let output = container.command(&container.with_id(&["exec"], &["/bin/sh", "-c", script]));
    let execed = String::from_utf8_lossy(&output.stdout).replace(' ', "\t");
    for status in [init, execed] {
        assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
        assert!(status.contains("CapEff:\t0000000000000021"), "{status}");
    }
}

fn pid(container: &Container<'_>) -> String {
    container.init().unwrap().as_raw_pid().to_string()
}

fn fds(pid: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let mut fds: Vec<_> = entries
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            (entry.file_name().to_string_lossy().into_owned(), target.display().to_string())
        })
        .collect();
    fds.sort();
    fds
}

#[track_caller]
fn assert_three(fds: &[(String, String)]) {
    let numbers: Vec<&str> = fds.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{fds:?}");
}
