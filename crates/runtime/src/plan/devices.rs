//! Device nodes: what every container has, and what the specification adds.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxResources};
use rustix::fs::FileType;
use vaquita_cgroup::{Access, DeviceKind, DeviceRule, Resources};

use super::path::Inside;
use crate::Error;

/// A node to be made.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    pub(crate) path: Inside,
    pub(crate) kind: FileType,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    /// What the specification says; a node that is there already gets it too.
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// It must be there: its directory is the host's, where nothing is made.
    pub(crate) is_of_host: bool,
}

impl DevicePlan {
    /// Major and minor as one number; none of a FIFO.
    pub(crate) fn number(&self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

/// The devices that the OCI runtime specification promises, overridden and followed by `extra`. Where /dev is the
/// host's, it has what it has, and of `extra` what is there must be what was asked for.
pub(crate) fn plan(extra: &[LinuxDevice], has_dev_of_host: bool) -> Result<Vec<DevicePlan>, Error> {
    let promised = if has_dev_of_host { &[][..] } else { &DEFAULT[..] };
    let mut devices = promised
        .iter()
        .map(|(path, major, minor)| {
            Ok(DevicePlan {
                path: Inside::new("linux.devices", Path::new(path))?,
                kind: FileType::CharacterDevice,
                major: *major,
                minor: *minor,
                mode: None,
                uid: None,
                gid: None,
                is_of_host: false,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    for device in extra {
        let mut device = one(device)?;
        device.is_of_host = has_dev_of_host && device.path.as_path().starts_with("/dev");
        devices.retain(|other| other.path.as_path() != device.path.as_path());
        devices.push(device);
    }
    Ok(devices)
}

/// Which devices a container may use: those of its specification, of which an absent list is an empty one
/// (GHSA-g54h-m393-cpwq), and at the end what no specification can take away, as in runc: the devices that every
/// container has, its terminals, and making nodes, since a node that cannot be opened does nothing.
pub(crate) fn rules(resources: Option<&LinuxResources>) -> Vec<DeviceRule> {
    let asked = resources.and_then(|resources| Resources::from(resources).devices).unwrap_or_default();
    let allow = |kind, major, minor, access| DeviceRule { allow: true, kind, major, minor, access };
    let char = |major, minor| allow(DeviceKind::Char, Some(major), minor, Access::ALL);
    let mut rules = asked;
    rules.push(allow(DeviceKind::All, None, None, Access::MKNOD));
    rules.extend(DEFAULT.iter().map(|(_, major, minor)| char(*major, Some(*minor))));
    // /dev/ptmx and /dev/pts/*
    rules.extend([char(5, Some(2)), char(136, None)]);
    rules
}

const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn one(device: &LinuxDevice) -> Result<DevicePlan, Error> {
    let path = device.path();
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!("linux.devices: {path:?} has type a, which is no device")));
        }
    };
    let number = |field: &str, value: i64| {
        u32::try_from(value)
            .map_err(|_| Error::invalid(format!("linux.devices: {path:?} has {field} {value}")))
    };
    let inside = Inside::new("linux.devices", path)?;
    if inside.depth() == 0 || !path.is_absolute() {
        return Err(Error::invalid(format!("linux.devices: {path:?} is not an absolute path of a file")));
    }
    let (uid, gid) = (device.uid(), device.gid());
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Error::invalid(format!("linux.devices: {path:?}: 4294967295 is not an id")));
    }
    // A FIFO has no numbers, whatever is said.
    let (major, minor) = match kind {
        FileType::Fifo => (0, 0),
        _ => (number("major", device.major())?, number("minor", device.minor())?),
    };
    let mode = device.file_mode();
    if mode.is_some_and(|mode| mode & !0o7777 & !0o170_000 != 0) {
        return Err(Error::invalid(format!("linux.devices: {path:?} has fileMode {mode:?}")));
    }
    // Engines copy the whole st_mode of a node of the host.
    let mode = mode.map(|mode| mode & 0o7777);
    Ok(DevicePlan { path: inside, kind, major, minor, mode, uid, gid, is_of_host: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(json: &str, has_dev_of_host: bool) -> Result<Vec<DevicePlan>, Error> {
        plan(&serde_json::from_str::<Vec<LinuxDevice>>(json).unwrap(), has_dev_of_host)
    }

    #[test]
    fn the_promised_devices_can_be_overridden() {
        let list = devices(
            r#"[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":8630,"uid":1,"gid":2},
                {"path":"/pipe","type":"p","major":7,"minor":7},{"path":"/dev/u","type":"u","major":4,"minor":64}]"#,
            false,
        )
        .unwrap();
        assert_eq!(list.len(), 8);
        let of = |path: &str| list.iter().find(|device| device.path.as_path() == Path::new(path)).unwrap();
        let null = of("/dev/null");
        assert_eq!((null.mode, null.uid, null.gid), (Some(0o666), Some(1), Some(2)));
        assert_eq!((of("/pipe").kind, of("/pipe").number()), (FileType::Fifo, 0));
        assert_eq!(of("/dev/u").kind, FileType::CharacterDevice);
        assert_eq!(of("/dev/zero").mode, None);
    }

    #[test]
    fn the_hosts_dev_is_left_alone() {
        let json = r#"[{"path":"/dev/x","type":"c","major":1,"minor":3},{"path":"/x","type":"c","major":1,"minor":3}]"#;
        let list = devices(json, true).unwrap();
        assert_eq!(list.iter().map(|device| device.is_of_host).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_is_no_device_is_refused() {
        for json in [
            r#"[{"path":"/dev/x","type":"a"}]"#,
            r#"[{"path":"dev/x","type":"c","major":1,"minor":3}]"#,
            r#"[{"path":"/","type":"c","major":1,"minor":3}]"#,
            r#"[{"path":"/dev/x","type":"c","major":-1,"minor":3}]"#,
            r#"[{"path":"/dev/x","type":"c","major":1,"minor":4294967296}]"#,
            r#"[{"path":"/dev/x","type":"c","major":1,"minor":3,"uid":4294967295}]"#,
            r#"[{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":4294967295}]"#,
        ] {
            assert_eq!(devices(json, false).unwrap_err().kind(), crate::Kind::Invalid, "{json}");
        }
    }
}
