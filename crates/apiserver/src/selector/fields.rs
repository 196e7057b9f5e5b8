use std::str::FromStr;

use crate::status::quote;
use crate::{Kind, Status};

/// Which fields an object must have. The default matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    path: String,
    equal: bool,
    value: String,
}

impl FieldSelector {
    /// The selector for one field.
    #[must_use]
    pub fn equal(path: &str, value: &str) -> Self {
        Self {
            requirements: vec![Requirement { path: path.to_owned(), equal: true, value: value.to_owned() }],
        }
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that a field must have, if there is only one.
    #[must_use]
    pub fn exact(&self, path: &str) -> Option<&str> {
        self.requirements.iter().find(|one| one.equal && one.path == path).map(|one| one.value.as_str())
    }

    /// Whether the fields, which the function looks up, match. A field that is not there is empty text.
    pub fn matches(&self, mut field: impl FnMut(&str) -> String) -> bool {
        self.requirements.iter().all(|one| (field(&one.path) == one.value) == one.equal)
    }

    /// That the kind has every field.
    ///
    /// # Errors
    /// The first one that it has not.
    pub fn check(&self, kind: &Kind) -> Result<(), Status> {
        let common = |path: &str| path == "metadata.name" || path == "metadata.namespace";
        let unknown =
            |one: &&Requirement| !common(&one.path) && !kind.selectable.contains(&one.path.as_str());
        let Some(unknown) = self.requirements.iter().find(unknown) else { return Ok(()) };
        Err(Status::bad_request(if kind.selectable.is_empty() {
            let path = quote(&unknown.path);
            format!("{path} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        } else {
            format!("field label not supported: {}", unknown.path)
        }))
    }
}

impl FromStr for FieldSelector {
    type Err = Status;

    /// From the text of a request: `status.phase!=Failed,spec.nodeName=n1`.
    fn from_str(text: &str) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for term in terms(text).into_iter().filter(|term| !term.is_empty()) {
            let Some(at) = term
                .find(['=', '!'])
                .filter(|at| term[*at..].starts_with('=') || term[*at..].starts_with("!="))
            else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{text}'; can't understand '{term}'"
                )));
            };
            let rest = &term[at..];
            let (equal, value) = match (rest.strip_prefix("!="), rest.strip_prefix("==")) {
                (Some(value), _) => (false, value),
                (_, Some(value)) => (true, value),
                _ => (true, &rest[1..]),
            };
            requirements.push(Requirement { path: term[..at].to_owned(), equal, value: unescape(value)? });
        }
        Ok(Self { requirements })
    }
}

fn terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, Status> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => plain.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    let text = format!("invalid field selector: invalid escape sequence: \\{rest}");
                    return Err(Status::bad_request(text));
                }
            },
            ',' | '=' => {
                let number = u32::from(c);
                let text = format!("invalid field selector: unescaped character in value: {number}");
                return Err(Status::bad_request(text));
            }
            c => plain.push(c),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PODS: Kind = Kind { plural: "pods", name: "Pod", selectable: &["status.phase"], ..Kind::PLAIN };

    #[test]
    fn fields_are_compared() {
        let selector: FieldSelector = r"metadata.name=a\,b,status.phase!=Failed,x==".parse().unwrap();
        let field = |path: &str| match path {
            "metadata.name" => "a,b".to_owned(),
            "status.phase" => "Running".to_owned(),
            _ => String::new(),
        };
        assert!(selector.matches(field));
        assert!(!selector.matches(|_| "Failed".to_owned()));
        assert_eq!(selector.exact("metadata.name"), Some("a,b"));
        assert_eq!(selector.exact("status.phase"), None);
    }

    #[test]
    fn what_is_wrong_is_told_as_kubernetes_tells_it() {
        let error = |text: &str| text.parse::<FieldSelector>().unwrap_err().message;
        assert_eq!(error("abc"), "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(error("a=b=c"), "invalid field selector: unescaped character in value: 61");
        let unknown = FieldSelector::equal("spec.x", "");
        assert_eq!(unknown.check(&PODS).unwrap_err().message, "field label not supported: spec.x");
        assert_eq!(
            unknown.check(&Kind::PLAIN).unwrap_err().message,
            r#""spec.x" is not a known field selector: only "metadata.name", "metadata.namespace""#
        );
    }
}
