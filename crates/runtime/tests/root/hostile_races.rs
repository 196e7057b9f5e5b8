//! Attacks that are races: somebody exchanges a file of the root filesystem for a link to the host, without a pause,
//! while containers are created from it. Ten thousand creates for each, and none may escape.
//!
//! A creator has one thread and is a process of its own: this binary again. After each create it looks at the
//! container's mount table; at the end the host's mount table and a directory of the host are looked at. Every race
//! asserts that both ways of losing it were seen often: otherwise it would prove nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use vaquita_runtime::{Context, CreateArgs, Created, ParentOf, Plan, Stdio, create};
use vaquita_sys::mount::{mountinfo, mountinfo_of};
use vaquita_sys::process::wait_pidfd;
use vaquita_sys::signal::{self, Signal};
use vaquita_testing::{require_root, unique};

/// How many containers each race makes, over all its creators.
const CREATES: usize = 10_000;
const CREATORS: usize = 2;
/// Exchanges between two moments of rest.
const BURST: usize = 100;

/// T03: CVE-2023-28642. /proc and /sys are exchanged for links.
#[test]
fn t03_races_of_proc_and_sys_are_not_won() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        let place = format!("/{name}");
        let mut race =
            Race::new(name, "elsewhere").mount(json!({"destination": place, "type": kind, "source": kind}));
        race.creates = CREATES / 2;
        fs::create_dir(race.path("elsewhere")).unwrap();
        race.run(&[], |_| Expected::Mount {
            kind: kind.to_owned(),
            at: vec![place.clone(), "/link".to_owned()],
        });
    }
}

/// T06, CVE-2021-30465: the directory above a mount point is exchanged. T11, CVE-2024-45310: it has to be made each time.
#[test]
fn t06_t11_races_of_mount_points_are_not_won() {
    let race = Race::to_canary("swap");
    let inside = race.canary.path().to_owned();
    race.run_with(
        &["one/two", "one"],
        |lane| json!([{"destination": format!("/swap/{lane}/one/two"), "type": "tmpfs", "source": "tmpfs"}]),
        |lane| Expected::Mount {
            kind: "tmpfs".to_owned(),
            at: vec![
                format!("/swap/{lane}/one/two"),
                format!("/link/{lane}/one/two"),
                // Where the link leads to inside of the root.
                format!("{}/{lane}/one/two", inside.display()),
            ],
        },
    );
}

/// T12: CVE-2025-31133. The image's /dev/null is exchanged, which must not be what paths are masked with.
#[test]
fn t12_races_of_dev_null_are_not_won() {
    let race = Race::to_canary("dev/null").set("/linux/maskedPaths", json!(["/masked"]));
    fs::write(race.path("masked"), "secret").unwrap();
    race.run(&[], |_| Expected::NullDevice { at: "/masked".to_owned() });
}

/// T13: CVE-2025-52565. The place of the console is exchanged; the terminal is bound there.
#[test]
fn t13_races_of_the_console_are_not_won() {
    let race = Race::to_canary("dev/console").set("/process/terminal", json!(true)).mount(json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666"]
    }));
    race.run(&[], |_| Expected::Mount {
        kind: "devpts".to_owned(),
        at: vec!["/dev/console".to_owned(), "/dev/link".to_owned()],
    });
}

/// T15: CVE-2026-41579. /dev, on which nothing is mounted, is exchanged while nodes and links are made in it.
#[test]
fn t15_races_of_dev_are_not_won() {
    let made =
        ["null", "zero", "full", "random", "urandom", "tty", "fd", "stdin", "stdout", "stderr", "core"];
    Race::to_canary("dev").run(&made, |_| Expected::Devices);
}

/// What a container that could be created must have.
#[derive(Deserialize, Serialize)]
enum Expected {
    /// A mount of this kind below its root, at one of these names of the same place.
    Mount { kind: String, at: Vec<String> },
    /// The host's /dev/null there.
    NullDevice { at: String },
    /// Nodes in the true directory.
    Devices,
}

