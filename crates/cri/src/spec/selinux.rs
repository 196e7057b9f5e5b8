//! SELinux labels of pods: from what is asked for, and what the policy of the host has for containers, to what processes and
//! files get. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use vaquita_proto::cri;

use super::{context, security};
use crate::host::Host;
use crate::{Error, Result};

/// `user:role:type`, and the level where the policy has levels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Label {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

/// What the policy of a host has for containers (`lxc_contexts`, as selinux_lxc_contexts_path(3) calls the file).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Policy {
    process: Label,
    file: Label,
}

/// The labels of a pod, or of one of its containers.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Labels {
    /// Of its processes; empty leaves them what the policy makes of their maker's.
    pub(crate) process: String,
    /// Of its files.
    pub(crate) mount: String,
}

impl Label {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let mut next = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
        Some(Self { user: next()?, role: next()?, kind: next()?, level: next() })
    }

    /// The same at another level, where the policy has levels.
    fn at(&self, level: Option<&str>) -> Self {
        let level = self.level.as_ref().map(|own| level.unwrap_or(own).to_owned());
        Self { level, ..self.clone() }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        self.level.as_ref().map_or(Ok(()), |level| write!(f, ":{level}"))
    }
}

impl Policy {
    /// Reads the file's lines `process = "…"` and `file = "…"`; none where one of them is missing. `has_levels`: the kernel says
    /// that labels have them.
    pub(crate) fn parse(text: &str, has_levels: bool) -> Option<Self> {
        let of = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
            let label = Label::parse(value.trim().trim_matches('"'))?;
            let level = has_levels.then(|| label.level.clone().unwrap_or_else(|| "s0".into()));
            Some(Label { level, ..label })
        };
        Some(Self { process: of("process")?, file: of("file")? })
    }

    /// Labels with what is asked for, at the level that is asked for or else at `level`.
    fn labels(&self, asked: &cri::SeLinuxOption, level: Option<&str>) -> Result<Labels> {
        check(asked)?;
        if !asked.level.is_empty() && self.process.level.is_none() {
            let level = &asked.level;
            return Err(Error::invalid(format!(
                "selinux_options.level: {level:?}: the policy of this host has no levels"
            )));
        }
        let level = Some(asked.level.as_str()).filter(|level| !level.is_empty()).or(level);
        let or = |asked: &String, usual: &String| if asked.is_empty() { usual } else { asked }.clone();
        let (process, file) = (self.process.at(level), self.file.at(level));
        let process = Label {
            user: or(&asked.user, &process.user),
            role: or(&asked.role, &process.role),
            kind: or(&asked.r#type, &process.kind),
            ..process
        };
        let file = Label { user: or(&asked.user, &file.user), ..file };
        Ok(Labels { process: process.to_string(), mount: file.to_string() })
    }
}

/// The labels of a sandbox, none where the server gives none. `level` is its own unless it asks for another. The process of a
/// privileged one has a label only if it asks.
///
/// # Errors
/// `Invalid` for what is no label, and for any where the server gives none.
pub(crate) fn of_sandbox(config: &cri::PodSandboxConfig, host: &Host, level: &str) -> Result<Option<Labels>> {
    let asked = sandbox_options(config);
    let Some(policy) = policy(asked.as_ref(), host)? else { return Ok(None) };
    let mut labels = policy.labels(&asked.clone().unwrap_or_default(), Some(level))?;
    if asked.is_none() && security::is_privileged(config) {
        labels.process.clear();
    }
    Ok(Some(labels))
}

/// The labels of a container in a sandbox with these: what the container asks for, else what the sandbox does, at the level of
/// the sandbox.
///
/// # Errors
/// As [`of_sandbox`].
pub(crate) fn of_container(
    config: &cri::ContainerConfig,
    sandbox: &cri::PodSandboxConfig,
    of_sandbox: Option<&Labels>,
    host: &Host,
) -> Result<Option<Labels>> {
    let context = context(config);
    let own = some(context.selinux_options.as_ref());
    let Some(policy) = policy(own.as_ref(), host)? else { return Ok(None) };
    let asked = own.or_else(|| sandbox_options(sandbox));
    // A sandbox that is older than the server's wish has none, and neither have its containers, unless they ask.
    if of_sandbox.is_none() && asked.is_none() {
        return Ok(None);
    }
    let level = of_sandbox.and_then(|labels| Label::parse(&labels.mount)).and_then(|label| label.level);
    let mut labels = policy.labels(&asked.clone().unwrap_or_default(), level.as_deref())?;
    if asked.is_none() && context.privileged {
        labels.process.clear();
    }
    Ok(Some(labels))
}

