//! The entry on `x86_64`.

use core::ffi::CStr;

use crate::{ARGUMENT, ENTERING, NAME, OTHERS, OVERLAYFS_SUPER_MAGIC};

const CLOSE: isize = 3;
const STATFS: isize = 137;
const OPENAT: isize = 257;
const READLINKAT: isize = 267;
const EXECVEAT: isize = 322;
const FSOPEN: isize = 430;
const FSCONFIG: isize = 431;
const FSMOUNT: isize = 432;

const AT_FDCWD: isize = -100;
const AT_EMPTY_PATH: isize = 0x1000;
const O_DIRECTORY: isize = 0o200_000;
const O_NOFOLLOW: isize = 0o400_000;
const O_CLOEXEC: isize = 0o2_000_000;
const O_PATH: isize = 0o10_000_000;
/// `FSOPEN_CLOEXEC` and `FSMOUNT_CLOEXEC`.
const CLOEXEC: isize = 1;
const FSCONFIG_SET_STRING: isize = 1;
const FSCONFIG_CMD_CREATE: isize = 6;
/// `MOUNT_ATTR_RDONLY`, `MOUNT_ATTR_NOSUID`, `MOUNT_ATTR_NODEV`.
const ATTRIBUTES: isize = 0x1 | 0x2 | 0x4;

/// Bytes for the path of the program, and for texts.
const PATH: usize = 4096;
const TEXT: usize = 256;

/// Where the kernel starts the program: the stack has the arguments, rdx is for the C library.
///
/// # Safety
/// Only the kernel may come here.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn vaquita_entry() -> ! {
    core::arch::naked_asm!(
        "xor ebp, ebp",
        "mov rbx, rsp",
        "mov r12, rdx",
        "mov rdi, rsp",
        "sub rsp, {space}",
        "and rsp, -16",
        "mov rsi, rsp",
        "call {seal}",
        "mov rsp, rbx",
        "mov rdx, r12",
        "jmp _start",
        space = const PATH + TEXT,
        seal = sym seal,
    )
}

/// Starts the program again from a private read-only overlay of its directory, if it is to enter a container and does not
/// run from an overlay. Returns in all other cases.
///
/// # Safety
/// `stack` is what the kernel has put there: the number of arguments, they, a null, the environment, a null. `space` is
/// that for path and text.
unsafe extern "C" fn seal(stack: *const usize, space: *mut u8) {
    // SAFETY: as the caller says: all that is read is before a null, and the two parts do not overlap.
    unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<*const u8>();
        let text = space.add(PATH);
        if !is_entering(arguments, count) || is_overlay(text) {
            return;
        }
        let environment = arguments.add(count).add(1);
        let mut opened = Opened { directory: -1, other: -1, context: -1, mount: -1, file: -1 };
        start_again((arguments, environment), (space, text), &mut opened);
        close(opened.directory);
        close(opened.other);
        close(opened.context);
        close(opened.mount);
        close(opened.file);
    }
}

/// Descriptors; negative ones are none.
struct Opened {
    directory: isize,
    other: isize,
    context: isize,
    mount: isize,
    file: isize,
}

/// # Safety
/// There are `count` arguments, each with a NUL at its end.
unsafe fn is_entering(arguments: *const *const u8, count: usize) -> bool {
    // SAFETY: within what the caller says.
    unsafe {
        if count < 2 {
            return false;
        }
        let mut name = *arguments;
        let mut at = name;
        while *at != 0 {
            if *at == b'/' {
                name = at.add(1);
            }
            at = at.add(1);
        }
        if !is(name, NAME) && !is(*arguments.add(1), ARGUMENT) {
            return false;
        }
        let mut number = 1;
        while number < count {
            let argument = *arguments.add(number);
            let [first, second, third] = ENTERING;
            if is(argument, first) || is(argument, second) || is(argument, third) {
                return true;
            }
            number = number.wrapping_add(1);
        }
        false
    }
}

/// # Safety
/// `text` has a NUL at its end.
unsafe fn is(text: *const u8, other: &CStr) -> bool {
    let (mut one, mut two) = (text, other.as_ptr().cast::<u8>());
    // SAFETY: neither goes beyond its NUL: they are equal up to there.
    unsafe {
        while *one == *two {
            if *one == 0 {
                return true;
            }
            (one, two) = (one.add(1), two.add(1));
        }
    }
    false
}

