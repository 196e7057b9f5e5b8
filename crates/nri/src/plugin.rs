//! One plugin that has registered: what it subscribed to, and how it is asked.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::{Mutex, MutexGuard};

use crate::api::{
    ConfigureRequest, ConfigureResponse, Container, Empty, Event, PodSandbox, RegisterPluginRequest,
    StateChangeEvent,
};
use crate::connection::{Connection, Failure};
use crate::events::{Events, method};
use crate::ttrpc::Status;
use crate::{Error, Kind, Result};

/// The version of NRI that is spoken.
const NRI: &str = "v0.12.0";

/// A plugin.
#[derive(Debug)]
pub(crate) struct Plugin {
    /// In this order plugins are asked.
    pub(crate) name: Name,
    pub(crate) connection: Connection,
    events: Events,
    request_timeout: Duration,
    /// It is asked one thing at a time: other runtimes do so, and plugins rely on it. Held until it is synchronized.
    lane: Mutex<()>,
    /// It hears of events by StateChange alone, as plugins once did.
    is_old: AtomicBool,
}

/// The name of a plugin; they are compared as they are to be asked.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Name {
    /// Two digits.
    pub(crate) index: String,
    pub(crate) name: String,
}

/// What plugins are told.
#[derive(Debug)]
pub(crate) struct News<'a> {
    pub(crate) event: Event,
    pub(crate) pod: &'a PodSandbox,
    pub(crate) container: Option<&'a Container>,
    /// The request of the event.
    pub(crate) request: Bytes,
}

/// What an old plugin can be told by StateChange.
const STATE_CHANGES: [Event; 9] = [
    Event::RunPodSandbox,
    Event::PostUpdatePodSandbox,
    Event::StopPodSandbox,
    Event::RemovePodSandbox,
    Event::PostCreateContainer,
    Event::StartContainer,
    Event::PostStartContainer,
    Event::PostUpdateContainer,
    Event::RemoveContainer,
];

impl Name {
    /// Of a file or a request.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn new(index: &str, name: &str) -> Result<Self, String> {
        if index.len() != 2 || !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{index:?} is no index of a plugin, which has two digits"));
        }
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(is_fine) {
            return Err(format!("{name:?} is no name of a plugin"));
        }
        Ok(Self { index: index.to_owned(), name: name.to_owned() })
    }

    /// `NN-name`
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let (index, name) = name
            .split_once('-')
            .ok_or_else(|| format!("{name:?} is no name of a plugin, as 10-name would be"))?;
        Self::new(index, name)
    }

    pub(crate) fn of(request: &RegisterPluginRequest) -> Result<Self, String> {
        Self::new(&request.plugin_idx, &request.plugin_name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

impl Plugin {
    /// Configures a plugin that has registered.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn configure(
        name: Name,
        connection: Connection,
        config: String,
        timeouts: &crate::Config,
    ) -> Result<Self, String> {
        let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let request = ConfigureRequest {
            config,
            runtime_name: "vaquita".to_owned(),
            runtime_version: concat!("v", env!("CARGO_PKG_VERSION")).to_owned(),
            registration_timeout: milliseconds(timeouts.registration_timeout),
            request_timeout: milliseconds(timeouts.request_timeout),
            nri_version: NRI.to_owned(),
        };
        let request_timeout = timeouts.request_timeout;
        let answer = connection.call("Configure", encode(&request), request_timeout).await;
        let ConfigureResponse { events } = answer.map_err(|failure| failure.why(&connection, "Configure"))?;
        let events = Events::subscribed(events)
            .ok_or_else(|| format!("it subscribed to events that there are not: {events:#x}"))?;
        let (lane, is_old) = (Mutex::default(), AtomicBool::default());
        Ok(Self { name, connection, events, request_timeout, lane, is_old })
    }

    /// Whether it wants to hear of this.
    pub(crate) fn hears(&self, event: Event) -> bool {
        self.events.has(event)
    }

    /// Keeps everybody else from asking it.
    pub(crate) async fn lane(&self) -> MutexGuard<'_, ()> {
        self.lane.lock().await
    }

    /// Tells it, if it wants to hear. No answer comes from a plugin that does not, that does not know this kind of request, or that is or gets
    /// closed.
    ///
    /// # Errors
    /// `Plugin`: it has answered with an error.
    pub(crate) async fn tell<A: Message + Default>(&self, news: &News<'_>) -> Result<Option<A>> {
        if !self.events.has(news.event) {
            return Ok(None);
        }
        let Some(_lane) = self.until_closed(self.lane.lock()).await else { return Ok(None) };
        let is_change = STATE_CHANGES.contains(&news.event);
        let answer = match is_change && self.is_old.load(Relaxed) {
            true => None,
            false => {
                let method = method(news.event);
                Some(self.connection.call(method, news.request.clone(), self.request_timeout).await)
            }
        };
        match answer {
            Some(Err(Failure::Refused(status))) if status.code == Status::UNIMPLEMENTED => {
                if !is_change {
                    return Ok(None);
                }
                self.is_old.store(true, Relaxed);
            }
            Some(answer) => return self.judge(news.event, answer),
            None => {}
        }
        let event = StateChangeEvent {
            event: news.event as i32,
            pod: Some(news.pod.clone()),
            container: news.container.cloned(),
        };
        match self.connection.call::<Empty>("StateChange", encode(&event), self.request_timeout).await {
            Err(Failure::Refused(status)) if status.code == Status::UNIMPLEMENTED => Ok(None),
            answer => self.judge(news.event, answer).map(|_| None),
        }
    }

    fn judge<A>(&self, event: Event, answer: Result<A, Failure>) -> Result<Option<A>> {
        let error = |why: String| {
            Error::new(Kind::Plugin, format!("plugin {} failed {}: {why}", self.name, method(event)))
        };
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Closed) => Ok(None),
            Err(Failure::Refused(status)) => Err(error(status.message)),
            Err(Failure::TooLong(length)) => Err(error(format!("the request has {length} bytes"))),
        }
    }

    /// None if it is closed before.
    async fn until_closed<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.connection.closed() => None,
            result = what => Some(result),
        }
    }
}

/// The bytes of a message.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_asked_by_index_then_by_name() {
        let mut names: Vec<_> =
            ["10-b", "05-z", "10-a", "99-a-b.c_d+e"].iter().map(|name| Name::parse(name).unwrap()).collect();
        names.sort();
        let names: Vec<_> = names.iter().map(Name::to_string).collect();
        assert_eq!(names, ["05-z", "10-a", "10-b", "99-a-b.c_d+e"]);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", "10", "10-", "1-a", "100-a", "1a-a", "-a", "10-a/b", "10-a b", "１0-a", "10-ä"] {
            assert!(Name::parse(name).is_err(), "{name}");
        }
        assert!(Name::parse(&format!("10-{}", "a".repeat(256))).is_err());
    }
}
