//! Which ConfigMaps and Secrets a pod refers to, and what is in them now.

use std::collections::BTreeSet;

use super::{Fixed, Objects};
use crate::Result;
use crate::api::{Container, Pod};

/// Names of objects in the pod's namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct References {
    pub(super) config_maps: BTreeSet<String>,
    pub(super) secrets: BTreeSet<String>,
}

impl References {
    /// Everything that a pod refers to.
    pub(super) fn of(pod: &Pod) -> Self {
        let mut names = Self::default();
        let spec = &pod.spec;
        for container in spec.init_containers.iter().chain(&spec.containers).chain(&spec.ephemeral_containers)
        {
            names.add_variables(container);
        }
        for volume in &spec.volumes {
            names.config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
            names.secrets.extend(volume.secret.iter().map(|source| source.secret_name.clone()));
            for source in volume.projected.iter().flat_map(|projected| &projected.sources) {
                names.config_maps.extend(source.config_map.iter().map(|source| source.name.clone()));
                names.secrets.extend(source.secret.iter().map(|source| source.name.clone()));
            }
        }
        names.secrets.extend(spec.image_pull_secrets.iter().map(|secret| secret.name.clone()));
        names
    }

    fn add_variables(&mut self, container: &Container) {
        for source in &container.env_from {
            self.config_maps.extend(source.config_map_ref.iter().map(|source| source.name.clone()));
            self.secrets.extend(source.secret_ref.iter().map(|source| source.name.clone()));
        }
        for source in container.env.iter().filter_map(|var| var.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.iter().map(|source| source.name.clone()));
            self.secrets.extend(source.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }

    /// Looks them up. What is not there is left out: whoever needs it says so.
    ///
    /// # Errors
    /// One of them cannot be looked up.
    pub(super) async fn look_up(&self, objects: &dyn Objects, namespace: &str) -> Result<Fixed> {
        let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
        for name in &self.config_maps {
            config_maps.extend(objects.config_map(namespace, name).await?);
        }
        for name in &self.secrets {
            secrets.extend(objects.secret(namespace, name).await?);
        }
        Ok(Fixed::new(config_maps, secrets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::context::tests::context;

    #[test]
    fn everything_that_is_named() {
        let context = context(
            "imagePullSecrets: [{name: reg}]\n\
             volumes: [{name: a, configMap: {name: c1}}, {name: b, secret: {secretName: s1}}, {name: c, projected: {sources: [{configMap: {name: c2}}, {secret: {name: s2}}]}}]\n\
             initContainers: [{name: i, image: x, envFrom: [{configMapRef: {name: c3}}, {secretRef: {name: s3}}]}]\n\
             containers: [{name: m, image: x, env: [{name: A, valueFrom: {configMapKeyRef: {name: c4, key: k}}}, {name: B, valueFrom: {secretKeyRef: {name: s4, key: k}}}]}]",
        );
        let names = References::of(&context.pod);
        assert_eq!(names.config_maps.into_iter().collect::<Vec<_>>().join(" "), "c1 c2 c3 c4");
        assert_eq!(names.secrets.into_iter().collect::<Vec<_>>().join(" "), "reg s1 s2 s3 s4");
    }
}
