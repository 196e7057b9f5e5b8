//! Mounts: OCI options become attributes, parameters and propagation.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use vaquita_sys::mount::{Attributes, Propagation};

use super::path::Inside;
use super::process::c_string;
use crate::{Context, Error};

/// A validated mount.
#[derive(Debug)]
pub(crate) struct MountPlan {
    pub(crate) destination: Inside,
    pub(crate) source: Source,
    /// Of the top mount.
    pub(crate) change: Change,
    /// Of the top mount and everything below it (`rro` and its like).
    pub(crate) recursive: Change,
    pub(crate) propagation: Option<(Propagation, bool)>,
}

/// Where the mounted tree comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A copy of a tree of the host.
    Bind { path: PathBuf, recursive: bool },
    /// The container's view of its cgroups.
    Cgroup,
    /// A new filesystem; made in the container's namespaces, which proc, sysfs and mqueue show.
    New(Filesystem),
}

/// A filesystem to be made by fsopen(2).
#[derive(Clone, Debug, Default)]
pub(crate) struct Filesystem {
    pub(crate) kind: CString,
    pub(crate) strings: Vec<(CString, CString)>,
    pub(crate) flags: Vec<CString>,
}

/// Attributes to set and to clear.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    pub(crate) set: Attributes,
    pub(crate) clear: Attributes,
}

impl Change {
    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl MountPlan {
    pub(crate) fn new(mount: &Mount, context: &Context) -> Result<Self, Error> {
        let destination = Inside::new("mounts.destination", mount.destination())?;
        let fail = |why: &str| Error::invalid(format!("the mount on {destination}: {why}"));
        if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
            return Err(Error::unsupported(format!(
                "the mount on {destination}: id mappings are not supported yet"
            )));
        }
        let options = Options::parse(mount.options().as_deref().unwrap_or_default(), &destination)?;
        let kind = mount.typ().as_deref().filter(|kind| !kind.is_empty());
        let source = match kind {
            _ if options.bind.is_some() || kind == Some("bind") => {
                let path = mount.source().as_ref().ok_or_else(|| fail("a bind mount needs a source"))?;
                if let Some(data) = options.data.first() {
                    return Err(fail(&format!("option {data:?} is not one of a bind mount")));
                }
                Source::Bind { path: context.bundle.join(path), recursive: options.bind.unwrap_or(false) }
            }
            Some("cgroup" | "cgroup2") => Source::Cgroup,
            Some(kind) => Source::New(filesystem(kind, mount.source().as_deref(), &options)?),
            None => return Err(fail("it has neither a type nor the option bind")),
        };
        let plan = Self {
            destination,
            source,
            change: options.change,
            recursive: options.recursive,
            propagation: options.propagation,
        };
        plan.check_place()?;
        Ok(plan)
    }

    /// Whether it may be put over a file of procfs.
    pub(crate) fn may_cover_proc(&self) -> bool {
        COVERABLE.iter().any(|path| self.destination.as_path() == Path::new(path))
    }

    /// Whether the destination must be an ordinary directory, reached without any symbolic link: what the runtime and
    /// its successors rely on is there (CVE-2019-19921, CVE-2025-54867).
    pub(crate) fn is_strict(&self) -> bool {
        ["/proc", "/sys"].iter().any(|path| self.destination.as_path() == Path::new(path))
    }

    fn check_place(&self) -> Result<(), Error> {
        let path = self.destination.as_path();
        let new_proc =
            matches!(&self.source, Source::New(filesystem) if filesystem.kind.as_c_str() == c"proc");
        let refuse = |why: &str| Err(Error::invalid(format!("the mount on {}: {why}", self.destination)));
        if path == Path::new("/") {
            return refuse("the root filesystem cannot be covered");
        }
        if path == Path::new("/proc") && !new_proc && !matches!(self.source, Source::Bind { .. }) {
            return refuse("only procfs can be there");
        }
        if path.starts_with("/proc") && path != Path::new("/proc") && !self.may_cover_proc() {
            return refuse("nothing can be mounted inside /proc but over files that lxcfs provides");
        }
        Ok(())
    }
}

