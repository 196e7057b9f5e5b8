//! The store of a process that is killed, and of a machine whose power is cut, wherever that happens.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use vaquita_image::{BuiltinFile, Image, ImageConfig, Reference, Registries, Source, Store, Unpacker};
use vaquita_testing::trace::{self, Call, Program, Verdict};

use crate::content::{Form, image, layer, noise};
use crate::registry::{Registry, Reply};

/// The name of the process that works until it is killed.
pub(crate) const PROGRAM: &str = "store-worker";
/// What it does, each told when it is done.
const STEPS: [&str; 5] = ["+0", "+1", "-0", "tag", "+2"];
const MEGABYTES: usize = 8;

/// A filesystem of its own, mounted as long as this is held.
struct Disk(tempfile::TempDir);

impl Disk {
    fn tmpfs(size: usize) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={size}m,mode=700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "store-test"]).arg(disk.0.path()));
        disk
    }

    fn of(file: &Path) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        run(Command::new("mount").args(["-o", "loop"]).arg(file).arg(disk.0.path()));
        disk
    }

    fn images(&self) -> PathBuf {
        self.0.path().join("images")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::empty());
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn open(dir: &Path) -> Store {
    let mut options = vaquita_image::Options::default();
    options.unpacker = Unpacker::Thread;
    options.spare_percent = 0;
    Store::open(dir, options).unwrap()
}

/// What the process does that is killed: `DIR` for [`STEPS`] there, `DIR REFERENCE` for a pull.
pub(crate) fn work() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&arguments[0]));
        if let Some(reference) = arguments.get(1) {
            let reference = Reference::parse(reference).unwrap();
            store.pull(&reference, None, &Registries::default()).await.unwrap();
            return;
        }
        for step in STEPS {
            make(&store, step).await;
            println!("{step}");
        }
    });
    ExitCode::SUCCESS
}

async fn make(store: &Store, step: &str) {
    let name = |number: &str| Reference::parse(&format!("local/{number}")).unwrap();
    match step.split_at(1) {
        ("+", number) => {
            let files = vec![BuiltinFile {
                path: "/data".into(),
                mode: 0o644,
                source: Source::Bytes(data(number).into_bytes()),
            }];
            store.builtin(&name(number), ImageConfig::default(), files).await.unwrap();
        }
        ("-", number) => drop(store.remove(&name(number).to_string()).await.unwrap()),
        _ => drop(store.tag("local/1", &name("tag")).await.unwrap()),
    }
}

fn data(number: &str) -> String {
    noise(number.parse().unwrap(), 50_000)
}

/// Names after so many steps.
fn names(steps: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for step in &STEPS[..steps.min(STEPS.len())] {
        match step.split_at(1) {
            ("+", number) => drop(names.insert(format!("local/{number}:latest"))),
            ("-", number) => drop(names.remove(&format!("local/{number}:latest"))),
            _ => drop(names.insert("local/tag:latest".to_owned())),
        }
    }
    names.into_iter().map(|name| format!("docker.io/{name}")).collect()
}

/// What was acknowledged is there and whole, of what was about to be done all or nothing, and nothing else stays.
fn is_sound(images: &Path, acknowledged: usize, when: &str) {
    let store = open(images);
    let all = store.list();
    let found: BTreeSet<String> = all.iter().flat_map(|image| image.repo_tags.clone()).collect();
    let possible = [names(acknowledged), names(acknowledged + 1)];
    assert!(possible.contains(&found), "{when}: {found:?}, {possible:?}");
    for image in &all {
        whole(images, &store, image, when);
    }
    drop(store);
    // The first start has kept what the next pull could use; another one finds the same.
    let store = open(images);
    assert_eq!(store.list(), all, "{when}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(make(&store, "+2"));
    assert!(store.find("local/2").is_some(), "{when}");
}

fn whole(images: &Path, store: &Store, image: &Image, when: &str) {
    let snapshot = store.snapshot("c", &image.id).unwrap();
    let root = snapshot.mount(true).unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, "data", flags, rustix::fs::Mode::empty()).unwrap();
    let content = std::io::read_to_string(File::from(file)).unwrap();
    assert!(["0", "1", "2"].iter().any(|number| data(number) == content), "{when}: {image:?}");
    drop((root, snapshot));
    store.remove_snapshot("c").unwrap();
    let id = image.id.to_string();
    let configuration = images.join("blobs/sha256").join(id.trim_start_matches("sha256:"));
    assert_eq!(vaquita_image::Digest::of(&std::fs::read(configuration).unwrap()), image.id, "{when}");
}

/// Whether a call changes files.
fn changes_files(call: &Call) -> bool {
    // write, pwrite64, openat, openat2, mkdirat, unlinkat, renameat, renameat2, fchmodat, fsync, fdatasync, syncfs, ftruncate, fallocate,
    // rename, unlink
    [1, 18, 257, 437, 258, 263, 264, 316, 268, 74, 75, 306, 77, 285, 82, 87].contains(&call.number)
}

fn worker(images: &Path) -> Program {
    let program = std::env::current_exe().unwrap();
    Program::new(program.to_str().unwrap()).name(PROGRAM).args([images.to_str().unwrap()])
}

/// The step that a call tells to be done.
fn tells(call: &Call) -> bool {
    call.number == 1 && call.arguments[0] == 1
}