/// A level of two categories that nobody has: the first free one after `start`.
pub(crate) fn fresh_level<'a>(taken: impl Iterator<Item = &'a Labels>, start: u32) -> Option<String> {
    const CATEGORIES: u32 = 1024;
    const PAIRS: u32 = CATEGORIES * (CATEGORIES - 1) / 2;
    let taken: BTreeSet<String> =
        taken.filter_map(|labels| Label::parse(&labels.mount)).filter_map(|label| label.level).collect();
    (0..PAIRS).map(|step| (start % PAIRS + step) % PAIRS).map(pair).find(|level| !taken.contains(level))
}

/// The level of a number: pairs of categories, the lower one first.
fn pair(number: u32) -> String {
    let (mut high, mut before) = (1, 0);
    while before + high <= number {
        before += high;
        high += 1;
    }
    format!("s0:c{},c{high}", number - before)
}

fn policy<'a>(asked: Option<&cri::SeLinuxOption>, host: &'a Host) -> Result<Option<&'a Policy>> {
    match (&host.selinux_policy, asked) {
        (Some(policy), _) => Ok(Some(policy)),
        (None, None) => Ok(None),
        (None, Some(_)) if host.selinux => Err(Error::invalid(
            "selinux_options: labels are given to pods when the daemon is started with --selinux",
        )),
        (None, Some(_)) => Err(Error::invalid("selinux_options: SELinux is not enabled on this host")),
    }
}

fn sandbox_options(config: &cri::PodSandboxConfig) -> Option<cri::SeLinuxOption> {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    some(context.and_then(|context| context.selinux_options.as_ref()))
}

/// Options that ask for nothing are none.
fn some(options: Option<&cri::SeLinuxOption>) -> Option<cri::SeLinuxOption> {
    options.filter(|options| **options != cri::SeLinuxOption::default()).cloned()
}

