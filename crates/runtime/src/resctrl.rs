//! Intel Resource Director Technology: caches and memory bandwidth by classes of service, and monitoring (runtime-spec,
//! config-linux.md, "IntelRdt"; Linux, filesystems/resctrl.rst).
//!
//! A class is a directory of a mounted resctrl filesystem. The one of a container goes by `closID`, or by the container's
//! id; the latter is made here and removed with the container ([`remove`]).

use std::path::PathBuf;

use oci_spec::runtime::{LinuxIntelRdt, Spec};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use vaquita_sys::root::Root;

use crate::{Context, Error};

/// Removes what was made in the resctrl filesystem for the container of that id: its class if it had none of a name of its
/// own, and its monitoring group. Nothing there is fine.
///
/// # Errors
/// [`crate::Kind::Kernel`] names what could not be removed.
pub fn remove(spec: &Spec, id: &str) -> Result<(), Error> {
    let Some(asked) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else {
        return Ok(());
    };
    let context = Context { id: Some(id.to_owned()), ..Context::default() };
    let class = Class::new(asked, &context)?;
    match Tree::find() {
        // Unmounted meanwhile: then nothing of it is left.
        Err(_) => Ok(()),
        Ok(tree) => tree.remove(&class, class.is_own),
    }
}

/// Gives the class of the container of that id other schemas, those of `change`. One without a class gets its own, which
/// the `tasks` (thread ids, as the caller's PID namespace has them) enter; [`remove`] needs the changed specification then.
///
/// # Errors
/// [`crate::Kind::Unsupported`] without a mounted resctrl filesystem; [`crate::Kind::Kernel`] names what the kernel
/// refused, with its reason in words.
pub fn update(spec: &Spec, id: &str, change: &LinuxIntelRdt, tasks: &[i32]) -> Result<(), Error> {
    let context = Context { id: Some(id.to_owned()), ..Context::default() };
    let change = Class::new(change, &context)?;
    let asked = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
    let class = asked.map(|asked| Class::new(asked, &context)).transpose()?;
    Tree::find()?.update(class.as_ref(), &change, tasks)
}

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Class {
    /// The directory of the class, empty for the default one.
    directory: String,
    /// Whether it is made for the container alone.
    is_own: bool,
    /// To be written, or found, in this order.
    cache: Option<String>,
    bandwidth: Option<String>,
    /// To be written last.
    schemata: Vec<String>,
    /// The name of the monitoring group in it.
    monitored: Option<String>,
}

impl Class {
    pub(crate) fn new(asked: &LinuxIntelRdt, context: &Context) -> Result<Self, Error> {
        refuse_old(asked)?;
        let id = || match context.id.as_deref() {
            Some(id) => name("the container's id", id),
            None => Err(Error::unsupported("linux.intelRdt: this caller gives the container no id")),
        };
        let given = asked.clos_id().as_deref().filter(|name| !name.is_empty());
        let directory = match given {
            Some("/") => String::new(),
            Some(given) => name("linux.intelRdt.closID", given)?,
            None => id()?,
        };
        let line = |field: &str, text: &str| match text.contains(['\n', '\r', '\0']) {
            true => Err(Error::invalid(format!("linux.intelRdt.{field}: {text:?} is not one line"))),
            false => Ok(text.to_owned()),
        };
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let cache = filled(asked.l3_cache_schema()).map(|text| line("l3CacheSchema", &text)).transpose()?;
        let bandwidth = filled(asked.mem_bw_schema()).map(|text| line("memBwSchema", &text)).transpose()?;
        if let Some(text) = bandwidth.as_ref().filter(|text| !text.starts_with("MB:")) {
            return Err(Error::invalid(format!(
                "linux.intelRdt.memBwSchema: {text:?} does not begin with \"MB:\""
            )));
        }
        let schemata = asked.schemata().iter().flatten().map(|text| line("schemata", text));
        Ok(Self {
            directory,
            is_own: given.is_none(),
            cache,
            bandwidth,
            schemata: schemata.collect::<Result<_, _>>()?,
            monitored: if asked.enable_monitoring().unwrap_or(false) { Some(id()?) } else { None },
        })
    }

