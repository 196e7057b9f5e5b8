//! What selinuxfs tells (selinux(8)).

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::procfs::Procfs;

/// Where selinuxfs is mounted.
pub const PLACE: &str = "/sys/fs/selinux";

/// `SELINUX_MAGIC` (linux/magic.h).
const MAGIC: rustix::fs::FsWord = 0xf97c_ff8c;

/// Whether the kernel runs SELinux: selinuxfs is mounted at [`PLACE`].
#[must_use]
pub fn is_enabled() -> bool {
    rustix::fs::statfs(PLACE).is_ok_and(|stat| stat.f_type == MAGIC)
}

/// Whether the loaded policy has such a label, `user:role:type:level`. Where nobody may ask, the answer is that it has:
/// whoever then uses a label that is none hears of it.
///
/// It is asked by taking the label for what the calling thread might execute, and giving it back: a container runtime may do that,
/// whereas few policies let it ask as security_check_context(3) does.
#[must_use]
pub fn has_label(label: &str) -> bool {
    let Ok(file) =
        Procfs::host().and_then(|procfs| procfs.open_file("thread-self/attr/exec", OFlags::WRONLY))
    else {
        return true;
    };
    let asked = rustix::io::write(&file, label.as_bytes());
    if asked.is_ok() {
        let _ = rustix::io::write(&file, b"\n");
    }
    asked != Err(Errno::INVAL)
}
