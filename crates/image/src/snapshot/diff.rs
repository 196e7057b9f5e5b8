//! What was written to a snapshot, as an archive: what is new or changed, and the names of what is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Dir, FileType, OFlags, Stat};
use rustix::io::Errno;
use tar::{EntryType, Header};
use vaquita_sys::root::Root;

use super::Snapshot;
use crate::{Error, Kind};

const OPAQUE: &str = "trusted.overlay.opaque";
const REDIRECT: &str = "trusted.overlay.redirect";
/// What overlayfs keeps about its own files.
const OVERLAY: &[u8] = b"trusted.overlay.";
const XATTR_LIMIT: usize = 65_536;

/// What [`Snapshot::write_changes`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Changes {
    /// How many files and directories are in the archive.
    pub written: u64,
    /// Absolute paths that the image has and the snapshot has not. Bytes that are not UTF-8 are replaced.
    pub deleted: Vec<String>,
}

impl Snapshot {
    /// Writes what is new or changed since the image as a tar archive: whole files, with owners, times (in seconds), extended attributes and
    /// links among each other. Sockets are left out. The snapshot should be at rest: files that change meanwhile are of both times.
    ///
    /// # Errors
    /// [`Kind::Kernel`] for calls that fail; [`Kind::Unsupported`] for a directory of
    /// the image that was renamed on a host where overlayfs only notes that.
    #[expect(clippy::disallowed_methods, reason = "the store's own directory, by names that it gave")]
    pub fn write_changes(&self, archive: impl Write) -> Result<Changes, Error> {
        let path = self.dir.join("upper");
        let upper = Root::open_host(&path).map_err(|error| kernel(Path::new("/"), &error))?;
        let mut walk = Walk {
            snapshot: self,
            upper,
            image: None,
            tar: tar::Builder::new(archive),
            linked: BTreeMap::new(),
            changes: Changes::default(),
        };
        // Paths, so that neither stack nor descriptors depend on the depth. Whether the image is hidden below.
        let mut directories = vec![(PathBuf::new(), false)];
        while let Some((directory, is_hidden)) = directories.pop() {
            let inner = walk.directory(&directory, is_hidden)?;
            directories.extend(inner.into_iter().rev());
        }
        walk.tar.finish().map_err(|error| Error::io("write the archive", &error))?;
        walk.changes.deleted.sort();
        Ok(walk.changes)
    }
}

struct Walk<'a, W: Write> {
    snapshot: &'a Snapshot,
    upper: Root,
    /// The image alone, once somebody has to look.
    image: Option<Root>,
    tar: tar::Builder<W>,
    /// Files with several links, by inode.
    linked: BTreeMap<u64, PathBuf>,
    changes: Changes,
}

