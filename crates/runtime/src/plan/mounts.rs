//! Mounts: OCI options become attributes, parameters and propagation.

pub(crate) mod options;

use std::ffi::CString;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};
use vaquita_sys::mount::{Attributes, Propagation, Recipe};

use self::options::Options;
pub(crate) use self::options::{Change, propagation};
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
    /// One after the other.
    pub(crate) propagation: Vec<(Propagation, bool)>,
    pub(crate) idmap: Option<IdMap>,
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
    /// What is mounted at the destination already; its filesystem gets these parameters, if there are any.
    Remount(Option<Recipe>),
}

/// Identities on a mount that differ from those on the disk.
#[derive(Debug)]
pub(crate) struct IdMap {
    /// Of the mounts below, too.
    pub(crate) recursive: bool,
    /// Lines for uid_map and gid_map; none for those of the container's user namespace.
    pub(crate) maps: Option<(String, String)>,
}

/// A filesystem to be made, and what is done to its root directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filesystem {
    pub(crate) recipe: Recipe,
    pub(crate) fill: Fill,
    /// The SELinux label that its root directory gets, where it cannot be a parameter.
    pub(crate) relabel: Option<CString>,
}

/// What the root directory of a new tmpfs takes over from the directory that it covers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Fill {
    #[default]
    Nothing,
    /// Its mode.
    Mode,
    /// All that is in it, and its mode and owner (`tmpcopyup`); the mode only if true.
    Content { mode: bool },
}

impl MountPlan {
    pub(crate) fn new(mount: &Mount, context: &Context) -> Result<Self, Error> {
        let destination = Inside::new("mounts.destination", mount.destination())?;
        let fail = |why: &str| Error::invalid(format!("the mount on {destination}: {why}"));
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        let kind = mount.typ().as_deref().filter(|kind| !kind.is_empty());
        let is_bind = options.bind.is_some() || kind == Some("bind");
        let source = match kind {
            _ if options.remount => Source::Remount(reconfiguration(&destination, &options, is_bind)?),
            _ if is_bind => {
                let path = mount.source().as_ref().filter(|path| !path.as_os_str().is_empty());
                let path = path.ok_or_else(|| fail("a bind mount needs a source"))?;
                options.refuse_parameters(&destination, "a bind mount")?;
                if super::has_nul(path) {
                    return Err(fail(&format!("its source {path:?} has a NUL character")));
                }
                Source::Bind { path: context.bundle.join(path), recursive: options.bind.unwrap_or(false) }
            }
            Some("cgroup" | "cgroup2") => Source::Cgroup,
            Some(kind) => Source::New(filesystem(kind, mount.source().as_deref(), &options)?),
            None => return Err(fail("it has neither a type nor the option bind")),
        };
        if options.copy_up && !matches!(&source, Source::New(new) if new.recipe.kind() == c"tmpfs") {
            return Err(fail("option \"tmpcopyup\" is one of tmpfs"));
        }
        let idmap = idmap(mount, &options).map_err(|why| fail(&why))?;
        if idmap.is_some() && !matches!(source, Source::Bind { .. }) {
            return Err(fail("only a bind mount can have id mappings"));
        }
        let plan = Self {
            destination,
            source,
            change: options.change,
            recursive: options.recursive,
            propagation: options.propagation,
            idmap,
        };
        plan.check_place()?;
        Ok(plan)
    }

