//! Who asks, and whether they may: the one place through which every request goes.
//!
//! Somebody is known by a client certificate of our authority or by a token of a service account; who is neither gets 401.
//! What a user may is decided by an [`Authorizer`].

mod attributes;
mod authorize;
mod certificate;
mod impersonate;
mod token;
mod user;

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use jiff::Timestamp;
use serde_json::Value;

pub use self::attributes::Attributes;
pub use self::authorize::{Authorizer, Defaults, Rule};
pub(crate) use self::certificate::CREDENTIAL_ID;
pub use self::certificate::Peer;
use self::token::Refused;
pub(crate) use self::token::{Bound, Claims, Reference};
pub use self::token::{ISSUER, Signer};
pub use self::user::{MASTERS, User};
use crate::{Details, Reason, Status};

/// How long a token is still taken after the pod's deletion should have come to its end.
const AFTER_DELETION: i64 = 60;

/// Looks at objects that tokens are bound to.
pub trait Lookup: Send + Sync {
    /// `metadata` of the object, if there is one. The resource is one of the core group, as `pods`.
    fn metadata(&self, resource: &str, namespace: &str, name: &str) -> Option<Value>;
}

impl Lookup for crate::Cluster {
    fn metadata(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = self.kind("", "v1", resource)?;
        self.get(kind, namespace, name).ok()?.value().get_mut("metadata").map(Value::take)
    }
}

/// Tells who asks and decides whether they may. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Parts>);

struct Parts {
    signer: Signer,
    objects: Box<dyn Lookup>,
    authorizer: Box<dyn Authorizer>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("authorizer", &self.0.authorizer).finish_non_exhaustive()
    }
}

impl Access {
    /// With the rules of [`Defaults`].
    pub fn new(signer: Signer, objects: Box<dyn Lookup>) -> Self {
        Self::with_authorizer(signer, objects, Box::new(Defaults))
    }

    /// With rules of one's own.
    pub fn with_authorizer(
        signer: Signer,
        objects: Box<dyn Lookup>,
        authorizer: Box<dyn Authorizer>,
    ) -> Self {
        Self(Arc::new(Parts { signer, objects, authorizer }))
    }

    /// The key that signs tokens.
    pub(crate) fn signer(&self) -> &Signer {
        &self.0.signer
    }

    /// What decides.
    pub(crate) fn authorizer(&self) -> &dyn Authorizer {
        &*self.0.authorizer
    }

    /// Who asks: by the connection's certificate, else by the token in the header; as somebody else where headers of
    /// impersonation say so and the user may.
    ///
    /// # Errors
    /// 401 for who is unknown, 403 for who may not be the other, 400 for headers that make no sense.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<User, Status> {
        let user = self.identify(headers, peer)?;
        let Some(other) = impersonate::wanted(headers)? else { return Ok(user) };
        for (what, _) in impersonate::needs(&other) {
            self.authorize(&user, &what)?;
        }
        Ok(other)
    }

    fn identify(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<User, Status> {
        let now = Timestamp::now().as_second();
        match peer {
            Some(Peer::Known(user, until)) if now < *until => return Ok((**user).clone()),
            Some(Peer::Known(user, _)) => tracing::debug!(user = user.name, "certificate has expired"),
            Some(Peer::Refused(why)) => tracing::debug!(why, "certificate refused"),
            None => {}
        }
        let token = bearer(headers).ok_or_else(Status::unauthorized)?;
        let audiences = [ISSUER.to_owned()];
        self.token_user(token, &audiences, now).map(|(user, _)| user).map_err(|why| {
            tracing::debug!(why, "token refused");
            Status::unauthorized()
        })
    }

    /// Whose token it is, and for which of the audiences; or why it is nobody's.
    pub(crate) fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        now: i64,
    ) -> Result<(User, Vec<String>), String> {
        let claims = self.0.signer.verify(token, audiences, now).map_err(|why: Refused| why.to_string())?;
        self.check_objects(&claims, now)?;
        let bound = &claims.bound;
        let mut user =
            User::service_account(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
        if claims.sub != user.name {
            return Err("subject and service account differ".to_owned());
        }
        let mut extra = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if let Some(pod) = &bound.pod {
            extra("pod-name", &pod.name);
            extra("pod-uid", &pod.uid);
        }
        if let Some(node) = &bound.node {
            extra("node-name", &node.name);
            extra("node-uid", &node.uid);
        }
        if !claims.jti.is_empty() {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={}", claims.jti)]);
        }
        let audiences = claims.aud.into_iter().filter(|aud| audiences.contains(aud)).collect();
        Ok((user, audiences))
    }

    /// A token ends with what it is bound to.
    fn check_objects(&self, claims: &Claims, now: i64) -> Result<(), String> {
        let bound = &claims.bound;
        self.same("serviceaccounts", &bound.namespace, &bound.serviceaccount, now)?;
        if let Some(pod) = &bound.pod {
            self.same("pods", &bound.namespace, pod, now)?;
        } else if let Some(secret) = &bound.secret {
            self.same("secrets", &bound.namespace, secret, now)?;
        } else if let Some(node) = &bound.node {
            self.same("nodes", "", node, now)?;
        }
        Ok(())
    }

    fn same(&self, resource: &str, namespace: &str, wanted: &Reference, now: i64) -> Result<(), String> {
        let gone = || format!("{resource} {namespace}/{} is gone", wanted.name);
        let metadata = self.0.objects.metadata(resource, namespace, &wanted.name).ok_or_else(gone)?;
        if metadata.get("uid").and_then(Value::as_str) != Some(&wanted.uid) {
            return Err(format!("{resource} {namespace}/{} is another one by now", wanted.name));
        }
        let deleted = metadata.get("deletionTimestamp").and_then(Value::as_str);
        let over = deleted.and_then(|time| time.parse::<Timestamp>().ok());
        match over {
            Some(time) if time.as_second().saturating_add(AFTER_DELETION) < now => Err(gone()),
            _ => Ok(()),
        }
    }

    /// Whether the user may.
    ///
    /// # Errors
    /// 403 in Kubernetes' words.
    pub fn authorize(&self, user: &User, what: &Attributes<'_>) -> Result<(), Status> {
        match self.0.authorizer.allows(user, what) {
            Some(_) => Ok(()),
            None => Err(forbidden(user, what)),
        }
    }
}

/// 403, as Kubernetes' `NewForbidden` words it.
fn forbidden(user: &User, what: &Attributes<'_>) -> Status {
    let why = what.refusal(&user.name);
    let resource = match what.group {
        "" => what.resource.to_owned(),
        group => format!("{}.{group}", what.resource),
    };
    let message = match (what.is_resource(), what.name) {
        (false, _) => format!("forbidden: {why}"),
        (true, "") => format!("{resource} is forbidden: {why}"),
        (true, name) => format!("{resource} {name:?} is forbidden: {why}"),
    };
    Status::plain(403, Reason::Forbidden, message).with_details(Details {
        name: what.name.to_owned(),
        group: what.group.to_owned(),
        kind: what.resource.to_owned(),
        ..Details::default()
    })
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests;
