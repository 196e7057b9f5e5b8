//! What a request's query means.

use std::time::Duration;

use crate::{FieldError, ListOptions, Propagation, Status, Strictness, VersionMatch, WatchOptions};

/// The pairs of a query, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query, without its `?`. What cannot be decoded is left out, as by Kubernetes.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |text: &str| super::path::decode(&text.replace('+', " "));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        };
        Self(text.split('&').filter(|one| !one.is_empty()).filter_map(pair).collect())
    }

    /// The first value of a name; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// Every value of a name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// Whether a name says yes, in Kubernetes' way: anything but `false` and `0`, even nothing.
    pub(crate) fn yes(&self, name: &str) -> bool {
        self.all(name).next().is_some_and(|value| !matches!(value, "false" | "0"))
    }

    /// Which objects to list.
    pub(crate) fn list(&self) -> Result<ListOptions, Status> {
        if self.all("sendInitialEvents").next().is_some() {
            let why = "sendInitialEvents is forbidden for list";
            return Err(invalid("ListOptions", &[FieldError::forbidden("sendInitialEvents", why)]));
        }
        let version_match = match self.text("resourceVersionMatch") {
            "" => None,
            "Exact" => Some(VersionMatch::Exact),
            "NotOlderThan" => Some(VersionMatch::NotOlderThan),
            other => {
                let known = ["Exact", "NotOlderThan", ""];
                let error = FieldError::not_supported("resourceVersionMatch", other, &known);
                return Err(invalid("ListOptions", &[error]));
            }
        };
        Ok(ListOptions {
            labels: self.text("labelSelector").parse()?,
            fields: self.text("fieldSelector").parse()?,
            limit: usize::try_from(self.number("limit")?.unwrap_or_default()).unwrap_or_default(),
            continued: self.text("continue").to_owned(),
            version: self.version()?,
            version_match,
        })
    }

    /// Which changes to follow.
    pub(crate) fn watch(&self) -> Result<WatchOptions, Status> {
        let initial = self.all("sendInitialEvents").next().map(|value| !matches!(value, "false" | "0"));
        let matching = self.text("resourceVersionMatch");
        let mut errors = Vec::new();
        if initial.is_some() && matching != "NotOlderThan" {
            let path = "resourceVersionMatch";
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(path, why));
            if !matching.is_empty() {
                errors.push(FieldError::not_supported(path, matching, &["NotOlderThan"]));
            }
        } else if initial.is_none() && !matching.is_empty() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden("resourceVersionMatch", why));
        }
        if !self.text("continue").is_empty() {
            errors.push(FieldError::forbidden("continue", "continue is forbidden for watch"));
        }
        if !errors.is_empty() {
            return Err(invalid("ListOptions", &errors));
        }
        let timeout = self.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(WatchOptions {
            labels: self.text("labelSelector").parse()?,
            fields: self.text("fieldSelector").parse()?,
            version: self.version()?,
            bookmarks: self.yes("allowWatchBookmarks"),
            initial,
            timeout: timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
        })
    }

    /// Whether nothing shall be stored. `options` is what the request's options are called.
    pub(crate) fn dry_run(&self, options: &str) -> Result<bool, Status> {
        dry_run(self.all("dryRun"), options)
    }

    /// What unknown fields are.
    pub(crate) fn validation(&self, options: &str) -> Result<Strictness, Status> {
        match self.text("fieldValidation") {
            "" | "Warn" => Ok(Strictness::Warn),
            "Ignore" => Ok(Strictness::Ignore),
            "Strict" => Ok(Strictness::Strict),
            other => {
                let known = ["", "Ignore", "Strict", "Warn"];
                Err(invalid(options, &[FieldError::not_supported("fieldValidation", other, &known)]))
            }
        }
    }

    fn version(&self) -> Result<Option<u64>, Status> {
        match self.text("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let why =
                    format!("strconv.ParseUint: parsing {}: invalid syntax", crate::status::quote(text));
                let error = FieldError::invalid("resourceVersion", text, why);
                Status::bad_request(format!("invalid resource version: {error}"))
            }),
        }
    }

    fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.text(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                let quoted = crate::status::quote(text);
                Status::bad_request(format!("strconv.ParseInt: parsing {quoted}: invalid syntax"))
            }),
        }
    }
}

/// What becomes of what an object owns, by its name.
pub(crate) fn propagation(text: &str) -> Result<Option<Propagation>, Status> {
    match text {
        "" => Ok(None),
        "Background" => Ok(Some(Propagation::Background)),
        "Foreground" => Ok(Some(Propagation::Foreground)),
        "Orphan" => Ok(Some(Propagation::Orphan)),
        other => {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            Err(invalid("DeleteOptions", &[FieldError::not_supported("propagationPolicy", other, &known)]))
        }
    }
}

/// Whether nothing shall be stored: each value must be `All`.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, options: &str) -> Result<bool, Status> {
    let values: Vec<&str> = values.filter(|value| !value.is_empty()).collect();
    match values.iter().find(|value| **value != "All") {
        Some(_) => Err(invalid(options, &[FieldError::not_supported("dryRun", values, &["All"])])),
        None => Ok(!values.is_empty()),
    }
}

fn invalid(options: &str, errors: &[FieldError]) -> Status {
    Status::invalid_named("meta.k8s.io", options, "", errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood() {
        let query = Query::parse("labelSelector=app+in+%28web%2Cds1%29&limit=2&watch&dryRun=All&x=1&x=2");
        assert_eq!(query.text("labelSelector"), "app in (web,ds1)");
        assert_eq!(query.list().unwrap().limit, 2);
        assert!(query.yes("watch") && !query.yes("follow"));
        assert!(query.dry_run("CreateOptions").unwrap());
        assert_eq!(query.all("x").collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let list = |text: &str| Query::parse(text).list().unwrap_err();
        assert_eq!(list("limit=x").code, 400);
        assert_eq!(list("labelSelector=a,,b").code, 400);
        assert_eq!(list("resourceVersionMatch=x").code, 422);
        assert_eq!(
            Query::parse("sendInitialEvents=true").watch().unwrap_err().message,
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        );
        assert_eq!(
            Query::parse("dryRun=x").dry_run("CreateOptions").unwrap_err().message,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\""
        );
    }
}
