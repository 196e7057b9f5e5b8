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
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The devices that the OCI runtime specification promises, overridden and followed by `extra`.
pub(crate) fn plan(extra: &[LinuxDevice]) -> Result<Vec<DevicePlan>, Error> {
    let mut devices = DEFAULT
        .iter()
        .map(|(path, major, minor)| {
            Ok(DevicePlan {
                path: Inside::new("linux.devices", Path::new(path))?,
                kind: FileType::CharacterDevice,
                major: *major,
                minor: *minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    for device in extra {
        let device = one(device)?;
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
    if inside.parts.is_empty() || !path.is_absolute() {
        return Err(Error::invalid(format!("linux.devices: {path:?} is not an absolute path of a file")));
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Error::invalid(format!("linux.devices: {path:?}: 4294967295 is not an id")));
    }
    Ok(DevicePlan {
        path: inside,
        kind,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid,
        gid,
    })
}
