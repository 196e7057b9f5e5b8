//! The store by itself: what stays, what goes, what is there after a restart.

use rustix::fs::{Mode, OFlags};
use vaquita_image::{BuiltinFile, Digest, ImageConfig, Kind, Options, Reference, Source, Store};

use crate::content::{Form, image, layer, noise};
use crate::registry::Registry;
use crate::{Place, impatient, read};

#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged() {
    let place = Place::new();
    let registry = Registry::of(image(&[layer(&[("a", "1")])], Form::Gzip)).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let tag = Reference::parse("local/name:1").unwrap();
    place.store.tag(&pulled.id.to_string(), &tag).await.unwrap();
    place.store.snapshot("c1", &pulled.id).unwrap();
    // Left over from a process that was killed.
    for junk in ["layers/99/fs", "tmp/1"] {
        std::fs::create_dir_all(place.dir.path().join("images").join(junk)).unwrap();
    }
    let before = place.store.list();
    let place = place.reopen();
    assert_eq!(place.store.list(), before);
    assert_eq!(place.store.find("local/name:1").unwrap().id, pulled.id);
    assert_eq!(place.store.find(&pulled.id.hex()[..12]).unwrap().id, pulled.id);
    assert_eq!((place.names("layers"), place.names("tmp").len()), (vec!["1".to_owned()], 0));
    let snapshot = place.store.open_snapshot("c1").unwrap();
    assert_eq!(snapshot.image(), &pulled.id);
    assert_eq!(read(&snapshot.mount(false).unwrap(), "a"), "1");
    let error = Store::open(&place.dir.path().join("images"), Options::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
}

#[tokio::test]
async fn removal_frees_what_nobody_uses() {
    let place = Place::new();
    let base = layer(&[("base", &noise(1, 100_000))]);
    let one = Registry::of(image(&[base.clone(), layer(&[("one", &noise(2, 50_000))])], Form::Gzip)).await;
    let two = Registry::of(image(&[base, layer(&[("two", &noise(3, 30_000))])], Form::Gzip)).await;
    let empty = place.store.fs_info().unwrap();
    let first = place.store.pull(&one.reference("a"), None, &impatient()).await.unwrap();
    place.store.pull(&two.reference("b"), None, &impatient()).await.unwrap();
    assert_eq!(place.names("layers").len(), 3, "the base is shared");
    assert!(place.store.fs_info().unwrap().used_bytes >= empty.used_bytes + 180_000);
    place.store.snapshot("c1", &first.id).unwrap();
    // In use by a container: the image goes, its layers stay.
    let freed = place.store.remove(&first.id.to_string()).await.unwrap();
    assert!(freed.bytes <= 3 * 4096, "manifest and configuration: {freed:?}");
    assert_eq!(place.names("layers").len(), 3);
    assert!(place.store.find(&first.id.to_string()).is_none());
    assert_eq!(read(&place.store.open_snapshot("c1").unwrap().mount(true).unwrap(), "one").len(), 50_000);
    let place = place.reopen();
    assert_eq!(place.names("layers").len(), 3, "a snapshot holds its layers over a restart");
    let freed = place.store.remove_snapshot("c1").unwrap();
    assert!((50_000..90_000).contains(&freed.bytes), "{freed:?}");
    assert_eq!(place.names("layers").len(), 2);
    let freed = place.store.remove(&two.reference("b").to_string()).await.unwrap();
    assert!(freed.bytes >= 130_000);
    assert_eq!((place.names("layers").len(), place.names("blobs/sha256").len()), (0, 0));
    assert_eq!(place.store.fs_info().unwrap().used_bytes, place.du());
    assert!(place.du() < empty.used_bytes + 65_536, "what the log takes");
    assert_eq!(place.store.remove("b").await.unwrap().bytes, 0, "again is no error");
}