impl<W: Write> Walk<'_, W> {
    /// Writes a directory without what is in its directories, and returns these.
    fn directory(&mut self, path: &Path, is_hidden: bool) -> Result<Vec<(PathBuf, bool)>, Error> {
        let dir = open(&self.upper, path, OFlags::DIRECTORY)?;
        if value(&dir, path, REDIRECT)?.is_some() {
            let path = path.display();
            let message = format!(
                "the directory /{path} of the image was renamed, which this host's overlayfs only notes"
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        let is_hidden = is_hidden || value(&dir, path, OPAQUE)?.is_some_and(|value| value == b"y");
        if path != Path::new("") {
            let stat = rustix::fs::fstat(&dir).map_err(|errno| failed("fstat", path, errno))?;
            self.append(path, &stat, Some(dir.try_clone().map_err(|error| io(path, &error))?))?;
        }
        let mut below = Vec::new();
        let mut names = BTreeSet::new();
        for name in entries(&dir, path)? {
            let path = path.join(&name);
            let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| failed("stat", &path, errno))?;
            names.insert(name);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => below.push((path, is_hidden)),
                // A whiteout.
                FileType::CharacterDevice if stat.st_rdev == 0 => self.gone(&path),
                FileType::RegularFile => {
                    let file = open(&self.upper, &path, OFlags::NONBLOCK)?;
                    self.append(&path, &stat, Some(file))?;
                }
                FileType::Socket => {}
                _ => self.append(&path, &stat, None)?,
            }
        }
        if is_hidden {
            self.hidden(path, &names)?;
        }
        Ok(below)
    }

    fn gone(&mut self, path: &Path) {
        self.changes.deleted.push(format!("/{}", path.to_string_lossy()));
    }

    /// What the image has in a directory that hides it.
    fn hidden(&mut self, path: &Path, names: &BTreeSet<OsString>) -> Result<(), Error> {
        if self.image.is_none() {
            self.image = Some(Root::from_fd(self.snapshot.mount(true)?));
        }
        let Some(image) = &self.image else { return Ok(()) };
        let dir = match image.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
            Ok(dir) => dir,
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return Ok(());
            }
            Err(error) => return Err(kernel(path, &error)),
        };
        for name in entries(&dir, path)? {
            if !names.contains(&name) {
                self.gone(&path.join(name));
            }
        }
        Ok(())
    }

    fn append(&mut self, path: &Path, stat: &Stat, open: Option<OwnedFd>) -> Result<(), Error> {
        let written = |error: std::io::Error| io(path, &error);
        let mut header = header(stat);
        self.changes.written += 1;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1 && kind != FileType::Directory {
            if let Some(first) = self.linked.get(&stat.st_ino) {
                header.set_entry_type(EntryType::Link);
                return self.tar.append_link(&mut header, path, first).map_err(written);
            }
            self.linked.insert(stat.st_ino, path.to_owned());
        }
        if let Some(open) = &open {
            self.attributes(path, open)?;
        }
        match (kind, open) {
            (FileType::RegularFile, Some(file)) => {
                header.set_size(stat.st_size.cast_unsigned());
                // As long as was said, whatever it is by now.
                let bytes = File::from(file).chain(std::io::repeat(0)).take(stat.st_size.cast_unsigned());
                self.tar.append_data(&mut header, path, bytes).map_err(written)
            }
            (FileType::Symlink, _) => {
                let target = self.upper.read_link(path).map_err(|error| kernel(path, &error))?;
                self.tar.append_link(&mut header, path, target).map_err(written)
            }
            _ => self.tar.append_data(&mut header, path, std::io::empty()).map_err(written),
        }
    }

    /// Extended attributes go before what has them.
    fn attributes(&mut self, path: &Path, file: &OwnedFd) -> Result<(), Error> {
        let mut list = Vec::with_capacity(XATTR_LIMIT);
        match rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(&mut list)) {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(failed("flistxattr", path, errno)),
        }
        let mut pairs = Vec::new();
        for name in
            list.split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(OVERLAY))
        {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            if let Some(value) = value(file, path, name)? {
                pairs.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if pairs.is_empty() {
            return Ok(());
        }
        let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(pairs).map_err(|error| io(path, &error))
    }
}

fn header(stat: &Stat) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(stat.st_uid.into());
    header.set_gid(stat.st_gid.into());
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or_default());
    header.set_size(0);
    header.set_entry_type(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::CharacterDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
        FileType::Fifo => EntryType::Fifo,
        _ => EntryType::Regular,
    });
    // Cannot fail for this format.
    let _ = header.set_device_major(rustix::fs::major(stat.st_rdev));
    let _ = header.set_device_minor(rustix::fs::minor(stat.st_rdev));
    header
}

/// Below the root, where nothing leads out.
fn open(root: &Root, path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    let path = if path == Path::new("") { Path::new(".") } else { path };
    root.open(path, OFlags::RDONLY | OFlags::NOFOLLOW | flags).map_err(|error| kernel(path, &error))
}

fn entries(dir: &OwnedFd, path: &Path) -> Result<Vec<OsString>, Error> {
    let read = || {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|errno| failed("getdents", path, errno))
}

fn value(file: &OwnedFd, path: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match vaquita_sys::fs::xattr(file, name, XATTR_LIMIT) {
        Err(error) if error.errno() == Errno::OPNOTSUPP => Ok(None),
        other => other.map_err(|error| kernel(path, &error)),
    }
}

fn failed(call: &str, path: &Path, errno: Errno) -> Error {
    Error::kernel(format!("{call}(<writable layer>/{})", path.display()), errno)
}

fn kernel(path: &Path, error: &vaquita_sys::Error) -> Error {
    Error::kernel(format!("<writable layer>/{}: {error}", path.display()), error.errno())
}

