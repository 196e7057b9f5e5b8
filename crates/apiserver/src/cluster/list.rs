use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Cluster, matching::Wanted};
use crate::{FieldError, Kind, ListOptions, Object, Status, VersionMatch};

/// A list of objects.
#[derive(Debug)]
pub struct List {
    /// In the order of namespace and name.
    pub items: Vec<Object>,
    /// The version of the whole.
    pub revision: u64,
    /// Where to go on; empty at the end.
    pub continued: String,
    /// How many more there are, where that is known.
    pub remaining: Option<usize>,
}

/// How many entries are looked at in one go when most may not match.
const PAGE: usize = 500;

pub(super) fn list(
    cluster: &Cluster,
    kind: &'static Kind,
    namespace: Option<&str>,
    options: &ListOptions,
) -> Result<List, Status> {
    options.fields.check(kind)?;
    check(options)?;
    let from = Token::parse(&options.continued)?;
    let namespace = if kind.storage().namespaced() { namespace } else { None };
    let wanted = Wanted { kind, labels: options.labels.clone(), fields: options.fields.clone() };
    let at = match &from {
        Some(token) => token.revision,
        None => exact(options),
    };
    let revision = cluster.store().revision();
    if let Some(asked) = options.version.filter(|asked| *asked > revision) {
        return Err(Status::too_new(asked, revision));
    }
    let pager = Pager { cluster, kind, namespace, at, inconsistent: from.as_ref().map(Token::inconsistent) };
    if let Some(name) = wanted.fields.exact("metadata.name").map(str::to_owned) {
        return pager.one(&name, &wanted);
    }
    let after = from.map(|token| (token.namespace, token.name));
    if wanted.all() { pager.all(after, options.limit) } else { pager.some(after, options.limit, &wanted) }
}

struct Pager<'a> {
    cluster: &'a Cluster,
    kind: &'static Kind,
    namespace: Option<&'a str>,
    at: Option<u64>,
    /// The token that an expired list may go on with.
    inconsistent: Option<String>,
}

impl Pager<'_> {
    fn page(
        &self,
        at: Option<u64>,
        after: Option<&(String, String)>,
        limit: Option<usize>,
    ) -> Result<vaquita_store::List, Status> {
        let after = after.map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let resource = self.kind.storage().resource();
        self.cluster.store().list(&resource, self.namespace, after, limit, at).map_err(|error| {
            match error.kind() {
                vaquita_store::Kind::Compacted => self.expired(),
                vaquita_store::Kind::Future => {
                    Status::too_new(at.unwrap_or_default(), self.cluster.store().revision())
                }
                _ => Status::internal(error),
            }
        })
    }

    fn expired(&self) -> Status {
        match &self.inconsistent {
            Some(token) => Status {
                continued: Some(token.as_str().into()),
                ..Status::expired(
                    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
                )
            },
            None => Status::expired("The resourceVersion for the provided list is too old."),
        }
    }

    fn all(&self, after: Option<(String, String)>, limit: usize) -> Result<List, Status> {
        let page = self.page(self.at, after.as_ref(), (limit > 0).then_some(limit))?;
        let revision = page.revision;
        let items: Vec<Object> =
            page.entries.into_iter().map(|entry| Object::stored(self.kind, entry)).collect();
        let continued = if page.remaining > 0 { token(revision, items.last()) } else { String::new() };
        let remaining = (page.remaining > 0).then_some(page.remaining);
        Ok(List { items, revision, continued, remaining })
    }

    fn some(
        &self,
        mut after: Option<(String, String)>,
        limit: usize,
        wanted: &Wanted,
    ) -> Result<List, Status> {
        let mut items = Vec::new();
        let mut at = self.at;
        loop {
            let page = self.page(at, after.as_ref(), Some(PAGE))?;
            at = Some(page.revision);
            after =
                page.entries.last().map(|last| (last.key.namespace().to_owned(), last.key.name().to_owned()));
            for (index, entry) in page.entries.iter().enumerate() {
                if !wanted.matches(entry) {
                    continue;
                }
                items.push(Object::stored(self.kind, entry.clone()));
                let more = page.remaining > 0 || index + 1 < page.entries.len();
                if limit > 0 && items.len() == limit && more {
                    let continued = token(page.revision, items.last());
                    return Ok(List { items, revision: page.revision, continued, remaining: None });
                }
            }
            if page.remaining == 0 || page.entries.is_empty() {
                return Ok(List {
                    items,
                    revision: page.revision,
                    continued: String::new(),
                    remaining: None,
                });
            }
        }
    }

    /// One object by its name, in the form of a list.
    fn one(&self, name: &str, wanted: &Wanted) -> Result<List, Status> {
        let Some(namespace) = self.namespace.or((!self.kind.storage().namespaced()).then_some("")) else {
            return self.some(None, 0, wanted);
        };
        if self.at.is_some() {
            return self.some(None, 0, wanted);
        }
        // The revision is read first: what is found is not older.
        let revision = self.cluster.store().revision();
        let entry = self.cluster.store().get(&super::key(self.kind, namespace, name));
        let entry = entry.filter(|entry| wanted.matches(entry));
        let items: Vec<Object> = entry.map(|entry| Object::stored(self.kind, entry)).into_iter().collect();
        let revision = items.iter().map(|item| item.revision).fold(revision, u64::max);
        Ok(List { items, revision, continued: String::new(), remaining: None })
    }
}

