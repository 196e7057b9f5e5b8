//! What a container runs, as whom, with which environment.

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, User as OciUser};
use vaquita_proto::cri;

use super::Input;
use crate::host::Host;
use crate::{Error, Kind, Result};

/// What shells look for programs in, where the image does not say.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn build(input: &Input<'_>, context: &cri::LinuxContainerSecurityContext) -> Result<Process> {
    let config = input.config;
    let mut user = OciUser::default();
    user.set_uid(input.user.uid).set_gid(input.user.gid).set_additional_gids(Some(input.user.groups.clone()));
    let label = input.selinux.as_ref().map(|labels| labels.process.clone());
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_user(user)
        .set_args(Some(args(config, &input.image.entrypoint, &input.image.cmd)?))
        .set_env(Some(environment(input)?))
        .set_cwd(working_dir(config, &input.image.working_dir).into())
        .set_capabilities(Some(sets(super::capabilities(config, input.host)?)))
        .set_rlimits(None)
        .set_apparmor_profile(input.apparmor.clone())
        .set_selinux_label(label.filter(|label| !label.is_empty()))
        .set_no_new_privileges(Some(context.no_new_privs))
        .set_oom_score_adj(match &config.linux.as_ref().and_then(|linux| linux.resources.as_ref()) {
            Some(resources) => Some(oom_score_adj(resources, input.host)?),
            // A daemon that the kernel is to spare must not make containers that it spares.
            None => (input.host.oom_score_adj < 0).then_some(0),
        });
    Ok(process)
}

/// The process of a command in a container that runs: as the container's own, with another command line, and with the
/// `oom_score_adj` that the container has now.
pub(crate) fn exec_process(
    mut process: Process,
    command: &[String],
    tty: bool,
    oom_score_adj: Option<i32>,
) -> Result<Process> {
    if command.is_empty() {
        return Err(Error::invalid("cmd: there is no command"));
    }
    process.set_args(Some(command.to_vec())).set_terminal(Some(tty)).set_oom_score_adj(oom_score_adj);
    let environment = process.env_mut().get_or_insert_default();
    if tty && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
        environment.push("TERM=xterm".into());
    }
    Ok(process)
}

/// `command` replaces the entry point; where only it is given the image's arguments are void too.
fn args(config: &cri::ContainerConfig, entrypoint: &[String], cmd: &[String]) -> Result<Vec<String>> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (entrypoint, cmd),
        (true, false) => (entrypoint, &config.args[..]),
        (false, _) => (&config.command[..], &config.args[..]),
    };
    if command.is_empty() && args.is_empty() {
        return Err(Error::invalid("command: neither the request nor the image says what to run"));
    }
    Ok(command.iter().chain(args).cloned().collect())
}

/// The image's, then what we add, then the client's; the last of a name wins and takes the place of the first.
fn environment(input: &Input<'_>) -> Result<Vec<String>> {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut set = |entry: &str| {
        let (name, _) = entry.split_once('=').unwrap_or((entry, ""));
        match all.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => entry.clone_into(old),
            None => all.push((name.to_owned(), entry.to_owned())),
        }
    };
    set(PATH);
    for entry in &input.image.env {
        if entry.contains('=') {
            set(entry);
        }
    }
    if !input.hostname.is_empty() {
        set(&format!("HOSTNAME={}", input.hostname));
    }
    if input.config.tty {
        set("TERM=xterm");
    }
    for pair in &input.config.envs {
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
            return Err(Error::invalid(format!("envs: {:?} cannot be the name of a variable", pair.key)));
        }
        let value = std::str::from_utf8(&pair.value).map_err(|_| {
            Error::unsupported(format!(
                "envs[{}]: a value that is not UTF-8 cannot be passed on yet",
                pair.key
            ))
        })?;
        if value.contains('\0') {
            return Err(Error::invalid(format!("envs[{}]: a value cannot hold a NUL", pair.key)));
        }
        set(&format!("{}={value}", pair.key));
    }
    if !all.iter().any(|(name, _)| name == "HOME") {
        let home = &input.user.home;
        all.push(("HOME".into(), format!("HOME={}", if home.is_empty() { "/" } else { home })));
    }
    Ok(all.into_iter().map(|(_, entry)| entry).collect())
}

fn working_dir(config: &cri::ContainerConfig, image: &str) -> String {
    let dir = if config.working_dir.is_empty() { image } else { &config.working_dir };
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// Bounding, permitted and effective. Inheritable and ambient stay empty (CVE-2022-24769).
fn sets(capabilities: Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()))
        .set_permitted(Some(capabilities.clone()))
        .set_effective(Some(capabilities))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

/// What is asked for, if it can be had.
pub(crate) fn oom_score_adj(resources: &cri::LinuxContainerResources, host: &Host) -> Result<i32> {
    let asked = i32::try_from(resources.oom_score_adj)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| {
            Error::invalid(format!("oom_score_adj: {} is not in -1000…1000", resources.oom_score_adj))
        })?;
    let lowest = host.lowest_oom_score_adj;
    if asked < lowest && !host.restrict_oom_score_adj {
        let message = format!(
            "oom_score_adj {asked} cannot be set: the daemon lacks CAP_SYS_RESOURCE; \
             with --restrict-oom-score-adj it uses {lowest} instead"
        );
        return Err(Error::new(Kind::Denied, message));
    }
    Ok(asked)
}
