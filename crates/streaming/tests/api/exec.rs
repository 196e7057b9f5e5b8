//! Processes over SPDY.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use vaquita_streaming::{Attach, Request, Wanted};

use crate::spdy::{Frame, Spdy};
use crate::support::{ALL, Running};

/// Opens streams of these kinds, and gets a reply to each.
async fn streams(spdy: &mut Spdy<TcpStream>, kinds: &[&str]) -> Vec<u32> {
    let mut all = Vec::new();
    for kind in kinds {
        let stream = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.frame().await, Some(Frame::Reply(stream)));
        all.push(stream);
    }
    all
}

const KINDS: [&str; 4] = ["error", "stdin", "stdout", "stderr"];

#[tokio::test]
async fn output_and_its_end_come_before_the_status() {
    let running = Running::new();
    for protocol in ["channel.k8s.io", "v2.channel.k8s.io", "v3.channel.k8s.io", "v4.channel.k8s.io"] {
        let mut spdy = running.spdy(&running.exec(&["both"], ALL), &[protocol]).await;
        let ids = streams(&mut spdy, &KINDS).await;
        let mut frames = Vec::new();
        while let Some(frame) = spdy.frame().await {
            frames.push(frame);
        }
        let at = |frame: &Frame| {
            frames.iter().position(|other| other == frame).unwrap_or_else(|| panic!("{frames:?}"))
        };
        let out = at(&Frame::Data(ids[2], b"out".to_vec(), false));
        let out_end = at(&Frame::Data(ids[2], Vec::new(), true));
        let err = at(&Frame::Data(ids[3], b"err".to_vec(), false));
        let err_end = at(&Frame::Data(ids[3], Vec::new(), true));
        let end = at(&Frame::Data(ids[0], Vec::new(), true));
        assert!(out < out_end && err < err_end && out_end < end && err_end < end, "{frames:?}");
        let status = Frame::Data(ids[0], br#"{"metadata":{},"status":"Success"}"#.to_vec(), false);
        assert_eq!(frames.contains(&status), protocol.starts_with("v4"), "{frames:?}");
        assert_eq!(frames.last(), Some(&Frame::GoAway));
    }
}

#[tokio::test]
async fn exit_codes_and_failures_are_told() {
    let running = Running::new();
    for (command, version, expected) in [
        (["exit", "7"], "v4.channel.k8s.io", r#"{"reason":"ExitCode","message":"7"}"#),
        (["exit", "7"], "v3.channel.k8s.io", "exit code 7"),
        (
            ["fail", "no such thing"],
            "v4.channel.k8s.io",
            r#""message":"Internal error occurred: no such thing""#,
        ),
        (["fail", "no such thing"], "v2.channel.k8s.io", "Internal error occurred: no such thing"),
    ] {
        let wanted = Wanted { stdout: true, ..Wanted::default() };
        let mut spdy = running.spdy(&running.exec(&command, wanted), &[version]).await;
        let ids = streams(&mut spdy, &["error", "stdout"]).await;
        let rest = spdy.rest().await;
        let (status, ended) = &rest[&ids[0]];
        assert!(ended);
        let status = String::from_utf8(status.clone()).unwrap();
        assert!(status.contains(expected), "{status}");
    }
}

#[tokio::test]
async fn input_ends_where_the_client_says() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.exec(&["cat"], ALL), &["v4.channel.k8s.io"]).await;
    let ids = streams(&mut spdy, &KINDS).await;
    let input: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    for part in input.chunks(7000) {
        spdy.data(ids[1], part, false).await.unwrap();
    }
    spdy.data(ids[1], &[], true).await.unwrap();
    let rest = spdy.rest().await;
    assert!(rest[&ids[2]].0 == input);
    assert!(rest[&ids[2]].1 && rest[&ids[0]].1);
}

