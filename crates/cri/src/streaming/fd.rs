//! A pipe or a terminal that is waited for.

use std::io::{Error, Result};
use std::os::fd::OwnedFd;

use bytes::{BufMut, BytesMut};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How much is read at once: as much as a pipe holds.
const READ: usize = 64 << 10;

/// A descriptor that does not block.
#[derive(Debug)]
pub(super) struct Fd(AsyncFd<OwnedFd>);

impl Fd {
    /// Takes a descriptor over and makes it not block. Must be called within a runtime.
    #[expect(
        deprecated,
        reason = "the replacement is unsafe for types that may give up their descriptor; OwnedFd cannot"
    )]
    pub(super) fn new(fd: OwnedFd, interest: Interest) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        AsyncFd::with_interest(fd, interest).map(Self)
    }

    /// Appends what can be read; 0 at the end.
    pub(super) async fn read(&self, buffer: &mut BytesMut) -> Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| read(fd.get_ref(), buffer)) {
                return result;
            }
        }
    }

    /// The same without waiting.
    pub(super) fn try_read(&self, buffer: &mut BytesMut) -> Result<usize> {
        read(self.0.get_ref(), buffer)
    }

    /// Writes all of it.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                bytes = match result {
                    Ok(0) => return Err(Error::from(std::io::ErrorKind::WriteZero)),
                    Ok(written) => &bytes[written..],
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => bytes,
                    Err(error) => return Err(error),
                };
            }
        }
        Ok(())
    }
}

fn read(fd: &OwnedFd, buffer: &mut BytesMut) -> Result<usize> {
    let at = buffer.len();
    buffer.reserve(READ);
    buffer.put_bytes(0, READ);
    let result = rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut buffer[at..]));
    buffer.truncate(at + result.unwrap_or(0));
    Ok(result?)
}
