//! A process that writes is killed, again and again, on one store: what it was told to be durable is there.
//!
//! A program of its own, without the usual harness: it is its own child.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]
#![allow(clippy::print_stdout, reason = "a worker tells what is done by lines")]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use vaquita_store::{Expect, Key, Kind, Options, Store};

const ROUNDS: usize = 80;
const WRITERS: usize = 4;
const KEYS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("worker") => work(Path::new(&arguments[2])),
        Some("--list") => println!("what_was_told_survives_kill: test"),
        _ => {
            what_was_told_survives_kill();
            println!("test what_was_told_survives_kill ... ok");
        }
    }
}

/// Writes for ever: each writer has keys of its own, of which it replaces one after another by the next number, or deletes it.
fn work(path: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(path, Options::default()).unwrap();
        println!("open");
        let writers = (0..WRITERS).map(|writer| write(&store, writer));
        futures_util::future::join_all(writers).await;
    });
}

async fn write(store: &Store, writer: usize) {
    let last = store.get(&number_key(writer)).map_or(0, |entry| number(&entry.body));
    for number in last + 1.. {
        // What it is going to do is not durable before it is done: this comes first, and says how far it is.
        let key = key(writer, number);
        let body = body(number);
        let revision = if number % 7 == 0 {
            match store.delete(key, Expect::Any, body.clone()).await {
                Ok(entry) => entry.revision,
                Err(error) if error.kind() == Kind::Absent => store.revision(),
                Err(error) => panic!("{error}"),
            }
        } else {
            store.put(key, Expect::Any, body.clone()).await.unwrap().revision
        };
        store.put(number_key(writer), Expect::Any, body).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "{writer} {number} {revision}").unwrap();
        out.flush().unwrap();
    }
}

fn key(writer: usize, number: usize) -> Key {
    Key::new("things", "default", &format!("w{writer}-{}", number % KEYS))
}

fn number_key(writer: usize) -> Key {
    Key::new("counters", "", &format!("w{writer}"))
}

fn body(number: usize) -> Bytes {
    format!("{number} ").repeat(1 + number % 900).into()
}

fn number(body: &[u8]) -> usize {
    let text = str::from_utf8(body).unwrap();
    let number: usize = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(body, self::body(number), "a body that was never written");
    number
}

/// Killed and waited for, whatever happens.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn what_was_told_survives_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster/store.redb");
    // By writer: the last number that it told.
    let mut told: HashMap<usize, usize> = HashMap::new();
    let (mut last_revision, mut killed_at_work) = (0, 0);
    for round in 0..ROUNDS {
        let mut worker = Worker(
            Command::new(std::env::current_exe().unwrap())
                .arg("worker")
                .arg(&path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(worker.0.stdout.take().unwrap()).lines();
        // Some before it has opened the store, or while it does.
        let until = if round % 10 == 0 { 0 } else { round * 37 % 150 };
        let mut seen = 0;
        while seen < until {
            note(&lines.next().unwrap().unwrap(), &mut told, &mut last_revision);
            seen += 1;
        }
        worker.0.kill().unwrap();
        worker.0.wait().unwrap();
        for line in lines {
            note(&line.unwrap(), &mut told, &mut last_revision);
            seen += 1;
        }
        killed_at_work += usize::from(seen > 1);
        check(&path, &told, last_revision);
    }
    assert!(killed_at_work > ROUNDS / 2, "{killed_at_work}");
}

fn note(line: &str, told: &mut HashMap<usize, usize>, last_revision: &mut u64) {
    let parts: Vec<usize> = line.split(' ').filter_map(|part| part.parse().ok()).collect();
    if let [writer, number, revision] = parts[..] {
        told.insert(writer, number);
        *last_revision = (*last_revision).max(revision as u64);
    }
}

fn check(path: &Path, told: &HashMap<usize, usize>, last_revision: u64) {
    let store = Store::open(path, Options::default()).unwrap();
    assert!(store.revision() >= last_revision, "{} {last_revision}", store.revision());
    for (&writer, &last) in told {
        let counted = number(&store.get(&number_key(writer)).unwrap().body);
        assert!(counted >= last, "writer {writer} told {last} and {counted} is there");
        // One more may have been begun; of each key the last number that was not later than that.
        let states = [expected(counted), expected(counted + 1)];
        let found: Vec<Option<usize>> =
            (0..KEYS).map(|at| store.get(&key(writer, at)).map(|entry| number(&entry.body))).collect();
        assert!(states.contains(&found), "writer {writer} at {counted}: {found:?} {states:?}");
    }
}

/// What the keys of a writer are after so many numbers.
fn expected(count: usize) -> Vec<Option<usize>> {
    (0..KEYS)
        .map(|at| {
            let last = (1..=count).rev().find(|number| number % KEYS == at)?;
            (last % 7 != 0).then_some(last)
        })
        .collect()
}
