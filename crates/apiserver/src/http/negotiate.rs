//! In which form the client wants the answer.

use http::HeaderMap;
use http::header::ACCEPT;

use crate::Status;

/// The form of an answer about objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The objects themselves.
    Objects,
    /// Their metadata alone, as `PartialObjectMetadata` of this version of meta.k8s.io.
    Metadata(&'static str),
    /// A table, of this version of meta.k8s.io.
    Table(&'static str),
}

/// The form of an answer about what is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// All in one, in this version of apidiscovery.k8s.io.
    Aggregated(&'static str),
    /// One level at a time.
    Plain,
}

/// What we can say, in the words of a refusal.
const ACCEPTED: &[&str] = &["application/json"];

/// The form for objects. `plain`: only the objects themselves exist.
pub(crate) fn objects(headers: &HeaderMap, plain: bool) -> Result<Form, Status> {
    first(headers, |kind| match (kind.get("as"), kind.get("v")) {
        ("", _) => Some(Form::Objects),
        ("Table", version) if !plain && meta(kind) => known(version).map(Form::Table),
        ("PartialObjectMetadata" | "PartialObjectMetadataList", version) if !plain && meta(kind) => {
            known(version).map(Form::Metadata)
        }
        _ => None,
    })
}

/// The form for discovery.
pub(crate) fn discovery(headers: &HeaderMap) -> Result<Discovery, Status> {
    first(headers, |kind| match (kind.get("as"), kind.get("g"), kind.get("v")) {
        ("", ..) => Some(Discovery::Plain),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Some(Discovery::Aggregated("v2")),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Some(Discovery::Aggregated("v2beta1")),
        _ => None,
    })
}

fn meta(kind: &MediaType<'_>) -> bool {
    kind.get("g") == "meta.k8s.io"
}

fn known(version: &str) -> Option<&'static str> {
    ["v1", "v1beta1"].into_iter().find(|known| *known == version)
}

/// One entry of an Accept header.
struct MediaType<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// In thousandths.
    quality: u32,
}

impl<'a> MediaType<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let pairs = parts.filter_map(|part| part.split_once('='));
        let parameters: Vec<_> =
            pairs.map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))).collect();
        let quality =
            parameters.iter().find(|(name, _)| *name == "q").and_then(|(_, value)| value.parse().ok());
        let quality = (quality.unwrap_or(1.0_f32).clamp(0.0, 1.0) * 1000.0) as u32;
        Self { name, parameters, quality }
    }

    fn get(&self, name: &str) -> &'a str {
        self.parameters.iter().find(|(one, _)| *one == name).map(|(_, value)| *value).unwrap_or_default()
    }
}

/// The first that fits of what the client accepts, best first.
fn first<F>(headers: &HeaderMap, fit: impl Fn(&MediaType<'_>) -> Option<F>) -> Result<F, Status> {
    let lines: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).collect();
    let mut kinds: Vec<MediaType<'_>> = lines
        .iter()
        .flat_map(|line| line.split(','))
        .filter(|text| !text.trim().is_empty())
        .map(MediaType::parse)
        .collect();
    if kinds.is_empty() {
        kinds.push(MediaType::parse("*/*"));
    }
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.quality));
    let json = |kind: &&MediaType<'_>| matches!(kind.name, "application/json" | "*/*" | "application/*");
    let mut possible = kinds.iter().filter(|kind| kind.quality > 0).filter(json).peekable();
    if possible.peek().is_none() {
        return Err(Status::no_representation(ACCEPTED));
    }
    possible.find_map(fit).ok_or_else(|| Status::not_acceptable(ACCEPTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, text.parse().unwrap());
        headers
    }

    #[test]
    fn the_first_form_that_we_have_is_taken() {
        let form = |text: &str| objects(&accept(text), false).map_err(|status| status.code);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(form(table), Ok(Form::Table("v1")));
        assert_eq!(form("application/vnd.kubernetes.protobuf,application/json"), Ok(Form::Objects));
        assert_eq!(
            form(
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            ),
            Ok(Form::Metadata("v1"))
        );
        assert_eq!(form("*/*"), Ok(Form::Objects));
        assert_eq!(objects(&HeaderMap::new(), false), Ok(Form::Objects));
        assert_eq!(form("application/vnd.kubernetes.protobuf"), Err(406));
        assert_eq!(form("application/json;as=Table;v=v9;g=meta.k8s.io"), Err(406));
        assert_eq!(
            form("application/json;q=0.1,application/json;as=Table;v=v1;g=meta.k8s.io"),
            Ok(Form::Table("v1"))
        );
        assert_eq!(
            objects(&accept("application/json;as=Table;v=v1;g=meta.k8s.io"), true).map_err(|s| s.code),
            Err(406)
        );
    }

    #[test]
    fn discovery_comes_in_two_forms() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let form = |text: &str| discovery(&accept(text)).unwrap();
        assert_eq!(form(&format!("{v2},application/json")), Discovery::Aggregated("v2"));
        assert_eq!(form(&v2.replace("v2", "v2beta1")), Discovery::Aggregated("v2beta1"));
        assert_eq!(form("application/json"), Discovery::Plain);
    }
}
