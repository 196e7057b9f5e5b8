//! `hack/bench logs`: how fast what a container writes gets into its log file, and what that costs.

use std::cell::Cell;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::AnyError;
use crate::client::until;
use crate::memory;
use crate::peer::Peer;
use crate::report::{Better, Report, count};

/// The argument that makes this program the one that writes.
pub(crate) const WRITER: &str = "write-lines";

/// Lines of 100 bytes: 1 GB.
const LINES: usize = 10_000_000;
const LENGTH: usize = 100;
const LIMIT: Duration = Duration::from_secs(600);
/// How often CPU time is looked at.
const COUNT: Duration = Duration::from_millis(100);

/// Measures each peer in turn, three times each, and keeps the best: what else the machine does only takes away.
pub(crate) async fn all(peers: &mut [Peer], work: &Path, report: &mut Report) -> Result<(), AnyError> {
    for peer in peers.iter_mut() {
        peer.start().await?;
        peer.load_images().await?;
        report.version(peer.name, peer.version().await?);
    }
    for (what, at_once) in [("64 KiB writes", 65_536 / LENGTH), ("a write for each line", 1)] {
        let mut best = vec![(f64::INFINITY, f64::INFINITY); peers.len()];
        for round in 0..3 {
            for (peer, best) in peers.iter().zip(&mut best) {
                let (seconds, cpu) = once(peer, &work.join("logs"), at_once, round).await?;
                *best = (best.0.min(seconds), best.1.min(cpu));
            }
        }
        let megabytes = count(LINES * LENGTH) / 1e6;
        for (peer, (seconds, cpu)) in peers.iter().zip(best) {
            report.row(&format!("1 GB, {what}"), "MB/s", Better::Higher, peer.name, megabytes / seconds);
            report.row(&format!("CPU of it, {what}"), "s", Better::Lower, peer.name, cpu);
        }
    }
    Ok(())
}

/// Seconds until everything is in the file, and seconds of CPU that the daemon and its helpers took for it.
async fn once(peer: &Peer, logs: &Path, at_once: usize, round: usize) -> Result<(f64, f64), AnyError> {
    let program = std::env::current_exe()?;
    let args = [WRITER.to_owned(), LINES.to_string(), at_once.to_string()];
    let used = || memory::cpu(peer.pid(), &peer.dirs, "program");
    let before = used();
    let start = Instant::now();
    let pod = peer.client.run_program(&format!("logs-{at_once}-{round}"), &program, &args, logs).await?;
    // A helper that ends with its container takes the count of its time along: CRI-O's does.
    let (spent, counted) = (Cell::new(before), Cell::new(start));
    until(LIMIT, "the end of the container", || async {
        if counted.get().elapsed() > COUNT {
            spent.set(spent.get().max(used()));
            counted.set(Instant::now());
        }
        peer.client.has_ended(&pod).await.unwrap_or(true)
    })
    .await?;
    peer.client.has_ended(&pod).await?;
    let file = logs.join("0.log");
    until(LIMIT, "the last line in the log", || async {
        last_line(&file).is_ok_and(|last| last == LINES - 1)
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = used().max(spent.get()).saturating_sub(before);
    peer.client.remove_pod(&pod).await?;
    std::fs::remove_dir_all(logs)?;
    Ok((seconds, cpu.as_secs_f64()))
}

/// The number of the last line.
fn last_line(file: &Path) -> Result<usize, AnyError> {
    let mut file = std::fs::File::open(file)?;
    file.seek(SeekFrom::End(-(LENGTH as i64)))?;
    let mut line = String::new();
    file.read_to_string(&mut line)?;
    Ok(line.get(..10).ok_or("too short")?.parse()?)
}

/// What the container does: lines with a number in front, some of them with each write.
pub(crate) fn write_lines(mut args: impl Iterator<Item = String>) -> Result<(), AnyError> {
    let mut number = || Ok::<usize, AnyError>(args.next().ok_or("too few arguments")?.parse()?);
    let (lines, at_once) = (number()?, number()?);
    // No buffer of lines, as Stdout has.
    let mut stdout = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned()?);
    let mut batch = vec![b'x'; LENGTH * at_once];
    batch.iter_mut().skip(LENGTH - 1).step_by(LENGTH).for_each(|end| *end = b'\n');
    for first in (0..lines).step_by(at_once) {
        let some = at_once.min(lines - first);
        for (at, line) in batch.chunks_mut(LENGTH).take(some).enumerate() {
            write!(&mut line[..10], "{:010}", first + at)?;
        }
        stdout.write_all(&batch[..some * LENGTH])?;
    }
    Ok(())
}