    /// Labels a new filesystem (linux.mountLabel), as runc does: not those that show the kernel itself, and mqueue by
    /// an attribute of its directory.
    pub(crate) fn label(&mut self, label: &str) -> Result<(), Error> {
        let Source::New(filesystem) = &mut self.source else { return Ok(()) };
        match filesystem.recipe.kind().to_str() {
            Ok("proc" | "sysfs") => {}
            Ok("mqueue") => filesystem.relabel = Some(c_string("linux.mountLabel", label)?),
            _ => drop(filesystem.recipe.string("context", label).map_err(invalid)?),
        }
        Ok(())
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
        let new_proc = matches!(&self.source, Source::New(filesystem) if filesystem.recipe.kind() == c"proc");
        let refuse = |why: &str| Err(Error::invalid(format!("the mount on {}: {why}", self.destination)));
        if matches!(self.source, Source::Remount(_)) {
            // Nothing is covered, and what is no mount is refused by the kernel.
            return Ok(());
        }
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

/// Parameters may be given only to a filesystem that the specification itself has made: any other is the host's.
pub(crate) fn check_remounts(mounts: &[MountPlan]) -> Result<(), Error> {
    for (number, mount) in mounts.iter().enumerate() {
        let Source::Remount(Some(_)) = &mount.source else { continue };
        let same = |other: &&MountPlan| other.destination.as_path() == mount.destination.as_path();
        let below = mounts[..number].iter().rev().filter(same);
        let made = below.map(|other| &other.source).find(|source| !matches!(source, Source::Remount(_)));
        if !matches!(made, Some(Source::New(_))) {
            return Err(Error::invalid(format!(
                "the mount on {}: a remount with options of the filesystem needs a mount before it that has made the \
                 filesystem; others may be in use by the host (\"bind\" changes the mount alone)",
                mount.destination
            )));
        }
    }
    Ok(())
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

/// Filesystems whose superblock may be shared, or whose content is made after it: read-only is the mount, not the
/// filesystem.
const IN_MEMORY: &[&str] = &[
    "binfmt_misc",
    "bpf",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "overlay",
    "proc",
    "ramfs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tmpfs",
    "tracefs",
];

fn filesystem(kind: &str, source: Option<&Path>, options: &Options<'_>) -> Result<Filesystem, Error> {
    let mut recipe = Recipe::new(kind).map_err(invalid)?;
    if let Some(source) = source {
        recipe.source(&source.to_string_lossy()).map_err(invalid)?;
    }
    parameters(&mut recipe, options)?;
    let read_only = (options.change.set | options.recursive.set).contains(Attributes::RDONLY);
    if read_only && !IN_MEMORY.contains(&kind) {
        // A device or a server, which may refuse to be written to, or must not be.
        recipe.flag("ro").map_err(invalid)?;
    }
    let mut fill = Fill::Nothing;
    if kind == "tmpfs" {
        let has_mode = options.data.iter().any(|option| option.starts_with("mode="));
        fill = match (options.copy_up, has_mode) {
            (true, has_mode) => Fill::Content { mode: !has_mode },
            (false, true) => Fill::Nothing,
            (false, false) => Fill::Mode,
        };
    }
    Ok(Filesystem { recipe, fill, relabel: None })
}

fn reconfiguration(
    destination: &Inside,
    options: &Options<'_>,
    is_bind: bool,
) -> Result<Option<Recipe>, Error> {
    if is_bind {
        options.refuse_parameters(destination, "a remount of a bind mount")?;
    }
    if options.data.is_empty() && options.superblock.is_empty() {
        return Ok(None);
    }
    let mut recipe = Recipe::default();
    parameters(&mut recipe, options)?;
    Ok(Some(recipe))
}

fn parameters(recipe: &mut Recipe, options: &Options<'_>) -> Result<(), Error> {
    for option in options.data.iter().copied().chain(options.superblock.iter().copied()) {
        match option.split_once('=') {
            Some((key, value)) => drop(recipe.string(key, value).map_err(invalid)?),
            // Every mount of devpts is an instance of its own since Linux 4.7, and the new API refuses the option.
            None if recipe.kind() == c"devpts" && option == "newinstance" => {}
            None => drop(recipe.flag(option).map_err(invalid)?),
        }
    }
    Ok(())
}

/// A text that the kernel cannot be told.
fn invalid(error: vaquita_sys::Error) -> Error {
    Error::invalid(format!("mounts: {error}"))
}

fn idmap(mount: &Mount, options: &Options<'_>) -> Result<Option<IdMap>, String> {
    let given = |list: &'_ Option<Vec<LinuxIdMapping>>| list.clone().filter(|list| !list.is_empty());
    let text = |field: &str, list: &[LinuxIdMapping]| {
        super::ids::text(field, list).map_err(|error| error.to_string())
    };
    let maps = match (given(mount.uid_mappings()), given(mount.gid_mappings())) {
        (Some(uids), Some(gids)) => Some((text("uidMappings", &uids)?, text("gidMappings", &gids)?)),
        (None, None) => None,
        _ => return Err("uidMappings and gidMappings must be given together".to_owned()),
    };
    match (options.idmap, maps) {
        (None, None) => Ok(None),
        (recursive, maps) => Ok(Some(IdMap { recursive: recursive.unwrap_or(false), maps })),
    }
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
        assert_eq!(plan.propagation, [(Propagation::Slave, true)]);
    }

    #[test]
    fn new_filesystems_get_their_parameters() {
        let plan = plan(
            r#"{"destination":"/dev/pts","type":"devpts","source":"devpts","options":["nosuid","newinstance","ptmxmode=0666","gid=5"]}"#,
        )
        .unwrap();
        let Source::New(filesystem) = &plan.source else { panic!("{plan:?}") };
        let mut same = Recipe::new("devpts").unwrap();
        same.source("devpts").unwrap().string("ptmxmode", "0666").unwrap().string("gid", "5").unwrap();
        assert_eq!(filesystem.recipe, same);
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
    fn what_cannot_be_done_is_refused() {
        for json in [
            // Parameters of a bind, and flags of its filesystem.
            r#"{"destination":"/a","source":"/b","options":["bind","size=1k"]}"#,
            r#"{"destination":"/a","source":"/b","options":["bind","sync"]}"#,
            r#"{"destination":"/a","options":["bind","remount","size=1k"]}"#,
            r#"{"destination":"/a","options":["bind"]}"#,
            r#"{"destination":"/a","source":"","options":["bind"]}"#,
            r#"{"destination":"/a"}"#,
            r#"{"destination":"/a","source":"/b","options":["bind","tmpcopyup"]}"#,
            r#"{"destination":"/a","type":"proc","options":["tmpcopyup"]}"#,
            r#"{"destination":"/a","type":"tmpfs","options":["idmap"]}"#,
            r#"{"destination":"/a","source":"/b","options":["bind","idmap"],"uidMappings":[{"containerID":0,"hostID":1,"size":1}]}"#,
        ] {
            assert_eq!(plan(json).unwrap_err().kind(), crate::Kind::Invalid, "{json}");
        }
    }

    #[test]
    fn id_mappings_imply_idmap() {
        let maps = r#""uidMappings":[{"containerID":0,"hostID":1000,"size":2}],"gidMappings":[{"containerID":0,"hostID":2000,"size":3}]"#;
        let with = |options: &str| {
            plan(&format!(r#"{{"destination":"/a","source":"/b","options":[{options}],{maps}}}"#)).unwrap()
        };
        let idmap = with(r#""bind""#).idmap.unwrap();
        assert!(!idmap.recursive);
        assert_eq!(idmap.maps, Some(("0 1000 2\n".to_owned(), "0 2000 3\n".to_owned())));
        assert!(with(r#""rbind","ridmap""#).idmap.unwrap().recursive);
        let own = plan(r#"{"destination":"/a","source":"/b","options":["bind","idmap"]}"#).unwrap();
        assert!(own.idmap.unwrap().maps.is_none());
        // As containerd sends them where there are none.
        let none =
            r#"{"destination":"/a","source":"/b","options":["bind"],"uidMappings":[],"gidMappings":[]}"#;
        assert!(plan(none).unwrap().idmap.is_none());
    }

    #[test]
    fn only_what_was_made_here_is_reconfigured() {
        let plans = |list: &[&str]| list.iter().map(|json| plan(json).unwrap()).collect::<Vec<_>>();
        let tmpfs = r#"{"destination":"/a","type":"tmpfs","source":"tmpfs"}"#;
        let bind = r#"{"destination":"/a","source":"/b","options":["bind"]}"#;
        let size = r#"{"destination":"/a/","options":["remount","size=1m"]}"#;
        let flags = r#"{"destination":"/a","options":["remount","ro","nosuid"]}"#;
        check_remounts(&plans(&[tmpfs, flags, size, size])).unwrap();
        check_remounts(&plans(&[bind, flags])).unwrap();
        for list in [&[size][..], &[tmpfs, bind, size], &[bind, flags, size]] {
            assert_eq!(check_remounts(&plans(list)).unwrap_err().kind(), crate::Kind::Invalid, "{list:?}");
        }
    }

    #[test]
    fn what_may_not_be_written_to_is_not_opened_for_writing() {
        for (kind, flag) in [("ext4", true), ("nfs", true), ("sysfs", false), ("tmpfs", false)] {
            let plan =
                plan(&format!(r#"{{"destination":"/a","type":"{kind}","source":"x","options":["ro"]}}"#));
            let Source::New(filesystem) = plan.unwrap().source else { panic!("{kind}") };
            let mut same = Recipe::new(kind).unwrap();
            same.source("x").unwrap();
            if flag {
                same.flag("ro").unwrap();
            }
            assert_eq!(filesystem.recipe, same, "{kind}");
        }
    }

    #[test]
    fn a_tmpfs_takes_over_what_it_covers() {
        for (options, fill) in [
            (r#""size=1k""#, Fill::Mode),
            (r#""mode=755""#, Fill::Nothing),
            (r#""tmpcopyup""#, Fill::Content { mode: true }),
            (r#""tmpcopyup","mode=755""#, Fill::Content { mode: false }),
        ] {
            let plan =
                plan(&format!(r#"{{"destination":"/a","type":"tmpfs","options":[{options}]}}"#)).unwrap();
            assert!(matches!(plan.source, Source::New(new) if new.fill == fill), "{options}");
        }
    }
}
