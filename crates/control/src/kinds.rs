//! The kinds that the node and the scheduler work with.

use vaquita_apiserver::Kind;

pub(crate) static EVENT: Kind = Kind { plural: "events", singular: "event", name: "Event", ..Kind::PLAIN };
