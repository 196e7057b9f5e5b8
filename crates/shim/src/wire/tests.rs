use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::io::Errno;

use super::*;
use crate::{ContainerState, Exit, IdMap, Namespaces, OciRuntime, SandboxState, Status};

proptest! {
    #[test]
    fn requests_survive_the_wire(request in request(), number: u32) {
        let OwnedRequest { container, exec_id, process, make } = &request;
        let request = make(container, exec_id, process);
        let body = request.encode();
        let header = Header { code: request.code(), fds: request.fds() as u8, number, spilled: false };
        let packet = [&header.encode()[..], &body].concat();
        let (again, body) = Header::decode(&packet).unwrap();
        prop_assert_eq!(again, header);
        prop_assert_eq!(Request::decode(again, body).unwrap(), request.clone());
        for end in 0..body.len() {
            prop_assert!(Request::decode(again, &body[..end]).is_err());
        }
        // A sandbox may come with its network.
        let too_many = if matches!(request, Request::CreateSandbox(_)) { 2 } else { 1 };
        let wrong = Header { fds: (header.fds + too_many) % 9, ..header };
        prop_assert!(Request::decode(wrong, body).is_err());
    }

    #[test]
    fn responses_survive_the_wire(response in response()) {
        let header = Header { code: response.code(), fds: 0, number: 7, spilled: false };
        let body = response.encode();
        prop_assert_eq!(Response::decode(header, &body).unwrap(), response);
        for end in 0..body.len() {
            prop_assert!(Response::decode(header, &body[..end]).is_err());
        }
    }

    #[test]
    fn events_survive_the_wire(id in text(), exec_id in option::of(text()), exit in exit_strategy()) {
        let exited = Exited { id, exec_id, exit };
        let header = Header { code: EXITED, fds: 0, number: 0, spilled: false };
        prop_assert!(is_event(header));
        let body = encode_exited(&exited);
        prop_assert_eq!(decode_event(header, &body).unwrap(), Event::Exited(exited));
    }

    #[test]
    fn garbage_never_panics(packet in vec(any::<u8>(), 0..200), code in prop_oneof![0u8..18, 0x80u8..0x88, 0xc0u8..0xc4]) {
        let _ = Header::decode(&packet);
        for fds in 0..4 {
            let header = Header { code, fds, number: 0, spilled: false };
            let _ = Request::decode(header, &packet);
            let _ = Response::decode(header, &packet);
            let _ = decode_event(header, &packet);
        }
    }

    #[test]
    fn a_flipped_byte_never_panics(state in pod_state_strategy(), at: prop::sample::Index, with: u8) {
        let mut body = Response::State(state).encode();
        let at = at.index(body.len());
        body[at] ^= with;
        let _ = Response::decode(Header { code: 0x84, fds: 0, number: 0, spilled: false }, &body);
    }
}

#[test]
fn other_versions_and_flags_are_refused() {
    let good = Header { code: 1, fds: 3, number: 9, spilled: true }.encode();
    assert!(Header::decode(&good).unwrap().0.spilled);
    for (at, value) in [(0, 0), (0, 2), (2, 2), (3, 9)] {
        let mut bad = good;
        bad[at] = value;
        assert!(Header::decode(&bad).is_err(), "byte {at} = {value}");
    }
    assert!(Header::decode(&good[..7]).is_err());
    assert!(Header::decode(&[&good[..], b"x"].concat()).is_err());
}

#[test]
fn declared_lengths_allocate_nothing() {
    let header = Header { code: 0x84, fds: 0, number: 0, spilled: false };
    let body = [&[0][..], &4096u32.to_le_bytes()].concat();
    assert_eq!(Response::decode(header, &body), Err(Malformed("cut off")));
    let body = [&[0][..], &u32::MAX.to_le_bytes()].concat();
    assert_eq!(Response::decode(header, &body), Err(Malformed("a length beyond its limit")));
}

#[test]
fn a_long_error_is_cut_at_a_character() {
    let error = Error::new(Kind::Invalid, "ü".repeat(MAX_TEXT));
    let failure = Failure::from(&error);
    assert!(failure.message.len() <= MAX_TEXT);
    let header = Header { code: 0x82, fds: 0, number: 0, spilled: false };
    let response = Response::Failed(failure);
    assert_eq!(Response::decode(header, &response.encode()).unwrap(), response);
}

/// A request borrows its strings, a strategy has to own them.
#[derive(Clone)]
struct OwnedRequest {
    container: String,
    exec_id: String,
    process: Vec<u8>,
    #[expect(clippy::type_complexity, reason = "it is written once")]
    make: std::rc::Rc<dyn for<'a> Fn(&'a str, &'a str, &'a [u8]) -> Request<'a>>,
}

impl std::fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (self.make)(&self.container, &self.exec_id, &self.process).fmt(f)
    }
}

