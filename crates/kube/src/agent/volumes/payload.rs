//! The files of configuration volumes: pure.

use std::collections::BTreeMap;

use super::tokens;
use crate::agent::context::Context;
use crate::agent::fields;
use crate::api::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret, ServiceAccountTokenProjection, Volume,
};
use crate::{Error, Result};

/// Files by relative path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Payload(pub(super) BTreeMap<String, File>);

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) mode: u32,
    /// Whose it is; root's where absent.
    pub(super) owner: Option<u32>,
    pub(super) bytes: Vec<u8>,
}

/// The files of a volume; none where the volume is of another kind.
///
/// # Errors
/// A ConfigMap, Secret or key that is missing and not optional.
pub(super) fn of(context: &Context, volume: &Volume) -> Result<Option<Payload>> {
    let mut payload = Payload::default();
    if let Some(source) = &volume.config_map {
        let optional = source.optional == Some(true);
        if let Some(config_map) = context.config_map(&source.name, optional)? {
            payload.keys(&data_of(config_map), &source.items, source.default_mode, optional, &source.name)?;
        }
    } else if let Some(source) = &volume.secret {
        let optional = source.optional == Some(true);
        if let Some(secret) = context.secret(&source.secret_name, optional)? {
            payload.keys(
                &secret_data(secret),
                &source.items,
                source.default_mode,
                optional,
                &source.secret_name,
            )?;
        }
    } else if let Some(source) = &volume.downward_api {
        payload.downward(context, &source.items, source.default_mode)?;
    } else if let Some(source) = &volume.projected {
        for projection in &source.sources {
            if let Some(inner) = &projection.config_map {
                let optional = inner.optional == Some(true);
                if let Some(config_map) = context.config_map(&inner.name, optional)? {
                    payload.keys(
                        &data_of(config_map),
                        &inner.items,
                        source.default_mode,
                        optional,
                        &inner.name,
                    )?;
                }
            }
            if let Some(inner) = &projection.secret {
                let optional = inner.optional == Some(true);
                if let Some(secret) = context.secret(&inner.name, optional)? {
                    payload.keys(
                        &secret_data(secret),
                        &inner.items,
                        source.default_mode,
                        optional,
                        &inner.name,
                    )?;
                }
            }
            if let Some(inner) = &projection.downward_api {
                payload.downward(context, &inner.items, source.default_mode)?;
            }
            if let Some(inner) = &projection.service_account_token {
                payload.token(context, inner, source.default_mode)?;
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

impl Payload {
    /// The named keys, or all.
    fn keys(
        &mut self,
        data: &BTreeMap<&str, &[u8]>,
        items: &[KeyToPath],
        default_mode: Option<i32>,
        optional: bool,
        object: &str,
    ) -> Result<()> {
        if items.is_empty() {
            for (key, bytes) in data {
                self.put((*key).to_owned(), default_mode, bytes.to_vec())?;
            }
        }
        for item in items {
            match data.get(item.key.as_str()) {
                Some(bytes) => self.put(item.path.clone(), item.mode.or(default_mode), bytes.to_vec())?,
                None if optional => {}
                None => return Err(Error::not_found(format!("{object:?} has no key {:?}", item.key))),
            }
        }
        Ok(())
    }

    fn downward(
        &mut self,
        context: &Context,
        items: &[DownwardAPIVolumeFile],
        default_mode: Option<i32>,
    ) -> Result<()> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(selector), _) => fields::field(context, &selector.field_path, &[])?,
                (None, Some(selector)) => fields::resource(context, selector, None)?,
                (None, None) => continue,
            };
            self.put(item.path.clone(), item.mode.or(default_mode), text.into_bytes())?;
        }
        Ok(())
    }

    /// The token is the owner's alone where it is known who that is, as with the kubelet; who has the group may read it too.
    fn token(
        &mut self,
        context: &Context,
        source: &ServiceAccountTokenProjection,
        default_mode: Option<i32>,
    ) -> Result<()> {
        let request = tokens::request(&context.pod, source);
        let token = context.objects.find_token(&request).ok_or_else(|| {
            Error::not_found(format!("there is no token of service account {:?}", request.service_account))
        })?;
        let owner = tokens::owner(&context.pod.spec);
        let security = context.pod.spec.security_context.as_ref();
        let has_group = security.is_some_and(|security| security.fs_group.is_some());
        let mode = if owner.is_some() || has_group { Some(0o600) } else { default_mode };
        self.put(source.path.clone(), mode, token.token.clone().into_bytes())?;
        if let Some(file) = self.0.get_mut(&source.path) {
            file.owner = owner;
        }
        Ok(())
    }

    /// Paths come from objects that others wrote: none leads out of the volume, or to what the writer makes.
    fn put(&mut self, path: String, mode: Option<i32>, bytes: Vec<u8>) -> Result<()> {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if path.starts_with("..") || !path.split('/').all(is_plain) {
            return Err(Error::invalid(format!("{path:?} is no path of a file in a volume")));
        }
        let mode = mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o777;
        self.0.insert(path, File { mode, owner: None, bytes });
        Ok(())
    }
}

fn data_of(config_map: &ConfigMap) -> BTreeMap<&str, &[u8]> {
    let text = config_map.data.iter().map(|(key, value)| (key.as_str(), value.as_bytes()));
    text.chain(config_map.binary_data.iter().map(|(key, value)| (key.as_str(), value.0.as_slice()))).collect()
}

fn secret_data(secret: &Secret) -> BTreeMap<&str, &[u8]> {
    secret.data.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
}