fn io(path: &Path, error: &std::io::Error) -> Error {
    Error::io(format!("<writable layer>/{}", path.display()), error)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that the tests make")]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use rustix::fs::{Mode, mknodat};

    use super::*;
    use crate::Digest;

    /// A snapshot of a container that did this and that, and its archive unpacked over a copy of the image.
    #[test]
    fn what_was_written_can_be_written_again() {
        vaquita_testing::require_root();
        let dir = tempfile::tempdir().unwrap();
        let path = |inner: &str| dir.path().join(inner);
        for inner in ["empty", "snapshots/c/upper", "snapshots/c/work", "layers/1/fs"] {
            fs::create_dir_all(path(inner)).unwrap();
        }
        let image = path("layers/1/fs");
        for inner in ["etc/x", "old/a/b", "old/c", "kept/d"] {
            fs::create_dir_all(image.join(inner)).unwrap();
        }
        for inner in ["etc/passwd", "etc/gone", "old/a/file", "old/file", "kept/d/file"] {
            fs::write(image.join(inner), inner).unwrap();
        }
        let snapshot = Snapshot::new("c", Digest::of(b""), dir.path(), vec![image], Vec::new());
        let long = "n".repeat(200);
        {
            let mounted = snapshot.mount(false).unwrap();
            let root = PathBuf::from(format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&mounted)));
            fs::write(root.join("etc/passwd"), "changed").unwrap();
            fs::remove_file(root.join("etc/gone")).unwrap();
            fs::remove_dir_all(root.join("old")).unwrap();
            fs::create_dir_all(root.join("old/a/new")).unwrap();
            fs::create_dir_all(root.join(&long).join(&long)).unwrap();
            fs::write(root.join(&long).join(&long).join(&long), "deep").unwrap();
            let deep = File::open(root.join(&long).join(&long).join(&long)).unwrap();
            vaquita_sys::fs::set_xattr(&deep, "user.deep", b"1").unwrap();
            fs::hard_link(root.join("etc/passwd"), root.join("etc/link")).unwrap();
            std::os::unix::fs::symlink("../../../x", root.join("etc/symlink")).unwrap();
            std::os::unix::fs::chown(root.join("etc/passwd"), Some(3_000_000), Some(7)).unwrap();
            fs::set_permissions(root.join("etc/passwd"), fs::Permissions::from_mode(0o4711)).unwrap();
            let file = File::open(root.join("etc/passwd")).unwrap();
            vaquita_sys::fs::set_xattr(&file, "user.name", b"\0value").unwrap();
            mknodat(&mounted, "fifo", FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
            let null = rustix::fs::makedev(1, 3);
            mknodat(&mounted, "null", FileType::CharacterDevice, Mode::from_raw_mode(0o666), null).unwrap();
            drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
        }
        let mut archive = Vec::new();
        let changes = snapshot.write_changes(&mut archive).unwrap();
        assert_eq!(changes.deleted, ["/etc/gone", "/old/a/b", "/old/a/file", "/old/c", "/old/file"]);
        let out = path("out");
        fs::create_dir(&out).unwrap();
        let tar = path("tar");
        fs::write(&tar, &archive).unwrap();
        let mut unpack = std::process::Command::new("tar");
        unpack.args(["--xattrs", "--xattrs-include=*", "-xpf"]).arg(&tar).arg("-C").arg(&out);
        assert!(unpack.status().unwrap().success());
        let text = |inner: &Path| fs::read_to_string(out.join(inner)).unwrap();
        assert_eq!(text(Path::new("etc/passwd")), "changed");
        assert_eq!(text(&Path::new(&long).join(&long).join(&long)), "deep");
        let stat = fs::metadata(out.join("etc/passwd")).unwrap();
        assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.nlink()), (0o4711, 3_000_000, 7, 2));
        let deep = File::open(out.join(&long).join(&long).join(&long)).unwrap();
        assert_eq!(vaquita_sys::fs::xattr(&deep, "user.deep", 64).unwrap().unwrap(), b"1");
        let file = File::open(out.join("etc/passwd")).unwrap();
        assert_eq!(vaquita_sys::fs::xattr(&file, "user.name", 64).unwrap().unwrap(), b"\0value");
        assert_eq!(fs::read_link(out.join("etc/symlink")).unwrap(), Path::new("../../../x"));
        assert_eq!(fs::metadata(out.join("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
        assert!(out.join("old/a/new").is_dir() && out.join("fifo").exists());
        for not in ["socket", "kept", "etc/gone", "etc/x", "old/c"] {
            assert!(!out.join(not).exists(), "{not}");
        }
    }
}