    /// Makes what is not there.
    pub(crate) fn make(&self) -> Result<Made<'_>, Error> {
        Tree::find()?.make(self)
    }

    /// The class of a container that has one, for another process of it.
    pub(crate) fn join(&self) -> Result<Made<'_>, Error> {
        Ok(Made { tree: Tree::find()?, class: self, made: false, is_kept: true })
    }

    fn asks_for_schemata(&self) -> bool {
        self.cache.is_some() || self.bandwidth.is_some() || !self.schemata.is_empty()
    }

    /// Below the root of the filesystem.
    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(&self.directory).join(file)
    }
}

/// A class that is there. What was made for it goes when this is dropped, unless kept.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    tree: Tree,
    class: &'a Class,
    /// Whether its directory was made just now.
    made: bool,
    is_kept: bool,
}

impl Made<'_> {
    /// Puts a process into the class and its monitoring group; children of the process will be there too.
    pub(crate) fn assign(&self, pid: rustix::process::Pid) -> Result<(), Error> {
        let pid = pid.as_raw_nonzero().to_string();
        self.tree.write(&self.class.path("tasks"), &[&pid])?;
        match &self.class.monitored {
            Some(group) => self.tree.write(&self.class.path("mon_groups").join(group).join("tasks"), &[&pid]),
            None => Ok(()),
        }
    }

    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // The failure that led here is told.
            let _ = self.tree.remove(self.class, self.made);
        }
    }
}

/// A resctrl filesystem.
#[derive(Debug)]
struct Tree(Root);

impl Tree {
    fn find() -> Result<Self, Error> {
        let mounts = vaquita_sys::mount::mountinfo()?;
        let Some(mount) = mounts.iter().find(|mount| mount.fs_type == "resctrl") else {
            return Err(Error::unsupported(
                "linux.intelRdt: no resctrl filesystem is mounted, which needs a processor with RDT and a kernel with \
                 CONFIG_X86_CPU_RESCTRL (mount -t resctrl resctrl /sys/fs/resctrl)",
            ));
        };
        #[expect(clippy::disallowed_methods, reason = "a mount of the host's")]
        let root = Root::open_host(&mount.mount_point)?;
        Ok(Self(root))
    }

