//! The CRI log format.
