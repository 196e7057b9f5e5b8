//! The files of a group.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use vaquita_sys::Errno;

use crate::{Error, Result};

/// The text of a file, at most 1 MiB: nothing in a control group is longer but a list of very many processes.
pub(crate) fn read(dir: impl AsFd, file: &str) -> Result<String> {
    read_quiet(&dir, file).map_err(|errno| error("read", &dir, file, "", errno))
}

/// As [`read`]; none when there is no such file.
pub(crate) fn read_if_there(dir: impl AsFd, file: &str) -> Result<Option<String>> {
    match read_quiet(&dir, file) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::NODEV | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(error("read", &dir, file, "", errno)),
    }
}

/// Writes a value in one call, as the kernel wants it.
pub(crate) fn write(dir: impl AsFd, file: &str, value: &str) -> Result<()> {
    write_quiet(&dir, file, value)
        .map_err(|errno| error("write", &dir, file, &format!(", {:?}", value.trim_end()), errno))
}

pub(crate) fn write_quiet(dir: impl AsFd, file: &str, value: &str) -> core::result::Result<(), Errno> {
    write_to(&open(dir, file, OFlags::WRONLY)?, value)
}

/// As [`write_quiet`], to an open file.
pub(crate) fn write_to(file: &OwnedFd, value: &str) -> core::result::Result<(), Errno> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes()))?;
    if written == value.len() { Ok(()) } else { Err(Errno::IO) }
}

pub(crate) fn exists(dir: impl AsFd, file: &str) -> bool {
    open(dir, file, OFlags::PATH).is_ok()
}

#[expect(
    clippy::disallowed_methods,
    reason = "one name below the descriptor of a control group, not followed"
)]
pub(crate) fn open(dir: impl AsFd, file: &str, flags: OFlags) -> core::result::Result<OwnedFd, Errno> {
    rustix::io::retry_on_intr(|| {
        rustix::fs::openat(&dir, file, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
    })
}

#[cold]
pub(crate) fn error(call: &str, dir: impl AsFd, file: &str, more: &str, errno: Errno) -> Error {
    let dir = vaquita_sys::describe(&dir);
    Error::sys("control group", vaquita_sys::Error::new(format!("{call}({dir}, {file:?}{more})"), errno))
}

fn read_quiet(dir: impl AsFd, file: &str) -> core::result::Result<String, Errno> {
    const LIMIT: usize = 1 << 20;
    let file = open(dir, file, OFlags::RDONLY)?;
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(&buffer[..n]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if text.len() > LIMIT {
            return Err(Errno::FBIG);
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
