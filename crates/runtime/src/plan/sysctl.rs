//! Kernel parameters: which ones belong to a namespace, and which file each is.

use std::ffi::CString;

use vaquita_sys::ns;

use crate::Error;

/// A kernel parameter of a namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    pub(crate) value: String,
    /// Relative to the root of procfs.
    pub(crate) file: CString,
}

impl Sysctl {
    /// Parses `name` and checks it against the list of parameters that belong to a namespace; `is_own` says whether the
    /// container has a namespace of that kind which is not the host's.
    pub(crate) fn new(name: &str, value: &str, is_own: impl Fn(ns::Kind) -> bool) -> Result<Self, Error> {
        let refuse = |why: &str| Err(Error::invalid(format!("sysctl {name:?} = {value:?}: {why}")));
        let path = path(name);
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        if !path.chars().all(plain) || path.split('/').any(|part| ["", ".", ".."].contains(&part)) {
            return refuse("a name is made of letters, digits, '_' and '-', separated by dots or by slashes");
        }
        if value.contains(['\n', '\r', '\0']) {
            return refuse("a value is one line");
        }
        let Some(kind) = kind(&path) else {
            return refuse("it belongs to no namespace, so it would change the host");
        };
        if !is_own(kind) {
            return refuse(&format!("the {} namespace is the host's", kind.file_name()));
        }
        let file = CString::new(format!("sys/{path}"))
            .map_err(|_| Error::invalid(format!("sysctl {name:?}: has a NUL character")))?;
        // Longer names would need memory after the clone.
        if file.as_bytes().len() > 255 {
            return refuse("the name is longer than 250 characters");
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned(), file })
    }
}

/// Below /proc/sys. Whichever of dot and slash comes first separates, and the other one is part of a name, such as that
/// of the link in `net.ipv4.conf.eth0/100.forwarding` (sysctl(8)).
fn path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => {
            let swap = |c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

fn kind(path: &str) -> Option<ns::Kind> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    if path.starts_with("net/") {
        Some(ns::Kind::Net)
    } else if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
        Some(ns::Kind::Ipc)
    } else if path == "kernel/domainname" {
        // kernel.hostname has a field of its own.
        Some(ns::Kind::Uts)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is accepted is a file below the directory of its namespace, whatever the name looks like.
        #[test]
        fn t24_no_name_leads_elsewhere(
            name in "(net|kernel|fs|vm|)[./](ipv4|mqueue|core_pattern|shm|sem|domainname)?[a-z0-9._/ \\n-]{0,30}",
            value in "[ -~\\n]{0,8}",
        ) {
            prop_assert!(Sysctl::new(&name, &value, |_| false).is_err());
            if let Ok(sysctl) = Sysctl::new(&name, &value, |_| true) {
                let file = sysctl.file.to_str().unwrap();
                let parts: Vec<&str> = file.split('/').collect();
                prop_assert!(!parts.iter().any(|part| ["", ".", ".."].contains(part)), "{}", file);
                prop_assert!(matches!(parts[..], ["sys", "net", _, ..] | ["sys", "fs", "mqueue", _, ..] | ["sys", "kernel", _]), "{}", file);
                prop_assert!(!file.contains("core_pattern") || parts[1] != "kernel");
                prop_assert!(!sysctl.value.contains('\n') && file.len() < 256);
            }
        }
    }

    /// T24: CVE-2022-0811, CVE-2022-0532.
    #[test]
    fn t24_only_parameters_of_own_namespaces() {
        let all = |_| true;
        for (name, file) in [
            ("net.ipv4.ip_unprivileged_port_start", "sys/net/ipv4/ip_unprivileged_port_start"),
            ("kernel.shm_rmid_forced", "sys/kernel/shm_rmid_forced"),
            ("kernel.sem", "sys/kernel/sem"),
            ("fs.mqueue.msg_max", "sys/fs/mqueue/msg_max"),
            ("kernel.domainname", "sys/kernel/domainname"),
            ("net/ipv4/ip_forward", "sys/net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/100.forwarding", "sys/net/ipv4/conf/eth0.100/forwarding"),
            ("net/ipv4/conf/eth0.100/forwarding", "sys/net/ipv4/conf/eth0.100/forwarding"),
        ] {
            assert_eq!(Sysctl::new(name, "1", all).unwrap().file.to_str().unwrap(), file);
            assert!(Sysctl::new(name, "1", |_| false).is_err(), "{name} on the host");
        }
        for name in [
            "kernel.core_pattern",
            "kernel.hostname",
            "vm.swappiness",
            "kernel.shm",
            "net",
            "net..ipv4",
            "net.ipv4/../../kernel/core_pattern",
            "net/ipv4/../../kernel/core_pattern",
            "net/./x",
            "net//x",
            "/net/x",
            "net.//.//.kernel.core_pattern",
            "kernel/core_pattern",
            "+net.x",
            "net.x=1",
            "net.x\n",
            "",
        ] {
            assert!(Sysctl::new(name, "1", all).is_err(), "{name}");
        }
        assert!(Sysctl::new("net.ipv4.ip_forward", "1\n2", all).is_err());
        assert!(Sysctl::new("net.ipv4.ping_group_range", "0 2147483647", all).is_ok());
    }
}
