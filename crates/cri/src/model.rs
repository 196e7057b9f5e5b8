//! Sandboxes and containers as values: what a record holds, the life cycles, the tables, the filters. Nothing here
//! touches the kernel or waits.

mod container;
mod events;
mod filter;
mod joins;
mod sandbox;
mod signal;
mod tables;

pub(crate) use container::{Container, ContainerPhase, ContainerRecord, Ended, Life, Reason};
pub(crate) use events::{Events, Happened};
pub(crate) use filter::{by_prefix, labels_match};
pub(crate) use joins::Joins;
pub(crate) use sandbox::{
    PodResources, Sandbox, SandboxKey, SandboxLife, SandboxPhase, SandboxRecord, namespaces,
};
pub(crate) use signal::{signal_from_cri, signal_from_image, signal_to_cri};
pub(crate) use tables::Tables;

/// A number that changes when a configuration does: FNV-1a over its encoding, whose maps are in order.
pub(crate) fn fingerprint(message: &impl prost::Message) -> u64 {
    message
        .encode_to_vec()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// 64 hexadecimal digits from the random source of the kernel.
pub(crate) fn new_id() -> crate::Result<String> {
    use crate::error::Doing as _;

    let mut bytes = [0_u8; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).doing(|| "draw an id")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether this is the form of an id that [`new_id`] makes: safe as the name of a file.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a host can be called that: letters, digits, `-`, `.`, `_`; at most 64 bytes (sethostname(2)). Empty is "as
/// the host".
pub(crate) fn is_hostname(text: &str) -> bool {
    text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}
