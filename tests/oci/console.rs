//! Terminals: with a client of the console socket, and in the foreground.

use std::fs::File;
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::json;

use super::bundle::Bundle;

/// What a client of `--console-socket` or `--pidfd-socket` gets.
fn receive(listener: &UnixListener) -> (OwnedFd, String) {
    let (socket, _) = listener.accept().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let length = recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (fd.unwrap(), String::from_utf8(bytes[..length].to_vec()).unwrap())
}

/// Reads until the other end is closed.
fn read_all(terminal: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut file = File::from(terminal);
    let mut buffer = [0; 1024];
    // EIO says that.
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn the_terminal_goes_to_the_console_socket() {
    let bundle = Bundle::new("tty; stty size; read line; echo \"got $line\"");
    bundle.change(|spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"height": 30, "width": 90});
    });
    assert!(bundle.bad(1, ["create", "c1"]).contains("--console-socket"));
    assert!(bundle.bad(1, ["run", "-d", "c1"]).contains("--console-socket"));
    // Of any length.
    let deep = bundle.path(&"d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    for dir in [bundle.path(""), deep] {
        let path = dir.join("s");
        let near = bundle.path("near");
        let listener = UnixListener::bind(&near).unwrap();
        std::fs::rename(&near, &path).unwrap();
        bundle.good(["create", "c1", "--console-socket", path.to_str().unwrap()]);
        let (terminal, name) = receive(&listener);
        assert!(name.starts_with("/dev/pts/"), "{name}");
        bundle.good(["start", "c1"]);
        let mut both = File::from(terminal.try_clone().unwrap());
        // What is typed while something is shown is echoed in the middle of it.
        let mut shown = [0; "/dev/pts/0\r\n30 90\r\n".len()];
        both.read_exact(&mut shown).unwrap();
        assert_eq!(str::from_utf8(&shown), Ok("/dev/pts/0\r\n30 90\r\n"));
        both.write_all(b"typed\n").unwrap();
        assert_eq!(read_all(terminal), "typed\r\ngot typed\r\n");
        bundle.await_status("c1", "stopped");
        bundle.good(["delete", "c1"]);
    }
}

#[test]
fn a_console_socket_without_a_terminal_is_an_error() {
    let bundle = Bundle::new("exit 0");
    let path = bundle.path("socket");
    let path = path.to_str().unwrap();
    assert!(
        bundle.bad(1, ["create", "c1", "--console-socket", path]).contains("process.terminal is not set")
    );
    bundle.change(|spec| spec["process"]["terminal"] = json!(true));
    let said = bundle.bad(1, ["create", "c1", "--console-socket", path]);
    assert!(said.contains("--console-socket") && said.contains("No such file or directory"), "{said}");
}

#[test]
fn a_process_with_a_terminal_in_a_running_container() {
    let bundle = Bundle::new("exec sleep 1000");
    bundle.good(["run", "-d", "c1"]);
    let path = bundle.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.good([
        "exec",
        "-d",
        "-t",
        "--console-socket",
        path.to_str().unwrap(),
        "c1",
        "sh",
        "-c",
        "tty; exit 1",
    ]);
    assert_eq!(read_all(receive(&listener).0), "/dev/pts/0\r\n");
    // In the foreground: what is typed here is typed there, and its end is an end there.
    let mut child = bundle
        .command(["exec", "-t", "c1", "sh", "-c", "read a; echo \"<$a>\"; cat; exit 5"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"one\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("<one>\r\n"), "{shown:?}");
    assert_eq!(output.status.code(), Some(5));
    bundle.good(["delete", "-f", "c1"]);
}

#[test]
fn a_pidfd_goes_to_its_socket() {
    let bundle = Bundle::new("exec sleep 1000");
    let path = bundle.path("socket");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.good(["run", "-d", "c1", "--pidfd-socket", path.to_str().unwrap()]);
    let (pidfd, name) = receive(&listener);
    assert_eq!(name, "pidfd");
    let pid = vaquita_sys::process::pidfd_pid(&pidfd).unwrap().unwrap();
    assert_eq!(bundle.state("c1")["pid"], pid.as_raw_nonzero().get());
    bundle.good(["delete", "-f", "c1"]);
}
