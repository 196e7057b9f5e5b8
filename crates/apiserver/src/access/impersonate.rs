//! `kubectl --as`: asking as somebody else.

use http::HeaderMap;

use super::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, service_account_groups, split_service_account};
use super::{Attributes, User};
use crate::Status;

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// Who is asked as, or `None` where nobody else is.
///
/// # Errors
/// Where a part is not text, or where there is no user to it.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let mut user = User { name: text(headers, USER)?, uid: text(headers, UID)?, ..User::default() };
    for value in headers.get_all(GROUP) {
        user.groups.push(value.to_str().map_err(|_| unreadable(GROUP))?.to_owned());
    }
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
        let value = value.to_str().map_err(|_| unreadable(name.as_str()))?.to_owned();
        user.extra.entry(unescape(key)).or_default().push(value);
    }
    if user.name.is_empty() {
        return match user == User::default() {
            true => Ok(None),
            false => {
                Err(Status::bad_request("requested a group, uid or extra to impersonate without a user"))
            }
        };
    }
    complete(&mut user);
    Ok(Some(user))
}

/// What it takes to be them: one permission for each part.
pub(super) fn needs(user: &User) -> Vec<(Attributes<'_>, &'static str)> {
    let base = Attributes { verb: "impersonate", ..Attributes::default() };
    let mut all = Vec::new();
    match split_service_account(&user.name) {
        Some((namespace, name)) => {
            all.push((
                Attributes { resource: "serviceaccounts", namespace, name, ..base },
                "serviceaccounts",
            ));
        }
        None => all.push((Attributes { resource: "users", name: &user.name, ..base }, "users")),
    }
    if !user.uid.is_empty() {
        let what = Attributes { group: "authentication.k8s.io", resource: "uids", name: &user.uid, ..base };
        all.push((what, "uids"));
    }
    for group in &user.groups {
        all.push((Attributes { resource: "groups", name: group, ..base }, "groups"));
    }
    for (key, values) in &user.extra {
        for value in values {
            let what = Attributes {
                group: "authentication.k8s.io",
                resource: "userextras",
                subresource: key,
                name: value,
                ..base
            };
            all.push((what, "userextras"));
        }
    }
    all
}

/// The groups that belong to a name without being asked for.
fn complete(user: &mut User) {
    if let Some((namespace, _)) = split_service_account(&user.name)
        && user.groups.is_empty()
    {
        user.groups = service_account_groups(namespace);
    }
    let last = if user.name == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
    if !user.is_in(AUTHENTICATED) && !user.is_in(UNAUTHENTICATED) {
        user.groups.push(last.to_owned());
    }
}

fn text(headers: &HeaderMap, name: &str) -> Result<String, Status> {
    let value = headers.get(name).map(|value| value.to_str().map_err(|_| unreadable(name)));
    Ok(value.transpose()?.unwrap_or_default().to_owned())
}

fn unreadable(name: &str) -> Status {
    Status::bad_request(format!("header {name} is not text"))
}

/// Keys of `extra` are written with `%` for what a header's name cannot hold.
fn unescape(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| key.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for (name, value) in pairs {
            all.append(*name, HeaderValue::from_static(value));
        }
        all
    }

    #[test]
    fn groups_follow_from_the_name_and_may_be_given() {
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), None);
        let user =
            wanted(&headers(&[("impersonate-user", "jane"), ("impersonate-group", "dev")])).unwrap().unwrap();
        assert_eq!(user.groups, ["dev", AUTHENTICATED]);
        let account =
            wanted(&headers(&[("impersonate-user", "system:serviceaccount:a:b")])).unwrap().unwrap();
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED]);
        let anonymous = wanted(&headers(&[("impersonate-user", ANONYMOUS)])).unwrap().unwrap();
        assert_eq!(anonymous.groups, [UNAUTHENTICATED]);
        assert!(wanted(&headers(&[("impersonate-group", "dev")])).is_err());
    }

    #[test]
    fn extra_is_unescaped() {
        let user =
            wanted(&headers(&[("impersonate-user", "a"), ("impersonate-extra-acme.com%2fproject", "x")]));
        assert_eq!(user.unwrap().unwrap().extra["acme.com/project"], ["x"]);
        assert_eq!(unescape("100%"), "100%");
    }

    #[test]
    fn each_part_needs_a_permission() {
        let user = wanted(&headers(&[
            ("impersonate-user", "jane"),
            ("impersonate-group", "dev"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-scope", "x"),
        ]));
        let user = user.unwrap().unwrap();
        let needed: Vec<_> =
            needs(&user).iter().map(|(what, _)| format!("{}/{}", what.resource, what.name)).collect();
        assert_eq!(
            needed,
            ["users/jane", "uids/7", "groups/dev", "groups/system:authenticated", "userextras/x"]
        );
    }
}
