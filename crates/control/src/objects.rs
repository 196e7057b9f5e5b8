//! What pods refer to, from the cluster: ConfigMaps, Secrets, tokens.

use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use vaquita_apiserver::kinds::{CONFIG_MAP, SECRET};
use vaquita_apiserver::{Kind, Reason};
use vaquita_kube::agent::{Objects, Token, TokenRequest};
use vaquita_kube::api::{ConfigMap, Secret};
use vaquita_kube::{Error, Result};

use crate::control::Shared;
use crate::follow::{Follow, Told};

/// The cluster's objects.
#[derive(Debug)]
pub(crate) struct Referred {
    shared: Arc<Shared>,
    changed: watch::Receiver<u64>,
}

impl Referred {
    /// The cluster's objects, and the work that notices their changes.
    pub(crate) fn new(shared: Arc<Shared>) -> (Self, impl Future<Output = ()> + Send) {
        let (tell, changed) = watch::channel(0);
        let maps = Follow::new(shared.cluster.clone(), &CONFIG_MAP);
        let secrets = Follow::new(shared.cluster.clone(), &SECRET);
        (Self { shared, changed }, notice(maps, secrets, tell))
    }

    fn look_up(&self, kind: &'static Kind, namespace: &str, name: &str) -> Result<Option<Value>> {
        match self.shared.cluster.get(kind, namespace, name) {
            Ok(object) => Ok(Some(object.value())),
            Err(error) if error.reason == Reason::NotFound => Ok(None),
            Err(error) => Err(Error::failed(error.message)),
        }
    }

    async fn request(&self, wanted: &TokenRequest) -> Result<Token> {
        let audiences: &[&str] = if wanted.audience.is_empty() { &[] } else { &[&wanted.audience] };
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": wanted.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": wanted.pod, "uid": wanted.uid},
            },
        });
        let tokens = &self.shared.config.tokens;
        let answer = tokens.request(&wanted.namespace, &wanted.service_account, request).await;
        let answer = answer.map_err(|error| Error::failed(error.message))?;
        let status = &answer["status"];
        let expires: Option<Timestamp> =
            status["expirationTimestamp"].as_str().and_then(|at| at.parse().ok());
        let (Some(token), Some(expires)) = (status["token"].as_str(), expires) else {
            return Err(Error::failed("the token request was answered without a token"));
        };
        Ok(Token { token: token.to_owned(), expires })
    }
}

impl Objects for Referred {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<ConfigMap>>> + Send + 'a>> {
        let found = self.look_up(&CONFIG_MAP, namespace, name);
        let found = found.and_then(|found| found.map(ConfigMap::from_value).transpose());
        Box::pin(std::future::ready(found))
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Secret>>> + Send + 'a>> {
        let found = self.look_up(&SECRET, namespace, name);
        let found = found.and_then(|found| found.map(Secret::from_value).transpose());
        Box::pin(std::future::ready(found))
    }

    fn token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>> {
        Box::pin(self.request(request))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

/// Counts changes.
async fn notice(mut maps: Follow, mut secrets: Follow, tell: watch::Sender<u64>) {
    loop {
        let told = tokio::select! {
            told = maps.next() => told,
            told = secrets.next() => told,
        };
        if !matches!(&told, Told::All(objects) if objects.is_empty()) {
            tell.send_modify(|count| *count += 1);
        }
    }
}