#[tokio::test]
async fn snapshots_are_keyed() {
    let place = Place::new();
    let registry = Registry::of(image(&[layer(&[("a", "1")])], Form::Gzip)).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let first = place.store.snapshot("c1", &pulled.id).unwrap();
    assert_eq!(place.store.snapshot("c1", &pulled.id).unwrap().dir(), first.dir());
    assert_eq!(place.store.snapshot("c1", &Digest::of(b"x")).unwrap_err().kind(), Kind::Exists);
    assert_eq!(place.store.snapshot("c2", &Digest::of(b"x")).unwrap_err().kind(), Kind::NotFound);
    for id in ["", "..", ".x", "a/b", "a\n", &"x".repeat(129)] {
        assert_eq!(place.store.snapshot(id, &pulled.id).unwrap_err().kind(), Kind::Invalid, "{id:?}");
    }
    place.store.snapshot("c2", &pulled.id).unwrap();
    // Written to while it is mounted, then removed while it is mounted.
    let root = place.store.open_snapshot("c2").unwrap().mount(false).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&root, "made", flags, Mode::from_raw_mode(0o600)).unwrap();
    // Not a directory: on tmpfs that takes no room.
    rustix::io::write(&made, b"x").unwrap();
    drop(made);
    assert!(place.store.sweep(&["c1"]).unwrap().bytes > 0);
    assert_eq!(place.store.sweep(&["c1"]).unwrap().bytes, 0);
    let left: Vec<String> = place.store.snapshots().into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!((left, place.names("snapshots")), (vec!["c1".to_owned()], vec!["c1".to_owned()]));
    place.store.remove_snapshot("c1").unwrap();
    place.store.remove_snapshot("c1").unwrap();
    assert_eq!(place.store.open_snapshot("c1").unwrap_err().kind(), Kind::NotFound);
}

/// A stack far beyond what fits one text for the kernel.
#[tokio::test]
async fn many_layers() {
    let place = Place::new();
    let layers: Vec<Vec<u8>> =
        (0..120).map(|n| layer(&[(&format!("f{n}"), "x"), ("top", &n.to_string())])).collect();
    let registry = Registry::of(image(&layers, Form::Plain)).await;
    let pulled = place.store.pull(&registry.reference("a"), None, &impatient()).await.unwrap();
    let root = place.store.snapshot("c1", &pulled.id).unwrap().mount(false).unwrap();
    assert_eq!((read(&root, "top"), read(&root, "f0")), ("119".into(), "x".into()));
}

