//! Pulls under way: what is shown of them, and that they keep nobody waiting.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};
use vaquita_proto::cri;

use crate::support::{Node, Pod, eventually};

/// Bytes of the layer, and how many come before the registry stands still.
const SIZE: usize = 3_000_000;
const SENT: usize = 1_000_000;

#[test]
fn a_pull_that_stands_still_is_shown_and_keeps_no_pod_waiting() {
    let node = Node::start();
    node.load_busybox();
    let (address, _closed) = standing_still();
    let reference = format!("{address}/stands/still:1");
    let mut pull = node
        .vaquita(&["image", "pull", &reference, "--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Kept open: a client whose output nobody reads ends.
    let mut lines = BufReader::new(pull.stdout.take().unwrap()).lines();
    let mut shown = lines.by_ref().map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let shown = shown.find(|line| line["bytesDone"] == SENT).expect("a line with all bytes that have come");
    let expected = json!({ "reference": reference, "bytesDone": SENT, "bytesTotal": SIZE, "layersDone": 0,
        "layersTotal": 1, "images": [], "references": [], "done": false });
    assert_eq!(shown, expected);

    let mut client = node.cri();
    let status = cri::StatusRequest { verbose: true };
    let answer = node.wait(client.status(status)).unwrap().into_inner();
    let pulls: Value = serde_json::from_str(&answer.info["pulls"]).unwrap();
    assert_eq!((&pulls[0]["reference"], &pulls[0]["bytes_done"]), (&shown["reference"], &shown["bytesDone"]));

    let pod = Pod::run(&node, "beside");
    let container = pod.start("main", &["sleep", "1000"]);
    assert_eq!(container.exec(&["echo", "here"]).1, "here\n");
    pod.remove();
    assert!(pull.try_wait().unwrap().is_none(), "the pull has ended");

    pull.kill().unwrap();
    pull.wait().unwrap();
    drop(lines);
    eventually("the end of the pull", || {
        let answer = node.wait(client.status(status)).unwrap().into_inner();
        (answer.info["pulls"] == "[]").then_some(())
    });
    node.finish();
}

/// One process that unpacks is killed: its own pull ends with an error, the one beside it goes on, and so does the daemon.
#[test]
fn an_unpacker_that_is_killed_takes_its_own_pull_only() {
    let node = Node::start();
    let pull = |address: &str| -> (Child, u32) {
        let before = unpackers(&node);
        let reference = format!("{address}/stands/still:1");
        let mut command = node.vaquita(&["image", "pull", &reference]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let new = || unpackers(&node).into_iter().find(|pid| !before.contains(pid));
        (child, eventually("a process that unpacks", new))
    };
    let ((first, open_first), (second, open_second)) = (standing_still(), standing_still());
    let ((failing, killed), (going_on, _)) = (pull(&first), pull(&second));
    let pid = rustix::process::Pid::from_raw(killed.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    open_first.open();
    let failed = failing.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{error}");
    assert!(
        error.contains(&first) && error.contains("the unpacker died") && error.contains("SIGKILL"),
        "{error}"
    );
    open_second.open();
    let pulled = going_on.wait_with_output().unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    let list = node.output(&["image", "ls"]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains(&second) && !list.contains(&first), "{list}");
    node.finish();
}

/// Processes of this node that unpack a layer: children of its daemon.
fn unpackers(node: &Node) -> Vec<u32> {
    let is_one = |pid: &u32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with(b"vaquita-unpack\0")
    };
    let children = node.pids().into_iter().flat_map(|pid| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
        let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        lists
            .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>())
            .collect::<Vec<_>>()
    });
    children.filter(is_one).collect()
}

/// What the rest of a layer waits for.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// The address of a registry that has an image of one layer, of which the end comes when the gate is opened. It ends with the
/// test's process.
fn standing_still() -> (String, Arc<Gate>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let digest = |bytes: &[u8]| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    };
    let layer = vec![0; SIZE];
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] } });
    let config = serde_json::to_vec(&config).unwrap();
    let described = |kind: &str, bytes: &[u8]| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest(bytes), "size": bytes.len() });
    let manifest = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config), "layers": [described("layer.v1.tar", &layer)] });
    let files = [
        (digest(&layer), layer, SENT),
        (digest(&config), config, usize::MAX),
        ("manifests/1".to_owned(), serde_json::to_vec(&manifest).unwrap(), usize::MAX),
    ];
    let gate = Arc::new(Gate::default());
    let opened = Arc::clone(&gate);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (files, gate) = (files.clone(), Arc::clone(&gate));
            std::thread::spawn(move || answer(stream.unwrap(), &files, &gate));
        }
    });
    (address, opened)
}

fn answer(stream: TcpStream, files: &[(String, Vec<u8>, usize)], gate: &Gate) {
    let mut requests = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    loop {
        let mut request = String::new();
        while !request.ends_with("\r\n\r\n") {
            if requests.read_line(&mut request).unwrap_or(0) == 0 {
                return;
            }
        }
        let path = request.split(' ').nth(1).unwrap();
        let Some((_, bytes, most)) = files.iter().find(|(name, ..)| path.ends_with(name)) else {
            return;
        };
        let _ = write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: {}\r\n\r\n",
            bytes.len()
        );
        let (now, later) = bytes.split_at(bytes.len().min(*most));
        let _ = stream.write_all(now);
        if !later.is_empty() {
            gate.pass();
            let _ = stream.write_all(later);
        }
    }
}
