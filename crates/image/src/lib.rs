//! References, registry client, content store, unpacking, snapshots.
//!
//! Everything that comes from a registry or an archive is untrusted: manifests and configurations are bounded and
//! checked before use, every byte is compared with its digest, and layers are unpacked by a child process of our own
//! binary ([`unpack::main`]) that holds nothing but a descriptor of the directory it fills.
//!
//! What exists is answered from memory ([`Store::list`], [`Store::find`]); what must survive is in one transaction log.

mod archive;
mod digest;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod image;
mod manifest;
pub mod passwd;
mod reference;
mod registry;
mod snapshot;
mod store;
pub mod unpack;

pub use archive::{Archive, BuiltinFile, Source};
pub use digest::Digest;
pub use error::{Error, Kind};
pub use image::{Image, ImageConfig};
pub use reference::Reference;
pub use registry::{Auth, Proxies, Registries, Timeouts, Tokens};
pub use snapshot::{Changes, Snapshot, SnapshotInfo};
pub use store::{
    Details, DiskUsage, Freed, FsInfo, ImageUsage, LayerInfo, Options, Part, PullStatus, Purpose, Removal,
    Store, Unpacker, Usage,
};
