//! Maps of user and group ids.

use oci_spec::runtime::LinuxIdMapping;

use crate::Error;

/// Lines for uid_map and gid_map (user_namespaces(7)). `field` is what an error names.
///
/// # Errors
/// [`crate::Kind::Invalid`] for what the kernel would answer with EINVAL for without saying why: too many lines, a range that is
/// empty or ends behind 4294967294, and ranges that overlap on one side.
pub(crate) fn text(field: &str, mappings: &[LinuxIdMapping]) -> Result<String, Error> {
    let fail = |why: String| Err(Error::invalid(format!("{field}: {why}")));
    if mappings.len() > MOST {
        return fail(format!("{} ranges; the kernel takes {MOST}", mappings.len()));
    }
    for (at, map) in mappings.iter().enumerate() {
        for (side, first) in [("containerID", map.container_id()), ("hostID", map.host_id())] {
            // 4294967295 is no id, so a range ends before it.
            if map.size() == 0 || first.checked_add(map.size()).is_none() {
                return fail(format!("range {at} is of {} ids from {side} {first}", map.size()));
            }
        }
    }
    for side in [LinuxIdMapping::container_id, LinuxIdMapping::host_id] {
        let mut sorted: Vec<(u32, u32)> = mappings.iter().map(|map| (side(map), map.size())).collect();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            return fail(format!("the ranges from {} and from {} overlap", pair[0].0, pair[1].0));
        }
    }
    Ok(mappings
        .iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect())
}

/// Most ranges of a map (`UID_GID_MAP_MAX_EXTENTS`, linux/user_namespace.h).
const MOST: usize = 340;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use oci_spec::runtime::LinuxIdMappingBuilder;
    use proptest::prelude::*;

    use super::*;

    fn map(container: u32, host: u32, size: u32) -> LinuxIdMapping {
        LinuxIdMappingBuilder::default().container_id(container).host_id(host).size(size).build().unwrap()
    }

    #[test]
    fn ranges_end_before_the_id_that_means_none() {
        let last = u32::MAX - 1;
        assert_eq!(text("f", &[map(0, last, 1)]).unwrap(), "0 4294967294 1\n");
        assert_eq!(text("f", &[map(0, 0, u32::MAX)]).unwrap(), "0 0 4294967295\n");
        for bad in [map(0, 0, 0), map(0, last, 2), map(last, 0, 2), map(1, 0, u32::MAX), map(0, u32::MAX, 1)]
        {
            let error = text("linux.uidMappings", &[bad]).unwrap_err().to_string();
            assert!(error.starts_with("linux.uidMappings: range 0 is of "), "{error}");
        }
    }

    #[test]
    fn there_is_a_limit_to_the_number_of_ranges() {
        let maps = |count: u32| (0..count).map(|at| map(at, at, 1)).collect::<Vec<_>>();
        assert_eq!(text("f", &maps(340)).unwrap().lines().count(), 340);
        assert!(text("f", &maps(341)).unwrap_err().to_string().contains("341 ranges"));
    }

    proptest! {
        /// Against sets of ids: a map is fine when each side has as many ids as the sizes say.
        #[test]
        fn overlaps_are_found(ranges in prop::collection::vec((0..40_u32, 0..40_u32, 1..8_u32), 0..6)) {
            let maps: Vec<LinuxIdMapping> = ranges.iter().map(|&(c, h, size)| map(c, h, size)).collect();
            let ids = |side: fn(&(u32, u32, u32)) -> u32| -> BTreeSet<u32> {
                ranges.iter().flat_map(|range| side(range)..side(range) + range.2).collect()
            };
            let total = ranges.iter().map(|range| range.2 as usize).sum::<usize>();
            let is_fine = ids(|range| range.0).len() == total && ids(|range| range.1).len() == total;
            prop_assert_eq!(text("f", &maps).is_ok(), is_fine);
        }
    }
}
