//! The options of a mount: runtime-spec's "Linux mount options", each with what it does.

use vaquita_sys::mount::{Attributes, Propagation};

use crate::Error;
use crate::plan::path::Inside;

/// Every option of a mount that is not handed on to its filesystem, in alphabetical order: what the runtime-spec lists
/// for Linux, all of which are implemented.
#[rustfmt::skip]
pub const MOUNT_OPTIONS: &[&str] = &[
    "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion",
    "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime",
    "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev",
    "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
    "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw",
    "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent",
    "slave", "strictatime", "suid", "symfollow", "sync", "tmpcopyup", "unbindable",
];

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

    /// Both, one after the other.
    pub(crate) fn and(self, later: Self) -> Self {
        let set = self.set.without(later.clear) | later.set;
        Self { set, clear: self.clear.without(later.set) | later.clear }
    }
}

/// A list of options, sorted by what they act on.
#[derive(Debug, Default)]
pub(crate) struct Options<'a> {
    /// Recursively?
    pub(crate) bind: Option<bool>,
    pub(crate) remount: bool,
    pub(crate) copy_up: bool,
    /// Recursively?
    pub(crate) idmap: Option<bool>,
    pub(crate) change: Change,
    pub(crate) recursive: Change,
    /// One after the other: `rslave` and then `rshared` make a mount that is both.
    pub(crate) propagation: Vec<(Propagation, bool)>,
    /// Flags of the whole filesystem, by the names of mount(8).
    pub(crate) superblock: Vec<&'a str>,
    /// What the filesystem itself understands.
    pub(crate) data: Vec<&'a str>,
}

impl<'a> Options<'a> {
    pub(crate) fn parse(list: &'a [String]) -> Self {
        let mut options = Self::default();
        for option in list {
            options.add(option);
        }
        options
    }

    fn add(&mut self, option: &'a str) {
        if let Some((change, set)) = attribute(option) {
            self.change = combined(self.change, change, set);
            return;
        }
        if let Some((change, set)) = option.strip_prefix('r').and_then(attribute) {
            self.recursive = combined(self.recursive, change, set);
            return;
        }
        if let Some(propagation) = propagation(option) {
            self.propagation.push(propagation);
            return;
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.idmap = Some(self.idmap.unwrap_or(false)),
            "ridmap" => self.idmap = Some(true),
            // What is so without them, and "silent", which concerns the kernel's log alone.
            "" | "defaults" | "async" | "loud" | "nomand" | "nolazytime" | "noiversion" | "silent" => {
                let opposite =
                    option.strip_prefix("no").unwrap_or(if option == "async" { "sync" } else { option });
                self.superblock.retain(|flag| *flag != opposite);
            }
            "sync" | "dirsync" | "lazytime" | "mand" | "iversion" => self.superblock.push(option),
            _ => self.data.push(option),
        }
    }

