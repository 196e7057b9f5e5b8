//! Files that are whole or not there, and that nobody else can read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::Error;

/// The most that is read: a certificate has about a kilobyte.
const LARGEST: u64 = 64 << 10;

/// Makes the directory, for us alone, or sees that it is ours alone.
pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    let failed = |error| Error::io("make", dir, error);
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)).map_err(failed),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            private(&File::open(dir).map_err(|error| Error::io("open", dir, error))?, dir)
        }
        Err(error) => Err(failed(error)),
    }
}

/// A private key (ECDSA on P-256): what is in the file, or a new one that then is.
pub(super) fn key(path: &Path) -> Result<KeyPair, Error> {
    if let Some(text) = read(path)? {
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&text, &PKCS_ECDSA_P256_SHA256);
        return key.map_err(|error| Error::malformed(path, &error));
    }
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| Error::sign("a key", &error))?;
    write(path, key.serialize_pem().as_bytes())?;
    Ok(key)
}

/// The text of a file that is ours alone; `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    private(&file, path)?;
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(|error| Error::io("read", path, error))?;
    Ok(Some(text))
}

/// Puts a file there in one step, and onto the disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes).map_err(|error| Error::io("write", path, error))
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension(format!("{}.new", path.extension().unwrap_or_default().display()));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_dir(path.parent().unwrap_or(path))
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn private(file: &File, path: &Path) -> Result<(), Error> {
    let metadata = file.metadata().map_err(|error| Error::io("look at", path, error))?;
    let mode = metadata.mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(Error::open(path, mode)),
    }
}
