//! What the API looks like, for clients that check, merge or explain.

use vaquita_schema::openapi::{self, Part, Served};

use crate::{Cluster, Kind, Subresource, metrics, reviews};

/// The document at a path below `/openapi/`, and its form: `v2`, `v3`, `v3/apis/apps/v1`; nothing where there is none.
/// `accept` is what the client asks for: the second version has a binary form, which kubectl wants.
pub(crate) fn document(cluster: &Cluster, path: &str, accept: &str) -> Option<(&'static str, Vec<u8>)> {
    let rows: Vec<Row> = cluster.kinds().map(Row::of).collect();
    let mut served: Vec<Served<'_>> = rows.iter().map(Row::served).collect();
    served.extend(reviews::KINDS.iter().map(|kind| Served {
        group: kind.group,
        version: kind.version,
        kind: kind.kind,
        plural: kind.plural,
        namespaced: kind.namespaced,
        verbs: &["create"],
        parts: &[],
    }));
    served.extend(metrics::RESOURCES.iter().map(|(plural, _, kind, namespaced)| Served {
        group: metrics::GROUP,
        version: metrics::VERSION,
        kind,
        plural,
        namespaced: *namespaced,
        verbs: &["get", "list"],
        parts: &[],
    }));
    let json = "application/json";
    match path.trim_end_matches('/') {
        "v2" if accept.contains("proto-openapi") => Some((
            "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            openapi::v2_protobuf(&served),
        )),
        "v2" => Some((json, openapi::v2(&served))),
        "v3" => Some((json, serde_json::to_vec(&openapi::index(&served)).ok()?)),
        path => Some((json, openapi::v3(path.strip_prefix("v3/")?, &served)?)),
    }
}

/// A kind in the words of the schema.
struct Row {
    kind: &'static Kind,
    verbs: Vec<&'static str>,
    parts: Vec<Part<'static>>,
}

impl Row {
    fn of(kind: &'static Kind) -> Self {
        Self {
            kind,
            verbs: kind.verbs.iter().map(|verb| verb.as_str()).collect(),
            parts: kind.subresources.iter().filter_map(|part| self::part(kind, *part)).collect(),
        }
    }

    fn served(&self) -> Served<'_> {
        Served {
            group: self.kind.group,
            version: self.kind.version,
            kind: self.kind.name,
            plural: self.kind.plural,
            namespaced: self.kind.namespaced(),
            verbs: &self.verbs,
            parts: &self.parts,
        }
    }
}

/// A subresource that takes or gives objects.
fn part(of: &'static Kind, part: Subresource) -> Option<Part<'static>> {
    let own = (of.group, of.version, of.name);
    let change: &[&str] = &["get", "patch", "update"];
    let ((group, version, kind), verbs): (_, &[&str]) = match part {
        Subresource::EphemeralContainers | Subresource::Resize | Subresource::Status => (own, change),
        Subresource::Scale => (("autoscaling", "v1", "Scale"), change),
        Subresource::Finalize => (own, &["update"]),
        Subresource::Binding => (("", "v1", "Binding"), &["create"]),
        Subresource::Eviction => (("policy", "v1", "Eviction"), &["create"]),
        Subresource::Token => (("authentication.k8s.io", "v1", "TokenRequest"), &["create"]),
        Subresource::Attach
        | Subresource::Exec
        | Subresource::Log
        | Subresource::PortForward
        | Subresource::Proxy => return None,
    };
    Some(Part { name: part.as_str(), group, version, kind, verbs })
}
