//! What is served, in the two forms in which clients ask.

use serde_json::{Value, json};

use crate::{Cluster, Kind, Subresource};

/// Something that is served and not stored: reviews, measurements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extra {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) verbs: &'static [&'static str],
}

/// One resource of a group version.
struct Row {
    group: &'static str,
    version: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: Vec<&'static str>,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: &'static [Subresource],
}

/// Everything that is served, by group version in the order of preference.
pub(crate) struct Served(Vec<Row>);

impl Served {
    pub(crate) fn new(cluster: &Cluster, extras: &[Extra]) -> Self {
        let mut rows: Vec<Row> = cluster.kinds().map(row).collect();
        rows.extend(extras.iter().map(|extra| Row {
            group: extra.group,
            version: extra.version,
            plural: extra.plural,
            singular: extra.singular,
            kind: extra.kind,
            namespaced: extra.namespaced,
            verbs: extra.verbs.to_vec(),
            short_names: &[],
            categories: &[],
            subresources: &[],
        }));
        rows.sort_by_key(|row| row.plural);
        Self(rows)
    }

    /// The groups in the order in which clients look for a name: the core, then by name; and each group's versions.
    fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        for row in &self.0 {
            match groups.iter_mut().find(|(group, _)| *group == row.group) {
                Some((_, versions)) if versions.contains(&row.version) => {}
                Some((_, versions)) => versions.push(row.version),
                None => groups.push((row.group, vec![row.version])),
            }
        }
        for (_, versions) in &mut groups {
            versions.sort_by_key(|version| std::cmp::Reverse(preference(version)));
        }
        groups.sort_by_key(|(group, _)| {
            (ORDER.iter().position(|one| one == group).unwrap_or(ORDER.len()), *group)
        });
        groups
    }

    /// `APIGroupDiscoveryList`, of the core or of all other groups.
    pub(crate) fn aggregated(&self, core: bool, form: &str) -> Value {
        let items = self.groups().into_iter().filter(|(group, _)| group.is_empty() == core);
        let items = items.map(|(group, versions)| {
            let metadata = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
            let versions: Value = versions.iter().map(|version| self.version(group, version)).collect();
            json!({"metadata": metadata, "versions": versions})
        });
        json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{form}"),
            "metadata": {},
            "items": items.collect::<Value>(),
        })
    }

    fn version(&self, group: &str, version: &str) -> Value {
        let rows = self.0.iter().filter(|row| row.group == group && row.version == version);
        let resources: Value = rows.map(aggregated).collect();
        json!({"version": version, "resources": resources, "freshness": "Current"})
    }

    /// `APIGroupList`
    pub(crate) fn group_list(&self) -> Value {
        let groups = self.groups().into_iter().filter(|(group, _)| !group.is_empty());
        let groups: Value = groups.map(|(group, versions)| named_group(group, &versions)).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// `APIGroup`; None if there is none.
    pub(crate) fn group(&self, name: &str) -> Option<Value> {
        let (group, versions) =
            self.groups().into_iter().find(|(group, _)| *group == name && !name.is_empty())?;
        let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
        if let (Value::Object(value), Value::Object(more)) = (&mut value, named_group(group, &versions)) {
            value.extend(more);
        }
        Some(value)
    }

    /// `APIResourceList`; None if there is none.
    pub(crate) fn resources(&self, group: &str, version: &str) -> Option<Value> {
        let rows: Vec<&Row> =
            self.0.iter().filter(|row| row.group == group && row.version == version).collect();
        if rows.is_empty() {
            return None;
        }
        let mut value = json!({"kind": "APIResourceList"});
        if !group.is_empty() {
            value["apiVersion"] = "v1".into();
        }
        value["groupVersion"] = group_version(group, version).into();
        value["resources"] = rows.into_iter().flat_map(plain).collect();
        Some(value)
    }
}

/// `APIVersions`
pub(crate) fn core_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// The groups that Kubernetes puts first, in its order.
const ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

