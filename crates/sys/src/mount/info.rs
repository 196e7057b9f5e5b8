//! `/proc/PID/mountinfo`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::Propagation;
use crate::{Error, Result};

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's id, used again after it is gone.
    pub id: u64,
    /// The id of the mount that it is on.
    pub parent: u64,
    /// `st_dev` of its files, as major and minor.
    pub device: (u32, u32),
    /// Which directory of the filesystem is mounted.
    pub root: PathBuf,
    /// Where, relative to the process's root.
    pub mount_point: PathBuf,
    /// Options of this mount, comma separated: `rw,nosuid,relatime`.
    pub options: String,
    /// How it propagates. A mount that is both a slave and shared is reported as shared.
    pub propagation: Propagation,
    /// `overlay`, `cgroup2`, `tmpfs`…
    pub fs_type: String,
    /// The device, or what the filesystem calls its source.
    pub source: OsString,
    /// Options of the filesystem, comma separated; of a v1 control group mount, its controllers are among them.
    pub super_options: String,
}

/// The mounts of the calling process.
///
/// # Errors
/// Those of reading `/proc/self/mountinfo`; `EINVAL` for a line that does not read.
pub fn mountinfo() -> Result<Vec<MountInfo>> {
    mountinfo_of(Path::new("/proc/self/mountinfo"))
}

/// The mounts that the file `path`, a `mountinfo` of some process, lists.
///
/// # Errors
/// As [`mountinfo`].
pub fn mountinfo_of(path: &Path) -> Result<Vec<MountInfo>> {
    let call = || format!("read({path:?})");
    // Much at a time: the kernel walks the table anew for each read, and tells no length beforehand.
    let mut table = Vec::with_capacity(16 << 10);
    std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut table)).map_err(|error| {
        Error::new(call(), error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
    })?;
    parse_mountinfo(&table)
        .map_err(|line| Error::refused(call(), Errno::INVAL, format!("line {line:?} is not as in mountinfo")))
}

/// Reads the text of a mountinfo file.
///
/// # Errors
/// The line that does not read.
pub fn parse_mountinfo(table: &[u8]) -> core::result::Result<Vec<MountInfo>, String> {
    table
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| parse_line(line).ok_or_else(|| String::from_utf8_lossy(line).into_owned()))
        .collect()
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = text(fields.next()?)?.parse().ok()?;
    let parent = text(fields.next()?)?.parse().ok()?;
    let (major, minor) = text(fields.next()?)?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let root = unescape(fields.next()?).into();
    let mount_point = unescape(fields.next()?).into();
    let options = text(fields.next()?)?.to_owned();
    let mut propagation = Propagation::Private;
    loop {
        let tag = text(fields.next()?)?;
        match tag.split(':').next() {
            Some("-") => break,
            Some("shared") => propagation = Propagation::Shared,
            Some("master") if propagation != Propagation::Shared => propagation = Propagation::Slave,
            Some("unbindable") => propagation = Propagation::Unbindable,
            _ => {}
        }
    }
    Some(MountInfo {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        propagation,
        fs_type: text(fields.next()?)?.to_owned(),
        source: unescape(fields.next()?),
        super_options: String::from_utf8_lossy(fields.next()?).into_owned(),
    })
}

fn text(field: &[u8]) -> Option<&str> {
    str::from_utf8(field).ok()
}

/// Space, tab, newline and backslash are written as three octal digits (seq_escape in the kernel).
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| digits.iter().all(|digit| matches!(digit, b'0'..=b'7')));
        match (first, digits) {
            (b'\\', Some(digits)) => {
                out.push(
                    digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')),
                );
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_field() {
        let table =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n";
        let [mount] = parse_mountinfo(table).unwrap().try_into().unwrap();
        assert_eq!(
            mount,
            MountInfo {
                id: 36,
                parent: 35,
                device: (98, 0),
                root: "/mnt1".into(),
                mount_point: "/mnt 2".into(),
                options: "rw,noatime".into(),
                propagation: Propagation::Shared,
                fs_type: "ext3".into(),
                source: "/dev/root".into(),
                super_options: "rw,errors=continue".into(),
            }
        );
    }

    #[test]
    fn a_line_without_optional_fields_and_an_empty_source() {
        let [mount] = parse_mountinfo(b"1 1 0:2 / / rw - rootfs  rw\n").unwrap().try_into().unwrap();
        assert_eq!(mount.propagation, Propagation::Private);
        assert_eq!((mount.fs_type.as_str(), mount.source.len()), ("rootfs", 0));
    }

    #[test]
    fn a_torn_line_is_an_error() {
        assert_eq!(parse_mountinfo(b"36 35 98:0 /mnt1").unwrap_err(), "36 35 98:0 /mnt1");
    }

    #[test]
    fn our_own_table_reads() {
        assert!(mountinfo().unwrap().iter().any(|mount| mount.mount_point == Path::new("/")));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(br"a\1b\134"), OsString::from(r"a\1b\"));
    }
}
