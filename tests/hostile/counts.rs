//! How many system calls and processes a command takes. More than today is an error: what is needed more says so here.

use std::collections::BTreeMap;

use vaquita_testing::trace::Verdict;

use crate::scene::{Scene, Verb, judge, name};

/// System calls, those of the container's first process until it executes its program among them, and processes. Reads of one
/// file after another count as one.
const LIMITS: [(Verb, usize, usize); 5] = [
    (Verb::Create, 605, 2),
    (Verb::Start, 176, 2),
    (Verb::Exec, 410, 2),
    (Verb::Delete, 236, 1),
    (Verb::Run, 770, 2),
];

const F_GETFD: u64 = 1;

#[test]
fn commands_take_no_more_calls_and_processes_than_they_did() {
    let scene = Scene::new();
    // It makes what all of them share, and keeps it: the cgroup above theirs, and mount points.
    let first = scene.container();
    first.must(Verb::Create);
    let mut container = scene.container();
    let mut other =
        scene.container_with(|config| config["process"]["args"] = serde_json::json!(["/bin/true"]));
    let mut complaints = Vec::new();
    for (verb, most, most_processes) in LIMITS {
        let mut calls: BTreeMap<(usize, String), usize> = BTreeMap::new();
        let mut processes = 0;
        let mut last_read = None;
        let container = if verb == Verb::Run { &mut other } else { &mut container };
        let trace = container.traced(verb, |call| {
            // How many reads it takes to get to the end of mountinfo is up to the host.
            let read = (call.number == libc::SYS_read).then_some((call.process, call.arguments[0]));
            let goes_on = read.is_some() && read == last_read;
            last_read = read;
            // Of a build with debug assertions: it asks about each descriptor that it closes.
            if (call.number, call.arguments[1]) != (libc::SYS_fcntl, F_GETFD) && !goes_on {
                *calls.entry((call.process, name(call.number))).or_default() += 1;
            }
            processes = processes.max(call.process + 1);
            Verdict::Make
        });
        assert_eq!(judge(&trace), Ok(true), "{verb:?}: {trace:?}");
        let count: usize = calls.values().sum();
        println!("{verb:?}: {count} system calls, {processes} processes");
        if count > most || processes > most_processes {
            complaints.push(format!(
                "{verb:?}: {count} system calls of at most {most}, {processes} processes of at most \
                 {most_processes}: {calls:?}"
            ));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
