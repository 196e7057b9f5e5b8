//! Older kernels: what has a fallback may be missing. Each is then answered `ENOSYS`, alone and all together.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vaquita_testing::trace::Verdict;

use crate::scene::{Scene, Verb, judge, name};

/// Calls for which there is another way.
const REPLACEABLE: [i64; 7] = [
    libc::SYS_clone3,
    libc::SYS_close_range,
    libc::SYS_fsopen,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_openat2,
];

#[test]
fn a_container_lives_without_each_newer_call() {
    for number in REPLACEABLE {
        live_without(&[number]);
    }
}

#[test]
fn a_container_lives_without_all_newer_calls() {
    live_without(&REPLACEABLE);
}

/// There is no other way to mean a process and never another.
#[test]
fn without_pidfd_open_there_is_an_error_that_names_it() {
    let scene = Scene::new();
    let mut container = scene.container();
    container.must(Verb::Create);
    for verb in [Verb::Start, Verb::Kill] {
        let trace = container.traced(verb, without(&[libc::SYS_pidfd_open]));
        assert_eq!(judge(&trace), Ok(false), "{trace:?}");
        assert!(trace.errors.contains("pidfd_open"), "{}", trace.errors);
        assert_eq!(container.status().as_deref(), Some("created"));
    }
    assert_eq!(container.remove(), Vec::<String>::new());
}

fn live_without(numbers: &[i64]) {
    limit_numbers();
    let names: Vec<_> = numbers.iter().map(|number| name(*number)).collect();
    let scene = Scene::new();
    let mut container = scene.container();
    for verb in [Verb::Create, Verb::Start, Verb::Exec, Verb::Kill, Verb::Delete] {
        let trace = container.traced(verb, without(numbers));
        assert_eq!(judge(&trace), Ok(true), "{verb:?} without {names:?}: {trace:?}");
    }
    assert_eq!(container.remove(), Vec::<String>::new(), "without {names:?}");
}

/// Lowers the limit of open files for all tests of this program: without close_range(2) each number up to it is closed, each of
/// them a stop for the tracer, and some hosts allow a million.
fn limit_numbers() {
    const ENOUGH: u64 = 1024;
    let limit = getrlimit(Resource::Nofile);
    let lower = |value: Option<u64>| Some(value.unwrap_or(ENOUGH).min(ENOUGH));
    let lowered = Rlimit { current: lower(limit.current), maximum: lower(limit.maximum) };
    setrlimit(Resource::Nofile, lowered).unwrap();
}

/// What a kernel answers that lacks these calls.
pub(crate) fn without(numbers: &[i64]) -> impl FnMut(&vaquita_testing::trace::Call) -> Verdict {
    move |call| if numbers.contains(&call.number) { Verdict::Fail(Errno::NOSYS) } else { Verdict::Make }
}