/// Files that lxcfs and its like put something over; as runc allows.
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/uptime",
];

fn filesystem(kind: &str, source: Option<&Path>, options: &Options<'_>) -> Result<Filesystem, Error> {
    let field = "mounts.options";
    let mut filesystem = Filesystem { kind: c_string("mounts.type", kind)?, ..Filesystem::default() };
    if let Some(source) = source {
        let source = c_string("mounts.source", &source.to_string_lossy())?;
        filesystem.strings.push((c"source".to_owned(), source));
    }
    for option in options.data.iter().copied().chain(options.superblock.iter().copied()) {
        match option.split_once('=') {
            Some((key, value)) => filesystem.strings.push((c_string(field, key)?, c_string(field, value)?)),
            // Every mount of devpts is an instance of its own since Linux 4.7, and the new API refuses the option.
            None if kind == "devpts" && option == "newinstance" => {}
            None => filesystem.flags.push(c_string(field, option)?),
        }
    }
    Ok(filesystem)
}

#[derive(Default)]
struct Options<'a> {
    /// Recursively?
    bind: Option<bool>,
    change: Change,
    recursive: Change,
    propagation: Option<(Propagation, bool)>,
    /// Flags of the whole filesystem.
    superblock: Vec<&'a str>,
    /// What the filesystem itself understands.
    data: Vec<&'a str>,
}

impl<'a> Options<'a> {
    fn parse(list: &'a [String], destination: &Inside) -> Result<Self, Error> {
        let mut options = Self::default();
        for option in list {
            options.add(option).map_err(|kind| {
                Error::unsupported(format!("the mount on {destination}: option {option:?} is {kind}"))
            })?;
        }
        Ok(options)
    }

