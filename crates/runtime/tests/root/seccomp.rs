//! System calls that an agent answers for a container.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

use oci_spec::runtime::{ContainerProcessState, SECCOMP_FD_NAME, State};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use vaquita_runtime::Kind;
use vaquita_runtime::seccomp::Agent;
use vaquita_sys::process::wait_pidfd;

use crate::harness::{Bundle, marked};

/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;

/// What an agent says to a call: its number for programs, its error number, its flags.
type Answer = (i64, i32, u32);

/// An agent at a socket, which answers calls with these and then goes away; it gives back the state that it was sent, and
/// the number of each call.
fn agent(path: &PathBuf, answers: Vec<Answer>) -> JoinHandle<(ContainerProcessState, Vec<i32>)> {
    let socket = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (connection, _) = socket.accept().unwrap();
        let (mut text, mut listener) = (Vec::new(), None::<OwnedFd>);
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut buffer = [0; 64];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let received =
                rustix::net::recvmsg(&connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    fds.for_each(|fd| assert!(listener.replace(fd).is_none(), "more than one descriptor"));
                }
            }
            text.extend_from_slice(&buffer[..received.bytes]);
            if received.bytes == 0 {
                break;
            }
        }
        let listener = listener.unwrap();
        let calls = answers.into_iter().map(|answer| answer_one(&listener, answer)).collect();
        (serde_json::from_slice(&text).unwrap(), calls)
    })
}

/// `struct seccomp_notif` (linux/seccomp.h).
#[repr(C)]
#[derive(Default)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[expect(unsafe_code, reason = "an agent is another program; this one is here for the test only")]
fn answer_one(listener: &OwnedFd, (value, error, flags): Answer) -> i32 {
    let mut call = Notification::default();
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV fills a structure of this layout.
    assert_eq!(unsafe { libc::ioctl(listener.as_raw_fd(), 0xc050_2100, &raw mut call) }, 0);
    let response = Response { id: call.id, value, error: -error, flags };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads a structure of this layout.
    assert_eq!(unsafe { libc::ioctl(listener.as_raw_fd(), 0xc018_2101, &raw const response) }, 0);
    call.number
}

fn profile(listener: &PathBuf, names: &[&str]) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "listenerPath": listener,
        "listenerMetadata": "who asked",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    })
}

fn state(pid: rustix::process::Pid) -> ContainerProcessState {
    let mut state = ContainerProcessState::default();
    state.set_version("1.3.0".to_owned()).set_fds(vec![SECCOMP_FD_NAME.to_owned()]);
    state.set_pid(pid.as_raw_nonzero().get()).set_metadata(Some("who asked".to_owned()));
    state.set_state(State::default());
    state
}

#[test]
fn an_agent_answers_for_mkdir() {
    // With and without no_new_privs the filter is installed at different places.
    for no_new_privs in [true, false] {
        let dir = vaquita_testing::temp_dir();
        let path = dir.path().join("agent");
        let agent_at = agent(&path, vec![(0, 18, 0), (0, 0, 0)]);
        let mut bundle = Bundle::new("mkdirat2 /tmp/x\nmkdirat2 /tmp/y\nls /tmp\nfds\nstatus Seccomp")
            .set("/linux/seccomp", profile(&path, &["mkdir", "mkdirat"]))
            .set("/process/noNewPrivileges", json!(no_new_privs));
        let mut running = bundle.create().unwrap();
        let sent = state(running.pid);
        let agent = Agent::connect(&path).unwrap();
        running.created.take().unwrap().start_with(|listener| agent.send(listener, &sent)).unwrap();
        let outcome = running.finish();
        assert_eq!(outcome.of("mkdirat2 /tmp/x"), "EXDEV");
        // The agent said that it was made, and made nothing.
        assert_eq!(outcome.of("mkdirat2 /tmp/y"), "ok");
        assert_eq!(outcome.of("ls /tmp"), "");
        assert_eq!(outcome.of("fds"), "0 1 2");
        assert_eq!(outcome.of("status Seccomp"), "2");
        let (received, calls) = agent_at.join().unwrap();
        assert_eq!(received, sent);
        let mkdirat = i32::try_from(libc::SYS_mkdirat).unwrap();
        assert_eq!(calls, [mkdirat, mkdirat]);
    }
}

/// The listener must be there before the call that it is asked about, and that is the last one of the set-up.
#[test]
fn execve_itself_can_be_answered_and_exec_has_a_listener_too() {
    let dir = vaquita_testing::temp_dir();
    let path = dir.path().join("agent");
    let agent_at = agent(&path, vec![(0, 0, CONTINUE)]);
    let mut bundle =
        Bundle::new("ns mnt\nwait").set("/linux/seccomp", profile(&path, &["execve", "execveat"]));
    let mut running = bundle.create().unwrap();
    let first = Agent::connect(&path).unwrap();
    let pid = running.pid;
    running.created.take().unwrap().start_with(|listener| first.send(listener, &state(pid))).unwrap();
    running.read_until("ns mnt");
    agent_at.join().unwrap();

    std::fs::remove_file(&path).unwrap();
    let agent_at = agent(&path, vec![(0, 0, CONTINUE)]);
    let plan = running.exec_plan(|process| process["env"] = json!(["VAQUITA_PROBE=ids"])).unwrap();
    let (execed, mut output) = running.exec(&plan).unwrap();
    let second = Agent::connect(&path).unwrap();
    execed.started.wait_with(|listener| second.send(listener, &state(execed.pid))).unwrap();
    assert_eq!(wait_pidfd(&execed.pidfd).unwrap().code, 0);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut output, &mut text).unwrap();
    assert_eq!(marked(&text), ["ids = 0 0 []"]);
    agent_at.join().unwrap();
}

#[test]
fn a_profile_without_a_way_to_its_agent_is_refused() {
    let path = PathBuf::from("/nonexistent/agent");
    let error = Agent::connect(&path).unwrap_err();
    assert_eq!(error.kind(), Kind::Kernel(rustix::io::Errno::NOENT));
    for (pointer, value, text) in [
        ("/listenerPath", Value::Null, "linux.seccomp: listenerMetadata is given without a listenerPath"),
        ("/listenerPath", json!("relative"), "linux.seccomp: listenerPath: \"relative\" is not absolute"),
        ("/syscalls/0/names", json!(["sendmsg"]), "the call sendmsg must be allowed"),
        ("/defaultAction", json!("SCMP_ACT_ERRNO"), "the call sendmsg must be allowed"),
        ("/defaultAction", json!("SCMP_ACT_NOTIFY"), "the call sendmsg must be allowed"),
        (
            "/syscalls/0/action",
            json!("SCMP_ACT_KILL"),
            "WAIT_KILLABLE_RECV needs a call with SCMP_ACT_NOTIFY",
        ),
    ] {
        let bundle = Bundle::new("pid").set("/linux/seccomp", profile(&path, &["mkdir"]));
        let error = bundle.set(&format!("/linux/seccomp{pointer}"), value).plan().unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(text), "{error}");
    }
    // Somebody who does not know of listeners lets no profile with one pass.
    let mut bundle = Bundle::new("pid").set("/linux/seccomp", profile(&path, &["mkdir"]));
    let error = bundle.create().unwrap().start().unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let error = vaquita_runtime::Plan::new(&spec, &vaquita_runtime::Context::default()).unwrap_err();
    assert!(error.to_string().contains("this caller passes no listener on"), "{error}");
}
