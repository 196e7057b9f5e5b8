//! Pulling, loading and saving, with their progress.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use vaquita_proto::node::images_client::ImagesClient;
use vaquita_proto::node::node_client::NodeClient;
use vaquita_proto::node::{ImageProgress, LoadImageRequest, PullImageRequest, SaveRequest, SaveResponse};

use super::id;
use crate::options::Output;
use crate::run::Signals;
use crate::terminal::{Style, printable};
use crate::{client, size, terminal};

/// Bytes of an archive in one message.
const PIECE: usize = 256 << 10;
/// How often a transfer is told of where no line can be drawn anew.
const PERIOD: Duration = Duration::from_secs(10);

pub(super) async fn pull(channel: Channel, request: PullImageRequest, output: Output) -> Result<ExitCode> {
    let reference = request.reference.clone();
    let stream =
        NodeClient::new(channel).pull_image(request).await.map_err(|status| client::told(&status))?;
    follow(stream.into_inner(), output).await.with_context(|| format!("cannot pull {reference}"))
}

pub(super) async fn load(channel: Channel, file: Option<PathBuf>, output: Output) -> Result<ExitCode> {
    if file.is_none() && io::stdin().is_terminal() {
        bail!("name the file to load, or give it as standard input");
    }
    let file = file.filter(|file| file != Path::new("-"));
    let name = file.as_ref().map_or_else(|| "standard input".into(), |file| file.display().to_string());
    let (pieces, unread, total) = match &file {
        None => {
            let input = tokio::fs::File::from_std(io::stdin().as_fd().try_clone_to_owned()?.into());
            let (pieces, unread) = pieces(input);
            (pieces, unread, 0)
        }
        Some(path) if path.is_dir() => {
            let (pieces, unread) = directory(path.clone());
            (pieces, unread, 0)
        }
        Some(path) => {
            let input = tokio::fs::File::open(path).await.with_context(|| format!("cannot open {name}"))?;
            let length = input.metadata().await.map_or(0, |metadata| metadata.len());
            let (pieces, unread) = pieces(input);
            (pieces, unread, length)
        }
    };
    let mut unread = unread;
    let pieces = tokio_stream::wrappers::ReceiverStream::new(pieces);
    let stream = NodeClient::new(channel).load_image(pieces).await.map_err(|status| client::told(&status))?;
    let stream = stream.into_inner().map(move |message| {
        message.map(|mut progress| {
            if progress.bytes_total == 0 {
                progress.bytes_total = total;
            }
            progress
        })
    });
    let result = follow(stream, output).await;
    // What could not be read is the better reason than an archive that ends too early.
    let result = unread.try_recv().map_or(result, |error| Err(error.into()));
    result.with_context(|| format!("cannot load {name}"))
}

/// Messages with parts of an archive, and where its reading failed the reason.
type Pieces = (tokio::sync::mpsc::Receiver<LoadImageRequest>, oneshot::Receiver<io::Error>);

fn pieces(mut input: impl AsyncRead + Send + Unpin + 'static) -> Pieces {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let (failed, unread) = oneshot::channel();
    tokio::spawn(async move {
        let mut buffer = vec![0; PIECE];
        loop {
            let read = match input.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    // The receiver lives until the transfer has ended.
                    let _ = failed.send(error);
                    break;
                }
            };
            if sender.send(LoadImageRequest { data: buffer[..read].to_vec() }).await.is_err() {
                break;
            }
        }
    });
    (receiver, unread)
}

/// A directory, an OCI layout mostly, as the tar that it would be.
fn directory(path: PathBuf) -> Pieces {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let (failed, unread) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(io::BufWriter::with_capacity(PIECE, Sender(sender)));
        let written = archive.append_dir_all("", &path).and_then(|()| archive.into_inner()?.flush());
        match written {
            // The daemon has its reason for not listening any more.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                let _ = failed.send(error);
            }
            Ok(()) | Err(_) => {}
        }
    });
    (receiver, unread)
}

struct Sender(tokio::sync::mpsc::Sender<LoadImageRequest>);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let message = LoadImageRequest { data: bytes.to_vec() };
        self.0.blocking_send(message).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Shows the progress of a transfer until it is done.
