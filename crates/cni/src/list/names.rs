//! What may be a name: all of these end up in paths, environments or kernel requests.

use crate::{Error, Result};

/// The longest name of a network interface, by netdevice(7): IFNAMSIZ without the zero byte.
const INTERFACE: usize = 15;
/// Longer than any name, short enough for a file.
const LONGEST: usize = 200;

/// A name of a file in a directory, not a way out of it.
pub(crate) fn check_component(what: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= LONGEST
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == '\\' || c == ':' || c.is_control());
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("{what}: {name:?} must be the name of a file, without a path")))
}

/// The name of a network, by the specification: a letter or digit, then these and `_`, `.`, `-`.
pub(crate) fn check_network(name: &str) -> Result<()> {
    check_word("name", name)
}

/// The id of a container, by the specification: as the name of a network.
pub(crate) fn check_id(id: &str) -> Result<()> {
    check_word("container id", id)
}

/// The name of an interface that the kernel takes.
pub(crate) fn check_interface(name: &str) -> Result<()> {
    let fits = (1..=INTERFACE).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!("{name:?} cannot be the name of an interface")))
}

fn check_word(what: &str, word: &str) -> Result<()> {
    let fits = word.len() <= LONGEST
        && word.starts_with(|c: char| c.is_ascii_alphanumeric())
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what}: {word:?} must begin with a letter or digit and go on with these, \"_\", \".\" and \"-\""
    )))
}
