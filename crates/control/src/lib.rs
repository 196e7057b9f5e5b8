//! What makes objects real: the node, which runs the pods, and the controllers.
//!
//! [`Control::start`] sets all of it to work on a [`vaquita_apiserver::Cluster`]. Every part follows objects by watches
//! and writes through the same verbs as any client, so each can be replaced by another that talks over HTTP.
//!
//! * `scheduler` gives pods a machine, or says why there is none. Filters and scores are tables.
//! * `feed` brings the pods of this node to the agent ([`vaquita_kube::agent`]) and their status back.
//! * `node` keeps the Node object and its Lease.
//! * `images` removes images that nobody uses when the disk is full; `evict` pods that taints do not let stay.
//! * `cri_node` has logs, streams and statistics of the pods for the API.
//! * `controllers` look after objects that need no node: namespaces, service accounts, owners, quotas, old events.
//! * `events` records what happens, without flooding.

mod control;
mod controllers;
mod cri_node;
mod error;
mod events;
mod evict;
mod feed;
mod follow;
mod images;
mod manifests;
mod node;
mod objects;
mod scheduler;
mod tokens;

pub use self::control::{Config, Control};
pub use self::controllers::Controllers;
pub use self::cri_node::CriNode;
pub use self::error::{Error, Kind, Result};
pub use self::tokens::Tokens;
