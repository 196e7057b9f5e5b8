//! Clients that vanish, shims that die.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use vaquita_shim::client::{Client, Spawner};
use vaquita_shim::wire::{Header, Request, Response};
use vaquita_shim::{Event, Kind, SignalScope, Status};
use vaquita_sys::signal::{Signal, send_to_pid};

use crate::support::{PROGRAM, Pod, scratch, shim_of, until};

#[tokio::test]
async fn a_new_client_finds_everything() {
    let mut pod = Pod::new().await;
    let created = pod.run("c", &["sleep"]).await;
    let other = Client::connect(&pod.dir()).await.unwrap();
    let mut other_events = other.events();
    assert_eq!(other.state().await.unwrap(), pod.client.state().await.unwrap());

    // The first one goes, in the middle of something.
    let (client, events) = (other.clone(), other.events());
    drop(std::mem::replace(&mut pod.client, client));
    drop(std::mem::replace(&mut pod.events, events));
    let state = other.state().await.unwrap();
    assert_eq!((state.containers[0].status, state.containers[0].pid), (Status::Running, created.pid));
    other.signal("c", 9, SignalScope::Init).await.unwrap();
    assert!(matches!(other_events.recv().await, Some(Event::Exited(exited)) if exited.id == "c"));
    assert_eq!(pod.exit_of("c").await.signal, Some(9));
    other.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn an_exit_without_a_client_is_kept() {
    let mut pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let dir = pod.dir();
    let lonely = Client::connect(&dir).await.unwrap();
    lonely.signal("c", 9, SignalScope::Init).await.unwrap();
    let bundle = pod.bundle("c");
    drop(lonely);
    until("the exit is recorded", || bundle.join("exit.json").exists()).await;
    let client = Client::connect(&dir).await.unwrap();
    let state = client.state().await.unwrap();
    assert_eq!(state.containers[0].exit.as_ref().unwrap().signal, Some(9));
    pod.client = client;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_given_up_does_no_harm() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    for _ in 0..100 {
        let call = pod.client.state();
        // Polled once: sent, and never listened to.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, call).await;
    }
    {
        let delete = pod.client.delete("c");
        let _ = tokio::time::timeout(std::time::Duration::ZERO, delete).await;
    }
    pod.client.delete("c").await.unwrap();
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_client_killed_in_the_middle_is_not_missed() {
    let mut pod = Pod::new().await;
    let mut child = Command::new(PROGRAM)
        .args(["client", pod.dir().to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 10]).unwrap();
    pod.run("c", &["lines", "100000", "60", "10"]).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(pod.exit_of("c").await.code, 0);
    assert_eq!(pod.log("c").len(), 100_000);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let pod = Pod::new().await;
    let socket = connect_raw(&pod);
    // More answers than its socket and its queue hold.
    let mut sent = 0;
    let cut_off = loop {
        match send_raw(&socket, &Request::State, sent + 1) {
            Ok(()) => sent += 1,
            Err(errno) => break errno,
        }
        assert!(sent < 1_000_000, "the shim keeps everything that nobody reads");
    };
    assert!(matches!(cut_off, Errno::PIPE | Errno::CONNRESET), "{cut_off}");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_nothing_else() {
    let pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let no_header: &[u8] = b"nonsense";
    let no_request = Header { code: 0x7f, fds: 0, number: 1, spilled: false }.encode();
    let no_memfd = Header { code: 5, fds: 0, number: 1, spilled: true }.encode();
    let mut answer = [0; 1024];
    for nonsense in [no_header, &no_memfd, &[0; 64], &[255; 40_000]] {
        let socket = connect_raw(&pod);
        rustix::net::send(&socket, nonsense, SendFlags::NOSIGNAL).unwrap();
        // The end of the connection, not an answer.
        let received = rustix::net::recv(&socket, &mut answer, RecvFlags::empty());
        assert!(matches!(received, Ok((_, 0)) | Err(Errno::CONNRESET)), "{received:?}");
    }
    // A request that this version does not know is answered.
    let socket = connect_raw(&pod);
    rustix::net::send(&socket, &no_request, SendFlags::NOSIGNAL).unwrap();
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty()).unwrap();
    let (header, body) = Header::decode(&answer[..length]).unwrap();
    assert!(matches!(Response::decode(header, body).unwrap(), Response::Failed(_)));
    assert_eq!(pod.client.state().await.unwrap().containers.len(), 1);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_during_a_creation_leaves_a_container_for_the_next() {
    let pod = Pod::new().await;
    let other = Client::connect(&pod.dir()).await.unwrap();
    {
        // Sent, and given up before the answer can be there.
        let create = pod.container("c", &["sleep"]).create();
        let _ = tokio::time::timeout(std::time::Duration::ZERO, create).await;
    }
    drop(other);
    // Deleting joins whatever state the creation is in.
    pod.client.delete("c").await.unwrap();
    assert!(pod.client.state().await.unwrap().containers.is_empty());
    pod.run("c", &["sleep"]).await;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_dead_shim_is_told_at_once() {
    let mut pod = Pod::new().await;
    pod.run("c", &["sleep"]).await;
    let waiting = pod.client.clone();
    send_to_pid(pod.shim(), Signal::KILL).unwrap();
    while let Some(event) = pod.events.recv().await {
        assert_eq!(event, Event::Lost);
    }
    assert!(waiting.is_lost());
    assert_eq!(waiting.state().await.unwrap_err().kind(), Kind::Unavailable);
    // Its name is still there, and nobody behind it, although the containers live.
    // While the kernel closes one socket of it after the other, a connection can still be had, and is lost at once.
    let error = match Client::connect(&pod.dir()).await {
        Ok(client) => client.state().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.kind(), Kind::Unavailable);
    let dir = pod.dir();
    until("the shim is gone", || shim_of(&dir).is_none()).await;
    assert_eq!(Client::connect(&dir).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(pod.dir().join("shim.json").exists());
}

#[tokio::test]
async fn a_created_container_does_not_keep_the_socket_of_a_dead_shim() {
    let pod = Pod::new().await;
    pod.container("c", &["sleep"]).create().await.unwrap();
    send_to_pid(pod.shim(), Signal::KILL).unwrap();
    let dir = pod.dir();
    until("the shim is gone", || shim_of(&dir).is_none()).await;
    assert_eq!(Client::connect(&dir).await.unwrap_err().kind(), Kind::Unavailable);
}

#[tokio::test]
async fn signals_mean_nothing_to_it() {
    let pod = Pod::new().await;
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE, Signal::USR1, Signal::QUIT] {
        send_to_pid(pod.shim(), signal).unwrap();
    }
    pod.client.state().await.unwrap();
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn one_directory_has_one_shim() {
    let pod = Pod::empty().await;
    let spawner = Spawner::new(std::fs::File::open(PROGRAM).unwrap().into());
    assert_eq!(spawner.spawn(&pod.dir()).await.unwrap_err().kind(), Kind::Exists);
    pod.client.shutdown().await.unwrap();
    assert_eq!(shim_of(&pod.dir()), None);
    assert_eq!(Client::connect(&pod.dir()).await.unwrap_err().kind(), Kind::NotFound);
    let again = spawner.spawn(&pod.dir()).await.unwrap();
    again.state().await.unwrap();
    let second = shim_of(&pod.dir()).unwrap();
    again.shutdown().await.unwrap();
    until("it is reaped", || !Path::new(&format!("/proc/{second}")).exists()).await;
}

#[tokio::test]
async fn shims_are_copies_of_one_process() {
    let dir = scratch();
    let pods: Vec<_> = ["a", "b", "c"].map(|name| dir.path().join(name)).to_vec();
    let spawner = Spawner::new(std::fs::File::open(PROGRAM).unwrap().into());
    let mut clients = Vec::new();
    for (at, pod) in pods.iter().enumerate() {
        std::fs::create_dir(pod).unwrap();
        let client = spawner.spawn(pod).await.unwrap();
        client.state().await.unwrap();
        clients.push(client);
        if at == 1 {
            // It is not missed.
            let template = parent(shim_of(pod).unwrap());
            assert_eq!(parent(shim_of(&pods[0]).unwrap()), template);
            assert!(line(template).starts_with("vaquita-shim\0template "), "{:?}", line(template));
            send_to_pid(template, Signal::KILL).unwrap();
            until("it is reaped", || !Path::new(&format!("/proc/{template}")).exists()).await;
        }
    }
    for (pod, client) in pods.iter().zip(&clients) {
        client.state().await.unwrap();
        let words = line(shim_of(pod).unwrap());
        assert_eq!(words.trim_end_matches('\0'), format!("vaquita-shim\0{}", pod.display()));
    }
    let template = parent(shim_of(&pods[2]).unwrap());
    assert!(line(template).starts_with("vaquita-shim\0template "), "another one");
    clients[2].shutdown().await.unwrap();
    drop(spawner);
    until("it ends with its maker", || !Path::new(&format!("/proc/{template}")).exists()).await;
    for client in &clients[..2] {
        client.shutdown().await.unwrap();
    }
}

fn line(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap()
}

fn parent(pid: i32) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_directory_without_a_shim_is_told_at_once() {
    let dir = scratch();
    assert_eq!(Client::connect(dir.path()).await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(Client::connect(&dir.path().join("none")).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn an_executable_that_cannot_be_is_an_error() {
    let dir = scratch();
    let spawner = Spawner::new(std::fs::File::open("/dev/null").unwrap().into());
    let error = spawner.spawn(dir.path()).await.unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ACCESS), "{error}");
    assert_eq!(Client::connect(dir.path()).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test]
async fn the_shim_stays_small() {
    let mut pod = Pod::new().await;
    let before = private_kib(pod.shim());
    for at in 0..10 {
        pod.run_to_end(&format!("c{at}"), &["lines", "10000", "99", "100"]).await;
        pod.client.delete(&format!("c{at}")).await.unwrap();
    }
    let pid = pod.shim();
    // Buffers go back once the output has stopped.
    until("memory goes back", || private_kib(pid) <= before + 64).await;
    assert!(before <= 256, "the shim of a new pod has {before} KiB of its own");
    pod.client.delete_sandbox().await.unwrap();
}

fn connect_raw(pod: &Pod) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let address = SocketAddrUnix::new(pod.dir().join("shim.sock")).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    socket
}

fn send_raw(socket: &OwnedFd, request: &Request<'_>, number: u32) -> Result<(), Errno> {
    let header = Header { code: request.code(), fds: 0, number, spilled: false };
    let packet = [&header.encode()[..], &request.encode()].concat();
    rustix::net::send(socket, &packet, SendFlags::NOSIGNAL).map(drop)
}

/// Memory of the process that is no file's, in KiB. (The program's own pages count as dirty until the kernel has written what the
/// linker wrote.)
fn private_kib(pid: i32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    own.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}