/// The version whose very state is asked for.
fn exact(options: &ListOptions) -> Option<u64> {
    let version = options.version.filter(|version| *version > 0)?;
    let implied = options.version_match.is_none() && options.limit > 0;
    (options.version_match == Some(VersionMatch::Exact) || implied).then_some(version)
}

/// The combinations that Kubernetes refuses.
fn check(options: &ListOptions) -> Result<(), Status> {
    let mut errors = Vec::new();
    let path = "resourceVersionMatch";
    if !options.continued.is_empty() {
        if options.version.is_some_and(|version| version > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        if options.version_match.is_some() {
            errors.push(FieldError::forbidden(
                path,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
    } else if options.version_match.is_some() && options.version.is_none() {
        errors.push(FieldError::forbidden(
            path,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ));
    } else if options.version_match == Some(VersionMatch::Exact) && options.version == Some(0) {
        errors.push(FieldError::forbidden(
            path,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid_named("meta.k8s.io", "ListOptions", "", &errors))
}

/// Where a list goes on.
struct Token {
    /// None: whatever is there now.
    revision: Option<u64>,
    namespace: String,
    name: String,
}

fn token(revision: u64, last: Option<&Object>) -> String {
    let Some(last) = last else { return String::new() };
    let revision = i64::try_from(revision).unwrap_or(i64::MAX);
    write(revision, last.namespace(), last.name())
}

fn write(revision: i64, namespace: &str, name: &str) -> String {
    let text =
        json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{namespace}/{name}\0")}).to_string();
    URL_SAFE_NO_PAD.encode(text)
}

impl Token {
    fn parse(text: &str) -> Result<Option<Self>, Status> {
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = |why: &str| {
            Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .map_err(|error| invalid(&error.to_string()))?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| invalid(&error.to_string()))?;
        if value["v"] != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version"));
        }
        let revision = value["rv"]
            .as_i64()
            .filter(|revision| *revision != 0)
            .ok_or_else(|| invalid("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))?;
        let start = value["start"].as_str().unwrap_or_default().trim_end_matches('\0');
        let (namespace, name) =
            start.split_once('/').ok_or_else(|| invalid(&format!("it has no start: {start}")))?;
        Ok(Some(Self {
            revision: u64::try_from(revision).ok(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }))
    }

    fn inconsistent(&self) -> String {
        write(-1, &self.namespace, &self.name)
    }
}
