//! Properties that a container's configuration asks for by annotations.

use std::collections::HashMap;
use std::hash::BuildHasher;

use super::Property;
use crate::systemd::wire::Value;
use crate::{Error, Kind, Result};

const PREFIX: &str = "org.systemd.property.";

/// What podman sets for a container whose program is systemd, and what has to do with the end of a scope: none of it runs
/// anything, or reaches beyond the scope.
const HARMLESS: [(&str, &str); 4] =
    [("CollectMode", "s"), ("KillSignal", "i"), ("TimeoutStopSec", "t"), ("TimeoutStopUSec", "t")];

impl Property {
    /// The properties that annotations called `org.systemd.property.<Name>` ask for, with values in GVariant's text form as
    /// runc reads them (`'text'`, `37`, `uint64 5000000`); `TimeoutStopSec` is in seconds.
    ///
    /// Whoever may write an annotation must not get root on the host by it, as with an `ExecStopPost` (CVE-2024-3154). So
    /// only `CollectMode`, `KillSignal`, `TimeoutStopUSec` and `TimeoutStopSec` are taken.
    ///
    /// # Errors
    /// `Denied` for any other property; `Invalid` for a value that is not of the property's type.
    pub fn from_annotations<S: BuildHasher>(annotations: &HashMap<String, String, S>) -> Result<Vec<Self>> {
        let mut wanted: Vec<(&str, &str)> = annotations
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.as_str())))
            .collect();
        wanted.sort_unstable();
        wanted.into_iter().map(|(name, value)| one(name, value)).collect()
    }
}

fn one(name: &str, text: &str) -> Result<Property> {
    let Some((name, kind)) = HARMLESS.iter().find(|(harmless, _)| *harmless == name) else {
        let names = HARMLESS.map(|(name, _)| name).join(", ");
        let message = format!(
            "the annotation {PREFIX}{name} is refused: of systemd's properties only {names} can be set, because others could \
             run programs on the host; remove the annotation"
        );
        return Err(Error::refused(Kind::Denied, message));
    };
    let wrong = || {
        let message =
            format!("the annotation {PREFIX}{name} has the value {text:?}, which is not of type {kind}");
        Error::refused(Kind::Invalid, message)
    };
    let plain = text.trim();
    Ok(match *kind {
        "i" => Property::new(name, Value::I32(untyped(plain, "int32").parse().map_err(|_| wrong())?)),
        "t" => {
            let number: u64 = untyped(plain, "uint64").parse().map_err(|_| wrong())?;
            match *name {
                "TimeoutStopSec" => {
                    let micros = number.checked_mul(1_000_000).ok_or_else(wrong)?;
                    Property::number("TimeoutStopUSec", micros)
                }
                name => Property::number(name, number),
            }
        }
        _ => {
            let quoted = |quote: char| plain.strip_prefix(quote)?.strip_suffix(quote);
            let inner = quoted('\'').or_else(|| quoted('"')).ok_or_else(wrong)?;
            if inner.contains(['\'', '"', '\\', '\0']) {
                return Err(wrong());
            }
            Property::new(name, Value::str(inner))
        }
    })
}

/// A number without the type that may stand before it.
fn untyped<'a>(text: &'a str, kind: &str) -> &'a str {
    text.strip_prefix(kind).map_or(text, str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Vec<Property>> {
        let all: HashMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Property::from_annotations(&all)
    }

    #[test]
    fn what_podman_sets() {
        let all = read(&[
            ("org.systemd.property.KillSignal", "37"),
            ("org.systemd.property.TimeoutStopUSec", "uint64 10000000"),
            ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
            ("io.podman.annotations.init", "FALSE"),
        ])
        .unwrap();
        assert_eq!(
            all,
            [
                Property::new("CollectMode", Value::str("inactive-or-failed")),
                Property::new("KillSignal", Value::I32(37)),
                Property::number("TimeoutStopUSec", 10_000_000),
            ]
        );
        let seconds = read(&[("org.systemd.property.TimeoutStopSec", "2")]).unwrap();
        assert_eq!(seconds, [Property::number("TimeoutStopUSec", 2_000_000)]);
    }

    /// T30: no annotation gets a program run on the host.
    #[test]
    fn t30_other_properties_are_refused() {
        for name in ["ExecStart", "ExecStopPost", "Delegate", "Slice", "killsignal", "", "KillSignal "] {
            let error = read(&[(&format!("{PREFIX}{name}"), "@a(sasb) []")]).unwrap_err();
            assert_eq!(error.kind(), Kind::Denied, "{name}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn values_of_another_type_are_refused() {
        for (name, value) in [
            ("KillSignal", "'9'"),
            ("KillSignal", "99999999999"),
            ("TimeoutStopUSec", "-1"),
            ("TimeoutStopSec", "18446744073709551615"),
            ("CollectMode", "inactive"),
            ("CollectMode", "'a\\x27b'"),
        ] {
            let error = read(&[(&format!("{PREFIX}{name}"), value)]).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{name} {value}");
        }
    }
}