#[tokio::test]
async fn images_made_here() {
    let place = Place::new();
    let reference = Reference::parse("vaquita.local/demo").unwrap();
    let file = |path: &str, mode, source| BuiltinFile { path: path.into(), mode, source };
    let files = || {
        vec![
            file("/bin/vaquita", 0o755, Source::File("/proc/self/exe".into())),
            file("/tmp", 0o1777, Source::Directory),
            file("/etc/passwd", 0o644, Source::Bytes(b"app:x:1000:1000::/:\n".to_vec())),
            file("/bin/sh", 0o777, Source::Symlink("vaquita".into())),
        ]
    };
    let mut config = ImageConfig::default();
    config.entrypoint = vec!["/bin/vaquita".into()];
    config.exposed_ports = vec!["80/tcp".into()];
    let made = place.store.builtin(&reference, config.clone(), files()).await.unwrap();
    let again = place.store.builtin(&reference, config.clone(), files()).await.unwrap();
    assert_eq!(made, again);
    assert_eq!(made.config, config);
    assert_eq!(made.repo_tags, ["vaquita.local/demo:latest"]);
    assert_eq!((place.names("layers").len(), place.names("tmp").len()), (1, 0));
    let root = place.store.snapshot("c1", &made.id).unwrap().mount(true).unwrap();
    let stat = |name: &str| rustix::fs::statat(&root, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(stat("tmp").st_mode & 0o7777, 0o1777);
    assert_eq!(stat("bin/vaquita").st_mode & 0o7777, 0o755);
    assert_eq!(stat("etc").st_mode & 0o7777, 0o755);
    let size = std::fs::metadata("/proc/self/exe").unwrap().len();
    assert_eq!(u64::try_from(stat("bin/vaquita").st_size).unwrap(), size);
    let user = vaquita_image::passwd::resolve(rustix::fd::AsFd::as_fd(&root), "app").unwrap();
    assert_eq!(user.uid, 1000);
    let relative = place.store.builtin(&reference, config, vec![file("bin", 0o755, Source::Directory)]).await;
    assert_eq!(relative.unwrap_err().kind(), Kind::Invalid);
}

/// Bytes below a directory, as du(1) counts them.
fn du(dir: &std::path::Path) -> u64 {
    let output = std::process::Command::new("du").args(["-s", "--block-size=1"]).arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_block_is_explained() {
    use vaquita_image::Purpose;
    let place = Place::new();
    let base = layer(&[("base", &noise(1, 100_000)), ("twice", &noise(2, 9_000)), ("twice", "short")]);
    let one = Registry::of(image(&[base.clone(), layer(&[("one", &noise(3, 50_000))])], Form::Gzip)).await;
    let two = Registry::of(image(&[base, layer(&[("two", &noise(4, 30_000))])], Form::Zstd)).await;
    let first = place.store.pull(&one.reference("a"), None, &impatient()).await.unwrap();
    let second = place.store.pull(&two.reference("b"), None, &impatient()).await.unwrap();
    place.store.snapshot("c1", &first.id).unwrap();
    let dir = place.dir.path().join("images");
    std::fs::write(dir.join("snapshots/c1/upper/new"), noise(5, 20_000)).unwrap();
    std::fs::create_dir_all(dir.join("layers/77/fs")).unwrap();
    std::fs::write(dir.join("layers/77/fs/half"), noise(6, 8_000)).unwrap();
    std::fs::create_dir_all(dir.join("partial")).unwrap();
    std::fs::write(dir.join("partial/abc"), noise(7, 12_000)).unwrap();
    std::fs::write(dir.join("foreign"), "x").unwrap();
    // So that delayed allocation does not change figures between two looks.
    rustix::fs::syncfs(std::fs::File::open(&dir).unwrap()).unwrap();
    let usage = place.store.disk_usage().await.unwrap();
    assert_eq!(usage.bytes(), du(&dir), "{usage:?}");
    let part = |purpose| *usage.parts.iter().find(|part| part.purpose == purpose).unwrap();
    for (purpose, count, least) in [
        (Purpose::Layers, 3, 180_000),
        (Purpose::Recipes, 3, 3 * 512),
        (Purpose::Replaced, 1, 9_000),
        (Purpose::Writable, 1, 20_000),
        (Purpose::Documents, 4, 4 * 512),
        (Purpose::Notes, 3, 3 * 512),
        (Purpose::Partial, 1, 12_000),
        (Purpose::Unfinished, 1, 8_000),
        (Purpose::Database, 1, 4_096),
        (Purpose::Foreign, 1, 512),
    ] {
        let part = part(purpose);
        assert!(part.count == count && part.bytes >= least, "{purpose:?}: {part:?}");
    }
    let of = |id| usage.images.iter().find(|usage| usage.image.id == id).unwrap();
    let (a, b) = (of(first.id), of(second.id));
    assert_eq!((a.shared, a.layers), (b.shared, 2));
    assert!(a.shared >= 109_000 && a.exclusive >= 50_000 && b.exclusive >= 30_000, "{a:?} {b:?}");
    let layers = part(Purpose::Layers).bytes + part(Purpose::Recipes).bytes + part(Purpose::Replaced).bytes;
    assert!(a.shared + a.exclusive + b.exclusive >= layers);
}

#[tokio::test]
async fn a_name_is_taken_away_before_the_image() {
    let place = Place::new();
    let registry = Registry::of(image(&[layer(&[("a", &noise(1, 10_000))])], Form::Gzip)).await;
    let reference = registry.reference("latest").to_string();
    let pulled = place.store.pull(&registry.reference("latest"), None, &impatient()).await.unwrap();
    place.store.tag(&reference, &Reference::parse("local/b:2").unwrap()).await.unwrap();
    let removal = place.store.delete("local/b:2").await.unwrap();
    assert_eq!(
        (removal.removed, &removal.untagged[..], removal.freed.bytes),
        (false, &["docker.io/local/b:2".to_owned()][..], 0)
    );
    let place = place.reopen();
    assert_eq!(place.store.find(&reference).unwrap().repo_tags, pulled.repo_tags);
    assert!(place.store.find("local/b:2").is_none());
    let details = place.store.details(&reference).unwrap();
    assert_eq!(Digest::of(&details.config.unwrap()), pulled.id);
    assert!(pulled.repo_digests[0].ends_with(&Digest::of(&details.manifest.unwrap()).to_string()));
    assert_eq!((details.layers.len(), details.layers[0].images), (1, 1));
    assert!(details.layers[0].path.join("a").is_file());
    let removal = place.store.delete(&reference).await.unwrap();
    assert!(removal.removed && removal.freed.bytes >= 10_000, "{removal:?}");
    assert_eq!(place.store.delete(&reference).await.unwrap_err().kind(), Kind::NotFound);
    assert!(place.store.details(&reference).is_none() && place.store.list().is_empty());
}