fn row(kind: &'static Kind) -> Row {
    Row {
        group: kind.group,
        version: kind.version,
        plural: kind.plural,
        singular: kind.singular,
        kind: kind.name,
        namespaced: kind.namespaced(),
        verbs: kind.verbs.iter().map(|verb| verb.as_str()).collect(),
        short_names: kind.short_names,
        categories: kind.categories,
        subresources: kind.subresources,
    }
}

/// Stable before beta before alpha, newer before older.
fn preference(version: &str) -> (u8, u32) {
    let stage = if version.contains("alpha") {
        0
    } else if version.contains("beta") {
        1
    } else {
        2
    };
    let digits: String = version.chars().skip(1).take_while(char::is_ascii_digit).collect();
    (stage, digits.parse().unwrap_or_default())
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

fn named_group(group: &str, versions: &[&str]) -> Value {
    let version = |version: &&str| json!({"groupVersion": group_version(group, version), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(version).collect::<Value>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn aggregated(row: &Row) -> Value {
    let mut value = json!({
        "resource": row.plural,
        "responseKind": {"group": "", "version": "", "kind": row.kind},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        value["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        value["categories"] = json!(row.categories);
    }
    if !row.subresources.is_empty() {
        let one = |subresource: &Subresource| {
            let (group, version, kind) = speaks(*subresource, row.kind);
            json!({
                "subresource": subresource.as_str(),
                "responseKind": {"group": group, "version": version, "kind": kind},
                "verbs": verbs(*subresource),
            })
        };
        value["subresources"] = row.subresources.iter().map(one).collect();
    }
    value
}

fn plain(row: &Row) -> Vec<Value> {
    let mut main = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    if !row.short_names.is_empty() {
        main["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        main["categories"] = json!(row.categories);
    }
    let mut all = vec![main];
    for subresource in row.subresources {
        let (group, version, kind) = speaks(*subresource, row.kind);
        let mut value = json!({
            "name": format!("{}/{}", row.plural, subresource.as_str()),
            "singularName": "",
            "namespaced": row.namespaced,
        });
        if !group.is_empty() {
            value["group"] = group.into();
            value["version"] = version.into();
        }
        value["kind"] = kind.into();
        value["verbs"] = json!(verbs(*subresource));
        all.push(value);
    }
    all
}

/// What is said through a subresource.
pub(crate) fn speaks(
    subresource: Subresource,
    kind: &'static str,
) -> (&'static str, &'static str, &'static str) {
    match subresource {
        Subresource::Attach => ("", "", "PodAttachOptions"),
        Subresource::Binding => ("", "", "Binding"),
        Subresource::Eviction => ("policy", "v1", "Eviction"),
        Subresource::Exec => ("", "", "PodExecOptions"),
        Subresource::PortForward => ("", "", "PodPortForwardOptions"),
        Subresource::Proxy if kind == "Node" => ("", "", "NodeProxyOptions"),
        Subresource::Proxy if kind == "Service" => ("", "", "ServiceProxyOptions"),
        Subresource::Proxy => ("", "", "PodProxyOptions"),
        Subresource::Scale => ("autoscaling", "v1", "Scale"),
        Subresource::Token => ("authentication.k8s.io", "v1", "TokenRequest"),
        Subresource::EphemeralContainers
        | Subresource::Finalize
        | Subresource::Log
        | Subresource::Resize
        | Subresource::Status => ("", "", kind),
    }
}

/// What can be done through a subresource.
pub(crate) fn verbs(subresource: Subresource) -> &'static [&'static str] {
    match subresource {
        Subresource::Attach | Subresource::Exec | Subresource::PortForward => &["create", "get"],
        Subresource::Binding | Subresource::Eviction | Subresource::Token => &["create"],
        Subresource::EphemeralContainers | Subresource::Resize | Subresource::Scale | Subresource::Status => {
            &["get", "patch", "update"]
        }
        Subresource::Finalize => &["update"],
        Subresource::Log => &["get"],
        Subresource::Proxy => &["create", "delete", "get", "patch", "update"],
    }
}
