//! A disk that fills up in the middle of a pull, wherever that is.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vaquita_image::{Error, Image, Kind, Reference, Store};

use crate::content::{Content, Form, image, layer, noise};
use crate::registry::Registry;
use crate::{impatient, options, read};

/// A filesystem of its own, mounted as long as this is held.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn tmpfs(options: &str) -> Self {
        vaquita_testing::require_root();
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "store-test"]).arg(disk.root()));
        disk
    }

    fn ext4(megabytes: u64) -> Self {
        vaquita_testing::require_root();
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        let file = disk.dir.path().join("disk");
        File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
        // Nothing is kept back for root.
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(disk.root()));
        disk
    }

    fn root(&self) -> PathBuf {
        let root = self.dir.path().join("root");
        let _ = std::fs::create_dir(&root);
        root
    }

    fn images(&self) -> PathBuf {
        self.root().join("images")
    }

    fn space(&self) -> vaquita_sys::fs::Usage {
        vaquita_sys::fs::usage(File::open(self.root()).unwrap()).unwrap()
    }

    /// Free bytes and inodes, as if the log took nothing: it keeps the room that it once had.
    fn free(&self) -> (u64, u64) {
        let space = self.space();
        let log = self.images().join("store.redb").metadata().unwrap().blocks() * 512;
        (space.bytes_available + log, space.inodes - space.inodes_used)
    }

    /// Takes room until so many bytes are left.
    fn fill(&self, left: u64) {
        let file = File::create(self.filler()).unwrap();
        let mut take = self.space().bytes_available.saturating_sub(left);
        // The filesystem may need a block of its own for it.
        while take > 0 && rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take).is_err()
        {
            take = take.saturating_sub(4096);
        }
    }

    fn filler(&self) -> PathBuf {
        self.root().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.root(), rustix::mount::UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn large() -> Content {
    let files: Vec<(String, String)> =
        (0..40).map(|n| (format!("dir{n}/file"), "text ".repeat(n * 20))).collect();
    let mut files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&name[..], &text[..])).collect();
    let (one, two) = (noise(5, 300_000), noise(6, 200_000));
    files.push(("one", &one));
    image(&[layer(&files), layer(&[("two", &two), ("three", &noise(7, 150_000))])], Form::Gzip)
}

