//! Every system call of every command fails once, with every error that a caller may meet.
//!
//! After each failure: the command ends, either well or with one line that says why; and when the container has then
//! been deleted by force, nothing is left of it.
//!
//! Continuous integration tries every call with one error after the other, a different one for each; with
//! `VAQUITA_FAULTS=all` every call fails with every error. The same is done to the ways that are taken where the kernel
//! lacks the newer calls: those are answered `ENOSYS` from the first to the last, and one of the others fails (without
//! `VAQUITA_FAULTS=all` every fifth of them).

use std::collections::BTreeMap;
use std::sync::Mutex;

use rustix::io::Errno;
use vaquita_testing::trace::{Call, Verdict};

use crate::kernels::without;
use crate::scene::{Container, OwnCode, Scene, Verb, in_parallel, judge, name, show_cgroups};

const ERRORS: [Errno; 5] = [Errno::IO, Errno::NOMEM, Errno::PERM, Errno::NOSYS, Errno::INTR];

/// Calls that do not return, and those that cannot fail: their callers have no answer to it. getrandom(2) is among them
/// because of what it is asked for: some bytes, as the language's hash maps do; brk(2) because it answers with an address,
/// never with an error; close(2) because it closes whatever it answers.
const NEVER: [i64; 14] = [
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_rt_sigreturn,
    libc::SYS_umask,
];

/// What kernels before 5.2 lack and has another way, but for close_range(2): the other way closes every number there is, each
/// of them a stop for a tracer, and a close that fails is nobody's concern.
const NEWER: [i64; 6] = [
    libc::SYS_clone3,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_openat2,
];

/// A call to fail.
#[derive(Clone, Debug)]
struct Target {
    call: Call,
    /// How many of the same kind its process has made before: others may be more or fewer in the next run.
    before: usize,
    /// It is made by the program's own code, not before or after that.
    is_own: bool,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
struct Trial {
    verb: Verb,
    /// The calls that the kernel does not have.
    lacks: &'static [i64],
    has_view: bool,
}

#[test]
fn create_survives_every_error() {
    survive(Trial { verb: Verb::Create, lacks: &[], has_view: false });
}

#[test]
fn create_with_cgroups_in_view_survives_every_error() {
    survive(Trial { verb: Verb::Create, lacks: &[], has_view: true });
}

#[test]
fn start_survives_every_error() {
    survive(Trial { verb: Verb::Start, lacks: &[], has_view: false });
}

#[test]
fn exec_survives_every_error() {
    survive(Trial { verb: Verb::Exec, lacks: &[], has_view: false });
}

#[test]
fn kill_survives_every_error() {
    survive(Trial { verb: Verb::Kill, lacks: &[], has_view: false });
}

#[test]
fn delete_survives_every_error() {
    survive(Trial { verb: Verb::Delete, lacks: &[], has_view: false });
}

#[test]
fn older_kernel_create_survives_every_error() {
    survive(Trial { verb: Verb::Create, lacks: &NEWER, has_view: true });
}

#[test]
fn older_kernel_start_survives_every_error() {
    survive(Trial { verb: Verb::Start, lacks: &NEWER, has_view: false });
}

#[test]
fn older_kernel_exec_survives_every_error() {
    survive(Trial { verb: Verb::Exec, lacks: &NEWER, has_view: false });
}

#[test]
fn older_kernel_delete_survives_every_error() {
    survive(Trial { verb: Verb::Delete, lacks: &NEWER, has_view: false });
}

fn survive(trial: Trial) {
    let Trial { lacks, .. } = trial;
    let scene = Scene::new();
    // It makes what all of them share, and keeps it: the cgroup above theirs, and mount points.
    let first = scene.container();
    first.must(Verb::Create);
    let targets = targets(&scene, trial);
    let all = std::env::var("VAQUITA_FAULTS").is_ok_and(|value| value == "all");
    let step = if all || lacks.is_empty() { 1 } else { 5 };
    let cases: Vec<(&Target, Errno)> = targets
        .iter()
        .step_by(step)
        .enumerate()
        .flat_map(|(number, target)| {
            let errors = if all { &ERRORS[..] } else { std::slice::from_ref(&ERRORS[number % ERRORS.len()]) };
            errors.iter().map(move |errno| (target, *errno))
        })
        .collect();
    let complaints = Mutex::new(Vec::new());
    let missed = Mutex::new(Vec::new());
    in_parallel(cases.len(), |number| {
        let (target, errno) = cases[number];
        let mut said = Vec::new();
        if !one(&scene, trial, target, errno, &mut said) {
            missed.lock().unwrap().push((target.call.process, name(target.call.number), target.before));
        }
        if !said.is_empty() {
            let Target { call, is_own, .. } = target;
            let what = format!("{} {errno:?}", name(call.number));
            let place = format!("process {}, call {}, own code: {is_own}", call.process, call.index);
            complaints.lock().unwrap().push(format!("{what} ({place}): {said:#?}"));
        }
    });
    let complaints = complaints.into_inner().unwrap();
    let (count, mut missed) = (cases.len(), missed.into_inner().unwrap());
    missed.sort();
    assert!(complaints.is_empty(), "{} of {count}:\n{}", complaints.len(), complaints.join("\n"));
    // Some calls are not made each time, such as those that wait for something.
    assert!(missed.len() * 20 <= count, "{} of {count} calls were not reached: {missed:?}", missed.len());
}

/// How many calls of each kind a process has made.
#[derive(Default)]
struct Seen(BTreeMap<(usize, i64), usize>);

impl Seen {
    /// Counts this one, and tells how many were before.
    fn count(&mut self, call: &Call) -> usize {
        let count = self.0.entry((call.process, call.number)).or_default();
        *count += 1;
        *count - 1
    }
}

/// All calls of a command that succeeds.
fn targets(scene: &Scene, trial: Trial) -> Vec<Target> {
    let Trial { verb, lacks, .. } = trial;
    let mut container = ready(scene, trial);
    let mut own = OwnCode::default();
    let mut seen = Seen::default();
    let mut targets = Vec::new();
    let trace = container.traced(verb, |call| {
        let is_own = call.process > 0 || own.contains(call);
        let before = seen.count(call);
        if lacks.contains(&call.number) {
            return Verdict::Fail(Errno::NOSYS);
        }
        if !NEVER.contains(&call.number) {
            targets.push(Target { call: call.clone(), before, is_own });
        }
        Verdict::Make
    });
    assert_eq!(judge(&trace), Ok(true), "{trace:?}");
    targets
}

/// A container for which the command makes sense.
fn ready(scene: &Scene, Trial { verb, lacks, has_view }: Trial) -> Container<'_> {
    let mut container = if has_view { scene.container_with(show_cgroups) } else { scene.container() };
    let before: &[Verb] = match verb {
        Verb::Create | Verb::Run => &[],
        Verb::Start => &[Verb::Create],
        Verb::Exec | Verb::Kill | Verb::Delete => &[Verb::Create, Verb::Start],
    };
    for verb in before {
        if lacks.is_empty() {
            container.must(*verb);
        } else {
            let trace = container.traced(*verb, without(lacks));
            assert_eq!(judge(&trace), Ok(true), "{trace:?}");
        }
    }
    container
}

