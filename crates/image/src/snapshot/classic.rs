//! The mount of kernels before 6.7, which take the layers of an overlay in one text only.
//!
//! `fsconfig` takes texts of at most 255 bytes, mount(2) a page. Names are kept short by starting from the `layers`
//! directory; that, and a mount that nobody else sees, takes a thread with a mount namespace of its own. What leaves it
//! is a detached copy of the mount.

use std::ffi::CString;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::apart::apart;

/// Mounts `layers` (topmost first) detached; `snapshot` has `upper` and `work` for a writable one.
#[expect(clippy::disallowed_methods, reason = "directories of the store, in a mount namespace of its own")]
pub(super) fn mount(
    store: &Path,
    layers: &[&Path],
    snapshot: Option<&Path>,
    label: Option<&str>,
) -> Result<OwnedFd, Errno> {
    let base = store.join("layers");
    let short = |path: &Path| match (path.strip_prefix(&base), path.strip_prefix(store)) {
        (Ok(inner), _) => inner.display().to_string(),
        (_, Ok(inner)) => format!("../{}", inner.display()),
        _ => path.display().to_string(),
    };
    let lower: Vec<String> = layers.iter().map(|layer| short(layer)).collect();
    let mut options = format!("index=off,metacopy=off,lowerdir={}", lower.join(":"));
    if let Some(snapshot) = snapshot {
        let dir = short(snapshot);
        options = format!("{options},volatile,upperdir={dir}/upper,workdir={dir}/work");
    }
    options.push_str(&context(label));
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = if snapshot.is_some() { MountFlags::empty() } else { MountFlags::RDONLY };
    apart(|| {
        rustix::process::chdir(&base)?;
        rustix::mount::mount("overlay", "../empty", "overlay", flags, options.as_c_str())?;
        vaquita_sys::mount::open_tree_clone(CWD, "../empty", false).map_err(|e| e.errno())
    })
}

/// The option that labels a mount. Labels have commas, and SELinux takes the quotes off.
pub(super) fn context(label: Option<&str>) -> String {
    label.map(|label| format!(",context=\"{label}\"")).unwrap_or_default()
}
