//! The unpacker as a process of its own: this program is what it starts, so it has a `main` and no test harness.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test program
#![allow(clippy::disallowed_methods, reason = "files of the tests")]
#![allow(unsafe_code, reason = "what a confined process must not do is done by raw calls")]

mod confined;
#[path = "../api/content.rs"]
#[allow(dead_code)] // most of it is for other tests
mod content;
mod corpus;
#[cfg(target_arch = "x86_64")]
mod crash;
#[path = "../corpus/layer.rs"]
mod layer;
#[path = "../api/registry.rs"]
#[allow(dead_code)] // as above
mod registry;
#[path = "../corpus/table.rs"]
mod table;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use vaquita_image::{
    BuiltinFile, Digest, ImageConfig, Kind, Options, Reference, Source, Store, Unpacker, unpack,
};

fn main() -> ExitCode {
    if std::env::args().next().as_deref() == Some(unpack::PROGRAM) {
        return unpack::main();
    }
    if std::env::args().next().as_deref() == Some(confined::PROGRAM) {
        return confined::attempt();
    }
    #[cfg(target_arch = "x86_64")]
    if std::env::args().next().as_deref() == Some(crash::PROGRAM) {
        return crash::work();
    }
    vaquita_testing::require_root();
    // First, while this process is small: a child's peak of memory is at least what its parent had.
    corpus::every_verdict_holds();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        a_process_unpacks().await;
        a_crash_fails_one_image_only().await;
    });
    confined::nothing_but_the_layer_can_be_reached();
    confined::every_thread_is_confined();
    #[cfg(target_arch = "x86_64")]
    {
        runtime.block_on(crash::a_killed_pull_goes_on_where_it_ended());
        crash::killed_at_its_calls();
        crash::power_cut_at_its_calls();
    }
    println!("test result: ok. 8 passed (processes that are confined, crash, or are killed)");
    ExitCode::SUCCESS
}

fn open(dir: &Path, unpacker: Unpacker) -> Store {
    let mut options = Options::default();
    options.unpacker = unpacker;
    Store::open(dir, options).unwrap()
}

fn files() -> Vec<BuiltinFile> {
    let file = |path: &str, mode, source| BuiltinFile { path: path.into(), mode, source };
    vec![
        file("/bin/self", 0o4755, Source::File("/proc/self/exe".into())),
        file("/tmp", 0o1777, Source::Directory),
        file("/etc/hostname", 0o644, Source::Bytes(b"x".to_vec())),
    ]
}

async fn a_process_unpacks() {
    let reference = Reference::parse("local/demo").unwrap();
    let own = Arc::new(std::os::fd::OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap()));
    let mut ids: Vec<Digest> = Vec::new();
    for unpacker in [Unpacker::Own, Unpacker::Exe(own), Unpacker::Thread] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("images"), unpacker);
        let image = store.builtin(&reference, ImageConfig::default(), files()).await.unwrap();
        let layer = dir.path().join("images/layers/1/fs");
        let mode = |name: &str| {
            std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(layer.join(name)).unwrap().permissions(),
            ) & 0o7777
        };
        assert_eq!((mode("bin/self"), mode("tmp"), mode("etc/hostname")), (0o4755, 0o1777, 0o644));
        let (ours, theirs) = ("/proc/self/exe".into(), layer.join("bin/self"));
        let read = |path: std::path::PathBuf| std::fs::read(path).unwrap();
        assert!(read(ours) == read(theirs), "the content differs");
        ids.push(image.id);
    }
    assert!(ids.iter().all(|id| *id == ids[0]));
}

/// An unpacker that dies takes its own image with it, and nothing else.
async fn a_crash_fails_one_image_only() {
    let reference = Reference::parse("local/demo").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let images = dir.path().join("images");
    // It dies, ends without a word, talks nonsense.
    for program in ["/bin/false", "/bin/true", "/bin/echo"] {
        let planted = Arc::new(std::os::fd::OwnedFd::from(std::fs::File::open(program).unwrap()));
        let store = open(&images, Unpacker::Exe(planted));
        let error = store.builtin(&reference, ImageConfig::default(), files()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{program}: {error}");
        assert!(error.to_string().contains("died"), "{program}: {error}");
        let left = std::fs::read_dir(images.join("layers")).unwrap().count();
        assert!(store.list().is_empty() && left == 0, "{program}: {left} layers are left");
    }
    let store = open(&images, Unpacker::Own);
    store.builtin(&reference, ImageConfig::default(), files()).await.unwrap();
}