    /// For a mount that makes no filesystem: there is none to take its parameters.
    pub(crate) fn refuse_parameters(&self, destination: &Inside, what: &str) -> Result<(), Error> {
        if let Some(option) = self.data.first() {
            return Err(Error::invalid(format!(
                "the mount on {destination}: option {option:?} is not one of {what}"
            )));
        }
        if let Some(option) = self.superblock.first() {
            return Err(Error::invalid(format!(
                "the mount on {destination}: option {option:?} is one of a whole filesystem, which {what} does not change"
            )));
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
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> (Change, Change, String) {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        let options = Options::parse(&list);
        (options.change, options.recursive, options.superblock.join(","))
    }

    fn change(set: Attributes, clear: Attributes) -> Change {
        Change { set, clear }
    }

    /// Every flag, its opposite, and their recursive forms; the last one holds.
    #[test]
    fn each_flag_has_its_opposite() {
        for (on, off, attribute) in [
            ("ro", "rw", Attributes::RDONLY),
            ("nosuid", "suid", Attributes::NOSUID),
            ("nodev", "dev", Attributes::NODEV),
            ("noexec", "exec", Attributes::NOEXEC),
            ("nodiratime", "diratime", Attributes::NODIRATIME),
            ("nosymfollow", "symfollow", Attributes::NOSYMFOLLOW),
        ] {
            let (set, clear) = (change(attribute, Attributes::NONE), change(Attributes::NONE, attribute));
            assert_eq!(parse(on), (set, Change::default(), String::new()), "{on}");
            assert_eq!(parse(off), (clear, Change::default(), String::new()), "{off}");
            assert_eq!(parse(&format!("{on},{off}")).0, clear, "{on},{off}");
            assert_eq!(parse(&format!("{off},{on}")).0, set, "{off},{on}");
            assert_eq!(parse(&format!("r{on}")), (Change::default(), set, String::new()), "r{on}");
            assert_eq!(parse(&format!("r{off}")), (Change::default(), clear, String::new()), "r{off}");
        }
    }

    #[test]
    fn access_time_modes_exclude_each_other() {
        for (options, set) in [
            ("noatime", Attributes::NOATIME),
            ("strictatime", Attributes::STRICTATIME),
            ("relatime", Attributes::NONE),
            ("atime", Attributes::NONE),
            ("norelatime", Attributes::NONE),
            ("nostrictatime", Attributes::NONE),
            ("noatime,strictatime", Attributes::STRICTATIME),
            ("strictatime,relatime", Attributes::NONE),
        ] {
            assert_eq!(parse(options).0, change(set, Attributes::ATIME), "{options}");
            let recursive: Vec<String> = options.split(',').map(|option| format!("r{option}")).collect();
            assert_eq!(parse(&recursive.join(",")).1, change(set, Attributes::ATIME), "r{options}");
        }
        let both = parse("noatime,nodiratime").0;
        assert_eq!(both, change(Attributes::NOATIME | Attributes::NODIRATIME, Attributes::ATIME));
    }

    #[test]
    fn one_change_after_another() {
        let first = change(Attributes::NOATIME | Attributes::RDONLY, Attributes::ATIME | Attributes::NODEV);
        let second = change(Attributes::NODEV, Attributes::RDONLY);
        let both = change(Attributes::NOATIME | Attributes::NODEV, Attributes::ATIME | Attributes::RDONLY);
        assert_eq!(first.and(second), both);
        assert_eq!(first.and(Change::default()), first);
    }

    #[test]
    fn flags_of_the_filesystem_can_be_taken_back() {
        assert_eq!(parse("sync,dirsync,lazytime,mand,iversion").2, "sync,dirsync,lazytime,mand,iversion");
        assert_eq!(parse("sync,async,mand,nomand,lazytime,nolazytime,iversion,noiversion").2, "");
    }

    /// None of the options that the specification lists goes to a filesystem as a parameter.
    #[test]
    fn every_option_of_the_specification_is_known() {
        let list: Vec<String> = MOUNT_OPTIONS.iter().map(|option| (*option).to_owned()).collect();
        assert!(Options::parse(&list).data.is_empty());
        assert!(MOUNT_OPTIONS.is_sorted());
    }

    proptest! {
        /// Of several options about one flag the last one holds, whatever stands between them.
        #[test]
        fn the_last_option_about_a_flag_holds(
            list in prop::collection::vec(prop::sample::select(MOUNT_OPTIONS), 0..16),
            others in prop::collection::vec("[a-z]{1,8}(=[a-z0-9]{0,4})?", 0..3),
        ) {
            let strings: Vec<String> = list.iter().map(|option| (*option).to_owned()).chain(others).collect();
            let options = Options::parse(&strings);
            for (change, prefix) in [(options.change, ""), (options.recursive, "r")] {
                // "ro" is no recursive "o", and "rw" no recursive "w".
                let flags: Vec<(Attributes, bool)> = strings
                    .iter()
                    .filter(|option| prefix.is_empty() || attribute(option).is_none())
                    .filter_map(|option| attribute(option.strip_prefix(prefix)?))
                    .collect();
                let is_atime = |flag: Attributes| Attributes::ATIME.contains(flag);
                for flag in [
                    Attributes::RDONLY, Attributes::NOSUID, Attributes::NODEV, Attributes::NOEXEC,
                    Attributes::NODIRATIME, Attributes::NOSYMFOLLOW,
                ] {
                    let last = flags.iter().rfind(|(other, _)| *other == flag).map(|(_, set)| *set);
                    prop_assert_eq!(change.set.contains(flag), last == Some(true));
                    prop_assert_eq!(change.clear.contains(flag), last == Some(false));
                }
                let last = flags.iter().rfind(|(flag, _)| is_atime(*flag));
                prop_assert_eq!(change.clear.contains(Attributes::ATIME), last.is_some());
                for mode in [Attributes::NOATIME, Attributes::STRICTATIME] {
                    prop_assert_eq!(change.set.contains(mode), last == Some(&(mode, true)));
                }
            }
        }
    }
}
