//! The directories that an image wants on volumes of their own (`VOLUME`).

use std::path::Path;

use vaquita_proto::cri;

use super::mounts;
use crate::{Error, Result};

/// More than any image needs, and few enough to be made in an instant.
const MOST: usize = 64;

/// Where the volumes go, of those that an image names: not where the client has a mount of its own, nor where every
/// container has one.
///
/// # Errors
/// `Invalid` for a path that is none, that would hide what the kernel tells a container or takes from it
/// (CVE-2019-16884), and for too many.
pub(crate) fn volumes(asked: &[String], config: &cri::ContainerConfig) -> Result<Vec<String>> {
    if asked.len() > MOST {
        return Err(refuse(&format!("there are {} of them, and may be {MOST}", asked.len())));
    }
    let mut all: Vec<String> = Vec::new();
    for path in asked {
        let path = mounts::destination(path).map_err(|error| refuse(&error.to_string()))?;
        if ["/proc", "/sys"].iter().any(|kernel| Path::new(&path).starts_with(kernel)) {
            return Err(refuse(&format!("{path:?} is the kernel's")));
        }
        let is = |other: &str| mounts::destination(other).is_ok_and(|other| other == path);
        let is_taken =
            mounts::is_everybodys(&path) || config.mounts.iter().any(|mount| is(&mount.container_path));
        if !is_taken && !all.contains(&path) {
            all.push(path);
        }
    }
    Ok(all)
}

fn refuse(why: &str) -> Error {
    Error::invalid(format!("image: its volumes (VOLUME): {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(asked: &[&str]) -> Result<Vec<String>> {
        let mount = |path: &str| cri::Mount { container_path: path.into(), ..Default::default() };
        let config =
            cri::ContainerConfig { mounts: vec![mount("/data/"), mount("relative")], ..Default::default() };
        volumes(&asked.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>(), &config)
    }

    #[test]
    fn mounts_of_others_win() {
        let asked = [
            "/var/lib/x",
            "/data",
            "//data/.",
            "/data/sub",
            "relative",
            "srv",
            "/srv/",
            "/dev/shm",
            "/etc/hosts",
        ];
        assert_eq!(of(&asked).unwrap(), ["/var/lib/x", "/data/sub", "/srv"]);
        assert_eq!(of(&[]).unwrap(), Vec::<String>::new());
    }

    /// T-CVE-2019-16884: labels are written to files of procfs.
    #[test]
    fn cve_2019_16884_no_volume_hides_the_kernels_files() {
        for bad in
            ["/proc", "/proc/", "//proc/self/attr", "/sys", "/sys/fs/cgroup", "/", "", "/a/../proc", ".."]
        {
            let error = of(&["/fine", bad]).unwrap_err().to_string();
            assert!(error.contains("VOLUME"), "{bad:?}: {error}");
        }
        let many: Vec<String> = (0..=MOST).map(|number| format!("/v{number}")).collect();
        assert!(volumes(&many, &cri::ContainerConfig::default()).unwrap_err().to_string().contains("65"));
    }
}
