//! The rules for devices, for a systemd that writes them itself.

use super::Property;
use crate::systemd::wire::Value;
use crate::{Access, DeviceKind, DeviceRule, Error, Kind, Result};

/// What systemd is told on v1, where it writes the lists of a scope too: without a policy it would allow everything when it
/// reloads. On v2 every filter that is attached must allow an access, and ours stays.
///
/// systemd knows what is allowed, not what is denied. A rule that denies takes away those before it that it covers.
///
/// # Errors
/// `Unsupported` when a rule denies a part of what one before it allows.
pub(super) fn v1(rules: &[DeviceRule]) -> Result<Vec<Property>> {
    let everything =
        DeviceRule { allow: true, kind: DeviceKind::All, major: None, minor: None, access: Access::ALL };
    let mut allowed: Vec<DeviceRule> = Vec::new();
    for rule in rules.iter().filter(|rule| rule.access != Access::NONE) {
        if rule.allow {
            allowed.retain(|before| !covers(rule, before));
            allowed.push(*rule);
            continue;
        }
        allowed.retain(|before| !covers(rule, before));
        if let Some(before) = allowed.iter().find(|before| overlaps(rule, before)) {
            let message = format!(
                "systemd cannot be told of the device rules: one denies {} of what an earlier one allows ({before:?}), and its \
                 list has only what is allowed",
                rule.access
            );
            return Err(Error::refused(Kind::Unsupported, message));
        }
    }
    if allowed.contains(&everything) {
        return Ok(vec![
            Property::new("DevicePolicy", Value::str("auto")),
            Property::new("DeviceAllow", Value::Array("(ss)", Vec::new())),
        ]);
    }
    let entry = |(path, access): (String, Access)| {
        Value::Struct(vec![Value::Str(path), Value::Str(access.to_string())])
    };
    let list = allowed.iter().flat_map(paths).map(entry).collect();
    Ok(vec![
        Property::new("DevicePolicy", Value::str("strict")),
        Property::new("DeviceAllow", Value::Array("(ss)", Vec::new())),
        Property::new("DeviceAllow", Value::Array("(ss)", list)),
    ])
}

/// How systemd names the devices of a rule: a node, a group of devices by its major number, or all of a kind. It has no
/// name for one minor number of all majors; nothing is allowed then, and this crate's own list stands until a reload.
fn paths(rule: &DeviceRule) -> Vec<(String, Access)> {
    let kinds: &[&str] = match rule.kind {
        DeviceKind::All => &["block", "char"],
        DeviceKind::Block => &["block"],
        DeviceKind::Char => &["char"],
    };
    let name = |kind: &&str| match (rule.major, rule.minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{kind}-{major}")),
        (None, None) => Some(format!("{kind}-*")),
        (None, Some(_)) => None,
    };
    kinds.iter().filter_map(name).map(|path| (path, rule.access)).collect()
}

/// Whether `rule` is about everything that `other` is.
fn covers(rule: &DeviceRule, other: &DeviceRule) -> bool {
    (rule.kind == DeviceKind::All || rule.kind == other.kind)
        && (rule.major.is_none() || rule.major == other.major)
        && (rule.minor.is_none() || rule.minor == other.minor)
        && rule.access | other.access == rule.access
}

fn overlaps(rule: &DeviceRule, other: &DeviceRule) -> bool {
    let meet = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    let kinds = rule.kind == DeviceKind::All || other.kind == DeviceKind::All || rule.kind == other.kind;
    kinds && meet(rule.major, other.major) && meet(rule.minor, other.minor) && rule.access.meets(other.access)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(
        allow: bool,
        kind: DeviceKind,
        major: Option<u32>,
        minor: Option<u32>,
        access: &str,
    ) -> DeviceRule {
        DeviceRule { allow, kind, major, minor, access: Access::from_letters(access) }
    }

    fn told(rules: &[DeviceRule]) -> (Value, Vec<Value>) {
        let mut all = v1(rules).unwrap();
        let Value::Array(_, list) = all.pop().unwrap().value else { panic!("no list") };
        (all.swap_remove(0).value, list)
    }

    #[test]
    fn what_is_allowed_is_listed() {
        let rules = [
            rule(false, DeviceKind::All, None, None, "rwm"),
            rule(true, DeviceKind::Char, Some(1), Some(3), "rw"),
            rule(true, DeviceKind::Char, Some(136), None, "rwm"),
            rule(true, DeviceKind::All, None, None, "m"),
            rule(true, DeviceKind::Block, Some(8), Some(0), "r"),
            rule(false, DeviceKind::Block, Some(8), None, "rwm"),
        ];
        let error = v1(&rules).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}: mknod of 8:* is allowed before");
        let entry = |path: &str, access: &str| Value::Struct(vec![Value::str(path), Value::str(access)]);
        let (policy, list) = told(&rules[..5]);
        assert_eq!(policy, Value::str("strict"));
        assert_eq!(
            list,
            [
                entry("/dev/char/1:3", "rw"),
                entry("char-136", "rwm"),
                entry("block-*", "m"),
                entry("char-*", "m"),
                entry("/dev/block/8:0", "r"),
            ]
        );
        // Taken away again.
        let (_, list) = told(&[rules[0], rules[4], rules[5]]);
        assert_eq!(list, []);
    }

    #[test]
    fn everything_is_no_policy_and_nothing_a_strict_one() {
        let all = rule(true, DeviceKind::All, None, None, "rwm");
        let (policy, list) = told(&[rule(true, DeviceKind::Char, Some(1), Some(3), "r"), all]);
        assert_eq!((policy, list), (Value::str("auto"), Vec::new()));
        assert_eq!(told(&[]), (Value::str("strict"), Vec::new()));
        assert_eq!(told(&[all, rule(false, DeviceKind::All, None, None, "rwm")]).0, Value::str("strict"));
    }
}