pub(crate) fn killed_at_its_calls() {
    let mut calls = 0;
    {
        let disk = Disk::tmpfs(16);
        let count = |call: &Call| {
            calls += usize::from(changes_files(call));
            Verdict::Make
        };
        let trace = trace::run(&worker(&disk.images()), &[], count).unwrap();
        assert_eq!(trace.output.lines().collect::<Vec<_>>(), STEPS, "{trace:?}");
    }
    assert!(calls > 200, "{calls}");
    for place in (0..calls).step_by(calls / 120) {
        let disk = Disk::tmpfs(16);
        let (mut seen, mut told) = (0, 0);
        let kill = |call: &Call| {
            seen += usize::from(changes_files(call));
            if changes_files(call) && seen > place {
                return Verdict::Kill;
            }
            told += usize::from(tells(call));
            Verdict::Make
        };
        trace::run(&worker(&disk.images()), &[], kill).unwrap();
        is_sound(&disk.images(), told, &format!("killed at call {place} of {calls}"));
    }
}

/// The disk as it is at a system call: what was not written out by then is lost.
struct Moment {
    /// Blocks that are not as they were at the moment before, by their numbers.
    changed: Vec<(usize, Vec<u8>)>,
    acknowledged: usize,
}

const BLOCK: usize = 4096;

pub(crate) fn power_cut_at_its_calls() {
    let memory = Disk::tmpfs(3 * MEGABYTES);
    let file = memory.0.path().join("disk");
    File::create(&file).unwrap().set_len((MEGABYTES << 20) as u64).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-b", "1024"]).arg(&file));
    let mut moments: Vec<Moment> = Vec::new();
    {
        let disk = Disk::of(&file);
        let (mut last, mut told) = (vec![0; MEGABYTES << 20], 0);
        let look = |call: &Call| {
            if changes_files(call) {
                let now = at_rest(&file);
                let pairs = now.chunks(BLOCK).zip(last.chunks(BLOCK)).enumerate();
                let changed: Vec<(usize, Vec<u8>)> = pairs
                    .filter(|(_, (now, last))| now != last)
                    .map(|(number, (now, _))| (number, now.to_vec()))
                    .collect();
                if !changed.is_empty() || moments.last().is_some_and(|moment| moment.acknowledged != told) {
                    moments.push(Moment { changed, acknowledged: told });
                    last = now;
                }
            }
            told += usize::from(tells(call));
            Verdict::Make
        };
        let trace = trace::run(&worker(&disk.images()), &[], look).unwrap();
        assert_eq!(trace.output.lines().collect::<Vec<_>>(), STEPS, "{trace:?}");
    }
    assert!(moments.len() > 15, "{}", moments.len());
    let mut bytes = vec![0; MEGABYTES << 20];
    for (number, moment) in moments.iter().enumerate() {
        for (block, content) in &moment.changed {
            bytes[block * BLOCK..(block + 1) * BLOCK].copy_from_slice(content);
        }
        let copy = memory.0.path().join("copy");
        std::fs::write(&copy, &bytes).unwrap();
        let disk = Disk::of(&copy);
        // The machine has started anew.
        for note in std::fs::read_dir(disk.images().join("notes")).into_iter().flatten() {
            let note = note.unwrap().path();
            let text = std::fs::read_to_string(&note).unwrap();
            std::fs::write(&note, text.replacen("\"boot\":\"", "\"boot\":\"before-", 1)).unwrap();
        }
        let when = format!("power cut at moment {number} of {}", moments.len());
        is_sound(&disk.images(), moment.acknowledged, &when);
    }
}

/// The disk's bytes when nobody writes to it.
fn at_rest(file: &Path) -> Vec<u8> {
    let mut last = std::fs::read(file).unwrap();
    loop {
        let now = std::fs::read(file).unwrap();
        if now == last {
            return now;
        }
        last = now;
    }
}

/// A pull whose process is killed in the middle asks the registry for the rest only.
pub(crate) async fn a_killed_pull_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    let content = image(&[layer(&[("small", "1")]), layer(&[("big", &noise(9, 1_000_000))])], Form::Gzip);
    let digest = content.layers[1].0;
    let whole = content.layers[1].1.len();
    let registry = Registry::start(move |ask| {
        let stalls = ask.path.contains(&digest.to_string()) && ask.from.is_none();
        Reply { stalls_after: stalls.then_some(300_000), ..content.answer(ask) }
    })
    .await;
    let reference = registry.reference("a");
    let program = std::env::current_exe().unwrap();
    let mut process = std::os::unix::process::CommandExt::arg0(&mut Command::new(program), PROGRAM)
        .arg(&images)
        .arg(reference.to_string())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let partial = images.join("partial").join(digest.hex());
    let count = |name: &str| std::fs::read_dir(images.join(name)).map_or(0, Iterator::count);
    while partial.metadata().map_or(0, |meta| meta.len()) < 300_000
        || (count("notes"), count("partial")) != (1, 1)
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let store = open(&images);
    assert!(store.list().is_empty());
    store.pull(&reference, None, &Registries::default()).await.unwrap();
    let asks = registry.seen().into_iter().filter(|ask| ask.path.contains(&digest.to_string()));
    let begins: Vec<Option<usize>> = asks.map(|ask| ask.from).collect();
    assert_eq!(begins, [None, Some(300_000)], "{} bytes the second time", whole - 300_000);
    assert_eq!(
        registry.count("/blobs/"),
        5,
        "the small layer once, the configuration and the other layer twice"
    );
    let _ = std::io::stdout().flush();
}
