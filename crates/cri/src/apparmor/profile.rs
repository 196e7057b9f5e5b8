//! The text of the profile that containers are confined by unless they ask for another. Pure.

use super::DEFAULT;

/// What of AppArmor's own policy the host has below `/etc/apparmor.d`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Policy {
    /// `abi/3.0`: the features of the kernel that the profile was written for.
    pub(super) abi: bool,
    /// `tunables/global`: where `@{PROC}` is defined.
    pub(super) tunables: bool,
    /// `abstractions/base`: what every program needs.
    pub(super) base: bool,
}

/// The profile, as apparmor.d(5) has it. `own` is the profile of this process, which ends containers.
///
/// A container may do what its user, capabilities and mounts allow, but for: changing the kernel through `/proc` and `/sys`, where
/// it may write to its processes' files, to the limits of shared memory and to its control groups alone; mounting; and touching
/// processes that are not confined by the same profile.
pub(super) fn text(policy: Policy, own: &str) -> String {
    let abi = if policy.abi { "abi <abi/3.0>,\n" } else { "" };
    let proc = if policy.tunables { "include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if policy.base { "  include <abstractions/base>\n" } else { "" };
    let own = match own {
        "" | "unconfined" => String::new(),
        name => format!("  signal receive peer=\"{}\",\n", literal(name)),
    };
    format!(
        r#"{abi}{proc}

profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
{base}
  capability,
  file,
  network,
  umount,
  deny mount,

  # Who ends containers: the daemon's helpers, and other OCI runtimes where these have profiles.
  signal receive peer=unconfined,
  signal receive peer={{crun,runc}},
{own}  signal (receive, send) peer={DEFAULT},
  ptrace (read, readby, trace, tracedby) peer={DEFAULT},

  # Of /proc the directories of processes, and of /proc/sys the limits of shared memory.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^0-9s]*,s[^y]*,sy[^s]*,sys?*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{[^s]*,s[^h]*,sh[^m]*}} w,
  deny @{{PROC}}/sys/kernel/*/** w,
  deny @{{PROC}}/{{kcore,sysrq-trigger}} rwklx,

  # Of /sys the control groups.
  deny /sys/{{[^f],f[^s],fs/[^c],fs/c[^g],fs/cg[^r]}}** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"#
    )
}

/// A name where a pattern is expected: as it is, each character of a pattern escaped.
fn literal(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if matches!(c, '\\' | '"' | '*' | '?' | '[' | ']' | '{' | '}' | '^' | ',') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_policy_of_its_own_gets_the_whole_profile() {
        let text = text(Policy::default(), "");
        assert!(text.starts_with("@{PROC}=/proc/\n\nprofile vaquita-default "), "{text}");
        assert!(!text.contains("include") && !text.contains("abi <"), "{text}");
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }

    #[test]
    fn what_there_is_is_included() {
        let text = text(Policy { abi: true, tunables: true, base: true }, "unconfined");
        assert!(text.starts_with("abi <abi/3.0>,\ninclude <tunables/global>\n"), "{text}");
        assert!(text.contains("include <abstractions/base>\n") && !text.contains("@{PROC}="), "{text}");
        assert_eq!(text.matches("signal receive").count(), 2);
    }

    #[test]
    fn a_confined_daemon_may_end_its_containers() {
        let text = text(Policy::default(), "/opt/{a}/vaquita");
        assert!(text.contains("signal receive peer=\"/opt/\\{a\\}/vaquita\","), "{text}");
    }
}
