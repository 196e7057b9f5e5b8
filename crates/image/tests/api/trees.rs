//! What is unpacked, file by file beside what umoci makes of the same image.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use vaquita_image::Digest;

use crate::Place;
use crate::content::{Form, image};
use crate::debian::{need, skopeo};

fn run(dir: &Path, line: &str) {
    let output = Command::new("sh").args(["-euc", line]).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Everything about the files of a tree that a container can see, by path.
fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first_name = BTreeMap::new();
    let mut queue = vec![PathBuf::new()];
    while let Some(path) = queue.pop() {
        let full = root.join(&path);
        let meta = std::fs::symlink_metadata(&full).unwrap();
        let kind = meta.file_type();
        let content = if kind.is_symlink() {
            std::fs::read_link(&full).unwrap().as_os_str().as_bytes().escape_ascii().to_string()
        } else if kind.is_file() {
            Digest::of(&std::fs::read(&full).unwrap()).to_string()
        } else if kind.is_dir() {
            queue
                .extend(std::fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
            String::new()
        } else {
            format!("{kind:?} {:x} {}", meta.rdev(), kind.is_fifo())
        };
        found.insert(
            path.clone(),
            format!(
                "{:o} {}:{} {}.{:09} {content} {:?}",
                meta.permissions().mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec(),
                xattrs(&full)
            ),
        );
        if !kind.is_dir() {
            first_name.entry((meta.dev(), meta.ino())).or_insert_with(Vec::new).push(path);
        }
    }
    // Names of one file belong together.
    for mut names in first_name.into_values() {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().push_str(&format!(" is {}", names[0].display()));
        }
    }
    found
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        found.insert(name.escape_ascii().to_string(), value[..length].escape_ascii().to_string());
    }
    found
}

fn assert_same(what: &str, expected: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>) {
    let mut different = Vec::new();
    for path in expected.keys().chain(found.keys().filter(|path| !expected.contains_key(*path))) {
        if expected.get(path) != found.get(path) {
            let side = |side: Option<&String>| side.map_or("nothing", String::as_str).to_owned();
            different.push(format!(
                "{}:\n  expected {}\n  found    {}",
                path.display(),
                side(expected.get(path)),
                side(found.get(path))
            ));
        }
    }
    assert!(different.is_empty(), "{what}: {}", different.join("\n"));
}

/// Files of every sort, in the directory `tree`.
const TREE: &str = r#"
umask 022
mkdir -p tree/dir/sub tree/empty tree/sticky tree/gone/deep tree/opaque tree/swap
echo content > tree/dir/file; ln tree/dir/file tree/dir/sub/other-name; ln tree/dir/file tree/link
printf '' > tree/nothing; truncate -s 3M tree/sparse; printf x | dd of=tree/sparse bs=1 seek=1500000 conv=notrunc 2>/dev/null
seq 300000 > tree/large; echo secret > tree/gone/deep/file; echo old > tree/opaque/old; echo file > tree/swap/file; mkdir tree/swap/dir
ln -s ../../etc/shadow tree/dir/out; ln -s nowhere tree/dangling; ln -s /absolute tree/absolute; ln tree/dangling tree/dangling-too
mkfifo tree/fifo; mknod tree/null c 1 3; mknod tree/disk b 259 70000
name=$(printf 'bytes \377\376 and\nlines\t'); echo odd > "tree/$name"
long=$(printf '%0200d' 7); mkdir "tree/$long"; echo long > "tree/$long/$long"; ln -s "$long/$long" tree/to-long
chown 1234:70000 tree/dir/file; chown -h 5:6 tree/dangling; chown 4294967294:4294967294 tree/empty; chown 7:8 tree/fifo
chmod 4755 tree/dir/file; chmod 2710 tree/dir; chmod 1777 tree/sticky; chmod 0 tree/nothing; chmod 600 tree/null
setfattr -n user.note -v 'a value' tree/large; setfattr -n user.note -v dir tree/sticky;
setcap cap_net_raw,cap_chown+ep tree/large
touch -h -d '1950-06-07 08:09:10' tree/dangling; touch -d '2038-01-20 00:00:00' tree/large; touch -d '1970-01-01 00:00:00 UTC' tree/fifo
touch -d '2001-02-03 04:05:06' tree/dir tree/dir/sub tree/sticky
"#;