/// Words, and a level: what else there is in a label would be another's.
fn check(asked: &cri::SeLinuxOption) -> Result<()> {
    let word =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    for (name, value) in [("user", &asked.user), ("role", &asked.role), ("type", &asked.r#type)] {
        if !word(value) {
            return Err(Error::invalid(format!("selinux_options.{name}: {value:?} is not a word")));
        }
    }
    if !asked.level.is_empty() && !is_level(&asked.level) {
        let message =
            format!("selinux_options.level: {:?} is not a level such as s0 or s0:c1,c2", asked.level);
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// `sN[-sN][:cN[.cN][,cN[.cN]]…]`, and the same again after a second sensitivity.
fn is_level(text: &str) -> bool {
    let number = |text: &str, letter: char| {
        let digits = text.strip_prefix(letter).unwrap_or_default();
        (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let one = |text: &str| {
        let (sensitivity, categories) = text.split_once(':').map_or((text, None), |(s, c)| (s, Some(c)));
        let range = |text: &str| text.splitn(2, '.').all(|category| number(category, 'c'));
        number(sensitivity, 's') && categories.is_none_or(|all| all.split(',').all(range))
    };
    text.splitn(2, '-').all(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "# of Fedora\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"x\"\n\
                            file = \"system_u:object_r:container_file_t:s0\"\n";
    const PROCESS: &str = "system_u:system_r:container_t";
    const FILE: &str = "system_u:object_r:container_file_t";

    fn host() -> Host {
        Host { selinux: true, selinux_policy: Policy::parse(CONTEXTS, true), ..Host::default() }
    }

    fn options(user: &str, role: &str, kind: &str, level: &str) -> Option<cri::SeLinuxOption> {
        let [user, role, r#type, level] = [user, role, kind, level].map(str::to_owned);
        Some(cri::SeLinuxOption { user, role, r#type, level })
    }

    fn sandbox(privileged: bool, selinux_options: Option<cri::SeLinuxOption>) -> cri::PodSandboxConfig {
        let context = cri::LinuxSandboxSecurityContext { privileged, selinux_options, ..Default::default() };
        let linux = cri::LinuxPodSandboxConfig { security_context: Some(context), ..Default::default() };
        cri::PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    fn container(privileged: bool, selinux_options: Option<cri::SeLinuxOption>) -> cri::ContainerConfig {
        let context =
            cri::LinuxContainerSecurityContext { privileged, selinux_options, ..Default::default() };
        let linux = cri::LinuxContainerConfig { security_context: Some(context), resources: None };
        cri::ContainerConfig { linux: Some(linux), ..Default::default() }
    }

    fn both(process: &str, mount: &str) -> Labels {
        Labels { process: process.into(), mount: mount.into() }
    }

    #[test]
    fn a_pod_has_a_level_of_its_own() {
        let of = |config| of_sandbox(&config, &host(), "s0:c1,c2").unwrap().unwrap();
        let plain = both(&format!("{PROCESS}:s0:c1,c2"), &format!("{FILE}:s0:c1,c2"));
        assert_eq!(of(sandbox(false, None)), plain);
        assert_eq!(of(sandbox(false, options("", "", "", ""))), plain, "nothing is asked for");
        let asked = of(sandbox(false, options("u", "r", "t", "s0:c5,c6")));
        assert_eq!(asked, both("u:r:t:s0:c5,c6", "u:object_r:container_file_t:s0:c5,c6"));
        let free = of(sandbox(true, None));
        assert_eq!(free, both("", &format!("{FILE}:s0:c1,c2")));
        let spc = of(sandbox(true, options("", "", "spc_t", "")));
        assert_eq!(spc.process, "system_u:system_r:spc_t:s0:c1,c2");
    }

    #[test]
    fn containers_have_the_level_of_their_pod() {
        let pod = sandbox(true, options("", "", "pod_t", ""));
        let labels = of_sandbox(&pod, &host(), "s0:c1,c2").unwrap().unwrap();
        let of = |config| of_container(&config, &pod, Some(&labels), &host()).unwrap().unwrap();
        assert_eq!(of(container(false, None)), labels);
        assert_eq!(of(container(true, None)), labels, "the pod asks for it");
        let own = of(container(false, options("", "", "own_t", "")));
        assert_eq!(own, both("system_u:system_r:own_t:s0:c1,c2", &labels.mount));
        let level = of(container(false, options("", "", "", "s0:c9")));
        assert_eq!(level, both(&format!("{PROCESS}:s0:c9"), &format!("{FILE}:s0:c9")));

        let pod = sandbox(true, None);
        let labels = of_sandbox(&pod, &host(), "s0:c1,c2").unwrap().unwrap();
        let of = |config| of_container(&config, &pod, Some(&labels), &host()).unwrap().unwrap();
        assert_eq!(of(container(true, None)), both("", &labels.mount));
        assert_eq!(of(container(false, None)).process, format!("{PROCESS}:s0:c1,c2"));
    }

    #[test]
    fn pods_of_a_server_without_labels_stay_without() {
        let pod = sandbox(false, None);
        assert_eq!(of_container(&container(false, None), &pod, None, &host()).unwrap(), None);
        let asks = of_container(&container(false, options("", "", "own_t", "")), &pod, None, &host());
        assert_eq!(asks.unwrap().unwrap(), both("system_u:system_r:own_t:s0", &format!("{FILE}:s0")));
        for (on, told) in [(false, "not enabled on this host"), (true, "--selinux")] {
            let host = Host { selinux: on, ..Host::default() };
            assert_eq!(of_sandbox(&pod, &host, "s0").unwrap(), None);
            for asked in [options("u", "", "", ""), options("", "", "", "s0")] {
                let error = of_sandbox(&sandbox(false, asked.clone()), &host, "s0").unwrap_err();
                assert!(error.to_string().contains(told), "{error}");
                let error = of_container(&container(false, asked), &pod, None, &host).unwrap_err();
                assert!(error.to_string().contains(told), "{error}");
            }
        }
    }

    #[test]
    fn what_is_no_label_is_refused() {
        for (asked, field) in [
            (options("a:b", "", "", ""), "user"),
            (options("", "a b", "", ""), "role"),
            (options("", "", "a\"", ""), "type"),
            (options("", "", "", "s0:c1,c2\","), "level"),
        ] {
            let error = of_sandbox(&sandbox(false, asked), &host(), "s0").unwrap_err().to_string();
            assert!(error.contains(&format!("selinux_options.{field}")), "{error}");
        }
        for good in ["s0", "s0-s0", "s0:c1", "s0:c1,c2", "s0:c1.c3,c5", "s0-s15:c0.c1023", "s0:c1-s1:c1,c2"] {
            assert!(is_level(good), "{good}");
        }
        for bad in ["", "0", "s", "c1", "s0:", "s0:c", "s0:1", "s0:c1,", "s0:c1.", "s0:c12345", "s0-", "s0 "]
        {
            assert!(!is_level(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_policy_without_levels() {
        let policy = Policy::parse(CONTEXTS, false);
        let host = Host { selinux: true, selinux_policy: policy, ..Host::default() };
        assert_eq!(
            of_sandbox(&sandbox(false, None), &host, "s0:c1,c2").unwrap().unwrap(),
            both(PROCESS, FILE)
        );
        assert!(of_sandbox(&sandbox(false, options("", "", "", "s0")), &host, "s0").is_err());
        assert_eq!(Policy::parse("process = \"a:b:c\"\n", true), None);
        assert_eq!(Policy::parse("process = \"a:b\"\nfile = \"a:b:c\"\n", true), None);
    }

    #[test]
    fn no_two_pods_have_one_level() {
        let mut all: Vec<Labels> = Vec::new();
        for start in [0, 0, 0, 523_775, 523_775, u32::MAX] {
            let level = fresh_level(all.iter(), start).unwrap();
            let labels = both("", &format!("{FILE}:{level}"));
            assert!(!all.contains(&labels) && is_level(&level), "{level}");
            all.push(labels);
        }
        assert_eq!(pair(0), "s0:c0,c1");
        assert_eq!(pair(1), "s0:c0,c2");
        assert_eq!(pair(2), "s0:c1,c2");
        assert_eq!(pair(523_775), "s0:c1022,c1023");
    }
}
