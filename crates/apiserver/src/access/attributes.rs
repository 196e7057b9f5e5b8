//! What is asked for.

/// One request, as an authorizer sees it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; of a path the method in small letters.
    pub verb: &'a str,
    /// API group, empty for the core one.
    pub group: &'a str,
    /// API version.
    pub version: &'a str,
    /// Plural name, as `pods`; empty for a request for a path.
    pub resource: &'a str,
    /// As `log`, or empty.
    pub subresource: &'a str,
    /// Empty for what has none, and for all.
    pub namespace: &'a str,
    /// Empty where none is named.
    pub name: &'a str,
    /// Of a request for something that is no resource, as `/version`; else empty.
    pub path: &'a str,
}

impl Attributes<'_> {
    /// Whether a resource is asked for, not a path.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// What a user who may not is told, in Kubernetes' words (`forbiddenMessage`, without `<`, `>` and `&`).
    pub(crate) fn refusal(&self, user: &str) -> String {
        let Self { verb, group, resource, subresource, namespace, path, .. } = self;
        let message = if !self.is_resource() {
            format!("User {user:?} cannot {verb} path {path:?}")
        } else {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = match namespace.is_empty() {
                true => "at the cluster scope".to_owned(),
                false => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {user:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {scope}"
            )
        };
        message.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_in_kubernetes() {
        let pods =
            Attributes { verb: "list", resource: "pods", namespace: "default", ..Attributes::default() };
        assert_eq!(
            pods.refusal("system:serviceaccount:default:default"),
            "User \"system:serviceaccount:default:default\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"default\""
        );
        let nodes =
            Attributes { verb: "patch", resource: "nodes", subresource: "status", ..Attributes::default() };
        assert_eq!(
            nodes.refusal("a"),
            "User \"a\" cannot patch resource \"nodes/status\" in API group \"\" at the cluster scope"
        );
        let path = Attributes { verb: "get", path: "/metrics", ..Attributes::default() };
        assert_eq!(path.refusal("<b>"), "User \"&lt;b&gt;\" cannot get path \"/metrics\"");
    }
}