/// Pulled into a store, and seen as a container sees it.
async fn unpacked(place: &Place, archive: &Path) -> BTreeMap<PathBuf, String> {
    let file = std::io::Cursor::new(std::fs::read(archive).unwrap());
    let loaded = place.store.load(file, |_| {}).await.unwrap();
    let name = archive.file_stem().unwrap().to_str().unwrap();
    let root = place.store.snapshot(name, &loaded[0].id).unwrap().mount(true).unwrap();
    describe(Path::new(&format!("/proc/self/fd/{}/.", root.as_raw_fd())))
}

/// Three layers that umoci made: a tree, one that takes away, replaces and adds, and one that puts a file where a directory was.
#[tokio::test]
async fn as_umoci_unpacks_it() {
    let place = Place::new();
    need("umoci");
    let dir = place.dir.path();
    run(dir, TREE);
    // umoci keeps whole seconds.
    run(
        dir,
        "find tree -exec touch -h -d '2011-12-13 14:15:16' {} + ; touch -h -d '1950-06-07 08:09:10' tree/dangling",
    );
    run(
        dir,
        "umoci init --layout l; umoci new --image l:0; umoci unpack --image l:0 a; cp -a tree/. a/rootfs/; umoci repack --image l:1 a",
    );
    run(
        dir,
        "umoci unpack --image l:1 b; cd b/rootfs; rm -r gone dir/sub; rm link; rm -r opaque; mkdir opaque; echo new > opaque/new; chmod 700 sticky; \
              rm -r swap; echo now-a-file > swap; echo more >> large; rm dangling; find . -newermt 2015-01-01 -exec touch -h -d '2012-12-13 14:15:16' {} + ; \
              cd ../..; umoci repack --image l:2 b",
    );
    run(
        dir,
        "umoci unpack --image l:2 c; cd c/rootfs; rm swap; mkdir swap; echo again > swap/file; ln large second-large; mkdir -p gone/new; \
              find . -newermt 2015-01-01 -exec touch -h -d '2013-12-13 14:15:16' {} + ; cd ../..; umoci repack --image l:3 c",
    );
    for tag in ["1", "2", "3"] {
        run(dir, &format!("umoci unpack --image l:{tag} out{tag}"));
        let expected = describe(&dir.join(format!("out{tag}/rootfs")));
        assert!(expected.len() > 18, "{expected:#?}");
        for compression in ["gzip", "zstd"] {
            let archive = dir.join(format!("{compression}{tag}.tar"));
            let target = format!("oci-archive:{}:test:{tag}", archive.display());
            let source = format!("oci:{}:{tag}", dir.join("l").display());
            skopeo(&["--dest-compress-format", compression, &source, &target]);
            assert_same(&format!("{compression} {tag}"), &expected, &unpacked(&place, &archive).await);
        }
    }
}

/// A layer of GNU tar in each of its formats, beside the tree that it was made from: nanoseconds and attributes included, where
/// the format has them.
#[tokio::test]
async fn as_it_was_packed_by_gnu_tar() {
    let place = Place::new();
    let dir = place.dir.path();
    run(dir, TREE);
    let forms = [
        ("posix", ""),
        ("posix", "-S --sparse-version=0.0"),
        ("posix", "-S --sparse-version=0.1"),
        ("posix", "-S --sparse-version=1.0"),
        ("gnu", ""),
        ("gnu", "-S"),
    ];
    for (number, (format, sparse)) in forms.into_iter().enumerate() {
        if format == "gnu" {
            run(
                dir,
                "find tree -exec touch -h -d @1323785716 {} + ; setcap -r tree/large 2>&1 || true; \
                 setfattr -x user.note tree/large || true; setfattr -x user.note tree/sticky || true",
            );
        }
        let xattrs = if format == "posix" { "--xattrs --xattrs-include=*" } else { "" };
        run(
            dir,
            &format!("tar --numeric-owner -C tree -c {sparse} {xattrs} --format={format} -f layer.tar ."),
        );
        let content = image(&[std::fs::read(dir.join("layer.tar")).unwrap()], Form::Gzip);
        let registry = crate::registry::Registry::of(content).await;
        let pulled = place.store.pull(&registry.reference("a"), None, &crate::impatient()).await.unwrap();
        let root = place.store.snapshot(&format!("s{number}"), &pulled.id).unwrap().mount(true).unwrap();
        let found = describe(Path::new(&format!("/proc/self/fd/{}/.", root.as_raw_fd())));
        assert_same(&format!("{format} {sparse}"), &describe(&dir.join("tree")), &found);
    }
}
