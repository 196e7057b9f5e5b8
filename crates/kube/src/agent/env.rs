//! Environment variables and `$(VAR)` (`third_party/forked/golang/expansion`, `makeEnvironmentVariables`).

use std::collections::BTreeMap;

use super::context::Context;
use super::fields;
use crate::api::{Container, EnvFromSource, EnvVar, EnvVarSource};
use crate::{Error, Result};

/// Variables in the order in which they were first named.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, Vec<u8>>,
}

impl Environment {
    /// The variables of a container: those of `envFrom` first, then `env`, which wins.
    ///
    /// # Errors
    /// A ConfigMap, Secret or key that is missing and not optional.
    pub(super) fn resolve(context: &Context, container: &Container, ips: &[String]) -> Result<Self> {
        let mut environment = Self::default();
        for source in &container.env_from {
            environment.add_all(context, source)?;
        }
        for var in &container.env {
            if let Some(value) = environment.value_of(context, container, var, ips)? {
                environment.set(&var.name, value);
            }
        }
        Ok(environment)
    }

    /// The variables whose values are written in the manifest; probes see only these.
    pub(super) fn literal(container: &Container) -> Self {
        let mut environment = Self::default();
        for var in container.env.iter().filter(|var| var.value_from.is_none()) {
            environment.set(&var.name, var.value.clone().into_bytes());
        }
        environment
    }

    /// Names and values.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.order.iter().map(|name| (name.as_str(), self.values[name].as_slice()))
    }

    /// Replaces each `$(NAME)` that is known. `$$` is a dollar sign; what is not known stays as it is.
    pub(super) fn expand(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.expand_bytes(text)).into_owned()
    }

    /// As [`Self::expand`]; names that are not known are an error.
    pub(super) fn expand_strictly(&self, text: &str) -> Result<String> {
        let mut missing = Vec::new();
        let expanded = expand(text, |name| {
            let value = self.values.get(name);
            if value.is_none() {
                missing.push(name.to_owned());
            }
            value.map(Vec::as_slice)
        });
        if missing.is_empty() {
            return Ok(String::from_utf8_lossy(&expanded).into_owned());
        }
        Err(Error::invalid(format!("{text:?}: no variable named {}", missing.join(", "))))
    }

    fn expand_bytes(&self, text: &str) -> Vec<u8> {
        expand(text, |name| self.values.get(name).map(Vec::as_slice))
    }

    fn set(&mut self, name: &str, value: Vec<u8>) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    fn add_all(&mut self, context: &Context, source: &EnvFromSource) -> Result<()> {
        let mut found: Vec<(String, Vec<u8>)> = Vec::new();
        if let Some(reference) = &source.config_map_ref {
            let optional = reference.optional == Some(true);
            if let Some(config_map) = context.config_map(&reference.name, optional)? {
                found.extend(
                    config_map.data.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes())),
                );
            }
        }
        if let Some(reference) = &source.secret_ref {
            let optional = reference.optional == Some(true);
            if let Some(secret) = context.secret(&reference.name, optional)? {
                found.extend(secret.data.iter().map(|(key, value)| (key.clone(), value.0.clone())));
            }
        }
        for (key, value) in found {
            self.set(&format!("{}{key}", source.prefix), value);
        }
        Ok(())
    }

    fn value_of(
        &self,
        context: &Context,
        container: &Container,
        var: &EnvVar,
        ips: &[String],
    ) -> Result<Option<Vec<u8>>> {
        match &var.value_from {
            None => Ok(Some(self.expand_bytes(&var.value))),
            Some(source) => {
                let value = from_source(context, container, source, ips);
                if context.kept { value } else { value.map_err(|error| error.context(&var.name)) }
            }
        }
    }
}

fn from_source(
    context: &Context,
    container: &Container,
    source: &EnvVarSource,
    ips: &[String],
) -> Result<Option<Vec<u8>>> {
    if let Some(selector) = &source.field_ref {
        return fields::field(context, &selector.field_path, ips).map(|value| Some(value.into_bytes()));
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(context, selector, Some(container)).map(|value| Some(value.into_bytes()));
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let Some(config_map) = context.config_map(&selector.name, optional)? else { return Ok(None) };
        let text = config_map.data.get(&selector.key).map(|value| value.clone().into_bytes());
        return found(context, text, optional, "ConfigMap", &selector.name, &selector.key);
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let Some(secret) = context.secret(&selector.name, optional)? else { return Ok(None) };
        let bytes = secret.data.get(&selector.key).map(|value| value.0.clone());
        return found(context, bytes, optional, "Secret", &selector.name, &selector.key);
    }
    Ok(None)
}

fn found(
    context: &Context,
    value: Option<Vec<u8>>,
    optional: bool,
    kind: &str,
    name: &str,
    key: &str,
) -> Result<Option<Vec<u8>>> {
    if value.is_none() && !optional {
        return Err(Error::not_found(match context.kept {
            true => format!("couldn't find key {key} in {kind} {}/{name}", context.pod.metadata.namespace),
            false => format!("{kind} {name:?} has no key {key:?}"),
        }));
    }
    Ok(value)
}

fn expand<'a>(text: &str, mut value: impl FnMut(&str) -> Option<&'a [u8]>) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] != b'$' || at + 1 == bytes.len() {
            out.push(bytes[at]);
            at += 1;
            continue;
        }
        match bytes[at + 1] {
            b'$' => {
                out.push(b'$');
                at += 2;
            }
            b'(' => match text[at + 2..].find(')') {
                Some(len) => {
                    let name = &text[at + 2..at + 2 + len];
                    match value(name) {
                        Some(value) => out.extend_from_slice(value),
                        None => out.extend_from_slice(&bytes[at..at + 3 + len]),
                    }
                    at += 3 + len;
                }
                None => {
                    out.extend_from_slice(b"$(");
                    at += 2;
                }
            },
            other => {
                out.extend_from_slice(&[b'$', other]);
                at += 2;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of `third_party/forked/golang/expansion/expand_test.go`.
    #[test]
    fn expansion() {
        let mut environment = Environment::default();
        for (name, value) in
            [("VAR_A", "A"), ("VAR_B", "B"), ("VAR_C", "C"), ("VAR_REF", "$(VAR_A)"), ("VAR_EMPTY", "")]
        {
            environment.set(name, value.as_bytes().to_vec());
        }
        for (text, expected) in [
            ("$(VAR_A)", "A"),
            ("___$(VAR_B)___", "___B___"),
            ("$(VAR_A)-$(VAR_B)", "A-B"),
            ("f000-$$VAR_A", "f000-$VAR_A"),
            ("foo\\$(VAR_C)bar", "foo\\Cbar"),
            ("foo$$(VAR_A)bar", "foo$(VAR_A)bar"),
            ("foo$$$(VAR_A)bar", "foo$Abar"),
            ("$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
            ("$VAR_A", "$VAR_A"),
            ("$(VAR_A", "$(VAR_A"),
            ("$(VAR_REF)", "$(VAR_A)"),
            ("$(VAR_DNE)", "$(VAR_DNE)"),
            ("a$(VAR_EMPTY)b", "ab"),
            ("$?_$!", "$?_$!"),
            ("foo$", "foo$"),
            ("$()", "$()"),
            ("grün$(VAR_A)ß$", "grünAß$"),
        ] {
            assert_eq!(environment.expand(text), expected, "{text}");
        }
        assert!(environment.expand_strictly("$(NO)").is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            Environment::default().expand(&text);
        }
    }
}
