//! Tokens of the pod's service account: asked for, kept, and asked for again before they end.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use crate::Result;
use crate::agent::{Objects, Token, TokenRequest};
use crate::api::{Pod, PodSpec, ServiceAccountTokenProjection};

/// Seconds that a token is valid that does not say.
const HOUR: i64 = 3600;
/// No token is used longer, however long it is valid (the kubelet's).
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// After a failure to renew one that is still good.
const RETRY: SignedDuration = SignedDuration::from_secs(10);

/// The tokens of one pod.
#[derive(Debug, Default)]
pub(in crate::agent) struct Tokens {
    held: Mutex<Vec<Held>>,
    /// Rung when there are other ones.
    renewed: Notify,
}

#[derive(Debug, Clone)]
struct Held {
    request: TokenRequest,
    token: Token,
    /// When the next is asked for.
    renew: Timestamp,
}

/// What the pod asks of the token of a projection.
pub(super) fn request(pod: &Pod, source: &ServiceAccountTokenProjection) -> TokenRequest {
    let account = &pod.spec.service_account_name;
    TokenRequest {
        namespace: pod.metadata.namespace.clone(),
        service_account: if account.is_empty() { "default".to_owned() } else { account.clone() },
        pod: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        audience: source.audience.clone(),
        expiration_seconds: source.expiration_seconds.unwrap_or(HOUR),
    }
}

/// The one user that all containers run as, if it is known (`FsUserFrom`).
pub(super) fn owner(spec: &PodSpec) -> Option<u32> {
    let of_pod = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let all = spec.init_containers.iter().chain(&spec.containers).chain(&spec.ephemeral_containers);
    let mut users = all.map(|container| {
        container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

impl Tokens {
    /// The tokens that the pod's volumes show, asked for where there is none, or an old one.
    ///
    /// # Errors
    /// There is none, and none is given. An old one is used as long as it is valid.
    pub(super) async fn get(
        &self,
        pod: &Pod,
        objects: &dyn Objects,
        now: Timestamp,
    ) -> Result<Vec<(TokenRequest, Token)>> {
        let projected = pod.spec.volumes.iter().filter_map(|volume| volume.projected.as_ref());
        let sources = projected.flat_map(|projected| &projected.sources);
        let mut tokens = Vec::new();
        for source in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let request = request(pod, source);
            if tokens.iter().any(|(asked, _)| *asked == request) {
                continue;
            }
            let token = self.one(&request, objects, now).await?;
            tokens.push((request, token));
        }
        self.lock().retain(|held| tokens.iter().any(|(asked, _)| *asked == held.request));
        Ok(tokens)
    }

    /// When the next token has to be asked for.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.lock().iter().map(|held| held.renew).min()
    }

    /// Waits until one has been renewed.
    pub(super) async fn renewed(&self) {
        self.renewed.notified().await;
    }

    async fn one(&self, request: &TokenRequest, objects: &dyn Objects, now: Timestamp) -> Result<Token> {
        let held = self.lock().iter().find(|held| held.request == *request).cloned();
        if let Some(held) = &held
            && now < held.renew
        {
            return Ok(held.token.clone());
        }
        let (token, renew) = match (objects.token(request).await, held) {
            (Ok(token), _) => {
                let renew = renew_at(&token, request.expiration_seconds, now);
                (token, renew)
            }
            (Err(error), Some(held)) if now < held.token.expires => {
                tracing::warn!("pod {}/{}: renew a token: {error}", request.namespace, request.pod);
                (held.token, now.saturating_add(RETRY).unwrap_or(now))
            }
            (Err(error), _) => return Err(error.context("failed to fetch token")),
        };
        let mut all = self.lock();
        all.retain(|held| held.request != *request);
        all.push(Held { request: request.clone(), token: token.clone(), renew });
        drop(all);
        self.renewed.notify_one();
        Ok(token)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At 80 % of its life, and within a day.
fn renew_at(token: &Token, asked: i64, now: Timestamp) -> Timestamp {
    // Who gives tokens may give shorter or longer ones than were asked for.
    let life = token.expires.duration_since(now).as_secs().clamp(0, i64::MAX / 5);
    let part = SignedDuration::from_secs(life - life.min(asked.max(1)) / 5);
    let after = part.min(LONGEST).max(SignedDuration::from_secs(1));
    now.saturating_add(after).unwrap_or(token.expires)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> Pod {
        let spec: serde_json::Value = serde_saphyr::from_str(spec).unwrap();
        Pod::from_value(serde_json::json!({ "metadata": { "name": "p", "namespace": "n" }, "spec": spec }))
            .unwrap()
    }

    #[test]
    fn renewed_at_four_fifths_and_within_a_day() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let after = |asked: i64, life: i64| {
            let token = Token { token: String::new(), expires: now + SignedDuration::from_secs(life) };
            renew_at(&token, asked, now).duration_since(now).as_secs()
        };
        assert_eq!(after(3600, 3600), 2880);
        assert_eq!(after(600, 600), 480);
        // Service accounts' own tokens are valid for a year, though an hour was asked for.
        assert_eq!(after(3607, 365 * 86_400), 24 * 3600);
        assert_eq!(after(3600, 100), 80);
        assert_eq!(after(3600, -5), 1);
        assert_eq!(after(i64::MAX, i64::from(i32::MAX)), 24 * 3600);
    }

    #[test]
    fn the_user_of_all_containers_or_nobody() {
        for (spec, expected) in [
            ("containers: [{name: a, image: x}]", None),
            ("securityContext: {runAsUser: 5}\ncontainers: [{name: a, image: x}]", Some(5)),
            (
                "securityContext: {runAsUser: 5}\ncontainers: [{name: a, image: x}, {name: b, image: x, securityContext: {runAsUser: 6}}]",
                None,
            ),
            (
                "initContainers: [{name: i, image: x}]\ncontainers: [{name: a, image: x, securityContext: {runAsUser: 6}}]",
                None,
            ),
            ("containers: [{name: a, image: x, securityContext: {runAsUser: 0}}]", Some(0)),
        ] {
            assert_eq!(owner(&pod(spec).spec), expected, "{spec}");
        }
    }
}
