//! By which AppArmor profile a container or a sandbox is to be confined.

use vaquita_proto::cri;
use vaquita_proto::cri::security_profile::ProfileType;

use super::context;
use crate::apparmor::Wanted;
use crate::host::Host;
use crate::{Error, Result};

/// What a container asks for; none on a host without AppArmor. Who does not ask gets the default profile, but a privileged
/// container: that one is confined by a profile of its own choice or by none.
///
/// # Errors
/// `Invalid` for a profile where AppArmor is not enabled, and for one that makes no sense.
pub(crate) fn apparmor(config: &cri::ContainerConfig, host: &Host) -> Result<Option<Wanted>> {
    let context = context(config);
    let asked = match &context.apparmor {
        Some(profile) => Some(profile.clone()),
        None => deprecated(&context.apparmor_profile)?,
    };
    if asked.is_none() && host.apparmor && !context.privileged {
        return Ok(Some(Wanted::Default { asked: false }));
    }
    wanted(asked.as_ref(), context.privileged, host)
}

/// What a sandbox asks for its own process; none where it does not.
///
/// # Errors
/// As [`apparmor`].
pub(super) fn of_sandbox(context: &cri::LinuxSandboxSecurityContext, host: &Host) -> Result<Option<Wanted>> {
    match &context.apparmor {
        Some(profile) => wanted(Some(profile), context.privileged, host),
        None => Ok(None),
    }
}

fn wanted(asked: Option<&cri::SecurityProfile>, privileged: bool, host: &Host) -> Result<Option<Wanted>> {
    let Some(profile) = asked else { return Ok(host.apparmor.then_some(Wanted::Unconfined)) };
    let kind = ProfileType::try_from(profile.profile_type)
        .map_err(|_| Error::invalid(format!("apparmor.profile_type: {} is unknown", profile.profile_type)))?;
    // Some clients leave the prefix of the old form.
    let name = profile.localhost_ref.strip_prefix(LOCALHOST).unwrap_or(&profile.localhost_ref);
    let wanted = match kind {
        ProfileType::Localhost if name.is_empty() => {
            return Err(Error::invalid("apparmor.localhost_ref: Localhost needs the name of a profile"));
        }
        ProfileType::Localhost => Wanted::Named(name.to_owned()),
        _ if !name.is_empty() => {
            return Err(Error::invalid(format!(
                "apparmor.localhost_ref: {name:?}: a name is for Localhost alone, and not for {}",
                kind.as_str_name()
            )));
        }
        ProfileType::RuntimeDefault if privileged && host.apparmor => Wanted::Unconfined,
        ProfileType::RuntimeDefault => Wanted::Default { asked: true },
        ProfileType::Unconfined => Wanted::Unconfined,
    };
    match wanted {
        _ if host.apparmor => Ok(Some(wanted)),
        Wanted::Unconfined => Ok(None),
        Wanted::Default { .. } | Wanted::Named(_) => {
            let named = if name.is_empty() { "runtime/default" } else { name };
            Err(Error::invalid(format!(
                "apparmor: profile {named:?} was asked for, but AppArmor is not enabled on this host"
            )))
        }
    }
}

/// What the profiles of a node are called in the old form.
const LOCALHOST: &str = "localhost/";

