//! A user as `exec --user` takes it.

use std::str::FromStr;

use oci_spec::runtime::Process;

use crate::Error;

/// `UID` or `UID:GID`, decimal numbers below 4294967295. No names: whose they would be is not known here, and a number
/// that is read wrongly would be another user (CVE-2026-30892).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct User {
    uid: u32,
    gid: Option<u32>,
}

impl User {
    /// The user's number.
    #[must_use]
    pub fn uid(self) -> u32 {
        self.uid
    }

    /// Makes it the user of `process`; without a group it keeps the group.
    pub(super) fn apply(self, process: &mut Process) {
        let mut user = process.user().clone();
        user.set_uid(self.uid);
        if let Some(gid) = self.gid {
            user.set_gid(gid);
        }
        process.set_user(user);
    }
}

impl FromStr for User {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (uid, gid) = match text.split_once(':') {
            None => (number(text), Some(None)),
            Some((uid, gid)) => (number(uid), number(gid).map(Some)),
        };
        match (uid, gid) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(Error::invalid(format!(
                "--user {text:?}: give UID or UID:GID, decimal numbers from 0 to 4294967294"
            ))),
        }
    }
}

/// Digits, the first of which is 0 only alone, and not the number that means "no user" to the kernel.
fn number(text: &str) -> Option<u32> {
    let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_decimal && (text.len() == 1 || !text.starts_with('0'));
    if !is_plain {
        return None;
    }
    text.parse().ok().filter(|number| *number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t16_a_user_is_decimal_numbers_or_refused() {
        let user = |uid, gid| Some(User { uid, gid });
        let table: &[(&str, Option<User>)] = &[
            ("0", user(0, None)),
            ("1", user(1, None)),
            ("1000", user(1000, None)),
            ("1000:1001", user(1000, Some(1001))),
            ("0:0", user(0, Some(0))),
            ("4294967294", user(4_294_967_294, None)),
            ("1:4294967294", user(1, Some(4_294_967_294))),
            ("", None),
            (":", None),
            ("1:", None),
            (":1", None),
            ("1:1:1", None),
            ("root", None),
            ("root:root", None),
            ("1000:root", None),
            ("daemon", None),
            ("-1", None),
            ("1:-1", None),
            ("+1", None),
            ("1:+1", None),
            (" 1", None),
            ("1 ", None),
            ("1\n", None),
            ("1 :1", None),
            ("1: 1", None),
            ("1,1", None),
            ("1.0", None),
            ("1e3", None),
            ("0x0", None),
            ("0x10", None),
            ("010", None),
            ("00", None),
            ("1:00", None),
            ("1_000", None),
            ("1000x", None),
            ("x1000", None),
            ("1\0", None),
            ("\u{661}", None),
            ("\u{ff11}", None),
            ("4294967295", None),
            ("0:4294967295", None),
            ("4294967296", None),
            ("4294968296", None),
            ("18446744073709551616", None),
            ("99999999999999999999999999", None),
        ];
        for (text, expected) in table {
            let read = text.parse::<User>();
            match (read, expected) {
                (Ok(read), Some(expected)) => assert_eq!(read, *expected, "{text:?}"),
                (Err(error), None) => assert!(error.to_string().starts_with("--user"), "{text:?}: {error}"),
                (read, expected) => panic!("{text:?}: {read:?}, expected {expected:?}"),
            }
        }
    }
}
