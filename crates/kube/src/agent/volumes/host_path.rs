//! Paths of the host: checked, or made, before a container sees them.

use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::api::{HostPathType, HostPathVolumeSource};
use crate::{Error, Result};

/// Sees that the path is what the volume says (`pkg/volume/hostpath`).
///
/// # Errors
/// It is not, or it could not be made.
pub(super) fn prepare(source: &HostPathVolumeSource) -> Result<()> {
    let path = Path::new(&source.path);
    match source.type_ {
        HostPathType::DirectoryOrCreate if !path.exists() => {
            std::fs::create_dir_all(path).map_err(|error| Error::io("mkdir", path, &error))?;
            super::set_mode(path, 0o755)?;
        }
        HostPathType::FileOrCreate if !path.exists() => {
            std::fs::File::create(path).map_err(|error| Error::io("create", path, &error))?;
            super::set_mode(path, 0o644)?;
        }
        _ => {}
    }
    let wanted: (&str, fn(&std::fs::FileType) -> bool) = match source.type_ {
        HostPathType::Unset => return Ok(()),
        HostPathType::DirectoryOrCreate | HostPathType::Directory => {
            ("a directory", std::fs::FileType::is_dir)
        }
        HostPathType::FileOrCreate | HostPathType::File => ("a file", std::fs::FileType::is_file),
        HostPathType::Socket => ("a socket", |kind| kind.is_socket()),
        HostPathType::CharDevice => ("a character device", |kind| kind.is_char_device()),
        HostPathType::BlockDevice => ("a block device", |kind| kind.is_block_device()),
    };
    let kind = std::fs::metadata(path).map_err(|error| Error::io("stat", path, &error))?.file_type();
    if !wanted.1(&kind) {
        return Err(Error::invalid(format!("hostPath {} is not {}", path.display(), wanted.0)));
    }
    Ok(())
}
