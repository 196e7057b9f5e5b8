//! Who may do what.
//!
//! Until there are roles in the API, the answer is a table of what Kubernetes' default roles give:
//!
//! * members of `system:masters` (the admin's certificate and our own components) may do everything;
//! * everybody who is known may ask what there is (`system:discovery`, `system:public-info-viewer`), what they themselves may do
//!   and who they are (`system:basic-user`);
//! * service accounts may read how their tokens are verified (`system:service-account-issuer-discovery`), and nothing else.

use std::fmt;

use super::user::{AUTHENTICATED, MASTERS, SERVICE_ACCOUNTS, UNAUTHENTICATED};
use super::{Attributes, User};

/// Decides for every request, and says what it would decide.
pub trait Authorizer: fmt::Debug + Send + Sync {
    /// The rules that give a user something in a namespace. What no rule allows is forbidden.
    fn rules(&self, user: &User, namespace: &str) -> Vec<Rule>;

    /// Why the user may, or `None`.
    fn allows(&self, user: &User, what: &Attributes<'_>) -> Option<String> {
        self.rules(user, what.namespace)
            .iter()
            .find(|rule| rule.covers(what))
            .map(|rule| rule.reason.to_owned())
    }
}

/// What is allowed together: each verb on each resource, or on each path (as `PolicyRule` of rbac.authorization.k8s.io/v1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// `*` is every one.
    pub verbs: &'static [&'static str],
    /// API groups; `*` is every one.
    pub groups: &'static [&'static str],
    /// `pods`, `pods/log`; `*` is every one.
    pub resources: &'static [&'static str],
    /// Paths; a `*` at the end stands for the rest.
    pub paths: &'static [&'static str],
    /// Why, for those who ask.
    pub reason: &'static str,
}

impl Rule {
    /// Whether this allows it.
    pub fn covers(&self, what: &Attributes<'_>) -> bool {
        let any = |all: &[&str], one: &str| all.iter().any(|own| *own == "*" || *own == one);
        if !any(self.verbs, what.verb) {
            return false;
        }
        if !what.is_resource() {
            return self.paths.iter().any(|path| match path.strip_suffix('*') {
                Some(start) => what.path.starts_with(start),
                None => what.path == *path,
            });
        }
        let resource = match what.subresource {
            "" => what.resource.to_owned(),
            sub => format!("{}/{sub}", what.resource),
        };
        any(self.groups, what.group) && any(self.resources, &resource)
    }
}

/// The table of this module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults;

impl Authorizer for Defaults {
    fn rules(&self, user: &User, _namespace: &str) -> Vec<Rule> {
        TABLE.iter().filter(|(group, _)| user.is_in(group)).map(|(_, rule)| *rule).collect()
    }
}

const TABLE: &[(&str, Rule)] = &[
    (MASTERS, Rule { verbs: &["*"], groups: &["*"], resources: &["*"], ..NOTHING }),
    (MASTERS, Rule { verbs: &["*"], paths: &["*"], ..NOTHING }),
    (
        AUTHENTICATED,
        Rule {
            verbs: &["create"],
            groups: &["authorization.k8s.io"],
            resources: &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
            ..NOTHING
        },
    ),
    (
        AUTHENTICATED,
        Rule {
            verbs: &["create"],
            groups: &["authentication.k8s.io"],
            resources: &["selfsubjectreviews"],
            ..NOTHING
        },
    ),
    (
        AUTHENTICATED,
        Rule {
            verbs: &["get"],
            paths: &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"],
            ..NOTHING
        },
    ),
    (AUTHENTICATED, Rule { verbs: &["get"], paths: PUBLIC, ..NOTHING }),
    (UNAUTHENTICATED, Rule { verbs: &["get"], paths: PUBLIC, ..NOTHING }),
    (
        SERVICE_ACCOUNTS,
        Rule {
            verbs: &["get"],
            paths: &[
                "/.well-known/openid-configuration",
                "/.well-known/openid-configuration/",
                "/openid/v1/jwks",
                "/openid/v1/jwks/",
            ],
            ..NOTHING
        },
    ),
];

const PUBLIC: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];

const NOTHING: Rule = Rule { verbs: &[], groups: &[], resources: &[], paths: &[], reason: "" };

#[cfg(test)]
mod tests {
    use super::*;

    fn list_pods() -> Attributes<'static> {
        Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() }
    }

    #[test]
    fn masters_may_do_everything_and_service_accounts_read_what_there_is() {
        let own = User::system("node");
        assert!(Defaults.allows(&own, &list_pods()).is_some());
        assert!(
            Defaults
                .allows(&own, &Attributes { verb: "delete", path: "/x", ..Attributes::default() })
                .is_some()
        );
        let account = User::service_account("default", "default", "1");
        assert_eq!(Defaults.allows(&account, &list_pods()), None);
        for path in ["/api", "/apis/apps/v1", "/openapi/v3", "/version", "/livez", "/openid/v1/jwks"] {
            let what = Attributes { verb: "get", path, ..Attributes::default() };
            assert!(Defaults.allows(&account, &what).is_some(), "{path}");
            assert_eq!(Defaults.allows(&account, &Attributes { verb: "post", ..what }), None, "{path}");
        }
        let what = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(Defaults.allows(&account, &what), None);
        let review = Attributes {
            verb: "create",
            group: "authorization.k8s.io",
            resource: "selfsubjectaccessreviews",
            ..Attributes::default()
        };
        assert!(Defaults.allows(&account, &review).is_some());
        assert_eq!(
            Defaults.allows(&account, &Attributes { resource: "subjectaccessreviews", ..review }),
            None
        );
        assert_eq!(Defaults.allows(&account, &Attributes { subresource: "x", ..review }), None);
    }
}
