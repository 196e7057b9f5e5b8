//! `vaquita run`: pods of a manifest, from nothing to gone.

mod diagnostic;
mod render;
mod revive;
mod screen;
mod signals;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vaquita_kube::agent::{self, Agent, Command, Fixed, Keyring, Outcome};
use vaquita_kube::client::Client;
use vaquita_kube::event::{Event, EventKind};
use vaquita_kube::manifest::{self, Manifest};

use self::render::Renderer;
use self::revive::Reviver;
use self::screen::Screen;
use crate::options::{Node, Output, Run};
use crate::terminal::{self, Style};
use crate::{client, credentials};

pub(crate) use self::render::transfer_line;
pub(crate) use self::signals::Signals;

/// The manifest or the command line is wrong; clap uses the same number.
const WRONG_INPUT: u8 = 2;

/// More than any manifest: what is larger is a mistake, such as an image.
const LARGEST_MANIFEST: u64 = 16 << 20;

pub(crate) fn main(node: &Node, args: &Run) -> Result<ExitCode> {
    let files = args.files.iter().map(read).collect::<Result<Vec<_>>>()?;
    manifests(node, &files, args.output, None)
}

/// Runs the pods of files given as (name, text). `hint` makes a text from the address of a pod that is ready.
pub(crate) fn manifests(
    node: &Node,
    files: &[(String, String)],
    output: Output,
    hint: Option<fn(&str) -> String>,
) -> Result<ExitCode> {
    let borrowed: Vec<(&str, &str)> =
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let manifest = match manifest::read(&borrowed) {
        Ok(manifest) => manifest,
        Err(diagnostics) => {
            terminal::err(&diagnostic::render(&diagnostics, &borrowed, Style::of_stderr()))?;
            return Ok(ExitCode::from(WRONG_INPUT));
        }
    };
    if manifest.pods.is_empty() {
        let names: Vec<&str> = borrowed.iter().map(|(name, _)| *name).collect();
        terminal::err(&format!("vaquita: there is no Pod in {}: nothing to run\n", names.join(", ")))?;
        return Ok(ExitCode::from(WRONG_INPUT));
    }
    client::need_root("running pods")?;
    client::block_on(Session::run(node, manifest, output, hint))
}

