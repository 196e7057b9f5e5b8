//! Where pods get ConfigMaps, Secrets and tokens from.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::api::{ConfigMap, Secret};
use crate::manifest::Manifest;
use crate::{Error, Kind, Result};

/// What pods refer to: looked up when it is needed, and again when it may have changed.
pub trait Objects: Send + Sync {
    /// A ConfigMap; none where there is none.
    ///
    /// # Errors
    /// It cannot be looked up now; it is tried again as for one that is missing.
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<ConfigMap>>> + Send + 'a>>;

    /// A Secret; none where there is none.
    ///
    /// # Errors
    /// As for [`Self::config_map`].
    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Secret>>> + Send + 'a>>;

    /// A token of a service account that is bound to a pod.
    ///
    /// # Errors
    /// There is no such account, or nobody gives tokens.
    fn token<'a>(
        &'a self,
        request: &'a TokenRequest,
    ) -> Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>>;

    /// A number that changes whenever any ConfigMap or Secret has. A sender that is gone says that none ever will.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// Which token is wanted (`authentication.k8s.io/v1` TokenRequest).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Namespace of account and pod.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Name of the pod that the token is bound to.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Whom the token is for; the API server's own audience where empty.
    pub audience: String,
    /// Seconds that it shall be valid.
    pub expiration_seconds: i64,
}

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The text of it.
    pub token: String,
    /// When it ends.
    pub expires: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(… until {})", self.expires)
    }
}

/// ConfigMaps and Secrets that never change, such as those of a manifest. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Fixed {
    pub(super) config_maps: Arc<Vec<ConfigMap>>,
    pub(super) secrets: Arc<Vec<Secret>>,
    /// Those that the volumes of one pod show.
    pub(super) tokens: Arc<Vec<(TokenRequest, Token)>>,
}

impl Fixed {
    /// These objects.
    pub fn new(config_maps: Vec<ConfigMap>, secrets: Vec<Secret>) -> Self {
        Self { config_maps: Arc::new(config_maps), secrets: Arc::new(secrets), tokens: Arc::default() }
    }

    pub(super) fn with_tokens(self, tokens: Vec<(TokenRequest, Token)>) -> Self {
        Self { tokens: Arc::new(tokens), ..self }
    }

    pub(super) fn find_token(&self, request: &TokenRequest) -> Option<&Token> {
        self.tokens.iter().find(|(asked, _)| asked == request).map(|(_, token)| token)
    }

    pub(super) fn find_config_map(&self, namespace: &str, name: &str) -> Option<&ConfigMap> {
        let mut all = self.config_maps.iter();
        all.find(|object| object.metadata.name == name && object.metadata.namespace == namespace)
    }

    pub(super) fn find_secret(&self, namespace: &str, name: &str) -> Option<&Secret> {
        let mut all = self.secrets.iter();
        all.find(|object| object.metadata.name == name && object.metadata.namespace == namespace)
    }
}

impl From<&Manifest> for Fixed {
    fn from(manifest: &Manifest) -> Self {
        Self::new(manifest.config_maps.clone(), manifest.secrets.clone())
    }
}

impl Objects for Fixed {
    fn config_map<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<ConfigMap>>> + Send + 'a>> {
        Box::pin(ready(Ok(self.find_config_map(namespace, name).cloned())))
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Option<Secret>>> + Send + 'a>> {
        Box::pin(ready(Ok(self.find_secret(namespace, name).cloned())))
    }

    fn token<'a>(&'a self, _: &'a TokenRequest) -> Pin<Box<dyn Future<Output = Result<Token>> + Send + 'a>> {
        let message = "there are no service accounts here: nobody gives tokens";
        Box::pin(ready(Err(Error::new(Kind::Unsupported, message))))
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
}
