//! The connection against a peer in the test that says what it should, or should not.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::JoinHandle;

use super::*;

/// A peer that answers the handshake and then plays a part.
fn peer(
    greeting: &'static [u8],
    part: impl FnOnce(&mut UnixStream) + Send + 'static,
) -> (Bus, JoinHandle<()>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("private");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 27];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN");
        stream.read_exact(&mut [0; 2]).unwrap();
        stream.write_all(greeting).unwrap();
        part(&mut stream);
    });
    (Bus::Private(path), thread, dir)
}

const WELCOME: &[u8] = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n";

/// Reads a call and gives its header.
fn call(stream: &mut UnixStream) -> Header {
    let mut message = vec![0; 16];
    stream.read_exact(&mut message).unwrap();
    message.resize(wire::length(&message).unwrap().unwrap(), 0);
    stream.read_exact(&mut message[16..]).unwrap();
    wire::header(&message).unwrap()
}

fn send(stream: &mut UnixStream, kind: Type, fields: &[(u8, Value)], body: &[Value]) {
    stream.write_all(&Message { kind, serial: 1, fields, body }.encode().unwrap()).unwrap();
}

fn job_removed(stream: &mut UnixStream, path: &str, job: &str, result: &str) {
    let fields = [
        (field::PATH, Value::ObjectPath(path.into())),
        (field::INTERFACE, Value::str(MANAGER)),
        (field::MEMBER, Value::str("JobRemoved")),
    ];
    let body = [Value::U32(1), Value::ObjectPath(job.into()), Value::str("a.scope"), Value::str(result)];
    send(stream, Type::Signal, &fields, &body);
}

/// Answers to other calls, signals of others and jobs of others come in between, and in pieces.
#[test]
fn only_the_own_answer_and_the_own_job_count() {
    let (bus, thread, _dir) = peer(WELCOME, |stream| {
        assert_eq!(call(stream).member, "StartTransientUnit");
        job_removed(stream, MANAGER_PATH, "/job/2", "done");
        job_removed(stream, MANAGER_PATH, "/job/1", "failed");
        job_removed(stream, "/somewhere/else", "/job/7", "failed");
        send(stream, Type::Return, &[(field::REPLY_SERIAL, Value::U32(99))], &[Value::str("wrong")]);
        let answer = Message {
            kind: Type::Return,
            serial: 2,
            fields: &[(field::REPLY_SERIAL, Value::U32(1))],
            body: &[Value::ObjectPath("/job/7".into())],
        };
        for byte in answer.encode().unwrap() {
            stream.write_all(&[byte]).unwrap();
        }
        job_removed(stream, MANAGER_PATH, "/job/7", "done");
    });
    let mut systemd = Connection::open(&bus).unwrap();
    let Answer::Values(values) = systemd.manager("StartTransientUnit", &[]).unwrap() else { panic!() };
    assert_eq!(values, [Value::ObjectPath("/job/7".into())]);
    assert_eq!(systemd.job_result("/job/7").unwrap(), "done");
    assert_eq!(systemd.job_result("/job/1").unwrap(), "failed");
    // It has hung up.
    assert!(systemd.job_result("/job/8").unwrap_err().to_string().contains("ECONNRESET"));
    thread.join().unwrap();
}

#[test]
fn errors_keep_their_names() {
    let (bus, thread, _dir) = peer(WELCOME, |stream| {
        for (serial, name) in [(1, "NoSuchUnit"), (2, "UnitExists")] {
            call(stream);
            let name = Value::Str(format!("org.freedesktop.systemd1.{name}"));
            let fields = [(field::REPLY_SERIAL, Value::U32(serial)), (field::ERROR_NAME, name)];
            send(stream, Type::Error, &fields, &[Value::str("Unit a.scope …")]);
        }
    });
    let mut systemd = Connection::open(&bus).unwrap();
    for (name, kind) in [("NoSuchUnit", Kind::NotFound), ("UnitExists", Kind::Exists)] {
        let Answer::Refused(refusal) = systemd.manager("StopUnit", &[]).unwrap() else { panic!() };
        assert!(refusal.is(name));
        let error = refusal.into_error("stop a.scope");
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().starts_with("systemd was asked to stop a.scope and said org."), "{error}");
    }
    thread.join().unwrap();
}

#[test]
fn a_peer_that_does_not_let_us_in() {
    let (bus, thread, _dir) = peer(b"REJECTED EXTERNAL\r\n", |_| {});
    let error = Connection::open(&bus).unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    thread.join().unwrap();
    let (bus, thread, _dir) = peer(b"", |stream| {
        let _ = stream.write_all(&[b'x'; 4 * MAX_LINE]);
        let _ = stream.read(&mut [0; 1]);
    });
    assert_eq!(Connection::open(&bus).unwrap_err().kind(), Kind::Invalid);
    thread.join().unwrap();
}

/// Whoever talks much, or at length, fills no memory: neither ends of jobs nor messages are kept without a bound.
#[test]
fn a_peer_that_talks_too_much() {
    let (bus, thread, _dir) = peer(WELCOME, |stream| {
        call(stream);
        let long = "x".repeat(MAX_END);
        for number in 0..3 * MAX_ENDED {
            job_removed(stream, MANAGER_PATH, &format!("/job/{number}"), "done");
            job_removed(stream, MANAGER_PATH, &format!("/job/{number}"), &long);
        }
        send(stream, Type::Return, &[(field::REPLY_SERIAL, Value::U32(1))], &[]);
        // A message that announces more than is read.
        let length = u32::try_from(wire::MAX_MESSAGE).unwrap().to_le_bytes();
        let _ = stream.write_all(&[&b"l\x04\x00\x01"[..], &length, &[1, 0, 0, 0, 0, 0, 0, 0]].concat());
        while stream.write_all(&[0; 4096]).is_ok() {}
    });
    let mut systemd = Connection::open(&bus).unwrap();
    assert!(matches!(systemd.manager("StartTransientUnit", &[]).unwrap(), Answer::Values(_)));
    assert_eq!(systemd.ended.len(), MAX_ENDED);
    assert!(systemd.ended.iter().all(|(job, result)| job.len() + result.len() <= MAX_END));
    // The newest are those that are kept.
    let newest = format!("/job/{}", 3 * MAX_ENDED - 1);
    assert_eq!(systemd.job_result(&newest).unwrap(), "done");
    let error = systemd.job_result("/job/none").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(systemd.input.len() <= wire::MAX_MESSAGE, "{}", systemd.input.len());
    drop(systemd);
    thread.join().unwrap();
}

/// Neither silence, nor endless talk about something else, holds a command up for ever.
#[test]
fn a_peer_that_never_answers() {
    let (bus, thread, _dir) = peer(WELCOME, |stream| {
        call(stream);
        while stream.write_all(b"l\x04\x00\x01\0\0\0\0\x01\0\0\0\0\0\0\0").is_ok() {}
    });
    let mut systemd = Connection::open_within(&bus, Duration::from_secs(2)).unwrap();
    let error = systemd.manager("StopUnit", &[]).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    drop(systemd);
    thread.join().unwrap();
    let (bus, thread, _dir) = peer(b"", |stream| {
        let _ = stream.read(&mut [0; 1]);
    });
    let error = Connection::open_within(&bus, Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
    thread.join().unwrap();
}

#[test]
fn nobody_there() {
    let dir = tempfile::tempdir().unwrap();
    let error = Connection::open(&Bus::Private(dir.path().join("none"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("which the systemd cgroup driver needs"), "{error}");
}
