//! Groups below one, for a process that is added to a container.

use std::path::{Component, Path};

use rustix::fs::OFlags;

use super::{Cgroup, Dir, User};
use crate::files::{open, read_if_there};
use crate::{Error, Kind, Result, Version};

impl Cgroup {
    /// The group at `path` below this one, in every hierarchy. An empty path, and `/`, lead to this one.
    ///
    /// # Errors
    /// `NotFound` names the hierarchy in which there is none: a process in the others alone would be without limits there.
    /// `Invalid` for a path with `..`.
    pub fn below(&self, path: &Path) -> Result<Self> {
        self.with_places(|_| Some(path)).map(|group| Self { path: self.path.join(relative(path)), ..group })
    }

    /// As [`Self::below`], with another path for each of some controllers, by the names that their hierarchies have: those
    /// of v1 (`memory`, `cpu`, `name=systemd`), and of a v2 hierarchy beside them. In the other hierarchies it is this group.
    ///
    /// # Errors
    /// As there; `Unsupported` for a controller that this host has not, and on a host with v2 alone, whose controllers are
    /// not apart; `Invalid` for two controllers of one hierarchy with different paths.
    pub fn below_each(&self, places: &[(&str, &Path)]) -> Result<Self> {
        if self.layout.is_v2() {
            let message =
                "cgroup v2 has one hierarchy for all controllers: give the path without a controller";
            return Err(Error::refused(Kind::Unsupported, message));
        }
        let has = |dir: &Dir, controller: &str| self.hierarchy(dir).controllers.contains(controller);
        for (controller, path) in places {
            let Some(dir) = self.dirs().find(|dir| has(dir, controller)) else {
                let all: Vec<&str> = self
                    .dirs()
                    .flat_map(|dir| &self.hierarchy(dir).controllers)
                    .map(String::as_str)
                    .collect();
                let message = format!(
                    "{} has no controller {controller:?}, but {}",
                    self.path.display(),
                    all.join(", ")
                );
                return Err(Error::refused(Kind::Unsupported, message));
            };
            let other = places.iter().find(|(other, at)| has(dir, other) && relative(at) != relative(path));
            if let Some((other, _)) = other {
                let message = format!("{controller} and {other} are one hierarchy here, with one path");
                return Err(Error::refused(Kind::Invalid, message));
            }
        }
        self.with_places(|dir| places.iter().find(|(name, _)| has(dir, name)).map(|(_, path)| *path))
    }

    fn with_places<'a>(&self, place: impl Fn(&Dir) -> Option<&'a Path>) -> Result<Self> {
        let dirs = self.dirs().map(|dir| {
            let path = place(dir).unwrap_or(Path::new(""));
            let is_plain = path
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_) | Component::CurDir));
            let text = relative(path).to_str().filter(|text| is_plain && !text.contains(['\n', '\0']));
            let Some(text) = text else {
                let message = format!("{path:?} does not lead to a group below {}", self.path.display());
                return Err(Error::refused(Kind::Invalid, message));
            };
            let text = if text.is_empty() { "." } else { text };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            let fd = open(&dir.fd, text, flags).map_err(|errno| {
                let mount = self.hierarchy(dir).mount.display();
                if errno == vaquita_sys::Errno::NOENT {
                    let message = format!(
                        "there is no group {text} below {} in {mount}: make it in every hierarchy, or name the \
                         controllers that have it",
                        self.path.display()
                    );
                    return Error::refused(Kind::NotFound, message);
                }
                crate::files::error("openat", &dir.fd, text, ", O_DIRECTORY", errno)
            })?;
            if read_if_there(&fd, "cpuset.cpus")?.is_some_and(|list| list.trim().is_empty())
                && self.hierarchy(dir).version == Version::V1
            {
                let message = format!(
                    "the group {text} below {} has no CPUs and takes no process: write its cpuset.cpus and cpuset.mems",
                    self.path.display()
                );
                return Err(Error::refused(Kind::Busy, message));
            }
            Ok(Dir { hierarchy: dir.hierarchy, fd })
        });
        let group = Self {
            layout: self.layout.clone(),
            path: self.path.clone(),
            dirs: dirs.collect::<Result<_>>()?,
            created_parents: Vec::new(),
            rest: None,
            existed: true,
            user: self.user,
        };
        Ok(if self.user == User::Root { group } else { group.of_ordinary_user() })
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}
