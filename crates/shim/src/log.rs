//! The CRI log format: a pure splitter of output into records, and a writer that never tears one.
//!
//! A record is `timestamp SP stream SP tag SP content LF`. The tag is `F` for a whole line or the last part of one,
//! `P` for a part that is continued by the next record of the same stream, or that the stream ended in. Content is the
//! bytes that the container wrote, unchanged: a carriage return stays. The reader's side of this is kubelet's
//! `k8s.io/cri-client/pkg/logs`.

mod file;
mod split;
mod timestamp;

pub use file::LogFile;
pub use split::{Batch, PART, Splitter, Stream};
pub use timestamp::Timestamp;
