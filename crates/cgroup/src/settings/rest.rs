//! Processes, huge pages, network and RDMA.

use super::{Write, invalid, v1_only, version};
use crate::{Layout, Resources, Result, Version};

pub(super) fn pids(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    let Some(limit) = resources.pids_limit else { return Ok(()) };
    version(layout, "pids", "pids.limit")?;
    // With 0 not even the container's first process could be made there. It is one process either way.
    let value = if limit < 0 { "max".to_owned() } else { limit.max(1).to_string() };
    groups.push(vec![Write::new("pids", "pids.max", value)]);
    Ok(())
}

pub(super) fn hugepages(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (size, limit) in &resources.hugepages {
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid(format!("a size of huge pages is like 2MB, not {size:?}")));
        }
        let (file, value) = match version(layout, "hugetlb", "the limit of huge pages")? {
            Version::V1 => ("limit_in_bytes", limit.max(&-1).to_string()),
            Version::V2 if *limit < 0 => ("max", "max".to_owned()),
            Version::V2 => ("max", limit.to_string()),
        };
        groups.push(vec![Write::new("hugetlb", format!("hugetlb.{size}.{file}"), &value)]);
        // Reservations count at mmap, so the process gets ENOMEM and not SIGBUS later (Linux 5.7).
        groups.push(vec![Write::new("hugetlb", format!("hugetlb.{size}.rsvd.{file}"), value).optional()]);
    }
    Ok(())
}

/// Marks on packets, for rules of the host's own. v2 has none of it: nftables and eBPF match the group itself.
pub(super) fn network(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    if let Some(class) = resources.net_class_id.filter(|class| *class != 0) {
        v1_only(layout, "net_cls", "network.classID")?;
        groups.push(vec![Write::new("net_cls", "net_cls.classid", class)]);
    }
    for (name, priority) in &resources.net_priorities {
        let is_name = !name.is_empty() && name.len() < 16 && name != "." && name != "..";
        if !is_name || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/') {
            return Err(invalid(format!("network.priorities: {name:?} is not the name of an interface")));
        }
        v1_only(layout, "net_prio", "network.priorities")?;
        groups.push(vec![Write::new("net_prio", "net_prio.ifpriomap", format!("{name} {priority}"))]);
    }
    Ok(())
}

pub(super) fn rdma(resources: &Resources, layout: &Layout, groups: &mut Vec<Vec<Write>>) -> Result<()> {
    for (device, limit) in &resources.rdma {
        if device.is_empty()
            || !device.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte))
        {
            return Err(invalid(format!("rdma: {device:?} is not the name of a device")));
        }
        let mut line = device.clone();
        for (name, limit) in [("hca_handle", limit.handles), ("hca_object", limit.objects)] {
            if let Some(limit) = limit {
                line.push_str(&format!(" {name}={limit}"));
            }
        }
        if line == *device {
            return Err(invalid(format!("rdma: {device} has neither hcaHandles nor hcaObjects")));
        }
        version(layout, "rdma", "rdma")?;
        groups.push(vec![Write::new("rdma", "rdma.max", line)]);
    }
    Ok(())
}
