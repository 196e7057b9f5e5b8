//! Listing containers.

/// The name of a user in /etc/passwd, or the number.
pub(crate) fn owner_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let number = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(number)
}
