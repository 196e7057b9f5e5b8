//! Who asks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Its members may do everything: the admin's certificate names it, and so do our own components.
pub const MASTERS: &str = "system:masters";

/// Everybody who could say who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";

/// Whoever could not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";

/// The name of [`UNAUTHENTICATED`]'s only member.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

/// Every service account.
pub(crate) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

/// Begins the names of service accounts: `system:serviceaccount:NAMESPACE:NAME`.
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

/// A user as Kubernetes knows them (`UserInfo` of authentication.k8s.io/v1).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct User {
    /// Common name of the certificate, or `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Unique in time, as a service account's; may be empty.
    pub uid: String,
    /// Organizations of the certificate, or what a service account is a member of.
    pub groups: Vec<String>,
    /// What else is known, as the pod that a token was made for.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// A component of this process, which may do everything: `system:vaquita:COMPONENT`.
    pub fn system(component: &str) -> Self {
        Self {
            name: format!("system:vaquita:{component}"),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        Self {
            name: format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: service_account_groups(namespace),
            extra: BTreeMap::new(),
        }
    }

    /// Whether they are a member.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// As `UserInfo` in JSON, without what is empty.
    pub fn to_value(&self) -> Value {
        let mut info = json!({ "username": self.name });
        if !self.uid.is_empty() {
            info["uid"] = json!(self.uid);
        }
        if !self.groups.is_empty() {
            info["groups"] = json!(self.groups);
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}

/// What a service account of the namespace is a member of.
pub(crate) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec![SERVICE_ACCOUNTS.to_owned(), format!("{SERVICE_ACCOUNTS}:{namespace}"), AUTHENTICATED.to_owned()]
}

/// Namespace and name, where the user is a service account.
pub(crate) fn split_service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_is_known_by_its_name() {
        let user = User::service_account("default", "web", "1-2");
        assert_eq!(user.name, "system:serviceaccount:default:web");
        assert_eq!(split_service_account(&user.name), Some(("default", "web")));
        for name in
            ["system:serviceaccount:default", "system:serviceaccount::web", "system:serviceaccount:a:b:c"]
        {
            assert_eq!(split_service_account(name), None, "{name}");
        }
        assert!(user.is_in("system:serviceaccounts:default") && !user.is_in(MASTERS));
    }
}
