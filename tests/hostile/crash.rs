//! The runtime is killed before each of its system calls. Afterwards the container can be deleted by force and nothing is
//! left of it, and until then its state is told as it is.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use vaquita_testing::trace::{End, Verdict};

use crate::scene::{Scene, Verb, in_parallel, name};

#[test]
fn a_create_may_be_killed_anywhere() {
    killed(Verb::Create);
}

#[test]
fn a_start_may_be_killed_anywhere() {
    killed(Verb::Start);
}

#[test]
fn an_exec_may_be_killed_anywhere() {
    killed(Verb::Exec);
}

#[test]
fn a_delete_may_be_killed_anywhere() {
    killed(Verb::Delete);
}

fn killed(verb: Verb) {
    let scene = Scene::new();
    let ready = || {
        let container = scene.container();
        if verb != Verb::Create {
            container.must(Verb::Create);
        }
        if matches!(verb, Verb::Exec | Verb::Delete) {
            container.must(Verb::Start);
        }
        container
    };
    let mut calls = Vec::new();
    let trace = ready().traced(verb, |call| {
        if call.process == 0 {
            calls.push(call.number);
        }
        Verdict::Make
    });
    assert_eq!(trace.end, End::Exited(0), "{trace:?}");
    let complaints = Mutex::new(Vec::new());
    in_parallel(calls.len(), |number| {
        let mut container = ready();
        let mut was_killed = false;
        let trace = container.traced(verb, |call| {
            was_killed = (call.process, call.index) == (0, number);
            if was_killed { Verdict::Kill } else { Verdict::Make }
        });
        let mut said = Vec::new();
        if was_killed && trace.end != End::Killed(libc::SIGKILL) {
            said.push(format!("{trace:?}"));
        }
        said.extend(lies(&container, verb));
        said.extend(container.remove());
        if !said.is_empty() {
            let place = format!("before call {number}, {}", name(calls[number]));
            complaints.lock().unwrap().push(format!("{place}: {said:#?}"));
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), calls.len(), complaints.join("\n"));
}

/// What the state says that is not so, and still when it is asked again: a process may be about to end.
fn lies(container: &crate::scene::Container<'_>, verb: Verb) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let lie = lie(container, verb)?;
        if Instant::now() > deadline {
            return Some(lie);
        }
    }
}

fn lie(container: &crate::scene::Container<'_>, verb: Verb) -> Option<String> {
    let state = container.state();
    let status = state.as_ref().map(|state| state["status"].as_str().unwrap_or_default());
    let possible: &[Option<&str>] = match verb {
        Verb::Create => &[None, Some("creating"), Some("created"), Some("stopped")],
        Verb::Start => &[Some("created"), Some("running"), Some("stopped")],
        Verb::Delete => &[None, Some("running"), Some("stopped")],
        Verb::Exec | Verb::Kill | Verb::Run => &[Some("running")],
    };
    if !possible.contains(&status) {
        return Some(format!("the state says {status:?}"));
    }
    let pid = state.as_ref().and_then(|state| state["pid"].as_i64()).unwrap_or_default();
    let is_alive = pid > 0 && std::path::Path::new(&format!("/proc/{pid}/ns/mnt")).read_link().is_ok();
    let says_so = matches!(status, Some("created" | "running"));
    (is_alive != says_so)
        .then(|| format!("the state says {status:?}, and process {pid} is alive: {is_alive}"))
}
