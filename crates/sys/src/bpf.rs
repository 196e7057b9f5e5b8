//! bpf(2): the device filter of v2 control groups.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::error::Fd;
use crate::syscall::{check, check_fd};
use crate::{Error, Result};

/// An instruction of extended BPF, `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Operation code.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Offset of a jump, in instructions, or of memory, in bytes.
    pub offset: i16,
    /// The operand.
    pub immediate: i32,
}

/// Loads a program of the kind `BPF_PROG_TYPE_CGROUP_DEVICE`.
///
/// # Errors
/// `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN`, `EACCES` or `EINVAL` with the verifier's words for a program that it
/// does not accept.
pub fn load_device_program(program: &[Insn]) -> Result<OwnedFd> {
    match load(program, &mut []) {
        Ok(fd) => Ok(fd),
        Err(errno @ (Errno::ACCESS | Errno::INVAL)) => {
            // Only a failed load pays for the log.
            let mut log = vec![0; 64 << 10];
            let call = format!("bpf(BPF_PROG_LOAD, <device filter, {} instructions>)", program.len());
            match load(program, &mut log) {
                Ok(fd) => Ok(fd),
                Err(_) => {
                    let text = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
                    Err(Error::refused(call, errno, format!("the verifier says: {}", text.trim())))
                }
            }
        }
        Err(errno) => Err(Error::new("bpf(BPF_PROG_LOAD, <device filter>)", errno)),
    }
}

/// Attaches `program` to the v2 control group, besides those that are there (`BPF_F_ALLOW_MULTI`): an access is granted
/// when all of them grant it.
///
/// # Errors
/// `EPERM`, `EINVAL` for something that is not a v2 control group, `E2BIG` for more than 64 programs.
pub fn attach_device(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    change(&cgroup, BPF_PROG_ATTACH, program.as_fd(), BPF_F_ALLOW_MULTI).map_err(|errno| {
        Error::new(format!("bpf(BPF_PROG_ATTACH, {}, BPF_CGROUP_DEVICE)", Fd::of(&cgroup)), errno)
    })
}

/// Takes `program` away from the control group.
///
/// # Errors
/// `ENOENT` when it is not attached there.
pub fn detach_device(cgroup: impl AsFd, program: impl AsFd) -> Result<()> {
    change(&cgroup, BPF_PROG_DETACH, program.as_fd(), 0).map_err(|errno| {
        Error::new(format!("bpf(BPF_PROG_DETACH, {}, BPF_CGROUP_DEVICE)", Fd::of(&cgroup)), errno)
    })
}

/// The device programs attached to the control group itself (those of its parents apply too).
///
/// # Errors
/// `EPERM`, `EINVAL`.
pub fn device_programs(cgroup: impl AsFd) -> Result<Vec<OwnedFd>> {
    let mut ids = [0u32; 64];
    let mut attr = Attr::default();
    // struct { target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt }
    attr.put_u32(0, fd_number(cgroup.as_fd()));
    attr.put_u32(4, BPF_CGROUP_DEVICE);
    attr.put_u64(16, ids.as_mut_ptr() as u64);
    attr.put_u32(24, 64);
    let error =
        |errno| Error::new(format!("bpf(BPF_PROG_QUERY, {}, BPF_CGROUP_DEVICE)", Fd::of(&cgroup)), errno);
    attr.call(BPF_PROG_QUERY).map_err(error)?;
    let count = (attr.u32_at(24) as usize).min(ids.len());
    ids[..count].iter().map(|id| open_program(*id)).collect()
}

const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_PROG_DETACH: u32 = 9;
const BPF_PROG_GET_FD_BY_ID: u32 = 13;
const BPF_PROG_QUERY: u32 = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `union bpf_attr` up to the fields that are used, zero elsewhere.
#[repr(C, align(8))]
#[derive(Default)]
struct Attr([u64; 16]);

impl Attr {
    fn put_u64(&mut self, offset: usize, value: u64) {
        self.0[offset / 8] = value;
    }

    fn put_u32(&mut self, offset: usize, value: u32) {
        let (word, shift) = Self::place(offset);
        self.0[word] |= u64::from(value) << shift;
    }

    #[expect(clippy::cast_possible_truncation, reason = "one half of the word is meant")]
    fn u32_at(&self, offset: usize) -> u32 {
        let (word, shift) = Self::place(offset);
        (self.0[word] >> shift) as u32
    }

    fn place(offset: usize) -> (usize, usize) {
        let low = offset.is_multiple_of(8) == cfg!(target_endian = "little");
        (offset / 8, if low { 0 } else { 32 })
    }

    fn call(&mut self, command: u32) -> core::result::Result<libc::c_long, Errno> {
        // SAFETY: the kernel reads and writes at most the size given; pointers inside are to buffers that outlive the
        // call, with the lengths stated beside them.
        check(unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), size_of::<Self>()) })
    }
}

fn load(program: &[Insn], log: &mut [u8]) -> core::result::Result<OwnedFd, Errno> {
    let mut attr = Attr::default();
    attr.put_u32(0, BPF_PROG_TYPE_CGROUP_DEVICE);
    attr.put_u32(4, u32::try_from(program.len()).map_err(|_| Errno::TOOBIG)?);
    attr.put_u64(8, program.as_ptr() as u64);
    attr.put_u64(16, c"Apache-2.0".as_ptr() as u64);
    if !log.is_empty() {
        attr.put_u32(24, 1); // log_level
        attr.put_u32(28, u32::try_from(log.len()).map_err(|_| Errno::TOOBIG)?);
        attr.put_u64(32, log.as_mut_ptr() as u64);
    }
    // prog_name, 16 bytes: seen in `bpftool prog`.
    attr.put_u64(48, u64::from_ne_bytes(*b"vaquita_"));
    attr.put_u64(56, u64::from_ne_bytes(*b"devices\0"));
    attr.put_u32(68, BPF_CGROUP_DEVICE); // expected_attach_type
    let fd = i32::try_from(attr.call(BPF_PROG_LOAD)?).map_err(|_| Errno::BADF)?;
    // SAFETY: the result is a new fd, close-on-exec as all of bpf's are.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn change(
    cgroup: &impl AsFd,
    command: u32,
    program: BorrowedFd<'_>,
    flags: u32,
) -> core::result::Result<(), Errno> {
    let mut attr = Attr::default();
    attr.put_u32(0, fd_number(cgroup.as_fd()));
    attr.put_u32(4, fd_number(program));
    attr.put_u32(8, BPF_CGROUP_DEVICE);
    attr.put_u32(12, flags);
    attr.call(command).map(drop)
}

fn open_program(id: u32) -> Result<OwnedFd> {
    let mut attr = Attr::default();
    attr.put_u32(0, id);
    let result = attr.call(BPF_PROG_GET_FD_BY_ID);
    // SAFETY: the result is a new fd.
    let fd = result.and_then(|fd| unsafe { check_fd(fd) });
    fd.map_err(|errno| Error::new(format!("bpf(BPF_PROG_GET_FD_BY_ID, {id})"), errno))
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().unsigned_abs()
}
