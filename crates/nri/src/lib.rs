//! The runtime's side of NRI, the Node Resource Interface 0.12: plugins that are told of pods and containers, and adjust them.
//!
//! [`Plugins`] is told of each event and answers when every plugin that subscribed to it has. Plugins connect to a socket, or are programs
//! in a directory that are started with a connection; either way both sides speak ttrpc over one stream with two channels.
//!
//! This crate knows plugins and what they say, nothing of how a container is made: what they want of one comes back as one merged
//! adjustment, and what they want of others as updates. Its user applies both.

/// The messages: package `nri.pkg.api.v1alpha1`.
pub use vaquita_proto::nri as api;

mod connection;
mod error;
mod events;
mod frame;
mod hub;
mod launch;
mod listener;
mod merge;
mod plugin;
mod plugins;
mod synchronize;
mod ttrpc;

pub use error::{Error, Kind, Result};
pub use plugins::{Beginning, Change, Config, Creation, Plugins, Runtime, Update};
