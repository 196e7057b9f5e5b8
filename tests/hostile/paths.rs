//! That nothing in a root filesystem, and nothing of procfs that is written, is reached by a path: told by the system
//! calls that are really made.

use std::collections::BTreeMap;

use serde_json::json;
use vaquita_testing::trace::{Call, Verdict};

use crate::scene::{Scene, Verb, judge, name};

/// `AT_FDCWD`, as the kernel compares it: 32 bits.
const HERE: u32 = 0xffff_ff9c;

/// T14, CVE-2025-52881, and T17: once a process has the root filesystem, it opens, makes and changes nothing by a path that
/// somebody could lead elsewhere, and files of procfs are written below a descriptor, across no mount and no link.
#[test]
fn t14_t17_nothing_is_reached_by_path_once_there_is_a_root() {
    let scene = Scene::new();
    let mut container = scene.container_with(|config| {
        config["linux"]["sysctl"] = json!({"kernel.msgmax": "8192", "kernel.shmmni": "100"});
        config["process"]["cwd"] = json!("/made/here");
    });
    let mut writes = 0;
    let mut complaints = Vec::new();
    for verb in [Verb::Create, Verb::Start, Verb::Exec] {
        // A process that is attached to or joins a container has its root from its beginning.
        let mut rooted: BTreeMap<usize, bool> = BTreeMap::new();
        let trace = container.traced(verb, |call| {
            let is_rooted = rooted.entry(call.process).or_insert(verb == Verb::Start && call.process == 1);
            match check(call, *is_rooted) {
                Ok(is_write) => writes += usize::from(is_write),
                Err(why) => complaints.push(format!("{verb:?}, process {}: {why}", call.process)),
            }
            *is_rooted |= call.process > 0 && [libc::SYS_move_mount, libc::SYS_setns].contains(&call.number);
            Verdict::Make
        });
        assert_eq!(judge(&trace), Ok(true), "{verb:?}: {trace:?}");
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    // Two sysctls at least.
    assert!(writes >= 2, "{writes} files of procfs were written");
    assert_eq!(container.remove(), Vec::<String>::new());
}

/// Whether a file of procfs is opened for writing, in the right way.
fn check(call: &Call, is_rooted: bool) -> Result<bool, String> {
    let path = |argument| call.string(argument).unwrap_or_default();
    let here = |argument: usize| call.arguments[argument] as u32 == HERE;
    let shown = |path: &str| format!("{}({path:?})", name(call.number));
    let is_write = |flags: u64| flags & 0o3 != 0;
    let opened = match call.number {
        libc::SYS_open => Some((path(0), call.arguments[1], true, 0)),
        libc::SYS_openat => Some((path(1), call.arguments[2], here(0), 0)),
        libc::SYS_openat2 => {
            let (flags, resolve) = (call.word(2, 0).unwrap_or_default(), call.word(2, 2).unwrap_or_default());
            Some((path(1), flags, here(0), resolve))
        }
        _ => None,
    };
    if let Some((path, flags, is_here, resolve)) = &opened
        && is_write(*flags)
    {
        let is_absolute = path.starts_with("/proc") || path.starts_with("/sys/kernel");
        if is_absolute && (*is_here || *resolve == 0) {
            return Err(format!("written by path: {}", shown(path)));
        }
    }
    if !is_rooted {
        let relative = opened.is_some_and(|(path, flags, is_here, resolve)| {
            is_write(flags) && !is_here && path.starts_with("sys/") && resolve & RESOLVE_NO_XDEV != 0
        });
        return Ok(relative);
    }
    match opened {
        // The root itself, and the current directory.
        Some((path, _, _, 0)) if path == "/" || path == "." => {}
        // All but a name in a directory that was resolved before.
        Some((path, _, is_here, 0)) if is_here || path.contains('/') || path == ".." => {
            return Err(format!("opened by path: {}", shown(&path)));
        }
        Some((path, _, true, _)) => return Err(format!("resolved from nowhere: {}", shown(&path))),
        Some((path, flags, false, resolve)) => {
            if resolve != 0 && resolve & (RESOLVE_IN_ROOT | RESOLVE_BENEATH) == 0 {
                return Err(format!("not kept inside: {}", shown(&path)));
            }
            return Ok(is_write(flags) && path.starts_with("sys/") && resolve & RESOLVE_NO_XDEV != 0);
        }
        None => {}
    }
    let changed = match call.number {
        libc::SYS_mkdirat
        | libc::SYS_mknodat
        | libc::SYS_unlinkat
        | libc::SYS_fchownat
        | libc::SYS_fchmodat => Some((path(1), here(0))),
        libc::SYS_symlinkat => Some((path(2), here(1))),
        libc::SYS_move_mount => Some((path(3), here(2))),
        libc::SYS_open_tree | libc::SYS_mount_setattr => Some((path(1), here(0))),
        libc::SYS_chdir | libc::SYS_chroot | libc::SYS_umount2 | libc::SYS_pivot_root => {
            let path = path(0);
            (path != "/" && path != ".").then_some((path, true))
        }
        libc::SYS_chmod
        | libc::SYS_chown
        | libc::SYS_creat
        | libc::SYS_lchown
        | libc::SYS_link
        | libc::SYS_mkdir
        | libc::SYS_mknod
        | libc::SYS_mount
        | libc::SYS_rename
        | libc::SYS_rmdir
        | libc::SYS_symlink
        | libc::SYS_truncate
        | libc::SYS_unlink => Some((path(0), true)),
        _ => None,
    };
    match changed {
        Some((path, true)) if path != "/" => Err(format!("by path: {}", shown(&path))),
        Some((path, false)) if path.contains('/') || path == ".." => {
            Err(format!("looked up: {}", shown(&path)))
        }
        _ => Ok(false),
    }
}

const RESOLVE_NO_XDEV: u64 = 0x01;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;