    fn add(&mut self, option: &'a str) -> Result<(), &'static str> {
        if let Some((change, set)) = attribute(option) {
            self.change = combined(self.change, change, set);
            return Ok(());
        }
        if let Some((change, set)) = option.strip_prefix('r').and_then(attribute) {
            self.recursive = combined(self.recursive, change, set);
            return Ok(());
        }
        if let Some(propagation) = propagation(option) {
            self.propagation = Some(propagation);
            return Ok(());
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            // Defaults of mount(8), which change nothing.
            "" | "defaults" | "async" | "loud" | "nomand" | "nolazytime" | "noiversion" => {}
            "sync" | "dirsync" | "lazytime" | "mand" | "silent" => self.superblock.push(option),
            "remount" | "tmpcopyup" | "idmap" | "ridmap" | "iversion" => return Err("not supported yet"),
            _ => self.data.push(option),
        }
        Ok(())
    }
}

fn combined(mut change: Change, attributes: Attributes, set: bool) -> Change {
    // The last one holds. The access time modes exclude each other: all are cleared before one is set.
    let is_atime = Attributes::ATIME.contains(attributes) && !attributes.is_empty();
    let mask = if is_atime { Attributes::ATIME } else { attributes };
    let without = |from: Attributes| {
        ALL.iter()
            .filter(|bit| from.contains(**bit) && !mask.contains(**bit))
            .fold(Attributes::NONE, |sum, bit| sum | *bit)
    };
    change.set = without(change.set);
    change.clear = without(change.clear);
    if is_atime {
        change.clear |= Attributes::ATIME;
    }
    if set {
        change.set |= attributes;
    } else if !is_atime {
        change.clear |= attributes;
    }
    change
}

const ALL: [Attributes; 9] = [
    Attributes::RDONLY,
    Attributes::NOSUID,
    Attributes::NODEV,
    Attributes::NOEXEC,
    Attributes::ATIME,
    Attributes::NOATIME,
    Attributes::STRICTATIME,
    Attributes::NODIRATIME,
    Attributes::NOSYMFOLLOW,
];

/// The attribute of an option, and whether it is set or cleared.
fn attribute(option: &str) -> Option<(Attributes, bool)> {
    Some(match option {
        "ro" => (Attributes::RDONLY, true),
        "rw" => (Attributes::RDONLY, false),
        "nosuid" => (Attributes::NOSUID, true),
        "suid" => (Attributes::NOSUID, false),
        "nodev" => (Attributes::NODEV, true),
        "dev" => (Attributes::NODEV, false),
        "noexec" => (Attributes::NOEXEC, true),
        "exec" => (Attributes::NOEXEC, false),
        "noatime" => (Attributes::NOATIME, true),
        "strictatime" => (Attributes::STRICTATIME, true),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (Attributes::NOATIME, false),
        "nodiratime" => (Attributes::NODIRATIME, true),
        "diratime" => (Attributes::NODIRATIME, false),
        "nosymfollow" => (Attributes::NOSYMFOLLOW, true),
        "symfollow" => (Attributes::NOSYMFOLLOW, false),
        _ => return None,
    })
}

/// A propagation, and whether it is recursive.
pub(crate) fn propagation(option: &str) -> Option<(Propagation, bool)> {
    Some(match option {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<MountPlan, Error> {
        MountPlan::new(&serde_json::from_str(json).unwrap(), &Context::default())
    }

    #[test]
    fn options_become_attributes() {
        let plan = plan(
            r#"{"destination":"/data","source":"/srv","options":["rbind","ro","nosuid","suid","rro","noatime","relatime","rslave"]}"#,
        )
        .unwrap();
        assert!(matches!(plan.source, Source::Bind { recursive: true, .. }));
        assert_eq!(plan.change.set, Attributes::RDONLY);
        assert_eq!(plan.change.clear, Attributes::NOSUID | Attributes::ATIME);
        assert_eq!(plan.recursive, Change { set: Attributes::RDONLY, clear: Attributes::NONE });
        assert_eq!(plan.propagation, Some((Propagation::Slave, true)));
    }

    #[test]
    fn new_filesystems_get_their_parameters() {
        let plan = plan(
            r#"{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","newinstance","ptmxmode=0666","gid=5"]}"#,
        )
        .unwrap();
        let Source::New(filesystem) = &plan.source else { panic!("{plan:?}") };
        let pairs: Vec<_> =
            filesystem.strings.iter().map(|(k, v)| (k.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(pairs, [("source", "devpts"), ("ptmxmode", "0666"), ("gid", "5")]);
        assert!(filesystem.flags.is_empty());
    }

    /// T02, T03: CVE-2019-16884, CVE-2019-19921.
    #[test]
    fn t02_nothing_but_procfs_on_proc() {
        for json in [
            r#"{"destination":"/proc","type":"tmpfs","source":"tmpfs"}"#,
            r#"{"destination":"/proc/../proc/self","type":"tmpfs","source":"tmpfs"}"#,
            r#"{"destination":"/proc/sys","type":"bind","source":"/srv","options":["bind"]}"#,
            r#"{"destination":"/","type":"tmpfs","source":"tmpfs"}"#,
            r#"{"destination":"/x/..","type":"tmpfs","source":"tmpfs"}"#,
        ] {
            assert_eq!(plan(json).unwrap_err().kind(), crate::Kind::Invalid, "{json}");
        }
        assert!(
            plan(r#"{"destination":"/proc/cpuinfo","source":"/srv","options":["bind"]}"#)
                .unwrap()
                .may_cover_proc()
        );
        assert!(plan(r#"{"destination":"/sys","type":"sysfs","source":"sysfs"}"#).unwrap().is_strict());
    }

    #[test]
    fn what_is_not_implemented_is_refused() {
        for json in [
            r#"{"destination":"/a","type":"tmpfs","options":["tmpcopyup"]}"#,
            r#"{"destination":"/a","source":"/b","options":["bind","idmap"]}"#,
            r#"{"destination":"/a","source":"/b","options":["bind"],"uidMappings":[]}"#,
        ] {
            assert_eq!(plan(json).unwrap_err().kind(), crate::Kind::Unsupported, "{json}");
        }
        assert!(plan(r#"{"destination":"/a","source":"/b","options":["bind","size=1k"]}"#).is_err());
        assert!(plan(r#"{"destination":"/a","options":["bind"]}"#).is_err());
        assert!(plan(r#"{"destination":"/a"}"#).is_err());
    }
}
