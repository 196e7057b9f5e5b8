//! Block IO.

use super::{Write, invalid, v1_only, version};
use crate::resources::{ThrottleDevice, WeightDevice};
use crate::{Layout, Resources, Result, Version};

/// The v2 weight of a v1 IO weight: 10 to 1000 becomes 1 to 10000, linearly.
#[must_use]
pub fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

pub(super) fn io(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let throttles: [(&[ThrottleDevice], &str, &str); 4] = [
        (&resources.io_read_bps, "blkio.throttle.read_bps_device", "rbps"),
        (&resources.io_write_bps, "blkio.throttle.write_bps_device", "wbps"),
        (&resources.io_read_iops, "blkio.throttle.read_iops_device", "riops"),
        (&resources.io_write_iops, "blkio.throttle.write_iops_device", "wiops"),
    ];
    if let Some(weight) = weight("blockIO.weight", resources.io_weight)? {
        groups.push(vec![match version(layout, "io", "blockIO.weight")? {
            Version::V1 => Write::new("io", "blkio.weight", weight).or("blkio.bfq.weight", weight),
            Version::V2 => Write::new("io", "io.bfq.weight", weight).or("io.weight", io_weight(weight)),
        }]);
    }
    if let Some(weight) = weight("blockIO.leafWeight", resources.io_leaf_weight)? {
        v1_only(layout, "io", "blockIO.leafWeight")?;
        groups.push(vec![Write::new("io", "blkio.leaf_weight", weight)]);
    }
    for entry in &resources.io_weight_devices {
        device_weight(entry, layout, groups)?;
    }
    for (list, v1, v2) in throttles {
        for ThrottleDevice { device, rate } in list {
            let device = number(*device)?;
            groups.push(vec![match version(layout, "io", "the IO limit of a device")? {
                Version::V1 => Write::new("io", v1, format!("{device} {rate}")),
                Version::V2 if *rate == 0 => Write::new("io", "io.max", format!("{device} {v2}=max")),
                Version::V2 => Write::new("io", "io.max", format!("{device} {v2}={rate}")),
            }]);
        }
    }
    Ok(())
}

fn device_weight(entry: &WeightDevice, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let device = number(entry.device)?;
    let own = weight("blockIO.weightDevice", entry.weight)?;
    let leaf = weight("blockIO.weightDevice", entry.leaf_weight)?;
    if own.is_none() && leaf.is_none() {
        return Err(invalid(format!("blockIO.weightDevice has neither weight nor leafWeight for {device}")));
    }
    if let Some(weight) = own {
        let line = format!("{device} {weight}");
        groups.push(vec![match version(layout, "io", "blockIO.weightDevice")? {
            Version::V1 => Write::new("io", "blkio.weight_device", &line).or("blkio.bfq.weight_device", line),
            Version::V2 => Write::new("io", "io.bfq.weight", line)
                .or("io.weight", format!("{device} {}", io_weight(weight))),
        }]);
    }
    if let Some(weight) = leaf {
        v1_only(layout, "io", "blockIO.weightDevice.leafWeight")?;
        groups.push(vec![Write::new("io", "blkio.leaf_weight_device", format!("{device} {weight}"))]);
    }
    Ok(())
}

/// A weight in the range of v1, from which the conversion starts; 0 is not set.
fn weight(name: &str, value: Option<u16>) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value @ 10..=1000) => Ok(Some(value)),
        Some(value) => Err(invalid(format!("{name} is 10 to 1000, not {value}"))),
    }
}

fn number((major, minor): (i64, i64)) -> Result<String> {
    if major < 0 || minor < 0 {
        return Err(invalid(format!("there is no block device {major}:{minor}")));
    }
    Ok(format!("{major}:{minor}"))
}