/// Whether the call was reached; what is wrong goes to `said`.
fn one(scene: &Scene, trial: Trial, target: &Target, errno: Errno, said: &mut Vec<String>) -> bool {
    let Trial { verb, lacks, .. } = trial;
    let mut container = ready(scene, trial);
    let mut reached = false;
    let mut seen = Seen::default();
    let trace = container.traced(verb, |call| {
        let before = seen.count(call);
        if (call.process, call.number) == (target.call.process, target.call.number) && before == target.before
        {
            reached = true;
            return if lacks.is_empty() { Verdict::FailOnce(errno) } else { Verdict::Fail(errno) };
        }
        if lacks.contains(&call.number) { Verdict::Fail(Errno::NOSYS) } else { Verdict::Make }
    });
    match judge(&trace) {
        Ok(true) => said.extend(unfinished(&container, verb, &target.call)),
        Ok(false) if errno == Errno::INTR && RESTARTABLE.contains(&target.call.number) && target.is_own => {
            said.push(format!("not tried again: {}", trace.errors.trim_end()));
        }
        Ok(false) => {}
        Err(why) if target.is_own => said.push(why),
        Err(_) => {}
    }
    said.extend(container.remove());
    reached
}

/// What a command that says it succeeded has not done.
fn unfinished(container: &Container<'_>, verb: Verb, failed: &Call) -> Option<String> {
    let expected = match verb {
        Verb::Create => Some("created"),
        Verb::Start | Verb::Exec | Verb::Kill => Some("running"),
        Verb::Delete | Verb::Run => None,
    };
    let status = container.status();
    // A created process that fails while nobody waits for it any more: the start has to say so.
    if verb == Verb::Create && failed.process > 0 && status.as_deref() == Some("stopped") {
        let start = container.run(Verb::Start);
        let said = String::from_utf8_lossy(&start.stderr);
        let is_clean = said.starts_with("vaquita-oci: ") && said.lines().count() == 1;
        return (start.status.success() || !is_clean).then(|| format!("started though it has ended: {said}"));
    }
    (status.as_deref() != expected).then(|| format!("succeeded, but the container is {status:?}"))
}

/// Calls that a signal can interrupt, which is no reason to give up.
const RESTARTABLE: [i64; 21] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_flock,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
];
