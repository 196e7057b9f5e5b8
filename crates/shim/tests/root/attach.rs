//! Looking on at containers, and typing into them.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use vaquita_shim::client::{Attached, Client};
use vaquita_shim::{AttachRequest, Kind, Status};

use crate::support::{Pod, output, shown, until};

#[tokio::test]
async fn who_is_attached_sees_what_comes_and_the_log_has_it_all() {
    let mut pod = Pod::new().await;
    pod.container("c", &["cat"]).stdin().run().await;
    let first = attach(&pod.client, "c").await;
    write(&first.stdin, b"one\n");
    expect(&first.stdout, b"one\n").await;
    let second = attach(&pod.client, "c").await;
    write(&second.stdin, b"two\n");
    expect(&first.stdout, b"two\n").await;
    expect(&second.stdout, b"two\n").await;
    drop(first);
    // Standard input stays open although a client has gone.
    write(&second.stdin, b"three");
    expect(&second.stdout, b"three").await;
    pod.client.signal("c", 9, vaquita_shim::SignalScope::Init).await.unwrap();
    pod.exit_of("c").await;
    end(&second.stdout).await;
    end(&second.stderr).await;
    assert_eq!(shown(&pod.log("c")), ["stdout F one", "stdout F two", "stdout P three"]);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn the_streams_are_kept_apart() {
    let mut pod = Pod::new().await;
    pod.container("c", &["say", "out", "err"]).create().await.unwrap();
    let both = attach(&pod.client, "c").await;
    assert!(both.stdin.is_none(), "the container has none");
    let wanted = AttachRequest { container: "c".to_owned(), stderr: true, ..Default::default() };
    let one = pod.client.attach(&wanted).await.unwrap();
    assert!(one.stdout.is_none());
    pod.client.start("c").await.unwrap();
    pod.exit_of("c").await;
    expect(&both.stdout, b"out").await;
    expect(&both.stderr, b"err").await;
    expect(&one.stderr, b"err").await;
    for stream in [&both.stdout, &both.stderr, &one.stderr] {
        end(stream).await;
    }
    assert_eq!(pod.client.attach(&wanted).await.unwrap_err().kind(), Kind::State);
    let wanted = AttachRequest { container: "nobody".to_owned(), ..wanted };
    assert_eq!(pod.client.attach(&wanted).await.unwrap_err().kind(), Kind::NotFound);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn standard_input_ends_with_the_first_client_if_asked_for() {
    let mut pod = Pod::new().await;
    pod.container("c", &["cat"]).stdin_once().run().await;
    let onlooker = AttachRequest { container: "c".to_owned(), stdout: true, ..Default::default() };
    drop(pod.client.attach(&onlooker).await.unwrap());
    let first = attach(&pod.client, "c").await;
    assert!(attach(&pod.client, "c").await.stdin.is_none(), "it was given away");
    write(&first.stdin, b"all");
    expect(&first.stdout, b"all").await;
    drop(first.stdin);
    assert_eq!(pod.exit_of("c").await.code, 0);
    end(&first.stdout).await;
    assert_eq!(shown(&pod.log("c")), ["stdout P all"]);
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_typed_into_and_resized() {
    let mut pod = Pod::new().await;
    pod.container("c", &["sizes"]).tty().stdin_once().create().await.unwrap();
    let client = attach(&pod.client, "c").await;
    assert!(client.stderr.is_none(), "a terminal has one stream");
    pod.client.start("c").await.unwrap();
    expect(&client.stdout, b"ready\r\n").await;
    write(&client.stdin, b"a\n");
    expect(&client.stdout, b"a\r\na at 24x80\r\n").await;
    pod.client.resize("c", 132, 50).await.unwrap();
    write(&client.stdin, b"b\n");
    expect(&client.stdout, b"b\r\nb at 50x132\r\n").await;
    // It stays when the client goes, and ends when somebody types an end.
    drop(client);
    let client = attach(&pod.client, "c").await;
    write(&client.stdin, b"c\n\x04");
    assert_eq!(pod.exit_of("c").await.code, 0);
    expect(&client.stdout, b"c\r\nc at 50x132\r\n").await;
    end(&client.stdout).await;
    assert_eq!(pod.client.resize("c", 1, 1).await.unwrap_err().kind(), Kind::State);
    pod.container("d", &["sleep"]).run().await;
    assert_eq!(pod.client.resize("d", 1, 1).await.unwrap_err().kind(), Kind::Invalid);
    pod.container("e", &["sizes"]).tty().run().await;
    assert!(attach(&pod.client, "e").await.stdin.is_none(), "it was not asked for");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn who_does_not_read_holds_nobody_up() {
    let mut pod = Pod::new().await;
    pod.container("c", &["lines", "200000", "99", "650"]).create().await.unwrap();
    let sleeper = attach(&pod.client, "c").await;
    pod.client.start("c").await.unwrap();
    assert_eq!(pod.exit_of("c").await.code, 0);
    let log = output(&pod.log("c"));
    assert_eq!(log.len(), 200_000 * 100);
    let mut seen = Vec::new();
    while read(&sleeper.stdout, &mut seen) {}
    let note = seen.iter().position(|byte| *byte == b'[').unwrap_or(seen.len() + 2) - 2;
    assert!(log.starts_with(&seen[..note]), "what it gets is the beginning");
    assert!((60 * 1024..=1024 * 1024).contains(&note), "{note} bytes");
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn there_is_a_limit_and_who_goes_makes_room() {
    let mut pod = Pod::new().await;
    pod.container("c", &["cat"]).stdin().run().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(attach(&pod.client, "c").await);
    }
    let wanted = AttachRequest { container: "c".to_owned(), stdout: true, ..Default::default() };
    assert_eq!(pod.client.attach(&wanted).await.unwrap_err().kind(), Kind::Busy);
    write(&clients[0].stdin, b"x\n");
    for client in &clients {
        expect(&client.stdout, b"x\n").await;
    }
    // The container says nothing meanwhile: that they have gone is seen all the same.
    clients.truncate(8);
    for _ in 0..8 {
        clients.push(attach(&pod.client, "c").await);
    }
    pod.client.signal("c", 9, vaquita_shim::SignalScope::Init).await.unwrap();
    pod.exit_of("c").await;
    pod.client.delete_sandbox().await.unwrap();
}

#[tokio::test]
async fn a_later_daemon_attaches_again() {
    let mut pod = Pod::new().await;
    pod.container("c", &["cat"]).stdin().run().await;
    let before = attach(&pod.client, "c").await;
    write(&before.stdin, b"x\n");
    expect(&before.stdout, b"x\n").await;
    drop(before);
    pod.client = Client::connect(&pod.dir()).await.unwrap();
    let after = attach(&pod.client, "c").await;
    write(&after.stdin, b"y\n");
    expect(&after.stdout, b"y\n").await;
    assert_eq!(pod.client.state().await.unwrap().containers[0].status, Status::Running);
    pod.client.delete_sandbox().await.unwrap();
}

/// Attaches to everything there is.
async fn attach(client: &Client, id: &str) -> Attached {
    let request = AttachRequest { container: id.to_owned(), stdin: true, stdout: true, stderr: true };
    client.attach(&request).await.unwrap()
}

fn write(stdin: &Option<OwnedFd>, bytes: &[u8]) {
    assert_eq!(rustix::io::write(stdin.as_ref().unwrap(), bytes).unwrap(), bytes.len());
}

/// Waits for exactly these bytes.
async fn expect(stream: &Option<OwnedFd>, bytes: &[u8]) {
    let mut seen = Vec::new();
    until("the output is seen", || !read(stream, &mut seen) || seen.len() >= bytes.len()).await;
    assert_eq!(String::from_utf8_lossy(&seen), String::from_utf8_lossy(bytes));
}

async fn end(stream: &Option<OwnedFd>) {
    let mut seen = Vec::new();
    until("the stream ends", || !read(stream, &mut seen)).await;
    assert_eq!(String::from_utf8_lossy(&seen), "");
}

/// Reads what is there. False at the end.
fn read(stream: &Option<OwnedFd>, seen: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match rustix::io::read(stream.as_ref().unwrap(), &mut buffer) {
        Ok(0) => false,
        Ok(read) => {
            seen.extend_from_slice(&buffer[..read]);
            true
        }
        Err(Errno::AGAIN) => true,
        Err(errno) => panic!("{errno}"),
    }
}