async fn follow(
    mut stream: impl tokio_stream::Stream<Item = Result<ImageProgress, tonic::Status>> + Unpin,
    output: Output,
) -> Result<ExitCode> {
    let mut shown = Shown::new(output == Output::Text);
    let mut last = None;
    while let Some(progress) = stream.next().await {
        let progress = match progress {
            Ok(progress) => progress,
            Err(status) => {
                shown.clear()?;
                return Err(client::told(&status));
            }
        };
        shown.at(&progress)?;
        if output == Output::Json {
            terminal::out(&json(&progress))?;
        }
        last = Some(progress);
    }
    shown.clear()?;
    let last = last.filter(|progress| progress.done).context("the daemon went away before it was done")?;
    if output == Output::Text {
        let time = size::duration(shown.began.elapsed());
        for (name, image) in last.references.iter().zip(&last.image_ids) {
            let name = if name.is_empty() { "<none>".to_owned() } else { printable(name, Style::PLAIN) };
            terminal::out(&format!("{name} {} ({time})\n", id(image)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The progress of a transfer: a line that is drawn again and again, or now and then another one.
struct Shown {
    wanted: bool,
    style: Style,
    began: Instant,
    told: Instant,
}

impl Shown {
    fn new(wanted: bool) -> Self {
        let now = Instant::now();
        Self { wanted, style: Style::of_stderr(), began: now, told: now }
    }

    /// `busybox [####....] 3.1 MiB of 5.9 MiB, 11 MiB/s, layer 1 of 2`, cut to the width of the terminal.
    fn at(&mut self, progress: &ImageProgress) -> io::Result<()> {
        let is_due = match self.style.columns {
            Some(_) => true,
            None => progress.bytes_done > 0 && self.told.elapsed() >= PERIOD,
        };
        if !self.wanted || !is_due {
            return Ok(());
        }
        self.told = Instant::now();
        let line = crate::run::transfer_line(
            &printable(&progress.reference, Style::PLAIN),
            (progress.bytes_done, progress.bytes_total),
            (progress.layers_done.into(), progress.layers_total.into()),
            self.began.elapsed().as_secs_f64(),
        );
        match self.style.columns {
            Some(columns) => {
                let cut: String = line.chars().take(columns.saturating_sub(1)).collect();
                terminal::err(&format!("\r\x1b[K{cut}"))
            }
            None => terminal::err(&format!("{line}\n")),
        }
    }

    fn clear(&self) -> io::Result<()> {
        match self.wanted && self.style.columns.is_some() {
            true => terminal::err("\r\x1b[K"),
            false => Ok(()),
        }
    }
}

fn json(progress: &ImageProgress) -> String {
    let mut images = progress.image_ids.clone();
    images.dedup();
    let names: Vec<&String> = progress.references.iter().filter(|name| !name.is_empty()).collect();
    let object = serde_json::json!({
        "reference": progress.reference,
        "bytesDone": progress.bytes_done,
        "bytesTotal": progress.bytes_total,
        "layersDone": progress.layers_done,
        "layersTotal": progress.layers_total,
        "images": images,
        "references": names,
        "done": progress.done,
    });
    format!("{object}\n")
}

pub(super) async fn save(channel: Channel, images: Vec<String>, to: Option<PathBuf>) -> Result<ExitCode> {
    if to.is_none() && io::stdout().is_terminal() {
        bail!("an archive is nothing for a terminal: name a file with --output, or redirect standard output");
    }
    let to = to.filter(|to| to != Path::new("-"));
    let stream = ImagesClient::new(channel).save(SaveRequest { images }).await;
    let mut stream = stream.map_err(|status| client::told(&status))?.into_inner();
    let Some(path) = to else {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        receive(&mut stream, &mut File::from(out), &mut Shown::new(false)).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut draft = Draft::create(&path)?;
    let mut shown = Shown::new(true);
    let mut signals = Signals::new()?;
    let bytes = tokio::select! {
        bytes = receive(&mut stream, &mut draft.file, &mut shown) => bytes,
        signal = signals.next() => {
            shown.clear()?;
            drop(draft);
            return Ok(ExitCode::from(128 + signal));
        }
    };
    shown.clear()?;
    let bytes = bytes.with_context(|| format!("cannot save to {}", path.display()))?;
    draft.keep(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let time = size::duration(shown.began.elapsed());
    terminal::out(&format!("saved to {}, {} ({time})\n", path.display(), size::bytes(bytes)))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes what comes; returns how much that was.
async fn receive(
    stream: &mut tonic::Streaming<SaveResponse>,
    to: &mut File,
    shown: &mut Shown,
) -> Result<u64> {
    let mut done = 0;
    while let Some(piece) = stream.message().await.map_err(|status| client::told(&status))? {
        to.write_all(&piece.data).context("cannot write the archive")?;
        done += piece.data.len() as u64;
        shown.at(&ImageProgress {
            reference: "archive".into(),
            bytes_done: done,
            bytes_total: piece.bytes_total,
            ..ImageProgress::default()
        })?;
    }
    Ok(done)
}

/// A file that is not there until it is whole. What is no regular file, as a pipe, is written at once.
struct Draft {
    file: File,
    path: Option<PathBuf>,
}

impl Draft {
    fn create(path: &Path) -> Result<Self> {
        let failed = || format!("cannot write {}", path.display());
        let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
        if special {
            return Ok(Self {
                file: File::options().write(true).open(path).with_context(failed)?,
                path: None,
            });
        }
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let draft = path.with_file_name(hidden);
        let file = File::options().write(true).create_new(true).open(&draft).with_context(failed)?;
        Ok(Self { file, path: Some(draft) })
    }

    fn keep(mut self, path: &Path) -> io::Result<()> {
        match self.path.take() {
            Some(draft) => std::fs::rename(&draft, path).inspect_err(|_| self.path = Some(draft)),
            None => Ok(()),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(draft) = &self.path {
            // Who cannot remove it could not say more either.
            let _ = std::fs::remove_file(draft);
        }
    }
}
