//! `hack/bench store`: the store of the cluster alone: writes that are durable, lists, watches, memory, start.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use vaquita_store::{Expect, Key, Options, Store};

use crate::{AnyError, memory};

const USAGE: &str = "\
usage: hack/bench store [--dir DIR] [--seconds N] [--objects N] [--bytes N]

  --dir DIR     the disk to measure on (default: the directory of temporary files)
  --seconds N   how long each kind of writing takes (default 2)
  --objects N   entries in the store for lists and memory (default 10000)
  --bytes N     bytes of each entry (default 3072)";

struct Plan {
    dir: PathBuf,
    seconds: u64,
    objects: usize,
    bytes: usize,
}

/// Measures and prints as the arguments after `store` say.
pub(crate) fn main(args: impl Iterator<Item = String>) -> Result<(), AnyError> {
    let Some(plan) = plan(args)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let dir = tempfile::Builder::new().prefix("vaquita-bench-").tempdir_in(&plan.dir)?;
    disk(&plan, dir.path())?;
    let runtime = crate::threads()?;
    runtime.block_on(async {
        for writers in [1, 64] {
            let path = dir.path().join(format!("{writers}/store.redb"));
            write(&plan, &path, writers).await?;
        }
        full(&plan, &dir.path().join("full/store.redb")).await
    })
}

fn plan(mut args: impl Iterator<Item = String>) -> Result<Option<Plan>, AnyError> {
    let mut plan = Plan { dir: std::env::temp_dir(), seconds: 2, objects: 10_000, bytes: 3072 };
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"));
        match flag.as_str() {
            "--dir" => plan.dir = value()?.into(),
            "--seconds" => plan.seconds = value()?.parse()?,
            "--objects" => plan.objects = value()?.parse()?,
            "--bytes" => plan.bytes = value()?.parse()?,
            "-h" | "--help" => return Ok(None),
            other => return Err(format!("unknown argument {other:?}\n{USAGE}").into()),
        }
    }
    Ok(Some(plan))
}

/// What the disk can do at best: one page and one fdatasync after another.
fn disk(plan: &Plan, dir: &Path) -> Result<(), AnyError> {
    let file = File::create_new(dir.join("disk"))?;
    let page = [7; 4096];
    file.write_all_at(&page, 1 << 20)?;
    let (begin, mut done) = (Instant::now(), 0_u64);
    while begin.elapsed() < Duration::from_secs(plan.seconds) {
        file.write_all_at(&page, done % 256 * 4096)?;
        file.sync_data()?;
        done += 1;
    }
    told("the disk: 4 KiB and fdatasync", rate(done, begin), "/s");
    Ok(())
}

/// Entries that are made, and entries that are replaced.
async fn write(plan: &Plan, path: &Path, writers: usize) -> Result<(), AnyError> {
    let store = Store::open(path, Options::default())?;
    for (what, is_new) in [("made", true), ("replaced", false)] {
        let (begin, end) = (Instant::now(), Duration::from_secs(plan.seconds));
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, body) = (store.clone(), body(plan.bytes, writer));
                tokio::spawn(async move {
                    let mut waited = Vec::new();
                    while begin.elapsed() < end {
                        let number = if is_new { waited.len() } else { 0 };
                        let key = Key::new("pods", "default", &format!("pod-{writer}-{number}"));
                        let asked = Instant::now();
                        store.put(key, Expect::Any, body.clone()).await?;
                        waited.push(asked.elapsed());
                    }
                    Ok::<_, vaquita_store::Error>(waited)
                })
            })
            .collect();
        let mut waited = Vec::new();
        for task in tasks {
            waited.extend(task.await??);
        }
        let s = if writers == 1 { "" } else { "s" };
        let name = format!("{writers} writer{s}, entries {what}");
        told(&name, rate(waited.len() as u64, begin), "/s");
        waited.sort_unstable();
        for percent in [50, 99] {
            let at = waited[(waited.len() - 1) * percent / 100];
            told(&format!("{name}: wait, {percent} %"), at.as_secs_f64() * 1e3, "ms");
        }
    }
    Ok(())
}

/// A store with many entries.
async fn full(plan: &Plan, path: &Path) -> Result<(), AnyError> {
    let store = Store::open(path, Options::default())?;
    let puts: Vec<_> = (0..64)
        .map(|writer| {
            let (store, objects, bytes) = (store.clone(), plan.objects, plan.bytes);
            tokio::spawn(async move {
                for number in (writer..objects).step_by(64) {
                    let key = Key::new("pods", "default", &format!("pod-{number}"));
                    store.put(key, Expect::Absent, body(bytes, number)).await?;
                }
                Ok::<_, vaquita_store::Error>(())
            })
        })
        .collect();
    for put in puts {
        put.await??;
    }
    drop(store);
    told("file", path.metadata()?.len() as f64 / f64::from(1 << 20), "MiB");

    let before = memory::of(std::process::id());
    let begin = Instant::now();
    let store = Store::open(path, Options::default())?;
    told(&format!("open with {} entries", plan.objects), millis(begin), "ms");
    let after = memory::of(std::process::id());
    let each = (after.pss.saturating_sub(before.pss)) as f64 * 1024.0 / plan.objects as f64;
    told(&format!("memory of an entry of {} bytes", plan.bytes), each, "bytes");

    let revision = store.revision();
    lists(&store, "all", None, None)?;
    lists(&store, "a page of 500", Some(500), None)?;
    for number in 0..1000 {
        let key = Key::new("pods", "default", &format!("pod-{}", number * 7 % plan.objects));
        store.put(key, Expect::Any, body(plan.bytes, number)).await?;
    }
    lists(&store, "all as before 1000 changes", None, Some(revision))?;
    watchers(&store, revision)?;

    let begin = Instant::now();
    let backup = path.with_extension("backup");
    store.backup(&backup)?;
    told("backup", millis(begin), "ms");
    told("backup", backup.metadata()?.len() as f64 / f64::from(1 << 20), "MiB");
    Ok(())
}

fn lists(store: &Store, what: &str, limit: Option<usize>, at: Option<u64>) -> Result<(), AnyError> {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let begin = Instant::now();
        let list = store.list("pods", None, None, limit, at)?;
        std::hint::black_box(list.entries.iter().map(|entry| entry.body.len()).sum::<usize>());
        best = best.min(millis(begin));
    }
    told(&format!("list {what}"), best, "ms");
    Ok(())
}

fn watchers(store: &Store, after: u64) -> Result<(), AnyError> {
    let before = memory::of(std::process::id());
    let mut watchers = Vec::new();
    for _ in 0..1000 {
        watchers.push(store.watch("pods", None, after)?);
    }
    let grown = memory::of(std::process::id()).pss.saturating_sub(before.pss);
    told("1000 watchers that do not read", grown as f64, "KiB");
    let (begin, mut read) = (Instant::now(), 0);
    while watchers[0].try_next()?.is_some() {
        read += 1;
    }
    told("one watcher reads", rate(read, begin), "/s");
    Ok(())
}

fn body(bytes: usize, seed: usize) -> Bytes {
    (0..bytes).map(|at| b' ' + ((at * 31 + seed * 17) % 90) as u8).collect()
}

fn rate(done: u64, begin: Instant) -> f64 {
    done as f64 / begin.elapsed().as_secs_f64()
}

fn millis(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn told(what: &str, value: f64, unit: &str) {
    println!("{what:<45} {value:>12.2} {unit}");
}
