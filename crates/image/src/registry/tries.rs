//! In which order hosts are asked for one thing, when again, and what is told when none has it.

use std::time::Duration;

use crate::{Error, Kind, Reference};

use super::endpoint::Endpoint;
use super::http::Failure;

/// Rounds through the hosts, or rounds without much progress between them.
const ROUNDS: u32 = 4;
/// Longest time between two rounds.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// Longest time that a registry may ask to be left alone for.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Goes round the hosts: each is asked once, those that may do better the next time again after a pause.
pub(super) struct Tries<'c> {
    reference: &'c Reference,
    hosts: Vec<Try<'c>>,
    /// Who is asked now, and who comes next.
    current: usize,
    next: usize,
    round: u32,
    /// Before the second round.
    pause: Duration,
    /// What a host has asked for in this round.
    wait: Duration,
}

struct Try<'c> {
    endpoint: &'c Endpoint,
    failure: Option<Failure>,
    is_out: bool,
}

impl<'c> Tries<'c> {
    /// In the order of `endpoints`, but those that did not answer the last time come last.
    pub(super) fn new(
        reference: &'c Reference,
        endpoints: impl Iterator<Item = &'c Endpoint>,
        pause: Duration,
    ) -> Self {
        let mut hosts: Vec<Try<'c>> =
            endpoints.map(|endpoint| Try { endpoint, failure: None, is_out: false }).collect();
        hosts.sort_by_key(|host| host.endpoint.is_down());
        Self { reference, hosts, current: 0, next: 0, round: 1, pause, wait: Duration::ZERO }
    }

    /// Whom to ask now.
    ///
    /// # Errors
    /// There is nobody left: the error of the registry itself, with those of its mirrors.
    pub(super) async fn next(&mut self) -> Result<&'c Endpoint, Error> {
        loop {
            while let Some(host) = self.hosts.get(self.next) {
                self.current = self.next;
                self.next += 1;
                if !host.is_out {
                    return Ok(host.endpoint);
                }
            }
            if self.round >= ROUNDS || self.is_decided() || self.hosts.iter().all(|host| host.is_out) {
                return Err(self.error());
            }
            let pause = self.pause * 4_u32.saturating_pow(self.round - 1);
            tokio::time::sleep(pause.min(PAUSE_LIMIT).max(self.wait)).await;
            self.round += 1;
            (self.next, self.wait) = (0, Duration::ZERO);
        }
    }

    /// The registry itself does not have it: no mirror is waited for.
    fn is_decided(&self) -> bool {
        let is_missing = |host: &Try<'_>| matches!(host.failure, Some(Failure::Missing));
        self.hosts.iter().any(|host| host.endpoint.host().is_registry && is_missing(host))
    }

    /// Takes note of why the current host has not helped.
    pub(super) fn failed(&mut self, failure: Failure) {
        let Some(host) = self.hosts.get_mut(self.current) else { return };
        tracing::debug!("{} from {}: {failure:?}", self.reference, host.endpoint.origin());
        host.is_out = match &failure {
            Failure::Unreachable(_) | Failure::Stalled(_) => false,
            Failure::Busy(_, wait) => {
                let wait = wait.unwrap_or_default();
                self.wait = self.wait.max(wait.min(WAIT_LIMIT));
                wait > WAIT_LIMIT
            }
            Failure::NotHttp(_)
            | Failure::Refused(_)
            | Failure::Missing
            | Failure::Denied(_)
            | Failure::Final(_) => true,
        };
        let answers = matches!(failure, Failure::Missing | Failure::Denied(_) | Failure::Final(_));
        host.endpoint.set_down(!answers);
        host.failure = Some(failure);
    }

    /// Much has come since: all rounds are to be had again.
    pub(super) fn renew(&mut self) {
        self.round = 1;
    }

    fn error(&self) -> Error {
        // The registry's own word counts, wherever in the order it was asked.
        let own = self.hosts.iter().position(|host| host.endpoint.host().is_registry);
        let own = own.or(self.hosts.len().checked_sub(1));
        let Some((own, host)) = own.and_then(|own| Some((own, self.hosts.get(own)?))) else {
            return Error::invalid(format!("{}: no host may be asked", self.reference));
        };
        let (reference, origin) = (self.reference, host.endpoint.origin());
        let others = self.hosts.iter().enumerate().filter(|(index, _)| *index != own);
        let others: Vec<String> = others
            .filter_map(|(_, host)| {
                Some(format!("{}: {}", host.endpoint.origin(), short(host.failure.as_ref()?)))
            })
            .collect();
        let also =
            if others.is_empty() { String::new() } else { format!(" (also asked: {})", others.join("; ")) };
        let unavailable = |kind, why: &str| {
            let text =
                format!("RegistryUnavailable: cannot pull {reference} from registry {origin}: {why}{also}");
            Error::new(kind, text)
        };
        match &host.failure {
            None => Error::invalid(format!("{reference}: registry {origin} was not asked")),
            Some(Failure::Missing) => {
                Error::not_found(format!("image {reference} does not exist in registry {origin}{also}"))
            }
            Some(Failure::Denied(how)) => Error::new(
                Kind::Denied,
                format!(
                    "registry {origin} denies image {reference}: {how}; it may be private, or not exist{also}"
                ),
            ),
            Some(Failure::Stalled(why)) => unavailable(Kind::Timeout, why),
            Some(Failure::Busy(why, Some(wait))) if *wait > WAIT_LIMIT => {
                unavailable(Kind::Unavailable, &format!("{why} and wants to be left alone for {wait:?}"))
            }
            Some(
                Failure::NotHttp(why)
                | Failure::Unreachable(why)
                | Failure::Busy(why, _)
                | Failure::Refused(why),
            ) => unavailable(Kind::Unavailable, why),
            Some(Failure::Final(error)) => {
                Error::new(error.kind(), format!("pull of {reference} from {origin}: {error}{also}"))
            }
        }
    }
}

fn short(failure: &Failure) -> String {
    match failure {
        Failure::Missing => "does not have it".to_owned(),
        Failure::NotHttp(why)
        | Failure::Unreachable(why)
        | Failure::Busy(why, _)
        | Failure::Stalled(why)
        | Failure::Refused(why)
        | Failure::Denied(why) => why.clone(),
        Failure::Final(error) => error.to_string(),
    }
}