fn read(path: &PathBuf) -> Result<(String, String)> {
    let (name, input): (String, Box<dyn Read>) = if path == Path::new("-") {
        ("<stdin>".to_owned(), Box::new(std::io::stdin()))
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut bytes = Vec::new();
    input
        .take(LARGEST_MANIFEST + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > LARGEST_MANIFEST {
        bail!("{name} is larger than {} MiB: is it a manifest?", LARGEST_MANIFEST >> 20);
    }
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    Ok((name, text))
}

/// Pods that are running, and the terminal that shows them.
struct Session {
    screen: Screen,
    renderer: Renderer,
    json: bool,
    hint: Option<fn(&str) -> String>,
    address: Option<String>,
    commands: Vec<mpsc::Sender<Command>>,
    reviver: Reviver,
    stops: u32,
    signal: Option<u8>,
}

impl Session {
    async fn run(
        node: &Node,
        manifest: Manifest,
        output: Output,
        hint: Option<fn(&str) -> String>,
    ) -> Result<ExitCode> {
        let config = node.config()?;
        let mut signals = Signals::new()?;
        let connection = client::connect_or_start(node).await?;
        let daemon = client::Settings::of(connection.channel.clone()).await?;
        let mut settings = agent::Config::new(config.root.join("agent"));
        if let Some(daemon) = &daemon {
            daemon.pod_cgroups().clone_into(&mut settings.cgroup_root);
        }
        settings.keyring = Some(Keyring::new(credentials::of_user));
        let agent = Agent::new(Client::from_channel(connection.channel), settings);
        let (events, mut told) = mpsc::channel(1024);
        let mut session = Self {
            screen: Screen::new(),
            renderer: Renderer::new(&manifest.pods, Style::of_stdout(), Style::of_stderr()),
            json: output == Output::Json,
            hint,
            address: None,
            commands: Vec::new(),
            reviver: Reviver::new(node, connection.started),
            stops: 0,
            signal: None,
        };
        for unmet in daemon.iter().flat_map(|daemon| daemon.unmet(&config)) {
            session.screen.err(&session.renderer.note(&unmet));
        }
        for removed in agent.clean_leftovers().await.context("cannot remove what an earlier run left")? {
            session
                .screen
                .err(&session.renderer.note(&format!("removed what an earlier run left: {removed}")));
        }
        let mut runs = session.start(&agent, manifest, events);
        loop {
            tokio::select! {
                // Every run has a sender: the end of the last is the end of the events.
                event = told.recv() => match event {
                    Some(event) => session.show(&event),
                    None => break,
                },
                signal = signals.next() => session.stop(Some(signal)),
                () = session.screen.refresh() => {}
            }
            if session.screen.is_closed() && session.stops == 0 {
                session.stop(None);
            }
        }
        session.screen.close();
        let mut outcomes = Vec::new();
        while let Some(outcome) = runs.join_next().await {
            outcomes.push(outcome.context("the agent of a pod failed")?);
        }
        Ok(session.exit_code(&outcomes))
    }

    fn start(&mut self, agent: &Agent, manifest: Manifest, events: mpsc::Sender<Event>) -> JoinSet<Outcome> {
        let objects = Fixed::from(&manifest);
        let mut runs = JoinSet::new();
        for pod in manifest.pods {
            // Two: a stop and a kill.
            let (sender, commands) = mpsc::channel(2);
            self.commands.push(sender);
            let (agent, objects, events) = (agent.clone(), objects.clone(), events.clone());
            runs.spawn(async move { agent.run(pod, objects, events, commands).await });
        }
        runs
    }

    fn show(&mut self, event: &Event) {
        if matches!(event.kind, EventKind::Disconnected { .. }) {
            self.reviver.revive();
        }
        if self.json {
            match serde_json::to_string(event) {
                Ok(line) => self.screen.out(&format!("{line}\n")),
                Err(error) => {
                    self.screen.err(&self.renderer.note(&format!("an event cannot be shown: {error}")))
                }
            }
            return;
        }
        let lines = self.renderer.event(event);
        self.screen.err(&lines.err);
        self.screen.out(&lines.out);
        self.screen.transient(self.renderer.progress(event.time));
        match &event.kind {
            EventKind::SandboxReady { ip, .. } => self.address.clone_from(ip),
            EventKind::PodReady {} => {
                if let (Some(hint), Some(address)) = (self.hint.take(), &self.address) {
                    self.screen.err(&hint(address));
                }
            }
            _ => {}
        }
    }

    /// The first time gracefully, then at once. Without a signal: nobody reads what we say any more.
    fn stop(&mut self, signal: Option<u8>) {
        self.stops += 1;
        self.renderer.ending();
        self.signal = self.signal.or(signal);
        let command = if self.stops == 1 { Command::Stop } else { Command::Kill };
        for sender in &self.commands {
            // A pod that has ended does not listen; one that has both commands needs no third.
            let _ = sender.try_send(command);
        }
        if !self.json {
            let note = match self.stops {
                1 if signal == Some(signals::INTERRUPT) => "ending: Ctrl-C again kills",
                1 => "ending",
                2 => "killing",
                _ => return,
            };
            self.screen.err(&self.renderer.note(note));
        }
    }

    fn exit_code(&self, outcomes: &[Outcome]) -> ExitCode {
        if let Some(signal) = self.signal {
            return ExitCode::from(128 + signal);
        }
        if self.screen.is_closed() {
            return ExitCode::FAILURE;
        }
        let code = outcomes.iter().map(Outcome::exit_code).find(|code| *code != 0);
        ExitCode::from(code.unwrap_or(0))
    }
}
