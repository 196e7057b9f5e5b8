//! A process and its client.

use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

use super::wire::{Over, Wire};
use super::{NUDGE, Patience};
use crate::Wanted;
use crate::remote::{Channel, Event, Outcome, Remote, Resizes};
use crate::server::Watch;
use crate::streams::{Ends, Streams, streams};

/// Serves one session to its end: `begin` is called once all streams are there, and what it returns is run.
pub(crate) async fn remote<S, F>(
    socket: S,
    watch: Watch,
    protocol: Box<dyn Remote>,
    wanted: Wanted,
    patience: Patience,
    begin: impl FnOnce(Streams) -> F,
) where
    S: AsyncRead + AsyncWrite,
    F: Future<Output = Outcome>,
{
    let (streams, ends) = streams(wanted);
    let mut session = Session {
        wire: Wire::new(socket, watch),
        protocol,
        resizes: Resizes::default(),
        ends,
        stuck: None,
        is_ready: false,
        phase: Phase::Working,
        patience,
    };
    if session.wait_until_ready().await.is_err() {
        return session.give_up().await;
    }
    let mut work = Box::pin(begin(streams));
    let result = session.attend(work.as_mut()).await;
    match (result, &session.phase) {
        (Err(Over), Phase::Working) => session.abandon(work.as_mut()).await,
        _ => session.give_up().await,
    }
}

/// How far a session is.
enum Phase {
    /// The work goes on.
    Working,
    /// The work has ended like that; output of it is still to be taken.
    Ended(Outcome),
    /// The client was told.
    Told,
}

struct Session<S> {
    wire: Wire<S>,
    protocol: Box<dyn Remote>,
    resizes: Resizes,
    ends: Ends,
    /// Input that the process does not take for now. Nothing more is read meanwhile.
    stuck: Option<(mpsc::Sender<Bytes>, Bytes)>,
    is_ready: bool,
    phase: Phase,
    patience: Patience,
}

impl<S: AsyncRead + AsyncWrite> Session<S> {
    async fn wait_until_ready(&mut self) -> Result<(), Over> {
        let limit = sleep(self.patience.creation);
        tokio::pin!(limit);
        loop {
            self.take_events()?;
            if self.is_ready {
                return Ok(());
            }
            // Input that does not fit before there is a process would hide the streams that are still missing.
            if self.stuck.is_some() {
                return Err(Over);
            }
            tokio::select! {
                moved = self.wire.move_bytes(true, self.patience.idle) => moved?,
                () = &mut limit => return Err(Over),
            }
        }
    }

    /// Moves bytes until the work is done and everything was sent; the client may vanish before.
    async fn attend(&mut self, mut work: Pin<&mut impl Future<Output = Outcome>>) -> Result<(), Over> {
        let (mut output_ended, idle) = (false, self.patience.idle);
        loop {
            self.take_events()?;
            if output_ended && let Phase::Ended(outcome) = &self.phase {
                self.protocol.finish(outcome);
                self.wire.send(self.protocol.output());
                self.phase = Phase::Told;
            }
            if matches!(self.phase, Phase::Told) && self.wire.is_flushed() {
                return Ok(());
            }
            let is_working = matches!(self.phase, Phase::Working);
            tokio::select! {
                moved = self.wire.move_bytes(self.stuck.is_none(), idle) => moved?,
                output = self.ends.output.recv(), if !output_ended && !self.wire.is_full() => match output {
                    Some((channel, bytes)) => self.protocol.write(channel, &bytes),
                    None => output_ended = true,
                },
                () = deliver(&mut self.stuck), if self.stuck.is_some() => {}
                () = sleep(NUDGE), if self.stuck.is_some() && self.wire.is_flushed() => {
                    self.protocol.nudge();
                    self.wire.nudge(self.protocol.output());
                }
                outcome = work.as_mut(), if is_working => {
                    self.phase = Phase::Ended(outcome);
                    // Whatever still holds an end of it has nothing to say any more.
                    self.ends.output.close();
                }
            }
        }
    }

    /// Looks at what came, until something has to be waited for.
    fn take_events(&mut self) -> Result<(), Over> {
        let mut result = Ok(());
        while self.stuck.is_none() {
            match self.protocol.poll(&mut self.wire.input) {
                Ok(Some(Event::Ready)) => {
                    self.is_ready = true;
                    break;
                }
                Ok(Some(Event::Data(Channel::Stdin, bytes))) => self.input(bytes),
                Ok(Some(Event::End(Channel::Stdin))) => self.ends.stdin = None,
                Ok(Some(Event::Data(_, bytes))) => {
                    if let Some(size) = self.resizes.feed(&bytes) {
                        self.ends.sizes.send_replace(Some(size));
                    }
                }
                Ok(Some(Event::End(_))) => {}
                Ok(None) => break,
                Ok(Some(Event::Closed)) => {
                    result = Err(Over);
                    break;
                }
                Err(crate::Malformed(what)) => {
                    tracing::debug!(what, "a client broke the protocol of its session");
                    result = Err(Over);
                    break;
                }
            }
        }
        self.wire.send(self.protocol.output());
        result
    }

    fn input(&mut self, bytes: Bytes) {
        let Some(stdin) = &self.ends.stdin else { return };
        match stdin.try_send(bytes) {
            Ok(()) => {}
            Err(TrySendError::Full(bytes)) => self.stuck = Some((stdin.clone(), bytes)),
            Err(TrySendError::Closed(_)) => {
                self.ends.stdin = None;
                self.protocol.end(Channel::Stdin);
            }
        }
    }

    /// Sends what is left, and closes.
    async fn give_up(mut self) {
        self.wire.send(self.protocol.output());
        self.wire.close(self.patience).await;
    }

    /// The client is gone: tells the work, and lets it come to its end.
    async fn abandon(mut self, work: Pin<&mut impl Future<Output = Outcome>>) {
        self.wire.send(self.protocol.output());
        let Self { wire, ends, patience, .. } = self;
        ends.gone.send_replace(true);
        // Not the end of the input: to the process that would look like the end of a file.
        let Ends { stdin: _stdin, output, sizes: _sizes, gone: _gone } = ends;
        drop(output);
        let (done, ()) = tokio::join!(tokio::time::timeout(patience.farewell, work), wire.close(patience));
        if done.is_err() {
            tracing::warn!("what ran for a client that is gone did not end in time");
        }
    }
}

/// Hands over what is stuck, once there is room.
pub(super) async fn deliver(stuck: &mut Option<(mpsc::Sender<Bytes>, Bytes)>) {
    if let Some((sender, _)) = stuck {
        let sender = sender.clone();
        let permit = sender.reserve().await;
        if let (Ok(permit), Some((_, bytes))) = (permit, stuck.take()) {
            permit.send(bytes);
        }
    }
}
