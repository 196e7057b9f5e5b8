use std::fmt;

use jiff::Timestamp;
use serde_json::Value;

use crate::FieldError;

/// What the server knows about one kind of object: a row of facts and small functions. A kind is added by one file with one
/// of these.
///
/// ```ignore
/// pub static LEASE: Kind = Kind { group: "coordination.k8s.io", plural: "leases", singular: "lease", name: "Lease", ..Kind::PLAIN };
/// ```
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// API version, as `v1`.
    pub version: &'static str,
    /// The name in paths, as `pods`.
    pub plural: &'static str,
    /// As `pod`.
    pub singular: &'static str,
    /// As `Pod`.
    pub name: &'static str,
    /// Whether objects live in a namespace.
    pub scope: Scope,
    /// As `po`.
    pub short_names: &'static [&'static str],
    /// As `all`.
    pub categories: &'static [&'static str],
    /// What can be done with the kind itself.
    pub verbs: &'static [Verb],
    /// What lies below an object.
    pub subresources: &'static [Subresource],
    /// The columns of `kubectl get`.
    pub columns: &'static [Column],
    /// One cell per column.
    pub cells: fn(&Value, Timestamp) -> Vec<Value>,
    /// Brings a new object into shape after decoding and before validation, beyond what holds for every kind (status is
    /// dropped at creation and kept by updates; status updates keep all but status and metadata). Given: the new object,
    /// the stored one, the subresource written through.
    pub prepare: fn(&mut Value, Option<&Value>, Option<Subresource>),
    /// Fills in what the user left out.
    pub default: fn(&mut Value),
    /// Everything that is wrong with the object (with the change, if there is an old one), beyond metadata.
    pub validate: fn(&Value, Option<&Value>, Option<Subresource>) -> Vec<FieldError>,
    /// What the user should be told though the object is taken.
    pub warnings: fn(&Value, Option<&Value>) -> Vec<String>,
    /// Checks a name that is to be given to an object; what is wrong with it.
    pub check_name: fn(&str) -> Vec<String>,
    /// Paths that field selectors may name beside `metadata.name` and `metadata.namespace`.
    pub selectable: &'static [&'static str],
    /// Top-level fields whose text is kept byte for byte.
    pub raw: &'static [&'static str],
    /// Whether metadata.generation counts changes of what is neither metadata nor status.
    pub generation: bool,
    /// Seconds that a deletion gives the object to end by itself, from the object and what the client asked; zero
    /// removes it at once. None: objects of the kind are never deleted gracefully.
    pub grace: Option<fn(&Value, Option<i64>) -> i64>,
    /// Marks an object whose deletion has begun.
    pub terminate: fn(&mut Value),
    /// Whether something beyond metadata.finalizers keeps a deleted object.
    pub held: fn(&Value) -> bool,
    /// Whether an object may be made with a status.
    pub status_at_creation: bool,
    /// Whether an update may leave out which version it replaces.
    pub unconditional_update: bool,
    /// Whether an update makes an object that is not there.
    pub create_on_update: bool,
    /// Whether a deletion answers the object that was, not a Status.
    pub returns_deleted: bool,
    /// Another kind in whose form and place objects of this one are stored.
    pub stored: Option<Alias>,
}

impl Kind {
    /// A namespaced v1 kind that is stored as it comes: what kinds start from.
    pub const PLAIN: Self = Self {
        group: "",
        version: "v1",
        plural: "",
        singular: "",
        name: "",
        scope: Scope::Namespaced,
        short_names: &[],
        categories: &[],
        verbs: Verb::ALL,
        subresources: &[],
        columns: Column::PLAIN,
        cells: plain_cells,
        prepare: |_, _, _| {},
        default: |_| {},
        validate: |_, _, _| Vec::new(),
        warnings: |_, _| Vec::new(),
        check_name: crate::names::subdomain,
        selectable: &[],
        raw: &[],
        generation: false,
        grace: None,
        terminate: |_| {},
        held: |_| false,
        status_at_creation: false,
        unconditional_update: true,
        create_on_update: false,
        returns_deleted: false,
        stored: None,
    };

