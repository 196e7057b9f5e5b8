//! Lists of CPUs and of memory nodes (cpuset(7), "List format").

use crate::{Error, Result};

/// More than any kernel has of either (`CONFIG_NR_CPUS`, `MAX_NUMNODES`).
const MOST: u32 = 1 << 16;

/// Whether all that a list names is in `available`, a list of the kernel's.
///
/// # Errors
/// `Invalid` for what is no list, and for a number that is not there.
pub(super) fn check(field: &str, asked: &str, available: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(format!("resources.{field}: {asked:?} {why}")));
    let Some(wanted) = ranges(asked) else { return refuse("is not a list like 0-3,7".into()) };
    let Some(there) = ranges(available) else { return Ok(()) };
    let is_there = |number: &u32| there.iter().any(|(first, last)| (first..=last).contains(&number));
    match wanted.into_iter().flat_map(|(first, last)| first..=last).find(|number| !is_there(number)) {
        Some(number) => refuse(format!("names {number}, and this host has {}", available.trim())),
        None => Ok(()),
    }
}

fn ranges(text: &str) -> Option<Vec<(u32, u32)>> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<u32>().ok().filter(|number| *number < MOST) } else { None }
    };
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)).filter(|(first, last)| first <= last),
        None => number(part).map(|number| (number, number)),
    };
    text.trim().split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_name_what_is_there() {
        for good in ["0", "0-3", "1,3", "0-1,2-3", " 2\n", "3,0"] {
            check("cpuset_cpus", good, "0-3\n").unwrap();
        }
        for (bad, why) in [
            ("0-4", "names 4, and this host has 0-3,8"),
            ("9", "names 9"),
            ("4294967295", "not a list"),
            ("65536", "not a list"),
            ("3-1", "not a list"),
            ("0,", "not a list"),
            ("-1", "not a list"),
            ("0-", "not a list"),
            ("+1", "not a list"),
            ("all", "not a list"),
            ("0 1", "not a list"),
            ("0\n1", "not a list"),
        ] {
            let error = check("cpuset_cpus", bad, "0-3,8\n").unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("resources.cpuset_cpus"), "{bad:?}: {error}");
        }
    }
}
