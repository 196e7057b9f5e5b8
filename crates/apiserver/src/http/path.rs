//! What a request's path means.

/// What is asked for. Names are decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/{group}`
    Group(String),
    /// `/api/v1`, `/apis/{group}/{version}`
    GroupVersion(String, String),
    /// `/healthz`, `/livez`, `/readyz`, with what comes after.
    Health(String),
    /// `/openapi/…`, without that.
    OpenApi(String),
    /// Something of a kind.
    Resource(Place),
    /// Nothing that is known.
    Unknown,
    /// `/version`
    Version,
}

/// Where an object, or all of a kind, is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Empty: of the cluster, or in all namespaces.
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// What comes after the subresource.
    pub(crate) rest: String,
    /// The old form of watches: `/api/v1/watch/…`.
    pub(crate) watch: bool,
}

/// Reads a path, as the request has it.
pub(crate) fn parse(path: &str) -> Route {
    let mut parts = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match decode(part) {
            Some(part) => parts.push(part),
            None => return Route::Unknown,
        }
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", rest @ ..] => Route::Health(rest.join("/")),
        ["openapi", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["api"] => Route::CoreVersions,
        ["api", version] => Route::GroupVersion(String::new(), (*version).to_owned()),
        ["api", version, rest @ ..] => place("", version, rest),
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        ["apis", group, version] => Route::GroupVersion((*group).to_owned(), (*version).to_owned()),
        ["apis", group, version, rest @ ..] => place(group, version, rest),
        _ => Route::Unknown,
    }
}

fn place(group: &str, version: &str, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // These are namespaces themselves, not what is in one.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => ("", rest),
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let part = |index: usize| rest.get(index).map(|part| (*part).to_owned()).unwrap_or_default();
    Route::Resource(Place {
        group: group.to_owned(),
        version: version.to_owned(),
        namespace: namespace.to_owned(),
        resource: part(0),
        name: part(1),
        subresource: part(2),
        rest: rest.get(3..).map(|rest| rest.join("/")).unwrap_or_default(),
        watch,
    })
}

/// Undoes `%41`; None where it is not UTF-8 or not two digits.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str) -> String {
        match parse(path) {
            Route::Resource(place) => {
                let Place { group, version, namespace, resource, name, subresource, rest, watch } = place;
                format!("{group}|{version}|{namespace}|{resource}|{name}|{subresource}|{rest}|{watch}")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_understood() {
        for (path, meaning) in [
            ("/api/v1/pods", "|v1||pods||||false"),
            ("/api/v1/namespaces", "|v1||namespaces||||false"),
            ("/api/v1/namespaces/a", "|v1||namespaces|a|||false"),
            ("/api/v1/namespaces/a/finalize", "|v1||namespaces|a|finalize||false"),
            ("/api/v1/namespaces/a/pods/b/log", "|v1|a|pods|b|log||false"),
            ("/api/v1/nodes/n/proxy/a/b", "|v1||nodes|n|proxy|a/b|false"),
            (
                "/apis/coordination.k8s.io/v1/namespaces/k/leases/n",
                "coordination.k8s.io|v1|k|leases|n|||false",
            ),
            ("/api/v1/watch/namespaces/a/pods", "|v1|a|pods||||true"),
            ("/apis/rbac/v1/clusterroles/system:a%2Fb", "rbac|v1||clusterroles|system:a/b|||false"),
            ("/api/", "CoreVersions"),
            ("/apis/a", "Group(\"a\")"),
            ("/apis/a/v1", "GroupVersion(\"a\", \"v1\")"),
            ("/openapi/v3/api/v1", "OpenApi(\"v3/api/v1\")"),
            ("/livez/ping", "Health(\"ping\")"),
            ("/nowhere", "Unknown"),
            ("/api/v1/pods/%zz", "Unknown"),
        ] {
            assert_eq!(told(path), meaning, "{path}");
        }
    }
}
