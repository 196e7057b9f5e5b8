//! Containers on kernels that lack system calls: each alone, and all that are younger than 2019 at once.

use vaquita_testing::{require_root, run_without};

use crate::harness::Bundle;

/// What stands in for one of them, stands in for all of them.
const MOUNTS: &[libc::c_long] = &[
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_mount_setattr,
];

const OTHERS: &[libc::c_long] =
    &[libc::SYS_openat2, libc::SYS_clone3, libc::SYS_close_range, libc::SYS_pidfd_open, libc::SYS_fspick];

/// They have recursive options, id mappings and mounts in a namespace of others, which are refused: there are tests for that.
/// The last one opens a pidfd itself.
const EXCEPT: &[&str] = &[
    "binds_of_every_sort",
    "a_pid_namespace_of_a_joined_user_namespace",
    "nothing_is_made_in_the_hosts_mount_namespace",
    "the_root_of_a_hook_is_that_of_the_process_whatever_lies_over_it",
];

#[test]
fn each_alone() {
    require_root();
    for call in MOUNTS.iter().chain(OTHERS) {
        run_without(&[*call], &["create::", "sandbox::"], EXCEPT);
    }
}

#[test]
fn all_at_once() {
    require_root();
    let all: Vec<_> = MOUNTS.iter().chain(OTHERS).copied().collect();
    let tests = [
        "create::",
        "sandbox::",
        "mounts::",
        "devices::",
        "hostile::",
        "exec::",
        "hook::",
        "namespaces::",
        "netdev::",
        "process::",
        "seccomp::",
    ];
    run_without(&all, &tests, EXCEPT);
}

/// The old root and what lay on it are gone, and no more than that: the container's own root can be unmounted just as well,
/// and then the container runs on in a mount that is in no namespace.
#[test]
fn exactly_one_mount_is_the_root() {
    require_root();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(Bundle::new("mounts /").run().of("mounts /"), "1");
                }
            });
        }
    });
}

#[test]
fn exactly_one_mount_is_the_root_made_by_the_old_calls() {
    require_root();
    let without_ids: Vec<_> = MOUNTS.iter().copied().chain([libc::SYS_statx]).collect();
    for calls in [MOUNTS, &without_ids] {
        run_without(calls, &["lacking::exactly_one_mount_is_the_root"], &["_made_by_"]);
    }
}
