//! Performing what the state machine decides: each action in a task of its own, whose end is an input.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::task::AbortHandle;

use super::super::actions::{Hands, Place, SandboxError};
use super::super::{check, pull};
use super::Driver;
use crate::event::{EventKind, HookKind};
use crate::worker::{Action, Input, Slot};

/// Between attempts to stop a container.
const STOP_RETRY: Duration = Duration::from_secs(2);

impl Driver {
    /// Does something, and tells the state machine how it went.
    pub(super) fn answer<F>(&mut self, work: impl FnOnce(Hands) -> F) -> AbortHandle
    where
        F: Future<Output = Input> + Send + 'static,
    {
        let work = work(self.hands.clone());
        let inputs = self.inputs.clone();
        self.tasks.spawn(async move {
            let _ = inputs.send(work.await);
        })
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Event(event) => {
                let _ = self.told.send(event);
            }
            Action::RunSandbox { attempt } => {
                let told = self.told.clone();
                self.answer(move |hands| async move {
                    match hands.run_sandbox(attempt).await {
                        Ok((id, ips)) => {
                            if let Err(error) = hands.balance().await {
                                let _ = told.send(EventKind::Warning { message: error.to_string() });
                            }
                            Input::SandboxReady { id, ips }
                        }
                        Err(SandboxError::Sandbox(error)) => {
                            Input::SandboxFailed { message: error.to_string(), volume: None }
                        }
                        Err(SandboxError::Volumes(error)) => {
                            let volume = Some(error.volume().unwrap_or_default().to_owned());
                            Input::SandboxFailed { message: error.message().to_owned(), volume }
                        }
                    }
                });
            }
            Action::StopSandbox { id } => {
                let told = self.told.clone();
                self.answer(move |hands| async move {
                    if let Err(error) = hands.stop_sandbox(&id).await {
                        let _ = told.send(EventKind::Warning { message: error.to_string() });
                    }
                    Input::SandboxStopped { id }
                });
            }
            Action::Pull { slot } => self.pull(slot),
            Action::AbandonPull { slot } => {
                if let Some(pull) = self.pulls.remove(&slot) {
                    pull.abort();
                }
            }
            Action::Create { slot, attempt, sandbox, image, target } => {
                let sandbox_attempt = self.worker.sandbox_attempt();
                let ips = self.worker.ips().to_vec();
                self.create(slot, Place { attempt, sandbox, sandbox_attempt, image, target, ips });
            }
            Action::Resize { slot, id } => {
                let container = self.worker.container(slot).clone();
                let sandbox = self.worker.sandbox_id().unwrap_or_default().to_owned();
                self.answer(move |hands| async move {
                    let result = hands.resize(&container, &sandbox, &id).await;
                    Input::Resized { slot, id, result: result.map_err(|error| error.to_string()) }
                });
            }
            Action::Start { slot, id } => {
                let (now, container) = (self.clock.now(), self.worker.container(slot).clone());
                self.answer(move |hands| async move {
                    match hands.start(&container, &id, now).await {
                        Ok((at, identity)) => Input::Started { slot, id, at, identity },
                        Err(exit) => Input::StartFailed { slot, id, exit },
                    }
                });
            }
            Action::Hook { slot, id, hook, timeout } => self.hook(slot, id, hook, timeout),
            Action::Probe { slot, id, probe } => {
                let (container, ip) = (self.worker.container(slot).clone(), self.address());
                let words = match self.hands.context.kept {
                    true => check::Words::Kubelets,
                    false => check::Words::Ours,
                };
                self.answer(move |hands| async move {
                    let outcome = check::probe(&hands.cri, &container, &id, probe, &ip, words).await;
                    Input::Probed { slot, id, probe, outcome }
                });
            }
            Action::Stop { id, grace, .. } => self.stop(id, grace),
            Action::Remove { slot, id, attempt } => {
                let container = self.worker.container(slot).name.clone();
                self.quietly(move |hands| async move { hands.remove(&container, &id, attempt).await });
            }
        }
    }

    /// Does something whose success shows elsewhere.
    pub(super) fn quietly<F>(&mut self, work: impl FnOnce(Hands) -> F)
    where
        F: Future<Output = crate::Result<()>> + Send + 'static,
    {
        let work = work(self.hands.clone());
        let told = self.told.clone();
        self.tasks.spawn(async move {
            if let Err(error) = work.await {
                let _ = told.send(EventKind::Warning { message: error.to_string() });
            }
        });
    }

    /// Stops a container, and tries again until it is stopped: nothing else will.
    pub(super) fn stop(&mut self, id: String, grace: i64) {
        let (hands, told) = (self.hands.clone(), self.told.clone());
        self.tasks.spawn(async move {
            let mut warned = false;
            while let Err(error) = hands.stop(&id, grace).await {
                if !std::mem::replace(&mut warned, true) {
                    let _ = told.send(EventKind::Warning { message: error.to_string() });
                }
                tokio::time::sleep(STOP_RETRY).await;
            }
        });
    }

    pub(super) fn pull(&mut self, slot: Slot) {
        let container = self.worker.container(slot).clone();
        let told = self.told.clone();
        let task = self.answer(move |hands| async move {
            let tell = |event| {
                let _ = told.send(event);
            };
            // Without its secrets a pull may work all the same.
            let hands = hands.informed().await.unwrap_or(hands);
            let names = hands.missing_pull_secrets();
            if hands.context.kept && !names.is_empty() {
                tell(EventKind::PullSecretsMissing { names });
            }
            match pull::ensure(&hands.cri, &hands.context, &container, tell).await {
                Ok(image) => Input::Pulled { slot, image },
                Err(failure) => {
                    Input::PullFailed { slot, reason: failure.reason.to_owned(), message: failure.message }
                }
            }
        });
        self.pulls.insert(slot, task);
    }

    pub(super) fn create(&mut self, slot: Slot, place: Place) {
        let container = self.worker.container(slot).clone();
        self.answer(move |hands| async move {
            let image = place.image.clone();
            match hands.create(&container, place).await {
                Ok(id) => Input::Created { slot, id, image },
                Err((reason, error)) => {
                    Input::CreateFailed { slot, reason: reason.to_owned(), message: error.to_string() }
                }
            }
        });
    }

    pub(super) fn hook(&mut self, slot: Slot, id: String, hook: HookKind, timeout: Option<SignedDuration>) {
        let container = self.worker.container(slot).clone();
        let ip = self.address();
        let limit = timeout.and_then(|timeout| Duration::try_from(timeout).ok());
        self.answer(move |hands| async move {
            let hooks = container.lifecycle.as_ref();
            let handler = hooks.and_then(|hooks| match hook {
                HookKind::PostStart => hooks.post_start.as_ref(),
                HookKind::PreStop => hooks.pre_stop.as_ref(),
            });
            let result = match handler {
                Some(handler) => check::hook(&hands.cri, &container, handler, &id, &ip, limit).await,
                None => Ok(()),
            };
            Input::HookDone { slot, id, hook, result: result.map_err(|error| error.to_string()) }
        });
    }

    /// Where probes reach the pod.
    pub(super) fn address(&self) -> String {
        self.worker.ip().unwrap_or(&self.hands.context.host.ip).to_owned()
    }
}