/// What a creator is told.
#[derive(Deserialize, Serialize)]
struct Job {
    root: PathBuf,
    spec: Value,
    creates: usize,
    /// Names of the exchanged thing: one is a link at any time, the other it.
    names: [PathBuf; 2],
    /// What is removed in it after each create, so that the next one makes it again.
    made: Vec<String>,
    expected: Expected,
}

/// What a creator has to tell: how many containers there were, and how many were refused with which error.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Tally {
    created: usize,
    refused: BTreeMap<String, usize>,
    /// Of the created ones, those with their mount where the link leads to inside of the root.
    by_link: usize,
    escapes: Vec<String>,
}

/// A root filesystem, and a directory of the host that nothing may happen in.
struct Race {
    root: TempDir,
    canary: TempDir,
    spec: Value,
    /// What is exchanged, and for what.
    names: [PathBuf; 2],
    creates: usize,
}

impl Race {
    /// `name` in the root filesystem is exchanged for a link to `target`.
    fn new(name: &str, target: impl AsRef<Path>) -> Self {
        Self::with(name, |_| target.as_ref().to_owned())
    }

    /// `name` is exchanged for a link to the canary, or to a file in it.
    fn to_canary(name: &str) -> Self {
        let is_dir = !name.starts_with("dev/");
        Self::with(name, |canary| if is_dir { canary.to_owned() } else { canary.join("secret") })
    }

    fn with(name: &str, target: impl FnOnce(&Path) -> PathBuf) -> Self {
        require_root();
        // In memory where possible: elsewhere most of the time goes into the filesystem's journal.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
        let directory =
            |prefix: &str| tempfile::Builder::new().prefix(&unique(prefix)).tempdir_in(place).unwrap();
        let (root, canary) = (directory("race"), directory("canary"));
        fs::write(canary.path().join("secret"), "secret").unwrap();
        fs::create_dir(root.path().join("dev")).unwrap();
        let path = root.path().join(name);
        match name {
            "dev/null" => {
                let mode = Mode::from_raw_mode(0o666);
                rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3))
                    .unwrap();
            }
            "dev/console" => fs::write(&path, "").unwrap(),
            _ => fs::create_dir_all(&path).unwrap(),
        }
        let link = path.with_file_name("link");
        symlink(target(canary.path()), &link).unwrap();
        let spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["/none"], "cwd": "/"},
            "mounts": [],
            "linux": {"namespaces": [{"type": "mount"}]},
        });
        Self { root, canary, spec, names: [path, link], creates: CREATES }
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.root.path().join(inside)
    }

    fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.spec.pointer_mut(parent).unwrap()[name] = value;
        self
    }

    fn mount(mut self, mount: Value) -> Self {
        self.spec["mounts"].as_array_mut().unwrap().push(mount);
        self
    }

    /// Creates with the mounts that were given.
    fn run(self, made: &[&str], expected: impl Fn(usize) -> Expected) {
        let mounts = self.spec["mounts"].clone();
        self.run_with(made, |_| mounts.clone(), expected);
    }

    /// `made` is removed after each create, `mounts` and `expected` depend on the creator.
    fn run_with(self, made: &[&str], mounts: impl Fn(usize) -> Value, expected: impl Fn(usize) -> Expected) {
        let before = self.canary_state();
        // Creators that make the same files would stand in each other's way.
        let creators = if made.is_empty() || self.spec["mounts"] != mounts(0) { CREATORS } else { 1 };
        let swapper = Swapper::start(self.names.clone());
        let workers: Vec<_> = (0..creators)
            .map(|lane| {
                let mut spec = self.spec.clone();
                spec["mounts"] = mounts(lane);
                let in_lane =
                    |name: &&str| if creators > 1 { format!("{lane}/{name}") } else { (*name).to_owned() };
                Worker::start(&Job {
                    root: self.root.path().to_owned(),
                    spec,
                    creates: self.creates / creators,
                    names: self.names.clone(),
                    made: made.iter().map(in_lane).collect(),
                    expected: expected(lane),
                })
            })
            .collect();
        let tallies: Vec<Tally> = workers.into_iter().map(Worker::finish).collect();
        let exchanges = swapper.stop();
        let created: usize = tallies.iter().map(|tally| tally.created).sum();
        let refused: usize = tallies.iter().flat_map(|tally| tally.refused.values()).sum();
        assert!(tallies.iter().all(|tally| tally.escapes.is_empty()), "{tallies:?}");
        assert_eq!(self.canary_state(), before, "something happened on the host");
        let table = mountinfo().unwrap();
        let dirs = [self.root.path(), self.canary.path()];
        let mounts: Vec<_> =
            table.iter().filter(|mount| dirs.iter().any(|dir| mount.mount_point.starts_with(dir))).collect();
        assert!(mounts.is_empty(), "on the host: {mounts:?}");
        assert_eq!(created + refused, self.creates);
        let by_link: usize = tallies.iter().map(|tally| tally.by_link).sum();
        let few = self.creates / 50;
        assert!(created - by_link > few && refused + by_link > few, "no race: {tallies:?}");
        assert!(exchanges > self.creates, "no race: {exchanges} exchanges");
    }

    /// Everything that changes when something is made, removed, written or given away in there.
    fn canary_state(&self) -> Vec<String> {
        let entries = fs::read_dir(self.canary.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<_> = entries
            .chain([self.canary.path().to_owned()])
            .map(|path| {
                let stat = fs::symlink_metadata(&path).unwrap();
                let (ino, mode, links) = (stat.ino(), stat.mode(), stat.nlink());
                let (modified, changed) = (stat.modified().unwrap(), (stat.ctime(), stat.ctime_nsec()));
                format!("{path:?} {ino} {mode:o} {links} {modified:?} {changed:?}")
            })
            .collect();
        all.sort();
        all
    }
}

