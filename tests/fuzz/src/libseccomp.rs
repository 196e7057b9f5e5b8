//! libseccomp, used in the way in which runc uses it to carry a profile out.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompArg, LinuxSyscall};
use vaquita_sys::seccomp::SockFilter;

use crate::model::{Abi, value};

#[repr(C)]
#[derive(Clone, Copy)]
struct Comparison {
    argument: c_uint,
    operator: c_int,
    a: u64,
    b: u64,
}

#[repr(C)]
struct Version {
    major: c_uint,
    minor: c_uint,
    micro: c_uint,
}

#[link(name = "seccomp")]
unsafe extern "C" {
    fn seccomp_version() -> *const Version;
    fn seccomp_init(default: u32) -> *mut c_void;
    fn seccomp_release(context: *mut c_void);
    fn seccomp_arch_add(context: *mut c_void, arch: u32) -> c_int;
    fn seccomp_attr_set(context: *mut c_void, attribute: c_int, value: u32) -> c_int;
    fn seccomp_rule_add_array(
        context: *mut c_void,
        action: u32,
        number: c_int,
        count: c_uint,
        comparisons: *const Comparison,
    ) -> c_int;
    fn seccomp_export_bpf(context: *const c_void, fd: c_int) -> c_int;
    fn seccomp_syscall_resolve_name(name: *const c_char) -> c_int;
    fn seccomp_syscall_resolve_name_arch(arch: u32, name: *const c_char) -> c_int;
    fn seccomp_syscall_resolve_num_arch(arch: u32, number: c_int) -> *mut c_char;
}

unsafe extern "C" {
    fn free(pointer: *mut c_void);
}

const NO_SUCH_CALL: c_int = -1; // __NR_SCMP_ERROR
const ACT_BADARCH: c_int = 2;
const KILL_PROCESS: u32 = 0x8000_0000;
const EXISTS: c_int = -17;

/// What libseccomp calls an architecture.
fn token(abi: Abi) -> u32 {
    match abi {
        Abi::X32 => 0x4000_003e,
        other => other.audit(),
    }
}

/// The library's version.
pub fn version() -> String {
    // SAFETY: it returns a pointer to a static structure.
    let Version { major, minor, micro } = unsafe { seccomp_version().read() };
    format!("{major}.{minor}.{micro}")
}

/// The number of a call; x32's without its bit. Negative numbers are the library's own, for calls an architecture lacks.
pub fn number(abi: Abi, name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is a C string.
    let number = unsafe { seccomp_syscall_resolve_name_arch(token(abi), name.as_ptr()) };
    let number = u32::try_from(number).ok()?;
    Some(number & !abi.bit())
}

/// The library's name for a number.
pub fn name(abi: Abi, number: u32) -> Option<String> {
    let number = c_int::try_from(number | abi.bit()).ok()?;
    // SAFETY: it returns null or a C string of malloc, which is freed once.
    unsafe {
        let name = seccomp_syscall_resolve_num_arch(token(abi), number);
        if name.is_null() {
            return None;
        }
        let text = CStr::from_ptr(name).to_string_lossy().into_owned();
        free(name.cast());
        Some(text)
    }
}

/// The program that runc would make through the library, but for what runc puts before it (ENOSYS for newer calls).
/// Without the binary tree that runc asks for with more than 32 rules (`SCMP_FLTATR_CTL_OPTIMIZE` 2): libseccomp 2.5.4
/// loses rules in it where an architecture lacks some of the calls.
pub fn compile(profile: &LinuxSeccomp) -> Result<Vec<SockFilter>, String> {
    let default = value(profile.default_action(), profile.default_errno_ret());
    let context = Context::new(default)?;
    // SAFETY (here and below): the context is alive, and arrays are as long as said.
    let check = |what: &str, code: c_int| if code == 0 { Ok(()) } else { Err(format!("{what}: {code}")) };
    check("bad arch", unsafe { seccomp_attr_set(context.0, ACT_BADARCH, KILL_PROCESS) })?;
    for arch in profile.architectures().iter().flatten() {
        let Some(abi) = Abi::of_profile(*arch) else { continue };
        match unsafe { seccomp_arch_add(context.0, token(abi)) } {
            0 | EXISTS => {}
            code => return Err(format!("architecture {arch:?}: {code}")),
        }
    }
    for rule in profile.syscalls().iter().flatten() {
        add(&context, rule, default)?;
    }
    context.export()
}

fn add(context: &Context, rule: &LinuxSyscall, default: u32) -> Result<(), String> {
    let action = value(rule.action(), rule.errno_ret());
    if action == default {
        return Ok(());
    }
    let args = rule.args().as_deref().unwrap_or_default();
    let comparisons: Vec<Comparison> = args.iter().map(comparison).collect();
    let is_twice =
        args.iter().any(|arg| args.iter().filter(|other| other.index() == arg.index()).count() > 1);
    let groups: Vec<&[Comparison]> =
        if is_twice { comparisons.chunks(1).collect() } else { vec![&comparisons[..]] };
    for name in rule.names() {
        let text = CString::new(name.as_str()).map_err(|error| error.to_string())?;
        // SAFETY: the name is a C string, the array as long as said.
        let number = unsafe { seccomp_syscall_resolve_name(text.as_ptr()) };
        if number == NO_SUCH_CALL {
            continue;
        }
        for group in &groups {
            let count = c_uint::try_from(group.len()).map_err(|error| error.to_string())?;
            // SAFETY: as above.
            match unsafe { seccomp_rule_add_array(context.0, action, number, count, group.as_ptr()) } {
                0 => {}
                code => return Err(format!("rule for {name}: {code}")),
            }
        }
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg) -> Comparison {
    Comparison {
        argument: arg.index() as c_uint,
        operator: arg.op() as c_int,
        a: arg.value(),
        b: arg.value_two().unwrap_or(0),
    }
}

struct Context(*mut c_void);

impl Context {
    fn new(default: u32) -> Result<Self, String> {
        // SAFETY: no arguments that matter to memory.
        let context = unsafe { seccomp_init(default) };
        if context.is_null() { Err(format!("seccomp_init({default:#x})")) } else { Ok(Self(context)) }
    }

    fn export(&self) -> Result<Vec<SockFilter>, String> {
        let fd =
            rustix::fs::memfd_create("bpf", rustix::fs::MemfdFlags::CLOEXEC).map_err(|e| e.to_string())?;
        let mut file = File::from(fd);
        // SAFETY: the context is alive, the descriptor open.
        let code = unsafe { seccomp_export_bpf(self.0, file.as_raw_fd()) };
        if code != 0 {
            return Err(format!("seccomp_export_bpf: {code}"));
        }
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| error.to_string())?;
        Ok(instructions(&bytes))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was made by seccomp_init and is released once.
        unsafe { seccomp_release(self.0) }
    }
}

fn instructions(bytes: &[u8]) -> Vec<SockFilter> {
    let instruction = |bytes: &[u8]| SockFilter {
        code: u16::from_le_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    };
    bytes.chunks_exact(8).map(instruction).collect()
}