#[tokio::test]
async fn a_terminal_has_a_size() {
    let running = Running::new();
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
    let mut spdy = running.spdy(&running.exec(&["size"], wanted), &["v4.channel.k8s.io"]).await;
    let ids = streams(&mut spdy, &["error", "stdin", "stdout", "resize"]).await;
    spdy.data(ids[3], br#"{"Width":120,"Hei"#, false).await.unwrap();
    spdy.data(ids[3], br#"ght":50}"#, false).await.unwrap();
    assert_eq!(spdy.rest().await[&ids[2]].0, b"120x50");
}

#[tokio::test]
async fn attach_is_served_in_the_same_way() {
    let running = Running::new();
    let streams_wanted = Wanted { stdout: true, ..Wanted::default() };
    let path = running.path(Request::Attach(Attach { container: "abc".into(), streams: streams_wanted }));
    assert!(path.starts_with("/attach/"), "{path}");
    let mut spdy = running.spdy(&path, &["v4.channel.k8s.io"]).await;
    let ids = streams(&mut spdy, &["error", "stdout"]).await;
    assert_eq!(spdy.rest().await[&ids[1]].0, b"abc");
}

#[tokio::test]
async fn pings_are_answered_and_what_does_not_belong_is_refused() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
    streams(&mut spdy, &["error", "stdin", "stdout"]).await;
    for kind in ["stdout", "resize"] {
        let twice = spdy.open(&[("streamtype", kind)]).await;
        assert_eq!(spdy.frame().await, Some(Frame::Reset(twice, 3)));
    }
    let unknown = spdy.open(&[("streamtype", "video")]).await;
    assert_eq!(spdy.frame().await, Some(Frame::Reset(unknown, 1)));
    // Refused headers are part of what later ones are compressed with.
    streams(&mut spdy, &["stderr"]).await;
    spdy.control(6, &8_u32.to_be_bytes()).await;
    spdy.control(6, &9_u32.to_be_bytes()).await;
    assert_eq!(spdy.frame().await, Some(Frame::Ping(9)));
    drop(spdy);
    running.someone_left().await;
}

#[tokio::test]
async fn a_client_that_goes_is_noticed() {
    let running = Running::new();
    for command in ["sleep", "yes"] {
        let mut spdy = running.spdy(&running.exec(&[command], ALL), &["v4.channel.k8s.io"]).await;
        streams(&mut spdy, &KINDS).await;
        drop(spdy);
        running.someone_left().await;
    }
    assert_eq!(running.backend.abandoned.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_process_that_wants_no_more_input_stops_the_client() {
    let running = Running::new();
    let mut spdy = running.spdy(&running.exec(&["close-stdin"], ALL), &["v4.channel.k8s.io"]).await;
    let ids = streams(&mut spdy, &KINDS).await;
    loop {
        spdy.data(ids[1], b"more", false).await.unwrap();
        let soon = tokio::time::timeout(std::time::Duration::from_millis(10), spdy.frame());
        if let Ok(frame) = soon.await {
            assert_eq!(frame, Some(Frame::Data(ids[1], Vec::new(), true)));
            break;
        }
    }
    // Whatever is still on its way does no harm.
    spdy.data(ids[1], &[0; 1 << 20], false).await.unwrap();
    spdy.control(6, &1_u32.to_be_bytes()).await;
    assert_eq!(spdy.frame().await, Some(Frame::Ping(1)));
}

#[tokio::test]
async fn malformed_frames_end_the_session() {
    let running = Running::new();
    for nonsense in [
        &[0x80, 9, 0, 1, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff],
        &[0x80, 3, 0, 1, 0, 0, 0, 2, 1, 2],
        &[0x80, 3, 0, 8, 0, 0, 0, 12, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
        streams(&mut spdy, &KINDS).await;
        spdy.socket.write_all(nonsense).await.unwrap();
        assert_eq!(spdy.frame().await, None);
        running.someone_left().await;
    }
    for number in [2, 7] {
        let mut spdy = running.spdy(&running.exec(&["sleep"], ALL), &["v4.channel.k8s.io"]).await;
        streams(&mut spdy, &KINDS).await;
        spdy.open_as(number, &[("streamtype", "stdin")]).await;
        assert_eq!(spdy.frame().await, None);
        running.someone_left().await;
    }
}
