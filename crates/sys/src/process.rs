//! Processes: clone3, exec, waiting, and the attributes that a process sets on itself.

mod attr;
mod clone;
mod exec;
mod fork;
mod idle;
mod line;
mod wait;

pub use attr::{
    Scheduling, cwd_is_reachable, io_priority, join_session_keyring, no_new_privs, parent_death_signal,
    set_dumpable, set_gid, set_groups, set_io_priority, set_keep_caps, set_memory_policy, set_name,
    set_personality, set_scheduling, set_subreaper, set_uid,
};
pub use clone::{Clone, CloneFlags, Forked, clone3, clone3_raw};
pub use exec::{
    CStrArray, close_range, close_range_on_exec, dup_for_exec, execveat, exit_now, inherited, pass_as,
    read_only, sealed_copy, sealed_self,
};
pub use fork::{NoWayBack, fork_worker};
pub use idle::Idle;
pub use line::CommandLine;
pub use wait::{Exit, Look, look, open_pidfd, pidfd_pid, reap_any, start_time, try_wait_pidfd, wait_pidfd};