fn request() -> impl Strategy<Value = OwnedRequest> {
    let kind = (0..15u8, any::<i32>(), any::<[bool; 3]>(), sandbox_strategy(), create_strategy());
    (text(), text(), vec(any::<u8>(), 0..300), kind).prop_map(
        |(container, exec_id, process, (kind, signal, stdio, sandbox, create))| {
            fn make_request<'a>(
                kind: u8,
                container: &'a str,
                exec_id: &'a str,
                process: &'a [u8],
            ) -> Option<Request<'a>> {
                Some(match kind {
                    2 => Request::Start(container),
                    4 => Request::Exec { container, exec_id, stdio: [false; 3], process },
                    5 => Request::KillExec { container, exec_id },
                    6 => Request::Delete(container),
                    7 => Request::DeleteSandbox,
                    8 => Request::ReopenLog(container),
                    9 => Request::State,
                    10 => Request::Netns,
                    11 => Request::Shutdown,
                    13 => Request::Resize { id: container, width: process.len() as u16, height: 24 },
                    14 => Request::Userns,
                    _ => return None,
                })
            }
            let attach = AttachRequest {
                container: container.clone(),
                stdin: stdio[0],
                stdout: stdio[1],
                stderr: stdio[2],
            };
            let scope = if stdio[0] { SignalScope::All } else { SignalScope::Init };
            OwnedRequest {
                container,
                exec_id,
                process,
                make: std::rc::Rc::new(move |id, exec_id, process| {
                    match make_request(kind, id, exec_id, process) {
                        Some(Request::Exec { container, exec_id, process, .. }) => {
                            Request::Exec { container, exec_id, stdio, process }
                        }
                        Some(request) => request,
                        None if kind == 0 => Request::CreateSandbox(sandbox.clone()),
                        None if kind == 1 => Request::Create(create.clone()),
                        None if kind == 12 => Request::Attach(attach.clone()),
                        None => Request::Signal { id, signal, scope },
                    }
                }),
            }
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    prop_oneof![
        Just(Response::Done),
        any::<i32>().prop_map(|pid| Response::Process { pid }),
        (kind_strategy(), ".{0,200}").prop_map(|(kind, message)| Response::Failed(Failure { kind, message })),
        pod_state_strategy().prop_map(Response::State),
        any::<[bool; 3]>().prop_map(|present| Response::Attached { present }),
    ]
}

fn kind_strategy() -> impl Strategy<Value = Kind> {
    prop_oneof![
        (1..134i32).prop_map(|errno| Kind::Kernel(Errno::from_raw_os_error(errno))),
        (1..134i32).prop_map(|errno| Kind::Exec(Errno::from_raw_os_error(errno))),
        prop::sample::select(vec![
            Kind::Busy,
            Kind::Corrupt,
            Kind::Denied,
            Kind::Exists,
            Kind::Hook,
            Kind::Invalid,
            Kind::NotFound,
            Kind::State,
            Kind::Timeout,
            Kind::Unavailable,
            Kind::Unsupported,
        ]),
    ]
}

fn text() -> impl Strategy<Value = String> {
    ".{0,60}"
}

fn path_strategy() -> impl Strategy<Value = PathBuf> {
    vec(1u8.., 0..60).prop_map(|bytes| std::ffi::OsStr::from_bytes(&bytes).into())
}

fn namespaces_strategy() -> impl Strategy<Value = Namespaces> {
    any::<[bool; 5]>().prop_map(|[ipc, net, pid, user, uts]| Namespaces { ipc, net, pid, user, uts })
}

fn sandbox_strategy() -> impl Strategy<Value = SandboxRequest> {
    let sysctls = vec((text(), text()), 0..4);
    let maps = || {
        let map = any::<[u32; 3]>();
        vec(map.prop_map(|[inside, outside, length]| IdMap { inside, outside, length }), 0..3)
    };
    let names = (text(), text(), path_strategy(), text(), text(), text());
    (names, namespaces_strategy(), sysctls, any::<(u32, u32, Option<i32>, bool)>(), maps(), maps()).prop_map(
        |(names, new, sysctls, (uid, gid, oom_score_adj, restrict_oom_score_adj), uid_maps, gid_maps)| {
            let (id, hostname, cgroup, apparmor, selinux, mount_label) = names;
            SandboxRequest {
                id,
                hostname,
                new,
                cgroup,
                sysctls,
                uid,
                gid,
                apparmor,
                selinux,
                mount_label,
                oom_score_adj,
                restrict_oom_score_adj,
                uid_maps,
                gid_maps,
            }
        },
    )
}

fn create_strategy() -> impl Strategy<Value = CreateRequest> {
    let paths = (path_strategy(), path_strategy(), option::of(path_strategy()));
    let runtime = (path_strategy(), any::<bool>())
        .prop_map(|(program, systemd_cgroup)| OciRuntime { program, systemd_cgroup });
    let later = (option::of(runtime), prop_oneof![Just(0), any::<u64>()], any::<bool>());
    (text(), paths, any::<[bool; 4]>(), namespaces_strategy(), later).prop_map(
        |(
            id,
            (bundle, cgroup, log_path),
            [stdin, stdin_once, tty, restrict_oom_score_adj],
            join,
            (runtime, log_limit, has_late_work),
        )| {
            CreateRequest {
                id,
                bundle,
                cgroup,
                log_path,
                stdin,
                stdin_once,
                tty,
                join,
                restrict_oom_score_adj,
                log_limit,
                runtime,
                has_late_work,
            }
        },
    )
}

fn exit_strategy() -> impl Strategy<Value = Exit> {
    any::<(i32, Option<i32>, bool, i64, i64)>().prop_map(
        |(code, signal, oom, started_at_ns, finished_at_ns)| Exit {
            code,
            signal,
            oom,
            started_at_ns,
            finished_at_ns,
        },
    )
}

fn pod_state_strategy() -> impl Strategy<Value = PodState> {
    let sandbox = (text(), any::<(i32, bool, i64)>())
        .prop_map(|(id, (pid, running, created_at_ns))| SandboxState { id, pid, running, created_at_ns });
    let status = prop::sample::select(vec![Status::Created, Status::Running, Status::Stopped]);
    let execs = vec(text(), 0..3);
    let container = (text(), status, any::<(i32, i64, i64, u64)>(), option::of(exit_strategy()), execs)
        .prop_map(|(id, status, (pid, created_at_ns, started_at_ns, log_lost_bytes), exit, execs)| {
            ContainerState { id, status, pid, created_at_ns, started_at_ns, exit, execs, log_lost_bytes }
        });
    (option::of(sandbox), vec(container, 0..4))
        .prop_map(|(sandbox, containers)| PodState { sandbox, containers })
}