fn told(error: &Error, root: &Path) {
    assert_eq!(error.kind(), Kind::Kernel(rustix::io::Errno::NOSPC), "{error}");
    let text = error.to_string();
    let place = root.join("images").display().to_string();
    for part in ["no space left in", &place, "bytes", "image prune"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

fn usable(store: &Store) {
    // A writable overlay needs room itself.
    let root = store.open_snapshot("c").unwrap().mount(true).unwrap();
    assert_eq!(read(&root, "small"), "1");
}

/// The image that is there stays usable, the one that does not fit leaves nothing, and the next pull works.
async fn fails_cleanly(disk: &Disk, store: &Store, registry: &Registry, what: &str) -> Option<Image> {
    let reference = registry.reference("large");
    let (before, images) = (disk.free(), store.list());
    match store.pull(&reference, None, &impatient()).await {
        Ok(image) => Some(image),
        Err(error) => {
            told(&error, &disk.root());
            // A thread that has said its last word may hold a directory for a moment more.
            let deadline = Instant::now() + Duration::from_secs(10);
            let is_back = |now: (u64, u64)| now.0 >= before.0 && now.1 >= before.1;
            while !is_back(disk.free()) && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(is_back(disk.free()), "{what}: {before:?}, {:?}, {error}", disk.free());
            assert_eq!(store.list(), images, "{what}");
            usable(store);
            None
        }
    }
}

async fn fills_up(disk: &Disk, steps: impl Iterator<Item = u64>) {
    let small = Registry::of(image(&[layer(&[("small", "1")])], Form::Gzip)).await;
    let registry = Registry::of(large()).await;
    let store = Store::open(&disk.images(), options()).unwrap();
    let pulled = store.pull(&small.reference("small"), None, &impatient()).await.unwrap();
    store.snapshot("c", &pulled.id).unwrap();
    let (mut failed, mut fits) = (0, false);
    for left in steps {
        disk.fill(left);
        let image = fails_cleanly(disk, &store, &registry, &format!("{left} bytes left")).await;
        failed += u32::from(image.is_none());
        fits = image.is_some();
        std::fs::remove_file(disk.filler()).unwrap();
        // Room is made, and nothing has to be started anew.
        let image = store.pull(&registry.reference("large"), None, &impatient()).await.unwrap();
        // Again without any room: it can be removed all the same, and gives back what it took.
        disk.fill(0);
        let freed = store.remove(&image.id.to_string()).await.unwrap();
        assert!(freed.bytes > 650_000, "{freed:?}");
        assert!(disk.space().bytes_available >= 650_000, "{left}");
        std::fs::remove_file(disk.filler()).unwrap();
    }
    assert!(failed > 5 && fits, "{failed} failed; the last one must fit: {fits}");
    drop(store);
    // What is on the disk is what was acknowledged.
    let store = Store::open(&disk.images(), options()).unwrap();
    assert_eq!(store.list().len(), 1);
    usable(&store);
}

#[tokio::test]
async fn a_disk_that_fills_up_anywhere() {
    let disk = Disk::tmpfs("size=16m,mode=700");
    fills_up(&disk, (0..2_000_000).step_by(16_384)).await;
}

#[tokio::test]
async fn a_disk_with_ext4_that_fills_up_anywhere() {
    let disk = Disk::ext4(32);
    fills_up(&disk, (0..2_000_000).step_by(65_536)).await;
}

#[tokio::test]
async fn inodes_run_out_anywhere() {
    let disk = Disk::tmpfs("size=64m,nr_inodes=400,mode=700");
    let small = Registry::of(image(&[layer(&[("small", "1")])], Form::Gzip)).await;
    let registry = Registry::of(large()).await;
    let store = Store::open(&disk.images(), options()).unwrap();
    let pulled = store.pull(&small.reference("small"), None, &impatient()).await.unwrap();
    store.snapshot("c", &pulled.id).unwrap();
    let filler = disk.root().join("filler");
    let mut failed = 0;
    for left in (0..130).step_by(3) {
        std::fs::create_dir(&filler).unwrap();
        for number in 0..disk.free().1.saturating_sub(left) {
            File::create(filler.join(number.to_string())).unwrap();
        }
        let image = fails_cleanly(&disk, &store, &registry, &format!("{left} inodes left")).await;
        failed += u32::from(image.is_none());
        std::fs::remove_dir_all(&filler).unwrap();
        let image = store.pull(&registry.reference("large"), None, &impatient()).await.unwrap();
        store.remove(&image.id.to_string()).await.unwrap();
    }
    assert!((10..44).contains(&failed), "{failed}");
}

/// What a cancelled pull left gives way to the next one.
#[tokio::test]
async fn leftovers_make_room() {
    let disk = Disk::tmpfs("size=16m,mode=700");
    let store = Store::open(&disk.images(), options()).unwrap();
    let registry = Registry::of(large()).await;
    let partial = disk.images().join("partial").join("0".repeat(64));
    std::fs::write(&partial, vec![1; 1 << 20]).unwrap();
    disk.fill(600_000);
    store.pull(&registry.reference("large"), None, &impatient()).await.unwrap();
    assert!(!partial.exists());
}

/// What was acknowledged is there, what was refused is not, and the log works on when there is room again.
#[tokio::test]
async fn the_log_itself_does_not_fit() {
    let disk = Disk::tmpfs("size=16m,mode=700");
    let registry = Registry::of(image(&[layer(&[("small", "1")])], Form::Gzip)).await;
    let store = Store::open(&disk.images(), options()).unwrap();
    let id = store.pull(&registry.reference("small"), None, &impatient()).await.unwrap().id.to_string();
    store.snapshot("c", &store.list()[0].id).unwrap();
    let tag = |number: usize| Reference::parse(&format!("local/{}:{number}", "name".repeat(20))).unwrap();
    let mut tags = 0;
    for round in 0..8 {
        disk.fill(round * 4096);
        let error = loop {
            match store.tag(&id, &tag(tags)).await {
                Ok(_) => tags += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), Kind::Kernel(rustix::io::Errno::NOSPC), "{error}");
        assert!(error.to_string().contains("store.redb"), "{error}");
        assert_eq!(store.list()[0].repo_tags.len(), tags + 1);
        usable(&store);
        std::fs::remove_file(disk.filler()).unwrap();
        store.tag(&id, &tag(tags)).await.unwrap();
        tags += 1;
    }
    // It can be opened where nothing more fits.
    let before = store.list();
    drop(store);
    disk.fill(0);
    let store = Store::open(&disk.images(), options()).unwrap();
    assert_eq!(store.list(), before);
    store.remove_snapshot("c").unwrap();
    assert!(store.remove(&id).await.unwrap().bytes > 0);
    assert!(store.list().is_empty());
}