    /// `v1`, `apps/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The resource's name with its group as messages have it: `pods`, `leases.coordination.k8s.io`.
    #[must_use]
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The kind's name with its group as messages have it: `Pod`, `Lease.coordination.k8s.io`.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.name, self.group) }
    }

    /// The kind whose form and place in the store this one uses: itself, mostly.
    #[must_use]
    pub fn storage(&'static self) -> &'static Self {
        self.stored.as_ref().map_or(self, |alias| alias.kind)
    }

    /// Whether objects live in a namespace.
    #[must_use]
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether the subresource exists below objects of this kind.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kind({}/{} {})", self.group, self.version, self.name)
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.group == other.group && self.version == other.version
    }
}

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One of the name in the whole cluster.
    Cluster,
    /// One of the name in each namespace.
    Namespaced,
}

/// Another kind that gives the form and place in the store.
#[derive(Debug)]
pub struct Alias {
    /// The kind whose resource is stored.
    pub kind: &'static Kind,
    /// From the kind's own form to the stored one.
    pub import: fn(&mut Value),
    /// From the stored form to the kind's own.
    pub export: fn(&mut Value),
}

/// What can be done with objects, in the words of discovery and authorisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Makes one.
    Create,
    /// Removes one.
    Delete,
    /// Removes all that match.
    DeleteCollection,
    /// Reads one.
    Get,
    /// Reads all that match.
    List,
    /// Changes part of one.
    Patch,
    /// Replaces one.
    Update,
    /// Follows changes.
    Watch,
}

impl Verb {
    /// What a stored kind has.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Delete,
        Self::DeleteCollection,
        Self::Get,
        Self::List,
        Self::Patch,
        Self::Update,
        Self::Watch,
    ];

    /// As in discovery: `deletecollection`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// What lies below an object in its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// The terminal of a running container.
    Attach,
    /// The choice of a node for a pod.
    Binding,
    /// Containers added for debugging.
    EphemeralContainers,
    /// A deletion that respects disruption budgets.
    Eviction,
    /// A command in a container.
    Exec,
    /// The finalizers of a namespace.
    Finalize,
    /// The output of a container.
    Log,
    /// Connections to ports of a pod.
    PortForward,
    /// Requests to a pod, service or node.
    Proxy,
    /// A change of a pod's resources.
    Resize,
    /// The number of replicas.
    Scale,
    /// What is, beside what shall be.
    Status,
    /// A token of a service account.
    Token,
}

impl Subresource {
    /// Every one, in the order of their names.
    pub const ALL: &'static [Self] = &[
        Self::Attach,
        Self::Binding,
        Self::EphemeralContainers,
        Self::Eviction,
        Self::Exec,
        Self::Finalize,
        Self::Log,
        Self::PortForward,
        Self::Proxy,
        Self::Resize,
        Self::Scale,
        Self::Status,
        Self::Token,
    ];

    /// The name in paths: `ephemeralcontainers`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Binding => "binding",
            Self::EphemeralContainers => "ephemeralcontainers",
            Self::Eviction => "eviction",
            Self::Exec => "exec",
            Self::Finalize => "finalize",
            Self::Log => "log",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Resize => "resize",
            Self::Scale => "scale",
            Self::Status => "status",
            Self::Token => "token",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| one.as_str() == name)
    }
}

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading as `Nominated Node`.
    pub name: &'static str,
    /// What the cells are.
    pub kind: ColumnKind,
    /// `name` for the first column, else empty mostly.
    pub format: &'static str,
    /// What the column tells.
    pub description: &'static str,
    /// Whether only `-o wide` shows it.
    pub wide: bool,
}

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// `true` or `false`.
    Boolean,
    /// A point in time, which the client shows as an age.
    Date,
    /// A whole number.
    Integer,
    /// Text.
    String,
}

impl Column {
    /// The name, which begins every table.
    pub const NAME: Self = Self {
        format: "name",
        description: "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
        ..Self::text("Name")
    };
    /// The age, by our clock.
    pub const AGE: Self = Self::text("Age");
    /// The columns of a kind that has none of its own.
    pub const PLAIN: &'static [Self] =
        &[Self::NAME, Self { kind: ColumnKind::Date, ..Self::text("Created At") }];

    /// A column of text that is always shown.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: ColumnKind::String, format: "", description: "", wide: false }
    }

    /// A column of numbers that is always shown.
    #[must_use]
    pub const fn integer(name: &'static str) -> Self {
        Self { kind: ColumnKind::Integer, ..Self::text(name) }
    }

    /// The same column for `-o wide` alone.
    #[must_use]
    pub const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

fn plain_cells(value: &Value, _now: Timestamp) -> Vec<Value> {
    let metadata = &value["metadata"];
    vec![metadata["name"].clone(), metadata["creationTimestamp"].clone()]
}
