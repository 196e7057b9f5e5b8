//! The store against registries that are decent and registries that are not.
#![allow(clippy::unwrap_used)] // a test says what it wanted by failing there
#![allow(clippy::disallowed_methods, reason = "files of the tests")]

mod archive;
mod artifact;
mod busy;
mod content;
mod damage;
mod debian;
mod full;
mod hostile;
mod hosts;
mod media;
mod proxy;
mod pull;
mod registry;
mod resume;
mod save;
mod space;
mod store;
mod tls;
mod trees;
mod wire;

use std::path::Path;
use std::time::Duration;

use vaquita_image::{Options, Registries, Store, Timeouts, Unpacker};

/// A store of its own, that unpacks in threads of the test.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        Self::at(&std::env::temp_dir())
    }

    /// Where a thousand transactions cost nothing.
    fn in_memory() -> Self {
        Self::at(Path::new("/dev/shm"))
    }

    fn at(parent: &Path) -> Self {
        vaquita_testing::require_root();
        let dir = tempfile::tempdir_in(parent).unwrap();
        let store = open(dir.path());
        Self { dir, store }
    }

    /// Closes the store and opens it again, as another process would.
    fn reopen(self) -> Self {
        let Self { dir, store } = self;
        drop(store);
        let store = open(dir.path());
        Self { dir, store }
    }

    /// What du(1) says of the store without the snapshots, in bytes.
    fn du(&self) -> u64 {
        let dir = self.dir.path().join("images");
        let output = std::process::Command::new("du")
            .args(["-s", "-B1", "--exclude=snapshots/*"])
            .arg(&dir)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().split('\t').next().unwrap().parse().unwrap()
    }

    /// Names in a directory of the store.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("images").join(dir)).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("images"), options()).unwrap()
}

fn options() -> Options {
    let mut options = Options::default();
    options.unpacker = Unpacker::Thread;
    // Whatever the disk of the tests is like.
    options.spare_percent = 0;
    options
}

/// Settings with little patience.
fn impatient() -> Registries {
    let timeouts = Timeouts {
        connect: Duration::from_secs(5),
        answer: Duration::from_millis(500),
        stall: Duration::from_millis(300),
        retry: Duration::from_millis(1),
    };
    Registries { timeouts, ..Registries::default() }
}

fn read(dir: &impl rustix::fd::AsFd, name: &str) -> String {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, rustix::fs::Mode::empty()).unwrap();
    std::io::read_to_string(std::fs::File::from(file)).unwrap()
}
