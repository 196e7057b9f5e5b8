//! Files of v2 by their names.

use super::{Write, invalid, version};
use crate::{Error, Kind, Layout, Resources, Result, Version};

/// Of the group's own files, those that are limits. The others are membership and structure.
const OF_THE_GROUP: [&str; 2] = ["cgroup.max.depth", "cgroup.max.descendants"];

pub(super) fn unified(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (file, value) in &resources.unified {
        let safe = file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let parts = file.split_once('.').filter(|(controller, file)| {
            safe && !controller.is_empty() && !file.is_empty() && !file.contains("..")
        });
        let Some((controller, _)) = parts else {
            return Err(invalid(format!("unified: {file:?} is not the name of a control group file")));
        };
        let v2 = match controller {
            "cgroup" if !OF_THE_GROUP.contains(&file.as_str()) => {
                return Err(invalid(format!("unified: {file} is not a limit")));
            }
            "cgroup" => layout.hierarchies().iter().any(|hierarchy| hierarchy.version == Version::V2),
            _ => version(layout, controller, file)? == Version::V2,
        };
        if !v2 {
            let message =
                format!("unified: {file} is of cgroup v2: this host has the controller {controller} in v1");
            return Err(Error::refused(Kind::Unsupported, message));
        }
        if file == "memory.swap.max" && ["0", "max"].contains(&value.trim()) {
            // Where the kernel has no swap accounting, no swap and any swap are what there is.
            groups.push(vec![Write::new(controller, file, value).optional()]);
            continue;
        }
        // Some files take one line in a call, as io.max does for a device.
        let lines: Vec<&str> = value.lines().filter(|line| !line.trim().is_empty()).collect();
        match lines[..] {
            [] => groups.push(vec![Write::new(controller, file, value)]),
            _ => groups.extend(lines.iter().map(|line| vec![Write::new(controller, file, line)])),
        }
    }
    Ok(())
}