/// Exchanges two files, on and on.
struct Swapper(Arc<AtomicBool>, std::thread::JoinHandle<usize>);

impl Swapper {
    fn start([one, two]: [PathBuf; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let open = |path: &Path| {
                rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
            };
            let directory = open(one.parent().unwrap());
            let (one, two) = (one.file_name().unwrap(), two.file_name().unwrap());
            let mut count = 0;
            while !stopped.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&directory, one, &directory, two, RenameFlags::EXCHANGE).unwrap();
                count += 1;
                if count % BURST == 0 {
                    // The creators need the processor, too.
                    std::thread::sleep(std::time::Duration::from_nanos(1));
                }
            }
            count
        });
        Self(stop, thread)
    }

    fn stop(self) -> usize {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().unwrap()
    }
}

/// A process that creates containers.
struct Worker(Child);

impl Worker {
    fn start(job: &Job) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["hostile_races::creator", "--exact", "--nocapture", "--test-threads=1"])
            .env("VAQUITA_RACE", serde_json::to_string(job).unwrap())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn finish(self) -> Tally {
        let output = self.0.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("> "));
        serde_json::from_str(line.unwrap_or_else(|| panic!("the creator failed: {text}"))).unwrap()
    }
}

/// Not a test of anything by itself: a creator.
#[test]
fn creator() {
    let Ok(job) = std::env::var("VAQUITA_RACE") else { return };
    let job: Job = serde_json::from_str(&job).unwrap();
    let mut tally = Tally::default();
    let null = fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    for _ in 0..job.creates {
        create_one(&job, &null, &mut tally);
    }
    println!("\n> {}", serde_json::to_string(&tally).unwrap());
}