/// The form that profiles had before they had a message of their own.
fn deprecated(text: &str) -> Result<Option<cri::SecurityProfile>> {
    let (kind, name) = match text {
        "" => return Ok(None),
        "runtime/default" | "docker/default" => (ProfileType::RuntimeDefault, ""),
        "unconfined" => (ProfileType::Unconfined, ""),
        _ => match text.strip_prefix(LOCALHOST) {
            Some(name) => (ProfileType::Localhost, name),
            None => {
                return Err(Error::invalid(format!(
                    "apparmor_profile: {text:?} is none of runtime/default, unconfined and localhost/NAME"
                )));
            }
        },
    };
    Ok(Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: bool = true;
    const OFF: bool = false;

    fn of(
        enabled: bool,
        change: impl FnOnce(&mut cri::LinuxContainerSecurityContext),
    ) -> Result<Option<Wanted>> {
        let mut context = cri::LinuxContainerSecurityContext::default();
        change(&mut context);
        let linux = cri::LinuxContainerConfig { security_context: Some(context), resources: None };
        let config = cri::ContainerConfig { linux: Some(linux), ..Default::default() };
        apparmor(&config, &Host { apparmor: enabled, ..Host::default() })
    }

    fn profile(kind: ProfileType, name: &str) -> Option<cri::SecurityProfile> {
        Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
    }

    #[test]
    fn who_does_not_ask_is_confined_where_that_is_possible() {
        assert_eq!(of(ON, |_| {}).unwrap(), Some(Wanted::Default { asked: false }));
        assert_eq!(of(ON, |context| context.privileged = true).unwrap(), Some(Wanted::Unconfined));
        assert_eq!(of(OFF, |_| {}).unwrap(), None);
    }

    #[test]
    fn a_profile_by_its_message() {
        let asked = |kind, name| of(ON, |context| context.apparmor = profile(kind, name));
        assert_eq!(asked(ProfileType::RuntimeDefault, "").unwrap(), Some(Wanted::Default { asked: true }));
        assert_eq!(asked(ProfileType::Unconfined, "").unwrap(), Some(Wanted::Unconfined));
        for name in ["a b", "localhost/a b"] {
            assert_eq!(asked(ProfileType::Localhost, name).unwrap(), Some(Wanted::Named("a b".into())));
        }
        for (kind, name) in [
            (ProfileType::Localhost, ""),
            (ProfileType::Localhost, "localhost/"),
            (ProfileType::RuntimeDefault, "x"),
            (ProfileType::Unconfined, "x"),
        ] {
            assert!(asked(kind, name).unwrap_err().to_string().contains("localhost_ref"), "{kind:?} {name}");
        }
        let unknown = cri::SecurityProfile { profile_type: 9, localhost_ref: String::new() };
        assert!(of(ON, |context| context.apparmor = Some(unknown)).is_err());
    }

    #[test]
    fn a_privileged_container_has_the_profile_that_it_names() {
        let asked = |kind, name| {
            of(ON, |context| {
                context.privileged = true;
                context.apparmor = profile(kind, name);
            })
        };
        assert_eq!(asked(ProfileType::Localhost, "x").unwrap(), Some(Wanted::Named("x".into())));
        assert_eq!(asked(ProfileType::RuntimeDefault, "").unwrap(), Some(Wanted::Unconfined));
    }

    #[test]
    fn the_old_form_counts_where_the_new_one_is_absent() {
        let old = |text: &str| of(ON, |context| context.apparmor_profile = text.into());
        assert_eq!(old("localhost/x").unwrap(), Some(Wanted::Named("x".into())));
        assert_eq!(old("runtime/default").unwrap(), Some(Wanted::Default { asked: true }));
        assert_eq!(old("unconfined").unwrap(), Some(Wanted::Unconfined));
        assert!(old("x").unwrap_err().to_string().contains("apparmor_profile: \"x\""));
        let both = of(ON, |context| {
            context.apparmor_profile = "localhost/old".into();
            context.apparmor = profile(ProfileType::Localhost, "new");
        });
        assert_eq!(both.unwrap(), Some(Wanted::Named("new".into())));
    }

    #[test]
    fn without_apparmor_a_profile_is_an_error_that_names_it() {
        let asked = |kind, name| of(OFF, |context| context.apparmor = profile(kind, name));
        assert_eq!(asked(ProfileType::Unconfined, "").unwrap(), None);
        for (kind, name, named) in
            [(ProfileType::RuntimeDefault, "", "runtime/default"), (ProfileType::Localhost, "x", "\"x\"")]
        {
            let error = asked(kind, name).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("not enabled"), "{error}");
        }
    }

    #[test]
    fn a_sandbox_is_confined_when_it_asks() {
        let host = Host { apparmor: true, ..Host::default() };
        let of = |apparmor| {
            let context = cri::LinuxSandboxSecurityContext { apparmor, ..Default::default() };
            of_sandbox(&context, &host).unwrap()
        };
        assert_eq!(of(None), None);
        assert_eq!(of(profile(ProfileType::RuntimeDefault, "")), Some(Wanted::Default { asked: true }));
    }
}
