//! Users and groups of an image, read from its own `/etc/passwd` and `/etc/group`.
//!
//! The files belong to the image, so they are opened below the root's descriptor without leaving it, must be regular
//! files, and are read up to a limit (T33). Numbers are strict decimals: what does not fit a uid is refused and never
//! looked up as a name (T34, CVE-2024-40635).

use rustix::fd::BorrowedFd;

use rustix::io::Errno;
use vaquita_sys::root::Root;

use crate::{Error, Kind};

/// Most bytes of `/etc/passwd` or `/etc/group`.
const FILE_LIMIT: usize = 1 << 20;
/// The largest id that a text may name: what fits a signed 32-bit number everywhere.
const ID_LIMIT: u32 = i32::MAX as u32;
const NAME_LIMIT: usize = 256;
/// `NGROUPS_MAX`.
const GROUP_LIMIT: usize = 65_536;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Groups that name the user as a member in `/etc/group`, without the primary one, in the file's order.
    pub additional_gids: Vec<u32>,
    /// Home directory as `/etc/passwd` has it; `/` where it has none.
    pub home: String,
    /// The login name, where `/etc/passwd` has the user.
    pub name: Option<String>,
}

/// Resolves `user[:group]` (an image's `USER`, or a CRI user name or number) against a root filesystem.
///
/// An empty text is root. A number needs no entry in `/etc/passwd`; a name does. Without a group part, the primary
/// group is the one of `/etc/passwd`, or 0, and the additional groups are those that have the user as a member; with
/// a group part there are no additional ones.
///
/// # Errors
/// [`Kind::NotFound`] for a name that the image does not know, [`Kind::Invalid`] for malformed text, a number beyond
/// 2147483647, and for passwd or group files that are not regular files of at most 1 MiB.
pub fn resolve(root: BorrowedFd<'_>, text: &str) -> Result<User, Error> {
    let root = root.try_clone_to_owned().map_err(|e| Error::io("fcntl(<rootfs>, F_DUPFD_CLOEXEC)", &e))?;
    let root = Root::from_fd(root);
    let passwd = read(&root, "etc/passwd")?;
    let group = read(&root, "etc/group")?;
    look_up(text, &passwd, &group).map_err(|e| e.context(format!("user {text:?}")))
}

/// The text of a file, empty where there is none. What is not UTF-8 cannot be a name that somebody asks for.
fn read(root: &Root, path: &str) -> Result<String, Error> {
    match root.read_bounded_following(path, FILE_LIMIT) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(e) if matches!(e.errno(), Errno::NOENT | Errno::NOTDIR) => Ok(String::new()),
        Err(e) => Err(Error::invalid(format!("/{path} of the image cannot be used: {e}"))),
    }
}

/// The pure part of [`resolve`].
pub(crate) fn look_up(text: &str, passwd: &str, group: &str) -> Result<User, Error> {
    let (user, group_part) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if text.is_empty() { Wanted::Id(0) } else { Wanted::parse("user", user)? };
    let entry = entries(passwd).find(|entry| match &user {
        Wanted::Id(uid) => entry.id == Some(*uid),
        Wanted::Name(name) => entry.name == *name,
    });
    let uid = match (&user, &entry) {
        (Wanted::Id(uid), _) => *uid,
        (Wanted::Name(_), Some(entry)) => checked(entry.id, "/etc/passwd")?,
        (Wanted::Name(_), None) => return Err(Error::not_found("no such user in /etc/passwd of the image")),
    };
    let name = entry.as_ref().map(|entry| entry.name.to_owned());
    let home = entry.as_ref().and_then(|entry| entry.fields.get(5)).copied().unwrap_or_default();
    let home = if home.starts_with('/') && !home.chars().any(char::is_control) { home } else { "/" };
    let (gid, additional_gids) = match group_part {
        Some(part) => (find_group(part, group)?, Vec::new()),
        None => {
            let gid = match &entry {
                Some(entry) => checked(entry.fields.get(3).and_then(|gid| decimal(gid)), "/etc/passwd")?,
                None => 0,
            };
            (gid, memberships(name.as_deref(), gid, group))
        }
    };
    Ok(User { uid, gid, additional_gids, home: home.to_owned(), name })
}

fn find_group(part: &str, group: &str) -> Result<u32, Error> {
    match Wanted::parse("group", part)? {
        Wanted::Id(gid) => Ok(gid),
        Wanted::Name(name) => match entries(group).find(|entry| entry.name == name) {
            Some(entry) => checked(entry.id, "/etc/group"),
            None => Err(Error::not_found(format!("no group {name:?} in /etc/group of the image"))),
        },
    }
}

/// Groups that have the user as a member, without the primary one.
fn memberships(name: Option<&str>, primary: u32, group: &str) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let mut gids = Vec::new();
    for entry in entries(group) {
        let member =
            entry.fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name));
        if let (true, Some(gid)) = (member, entry.id)
            && gid <= ID_LIMIT
            && gid != primary
            && gids.len() < GROUP_LIMIT
        {
            gids.push(gid);
        }
    }
    let mut seen = std::collections::HashSet::new();
    gids.retain(|gid| seen.insert(*gid));
    gids
}

/// A line of either file: a name, a password that nobody reads, an id, and more.
struct Entry<'a> {
    name: &'a str,
    id: Option<u32>,
    fields: Vec<&'a str>,
}

fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.trim_end_matches('\r').splitn(8, ':').collect();
        let (name, id) = (*fields.first()?, *fields.get(2)?);
        (!name.is_empty()).then(|| Entry { name, id: decimal(id), fields })
    })
}

enum Wanted<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Wanted<'a> {
    /// A number is never taken for a name, however large it is.
    fn parse(what: &str, text: &'a str) -> Result<Self, Error> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let id = decimal(text).filter(|id| *id <= ID_LIMIT);
            return id.map(Self::Id).ok_or_else(|| {
                Error::invalid(format!(
                    "{what} {text:?} is not a decimal number from 0 to {ID_LIMIT} without leading zeros"
                ))
            });
        }
        let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, ':' | '/' | ',');
        if text.is_empty()
            || text.len() > NAME_LIMIT
            || text.starts_with(['-', '+'])
            || !text.chars().all(allowed)
        {
            return Err(Error::invalid(format!("{text:?} is not the name of a {what}")));
        }
        Ok(Self::Name(text))
    }
}

/// Digits without leading zeros that fit 32 bits.
fn decimal(text: &str) -> Option<u32> {
    let canonical = text == "0" || !text.starts_with('0');
    (canonical && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn checked(id: Option<u32>, file: &str) -> Result<u32, Error> {
    id.filter(|id| *id <= ID_LIMIT).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("{file} of the image has no usable id for this name"))
    })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "files that the tests make")]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:/bin/false\nbad line\n\
        big:x:4294967296:0::/:\nminus:x:-1:0::/:\n4294967296:x:0:0::/:\nhex:x:0x10:0::/:\nrel:x:5:5::home:\nctl:x:6:6::/a\u{7}b:\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:www\naudio:x:29:www,other\nvideo:x:44:other,www\nagain:x:29:www\nhuge:x:4294967295:www\n";

    fn user(text: &str) -> Result<(u32, u32, Vec<u32>, String), Kind> {
        look_up(text, PASSWD, GROUP).map(|u| (u.uid, u.gid, u.additional_gids, u.home)).map_err(|e| e.kind())
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(user(""), Ok((0, 0, vec![], "/root".into())));
        assert_eq!(user("www"), Ok((33, 33, vec![29, 44], "/var/www".into())));
        assert_eq!(user("33"), Ok((33, 33, vec![29, 44], "/var/www".into())));
        assert_eq!(user("1000"), Ok((1000, 0, vec![], "/".into())));
        assert_eq!(user("www:audio"), Ok((33, 29, vec![], "/var/www".into())));
        assert_eq!(user("1000:1000"), Ok((1000, 1000, vec![], "/".into())));
        assert_eq!(user("rel"), Ok((5, 5, vec![], "/".into())));
        assert_eq!(user("ctl"), Ok((6, 6, vec![], "/".into())));
        assert_eq!(user("2147483647").map(|u| u.0), Ok(2_147_483_647));
    }

    /// T16 and T34: what is not exactly a number or a known name is refused, also where a passwd line has it as a name.
    #[test]
    fn everything_else_is_refused() {
        for text in [
            "2147483648",
            "4294967295",
            "4294967296",
            "99999999999",
            "007",
            "-1",
            "+1",
            " 1",
            "1 ",
            "big",
            "minus",
            "hex",
            ":",
            "www:",
            ":www",
            "www:audio:x",
            "a\nb",
            "a/b",
            "1:4294967296",
            "www:-1",
        ] {
            assert_eq!(user(text), Err(Kind::Invalid), "{text:?}");
        }
        for text in ["nobody", "www:nogroup", "0x0", "1e1"] {
            assert_eq!(user(text), Err(Kind::NotFound), "{text:?}");
        }
    }

    /// T33: files that are no small regular files, and links that lead outside.
    #[test]
    fn hostile_files() {
        use rustix::fd::AsFd;
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let look = |text: &str| resolve(root.as_fd(), text).map(|user| user.uid).map_err(|e| e.kind());
        assert_eq!(look("1000"), Ok(1000));
        let passwd = etc.join("passwd");
        for name in ["passwd", "group"] {
            let file = etc.join(name);
            let node = |kind, device| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &file, kind, mode, device).unwrap();
            };
            // A fifo that nobody writes to, and /dev/zero itself.
            node(rustix::fs::FileType::Fifo, 0);
            assert_eq!(look("0"), Err(Kind::Invalid));
            std::fs::remove_file(&file).unwrap();
            node(rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
            assert_eq!(look("0"), Err(Kind::Invalid));
            std::fs::remove_file(&file).unwrap();
            std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
            assert_eq!(look("0"), Err(Kind::Invalid));
            std::fs::remove_file(&file).unwrap();
        }
        for target in ["/dev/zero", "/etc/shadow", "../../../../../../etc/hostname"] {
            std::os::unix::fs::symlink(target, &passwd).unwrap();
            assert_eq!(look("root"), Err(Kind::NotFound), "{target}");
            std::fs::remove_file(&passwd).unwrap();
        }
        // A link inside the image is followed.
        std::fs::write(dir.path().join("users"), "me:x:7:7::/:\n").unwrap();
        std::os::unix::fs::symlink("/users", &passwd).unwrap();
        assert_eq!(look("me"), Ok(7));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}", passwd in "[a-z0-9:\n,]{0,200}", group in "[a-z0-9:\n,]{0,200}") {
            if let Ok(user) = look_up(&text, &passwd, &group) {
                proptest::prop_assert!(user.uid <= ID_LIMIT && user.gid <= ID_LIMIT);
            }
        }
    }
}