fn create_one(job: &Job, null: &fs::File, tally: &mut Tally) {
    let spec: Spec = serde_json::from_value(job.spec.clone()).unwrap();
    let plan = Plan::new(&spec, &Context::default()).unwrap();
    let stdio = if job.spec["process"]["terminal"] == true {
        Stdio::Terminal { rows: 24, columns: 80 }
    } else {
        Stdio::Fds([(); 3].map(|()| OwnedFd::from(null.try_clone().unwrap())))
    };
    let rootfs = vaquita_runtime::rootfs::open(&job.root).unwrap();
    let args = CreateArgs {
        rootfs,
        stdio,
        join: Vec::new(),
        cgroup: None,
        extra_fds: Vec::new(),
        new_keyring: true,
        parent: ParentOf::Caller,
        rendezvous: None,
        meanwhile: None,
        start_socket: None,
        no_pivot: false,
    };
    match create(&plan, args) {
        Ok(created) => {
            tally.created += 1;
            match place(job, &created) {
                Ok(place) => tally.by_link += usize::from(place == 2),
                Err(escape) => tally.escapes.push(escape),
            }
            let _ = signal::send(&created.pidfd, Signal::KILL);
            wait_pidfd(&created.pidfd).unwrap();
        }
        Err(error) => {
            // A link in the way; what was just there and is not; something else at that name.
            use rustix::io::Errno;
            let known = [Errno::LOOP, Errno::NOENT, Errno::EXIST, Errno::NOTDIR];
            if !error.errno().is_some_and(|errno| known.contains(&errno)) {
                tally.escapes.push(format!("an error that is none of a lost race: {error}"));
            }
            *tally.refused.entry(format!("{:?}", error.errno())).or_default() += 1;
        }
    }
    if !job.made.is_empty() {
        let directory = the_directory(&job.names);
        for name in &job.made {
            let flags = if job.made.len() > 2 { AtFlags::empty() } else { AtFlags::REMOVEDIR };
            let _ = rustix::fs::unlinkat(&directory, name.as_str(), flags);
        }
    }
}

/// What is exchanged, under whichever name it has.
fn the_directory(names: &[PathBuf; 2]) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    loop {
        if let Some(fd) = names.iter().find_map(|name| rustix::fs::open(name, flags, Mode::empty()).ok()) {
            return fd;
        }
    }
}

/// At which of the places the container has what was expected, or how it is not what it was to be.
fn place(job: &Job, created: &Created) -> Result<usize, String> {
    let table = mountinfo_of(Path::new(&format!("/proc/{}/mountinfo", created.pid))).unwrap();
    // The host's tree may still lie on the container's root; what counts is on that root itself.
    let Some(root) = table.iter().find(|mount| mount.root.file_name() == job.root.file_name()) else {
        return Ok(0);
    };
    let mut own = table.iter().filter(|mount| mount.parent == root.id);
    let missing = |what: &str| format!("{what} is not in the container: {table:?}");
    match &job.expected {
        Expected::Mount { kind, at } => {
            let place = |mount: &Path| at.iter().position(|at| Path::new(at) == mount);
            let mut places = own.filter(|mount| mount.fs_type == *kind);
            places.find_map(|mount| place(&mount.mount_point)).ok_or_else(|| missing(kind))
        }
        Expected::NullDevice { at } => {
            let device = fs::metadata("/dev/null").unwrap().dev();
            let device = (rustix::fs::major(device), rustix::fs::minor(device));
            let found = own.any(|mount| {
                mount.mount_point == Path::new(at)
                    && mount.device == device
                    && mount.root.file_name() == Some("null".as_ref())
            });
            if found { Ok(0) } else { Err(missing("/dev/null")) }
        }
        Expected::Devices => {
            let directory = the_directory(&job.names);
            let stat = rustix::fs::statat(directory.as_fd(), "null", AtFlags::SYMLINK_NOFOLLOW);
            let is_node = stat.is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3));
            if is_node { Ok(0) } else { Err(missing("the node /dev/null")) }
        }
    }
}