/// Also when that cannot be told.
///
/// # Safety
/// `space` has room for a `struct statfs` (120 bytes), aligned.
unsafe fn is_overlay(space: *mut u8) -> bool {
    // SAFETY: as the caller says; its first member is the type.
    unsafe {
        let result = call(STATFS, address(c"/proc/self/exe"), space as isize, 0, 0, 0);
        #[allow(clippy::cast_ptr_alignment, reason = "the stack's alignment")]
        let kind = *space.cast::<i64>();
        result < 0 || kind == OVERLAYFS_SUPER_MAGIC
    }
}

/// Returns when that failed; `opened` is to be closed then.
///
/// # Safety
/// As of [`seal`]; the space is that for path and for texts.
unsafe fn start_again(
    (arguments, environment): (*const *const u8, *const *const u8),
    (path, text): (*mut u8, *mut u8),
    opened: &mut Opened,
) {
    let Opened { directory, other, context, mount, file } = opened;
    // SAFETY: every address is of a text with a NUL at its end, within the given space or static; the kernel gives no more
    // bytes than it is told.
    unsafe {
        let room = const { PATH.cast_signed() - 1 };
        let length = call(READLINKAT, AT_FDCWD, address(c"/proc/self/exe"), path as isize, room, 0);
        if length <= 0 || length >= room {
            return;
        }
        let end = path.offset(length);
        *end = 0;
        let mut name = end;
        while *name != b'/' {
            if name == path {
                return;
            }
            name = name.sub(1);
        }
        *name = 0;
        // The program's directory may be the root.
        let parent = if name == path { address(c"/") } else { path as isize };
        *directory = call(OPENAT, AT_FDCWD, parent, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
        let [first, second] = OTHERS;
        *other = call(OPENAT, AT_FDCWD, address(first), O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
        if *other < 0 {
            *other = call(OPENAT, AT_FDCWD, address(second), O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0);
        }
        if *directory < 0 || *other < 0 {
            return;
        }
        *context = call(FSOPEN, address(c"overlay"), CLOEXEC, 0, 0, 0);
        if *context < 0 {
            return;
        }
        let mut rest = put_fd(text, *directory);
        *rest = b':';
        rest = put_fd(rest.add(1), *other);
        *rest = 0;
        let layers = call(FSCONFIG, *context, FSCONFIG_SET_STRING, address(c"lowerdir"), text as isize, 0);
        if layers < 0 || call(FSCONFIG, *context, FSCONFIG_CMD_CREATE, 0, 0, 0) < 0 {
            return;
        }
        *mount = call(FSMOUNT, *context, CLOEXEC, ATTRIBUTES, 0, 0);
        if *mount < 0 {
            return;
        }
        *file = call(OPENAT, *mount, name.add(1) as isize, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, 0);
        if *file >= 0 {
            let (arguments, environment) = (arguments as isize, environment as isize);
            call(EXECVEAT, *file, address(c""), arguments, environment, AT_EMPTY_PATH);
        }
    }
}

/// Writes `/proc/self/fd/N` and returns where it ends.
///
/// # Safety
/// There is room for 40 bytes; `fd` is not negative.
unsafe fn put_fd(to: *mut u8, fd: isize) -> *mut u8 {
    let mut from = c"/proc/self/fd/".as_ptr().cast::<u8>();
    let (mut to, fd) = (to, fd.cast_unsigned());
    let mut unit = 1_usize;
    // SAFETY: 14 bytes and at most 19 digits.
    unsafe {
        while *from != 0 {
            *to = *from;
            (to, from) = (to.add(1), from.add(1));
        }
        while fd / unit >= 10 {
            unit = unit.wrapping_mul(10);
        }
        while unit > 0 {
            *to = b'0'.wrapping_add((fd / unit % 10) as u8);
            to = to.add(1);
            unit /= 10;
        }
    }
    to
}

fn close(fd: isize) {
    if fd >= 0 {
        // SAFETY: nobody else has a descriptor that was opened here.
        unsafe { call(CLOSE, fd, 0, 0, 0, 0) };
    }
}

fn address(text: &'static CStr) -> isize {
    text.as_ptr() as isize
}

/// A system call; the kernel's answer, negative errno included.
///
/// # Safety
/// The arguments must be what the call expects; pointers among them must be valid for it.
unsafe fn call(number: isize, a: isize, b: isize, c: isize, d: isize, e: isize) -> isize {
    let answer: isize;
    // SAFETY: the caller answers for the arguments; the instruction changes rcx, r11 and rax only.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    answer
}