    fn make(self, class: &Class) -> Result<Made<'_>, Error> {
        let is_there = class.directory.is_empty() || self.0.stat(&class.directory).is_ok();
        if is_there && class.is_own {
            return Err(self.error(format!("mkdir(<resctrl>/{})", class.directory), Errno::EXIST));
        }
        if !is_there && !class.is_own && !class.asks_for_schemata() {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID: there is no class {:?}, and no schema to make it with",
                class.directory
            )));
        }
        let wanted = [&class.cache, &class.bandwidth].map(Option::as_deref);
        if is_there {
            for wanted in wanted.into_iter().flatten() {
                self.compare(class, wanted)?;
            }
        } else {
            self.mkdir(&class.path(""))?;
        }
        let made = Made { tree: self, class, made: !is_there, is_kept: false };
        let mut lines: Vec<&str> = Vec::new();
        if !is_there {
            lines.extend(wanted.into_iter().flatten());
        }
        lines.extend(class.schemata.iter().map(String::as_str));
        if !lines.is_empty() {
            made.tree.write(&class.path("schemata"), &lines)?;
        }
        if let Some(group) = &class.monitored {
            made.tree.mkdir(&class.path("mon_groups").join(group))?;
        }
        Ok(made)
    }

    fn update(self, class: Option<&Class>, change: &Class, tasks: &[i32]) -> Result<(), Error> {
        if let Some(class) = class {
            let lines: Vec<&str> =
                [&change.cache, &change.bandwidth].into_iter().flatten().map(String::as_str).collect();
            return self.write(&class.path("schemata"), &lines);
        }
        let mut made = self.make(change)?;
        for task in tasks.iter().copied().filter_map(rustix::process::Pid::from_raw) {
            match made.assign(task) {
                // It has ended.
                Err(error) if error.errno() == Some(Errno::SRCH) => {}
                other => other?,
            }
        }
        made.keep();
        Ok(())
    }

    fn remove(&self, class: &Class, with_class: bool) -> Result<(), Error> {
        if let Some(group) = &class.monitored {
            self.rmdir(&class.path("mon_groups").join(group))?;
        }
        if with_class { self.rmdir(&class.path("")) } else { Ok(()) }
    }

    /// Whether the class has what a line such as `L3:0=7f0;1=1f` says.
    fn compare(&self, class: &Class, wanted: &str) -> Result<(), Error> {
        let text = self.0.read_bounded(class.path("schemata"), 64 << 10)?;
        let text = String::from_utf8_lossy(&text);
        let (resource, values) = wanted.split_once(':').unwrap_or((wanted, ""));
        let resource = resource.trim();
        let line = text.lines().find_map(|line| {
            line.split_once(':').filter(|(name, _)| name.trim() == resource).map(|(_, values)| values)
        });
        let has: Vec<(&str, &str)> = line.into_iter().flat_map(pairs).collect();
        if line.is_none() || pairs(values).any(|pair| !has.contains(&pair)) {
            return Err(Error::invalid(format!(
                "linux.intelRdt.closID: the class {:?} is there and has not {wanted:?}, but {:?}",
                class.directory,
                text.trim()
            )));
        }
        Ok(())
    }

    fn write(&self, path: &std::path::Path, lines: &[&str]) -> Result<(), Error> {
        // Every file of a class is there already: the kernel makes them, and no others.
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        #[expect(clippy::disallowed_methods, reason = "a file of the kernel's, in a filesystem of the host")]
        let file = rustix::fs::openat(&self.0, path, flags, Mode::from_raw_mode(0o644))
            .map_err(|errno| self.error(format!("open(<resctrl>/{}, O_WRONLY)", path.display()), errno))?;
        for line in lines {
            rustix::io::write(&file, format!("{line}\n").as_bytes()).map_err(|errno| {
                self.error(format!("write(<resctrl>/{}, {line:?})", path.display()), errno)
            })?;
        }
        Ok(())
    }

    fn mkdir(&self, path: &std::path::Path) -> Result<(), Error> {
        rustix::fs::mkdirat(&self.0, path, Mode::from_raw_mode(0o755))
            .map_err(|errno| self.error(format!("mkdir(<resctrl>/{})", path.display()), errno))
    }

    fn rmdir(&self, path: &std::path::Path) -> Result<(), Error> {
        match rustix::fs::unlinkat(&self.0, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.error(format!("rmdir(<resctrl>/{})", path.display()), errno)),
        }
    }

    /// With what the kernel says in words, where it does.
    fn error(&self, call: String, errno: Errno) -> Error {
        let status = self.0.read_bounded("info/last_cmd_status", 4096).unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        match status.trim() {
            "" | "ok" => Error::kernel(format!("linux.intelRdt: {call}"), errno),
            status => Error::kernel(format!("linux.intelRdt: {call} ({status})"), errno),
        }
    }
}

/// `0=7f0;1=01f` as pairs, without spaces and leading zeros.
fn pairs(values: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = values.split(';').filter(|pair| !pair.trim().is_empty());
    pairs.map(|pair| {
        let (cache, value) = pair.split_once('=').unwrap_or((pair, ""));
        (cache.trim(), value.trim().trim_start_matches('0'))
    })
}

fn name(field: &str, name: &str) -> Result<String, Error> {
    if name.is_empty() || [".", ".."].contains(&name) || name.contains(['/', '\n', '\0']) {
        return Err(Error::invalid(format!("{field}: {name:?} is no name of a directory")));
    }
    Ok(name.to_owned())
}

fn refuse_old(asked: &LinuxIntelRdt) -> Result<(), Error> {
    let old = [(asked.enable_cmt(), "enableCMT"), (asked.enable_mbm(), "enableMBM")];
    match old.iter().find(|(value, _)| value.unwrap_or(false)) {
        Some((_, field)) => Err(Error::unsupported(format!(
            "linux.intelRdt.{field} is replaced by enableMonitoring since version 1.3 of the specification"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that the tests make")]
mod tests;
